"""The user's signature on what this package writes, by which it knows the user's own files.

It is an HMAC-SHA256 with a key of 32 random bytes that lies in the user's configuration folder, or
in the file that ``CLASSIFIER_KEY`` names, which a group may share.
"""

import contextlib
import hmac
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Literal

from classifier import platform
from classifier.atomic import create_private
from classifier.runs import RunFolder

VARIABLE = "CLASSIFIER_KEY"
ANOTHER = f"{VARIABLE}=FILE names another"
SIZE = 32  # bytes of a key that is made here
LARGEST = 4096  # of one that the user names
PATIENCE = 1.0  # seconds that another process gets to write the key that it has just made
FRESH = 10.0  # seconds that a file counts as just made, for clocks of file servers differ

# Whose a file is: signed with the user's key, with one that is not at hand, or not at all.
Origin = Literal["own", "another key", "unsigned"]
Kind = Literal["checkpoint", "run", "search"]


class NoKeyError(Exception):
    """Why there is no key, and the way on, as a sentence."""


def sign(kind: Kind, content: str) -> str | None:
    """The signature of a content, in hexadecimal, with a key that is made if there is none yet.

    None where there can be none: ``hindrance`` says why.
    """
    try:
        return _hmac(_key(make=True), kind, content)
    except NoKeyError:
        return None


def origin(kind: Kind, content: str, signature: object) -> Origin:
    """Whose a content is that bears a signature, be it one or not."""
    if not isinstance(signature, str) or not signature or not signature.isascii():
        return "unsigned"
    with contextlib.suppress(NoKeyError):
        own = _hmac(_key(), kind, content)
        return "own" if hmac.compare_digest(own.encode(), signature.encode()) else "another key"
    return "another key"


def hindrance(make: bool = False) -> str:
    """Why nothing can be signed here, or known as the user's own; empty if it can."""
    try:
        _key(make)
    except NoKeyError as reason:
        return str(reason)
    return ""


def key_file() -> Path:
    """Where the key is, or will be; a NoKeyError says why it can be nowhere."""
    if named := os.environ.get(VARIABLE):
        path = Path(named).expanduser()
        if not path.is_absolute():  # processes that are started elsewhere would miss it
            raise NoKeyError(f"{VARIABLE} is '{named}', but it needs the whole path, from / on.")
        return path
    try:
        return platform.settings_folder() / "classifier" / "key"
    except RuntimeError:
        raise NoKeyError(f"this user has no home for a key; {VARIABLE}=FILE names one.") from None


def ends_with_container() -> bool:
    """Whether the key, which nobody placed, lies in a container, which it will not outlive."""
    marks = ("/.dockerenv", "/run/.containerenv")
    contained = any(Path(mark).exists() for mark in marks) or "COLAB_RELEASE_TAG" in os.environ
    if not contained or os.environ.get(VARIABLE):
        return False
    with contextlib.suppress(NoKeyError, OSError):
        return key_file().stat().st_dev == Path("/").stat().st_dev
    return False


def _hmac(key: bytes, kind: Kind, content: str) -> str:
    return hmac.digest(key, f"classifier-{kind}-1{content}".encode(), "sha256").hex()


def _key(make: bool = False) -> bytes:
    """Reads the key, where nobody else can have put or read it."""
    path = key_file()
    try:
        return _read(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise NoKeyError(f"'{path}' is a link that leads nowhere.") from None
        if not make:
            raise NoKeyError(f"there is no key '{path}' yet.") from None
        _make(path)
        return _key()
    except OSError as error:
        raise NoKeyError(f"'{path}' cannot be read: {error.strerror}; {ANOTHER}.") from error


def _read(path: Path) -> bytes:
    end = time.monotonic() + PATIENCE
    key, is_new = _content(path)
    while len(key) < SIZE and is_new and time.monotonic() < end:  # else each checkpoint would wait
        time.sleep(0.01)
        key, is_new = _content(path)  # of another file by then, perhaps
    if not SIZE <= len(key) <= LARGEST:
        raise NoKeyError(
            f"'{path}' is not a key, which has {SIZE} bytes; {ANOTHER}, which is made if it is "
            "missing."
        )
    return key


def _content(path: Path) -> tuple[bytes, bool]:
    """What is in the file of a key, and whether it was just made."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait
        raise NoKeyError(f"'{path}' is not a regular file; {ANOTHER}.")
    with path.open("rb") as file:
        known = os.fstat(file.fileno())
        _check_access(path, known)
        return file.read(LARGEST + 1), abs(time.time() - known.st_mtime) < FRESH


def _check_access(path: Path, known: os.stat_result) -> None:
    shared = bool(os.environ.get(VARIABLE))
    if not shared and not platform.is_own(known):
        raise NoKeyError(f"'{path}' belongs to another user; {VARIABLE}=FILE names one to share.")
    if platform.access_of_others(known) & (0o007 if shared else 0o077):
        remedy = "o=" if shared else "600"
        raise NoKeyError(f"'{path}' can be read by others: chmod {remedy} '{path}'.")


def _make(path: Path) -> None:
    """Makes a key, unless another process was faster."""
    _refuse_what_is_handed_on(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_private(path, secrets.token_bytes(SIZE))
    except OSError as error:
        raise NoKeyError(
            f"the key '{path}' cannot be made: {error.strerror}; {ANOTHER}."
        ) from error


def _refuse_what_is_handed_on(path: Path) -> None:
    """Makes no key in a run folder or in the working folder, unless that is the home or above."""
    here, folders = Path.cwd(), path.absolute().resolve().parents
    at_work = here in folders
    with contextlib.suppress(RuntimeError):
        at_work = at_work and not Path.home().resolve().is_relative_to(here)
    if at_work or any(RunFolder(folder).begun for folder in folders):
        reason = f"a key '{path}' would be handed on with the folder that it is in"
        raise NoKeyError(f"{reason}; let {VARIABLE} name a file elsewhere.")
