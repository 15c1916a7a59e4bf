"""A fit that is a trial of a search: its folder, its reports, and that it dies with the search."""

import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_ddp import TWO_RANKS

from classifier import runs
from classifier.__main__ import main
from classifier.cli.job import Job
from classifier.search.process import FitProcess, Trial
from classifier.search.trial import run

OWN_CODE = """
import os
import subprocess
from pathlib import Path

from pytorch_lightning.callbacks import Callback
from torch import nn


class Undefined(nn.CrossEntropyLoss):
    '''NaN in validation.'''

    def forward(self, logits, labels):
        loss = super().forward(logits, labels)
        return loss if logits.requires_grad else loss * float("nan")


class Start(Callback):
    '''Starts a process that outlives its parent, as workers of a data loader may.'''

    def on_train_start(self, trainer, pl_module) -> None:
        started = subprocess.Popen(["sleep", "60"])
        Path("pid").write_text(str(started.pid))


class Die(Callback):
    '''Dies before the first checkpoint, but not again when it is taken up.'''

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), 9)
"""

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["classifier.cli.classifier_cli", "torch.utils.tensorboard"])


@pytest.fixture
def folder(own_folder):
    """What a search makes for its trial number 7: a folder with ``trial.yaml``."""
    path = own_folder / "searches" / "tiny" / "trials" / "0007"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def write_trial(folder, write_config):
    """Writes ``trial.yaml`` with changes and returns its name."""

    def write(changes=None):
        return shutil.move(write_config(changes), folder / "trial.yaml")

    return write


def trial_in(folder, *arguments, monitor="val_accuracy", direction="maximize", **values):
    words = ["own.Undefined", "own.Start", "own.Die"]  # what the search found in its files
    config = ["--config", str(folder / "trial.yaml")]
    job = Job(folder, "tiny_0007", None, monitor, direction, words)
    return Trial([*config, *arguments], job, values)


@pytest.fixture
def alone():
    """Trains a trial to which nobody listens, in this process."""
    return lambda *given: main(["search", "trial", trial_in(*given).to_json()])


def fit_process(trial, channel, own_group):
    if own_group:
        os.setsid()
    sys.exit(run(trial, channel))


class Search:
    """The other side: a process with a trial in it."""

    def __init__(self, *given, own_group=True, **facts):
        self.channel, theirs = context.Pipe()
        trial = trial_in(*given, **facts)
        self.process = context.Process(target=fit_process, args=(trial, theirs, own_group))
        self.process.start()
        theirs.close()

    def report(self):
        """The next report, None if the trial ended."""
        try:
            return self.channel.recv() if self.channel.poll(60) else None
        except EOFError:
            return None

    def reports(self, *answers):
        """All reports; answered in order, then with False."""
        found, remaining = [], iter(answers)
        while report := self.report():
            found.append(report)
            self.channel.send(next(remaining, False))
        self.process.join()
        return found


def column(folder, name):
    return [float(row[name]) for row in runs.read_metrics(folder)]


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


def test_every_epoch_is_reported_as_it_is_recorded(folder, write_trial):
    write_trial({"trainer.max_epochs": 3})

    search = Search(folder)

    reports = search.reports()
    assert search.process.exitcode == 0
    assert reports == list(zip([1, 2, 3], column(folder, "val_accuracy"), strict=True))


def test_a_trial_is_trained_in_the_folder_of_the_trial(folder, write_trial, alone):
    write_trial()

    assert alone(folder) == 0

    names = {re.sub("(tfevents).*", r"\1", path.name) for path in folder.iterdir()}
    assert names == {
        *("trial.yaml", "config.yaml", "run.json", "metrics.csv", "checkpoints"),
        *("events.out.tfevents", ".lock"),
    }
    assert runs.read_record(folder)["name"] == "tiny_0007"
    assert not Path("runs").exists()


