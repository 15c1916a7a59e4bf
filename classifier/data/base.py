"""What every data module shares: three disjoint sets, their loaders, augmentation on the device.

A batch is images, uint8 ``(N, C, H, W)`` in 0..255, and labels, int64 ``(N,)``. With a reader of
other pixels the images are float32, on the same scale.
Shapes: N images, C channels, H rows, W columns, K classes.
"""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn
from torch.utils.data import DataLoader

from classifier import terminal
from classifier.checkpoint.find import FORMAT
from classifier.data.loader import TrainLoader
from classifier.data.sets import (
    Batch,
    Buffer,
    EpochSampler,
    FileSet,
    ImageFiles,
    ImageSet,
    MemorySet,
    PredictionSet,
    identity_collate,
)
from classifier.data.workers import worker_settings
from classifier.errors import UserError
from classifier.images.read import ImageReader
from classifier.sources import Index, Names, Source
from classifier.sources.earlier import short_names
from classifier.sources.manifest import NAME, read_manifest, split_as_before, write_manifest
from classifier.sources.parquet import Inside
from classifier.splits import PARTS, Fold

# Mean and standard deviation of ImageNet's training images, on which most weights were pretrained,
# of each colour and of grey.
IMAGENET = {"mean": ([0.485, 0.456, 0.406], 0.449), "std": ([0.229, 0.224, 0.225], 0.226)}
MEASURED, MEASURED_IMAGES = "measured", 1000  # which say a mean to about a percent
MEMO = ("listed", "_measured")  # what a data module knows once it was asked
LISTED = 12  # classes at most that are named with their numbers
NOTED = {"fit": ["val", "test"], "validate": ["val"], "test": ["test"]}


class Measured(NamedTuple):
    """What training images say of each channel, in 0..1, and how many of them."""

    mean: list[float]
    std: list[float]
    number: int


class Description(TypedDict, total=False):
    """What a checkpoint remembers of its data."""

    class_names: list[str]
    in_channels: int
    mean: list[float]
    std: list[float]


