"""Which checkpoint a path means, and what its entries are called; none is read, nor is torch."""

import csv
import difflib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from classifier.errors import UserError, did_you_mean
from classifier.runs import RunFolder

# Of checkpoints and run records. Runs of 1, which bear no number, keep how they list images and
# which way a metric is better; those up to 2 what data.train_transform takes the place of.
FORMAT = 3
KEY = "classifier"  # the entry with the format, config text, data description and run record
POSITION = "position"  # the entry that says where in the training it was saved
# Settings that name a file or folder, be there one or not.
PATH_SETTINGS = (
    *("checkpoint_path", "ckpt_path", "data_dir", "default_root_dir", "dirpath", "filename"),
    *("images", "init_from", "manifest", "output", "path", "root", "save_dir", "weights"),
)


def epochs_done(checkpoint: Mapping[str, Any]) -> int:
    """How many epochs a checkpoint has seen as a whole."""
    inside = checkpoint.get(POSITION, {}).get("inside_epoch", False)
    return int(checkpoint.get("epoch", -1)) + (not inside)  # its epoch is the one it is of


def folder_name(name: Any) -> str:
    """Returns the name of a run, which becomes that of a folder; refuses one like ``../other``."""
    if isinstance(name, str) and re.fullmatch(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f-\x9f]{1,200}", name):
        return name
    raise UserError(f"the run of the checkpoint is called {name!r:.80}, which names no folder.")


def resolve_checkpoint(path: str, prefer: str) -> Path:
    """The checkpoint meant: a file, or ``checkpoints/<prefer>.ckpt`` of a run folder; no URL."""
    if "://" in path or "::" in path:  # as fsspec, through which Lightning reads, writes them
        raise UserError(f"'{path}' is a URL, not a local file; download it first.")
    run = RunFolder(Path(path).expanduser())
    found = [run.checkpoints / f"{prefer}.ckpt", run.last, run.previous]
    return next((file for file in found if file.is_file()), run.path)


def is_search(folder: Path) -> bool:
    """Whether a folder is that of a search."""
    return (folder / "search.yaml").is_file()


def may_be_checkpoint(word: str) -> bool:
    """Whether a word of a command line names a checkpoint, a run or a search."""
    path = Path(word)
    return path.suffix == ".ckpt" or RunFolder(path).begun or is_search(path)


def complete_trials(folder: Path) -> list[Path]:
    """The runs of the complete trials of a search, by number; none if it is another folder.

    Raises:
        UserError: If it is a search without one.
    """
    if not is_search(folder):
        return []
    table = folder / "trials.csv"
    with table.open(encoding="utf-8", newline="") if table.is_file() else io.StringIO() as file:
        trials = list(csv.DictReader(file))
    found = [folder / trial["folder"] for trial in trials if trial["state"] == "complete"]
    if not found:
        raise UserError(f"'{folder}' is a search without a complete trial, expected at least one.")
    return found


def unsaved_run(path: Path) -> Path | None:
    """The folder of a run that has no checkpoint yet, named by itself or by its last.ckpt.

    Raises:
        UserError: If its best checkpoint alone is left, which its training has long left behind.
    """
    folder = path.parent.parent if path.name == "last.ckpt" else path
    run = RunFolder(folder)
    if (
        not (run.begun and run.config.is_file())
        or resolve_checkpoint(str(folder), "last").is_file()
    ):
        return None
    if run.best.exists():
        raise UserError(
            f"'{folder}' has no last.ckpt and no previous.ckpt to resume from. "
            f"--ckpt_path '{run.best}' resumes from its best weights, in a new run; "
            f"--config '{run.config}' trains anew."
        )
    return folder.resolve()


def similar_file(path: Path, more: Iterable[Path] = ()) -> str:
    """Ends a sentence: ", did you mean '…'?" where the folder, or more, has one of such a name."""
    if not path.parent.is_dir():
        return f": there is no folder '{path.parent}'."
    # A suffix in common does not make names similar.
    others = [*path.parent.iterdir(), *more]
    alike = difflib.get_close_matches(path.stem, [other.stem for other in others])
    return did_you_mean(str(path), [str(other) for other in others if other.stem in alike])


def runs_below(folder: Path) -> list[Path]:
    """The runs in a folder of runs, or of such folders; the newest last."""
    found = [*folder.glob("version_*"), *folder.glob("*/version_*")]
    begun = [folder for folder in found if RunFolder(folder).begun]
    return sorted(begun, key=lambda folder: RunFolder(folder).record.stat().st_mtime)


def check_is_there(path: Path) -> None:
    """Raises a FileNotFoundError that says what is there instead."""
    if path.is_dir():
        last = path / "checkpoints" / "last.ckpt"
        told = " without checkpoints/best.ckpt or last.ckpt"
        told = f": name a file in it, '{last}'" if last.exists() else told
        if found := runs_below(path):
            told = f" of {len(found)} runs: name one, such as '{found[-1]}'"
        raise FileNotFoundError(f"'{path}' is a folder{told}.")
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint '{path}'{similar_file(path)}")
