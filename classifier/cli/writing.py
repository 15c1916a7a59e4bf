"""What the user is told when a run cannot be written."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from classifier import terminal
from classifier.errors import WriteError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says of a disk that is full or may not be written which file it is about, and what to do.

    Args:
        folder: The run folder, or that of all runs.

    Raises:
        OSError: With that as its text.
    """
    try:
        yield
    except OSError as error:
        path = Path(os.fsdecode(error.filename or folder))
        begun = (folder / "run.json").is_file()
        shown = terminal.display_path(folder)
        again = f"then {terminal.command('fit', '--ckpt_path', shown)} goes on."
        if error.errno in FULL:
            remedy = f"Free some space; {again if begun else 'then give the same command again.'}"
        elif error.filename and (path.is_relative_to(folder) or folder.is_relative_to(path)):
            other = "or name another folder, --trainer.default_root_dir FOLDER."
            remedy = f"Make it writable{'; ' + again if begun else ', ' + other}"
        else:
            raise
        raise WriteError(f"'{terminal.display_path(path)}': {error.strerror}. {remedy}") from error
