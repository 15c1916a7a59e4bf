"""Images that were decoded once, in files that any process maps into its memory.

A shard holds the pixels ``(H, W, C)`` of one image after the other, then a record of each, then
their number. It is written as a whole or not at all, and never changed.
"""

import hashlib
import itertools
import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classifier.atomic import atomic_write

SHARD_BYTES = 64 * 2**20  # what a process that is killed while it fills a folder loses at most
RECORD = np.dtype(
    [("name", "S16"), ("begin", "<i8"), ("height", "<i4"), ("width", "<i4"), ("channels", "<i4")]
)
COUNT = np.dtype("<i8")


def name_of(path: Path) -> bytes:
    """What an image file is called in a cache: another name once the file has changed.

    Raises:
        OSError: If there is no such file.
    """
    known = path.stat()
    text = f"{known.st_size} {known.st_mtime_ns} ".encode() + os.fsencode(path.absolute())
    return hashlib.blake2b(text, digest_size=16).digest()


class Shards(ABC):
    """Shards in one place."""

    @abstractmethod
    def paths(self) -> list[str]:
        """Where the shards are."""

    @abstractmethod
    def new_shard(self) -> AbstractContextManager[IO[bytes]]:
        """Opens another one, which is there when the block has ended well."""

    def add(self, images: Iterable[tuple[bytes, Tensor]]) -> None:
        """Keeps images ``(C, H, W)`` by their names.

        Raises:
            OSError: If the disk is full; the shards that were complete before are kept.
        """
        waiting = iter(images)
        for first in waiting:
            with self.new_shard() as file:
                _write(file, itertools.chain([first], waiting))


class DiskShards(Shards):
    """Shards in a folder, which outlive the process. One process at a time may add some."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[str]:
        return sorted(map(str, self.folder.glob("*.pixels")))

    def new_shard(self) -> AbstractContextManager[IO[bytes]]:
        return atomic_write(self.folder / f"{len(self.paths()):06}.pixels")


class TemporaryShards(DiskShards):
    """Shards in a temporary folder, which is gone when this process has ended well."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        super().__init__(Path(self._temporary.name))


class MemoryShards(Shards):
    """Shards in memory that is free again when this process ends, however it ends.

    Other processes of the user map them by their paths, too. Linux.
    """

    def __init__(self) -> None:
        self._files: list[int] = []

    def paths(self) -> list[str]:
        return [f"/proc/{os.getpid()}/fd/{file}" for file in self._files]

    def new_shard(self) -> AbstractContextManager[IO[bytes]]:
        self._files.append(os.memfd_create("images"))
        return open(self._files[-1], "wb", closefd=False)

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)


def shards_of_process() -> Shards:
    """Shards for this process and its workers: in memory, where the system has files in it."""
    return MemoryShards() if hasattr(os, "memfd_create") else TemporaryShards()


def _write(file: IO[bytes], images: Iterator[tuple[bytes, Tensor]]) -> None:
    """Writes images until a shard is full."""
    records, begin = [], 0
    for name, image in images:
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        file.write(pixels.data)
        records.append((name, begin, *pixels.shape))
        begin += pixels.nbytes
        if begin >= SHARD_BYTES:
            break
    file.write(np.array(records, RECORD).tobytes())
    file.write(np.array(len(records), COUNT).tobytes())


def _records(path: str) -> NDArray[Any]:
    """The records of a shard; none of a file that is not as it was written."""
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - COUNT.itemsize))
        (count,) = np.frombuffer(file.read(COUNT.itemsize).rjust(8, b"\0"), COUNT)
        begin = size - COUNT.itemsize - int(count) * RECORD.itemsize
        if not 0 <= begin < size:
            return np.empty(0, RECORD)
        file.seek(begin)
        records = np.frombuffer(file.read(int(count) * RECORD.itemsize), RECORD)
    sides = (records[name].astype(np.int64) for name in ("height", "width", "channels"))
    ends = records["begin"] + np.multiply.reduce([*sides])
    return records if len(records) == 0 or ends.max() == begin else np.empty(0, RECORD)


class Kept:
    """The images of some names, as far as shards have them: ``(C, H, W)`` or None for each.

    Args:
        shards: What has them.
        names: What the N images are called; b"" stands for one that cannot be kept.
    """

    def __init__(self, shards: Shards, names: Sequence[bytes]) -> None:
        self._shards: Shards | None = shards
        self.paths = shards.paths()
        tables = [_records(path) for path in self.paths]
        known = np.concatenate([np.zeros(1, RECORD), *tables])  # the first is called b""
        of_table = np.repeat(np.arange(-1, len(tables)), [1, *map(len, tables)])
        order = known["name"].argsort()
        wanted = np.array(names, "S16")
        rows = order[np.searchsorted(known["name"], wanted, "right", order) - 1]
        self.records = known[rows]
        self.numbers = np.where(self.records["name"] == wanted, of_table[rows], -1)
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def __getitem__(self, position: int) -> Tensor | None:
        number = int(self.numbers[position])
        if number < 0:
            return None
        if number not in self._maps:
            # Copied where it is written to, so that nothing reaches the file.
            self._maps[number] = np.memmap(self.paths[number], np.uint8, "c")
        _, begin, *shape = self.records[position].item()
        pixels = self._maps[number][begin : begin + math.prod(shape)].reshape(shape)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    @property
    def missing(self) -> list[int]:
        """The positions of the images that no shard has."""
        found: list[int] = np.flatnonzero(self.numbers < 0).tolist()
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs, which maps the shards itself."""
        return self.__dict__ | {"_shards": None, "_maps": {}}
