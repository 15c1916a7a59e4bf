"""Labelled images, read by the batch, and the order in which training and evaluation see them.

Shapes: N images, C channels, H rows, W columns.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from classifier.data.workers import reading
from classifier.errors import UserError
from classifier.images.cache import Kept
from classifier.images.read import DamagedImageError, ImageReader, Raw, refusal, stack
from classifier.seeds import derive_seed, seeded
from classifier.sources import Names, Row
from classifier.sources.parquet import Inside, raw_and_name

Batch = tuple[Tensor, Tensor]  # images, uint8 (N, C, H, W) in 0..255; labels, int64 (N,)
Buffer = bytes | memoryview
T = TypeVar("T")
WITHOUT = "data.exclude leaves it out; data.on_error: skip all that are damaged."
ATTEMPTS = 21  # images that are tried for one place in a batch
EPOCHS = 1 << 20  # more than any training has: keys of images that come again lie behind them


class ImageFiles(NamedTuple):
    """A batch of image files to predict, in the order they were given."""

    images: Tensor  # uint8 (N, C, H, W) of the readable files; (0, C, 1, 1) when there are none
    files: list[str]  # the N readable ones
    unreadable: list[tuple[str, str]]  # the others, each with the reason in one line


class ImageSet(Dataset[Batch]):
    """Labelled images that are read by the batch.

    Images are asked for by key. A key is ``epoch * len(set) + index``, so that random transforms
    can depend on the epoch even in worker processes that outlive it. A balanced sampler adds a
    multiple of ``EPOCHS * len(set)`` for an image that comes again in the epoch.
    """

    labels: Tensor  # int64 (N,)
    damaged: "Damaged | None" = None  # counts those that are skipped

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitems__(self, keys: list[int]) -> Batch:
        """Reads a batch."""

    @abstractmethod
    def content(self) -> Iterator[Buffer]:
        """Yields what tells this set from others, for a fingerprint."""


@dataclass(eq=False)
class MemorySet(ImageSet):
    """Images in one tensor, so that a batch is one slice of it."""

    images: Tensor  # uint8 (N, C, H, W)
    labels: Tensor

    def __getitems__(self, keys: list[int] | Tensor) -> Batch:
        indices = torch.as_tensor(keys) % len(self)
        # A seventh of the time of images[indices].
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def read_pinned(self, keys: list[int] | Tensor) -> Batch:
        """Reads a batch into pinned memory, without a copy in between."""
        indices = torch.as_tensor(keys) % len(self)

        def gathered(rows: Tensor) -> Tensor:
            shape = len(indices), *rows.shape[1:]
            place = torch.empty(shape, dtype=rows.dtype, pin_memory=True)
            return torch.index_select(rows, 0, indices, out=place)

        return gathered(self.images), gathered(self.labels)

    def to(self, device: torch.device) -> "MemorySet":
        """The set in the memory of a device."""
        return MemorySet(self.images.to(device), self.labels.to(device))

    def content(self) -> Iterator[Buffer]:
        yield repr(tuple(self.images.shape)).encode()
        yield self.images.contiguous().numpy().data
        yield self.labels.contiguous().numpy().data


class Damaged:
    """Which images of a set were not whole, whatever process has found it out.

    Args:
        part: Of what the set is, such as "training".
        names: What the N images are called.
        limit: Share of them that may be damaged.
    """

    def __init__(self, part: str, names: Names, limit: float) -> None:
        self.part, self.names, self.limit = part, names, limit
        self.found = torch.zeros(len(names), dtype=torch.uint8)  # (N,), 1 for those
        self.found.share_memory_()  # type: ignore[no-untyped-call]

    def add(self, position: int, error: DamagedImageError) -> None:
        """Counts an image; raises UserError where they become too many."""
        self.found[position] = 1
        number = int(self.found.sum())
        if number > max(1, self.limit * len(self.found)):
            raise UserError(
                f"{number:,} of {len(self.found):,} {self.part} images are damaged, more than "
                f"data.max_skipped {self.limit:g} allows; the last one: {error}"
            )


@dataclass(eq=False)
class FileSet(ImageSet):
    """Images that are read and transformed when a batch needs them."""

    raw: Row[Raw]
    labels: Tensor
    names: Names  # of the files, in a fingerprint
    read: ImageReader
    seed: int  # makes random transforms a function of (seed, epoch, image) alone
    sized: bool = False  # whether a fingerprint asks the disk for the size of each, as it once did
    kept: Kept | None = None  # images as far as they are the same each time
    damaged: Damaged | None = None  # where it is None, one ends the training
    replaces: bool = False  # whether another image of its class stands in for one that is skipped

    def __getitems__(self, keys: list[int]) -> Batch:
        found = [(self._image(key), key % len(self)) for key in keys]
        images = [image for image, _ in found if image is not None]
        labels = self.labels[torch.tensor([i for image, i in found if image is not None]).long()]
        return _stacked(images, self.read), labels

    def _image(self, key: int) -> Tensor | None:
        index = key % len(self)
        for attempt in range(ATTEMPTS):
            position = self._another(index, attempt) if attempt else index
            try:
                with seeded(derive_seed(self.seed, key)):
                    return self._read(position)
            except DamagedImageError as error:
                if self.damaged is None:
                    raise DamagedImageError(f"{error} {WITHOUT}") from None
                self.damaged.add(position, error)
                if not self.replaces:
                    return None
        raise UserError(f"no whole image stands in for '{self.names[index]}': {ATTEMPTS} tried.")

    def _read(self, position: int) -> Tensor:
        kept = self.kept[position] if self.kept else None
        if kept is not None:
            with reading(self.names[position]):
                return self.read.finish(kept)
        raw, name = self._raw_of(position)
        with reading(name):
            return self.read(raw, name)

    def begin(self, position: int) -> Tensor:
        """Reads an image as far as its reader does so before all else."""
        raw, name = self._raw_of(position)
        with reading(name):
            return self.read.begin(raw, name)

    def _raw_of(self, position: int) -> tuple[Raw, Path | str]:
        """What an image is read from, and what it is called in errors."""
        raw = self.raw[position]
        return raw, raw if isinstance(raw, Path) else self.names[position]

    def _another(self, index: int, attempt: int) -> int:
        """Draws another image of the class of an image, from (index, attempt) alone."""
        members = (self.labels == self.labels[index]).nonzero()[:, 0]
        return int(members[derive_seed(index, attempt) % len(members)])

    def content(self) -> Iterator[Buffer]:
        if self.sized:
            for raw, name, label in zip(self.raw, self.names, self.labels.tolist(), strict=True):
                size = raw.stat().st_size if isinstance(raw, Path) else ""
                yield f"{name} {size} {label}\n".encode("utf-8", "surrogateescape")
            return
        yield self.names.bytes
        yield self.names.ends.data
        yield self.labels.contiguous().numpy().data


class EpochSampler(DistributedSampler[int]):
    """Order of the images: random for training, where it is a function of (seed, epoch) alone.

    In a distributed run all training ranks get equally many images (the remainder is left out,
    another one each epoch) and evaluation sees every image exactly once, without padding.

    A balanced one draws each class equally often.

    It is a DistributedSampler because Lightning replaces any other kind by a padded one; its
    arguments are of that.
    """

    def __init__(
        self,
        images: ImageSet,
        shuffle: bool,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        balanced: bool = False,
    ) -> None:
        super().__init__(images, num_replicas, rank, shuffle, seed, drop_last=shuffle)
        self.labels = images.labels if balanced else None
        self.number = len(images)
        if not shuffle:
            self.num_samples = len(range(rank, self.number, num_replicas))  # without padding
        self.start = 0  # images of an epoch, over all ranks, to leave out: they were seen before

    def __iter__(self) -> Iterator[int]:
        return iter(self.keys().tolist())

    def keys(self) -> Tensor:
        """The keys of the images to come, int64 ``(N,)``."""
        if not self.shuffle:
            return torch.arange(self.start + self.rank, self.number, self.num_replicas)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        if self.labels is None:
            order = torch.randperm(self.number, generator=generator)
        else:
            order = balanced_order(self.labels, generator)
        order = order + self.epoch * self.number
        left = (self.number - self.start) // self.num_replicas * self.num_replicas
        return order[self.start :][self.rank : left : self.num_replicas]


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draws as many images as there are, equally many of each class, in random order.

    Of a class all images come before one comes again. The r-th time it is index
    ``i + r * EPOCHS * N``, so that its random transforms are others.

    Args:
        labels: The classes of N images, int64 ``(N,)``.
        generator: Where the random numbers come from.

    Returns:
        Indices, int64 ``(N,)``.
    """
    number, counts = len(labels), labels.bincount()
    classes = counts.nonzero()[:, 0]
    slots = torch.zeros_like(counts)
    slots[classes] = number // len(classes)
    slots[classes[torch.randperm(len(classes), generator=generator)][: number % len(classes)]] += 1
    # A permutation of a class for each time that it is gone through, all by one sort: a loop over
    # 1,000 classes of 1.28 million images takes 24 s.
    times = -(-slots // counts.clamp(min=1))
    images = torch.arange(number).repeat_interleave(times[labels])
    first = torch.cat([torch.zeros(1, dtype=torch.long), times[labels].cumsum(0)[:-1]])
    again = torch.arange(len(images)) - first.repeat_interleave(times[labels])
    shuffled = torch.randperm(len(images), generator=generator)
    images, again = images[shuffled], again[shuffled]
    group = labels[images] * (int(times.max()) + 1) + again
    order = group.argsort(stable=True)
    images, again = images[order], again[order]
    drawn = labels[images]
    sizes = drawn.bincount(minlength=len(counts))
    place = torch.arange(len(images)) - (sizes.cumsum(0) - sizes)[drawn]
    kept = place < slots[drawn]
    indices = images[kept] + again[kept] * (EPOCHS * number)
    return indices[torch.randperm(number, generator=generator)]


@dataclass(eq=False)
class PredictionSet(Dataset[ImageFiles]):
    """Images without labels, for prediction."""

    files: Sequence[Path | Inside]
    read: ImageReader

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, indices: list[int]) -> ImageFiles:
        images: list[Tensor] = []
        files: list[str] = []
        unreadable: list[tuple[str, str]] = []
        for file in (self.files[index] for index in indices):
            raw, name = raw_and_name(file)
            try:
                with reading(name):
                    images.append(self.read(raw, name))
                files.append(name)
            except ValueError as error:
                unreadable.append((name, str(error).removeprefix(refusal(name))))
        return ImageFiles(_stacked(images, self.read), files, unreadable)


def _stacked(images: list[Tensor], read: ImageReader) -> Tensor:
    """Images ``(N, C, H, W)``; ``(0, C, 1, 1)`` of none."""
    return stack(images) if images else torch.empty(0, read.in_channels, 1, 1, dtype=torch.uint8)


def identity_collate(batch: T) -> T:
    """Collates nothing: the sets yield whole batches."""
    return batch
