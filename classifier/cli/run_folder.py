"""Which folder a run gets: that of the run that it resumes, that of its job, or a new one.

And which one an evaluation gets.
"""

from pathlib import Path

from classifier import runs, terminal
from classifier.checkpoint.read import read_checkpoint
from classifier.cli.command_line import CommandLine
from classifier.errors import UserError
from classifier.runs import RunFolder


def folder_that_is_there(line: CommandLine) -> Path | None:
    """The folder that a training is to use; None if it gets a new one."""
    if line.job:
        return line.job.folder
    if line.unsaved_run:
        _check_links(line.unsaved_run, line)
        return line.unsaved_run
    checkpoint = line.checkpoint_path
    resumed = runs.run_folder_of(checkpoint) if checkpoint else None
    if resumed and _is_newest(resumed, line):
        _check_config(resumed, line)
        _check_links(resumed, line)
        return resumed
    beside = RunFolder(checkpoint.resolve().parents[1]) if checkpoint else None
    if beside and beside.config.exists() and not beside.begun:
        terminal.note(f"'{beside.shown}' has no run.json; the training is resumed in a new folder.")
    return None


def claim_report(line: CommandLine, name: str, output: str | None, averages: bool) -> Path:
    """Makes the folder for what an evaluation writes: that named by ``--output``, else in the run.

    Args:
        line: The command line.
        name: What the folders of such evaluations are called, with a number.
        output: The value of ``--output``, if given.
        averages: Whether it is of several checkpoints, and so of no single run.

    Raises:
        UserError: The checkpoint lies in no run folder of its own, or in a stranger's with links.
        OSError: The folder cannot be made.
    """
    if output:
        folder = Path(output).expanduser()
        folder.mkdir()
        return folder
    if averages:
        raise UserError("an average belongs to no single run; --output FOLDER keeps them.")
    assert line.checkpoint_path
    run = runs.run_folder_of(line.checkpoint_path)
    if run is None or runs.read_record(run).get("id") != line.run.get("id"):
        raise UserError(
            f"'{terminal.display_path(line.checkpoint_path)}' lies in no run folder of its own; "
            "--output FOLDER keeps them."
        )
    _check_links(run, line)
    return runs.claim_folder(RunFolder(run).reports, name)


def _is_newest(folder: Path, line: CommandLine) -> bool:
    """Whether nothing of the run would be lost if it were resumed from the checkpoint."""
    if runs.read_record(folder).get("id") != line.run.get("id"):
        return False
    last = RunFolder(folder).last
    path = line.checkpoint_path
    if not last.exists():  # nor is the training as far as the best checkpoint, if that is left
        return path is not None and path.name == "previous.ckpt"
    try:
        steps = read_checkpoint(last)["global_step"]
    except ValueError:  # damaged
        steps = 0
    return line.is_exact and bool(line.global_step >= steps)


def _check_links(folder: Path, line: CommandLine) -> None:
    """Refuses to resume in a stranger's folder that leads elsewhere."""
    found = line.trust.found
    if not found or found.origin != "own":
        runs.refuse_links(folder)


def _check_config(folder: Path, line: CommandLine) -> None:
    """Refuses to leave unread, and to overwrite, a config.yaml that somebody has edited.

    Raises:
        UserError: If it is neither what the run wrote nor named by ``--config``.
    """
    path = RunFolder(folder).config
    named = any(Path(source.name).resolve() == path.resolve() for source in line.sources)
    if not named and runs.is_config_edited(folder):
        shown = terminal.display_path(path)
        raise UserError(
            f"'{shown}' was edited since the run wrote it. --config '{shown}' beside --ckpt_path "
            "resumes with the edit; to resume without it, remove the file."
        )
