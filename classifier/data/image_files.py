"""Base of data whose images are files, which are read when a batch needs them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import PIL
import torch
import torchvision
from lightning_fabric.utilities.data import suggested_max_num_workers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode, v2

from classifier import terminal
from classifier.data.base import ImageDataModule, at_least_one, proper_fraction
from classifier.data.cache import Where, keep
from classifier.data.sets import Damaged, FileSet, ImageSet, MemorySet, identity_collate
from classifier.data.workers import worker_settings
from classifier.errors import UserError
from classifier.images.read import First, ImageReader, size_of
from classifier.images.readers import OwnReader, Reader, suffixes_of
from classifier.images.shape import (
    DrawnCrop,
    Exact,
    ShortSide,
    Whole,
    before_crop,
    evaluation_steps,
    kept_share,
    random_crop,
    takes_any_size,
)
from classifier.sources import Index
from classifier.sources.choice import Choice
from classifier.splits import PARTS, Fold

CACHED = 2  # how many times image_size the shorter side of a cached image is
LOOKED_AT = 16  # images that show which shape most have
KEPT = 0.6  # of the pixels; photos of 3:2 keep 0.67 in a square
MAX_WORKERS = 1024  # more bring a machine down before they read an image


class FileDataModule(ImageDataModule):
    """Data whose images are files; a subclass has an ``image_source`` that lists them.

    Args:
        image_size: Size of the images that the network gets, in pixels: a side of squares, or
            [height, width].
        in_channels: 3 reads images as RGB, 1 as greyscale. With a reader, how many it gives.
        train_transform: Modules that each map one image (C, H, W), uint8 or, of a reader of other
            pixels, float32 in 0..1. They are drawn anew each time it is read, after it was resized
            as for evaluation and before it is cut to image_size. A RandomResizedCrop in front, or
            another one that resizes, gets the whole image. A random crop of random scale and a
            horizontal flip if not given; with resize "pad" or "stretch" only the flip.
        eval_transform: All that is done to images for validation, test and prediction. As resize
            says if not given.
        resize: How images come to image_size: "crop" keeps their middle, "pad" puts black around
            them, "stretch" changes their proportions. "crop" if not given.
        interpolation: How images are resized where no transform is given. Bilinear if not given.
        crop_share: Share of the shorter side that is kept for evaluation, above 0 and at most 1.
            7/8 if not given, 1 with in_memory.
        in_memory: Whether to decode all images once, with eval_transform, and keep them in memory:
            for images so small that all fit.
        num_workers: Processes that read images, for each device. One fewer than the processor
            cores, at most eight, if not given.
        test_fraction: Share of the images that is set aside for test, above 0 and below 1. Not used
            by data that has its own test set.
        folds: Splits the images into this many parts, for data without a test set of its own;
            data.fold is the test set, in place of test_fraction. val_fraction is then a share of
            all images, too, and the validation sets of the folds are disjoint.
        fold: Which of the folds is the test set, counted from 0.
        group: A regular expression that finds, in each image's path below root, whose it is (a
            patient, a camera, a video): its part in brackets, if it has one. Images of one group
            are never in two of training, validation and test.
        manifest: A run, or its manifest.csv.gz: its images keep their parts, and new ones are split
            among themselves.
        classes: The classes that count, in the order of the labels; others are left out. All, in
            alphabetical order, if not given.
        exclude: Patterns of images to leave out, such as "*_mask.png"; with a "/" they are for the
            path below root, such as "train/*/old/*". Or a file: a table of images to leave out.
        reader: What turns a file into pixels in place of Pillow: a Reader, of which there are some
            in classifier.images.readers. mean and std are then measured if not given.
        cache: Decodes images once, to a shorter side of at most twice image_size, of which training
            crops: "memory" for this training, "disk" for all that come, below the user's cache
            folder. At most half of what is free is taken.
        on_error: What becomes of a damaged image: "raise", as if not given, ends the training;
            "skip" takes another of its class in its place, always the same one, and leaves it out
            of validation and test.
        max_skipped: Share of the images of a set that may be damaged with "skip"; 0.01 if not
            given. One may be in any case.
        **kwargs: Arguments of ImageDataModule.
    """

    def __init__(
        self,
        image_size: int | list[int] = 224,
        in_channels: int = 3,
        train_transform: list[nn.Module] | None = None,
        eval_transform: list[nn.Module] | None = None,
        in_memory: bool = False,
        num_workers: int | None = None,
        test_fraction: float = 0.1,
        interpolation: Literal["bilinear", "bicubic"] | None = None,
        crop_share: float | None = None,
        folds: int | None = None,
        fold: int | None = None,
        group: str | None = None,
        manifest: str | None = None,
        resize: Literal["crop", "pad", "stretch"] | None = None,
        classes: list[str] | None = None,
        exclude: list[str] | str | None = None,
        cache: Where | None = None,
        on_error: Literal["raise", "skip"] | None = None,
        max_skipped: float | None = None,
        reader: Reader | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._own_reader = reader
        if reader is not None:
            at_least_one("in_channels", in_channels)
            self.suffixes = suffixes_of(reader)
            self.measure_if_not_given()
        elif in_channels not in (1, 3):
            raise UserError(
                f"in_channels must be 1 (greyscale) or 3 (RGB), not {in_channels}; images of other "
                "channels need a data.reader."
            )
        if in_memory and train_transform:
            raise UserError(
                "With in_memory each image is transformed only once, so train_transform would "
                "never vary; use augment instead."
            )
        _check_cache(cache, in_memory, bool(eval_transform or reader))
        if not 0 <= (num_workers or 0) <= MAX_WORKERS:
            raise UserError(
                f"num_workers is a number of processes, 0 to {MAX_WORKERS}, not {num_workers}."
            )
        if crop_share is not None and not 0 < crop_share <= 1:
            raise UserError(f"crop_share is above 0 and at most 1, not {crop_share}.")
        self.interpolation = InterpolationMode(interpolation or "bilinear")
        self.crop_share = crop_share or (1 if in_memory else 7 / 8)
        self.size = _height_and_width(image_size)
        self.image_size = image_size
        self.resize = resize or "crop"
        self.in_channels = in_channels
        self._train_transform = train_transform
        self._eval_transform = eval_transform
        self.in_memory = in_memory
        self._num_workers = num_workers
        self.fold = chosen_fold(folds, fold)
        self.group = group
        self.manifest = Path(manifest).expanduser() if manifest else None
        if self.manifest and self.fold:
            raise UserError(
                "data.manifest and data.folds both say which images are for test; leave out one."
            )
        self.classes, self.exclude = classes, exclude
        self.cache, self.on_error = cache, on_error
        self.max_skipped = proper_fraction(
            "max_skipped", 0.01 if max_skipped is None else max_skipped
        )
        self.test_fraction = proper_fraction("test_fraction", test_fraction)

    @property
    def num_workers(self) -> int:  # type: ignore[override]  # only the argument sets it
        return 0 if self.in_memory else self._num_readers()

    @cached_property
    def choice(self) -> Choice:
        """Which classes and images count."""
        return Choice(self.classes, self.exclude or (), self.suffixes)

    def _num_readers(self) -> int:
        if self._num_workers is not None:
            return self._num_workers
        return min(8, suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1))

    def _evaluation_steps(self) -> list[nn.Module]:
        return self._eval_transform or evaluation_steps(
            self.size, self.resize, self.crop_share, self.interpolation
        )

    def reader(self) -> ImageReader:
        return self._image_reader(self._evaluation_steps())

    def _image_reader(self, steps: Sequence[nn.Module], first: First | None = None) -> ImageReader:
        transform = nn.Sequential(*steps)
        if self._own_reader is None:
            return ImageReader(self.in_channels, transform, first)
        return OwnReader(self.in_channels, transform, first, read=self._own_reader)

    def train_reader(self) -> ImageReader:
        """Returns a reader with ``train_transform``; that for evaluation with ``in_memory``."""
        if self.in_memory:
            return self.reader()
        steps = [*self.drawn_transforms()]
        if self.format < 3:
            return self._image_reader(steps)
        before: list[nn.Module] = []
        # Who writes all that is done in evaluation does so in training.
        if not (self._eval_transform and self._train_transform):
            # Around what is drawn stands what evaluation does.
            before = [] if takes_any_size(steps) else before_crop(self._evaluation_steps())
            steps = [*steps, Exact(self.size)]
        first: First | None = None
        if self.cache and takes_any_size(steps):
            first = ShortSide(CACHED * max(self.size), self.interpolation)
        elif before or self.cache:
            first = Whole(nn.Sequential(*before))
        elif type(steps[0]) is v2.RandomResizedCrop:
            first = DrawnCrop(steps.pop(0))
        return self._image_reader(steps, first)

    def drawn_transforms(self) -> list[nn.Module]:
        """What changes an image each time that it is read for training."""
        crop = [random_crop(self.size, self.interpolation)] if self.resize == "crop" else []
        return self._train_transform or [*crop, v2.RandomHorizontalFlip()]

    def image_set(self, part: str, index: Index) -> ImageSet:
        """Makes the set of a part; with ``in_memory`` it reads the images."""
        images = super().image_set(part, index)
        if not isinstance(images, FileSet):
            return images
        if self.on_error == "skip":
            images.damaged = Damaged(PARTS[part], images.names, self.max_skipped)
            images.replaces = part == "train"
        if not self.in_memory:
            return images
        settings = worker_settings(self._num_readers())
        batches = DataLoader(images, 64, collate_fn=identity_collate, **settings)
        pixels, labels = zip(*batches, strict=True)
        decoded = MemorySet(torch.cat([p for p in pixels if len(p)]), torch.cat(labels))
        decoded.damaged = images.damaged
        return decoded

    def setup(self, stage: str) -> None:
        """Also decodes the images of a training once, with ``cache``."""
        super().setup(stage)
        if stage != "fit" or self.cache is None or self.in_memory:
            return
        for part in ("train", "val"):
            images = self.sets[part]
            if isinstance(images, FileSet) and images.kept is None:
                self._keep(part, images, self.cache)

    def _keep(self, part: str, images: FileSet, where: Where) -> None:
        told: Any = (part, self.size, self.resize, self.crop_share, self.interpolation.value)
        if images.read.first is None:  # all that is done in evaluation
            first = Whole(images.read.transform)
            images.read = replace(images.read, transform=nn.Identity(), first=first)
        if isinstance(images.read.first, ShortSide):
            told = ("short side", images.read.first.pixels, self.interpolation.value)
        versions = (PIL.__version__, torch.__version__, torchvision.__version__)
        text = repr((self.in_channels, told, versions))
        images.kept = keep(images, where, text, self._num_readers())

    def notes(self, stage: str) -> list[str]:
        """Also says how much the crop cuts off images that are far from its shape."""
        notes = super().notes(stage)
        images = self.sets.get("train")
        cuts = self.resize == "crop" and not self._eval_transform and not self.in_memory
        if stage == "fit" and cuts and isinstance(images, FileSet):
            places = {*torch.linspace(0, len(images) - 1, LOOKED_AT).long().tolist()}
            sizes = [size_of(images.raw[place]) for place in places]
            shares = sorted((kept_share(size, self.size), size) for size in sizes if size)
            share, (height, width) = shares[len(shares) // 2] if shares else (1, (0, 0))
            if share < KEPT:
                notes.append(
                    f"data.resize crop cuts {1 - share:.0%} off images such as those here, "
                    f"{width}x{height} pixels; pad or stretch keeps them whole."
                )
        return notes

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        training = self.trainer is not None and self.trainer.training
        if training and self._train_transform and not self._is_checked:
            self._is_checked = True
            self._check_size(batch[0])
        return super().on_after_batch_transfer(batch, dataloader_idx)

    def _check_size(self, images: Tensor) -> None:
        """Refuses training images of another size than those that choose the best weights."""
        validation = self.sets["val"]
        read = (validation.__getitems__([place])[0] for place in range(len(validation)))
        shown = next((pixels for pixels in read if len(pixels)), images)  # none if all are damaged
        sizes = [f"{height}x{width}" for height, width in (images.shape[2:], shown.shape[2:])]
        if sizes[0] == sizes[1]:
            return
        told = (
            f"training images are {sizes[0]} pixels, but those of validation {sizes[1]}: let "
            "data.train_transform end with a crop to that size, or put what changes only colours "
            "into data.augment."
        )
        if self.format > 2:
            raise UserError(told)
        terminal.warn(told)


def _check_cache(cache: Where | None, in_memory: bool, is_own: bool) -> None:
    """Raises UserError for a cache of what is kept already, or cannot be known again."""
    if cache and in_memory:
        raise UserError("With in_memory all images are kept already, so leave out cache.")
    if cache == "disk" and is_own:
        raise UserError(
            "data.cache: what eval_transform or a reader makes of images is not known to other "
            "trainings, so disk does not keep it; set memory."
        )


def _height_and_width(image_size: int | list[int]) -> tuple[int, int]:
    height, width = [image_size] * 2 if isinstance(image_size, int) else [*image_size, 0, 0][:2]
    if min(height, width) < 1 or (isinstance(image_size, list) and len(image_size) != 2):
        raise UserError(
            "image_size must be at least 1, the side of squares or [height, width], "
            f"not {image_size}."
        )
    return height, width


def chosen_fold(folds: int | None, fold: int | None) -> Fold | None:
    """Returns a fold, or raises a UserError where only one of the two is given or does not fit."""
    if folds is None and fold is None:
        return None
    if folds is None or fold is None:
        given, missing = ("fold", "folds") if folds is None else ("folds", "fold")
        what = "how many there are" if folds is None else "which one is the test set, from 0"
        raise UserError(f"data.{given} needs data.{missing}: {what}.")
    if folds < 2:
        raise UserError(f"data.folds is the number of folds, at least 2, not {folds}.")
    if not 0 <= fold < folds:
        raise UserError(
            f"data.fold counts from 0: with {folds} folds up to {folds - 1}, not {fold}."
        )
    return Fold(fold, folds)
