"""A search survives what happens to its processes, its files and its disk.

Every search here is disturbed once it is in the midst of a training; the same command is then
given again, if need be, and has to end with what an undisturbed search with one worker finds: the
same trials, each trained exactly once, with the same weights to the bit.
"""

import os
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from disks import fill, small_disk
from optuna.trial import TrialState
from searches import (
    WORKER,
    Search,
    check_whole,
    state,
    trial_folder,
    trials_of,
    weights,
    write_files,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux"),
]

COUNT = 6
LONGER = TINY.replace("&epochs 2", "&epochs 8").replace("  limit_train_batches: 4\n", "")
# Without dropout: its random numbers are not part of a checkpoint.
BASE = LONGER.replace("_size 64", "_size 16").replace("*width\n", "*width\n      dropout: 0.0\n")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of a search with one worker to which nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        folder = write_files(BASE, n_trials=COUNT, workers=1)
        with Search() as search:
            assert search.end(300) == 0
    check_whole(folder, COUNT)
    return folder


@pytest.fixture
def search(undisturbed, own_folder):
    """The same search, with two workers, in the midst of its trial number 1."""
    write_files(BASE, n_trials=COUNT)
    with Search() as search:
        search.wait_for(lambda: search.trial(1) and search.running(1))
        yield search


@pytest.fixture
def check(undisturbed, own_folder):
    """Checks that a search came to the undisturbed one's end, after the same command once more."""

    def run(ended=0):
        folder = Path("found")
        before = {t.number: t.value for t in trials_of(folder) if t.state.is_finished()}
        if ended:
            with Search() as search:
                assert search.end(300) == 0, Path("output.txt").read_text()
        check_whole(folder, COUNT)
        for number, (trial, expected) in enumerate(
            zip(trials_of(folder), trials_of(undisturbed), strict=True)
        ):
            assert trial.value == before.get(number, trial.value)
            assert (trial.params, trial.value) == (expected.params, expected.value)
            own, other = trial_folder(folder, number), trial_folder(undisturbed, number)
            assert weights(own) == weights(other)

    return run


# ---- a process is killed ----


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGSEGV"])
def test_a_trial_that_is_killed_goes_on(search, check, name):
    os.kill(search.trial(1), signal.Signals[name])

    assert search.end() == 0
    check()
    assert len(runs_of(1)) == 2


def runs_of(number):
    """The starts of a trial, by the processes that trained it."""
    record = yaml.safe_load((trial_folder(Path("found"), number) / "run.json").read_text())
    return [record["pid"], *(earlier["pid"] for earlier in record.get("resumed", []))]


@pytest.fixture
def pair(undisturbed, own_folder):
    """The same search with one worker, and a worker that joined in, in the midst of a trial."""
    folder = write_files(BASE, n_trials=COUNT, workers=1)
    with Search() as search:
        search.wait_for(lambda: state(folder, 0))
        with Search(*WORKER) as worker:
            worker.wait_for(lambda: training(worker, 1))
            yield search, worker


def test_a_worker_that_is_killed_takes_its_trial_along_and_is_replaced(pair, check):
    search, worker = pair

    worker.process.kill()

    worker.wait_for(lambda: not worker.pids(), 30)
    assert search.end() == 0
    check()


def test_a_worker_that_is_told_to_stop_puts_its_trial_back(pair, check):
    search, worker = pair

    worker.process.terminate()

    assert worker.end(30) == 143
    assert search.end() == 0
    check()


def test_a_trial_goes_on_when_the_server_that_forked_it_is_killed(search, check):
    os.kill(search.forkserver_of(1), signal.SIGKILL)

    assert search.end() == 0
    check()


def test_a_worker_that_hangs_is_waited_for_until_it_is_killed(pair, check):
    search, worker = pair

    worker.process.send_signal(signal.SIGSTOP)

    search.wait_for(lambda: finished(search) == COUNT - 1, 120)
    time.sleep(2)
    assert search.process.poll() is None
    worker.process.kill()

    assert search.end() == 0
    check()


def test_nothing_outlives_a_command_that_is_killed(search, check):
    search.process.kill()

    search.wait_for(lambda: not search.pids(), 30)
    check(ended=-9)


def test_the_command_goes_on_at_once_after_it_was_killed(search, check):
    search.process.kill()

    check(ended=-9)


def test_everything_may_be_killed_at_once(search, check):
    for pid in search.pids():
        os.kill(pid, signal.SIGKILL)
    search.wait_for(lambda: not search.pids())

    check(ended=-9)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_command_that_is_told_to_stop_puts_its_trials_back(search, check, name, code):
    os.killpg(search.process.pid, signal.Signals[name])  # as a terminal does

    assert search.end(30) == code
    assert "stopping; the same command resumes the search" in Path("output.txt").read_text()
    states = {trial.state for trial in trials_of(search.folder)}
    assert states <= {TrialState.COMPLETE, TrialState.WAITING}
    check(ended=code)


