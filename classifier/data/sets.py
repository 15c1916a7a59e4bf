"""Labelled images, read by the batch, and the order in which training and evaluation see them.

Shapes: N images, C channels, H rows, W columns.
"""

import contextlib
import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

Batch = tuple[Tensor, Tensor]  # images, uint8 (N, C, H, W) in 0..255; labels, int64 (N,)
Buffer = bytes | memoryview
T = TypeVar("T")


class ImageSet(Dataset[Batch]):
    """Labelled images that are read by the batch.

    Images are asked for by key. A key is ``epoch * len(set) + index``, so that random transforms
    can depend on the epoch even in worker processes that outlive it.
    """

    labels: Tensor
    """int64 ``(N,)``."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitems__(self, keys: list[int]) -> Batch:
        """Reads a batch."""

    @abstractmethod
    def content(self) -> Iterator[Buffer]:
        """Yields what tells this set from others, for a fingerprint."""


class MemorySet(ImageSet):
    """Images in one tensor, so that a batch is one slice of it.

    Args:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __getitems__(self, keys: list[int] | Tensor) -> Batch:
        indices = torch.as_tensor(keys) % len(self)
        # A seventh of the time of images[indices].
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def content(self) -> Iterator[Buffer]:
        """Yields the shape, the pixels and the labels."""
        yield repr(tuple(self.images.shape)).encode()
        yield self.images.contiguous().numpy().data
        yield self.labels.contiguous().numpy().data


class EpochSampler(DistributedSampler[int]):
    """Order of the images: random for training, where it is a function of (seed, epoch) alone.

    In a distributed run all training ranks get equally many images (the remainder is left out,
    another one each epoch) and evaluation sees every image exactly once, without padding.

    It is a DistributedSampler because Lightning replaces any other kind by a padded one.

    Args:
        images: The set to draw from.
        shuffle: Whether to draw at random, for training.
        num_replicas: Number of processes that share the set.
        rank: Number of this process.
        seed: Chooses the orders.
    """

    def __init__(
        self, images: ImageSet, shuffle: bool, num_replicas: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        super().__init__(images, num_replicas, rank, shuffle, seed, drop_last=shuffle)
        self.images = images
        self.number = len(images)
        self.start = 0
        """How many images of an epoch, over all ranks, to leave out: they were seen before."""

    def __iter__(self) -> Iterator[int]:
        yield from self.keys().tolist()

    def keys(self) -> Tensor:
        """The keys of the images to come, int64 ``(N,)``."""
        if not self.shuffle:
            return torch.arange(self.start + self.rank, self.number, self.num_replicas)
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order = torch.randperm(self.number, generator=generator) + self.epoch * self.number
        left = (self.number - self.start) // self.num_replicas * self.num_replicas
        return order[self.start :][self.rank : left : self.num_replicas]

    def __len__(self) -> int:
        if self.shuffle:
            return self.number // self.num_replicas
        return len(range(self.rank, self.number, self.num_replicas))


def mixed_seed(*numbers: int) -> int:
    """Hashes numbers into one seed, so that (0, 1) and (1, 0) share nothing."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block on random numbers of its own: those of torch's CPU, Python and NumPy."""
    # NumPy's old, global generator: it is the one that other people's transforms use.
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reset the generators of the devices.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def whole_batch(batch: T) -> T:
    """Collates nothing: the sets yield whole batches."""
    return batch
