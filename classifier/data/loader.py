"""The training batches of a run, in an order and with random numbers that nothing else changes."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from classifier.data.sets import Batch, MemorySet
from classifier.internals.torch import LoaderProxy
from classifier.seeds import derive_seed, seed_generators


class TrainLoader(LoaderProxy):
    """Yields the batches that a training has not seen yet, each with a seed of its own.

    Which batches come, and what the step on each draws (dropout, MixUp, augmentation), depends on
    (seed, epoch, position, rank) alone: not on worker processes, prefetching, validation in
    between, or on where a training was broken off. Epoch and position are the trainer's, read when
    the first batch is asked for; the checkpoint holds nothing of the loader.

    Lightning leaves it as it is, for it is no DataLoader. The sampler of the loader that it stands
    for is an ``EpochSampler``.
    """

    def __init__(self, loader: DataLoader[Batch], trainer: pl.Trainer) -> None:
        self.loader = loader
        self.sampler: Any = loader.sampler
        self.trainer = trainer
        # Images of the next epoch that were seen before, over all ranks, if in batches of another
        # size: else that follows from the number of batches.
        self.seen: int | None = None
        self.on_gpu: MemorySet | None = None  # the images, from the first epoch on, if they fit

    @property
    def images_per_batch(self) -> int:
        """Over all ranks."""
        return int(self.loader.batch_size or 1) * int(self.sampler.num_replicas)

    def __len__(self) -> int:
        """The number of batches in a whole epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        sampler = self.sampler
        loop: Any = self.trainer.fit_loop
        device = self.trainer.strategy.root_device
        epoch = loop.epoch_progress.current.processed
        position = loop.epoch_loop.batch_progress.current.ready
        sampler.set_epoch(epoch)
        sampler.start = position * self.images_per_batch if self.seen is None else self.seen
        self.seen = None
        for number, batch in enumerate(self._batches(), position):
            seed = derive_seed(sampler.seed, epoch, number, sampler.rank)
            seed_generators(seed)
            if device.type != "cpu":
                torch.get_device_module(device).manual_seed(seed)
            yield batch

    def _batches(self) -> Iterable[Batch]:
        images: Any = self.loader.dataset
        size = self.loader.batch_size
        if not isinstance(images, MemorySet) or size is None:
            return self.loader
        keys, read = self.sampler.keys(), images.__getitems__
        if self.loader.pin_memory:  # the device is a GPU
            if type(images) is not MemorySet:  # it may read in its own way
                return self.loader
            if self._fits_on_gpu(images):
                device = self.trainer.strategy.root_device
                self.on_gpu = self.on_gpu or images.to(device)
                keys, read = keys.to(device), self.on_gpu.__getitems__
            else:
                read = images.read_pinned
        # A DataLoader turns the keys into numbers and back, which takes longer than the batch.
        least = size if self.loader.drop_last else 1
        parts: Any = torch.split(keys, size)
        return (read(part) for part in parts if len(part) >= least)

    def _fits_on_gpu(self, images: MemorySet) -> bool:
        """Whether a set takes less than a quarter of what is free there, if it is not there yet."""
        if self.on_gpu is not None:
            return True
        free, _ = torch.cuda.mem_get_info(self.trainer.strategy.root_device)
        return images.images.nbytes < free / 4

    # Lightning warns of a loader that cannot go on inside an epoch unless it has these.

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
