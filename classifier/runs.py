"""The run folder: its name, its record, and what is known of the machine and the code.

``runs/<config name>/version_N/`` holds ``config.yaml``, ``run.json``, ``metrics.csv``,
``checkpoints/best.ckpt``, ``checkpoints/last.ckpt``, TensorBoard events, and ``.lock``, which
whoever trains in the folder holds.
"""

import contextlib
import csv
import functools
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from classifier import terminal
from classifier.atomic import written_whole
from classifier.errors import UserError

DIFFERENCE = ("diff", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "HEAD")
HARMLESS = re.compile(  # settings of a repository by which a diff runs no program
    rb"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|symlinks"
    rb"|precomposeunicode|autocrlf|eol|safecrlf|quotepath)|remote\..*\.(url|pushurl|fetch|tagopt)"
    rb"|(branch|user|submodule|advice|color|commit|gc|http|init|merge|pull|push|rebase|tag)\..*"
    rb"|lfs\.(repositoryformatversion|.*\.(access|locksverify))",  # others name programs
    re.DOTALL,
)
Direction = Literal["minimize", "maximize"]

LOCK = ".lock"
EVENTS = "events.out.tfevents"
LOCK_SECONDS = 10  # an earlier process, or its data loader workers, may still be ending
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "jsonargparse", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run: all names in it."""

    path: Path

    @property
    def config(self) -> Path:
        """The config of the run, complete."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """What is known of the run."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """A row an epoch."""
        return self.path / "metrics.csv"

    @property
    def lock(self) -> Path:
        """Held by whoever trains in the folder."""
        return self.path / ".lock"

    @property
    def checkpoints(self) -> Path:
        """The folder of the three checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest state of the training, to resume from."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The state before it, should that be damaged."""
        return self.checkpoints / "previous.ckpt"

    @property
    def best(self) -> Path:
        """The weights of the best validation."""
        return self.checkpoints / "best.ckpt"

    @property
    def resume_command(self) -> str:
        """What resumes the run."""
        return terminal.command("fit", "--ckpt_path", terminal.display_path(self.path))


def claim_folder(root: Path, name: str) -> Path:
    """Creates and returns the next free ``root/name/version_N``.

    ``mkdir`` either makes the folder or fails, so any number of processes that start in the same
    instant get a folder each.
    """
    parent = root / name
    taken = [path.name.removeprefix("version_") for path in parent.glob("version_*")]
    number = max((int(text) + 1 for text in taken if text.isdecimal()), default=0)
    while True:
        folder = parent / f"version_{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def give_back(folder: Path) -> None:
    """Removes a claimed folder in which no run began; any other stays as it is.

    Lightning opens TensorBoard's events before it knows whether there is something to train.
    """
    with contextlib.suppress(OSError):
        if all(path.name.startswith((LOCK, EVENTS)) for path in folder.iterdir()):
            shutil.rmtree(folder)
            folder.parent.rmdir()  # if that was the first


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in the folder meanwhile.

    Raises:
        ValueError: If one does; names it as far as it is known.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(LOCK_SECONDS)
    except Timeout:
        record = read_record(folder) if (folder / "run.json").exists() else {}
        host = record.get("environment", {}).get("host")
        known = f" (PID {record['pid']} on {host})" if "pid" in record else ""
        raise UserError(
            f"'{folder}' is being trained by another process{known}; wait for it or stop it."
        ) from None
    try:
        yield
    finally:
        lock.release()


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, if it still does."""
    folder = checkpoint.resolve().parent.parent
    return folder if (folder / "run.json").is_file() else None


def refuse_links(folder: Path) -> None:
    """Refuses to write into a stranger's folder that leads elsewhere.

    Raises:
        UserError: If a link is in it.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink():
                raise UserError(
                    f"'{folder}' is not signed with your key, and '{path}' in it is a link, by "
                    "which somebody else's folder would have yours written to. If it is as it "
                    "should be, put what it leads to in its place."
                )


def write_text(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file as a whole or not at all."""
    with written_whole(path) as file:
        file.write(content)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes ``run.json``."""
    text = json.dumps(_finite(record), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / "run.json", text + "\n")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_record(folder: Path) -> dict[str, Any]:
    """Reads ``run.json``."""
    path = folder / "run.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path}' is damaged: {error}. Mend it, or move the run away.") from error
    return record


def save_config(folder: Path, text: str) -> None:
    """Writes ``config.yaml``; a different one of an earlier start is kept as ``config_N.yaml``."""
    path = folder / "config.yaml"
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return
        number = 0
        while (folder / f"config_{number}.yaml").exists():
            number += 1
        path.rename(folder / f"config_{number}.yaml")
    write_text(path, text)


def is_config_edited(folder: Path) -> bool:
    """Whether somebody has edited ``config.yaml`` since the run wrote it.

    Runs of format 1 do not say what they wrote: theirs counts as it is.
    """
    path = folder / "config.yaml"
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
    write_text(folder / "metrics.csv", text.getvalue())


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """Reads the rows of ``metrics.csv``; none if there is no such file yet."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ends_epoch(row: Mapping[str, str]) -> bool:
    """Whether a row of ``metrics.csv`` is that of an epoch, not of a validation inside one."""
    return any(name.startswith("train_") and value for name, value in row.items())


def direction_of(metric: str) -> Direction:
    """What runs of format 1 go by: losses are minimised, everything else is maximised."""
    return "minimize" if "loss" in metric else "maximize"


def best_value(folder: Path, monitor: str, direction: Direction) -> float | None:
    """The best finite ``monitor`` of all rows in ``metrics.csv``; None if no row has one."""
    values = [float(text) for row in read_metrics(folder) if (text := row.get(monitor))]
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


def environment(modules: Iterable[str] = ()) -> dict[str, Any]:
    """What a result depends on besides the config: packages, code and machine.

    Args:
        modules: Top-level modules that the config names; the versions of their packages are added.
    """
    import torch

    return {
        "python": platform.python_version(),
        "packages": _versions(modules),
        "git": git_state(Path.cwd()),
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def git_state(folder: Path) -> dict[str, str | None] | None:
    """Commit of the repository around ``folder`` and a hash of what differs from it, if anything.

    None without git or outside a repository. The hash is missing where finding it could run
    programs, which a repository names in its own settings and a stranger's folder may be one.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    state: dict[str, str | None] = {"commit": commit.decode().strip()}
    names = _git(folder, "config", "--local", "--includes", "--name-only", "--list", "-z")
    if names is not None and all(map(HARMLESS.fullmatch, names.split(b"\0")[:-1])):
        difference = _git(folder, *DIFFERENCE)
        state["dirty_diff_sha256"] = hashlib.sha256(difference).hexdigest() if difference else None
    return state


def _git(folder: Path, *arguments: str) -> bytes | None:
    command = ["git", "--no-optional-locks", "-c", f"core.hooksPath={os.devnull}", *arguments]
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """The installed distributions that each top-level module belongs to; 0.15 s the first time."""
    return metadata.packages_distributions()


def _versions(modules: Iterable[str]) -> dict[str, str]:
    owners = distributions()
    named = {owner for module in modules for owner in owners.get(module, [])}
    versions = {}
    for name in sorted({"classifier", *PACKAGES, *named}):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # run from a source tree
    return versions


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
