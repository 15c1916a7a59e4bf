"""The run folder: its names, claiming it, its record and its metrics."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from classifier import terminal
from classifier.atomic import write_text
from classifier.errors import UserError

Direction = Literal["minimize", "maximize"]

LOCK = ".lock"
PREDICTIONS = "predictions.csv"  # of predict, and in each folder of reports
EVENTS = "events.out.tfevents"
LOCK_SECONDS = 10  # an earlier process, or its data loader workers, may still be ending


class RunFolder:
    """The folder of a run: all names in it, which it has from ``take`` on."""

    def __init__(self, path: Path | None = None) -> None:
        self.is_taken = False
        if path:
            self.take(path)

    def take(self, path: Path) -> None:
        """Gives the run its folder."""
        self.path, self.is_taken = path, True
        self.config = path / "config.yaml"  # complete
        self.record = path / "run.json"
        self.metrics = path / "metrics.csv"  # a row an epoch
        self.reports = path / "reports"  # a folder for each validate and test
        self.traceback = path / "traceback.txt"  # where the code failed, if it did
        self.lock = path / LOCK  # held by whoever trains in the folder
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"  # the weights of the best validation
        self.last = self.checkpoints / "last.ckpt"  # the newest state, to resume from
        self.previous = self.checkpoints / "previous.ckpt"  # the one before, should it be damaged

    @property
    def begun(self) -> bool:
        """Whether a training has begun in it."""
        return self.record.is_file()

    @property
    def shown(self) -> Path:
        """The folder as messages name it."""
        return terminal.display_path(self.path)

    @property
    def resume_command(self) -> str:
        """What resumes the run."""
        return terminal.command("fit", "--ckpt_path", self.shown)


def claim_folder(parent: Path, prefix: str) -> Path:
    """Creates and returns the next free ``parent/prefix_N``.

    ``mkdir`` either makes the folder or fails, so any number of processes that start in the same
    instant get a folder each.
    """
    parent.mkdir(parents=True, exist_ok=True)
    taken = [path.name.removeprefix(f"{prefix}_") for path in parent.glob(f"{prefix}_*")]
    number = max((int(text) + 1 for text in taken if text.isdecimal()), default=0)
    while True:
        folder = parent / f"{prefix}_{number}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
        number += 1


def remove_if_unused(folder: Path) -> None:
    """Removes a claimed folder in which no run began; any other stays as it is.

    Lightning opens TensorBoard's events before it knows whether there is something to train.
    """
    with contextlib.suppress(OSError):
        if all(path.name.startswith((LOCK, EVENTS)) for path in folder.iterdir()):
            shutil.rmtree(folder)
            folder.parent.rmdir()  # if that was the first


def file_lock(path: Path) -> FileLock:
    """A lock that a file stands for, which some versions of filelock empty.

    Raises:
        UserError: If the file is another name of one that has content, such as one elsewhere.
    """
    found = path.stat() if path.is_file() else None
    if found and found.st_nlink > 1 and found.st_size:
        raise UserError(f"'{path}' is a link to a file with content, expected a lock: remove it.")
    return FileLock(path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in the folder; a UserError names one that does."""
    try:
        lock = file_lock(RunFolder(folder).lock).acquire(LOCK_SECONDS)
    except Timeout:
        record = read_record(folder) if RunFolder(folder).begun else {}
        host = record.get("environment", {}).get("host")
        known = f" (PID {record['pid']} on {host})" if "pid" in record else ""
        raise UserError(
            f"'{folder}' is being trained by another process{known}; wait for it or stop it."
        ) from None
    with lock:
        yield


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, if it still does."""
    folder = checkpoint.resolve().parent.parent
    return folder if RunFolder(folder).begun else None


def refuse_links(folder: Path) -> None:
    """Raises UserError if a stranger's folder has a link, by which writing would lead elsewhere."""
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink():
                raise UserError(
                    f"'{folder}' is not signed with your key, and '{path}' in it is a link, by "
                    "which somebody else's folder would have yours written to. If it is as it "
                    "should be, put what it leads to in its place."
                )


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes ``run.json``."""
    # JSON has no NaN and no infinity: null stands for them.
    finite = json.loads(json.dumps(record), parse_constant=lambda _: None)
    text = json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(RunFolder(folder).record, text + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """Reads ``run.json``."""
    path = RunFolder(folder).record
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:  # not JSON, or no object
        remedy = "Fix the file, or move the run folder away."
        raise UserError(f"'{path}' is damaged: {error}. {remedy}") from error


def save_config(folder: Path, text: str) -> None:
    """Writes ``config.yaml``; a different one of an earlier start is kept as ``config_N.yaml``."""
    path = RunFolder(folder).config
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return
        names = (folder / f"config_{number}.yaml" for number in itertools.count())
        path.rename(next(name for name in names if not name.exists()))
    write_text(path, text)


def is_config_edited(folder: Path) -> bool:
    """Whether somebody has edited ``config.yaml`` since the run wrote it.

    Runs of format 1 do not say what they wrote: theirs counts as it is.
    """
    path = RunFolder(folder).config
    record = read_record(folder)
    starts = [*record.get("resumed", []), record]
    known = [start["config_sha256"] for start in starts if "config_sha256" in start]
    return bool(known) and path.exists() and text_sha256(path.read_text("utf-8")) not in known


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``metrics.csv``: a row an epoch and one for each validation inside an epoch.

    There is a column for every name that any row has.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(RunFolder(folder).metrics, text.getvalue())


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """Reads the rows of ``metrics.csv``; none if there is no such file yet."""
    path = RunFolder(folder).metrics
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def epoch_rows(rows: Sequence[Mapping[str, str]], finished: bool) -> list[Mapping[str, str]]:
    """The rows of ``metrics.csv`` that are each of an epoch, not of a validation inside one.

    They have what the training measured. Where that is nothing, they are the last of each epoch
    but of the newest, which may be under way, unless the run is finished.
    """
    trained = [row for row in rows if any(row[name] for name in row if name.startswith("train_"))]
    last = list({row["epoch"]: row for row in rows}.values())
    return trained or last[: None if finished else -1]


def direction_of(metric: str) -> Direction:
    """What runs of format 1 go by: losses are minimised, everything else is maximised."""
    return "minimize" if "loss" in metric else "maximize"


def best_value(
    rows: Sequence[Mapping[str, str]], monitor: str, direction: Direction
) -> float | None:
    """The best finite ``monitor`` of rows of ``metrics.csv``; None if no row has one."""
    values = [float(text) for row in rows if (text := row.get(monitor))]
    best = min if direction == "minimize" else max
    return best(filter(math.isfinite, values), default=None)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def text_sha256(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
