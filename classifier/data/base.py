"""What every data module shares: three disjoint sets, their loaders, augmentation on the device.

A batch is images, uint8 ``(N, C, H, W)`` in 0..255, and labels, int64 ``(N,)``.
Shapes: N images, C channels, H rows, W columns, K classes.
"""

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypedDict

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.warnings import PossibleUserWarning
from torch import nn
from torch.utils.data import DataLoader

from classifier.checkpoint.file import FORMAT
from classifier.data.images import FilesSet, ImageFiles, ImageReader
from classifier.data.loader import TrainLoader
from classifier.data.sets import Batch, EpochSampler, ImageSet, MemorySet, whole_batch
from classifier.data.workers import workers
from classifier.errors import UserError


class Description(TypedDict):
    """What a checkpoint remembers of its data."""

    class_names: list[str]
    in_channels: int
    mean: list[float]
    std: list[float]


class ImageDataModule(pl.LightningDataModule):
    """Base of all data modules; a subclass says what the data is and loads its three sets.

    After ``setup``, ``train_set``, ``val_set`` and ``test_set`` are disjoint sets with a length.

    Args:
        batch_size: Images in a training batch, on each device. A last batch of fewer images is left
            out (other images each epoch), unless it is the only one.
        eval_batch_size: Images in a batch for validation, test and prediction. Four times
            batch_size if not given: without gradients the same memory holds more images.
        val_fraction: Share of the training images that is set aside for validation, above 0 and
            below 1. Not used by data that has its own validation set.
        split_seed: Chooses which images are set aside. Independent of seed_everything, so that runs
            with different seeds are compared on the same images.
        augment: Modules that each map a whole training batch, uint8 (N, C, H, W) on its device, to
            the same shape. Those of classifier.augment draw anew for each image; torchvision's
            transforms draw once for the batch.
        mix: torchvision.transforms.v2.MixUp or CutMix, without num_classes. Applied to training
            batches after augment; labels become shares of the classes (N, K).
        mean: Mean of each channel in 0..1, for normalisation. The data set's own if not given.
        std: Standard deviation of each channel in 0..1. The data set's own if not given.
    """

    format: int = FORMAT
    """Of the run: one of an earlier version lists the images as that version did."""
    train_set: ImageSet
    val_set: ImageSet
    test_set: ImageSet

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = at_least_one("batch_size", batch_size)
        self.eval_batch_size = (
            4 * batch_size
            if eval_batch_size is None
            else at_least_one("eval_batch_size", eval_batch_size)
        )
        self.val_fraction = proper_fraction("val_fraction", val_fraction)
        self.split_seed = split_seed
        self.augment = augment or []
        self.mix = mix
        self._given = {
            name: values for name, values in (("mean", mean), ("std", std)) if values is not None
        }
        self._restored: dict[str, Any] | None = None
        self._is_set_up = False
        self._epoch = 0
        self._sampler: EpochSampler | None = None
        self.files: list[Path] = []
        """Images to predict; with some, the data set itself is not asked for."""
        self.seed = 0
        """Seed of the training, from ``setup`` on; that of rank zero on all ranks."""

    @property
    def num_workers(self) -> int:
        """Worker processes of each loader; slicing a tensor needs none."""
        return 0

    @abstractmethod
    def own_description(self) -> Description:
        """Describes the data set. May look at folders, but never downloads."""

    @abstractmethod
    def load_sets(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Loads the disjoint sets for training, validation and test."""

    @abstractmethod
    def reader(self) -> ImageReader:
        """Returns what reads an image file as for evaluation, without the data set on disk."""

    def describe(self) -> dict[str, Any]:
        """Returns class_names, in_channels, mean and std in plain types, for the checkpoint."""
        own = self.own_description() if self._restored is None else self._restored
        given = {name: per_channel(name, v, own["in_channels"]) for name, v in self._given.items()}
        return {**own, **given}

    def restore(self, description: dict[str, Any]) -> None:
        """Answers from a saved description from now on, without touching the disk."""
        self._restored = dict(description)

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes, in the order of the labels."""
        return list(self.describe()["class_names"])

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """C."""
        return int(self.describe()["in_channels"])

    @property
    def mean(self) -> list[float]:
        """Mean of each channel, in 0..1."""
        return list(self.describe()["mean"])

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel, in 0..1."""
        return list(self.describe()["std"])

    @property
    def images_in_memory(self) -> bool:
        """Whether ``setup`` has read all images, so that no step reads a file."""
        return isinstance(self.train_set, MemorySet)

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with the content or the split of the sets."""
        digest = hashlib.blake2b(digest_size=8)
        for images in (self.train_set, self.val_set, self.test_set):
            for part in images.content():
                digest.update(part)
        return digest.hexdigest()

    def notes(self, stage: str) -> list[str]:
        """Says what a person should know of the data before a stage; call it after ``setup``.

        Args:
            stage: "fit", "validate" or "test".

        Returns:
            A sentence for each thing.
        """
        return []

    def setup(self, stage: str) -> None:
        if stage == "predict" or self._is_set_up:
            return
        if self._restored is not None:
            compare_class_names(
                self._restored["class_names"], self.own_description()["class_names"]
            )
        # Now, for the steps of a training seed the generator anew.
        self.seed = torch.initial_seed()
        if self.trainer:
            self.seed = self.trainer.strategy.broadcast(self.seed)
        self.train_set, self.val_set, self.test_set = self.load_sets()
        self._is_set_up = True

    def share(self, other: "ImageDataModule") -> None:
        """Takes the sets that another has set up, which differs in how they are batched only."""
        self.train_set, self.val_set, self.test_set = other.train_set, other.val_set, other.test_set
        self.seed, self._is_set_up = other.seed, True

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the random transforms of training without a Trainer; its own wins.

        Args:
            epoch: Number of the epoch, from 0 on.
        """
        self._epoch = epoch
        if self._sampler:
            self._sampler.set_epoch(epoch)

    def train_dataloader(self) -> Iterable[Batch]:
        """Loads the training batches, each epoch in an order of its own.

        A Trainer counts the epochs and calls ``augmented`` for each batch on its device. Without
        one, both is yours; what is not said stays that of epoch 0::

            data.setup("fit")
            for epoch in range(3):
                data.set_epoch(epoch)
                for batch in data.train_dataloader():
                    images, labels = data.augmented(batch)

        ``torch.manual_seed`` before ``setup`` chooses the orders; ``augmented`` draws from torch's
        generator at the time.
        """
        # Trainer(overfit_batches=…) trains on the same batches in every epoch.
        trainer: Any = self.trainer
        shuffle = not (trainer and trainer.overfit_batches)
        if trainer:
            sampler = self._new_sampler(self.train_set, shuffle)
            return TrainLoader(self._loader(sampler, self.batch_size), trainer)
        if self._sampler is None:  # one for all loaders, so that set_epoch reaches them
            self._sampler = self._new_sampler(self.train_set, shuffle)
            self._sampler.set_epoch(self._epoch)
        return self._loader(self._sampler, self.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self._new_sampler(self.val_set, False), self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self._new_sampler(self.test_set, False), self.eval_batch_size)

    def files_dataloader(self, paths: Sequence[Path]) -> DataLoader[ImageFiles]:
        """Reads image files to predict, in the order given, as batches of ``ImageFiles``."""
        files = FilesSet(paths, self.reader())
        return DataLoader(
            files,
            batch_size=self.eval_batch_size,  # by name: Lightning makes a loader like it
            collate_fn=whole_batch,
            **workers(self.num_workers),
        )

    def predict_dataloader(self) -> DataLoader[ImageFiles]:
        """Reads ``files``, which ``classifier predict`` sets."""
        return self.files_dataloader(self.files)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        training = self.trainer is not None and self.trainer.training
        return self.augmented(batch) if training else batch

    def augmented(self, batch: Batch) -> Batch:
        """Applies ``augment``, then ``mix``, to a training batch.

        Args:
            batch: Images, uint8 ``(N, C, H, W)`` on any device, and labels, int64 ``(N,)``.

        Returns:
            The same; after ``mix`` images are float, on the same scale 0..255, and labels are
            shares of the classes, float ``(N, K)``.
        """
        images, labels = batch
        for module in self.augment:
            images = module(images)
        if self.mix is not None:
            shares = nn.functional.one_hot(labels, self.num_classes).float()
            images, labels = self.mix(images.float(), shares)
        return images, labels

    def _new_sampler(self, images: ImageSet, shuffle: bool) -> EpochSampler:
        trainer = self.trainer
        return EpochSampler(
            images,
            shuffle,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            seed=self.seed,
        )

    def _loader(self, sampler: EpochSampler, batch_size: int) -> DataLoader[Batch]:
        images = sampler.images
        if self.num_workers == 0 and isinstance(images, MemorySet):
            # Workers would only copy what one slice delivers, so Lightning's hint does not apply.
            warnings.filterwarnings("ignore", ".* does not have many workers", PossibleUserWarning)
        trainer = self.trainer
        return DataLoader(
            images,
            batch_size,
            sampler=sampler,
            drop_last=sampler.shuffle and len(sampler) >= batch_size,
            collate_fn=whole_batch,
            **workers(self.num_workers),
            persistent_workers=self.num_workers > 0,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            generator=torch.Generator(),  # else each start of a loader draws from the global one
        )


def at_least_one(name: str, value: int) -> int:
    """Returns ``value``, or raises a ValueError when it is below 1."""
    if value < 1:
        raise UserError(f"{name} must be at least 1, not {value}.")
    return value


def proper_fraction(name: str, value: float) -> float:
    """Returns ``value``, or raises a ValueError when it is not between 0 and 1."""
    if not 0 < value < 1:
        raise UserError(f"{name} is a share of the images, above 0 and below 1, not {value}.")
    return value


def per_channel(name: str, values: list[float], in_channels: int) -> list[float]:
    """Returns ``values`` with one number per channel; a single number stands for all."""
    if len(values) not in (1, in_channels):
        raise UserError(
            f"{name} has {len(values)} values, but the images have {in_channels} channels; "
            "give one value for each channel, or one for all."
        )
    if not all(0 <= value <= 1 for value in values) or (name == "std" and 0 in values):
        raise UserError(f"{name} is measured on pixels in 0..1, and no std is 0; not {values}.")
    return values * (in_channels // len(values))


def compare_class_names(expected: list[str], found: list[str]) -> None:
    """Raises a ValueError that names the first difference, if there is one."""
    for index, (old, new) in enumerate(zip_longest(expected, found)):
        if old != new:
            raise UserError(
                f"The data's classes are not those of the checkpoint: class {index} is {new!r}, "
                f"expected {old!r}. Use data with the {len(expected)} classes of the checkpoint, "
                "in the same order, or train anew."
            )