class ImageDataModule(pl.LightningDataModule):
    """Base of all data modules.

    A subclass has an ``image_source`` and a ``reader``. Or it is as any LightningDataModule, with
    ``setup``, loaders that yield batches as above, ``class_names`` and ``in_channels``.

    Args:
        batch_size: Images in a training batch, on each device. A last batch of fewer images is left
            out (other images each epoch), unless it is the only one.
        eval_batch_size: Images in a batch for validation, test and prediction. Four times
            batch_size if not given: without gradients the same memory holds more images.
        val_fraction: Share of the training images that is set aside for validation, above 0 and
            below 1. Not used by data that has its own validation set.
        split_seed: Chooses which images are set aside. Independent of seed_everything, so that runs
            with different seeds are compared on the same images.
        augment: Modules that each map a whole training batch (N, C, H, W), uint8 or float in 0..1,
            on its device, to the same shape and type. Those of classifier.augment draw anew for
            each image; torchvision's transforms draw once for the batch.
        mix: torchvision.transforms.v2.MixUp or CutMix, without num_classes. Applied to training
            batches after augment; labels become shares of the classes (N, K).
        mean: Mean of each channel in 0..1, for normalisation. "measured" is that of up to 1,000
            training images, once before the first training. The data set's own if not given.
        std: Standard deviation of each channel in 0..1, likewise.
        sampler: "balanced" trains on each class equally often, in an epoch of as many images: those
            of a class with few come several times, each time augmented anew, and of one with many
            another part in each epoch. Otherwise each image comes once.
    """

    format: int = FORMAT  # of the run: one of an earlier version lists the images as that did
    training_seed: int | None = None  # that of torch at setup, if none is set
    seed = 0  # of the training, from setup on; that of rank zero on all ranks
    test_fraction = 0.1  # share that is set aside for test, where the source has no test images
    fold: Fold | None = None  # that is the test set; in place of a share
    manifest: Path | None = None  # of a run whose split is kept
    suffixes: Collection[str] | None = None  # of image files; Pillow's if none
    group: str | None = None  # what a regular expression finds in the paths of images together
    num_workers = 0  # processes of each loader; slicing a tensor needs none
    unknown: Sequence[str] = ()  # what nothing says of the data, as the record of a run has it
    # After setup, and disjoint from each other.
    train_set: ImageSet
    val_set: ImageSet
    test_set: ImageSet

    # A subclass may have these itself; else they come from its description.
    class_names: list[str]  # of the K classes, in the order of the labels
    num_classes: int  # K
    in_channels: int  # C
    mean: list[float]  # of each channel, in 0..1
    std: list[float]  # likewise

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
        mean: list[float] | Literal["measured"] | None = None,
        std: list[float] | Literal["measured"] | None = None,
        sampler: Literal["balanced"] | None = None,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.batch_size = at_least_one("batch_size", batch_size)
        eval_size = 4 * batch_size if eval_batch_size is None else eval_batch_size
        self.eval_batch_size = at_least_one("eval_batch_size", eval_size)
        self.val_fraction = proper_fraction("val_fraction", val_fraction)
        self.split_seed = split_seed
        self.augment = augment or []
        self.mix = mix
        given = {"mean": mean, "std": std}
        self._measures = {name for name, values in given.items() if values == MEASURED}
        self._given = {
            n: [*values] for n, values in given.items() if isinstance(values, list | tuple)
        }
        if own := [name for name in self._measures if self._has_own(name)]:
            raise UserError(f"data.{own[0]}: {type(self).__name__} says it itself; leave it out.")
        for name, values in self._given.items():
            if self._has_own(name):
                setattr(self, name, values)
        self._restored: Description | None = None
        self._sets_of_parts: Mapping[str, ImageSet] = {}
        self._told: list[str] = []
        self._is_checked = False
        self._epoch = 0
        self._sampler: EpochSampler | None = None
        self.skipped: dict[str, list[str]] = {}  # damaged images of each part
        # To predict; with some, the data set is not asked for.
        self.files: Sequence[Path | Inside] = []

    @property
    def image_source(self) -> Source | None:
        """What images there are; None for a subclass with a ``setup`` of its own."""
        return None

    def own_description(self) -> Description:
        """Describes the data. May look at folders, but never downloads.

        Where it says no more, images are RGB, with the mean and std of ImageNet's.
        """
        source = self.image_source
        return Description(class_names=list(source.class_names)) if source else Description()

    def reader(self) -> ImageReader:
        """Returns what reads an image file as for evaluation, without the data set on disk."""
        raise UserError(
            f"{type(self).__name__} does not say how an image file is read: define reader, which "
            "returns a classifier.images.read.ImageReader."
        )

    def train_reader(self) -> ImageReader:
        """Returns what reads an image file for training."""
        return self.reader()

    def drawn_transforms(self) -> list[nn.Module]:
        """What changes an image each time that it is read for training."""
        transform = self.train_reader().transform
        return [*transform.children()] or [transform]

    def describe(self) -> dict[str, Any]:
        """Returns class_names, in_channels, mean and std in plain types, for the checkpoint."""
        return {
            "class_names": list(self.class_names),
            "in_channels": int(self.in_channels),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __getattr__(self, name: str) -> Any:
        """Takes from the description what neither a subclass nor the instance has itself."""
        if name == "num_classes":
            return len(self.class_names)
        if name not in Description.__annotations__:
            return self.__getattribute__(name)  # raises the error that led here
        if name in self._given:
            return per_channel(name, self._given[name], self.in_channels)
        if name in self._measures and not self._restored:
            return getattr(self._measured, name)
        known: Mapping[str, Any] = self._restored or self.own_description()
        if name in known:
            return known[name]
        if name == "class_names":
            raise UserError(
                f"{type(self).__name__} does not know its class_names before setup; define them, "
                "a list of texts in the order of the labels."
            )
        if name == "in_channels":
            return 3
        colors, grey = IMAGENET[name]
        return list(colors) if self.in_channels == 3 else [grey] * self.in_channels

    def measure_if_not_given(self) -> None:
        """Measures the mean and std that neither a setting nor a subclass says."""
        names = {"mean", "std"} - self._given.keys()
        self._measures |= {name for name in names if not self._has_own(name)}

    @cached_property
    def _measured(self) -> Measured:
        """Mean and std of each channel, in 0..1, of training images, read as for evaluation.

        To six digits, which do not depend on the number of threads. The random numbers of the
        training stay as they are.

        Raises:
            UserError: A channel is the same everywhere, so that no std divides it.
        """
        with torch.random.fork_rng([]):  # a loader draws one number
            mean, std, number = self._measure()
        if len(same := (std < 1e-6).nonzero()):  # a step of 16 bits is 1.5e-5
            raise UserError(
                f"data.std: channel {int(same[0])}, counted from 0, has the same value in all "
                f"{number:,} images that were measured; let data.reader leave it out, or give "
                "data.mean and data.std."
            )
        rounded = [[float(f"{x:.6g}") for x in values.tolist()] for values in (mean, std)]
        return Measured(rounded[0], rounded[1], number)

    def _measure(self) -> tuple[Tensor, Tensor, int]:
        """Mean and std, float64 ``(C,)``, and of how many images."""
        train = self.listed["train"]
        most = min(len(train.labels), MEASURED_IMAGES)
        places = torch.linspace(0, len(train.labels) - 1, most).long()
        images = self.image_set("val", train.select(places))
        if images.damaged:
            images.damaged.part = PARTS["train"]
        settings = worker_settings(self.num_workers)
        batches = DataLoader(images, 64, collate_fn=identity_collate, **settings)
        sums, squares, pixels, number = torch.zeros(()), torch.zeros(()), 0, 0
        for batch, _ in batches:
            values = batch.double() / 255
            sums = sums + values.sum((0, 2, 3))
            squares = squares + values.square().sum((0, 2, 3))
            pixels += values[:, 0].numel()
            number += len(values)
        mean = sums / pixels
        return mean, (squares / pixels - mean.square()).clamp(min=0).sqrt(), number

    def restore(self, description: Description) -> None:
        """Answers from a saved description from now on, without touching the disk."""
        self._restored = description
        if self._has_own("class_names"):
            compare_class_names(description["class_names"], list(self.class_names))

    @property
    def sets(self) -> dict[str, ImageSet]:
        """The sets by part, after ``setup``; without those of another kind, of a subclass."""
        found = {part: getattr(self, f"{part}_set", None) for part in PARTS}
        return {part: images for part, images in found.items() if isinstance(images, ImageSet)}

    def note_skipped(self) -> list[str]:
        """Notes which damaged images any rank has skipped; says it of those that are new.

        All ranks call it at once.
        """
        told = []
        for part, images in self.sets.items():
            if images.damaged is None:
                continue
            strategy = self.trainer.strategy if self.trainer else None
            found = images.damaged.found
            if strategy:
                found = strategy.reduce(found.long().to(strategy.root_device), reduce_op="sum")
            places = found.cpu().nonzero()[:, 0].tolist()
            names = [images.damaged.names[place] for place in places]
            known = {*self.skipped.get(part, ())}
            new = [f"'{name}'" for name in names if name not in known]
            self.skipped |= {part: names} if names else {}
            more = f" and {len(new) - 5:,} more" if len(new) > 5 else ""
            if new:
                told.append(
                    f"skipped {len(new):,} damaged {PARTS[part]} images: "
                    f"{', '.join(new[:5])}{more}."
                )
        return told

    @property
    def images_in_memory(self) -> bool:
        """Whether ``setup`` has read all images, so that no step reads a file."""
        return isinstance(self.sets.get("train"), MemorySet)

    @property
    def kind(self) -> str:
        """The name of the class that the data is of."""
        return type(self).__name__

    @property
    def title(self) -> str:
        """What the data is called, and the folder that it is read from."""
        root = getattr(self, "root", None)
        place = f" {root}" if isinstance(root, Path) else ""
        return f"{self.kind}{place}"

    def summary(self) -> dict[str, str]:
        """Says what is trained on, after ``setup``: the data, its classes and its images."""
        sizes = " / ".join(f"{len(images):,}" for images in self.sets.values())
        there = f", {sizes} images to train / validate / test" if sizes else ""
        return {
            "data": f"{self.title}{there}",
            "classes": f"{self.num_classes:,}{self._class_sizes()}{self._drawn()}",
            "images": f"{self._image_kind()}; {self._augmentation()}",
        }

    def class_counts(self) -> Tensor | None:
        """How many images of each class there are to train on, int64 ``(K,)``, after ``setup``.

        None for a subclass with sets of another kind, unless it says it itself.
        """
        if "train" not in self.sets:
            return None
        return self.sets["train"].labels.bincount(minlength=self.num_classes)

    def _class_sizes(self) -> str:
        """How many images of each class there are to train on; of many, the ends."""
        known = self.class_counts()
        if known is None:
            return ""
        counts = known.tolist()
        ordered = sorted(zip(counts, self.class_names, strict=False))
        (few, rarest), (many, commonest) = ordered[0], ordered[-1]
        if many <= 1.2 * few:
            number = f"{few:,}" if few == many else f"{few:,} to {many:,}"
            return f", each with {number} images to train"
        if self.num_classes > LISTED:
            return f", with {few:,} ({rarest}) to {many:,} ({commonest}) images to train"
        listed = (f"{name} ({n:,})" for name, n in zip(self.class_names, counts, strict=False))
        return f", images to train: {', '.join(listed)}"

    def _drawn(self) -> str:
        """How often the balanced sampler draws from each class in an epoch, and how often again."""
        counts = self.class_counts()
        if self.sampler is None or counts is None:
            return ""
        number = int(counts.sum()) // max(1, int((counts > 0).sum()))
        rarest, commonest = (number / n for n in (counts[counts > 0].min(), counts.max()))
        return (
            f"; each drawn {number:,} times an epoch, so that an image comes {commonest:.2g} to "
            f"{rarest:.2g} times"
        )

    def _image_kind(self) -> str:
        """The size of the images that the network gets, as height x width, and their colours."""
        images = self.sets.get("train")
        size = getattr(self, "size", (None, None))
        height, width = images.images.shape[2:] if isinstance(images, MemorySet) else size
        colours = {1: "grey", 3: "RGB"}.get(self.in_channels, f"{self.in_channels} channels")
        return f"{height} x {width}, {colours}" if height else colours

    def _augmentation(self) -> str:
        """What changes training images, in its order."""
        once = self.drawn_transforms() if isinstance(self.sets.get("train"), FileSet) else []
        modules = [*once, *self.augment, *([self.mix] if self.mix else [])]
        names = ", ".join(type(module).__name__ for module in modules)
        return f"in training {names}" if names else "no augmentation"

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with the content or the split of the sets.

        It is "" where a subclass has sets of another kind, whose content is unknown.
        """
        content = chain.from_iterable(images.content() for images in self.sets.values())
        return digest_of(content) if self.sets else ""

    def part_fingerprint(self, part: str) -> str:
        """The same of "val" or "test" alone: by the keys of the images where they have some."""
        index = self._known_parts.get(part)
        content: Iterable[Any] = self.sets[part].content()
        if index is not None and index.keys is not None:
            content = (index.keys.bytes, index.keys.ends.data, index.labels.numpy().data)
        return digest_of(content)

    def notes(self, stage: str) -> list[str]:
        """Says, in sentences, what a person should know of the data before a stage.

        Call it after ``setup``; the stage is "fit", "validate" or "test".
        """
        training = stage == "fit"
        notes = self.image_source.notes() if self.image_source and training else []
        notes += self._told if training else []
        if training and "_measured" in vars(self):
            known = self._measured
            shown = (f"{n} {shortened(getattr(known, n))}" for n in sorted(self._measures))
            notes.append(f"measured on {known.number:,} training images: {' and '.join(shown)}.")
        number = len(self.sets["train"]) if "train" in self.sets and training else self.batch_size
        if number < self.batch_size:
            notes.append(
                f"data.batch_size {self.batch_size} is more than the {number} training images, so "
                "each epoch is a single step."
            )
        if self._has_own_loader("train") and training:
            notes.append(
                f"{type(self).__name__} has its own train_dataloader, so a training that is "
                "stopped and resumed may see other images than one that is not"
                f"{', and data.sampler has no effect' if self.sampler else ''}."
            )
        for part in NOTED.get(stage, ()):
            present = set(self.sets[part].labels.tolist()) if part in self.sets else ()
            missing = [name for k, name in enumerate(self.class_names) if k not in present]
            if missing and present:
                names = ", ".join(f"'{name}'" for name in missing[:5])
                more = f" and {len(missing) - 5} other classes" if len(missing) > 5 else ""
                notes.append(
                    f"there are no {PARTS[part]} images of {names}{more}; once predicted, such a "
                    "class counts as 0 in a mean over the classes."
                )
        return notes

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.sampler and self.trainer and self.trainer.overfit_batches:  # type: ignore[attr-defined]  # undeclared
            raise UserError(
                "data.sampler draws other images in each epoch, and trainer.overfit_batches trains "
                "on the same ones; leave one out."
            )
        if stage == "predict" or self.sets:
            return
        if self._restored is not None:
            found = self.own_description().get("class_names", self.class_names)
            compare_class_names(self._restored["class_names"], found)
        # Now, for the steps of a training seed the generator anew, also of one before this.
        self.seed = torch.initial_seed() if self.training_seed is None else self.training_seed
        if self.trainer:
            self.seed = self.trainer.strategy.broadcast(self.seed)
        self.train_set, self.val_set, self.test_set = self.load_sets()

    def load_sets(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Loads the sets for training, validation and test, disjoint from each other."""
        self._sets_of_parts = sets = {
            part: self.image_set(part, self.listed[part]) for part in PARTS
        }
        return sets["train"], sets["val"], sets["test"]

    @cached_property
    def listed(self) -> Mapping[str, Index]:
        """The images of each part, listed once.

        Parts that the source does not set apart are split off its training images.
        """
        source = self.image_source
        if source is None:
            raise UserError(
                f"{type(self).__name__} does not say what images there are: define image_source, "
                "or setup and the three loaders."
            )
        found = source.index()
        if self.group and any(index.groups for index in found.values()):
            raise UserError("data.group: the data has groups already, in a column; leave out one.")
        if self.group:
            found = {part: index.grouped(self.group) for part, index in found.items()}
        if self.fold and "test" in found:
            raise UserError(
                "data.folds: each fold is the test set once, but the data has a test set of its "
                "own; leave out one of the two."
            )
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        missing = {part: fraction for part, fraction in fractions.items() if part not in found}
        parts = found | self._split(found, missing) if missing else found
        refuse_torn_groups(parts)
        return parts

    def _split(self, found: Mapping[str, Index], missing: Mapping[str, float]) -> dict[str, Index]:
        """Splits training images into "train" and the parts that are missing."""
        seed, names = self.split_seed, self.class_names
        if self.manifest is not None:
            known = read_manifest(self.manifest)
            parts, self._told = split_as_before(found, known, missing, seed, names)
            return parts
        train, shares = found["train"], [*missing.values()]
        places = train.split_positions(shares, seed, names, self.fold)
        return {
            part: train.select(its) for part, its in zip(["train", *missing], places, strict=True)
        }

    def write_manifest(self, folder: Path) -> None:
        """Keeps beside a run which image is in which part, if the images have names."""
        known = self._known_parts
        if known and known["train"].keys is not None:
            write_manifest(folder / NAME, known, self.class_names)

    @property
    def _known_parts(self) -> Mapping[str, Index]:
        """Those that are listed; a subclass with a ``setup`` of its own has none."""
        known: Mapping[str, Index] = vars(self).get("listed", {})
        return known

    def namer(self, part: str) -> Callable[[int], str] | None:
        """Returns what names the images of "val" or "test" by their positions, after ``setup``.

        That is by key where they have one. None for a subclass that loads them itself, in an order
        that is not known.
        """
        if part not in self.sets or self._has_own_loader(part):
            return None
        images, known = self.sets[part], self._known_parts
        keys = known[part].keys if part in known else None
        if keys is None or self._sets_of_parts.get(part) is not images:
            return str
        if isinstance(images, MemorySet) and images.damaged:  # which are not in it
            keys = keys.select((images.damaged.found == 0).nonzero()[:, 0])
        return keys.__getitem__

    def unread(self, part: str) -> Tensor | None:
        """Which images of a part its set leaves out as it reads them, uint8 ``(N,)``, 1 for those.

        They are known once the batch is there in which they would be. None if it leaves out none.
        """
        images = self.sets[part]
        return images.damaged.found if isinstance(images, FileSet) and images.damaged else None

    def image_set(self, part: str, index: Index) -> ImageSet:
        if isinstance(index.images, Tensor):
            return MemorySet(index.images, index.labels)
        read = self.train_reader() if part == "train" else self.reader()
        keys = index.keys or Names(map(str, index.images))
        names = keys if self.format > 1 else short_names(keys)
        sized = self.format < 3
        return FileSet(index.images, index.labels, names, read, self.seed, sized)

    def reuse_sets_of(self, other: "ImageDataModule") -> None:
        """Takes the sets that another has set up, which differs in how they are batched only."""
        self.seed = other.seed
        known = vars(other)  # not what would be listed or measured by being asked for
        vars(self).update({name: known[name] for name in MEMO if name in known})
        for part, images in other.sets.items():
            setattr(self, f"{part}_set", images)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the random transforms of an epoch, counted from 0.

        For a training without a Trainer, whose own count wins.
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

    def predict_dataloader(self) -> DataLoader[ImageFiles]:
        """Reads ``files``, in their order, as batches of ``ImageFiles``."""
        return DataLoader(
            PredictionSet(self.files, self.reader()),
            batch_size=self.eval_batch_size,  # by name: Lightning makes a loader like it
            collate_fn=identity_collate,
            pin_memory=self._pinned,
            **worker_settings(self.num_workers),
        )

    @property
    def _pinned(self) -> bool:
        """Whether batches lie in memory from which a GPU takes them while it computes."""
        trainer = self.trainer
        return trainer is not None and trainer.strategy.root_device.type == "cuda"

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self._has_own_loader("train") and not self._is_checked:
            self._check_images(batch)
        training = self.trainer is not None and self.trainer.training
        changes = self.augment or self.mix is not None
        return self.augmented(batch) if training and changes else batch

    def _check_images(self, batch: Any) -> None:
        """Checks the first images of a subclass's own loader: their channels and their range."""
        self._is_checked = True
        images = batch[0] if type(batch) in (list, tuple) else None
        if not isinstance(images, Tensor):  # for a module of the user's own
            return
        kind = type(self).__name__
        if images.shape[1] != self.in_channels:
            raise UserError(
                f"The images of {kind} have {images.shape[1]} channels, but its in_channels is "
                f"{self.in_channels}: define in_channels."
            )
        if images.is_floating_point() and images.max() < 8:  # normalised ones reach 3
            terminal.warn(
                f"the images of {kind} are not in 0..255, as the network gets them in training and "
                "afterwards: leave out conversion and normalisation, which the model does itself."
            )

    def _has_own(self, name: str) -> bool:
        """Whether a subclass or this instance has a value instead of the description's."""
        return inspect.getattr_static(self, name, None) is not None

    def _has_own_loader(self, part: str) -> bool:
        name = f"{part}_dataloader"
        return getattr(type(self), name) is not getattr(ImageDataModule, name)

    def augmented(self, batch: Batch) -> Batch:
        """Applies ``augment``, then ``mix``, to a training batch on any device.

        After ``mix`` images are float, on the same scale 0..255, and labels are shares of the
        classes, float ``(N, K)``.
        """
        images, labels = batch
        # torchvision takes floats in 0..1, and clamps some at 1.
        is_float = bool(self.augment) and images.is_floating_point()
        images = images / 255 if is_float else images
        for module in self.augment:
            images = module(images)
        images = 255 * images if is_float else images
        if self.mix is not None:
            shares = nn.functional.one_hot(labels, self.num_classes).float()
            images, labels = self.mix(images.float(), shares)
        return images, labels

    def _new_sampler(self, images: ImageSet, shuffle: bool) -> EpochSampler:
        ranks = (self.trainer and self.trainer.distributed_sampler_kwargs) or {}
        balanced = shuffle and self.sampler == "balanced"
        return EpochSampler(images, shuffle, seed=self.seed, balanced=balanced, **ranks)

    def _loader(self, sampler: EpochSampler, batch_size: int) -> DataLoader[Batch]:
        images = sampler.dataset
        if self.num_workers == 0 and isinstance(images, MemorySet):
            # Workers would only copy what one slice delivers, so Lightning's hint does not apply.
            warnings.filterwarnings("ignore", ".* does not have many workers", PossibleUserWarning)
        return DataLoader(
            images,
            batch_size,
            sampler=sampler,
            drop_last=sampler.shuffle and len(sampler) >= batch_size,
            collate_fn=identity_collate,
            **worker_settings(self.num_workers),
            persistent_workers=self.num_workers > 0,
            pin_memory=self._pinned,
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


def digest_of(content: Iterable[Buffer]) -> str:
    """16 hexadecimal digits that change with the content."""
    digest = hashlib.blake2b(digest_size=8)
    for piece in content:
        digest.update(piece)
    return digest.hexdigest()


def shortened(values: Sequence[float]) -> str:
    """A few of the numbers of each channel, for a message.

    >>> shortened([0.25, 0.5, 0.123456])
    '0.25 0.5 0.123'
    """
    more = " …" * (len(values) > LISTED)
    return " ".join(f"{value:.3g}" for value in values[:LISTED]) + more


def refuse_torn_groups(parts: Mapping[str, Index]) -> None:
    """Raises a UserError that names a group of which two parts have images."""
    seen: dict[str, str] = {}
    for part, index in parts.items():
        for group in {*(index.groups or ())}:
            other = seen.setdefault(group, part)
            if other != part:
                raise UserError(
                    f"data.group: images of the group '{group}' are in {PARTS[other]} and "
                    f"{PARTS[part]}, which the data or data.manifest sets apart; leave out the "
                    "groups or that split."
                )


def compare_class_names(expected: list[str], found: list[str]) -> None:
    """Raises a UserError that names the first difference, if there is one."""
    for index, (old, new) in enumerate(zip_longest(expected, found)):
        if old != new:
            raise UserError(
                f"The data's classes are not those of the checkpoint: class {index} is {new!r}, "
                f"expected {old!r}. Use data with the {len(expected)} classes of the checkpoint, "
                "in the same order, or train anew."
            )
