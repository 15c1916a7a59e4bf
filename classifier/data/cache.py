"""Decodes the images of a set once, before a training: one process at a time, up to a limit."""

import contextlib
import hashlib
import shutil
from pathlib import Path
from typing import Literal

import torch
from filelock import Timeout
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classifier import terminal
from classifier.data.sets import FileSet, identity_collate
from classifier.data.workers import worker_settings
from classifier.errors import UserError
from classifier.images.cache import DiskShards, Kept, Shards, name_of, shards_of_process
from classifier.images.read import DamagedImageError
from classifier.platform import cache_folder, free_memory
from classifier.runs import file_lock

Where = Literal["memory", "disk"]
MEASURED = 16  # images that tell how much all take
SHARE = 0.5  # of what is free may be taken


class Beginnings(Dataset[list[tuple[int, Tensor]]]):
    """The images of a set, as far as they are the same each time, by their positions."""

    def __init__(self, images: FileSet) -> None:
        self.images = images

    def __getitems__(self, positions: list[int]) -> list[tuple[int, Tensor]]:
        found = []
        for position in positions:
            try:
                found.append((position, self.images.begin(position)))
            except DamagedImageError:
                continue  # told when a batch needs it
        return found


def keep(images: FileSet, where: Where, settings: str, workers: int) -> Kept:
    """Decodes the images of a set that are not kept yet.

    Args:
        images: The set.
        where: "memory" keeps them for this process and its workers, "disk" in the user's cache.
        settings: All that the pixels depend on besides the images.
        workers: Processes that decode.

    Raises:
        UserError: They would take more than half of what is free, or are not uint8; or "disk", and
            they are no files.
    """
    if where == "memory":
        names = [position.to_bytes(16, "big") for position in range(1, len(images) + 1)]
        return _filled(images, shards_of_process(), names, workers, "memory", free_memory())
    digest = hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()
    folder = cache_folder() / "classifier" / "images" / digest
    folder.mkdir(parents=True, exist_ok=True)
    lock = file_lock(folder / ".lock")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock.acquire(timeout=0))
        except Timeout:
            terminal.note(f"waiting for another process, which is filling '{folder}'.")
            held.enter_context(lock.acquire())
        free = shutil.disk_usage(folder).free
        return _filled(images, DiskShards(folder), _names(images), workers, f"'{folder}'", free)


def _names(images: FileSet) -> list[bytes]:
    names = []
    for raw in images.raw:
        if not isinstance(raw, Path):
            raise UserError(
                "data.cache: disk is for images that are files of their own; these are not: memory."
            )
        try:
            names.append(name_of(raw))
        except OSError:  # told when a batch needs it
            names.append(b"")
    return names


def _filled(
    images: FileSet,
    shards: Shards,
    names: list[bytes],
    workers: int,
    place: str,
    free: int | None,
) -> Kept:
    kept = Kept(shards, names)
    missing = kept.missing
    if not missing:
        return kept
    some = Beginnings(images).__getitems__(missing[:: -(-len(missing) // MEASURED)])
    if other := next((image.dtype for _, image in some if image.dtype != torch.uint8), None):
        raise UserError(
            f"data.cache keeps uint8 pixels, but data.reader gives {other}: leave out cache."
        )
    number = sum(image.nbytes for _, image in some) / max(1, len(some)) * len(missing)
    if free is not None and number > SHARE * free:
        raise UserError(
            f"data.cache: {len(missing):,} images take about {_size(number)} in {place}, of which "
            f"{_size(free)} are free and half may be taken; a smaller image_size takes less."
        )
    terminal.note(f"decoding {len(missing):,} images once, {_size(number)}, into {place}.")
    settings = worker_settings(workers)
    loader = DataLoader(
        Beginnings(images), 64, sampler=missing, collate_fn=identity_collate, **settings
    )
    try:
        shards.add((names[position], image) for batch in loader for position, image in batch)
    except OSError as error:
        terminal.warn(f"{error}; images that are not in the cache are decoded each time.")
    return Kept(shards, names)


def _size(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"
