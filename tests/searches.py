"""Real searches for tests: starts them, finds their processes, and reads what they leave."""

import csv
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from conftest import TINY
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

COMMAND = (sys.executable, "-m", "classifier", "search", "--config", "search.yaml")
WORKER = (sys.executable, "-m", "classifier", "search", "worker", "found")
MARK = "SEARCH_OF_A_TEST"  # an environment variable by which all its processes are found
SEARCH = {
    "base": "tiny.yaml",
    "folder": "found",
    "monitor": "val_accuracy",
    "n_trials": 4,
    "space": {"lr": {"low": 0.001, "high": 0.1, "log": True}, "width": [2, 4]},
    "pruner": None,
    "workers": 2,
}


def write_files(base: str = TINY, **changes: Any) -> Path:
    """Writes ``tiny.yaml`` and ``search.yaml`` here; returns the search folder to come."""
    Path("tiny.yaml").write_text(base, encoding="utf-8")
    text = yaml.safe_dump({**SEARCH, **changes}, sort_keys=False)  # the order of a grid
    Path("search.yaml").write_text(text, encoding="utf-8")
    return Path("found").resolve()


def trials_of(folder: Path) -> list[FrozenTrial]:
    """The trials, read by Optuna alone."""
    url = yaml.safe_load((folder / "search.yaml").read_text())["storage"]
    journal = str(folder / "journal.log")
    storage = RDBStorage(url) if url else JournalStorage(JournalFileBackend(journal))
    names = optuna.get_all_study_names(storage)  # none before it begins
    return [t for n in names for t in optuna.load_study(study_name=n, storage=storage).get_trials()]


def state(folder: Path, number: int) -> TrialState | None:
    """The state of a trial; None before there is one."""
    trials = trials_of(folder) if (folder / "journal.log").exists() else []
    return trials[number].state if number < len(trials) else None


def trial_folder(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04d}"


def metrics(folder: Path, number: int) -> list[dict[str, str]]:
    """The rows of a trial's metrics.csv."""
    path = trial_folder(folder, number) / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> dict[str, bytes]:
    """The final weights of a run, as bytes by name."""
    tensors = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def check_whole(folder: Path, count: int, failed: Mapping[int, str] | None = None) -> None:
    """Checks that each trial was trained exactly once, as if nothing had happened.

    Args:
        folder: The search folder.
        count: How many trials there have to be.
        failed: Part of the reason of each trial that has to have failed, by number.
    """
    failed = failed or {}
    trials = trials_of(folder)
    assert [trial.number for trial in trials] == list(range(count))
    params = [tuple(sorted(trial.params.items())) for trial in trials]
    assert len(set(params)) == count
    for trial in trials:
        if trial.number in failed:
            assert trial.state == TrialState.FAIL
            assert failed[trial.number] in trial.user_attrs["outcome"]["reason"]
            continue
        assert trial.state == TrialState.COMPLETE, trial.user_attrs
        _check_complete(folder, trial)


def _check_complete(folder: Path, trial: FrozenTrial) -> None:
    own = trial_folder(folder, trial.number)
    epochs = yaml.safe_load((own / "trial.yaml").read_text())["trainer"]["max_epochs"]
    rows = metrics(folder, trial.number)
    assert [int(row["epoch"]) for row in rows if row["train_loss"]] == list(range(epochs))
    values: dict[int, float] = {}  # the best of each epoch, which may be validated several times
    for row in rows:
        if row["val_accuracy"]:
            done, value = int(row["epoch"]) + 1, float(row["val_accuracy"])
            values[done] = max(value, values.get(done, value))
    assert trial.intermediate_values == values
    assert trial.value == max(values.values())
    assert (own / "checkpoints" / "best.ckpt").is_file()
    assert (own / "checkpoints" / "last.ckpt").is_file()


class Search:
    """``classifier search``, or a worker, as a process, and those that it starts.

    Used in a ``with`` statement, at whose end none of them is left.

    Args:
        command: Its command line.
    """

    def __init__(self, *command: str) -> None:
        self.command = command or COMMAND
        self.mark = uuid.uuid4().hex
        self.folder = Path("found").resolve()

    def __enter__(self) -> "Search":
        root = str(Path(__file__).parents[1])
        with Path("output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.wait_for(lambda: not self.pids())

    def end(self, seconds: float = 120) -> int:
        """Waits for its end, and for that of all its processes; returns the exit code."""
        code = self.process.wait(seconds)
        self.wait_for(lambda: not self.pids(), seconds)
        return code

    def wait_for(self, ready: Callable[[], Any], seconds: float = 60) -> Any:
        """Waits until something is true, and returns it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := ready():
                return found
            time.sleep(0.02)
        return pytest.fail(f"waited too long:\n{Path('output.txt').read_text()}\n{self._logs()}")

    def _logs(self) -> str:
        logs = [*self.folder.glob("workers/*.log"), *self.folder.glob("trials/*/output.log")]
        return "\n".join(f"{path}: {path.read_text()}" for path in logs)

    def running(self, number: int, epochs: int = 1) -> bool:
        """Whether a trial is in the midst of its training, with so many epochs behind it."""
        done = sum(bool(row["train_loss"]) for row in metrics(self.folder, number))
        return done >= epochs and state(self.folder, number) == TrialState.RUNNING

    # ---- its processes; those of Linux, where each shows the environment it was started with ----

    def pids(self) -> list[int]:
        """All that are alive, this one included."""
        mark = f"{MARK}={self.mark}".encode()
        return [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/environ")
            if mark in _read(path) and _status(path.parent)[0] != "Z"
        ]

    def _of(self, word: str) -> list[int]:
        return [pid for pid in self.pids() if word.encode() in _read(Path(f"/proc/{pid}/cmdline"))]

    def workers(self) -> list[int]:
        return self._of("worker\0")

    def forkservers(self) -> list[int]:
        forked = self._of("forkserver")
        return [pid for pid in forked if _parent(pid) in set(self.pids()) - set(forked)]

    def trials(self) -> list[int]:
        """The processes that train."""
        return [pid for pid in self._of("forkserver") if pid not in self.forkservers()]

    def trial(self, number: int) -> int | None:
        """The process that trains a trial, which it has its standard output open for."""
        log = str(trial_folder(self.folder, number) / "output.log")
        return next((pid for pid in self.trials() if _output(pid) == log), None)

    def forkserver_of(self, number: int) -> int:
        pid = self.trial(number)
        assert pid is not None
        return _parent(pid)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def _status(folder: Path) -> tuple[str, int]:
    """Letter of the state, and the parent."""
    fields = _read(folder / "stat").rpartition(b")")[2].split()
    return (fields[0].decode(), int(fields[1])) if fields else ("Z", 0)


def _parent(pid: int) -> int:
    return _status(Path(f"/proc/{pid}"))[1]


def _output(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/fd/1").readlink())
    except OSError:
        return ""