def test_a_trial_that_is_told_to_stop_ends_after_its_epoch_with_a_checkpoint(folder, write_trial):
    write_trial({"trainer.max_epochs": 9})

    search = Search(folder)

    assert len(search.reports(False, True)) == 2
    assert search.process.exitcode == 0
    assert len(runs.read_metrics(folder)) == 2
    assert runs.read_record(folder)["state"] == "finished"
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 1


def test_an_epoch_that_did_not_measure_the_monitor_is_not_reported(folder, write_trial):
    write_trial({"trainer.max_epochs": 4, "trainer.check_val_every_n_epoch": 2})

    reports = Search(folder).reports()

    assert [epochs for epochs, _ in reports] == [2, 4]


def test_a_value_that_is_not_a_number_is_reported_as_it_is(folder, write_trial):
    Path("own.py").write_text(OWN_CODE)
    write_trial({"model.loss": {"class_path": "own.Undefined"}})

    reports = Search(folder, monitor="val_loss", direction="minimize").reports()

    assert [math.isnan(value) for _, value in reports] == [True, True]


def test_a_trial_dies_with_the_search_and_takes_along_what_it_started(folder, write_trial):
    Path("own.py").write_text(OWN_CODE)
    write_trial({"trainer.max_epochs": 1000, "trainer.callbacks": [{"class_path": "own.Start"}]})
    search = Search(folder)
    assert search.report()

    search.channel.close()

    search.process.join(60)
    assert search.process.exitcode == -signal.SIGKILL
    soon(lambda: state_of(Path("pid").read_text()) in (None, "Z"))


def test_a_trial_that_does_not_lead_its_group_dies_alone(folder, write_trial):
    write_trial({"trainer.max_epochs": 1000})
    search = Search(folder, own_group=False)
    assert search.report()

    search.channel.close()

    search.process.join(60)
    assert search.process.exitcode == -signal.SIGKILL


def test_a_trial_that_was_killed_before_its_first_checkpoint_starts_again(folder, write_trial):
    Path("own.py").write_text(OWN_CODE)
    write_trial({"trainer.callbacks": [{"class_path": "own.Die"}]})
    first = Search(folder)
    first.reports()
    killed = runs.read_record(folder)

    second = Search(folder)

    assert [epochs for epochs, _ in second.reports()] == [1, 2]
    assert first.process.exitcode == -signal.SIGKILL
    assert killed["state"] == "running"
    record = runs.read_record(folder)
    assert record["id"] == killed["id"]
    assert record["resumed"] == [killed]
    assert record["epochs"] == 2
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("val_loss")] == [3, 7]


def test_a_trial_that_was_killed_goes_on_from_its_checkpoint(folder, write_trial):
    write_trial({"trainer.max_epochs": 4})
    first = Search(folder)
    for _ in range(2):
        assert first.report()
        first.channel.send(False)
    assert first.report()
    first.channel.close()
    first.process.join()

    second = Search(folder, "--ckpt_path", str(folder))

    assert [epochs for epochs, _ in second.reports()] == [3, 4]
    assert [row["step"] for row in runs.read_metrics(folder)] == ["4", "8", "12", "16"]
    assert len(runs.read_record(folder)["resumed"]) == 1
    best = EventAccumulator(str(folder)).Reload().Scalars("best/val_accuracy")
    scores = column(folder, "val_accuracy")
    assert [event.step for event in best] == [3, 7, 11, 15]
    assert [event.value for event in best] == pytest.approx(
        [max(scores[: number + 1]) for number in range(4)]
    )


def test_a_trial_that_starts_from_a_checkpoint_of_another_run_leaves_that_run_alone(
    trained, folder, write_trial, alone
):
    write_trial()
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}

    code = alone(folder, "--ckpt_path", str(trained), "--trainer.max_epochs", "4")

    assert code == 0
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    assert [row["epoch"] for row in runs.read_metrics(folder)] == ["3"]


