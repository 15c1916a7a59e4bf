"""``classifier search``: what it trains, what it leaves behind, and who may work on it."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from searches import (
    COMMAND,
    SEARCH,
    check_whole,
    state,
    trial_folder,
    trials_of,
    weights,
    write_files,
)

from classifier import runs
from classifier.__main__ import main
from classifier.cli.job import Job
from classifier.search.engines import share_cores, shares
from classifier.search.process import FitProcess, Trial
from classifier.search.results import TrialRun
from classifier.search.settings import parse, save
from classifier.search.storage import Outcome, Worker, active_worker
from classifier.search.study import ATTEMPTS, Study


@pytest.fixture
def make_study(own_folder):
    """Begins a search without any worker."""

    def make(**changes):
        write_files(**changes)
        settings = parse(["--config", "search.yaml"])
        (settings.folder / "workers").mkdir(parents=True, exist_ok=True)
        save(settings)
        return Study(settings)

    return make


def rows_of(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ---- a whole search ----


def test_every_trial_is_trained_exactly_once(found):
    check_whole(found, 4)


def test_the_first_trial_is_the_base_config(found):
    assert trials_of(found)[0].params == {"lr": 0.001, "width": 4}
    assert (trial_folder(found, 0) / "trial.yaml").read_text() == Path("tiny.yaml").read_text()


def test_a_trial_is_the_base_config_with_only_the_searched_values_changed(found):
    params = trials_of(found)[1].params

    changed = TINY.replace("&lr 0.01", f"&lr {params['lr']}")
    changed = changed.replace("&width 4", f"&width {params['width']}")

    assert (trial_folder(found, 1) / "trial.yaml").read_text() == changed


def test_the_folder_of_a_trial_is_an_ordinary_run_folder(found):
    folder = trial_folder(found, 2)

    assert runs.read_record(folder)["state"] == "finished"
    assert runs.read_record(folder)["name"] == "found_0002"
    assert main(["test", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")]) == 0


def test_the_table_has_a_row_for_every_trial(found):
    rows = rows_of(found)

    trials = trials_of(found)
    assert [int(row["number"]) for row in rows] == [0, 1, 2, 3]
    assert [float(row["value"]) for row in rows] == [trial.value for trial in trials]
    assert [float(row["lr"]) for row in rows] == [trial.params["lr"] for trial in trials]
    assert {row["state"] for row in rows} == {"complete"}
    assert all((found / row["folder"] / "run.json").is_file() for row in rows)


def test_the_best_config_is_that_of_the_best_trial(found):
    best = max(trials_of(found), key=lambda trial: trial.value)

    lines = (found / "best.yaml").read_text().splitlines(keepends=True)

    assert lines[0].startswith(f"# Trial {best.number} of the search 'found': val_accuracy")
    assert "".join(lines[1:]) == (trial_folder(found, best.number) / "trial.yaml").read_text()


def test_the_best_config_trains_to_the_bits_of_its_trial(found, own_folder, monkeypatch, fit):
    best = max(trials_of(found), key=lambda trial: trial.value)

    monkeypatch.chdir(own_folder)
    folder = fit("--config", str(found / "best.yaml"))

    assert weights(folder) == weights(trial_folder(found, best.number))


def test_the_screen_tells_every_trial_and_what_to_do_next(found):
    text = Path("output.txt").read_text()

    for number in range(4):
        assert f"trial {number}   complete  val_accuracy 0." in text
    assert "found: 4 of 4 trials done (4 complete)" in text
    assert "classifier fit --config found/best.yaml" in text


def test_workers_leave_neither_locks_nor_errors(found):
    assert list(found.glob("workers/*")) == []


def test_whoever_watches_does_not_import_torch():
    code = "import sys, classifier.search.command; print('torch' in sys.modules)"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "False"


# ---- once more ----


def again(*arguments):
    """The same command once more, in a process of its own, for it handles signals."""
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment)


def test_the_same_command_trains_nothing_twice(copied):
    before = {path: path.stat().st_mtime_ns for path in copied.glob("trials/**/*")}

    told = again()

    assert told.returncode == 0
    assert "4 of 4 trials done" in told.stdout
    assert {path: path.stat().st_mtime_ns for path in copied.glob("trials/**/*")} == before


def test_more_trials_go_on_where_the_search_ended(copied):
    before = trials_of(copied)

    told = again("--n_trials", "5", "--workers", "1")

    assert told.returncode == 0, told.stderr
    check_whole(copied, 5)
    assert [t.value for t in trials_of(copied)[:4]] == [t.value for t in before]
    assert len(rows_of(copied)) == 5


def test_a_folder_that_holds_something_else_is_refused(own_folder):
    write_files()
    Path("found").mkdir()
    Path("found/thesis.tex").touch()

    told = again()

    assert told.returncode == 2
    assert "exists and is not a search folder" in told.stderr


# ---- the budget ----


def test_there_are_never_more_trials_than_wanted(make_study):
    study = make_study()

    with active_worker(study.folder) as worker:
        taken = [study.claim_next(worker) for _ in range(6)]

    assert [trial and trial.number for trial in taken] == [0, 1, 2, 3, None, None]


def test_a_trial_is_sampled_alike_whoever_takes_it(make_study):
    first = make_study(n_trials=6)
    with active_worker(first.folder) as worker:
        expected = [first.claim_next(worker).params for _ in range(6)]

    second = make_study(n_trials=6, folder="other")
    second = Study(second.settings, InMemoryStorage())
    other = [second.claim_next().params for _ in range(6)]

    assert other == expected


def test_a_grid_is_trained_once_each_in_order(make_study):
    study = make_study(sampler="grid", n_trials=None, space={"lr": [0.1, 0.2], "width": [2, 4]})

    with active_worker(study.folder) as worker:
        taken = [study.claim_next(worker).params for _ in range(4)]
        assert study.claim_next(worker) is None

    pairs = [(0.1, 2), (0.1, 4), (0.2, 2), (0.2, 4)]
    assert taken == [{"lr": lr, "width": width} for lr, width in pairs]


def test_every_configuration_is_trained_with_every_seed(make_study):
    space = {**SEARCH["space"], "seed_everything": [5, 7]}
    study = make_study(space=space)

    with active_worker(study.folder) as worker:
        taken = [study.claim_next(worker) for _ in range(4)]

    assert [trial.values["seed_everything"] for trial in taken] == [5, 7, 5, 7]
    assert taken[0].params == taken[1].params != taken[2].params == taken[3].params
    assert yaml.safe_load(taken[1].config)["seed_everything"] == 7


# ---- a worker that dies ----


def dead_worker(folder):
    """A worker whose process is gone: nobody holds its lock."""
    worker = Worker.new()
    worker.lock_in(folder).touch()
    return worker


def test_the_trial_of_a_dead_worker_goes_on_under_its_number(make_study):
    study = make_study()
    first = study.claim_next(dead_worker(study.folder))

    with active_worker(study.folder) as worker:
        second = study.claim_next(worker)

        assert (second.number, second.params) == (first.number, first.params)
        assert second.held()
        assert not first.held()


def test_the_trial_of_a_living_worker_is_left_alone(make_study):
    study = make_study()

    with active_worker(study.folder) as one, active_worker(study.folder) as other:
        assert study.claim_next(one).number == 0
        assert study.claim_next(other).number == 1


def test_a_trial_taken_by_nobody_goes_on(make_study):
    # its worker died between taking it and putting its name to it
    study = make_study()
    study.claim_next(None)

    with active_worker(study.folder) as worker:
        assert study.claim_next(worker).number == 0


def test_a_trial_that_kills_its_workers_fails_the_third_time(make_study):
    study = make_study()

    taken = [study.claim_next(dead_worker(study.folder)).number for _ in range(ATTEMPTS + 1)]

    assert taken == [0, 0, 0, 1]
    trial = study.trials()[0]
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["outcome"]["reason"] == "its worker died, 3 times"


def test_a_trial_whose_workers_end_by_themselves_goes_on_as_often_as_needed(make_study):
    # as for a full disk: nobody could even note that the trial waits
    study = make_study()

    taken = [study.claim_next(Worker.new()).number for _ in range(2 * ATTEMPTS)]

    assert taken == [0] * len(taken)


def test_a_trial_that_was_told_to_stop_goes_on_as_often_as_needed(make_study):
    study = make_study()

    with active_worker(study.folder) as worker:
        for _ in range(2 * ATTEMPTS):
            trial = study.claim_next(worker)
            assert trial.number == 0
            trial.requeue()


@pytest.fixture
def clock(monkeypatch):
    """A clock, in a list, that is set by hand."""
    seconds = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: seconds[0])
    return seconds


def test_a_silent_worker_of_another_machine_is_given_up(make_study, clock):
    study = make_study(heartbeat=10)
    far = replace(Worker.new(), host="another")
    study.claim_next(far)

    taken = []
    with active_worker(study.folder) as worker:
        for clock[0] in (1, 30, 60):
            taken.append(study.claim_next(worker).number)

    assert taken == [1, 2, 0]


def test_a_beating_worker_of_another_machine_is_left_alone(make_study, clock):
    study = make_study(heartbeat=10)
    far = replace(Worker.new(), host="another")
    trial = study.claim_next(far)

    taken = []
    with active_worker(study.folder) as worker:
        for clock[0] in (1, 30, 60):
            trial.beat()
            taken.append(study.claim_next(worker).number)

    assert taken == [1, 2, 3]


def test_a_trial_that_was_passed_on_and_dropped_is_not_left_to_its_first_worker(make_study):
    # the second worker died after it took the trial; the first one is still alive
    study = make_study()

    with active_worker(study.folder) as first, active_worker(study.folder) as third:
        study.claim_next(first).requeue("killed by signal 9")
        second = dead_worker(study.folder)
        assert study.claim_next(second).number == 0

        assert study.claim_next(third).number == 0


def test_a_trial_that_is_told_to_stop_while_it_waits_for_an_answer_saves_and_ends(own_folder):
    folder = own_folder / "found" / "trials" / "0000"
    folder.mkdir(parents=True)
    (folder / "trial.yaml").write_text(TINY.replace("&epochs 2", "&epochs 50"))
    job = Job(folder, monitor="val_loss", words=[])
    trial = Trial(["--config", str(folder / "trial.yaml")], job, {})
    fit = FitProcess(trial, own_folder, {"OMP_NUM_THREADS": "1"})
    assert fit.next_value(60) is not None  # and nobody answers

    late = []
    fit.channel.send(False)
    while not fit.channel.poll():
        time.sleep(0.01)
    fit.stop(lambda epoch, value: late.append(epoch))

    assert (fit.exit_code, late) == (128 + signal.SIGTERM, [2])
    assert runs.read_record(folder)["state"] == "interrupted"
    assert (folder / "checkpoints" / "last.ckpt").is_file()


# ---- the journal ----


def test_a_torn_line_of_the_journal_is_mended(make_study):
    study = make_study()
    trial = Study.of(study.folder).claim_next()
    with (study.folder / "journal.log").open("a") as file:
        file.write('{"op_code": 8, "worker_id": "half a li')

    trial.requeue()
    again = Study.of(study.folder)

    assert state(study.folder, 0) == TrialState.WAITING
    assert again.claim_next().number == 0
    assert state(study.folder, 0) == TrialState.RUNNING
    lines = (study.folder / "journal.log").read_text().splitlines()
    assert all(json.loads(line) for line in lines)


def test_a_lock_of_optuna_that_was_left_behind_does_no_harm(make_study):
    study = make_study()
    (study.folder / "journal.log.lock").symlink_to("/of/a/folder/that/was/moved/journal.log")

    assert study.claim_next().number == 0


def test_a_journal_of_nothing_but_half_a_line_is_mended(own_folder):
    folder = write_files()
    settings = parse(["--config", "search.yaml"])
    folder.mkdir()
    save(settings)
    (folder / "journal.log").write_text('{"op_code": 0, "wor')

    assert Study(settings).claim_next().number == 0


# ---- what became of a trial ----


def write_run(values, output=""):
    folder = Path("run")
    folder.mkdir()
    rows = [{"epoch": i, "train_loss": 1, "val_loss": value} for i, value in enumerate(values)]
    runs.write_metrics(folder, rows)
    runs.write_record(folder, {"state": "finished", "seconds": 2, "resumed": [{"seconds": 1}]})
    (folder / "output.log").write_text(output)
    return folder


def outcome(folder, code):
    return TrialRun(folder, "val_loss", "minimize").outcome(code)


def test_the_best_epoch_counts_and_all_starts_take_time(own_folder):
    result = outcome(write_run([3, 1, 2]), 0)

    assert result == Outcome(1, "", 3, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_trial_that_diverges_has_failed_with_the_epoch(own_folder, bad):
    result = outcome(write_run([3, bad]), 0)

    assert result.value is None
    assert result.reason == f"val_loss is {bad} after epoch 2"


def test_a_trial_without_any_measured_epoch_has_failed(own_folder):
    result = outcome(write_run([""]), 0)

    assert result.reason == "no epoch measured val_loss"


def test_a_failed_trial_says_the_last_error_that_it_printed(own_folder):
    folder = write_run([3], "error: of an earlier start\nsome line\nerror: out of memory\n")

    result = outcome(folder, 1)

    assert (result.value, result.reason) == (None, "out of memory")


def test_an_error_of_an_earlier_start_is_not_that_of_the_last_one(own_folder):
    log = "started at noon\nerror: disk full\nstarted at one\nhalf an epoch\n"

    result = outcome(write_run([3], log), 1)

    assert result.reason == "exit code 1; see run/output.log"


def test_a_silent_failure_points_to_its_output(own_folder):
    result = outcome(write_run([3], "nothing\n"), 3)

    assert result.reason == "exit code 3; see run/output.log"


# ---- workers of this machine ----


def devices(monkeypatch, gpus, workers):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    return [share.get("CUDA_VISIBLE_DEVICES") for share in shares(workers)]


def test_each_worker_gets_a_gpu_of_its_own(monkeypatch):
    assert devices(monkeypatch, "2,3", 2) == ["2", "3"]


def test_workers_share_gpus_where_there_are_fewer(monkeypatch):
    assert devices(monkeypatch, "0,1", 3) == ["0", "1", "0"]


def test_a_worker_gets_several_gpus_where_there_are_more(monkeypatch):
    assert devices(monkeypatch, "0,1,2,3", 2) == ["0,1", "2,3"]


def test_hidden_gpus_stay_hidden(monkeypatch):
    assert devices(monkeypatch, "", 2) == [None, None]


def test_the_processors_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("classifier.platform.cores", lambda: 8)

    share_cores(3)

    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_the_number_of_threads_that_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    share_cores(2)

    assert os.environ["OMP_NUM_THREADS"] == "3"


# ---- looking at a search ----


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("status", ["4 of 4 trials done (4 complete)", "best: trial"]),
        ("table", ["trial", "val_accuracy", "lr", "width", "complete"]),
        ("best", ["val_accuracy 0.", "+++ found/best.yaml", "classifier test --ckpt_path found"]),
        ("importance", ["lr", "width", "%", "over 4 complete trials"]),
    ],
)
def test_a_search_can_be_looked_at(found, capsys, action, words):
    assert main(["search", action, "found"]) == 0

    told = capsys.readouterr().out
    assert all(word in told for word in words), told


def test_the_folder_of_no_search_is_told_with_the_one_meant(found, capsys):
    assert main(["search", "status", "fuond"]) == 2

    assert "did you mean 'found'" in capsys.readouterr().err


def test_a_dry_run_writes_configs_and_begins_nothing(own_folder):
    folder = write_files()

    assert main(["search", "--config", "search.yaml", "--dry_run", "3"]) == 0

    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("[!.]*"))
    assert names == ["dry_run", "dry_run/0000.yaml", "dry_run/0001.yaml", "dry_run/0002.yaml"]
    assert (folder / "dry_run" / "0000.yaml").read_text() == TINY


def test_a_dry_run_foretells_the_configs_of_the_trials(found):
    for number in range(4):
        told = (found / "dry_run" / f"{number:04d}.yaml").read_text()
        assert told == (trial_folder(found, number) / "trial.yaml").read_text()
