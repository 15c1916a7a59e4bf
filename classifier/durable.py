"""Files that are there as a whole or not at all, whatever happens while they are written."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file to write, which gets its name when the block has ended well.

    Raises:
        OSError: If it cannot be written, for want of space or of permission; names it. What was
            under the name is still there.
    """
    part = path.with_name(f".{path.name}.part")  # in the same folder, so on the same disk
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a loss of power leaves an empty file under the name
        part.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def sync(folder: Path) -> None:
    """Makes sure that the names of new files survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