def test_a_command_that_is_told_to_stop_again_and_again_puts_its_trials_back(search, check):
    for _ in range(5):
        os.kill(search.process.pid, signal.SIGINT)

    assert search.end(30) == 130
    check(ended=130)


def test_a_search_can_be_stopped_as_often_as_wanted(undisturbed, own_folder, check):
    write_files(BASE, n_trials=COUNT, workers=1)
    for epochs in (0, 1, 2, 0, 1):
        with Search() as search:
            search.wait_for(lambda: training(search, epochs))  # noqa: B023
            search.process.send_signal(signal.SIGTERM)
            assert search.end(30) == 143

    check(ended=143)


def finished(search):
    """How many trials have ended."""
    return sum(trial.state.is_finished() for trial in trials_of(search.folder))


def training(search, epochs):
    """Whether any trial trains and has so many epochs behind it."""
    return any(search.trial(n) and search.running(n, epochs) for n in range(COUNT))


def test_two_commands_share_one_search(search, check):
    with Search() as other:
        assert other.end() == 0

    assert search.end() == 0
    check()


# ---- the journal ----


def test_half_a_line_in_the_journal_of_living_writers_does_no_harm(search, check):
    with (search.folder / "journal.log").open("a") as file:
        file.write('{"op_code": 8, "worker_id": "half a li')

    assert search.end() == 0
    check()


def test_half_a_line_and_a_lock_that_a_dead_writer_left_do_no_harm(search, check):
    for pid in search.pids():
        os.kill(pid, signal.SIGKILL)
    search.wait_for(lambda: not search.pids())
    with (search.folder / "journal.log").open("a") as file:
        file.write('{"op_code": 8, "worker_id": "half a li')
    (search.folder / "journal.log.lock").symlink_to(search.folder / "journal.log")

    check(ended=-9)


# ---- a full disk ----


def test_a_full_disk_stops_the_search_which_goes_on_when_there_is_space(
    undisturbed, own_folder, check
):
    folder = write_files(BASE, n_trials=COUNT)
    folder.mkdir()
    with small_disk(folder, "64m"), ExitStack() as stack:
        search = stack.enter_context(Search())
        search.wait_for(lambda: search.trial(1) and search.running(1))
        filler = fill(folder)
        assert search.end(120) == 2  # which the user can mend
        assert "No space left on device" in Path("output.txt").read_text()

        filler.unlink()
        check(ended=1)


@pytest.mark.parametrize("size", ["16k", "200k"])
def test_a_trial_that_finds_its_disk_full_is_not_lost(undisturbed, own_folder, check, size):
    folder = write_files(BASE, n_trials=1)
    with Search() as search:
        assert search.end() == 0
    write_files(BASE, n_trials=COUNT)
    own = trial_folder(folder, 1)
    own.mkdir()
    with small_disk(own, size), Search() as search:
        assert search.end(240) == 1
        assert state(folder, 1) == TrialState.WAITING

    check(ended=1)


def test_a_full_disk_of_temporary_files_does_no_harm(undisturbed, own_folder, monkeypatch, check):
    write_files(BASE, n_trials=COUNT)
    Path("tmp").mkdir()
    with small_disk("tmp", "16k"), monkeypatch.context() as patch:
        patch.setenv("TMPDIR", str(own_folder / "tmp"))
        fill(Path("tmp"))
        with Search() as search:
            assert search.end(240) == 0, Path("output.txt").read_text()

    check()


# ---- a trial that fails ----

NETWORKS = """
import os
import signal

from classifier.networks import MNISTNet


class Good(MNISTNet):
    pass


class Raises(MNISTNet):
    def forward(self, x):
        raise RuntimeError("this network is broken")


class Exhausts(MNISTNet):
    def forward(self, x):
        raise MemoryError


class Exits(MNISTNet):
    def forward(self, x):
        os._exit(1)


class Ends(MNISTNet):
    def forward(self, x):
        raise SystemExit(0)


class Dies(MNISTNet):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGKILL)


class Diverges(MNISTNet):
    def forward(self, x):
        return super().forward(x) * float("nan")
"""
OWN = (
    TINY.replace("class_path: classifier.networks.MNISTNet", "class_path: *network")
    .replace("  width: &width 4", "  width: &width 4\n  network: &network own.Good")
    .replace("val_accuracy", "val_loss")
)


