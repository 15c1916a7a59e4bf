"""Which folder a run gets: a new one, that of the run that it resumes, or that of its trial."""

import os
from pathlib import Path

from lightning_fabric.utilities.rank_zero import rank_zero_only

from classifier import runs, terminal
from classifier.checkpoint.read import read_checkpoint
from classifier.cli.command_line import CommandLine
from classifier.errors import UserError

VARIABLE = "CLASSIFIER_RUN_FOLDER"  # hands the folder to the ranks that Lightning starts


def run_folder(line: CommandLine, root: Path, name: str) -> tuple[Path, bool]:
    """Returns the folder, and whether it is that of a run that is resumed.

    Args:
        line: The command line.
        root: Folder of all runs.
        name: What a new run is called.
    """
    if line.job:
        # Also without a checkpoint: killed before the first one, it starts again.
        return line.job.folder, (line.job.folder / "run.json").exists()
    if line.unsaved_run:
        _check_links(line.unsaved_run, line)
        return line.unsaved_run, True
    checkpoint = line.checkpoint_path
    resumed = runs.run_folder_of(checkpoint) if checkpoint else None
    if resumed and _is_newest(resumed, line):
        _check_config(resumed, line)
        _check_links(resumed, line)
        return resumed, True
    beside = checkpoint.resolve().parents[1] if checkpoint else None
    if beside and (beside / "config.yaml").exists() and not (beside / "run.json").exists():
        there = terminal.display_path(beside)
        terminal.note(f"'{there}' has no run.json; the training goes on in a new folder.")
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # set by Lightning, undeclared
        folder = runs.claim_folder(root, name)
        os.environ[VARIABLE] = str(folder)
        return folder, False
    # Ranks that were started by others, such as torchrun, do not find the variable. They never
    # write, and Lightning hands them rank zero's checkpoint paths, so that any name will do.
    return Path(os.environ.get(VARIABLE, root / "rank" / "other")), False


def _is_newest(folder: Path, line: CommandLine) -> bool:
    """Whether nothing of the run would be lost if it went on from the checkpoint."""
    if runs.read_record(folder).get("id") != line.run.get("id"):
        return False
    last = folder / "checkpoints" / "last.ckpt"
    path = line.checkpoint_path
    if not last.exists():  # nor is the training as far as the best checkpoint, if that is left
        return path is not None and path.name == "previous.ckpt"
    try:
        steps = read_checkpoint(last)["global_step"]
    except ValueError:  # damaged
        steps = 0
    return line.is_exact and bool(line.global_step >= steps)


def _check_links(folder: Path, line: CommandLine) -> None:
    """Refuses to go on in a stranger's folder that leads elsewhere."""
    found = line.trust.found
    if not found or found.origin != "own":
        runs.refuse_links(folder)


def _check_config(folder: Path, line: CommandLine) -> None:
    """Refuses to leave unread, and to overwrite, a config.yaml that somebody has edited.

    Raises:
        UserError: If it is neither what the run wrote nor named by ``--config``.
    """
    path = folder / "config.yaml"
    named = any(Path(source.name).resolve() == path.resolve() for source in line.sources)
    if not named and runs.is_config_edited(folder):
        shown = terminal.display_path(path)
        raise UserError(
            f"'{shown}' was edited since the run wrote it. --config '{shown}' beside --ckpt_path "
            "goes on with the edit; to go on without it, remove the file."
        )
