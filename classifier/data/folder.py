"""Images in one folder per class.

Shapes: N images, C channels, H rows, W columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.utilities.data import suggested_max_num_workers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from classifier.data.base import Description, ImageDataModule, at_least_one, proper_fraction
from classifier.data.sets import Batch, Buffer, ImageSet, MemorySet, identity_collate
from classifier.data.workers import reading, worker_settings
from classifier.errors import UserError, did_you_mean
from classifier.images.read import ImageReader, image_suffixes, stack
from classifier.seeds import derive_seed, seeded
from classifier.sources import earlier
from classifier.sources.files import Finder, key
from classifier.sources.split_folders import find_splits
from classifier.splits import order_by_name, stratified_split

MAX_WORKERS = 1024  # more bring a machine down before they read an image
SPLITS = {"train": "training", "val": "validation", "test": "test"}
# Mean and standard deviation of ImageNet's training images, on which most weights were pretrained.
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class FolderSet(ImageSet):
    """Image files that are read and transformed when a batch needs them.

    Args:
        paths: The N files.
        labels: int64 ``(N,)``.
        read: Reads one of them.
        seed: Makes random transforms a function of (seed, epoch, image) alone.
        root: Of the names in a fingerprint; if not given, they are folder and name, as in format 1.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor,
        read: ImageReader,
        seed: int,
        root: Path | None = None,
    ) -> None:
        self.paths = list(paths)
        self.labels = labels
        self.read = read
        self.seed = seed
        self.root = root

    def __getitems__(self, keys: list[int]) -> Batch:
        images = stack([self._image(key) for key in keys])
        return images, self.labels[torch.tensor(keys) % len(self)]

    def _image(self, key: int) -> Tensor:
        path = self.paths[key % len(self)]
        with seeded(derive_seed(self.seed, key)), reading(path):
            return self.read(path)

    def content(self) -> Iterator[Buffer]:
        """Yields name and size of each file, and its label."""
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            name = f"{path.parent.name}/{path.name}" if self.root is None else key(path, self.root)
            line = f"{name} {path.stat().st_size} {label}\n"
            yield line.encode("utf-8", "surrogateescape")