def test_a_trial_that_fails_does_not_touch_the_others(own_folder):
    Path("own.py").write_text(NETWORKS)
    names = ["Raises", "Exhausts", "Exits", "Ends", "Dies", "Diverges"]
    space = {"network": ["own.Good", *(f"own.{name}" for name in names)], "lr": [0.01, 0.02]}
    write_files(OWN, monitor="val_loss", sampler="grid", n_trials=None, space=space)

    with Search() as search:
        assert search.end(300) == 0

    reasons = [trial.user_attrs["outcome"]["reason"] for trial in trials_of(search.folder)]
    states = [trial.state for trial in trials_of(search.folder)]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.FAIL] * 12
    assert reasons[::2] == [
        "",
        "RuntimeError: this network is broken",
        "MemoryError: ",
        f"exit code 1; see {trial_folder(search.folder, 6) / 'output.log'}",
        "no epoch measured val_loss",
        "killed by signal 9, 3 times",
        "train_loss is nan in epoch 1, step 1",
    ]


def test_a_search_of_which_every_trial_fails_says_so(own_folder):
    Path("own.py").write_text(NETWORKS)
    base = OWN.replace("own.Good", "own.Raises")
    folder = write_files(base, monitor="val_loss", n_trials=3)

    with Search() as search:
        assert search.end() == 1

    assert [trial.state for trial in trials_of(folder)] == [TrialState.FAIL] * 3
    assert "3 of 3 trials done (3 failed)" in Path("output.txt").read_text()


# ---- sampling and pruning ----


def test_a_sampler_and_a_pruner_that_learn_do_not_notice_that_a_search_was_stopped(own_folder):
    sampler = {"class_path": "TPESampler", "init_args": {"n_startup_trials": 2}}
    pruner = {"class_path": "MedianPruner", "init_args": {"n_startup_trials": 2}}
    settings = {"n_trials": 8, "workers": 1, "sampler": sampler, "pruner": pruner}
    write_files(BASE, **settings, folder="calm", name="found")
    with Search() as search:
        assert search.end(300) == 0

    write_files(BASE, **settings)
    for number in range(8):
        with Search() as search:
            search.wait_for(lambda: has_begun(search, number))  # noqa: B023
            for pid in search.pids():
                os.kill(pid, signal.SIGKILL)
    with Search() as search:
        assert search.end(300) == 0

    calm, found = trials_of(Path("calm")), trials_of(Path("found"))
    assert TrialState.PRUNED in [trial.state for trial in calm]
    for one, other in zip(calm, found, strict=True):
        assert (one.state, one.params, one.value) == (other.state, other.params, other.value)
        assert one.intermediate_values == other.intermediate_values
        if one.state == TrialState.COMPLETE:
            name = f"trials/{one.number:04d}"
            assert weights(Path("calm", name)) == weights(Path("found", name))


def has_begun(search, number):
    """Whether a trial is in the midst of its training, or was already stopped early."""
    is_running = search.trial(number) and search.running(number)
    return is_running or state(search.folder, number) == TrialState.PRUNED


# ---- everything together ----


def test_a_storm_of_kills_costs_time_only(own_folder, fit):
    """Measured on 2 shared cores: 30 kills (6 of the command, 7 of workers, 13 of servers, 4 of
    trials) within 2.5 minutes and 7 calls; 11 trials went on, and all 40 are complete. One that is
    killed three times in a row would have failed for that.
    """
    chance = random.Random(0)
    folder = write_files(BASE, n_trials=40)
    kills = dict.fromkeys(("command", "worker", "server", "trial"), 0)
    calls = 0
    while sum(kills.values()) < 30:
        calls += 1
        with ExitStack() as stack:
            search = stack.enter_context(Search())
            search.wait_for(lambda: state(folder, 0))  # not before the search has begun
            worker = stack.enter_context(Search(*WORKER))
            while search.process.poll() is None and sum(kills.values()) < 30:
                time.sleep(chance.uniform(0.2, 5))
                if worker.process.poll() is not None:
                    worker = stack.enter_context(Search(*WORKER))
                kind = chance.choice(list(kills))
                for pid in victims(search, worker, kind)[-1:]:
                    os.kill(pid, signal.SIGKILL)
                    kills[kind] += 1
                    if kind == "command":
                        search.process.wait()
    with Search() as search:
        assert search.end(600) == 0

    failed = {t.number: "3 times" for t in trials_of(folder) if t.state == TrialState.FAIL}
    check_whole(folder, 40, failed)
    resumed = [number for number in range(40) if number not in failed and len(runs_of(number)) > 1]
    for number in resumed[:3]:
        again = fit("--config", str(trial_folder(folder, number) / "trial.yaml"))
        assert weights(again) == weights(trial_folder(folder, number))
    print(f"{kills}, {calls} calls, {len(resumed)} resumed, {len(failed)} failed")


def victims(search, worker, kind):
    """The processes of a kind."""
    if kind in ("command", "worker"):
        process = (search if kind == "command" else worker).process
        return [process.pid] if process.poll() is None else []
    find = Search.forkservers if kind == "server" else Search.trials
    return find(worker) + find(search)
