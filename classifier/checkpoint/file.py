"""Checkpoint files: written whole or not at all, and known to be undamaged when they are read.

A file is the zip that ``torch.save`` writes, with the SHA-256 of everything before it as the zip's
comment, so that damage to any byte is noticed and any other program can read it all the same.
Behind it stands the user's signature.
"""

import hashlib
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from classifier.atomic import atomic_write
from classifier.checkpoint import signature as signatures
from classifier.platform import fsync_directory

# The zip's comment: its checksum and, if there was a key, the signature.
COMMENT = re.compile(r"sha256:([0-9a-f]{64})(?: hmac-sha256:([0-9a-f]{64}) crc32:([0-9a-f]{8}))?")
LONGEST = 256  # bytes at the end of the file that may be the comment
END = b"PK\5\6"  # how the last record of a zip begins; its last two bytes count the comment's
END_SIZE = 22  # bytes of that record


class _Hashed:
    """A file that is written from front to end, and its SHA-256."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint as a whole, or not at all and raises an OSError, as ``atomic_write``."""
    with atomic_write(path) as file:
        hashed = _Hashed(file)
        try:
            torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # it only writes
        except RuntimeError as error:  # torch's, where the file's own was raised inside of it
            cause = error.__context__ or error.__cause__
            raise cause if isinstance(cause, OSError) else error from None
        digest = hashed.digest.hexdigest()
        comment = f"sha256:{digest}".encode()
        if signature := signatures.sign("checkpoint", digest):
            comment += f" hmac-sha256:{signature} crc32:{_crc(signature)}".encode()
        file.seek(-2, os.SEEK_END)
        file.write(len(comment).to_bytes(2, "little"))
        file.write(comment)
    fsync_directory(path.parent)


def verify_checksum(file: IO[bytes]) -> signatures.Origin:
    """Finds out whose a checkpoint is, and raises a ValueError if it is damaged.

    One that this package has not written has no checksum and is let through, unsigned.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - END_SIZE - LONGEST))
    tail = file.read()
    start = tail.rfind(END)
    end, comment = tail[start : start + END_SIZE], tail[start + END_SIZE :]
    if start >= 0 and len(end) == END_SIZE and end[-2:] == b"\0\0" and not comment:
        return "unsigned"
    digest = hashlib.sha256()
    file.seek(0)
    left = size - len(comment) - 2
    while block := file.read(min(left, 1 << 20)):
        digest.update(block)
        left -= len(block)
    digest.update(b"\0\0")  # without a comment, as it was when it was hashed
    whole = start >= 0 and end[-2:] == len(comment).to_bytes(2, "little")
    told = COMMENT.fullmatch(comment.decode("ascii", "replace")) if whole else None
    if told is None or told[1] != digest.hexdigest() or (told[2] and told[3] != _crc(told[2])):
        raise ValueError("its checksum is not that of its content")
    return signatures.origin("checkpoint", told[1], told[2])


def _crc(signature: str) -> str:
    """Tells a damaged signature from one with another key."""
    return f"{zlib.crc32(signature.encode()):08x}"