class ImageFolder(ImageDataModule):
    """Images in ``root/<class>/`` or in ``root/{train,val,test}/<class>/``.

    Any format that Pillow reads counts as an image, HEIC where pillow-heif is installed. Links are
    followed; what is hidden, and what systems leave in folders (__MACOSX, Thumbs.db), is left out.
    The folders of train, val and test may be called so in any usual way, such as Training or
    test_set. Missing val and test folders are replaced by a share of each class of the training
    images.

    Args:
        root: Folder of the class folders, or of train, val and test.
        image_size: Height and width of the images that the network gets, in pixels.
        in_channels: 3 reads images as RGB, 1 as greyscale.
        train_transform: Modules that each map one uint8 image (C, H, W), drawn anew each time it
            is read. A random crop of random scale and a horizontal flip if not given.
        eval_transform: The same for validation, test and prediction. Resizes the shorter side to
            8/7 of image_size and crops the centre if not given.
        in_memory: Whether to decode all images once, with eval_transform, and keep them in memory:
            for images so small that all fit. The shorter side is then resized to image_size itself.
        num_workers: Processes that read images, for each device. One fewer than the processor
            cores, at most eight, if not given.
        test_fraction: Share of the images that is set aside for test, above 0 and below 1. Not used
            where there is a test folder.
        splits: Which folder, by its path below root, is train, val and test, where the names do not
            say it: a mapping such as {train: part1, test: part2}; or "none": all are classes.
        exclude: Patterns of images to leave out, such as "*_mask.png"; with a "/" they are for the
            path below root, such as "train/*/old/*".
        **kwargs: Arguments of ImageDataModule.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        in_channels: int = 3,
        train_transform: list[nn.Module] | None = None,
        eval_transform: list[nn.Module] | None = None,
        in_memory: bool = False,
        num_workers: int | None = None,
        test_fraction: float = 0.1,
        splits: dict[str, str] | Literal["none"] | None = None,
        exclude: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if in_channels not in (1, 3):
            raise UserError(f"in_channels must be 1 (greyscale) or 3 (RGB), not {in_channels}.")
        if in_memory and train_transform:
            raise UserError(
                "With in_memory each image is transformed only once, so train_transform would "
                "never vary; use augment instead."
            )
        self.root = Path(root)
        self.image_size = at_least_one("image_size", image_size)
        self._in_channels = in_channels
        self._train_transform = train_transform
        self._eval_transform = eval_transform
        self.in_memory = in_memory
        if not 0 <= (num_workers or 0) <= MAX_WORKERS:
            raise UserError(
                f"num_workers is a number of processes, 0 to {MAX_WORKERS}, not {num_workers}."
            )
        self._num_workers = num_workers
        self.test_fraction = proper_fraction("test_fraction", test_fraction)
        self.splits = splits
        self.exclude = exclude or []
        self._missing: dict[str, list[str]] = {}

    @property
    def num_workers(self) -> int:
        """Worker processes of each loader."""
        return 0 if self.in_memory else self._num_readers()

    def own_description(self) -> Description:
        """Describes the data by the names of its class folders."""
        color = self._in_channels == 3
        return Description(
            class_names=self._class_names,
            in_channels=self._in_channels,
            mean=IMAGENET_MEAN if color else [0.449],
            std=IMAGENET_STD if color else [0.226],
        )

    def load_sets(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Finds the images of each set; with ``in_memory`` it reads them as well."""
        names = self._class_names
        found = self._find_images()
        shares = {"val": self.val_fraction, "test": self.test_fraction}
        missing = [split for split in shares if split not in found]
        paths, labels = found["train"]
        if missing:
            order = order_by_name([key(path, self.root) for path in paths], self.split_seed)
            fractions = [shares[split] for split in missing]
            parts = stratified_split(labels, fractions, order, names)
            for split, part in zip(["train", *missing], parts, strict=True):
                found[split] = [paths[index] for index in part.tolist()], labels[part]
        train, val, test = (self._set(split, *found[split]) for split in SPLITS)
        return train, val, test

    def notes(self, stage: str) -> list[str]:
        """Says what was left out, and which classes have no images to validate or test on."""
        stages = {"fit": ["val", "test"], "validate": ["val"], "test": ["test"]}
        notes = self._finder.notes() + self._left_beside() if stage == "fit" else []
        for split in stages.get(stage, []):
            if missing := self._missing.get(split):
                names = ", ".join(f"'{name}'" for name in missing[:5])
                more = f" and {len(missing) - 5} other classes" if len(missing) > 5 else ""
                notes.append(f"there are no {SPLITS[split]} images of {names}{more}.")
        return notes

    def _left_beside(self) -> list[str]:
        """Says what lies beside the class folders and beside the splits, and is not read."""
        if not isinstance(self._finder, Finder):
            return []
        looked_into = map(self._finder.contents, {self.root, *self._split_folders.values()})
        loose = sorted(path for folder in looked_into for path in folder.images)
        notes = []
        if loose:
            example = key(loose[0], self.root)
            notes.append(f"left out {len(loose)} images in no class folder, such as '{example}'.")
        if isinstance(self.splits, Mapping):
            named = {Path(name).parts[0] for name in self.splits.values()}
            others = [f.name for f in self._finder.subfolders(self.root) if f.name not in named]
            names = ", ".join(f"'{name}'" for name in others[:5])
            if others:
                notes.append(f"left out folders that data.splits does not name: {names}.")
        return notes

    def reader(self) -> ImageReader:
        """Returns a reader with ``eval_transform``."""
        size = self.image_size
        resized = size if self.in_memory else round(size * 8 / 7)  # 256 for 224
        default = [v2.Resize(resized, antialias=True), v2.CenterCrop(size)]
        return ImageReader(self._in_channels, nn.Sequential(*(self._eval_transform or default)))

    @cached_property
    def _finder(self) -> Finder | earlier.EarlierFinder:
        """What looks for the images; lives to the end, for what it has left out."""
        if self.format > 1:
            return Finder(self.root, self.exclude)
        if self.splits or self.exclude:
            raise UserError(
                "data.splits and data.exclude are not for runs of an earlier version, which find "
                "their images as that version did. Train anew to use them."
            )
        return earlier.EarlierFinder()

    @cached_property
    def _split_folders(self) -> dict[str, Path]:
        check_root(self.root)
        if isinstance(self._finder, Finder):
            return find_splits(self.root, self.splits, self._finder)
        return earlier.find_splits(self.root)

    @cached_property
    def _class_names(self) -> list[str]:
        return find_classes(self._split_folders["train"], self._finder)

    def _find_images(self) -> dict[str, tuple[list[Path], Tensor]]:
        """Lists the images of each split that has a folder, and their labels."""
        names = self._class_names
        tops = {split: self._class_folders(split) for split in self._split_folders}
        below = iter(self._finder.below([top for folders in tops.values() for top in folders]))
        found = {}
        for split, folders in tops.items():
            images = dict(zip((folder.name for folder in folders), below, strict=False))
            missing = [name for name in names if not images.get(name)]
            if missing and (split == "train" or len(missing) == len(names)):
                place = self._split_folders[split]
                empty = f"'{place}' has no images in class folders"
                if split == "train":
                    empty = f"Class folder '{place / missing[0]}' has no images"
                why = "".join(f"\n  {note}" for note in self._finder.left_out())
                raise UserError(f"{empty}; add some or remove it.{why}")
            self._missing[split] = missing
            paths = [Path(path) for name in names for path in images.get(name, [])]
            counts = torch.tensor([len(images.get(name, [])) for name in names])
            found[split] = paths, torch.arange(len(names)).repeat_interleave(counts)
        return found

    def _class_folders(self, split: str) -> list[Path]:
        folders = self._finder.subfolders(self._split_folders[split])
        for folder in folders:
            if folder.name not in self._class_names:
                hint = did_you_mean(folder.name, self._class_names)
                raise UserError(f"Class folder '{folder}' has no counterpart in train{hint}")
        return folders

    def _train_reader(self) -> ImageReader:
        default = [v2.RandomResizedCrop(self.image_size, antialias=True), v2.RandomHorizontalFlip()]
        return ImageReader(self._in_channels, nn.Sequential(*(self._train_transform or default)))

    def _set(self, split: str, paths: list[Path], labels: Tensor) -> ImageSet:
        augmented = split == "train" and not self.in_memory
        read = self._train_reader() if augmented else self.reader()
        images = FolderSet(paths, labels, read, self.seed, self.root if self.format > 1 else None)
        if not self.in_memory:
            return images
        batches = DataLoader(
            images, 64, collate_fn=identity_collate, **worker_settings(self._num_readers())
        )
        return MemorySet(torch.cat([pixels for pixels, _ in batches]), labels)

    def _num_readers(self) -> int:
        if self._num_workers is not None:
            return self._num_workers
        return min(8, suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1))


