"""Files that are there as a whole or not at all, whatever happens while they are written."""

import contextlib
import errno
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from classifier.errors import WriteError

NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # for os.open: not what a link leads to


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file to write, which gets its name when the block has ended well.

    Raises:
        OSError: If it cannot be written, for want of space or of permission; names it. What was
            under the name is still there.
    """
    part = path.with_name(f".{path.name}.part")  # in the same folder, so on the same disk
    with naming_path(path), _part(part, "wb") as file:
        yield file
        _finish(file)
        part.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def atomic_create(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file to write, which gets a name that is still free when the block has ended well.

    Any number of processes may write under one name at once: each has a file of its own.

    Raises:
        FileExistsError: If the name was taken meanwhile. That file is left alone; what was written
            has the next free name, ending in ``_1`` and so on, which the error tells.
        OSError: If it cannot be written, for want of space or of permission; names it.
    """
    part = _own_part(path)
    with contextlib.ExitStack() as stack:
        with naming_path(path):
            file = stack.enter_context(_part(part, "xb"))
        yield file
        with naming_path(path):
            _finish(file)
            numbered = (path.with_stem(f"{path.stem}_{n}") for n in itertools.count(1))
            kept = next(name for name in itertools.chain([path], numbered) if _publish(part, name))
    if kept != path:
        raise FileExistsError(
            f"'{path}' was made by another process meanwhile and is left as it is; what was to be "
            f"there is in '{kept}'."
        )


def discard(file: IO[bytes]) -> None:
    """Removes a file that is being written, without what it still has to write."""
    os.close(file.fileno())  # Windows removes none that is open
    Path(file.name).unlink()


def create_private(path: Path, content: bytes) -> None:
    """Writes a file that only the user may read, unless the name is taken.

    Other processes see it as a whole or not at all; on a file system without links, empty at first.
    An OSError names it if it cannot be written.
    """
    part = _own_part(path)
    with naming_path(path), _part(part, "xb", 0o600) as file:
        file.write(content)
        _finish(file)
        _publish(part, path, 0o600)


@contextlib.contextmanager
def naming_path(path: Path) -> Iterator[None]:
    """Gives what fails within the name of the file that is written, not that of its part."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(error.errno or errno.EIO, reason, str(path)) from error


def _own_part(path: Path) -> Path:
    """A name that no other process writes under."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")


@contextlib.contextmanager
def _part(part: Path, how: str, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Opens a file that is gone when the block has ended, unless it has another name by then."""
    with contextlib.suppress(OSError):
        if part.is_symlink() or part.stat().st_nlink > 1:  # it leads to a file of another name
            part.unlink()
    file: IO[bytes] = open(part, how, opener=partial(_open, mode=mode))  # noqa: SIM115  # closed below
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # what cannot be written was told of before
            file.close()
        with contextlib.suppress(OSError):
            part.unlink()


def _open(path: str, flags: int, mode: int = 0o666) -> int:
    return os.open(path, flags | NO_LINK, mode)


def open_to_append(path: Path) -> IO[bytes]:
    """Opens a file to write behind its end, but none that a link leads to.

    A folder may come from somebody else, and a line of his in ``~/.bashrc`` is run.
    """
    return open(path, "ab", opener=_open)


def _finish(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())  # or a loss of power leaves an empty file under the name
    file.close()  # Windows gives an open file no other name


def _publish(part: Path, path: Path, mode: int = 0o666) -> bool:
    """Gives a finished file its name; False if something has that name."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:  # not every file system has links
        try:
            open(path, "xb", opener=partial(_open, mode=mode)).close()
        except FileExistsError:
            return False
        try:
            part.replace(path)
        except BaseException:
            path.unlink()
            raise
    return True


def atomic_copy(source: Path, target: Path) -> None:
    """Puts the content of a file under another name, in one go; without copying if possible."""
    link = target.with_name(f".{target.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(source, link)
    except OSError:  # not every file system has links
        with source.open("rb") as content, atomic_write(target) as file:
            shutil.copyfileobj(content, file)
    else:
        link.replace(target)
        link.unlink(missing_ok=True)  # it stays if it and target were names of the same file