@pytest.mark.parametrize("name", ["trial.yaml", "config.yaml"])
def test_a_config_of_a_trial_is_trained_again_in_a_run_of_its_own(
    name, folder, write_trial, alone, fit
):
    write_trial({"trainer.max_epochs": 1})
    assert alone(folder) == 0

    again = fit("--config", str(folder / name))

    assert again == Path("runs/tiny_0007/version_0").resolve()


@pytest.mark.parametrize("record", ["{", "{}"], ids=["damaged", "nameless"])
def test_a_config_beside_a_bad_record_can_be_trained_again(record, trained, fit):
    Path("kept/version_3").mkdir(parents=True)
    config = shutil.copy(trained / "config.yaml", "kept/version_3")
    Path("kept/version_3/run.json").write_text(record)

    folder = fit("--config", config)

    assert folder.parent.name == "kept"


def test_a_mistake_leaves_the_folder_of_the_trial(folder, write_trial, alone):
    write_trial()

    assert alone(folder, "--model.optimizer.init_args.lr", "fast") == 2

    assert [path.name for path in folder.iterdir()] == ["trial.yaml"]


def test_a_run_is_trained_by_one_process_at_a_time(folder, write_trial, monkeypatch, capfd):
    monkeypatch.setattr(runs, "LOCK_SECONDS", 0.1)
    write_trial()
    first = Search(folder)
    assert first.report()
    first.channel.send(False)
    assert first.report()  # and waits for the answer, its first checkpoint on the disk
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capfd.readouterr()

    code = main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "5"])

    assert code == 2
    (error,) = capfd.readouterr().err.splitlines()
    owner = f"PID {first.process.pid} on {os.uname().nodename}"
    assert f"0007' is being trained by another process ({owner}); wait" in error
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    first.channel.send(False)
    first.reports()
    assert first.process.exitcode == 0
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "3"]) == 0


def test_another_number_of_threads_than_that_of_the_config_is_noted(
    trained, fit, monkeypatch, capsys
):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)

    fit("--config", str(trained / "config.yaml"))

    assert capsys.readouterr().err == (
        "note: the last bits may differ from before: threads 2, not 1. "
        "OMP_NUM_THREADS=1 sets the threads.\n"
    )


def test_the_same_number_of_threads_is_not_worth_a_note(trained, fit, capsys):
    fit("--config", str(trained / "config.yaml"))

    assert capsys.readouterr().err == ""


@pytest.fixture
def two_ranks(folder, write_trial):
    """A trial with two ranks, whose second one Lightning starts by the command line."""
    write_trial({"trainer.max_epochs": 9})
    trial = trial_in(folder, *TWO_RANKS, lr=0.01)
    process = FitProcess(trial, Path.cwd(), {"OMP_NUM_THREADS": "1"})
    yield process
    process.stop()


@pytest.mark.slow
def test_two_ranks_stop_together_and_report_once(folder, two_ranks):
    reports = []
    for stop in (False, True):
        reports.append(two_ranks.next_value(60))
        two_ranks.answer(stop)
    two_ranks.process.join(60)

    assert two_ranks.exit_code == 0, (folder / "output.log").read_text()
    assert reports == list(zip([1, 2], column(folder, "val_accuracy"), strict=True))
    assert len(list(folder.glob("events.out.tfevents*"))) == 1
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 9


@pytest.mark.slow
def test_two_ranks_die_with_the_search(two_ranks):
    assert two_ranks.next_value(60)

    two_ranks.channel.close()

    two_ranks.process.join(60)
    assert two_ranks.exit_code == -signal.SIGKILL
    soon(lambda: group_members(two_ranks.process.pid) == [])


def soon(is_so):
    """Waits for what follows from a kill at once, on a machine that may be busy."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def group_members(group):
    stats = (path.read_text() for path in Path("/proc").glob("[0-9]*/stat"))
    fields = (stat.rpartition(")")[2].split() for stat in stats)
    return [state for state, _, own, *_ in fields if int(own) == group and state != "Z"]