def check_root(root: Path) -> None:
    """Raises FileNotFoundError if there is no ``root``, UserError if it is a file."""
    if root.is_dir():
        return
    if root.exists():
        raise UserError(f"'{root}' is a file; expected the folder of the class folders.")
    siblings = (
        [path.name for path in Finder().subfolders(root.parent)] if root.parent.is_dir() else []
    )
    hint = did_you_mean(root.name, siblings, "; set root to the folder of the class folders.")
    raise FileNotFoundError(f"No folder '{root}'{hint}")


def find_classes(folder: Path, finder: Finder | earlier.EarlierFinder) -> list[str]:
    """Lists the class folders in alphabetical order.

    Raises:
        UserError: There are fewer than two.
    """
    folders = finder.subfolders(folder)
    if len(folders) >= 2:
        names = [path.name for path in folders]
        for name in names:
            if name.encode("utf-8", "replace").decode() != name:
                raise UserError(f"The name of class folder {name!r} is not UTF-8; rename it.")
        return names
    expected = f"expected '{folder}/<class name>/<image>' for two or more classes."
    if not folders:
        suffixes = image_suffixes()
        images = sum(path.suffix.lower() in suffixes for path in folder.iterdir())
        directly = f" but {images} images directly inside" if images else ""
        raise UserError(f"'{folder}' has no class folders{directly}; {expected}")
    inside = len(finder.subfolders(folders[0]))
    remedy = f" Set root to '{folders[0]}', which has {inside}?" if inside > 1 else ""
    raise UserError(
        f"'{folder}' has only one class folder, '{folders[0].name}'; {expected}{remedy}"
    )
