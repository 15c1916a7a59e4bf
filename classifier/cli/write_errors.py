"""What the user is told when a run cannot be written."""

import errno
import os
from pathlib import Path

from classifier import terminal
from classifier.errors import WriteError
from classifier.runs import RunFolder

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_error(error: OSError, run: RunFolder, root: Path) -> OSError:
    """Says of a disk that is full or may not be written which file it is about, and what to do.

    Args:
        error: What the system says.
        run: The run folder, if one is taken yet.
        root: That of all runs.

    Returns:
        A ``WriteError``; the error itself if it is about something else.
    """
    folder = run.path if run.is_taken else root
    path = Path(os.fsdecode(error.filename or folder))
    begun = run.is_taken and run.begun
    again = f"then {run.resume_command} resumes it." if begun else ""
    if error.errno in FULL:
        remedy = f"Free some space; {again or 'then give the same command again.'}"
    elif error.filename and (path.is_relative_to(folder) or folder.is_relative_to(path)):
        other = ", or name another folder, --trainer.default_root_dir FOLDER."
        remedy = f"Make it writable{f'; {again}' if again else other}"
    else:
        return error
    return WriteError(f"'{terminal.display_path(path)}': {error.strerror}. {remedy}")
