"""Images in one folder per class.

Shapes: N images, C channels, H rows, W columns.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.data import suggested_max_num_workers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from classifier.data.base import Description, ImageDataModule, at_least_one, proper_fraction
from classifier.data.images import ImageReader, is_image_name, stack
from classifier.data.sets import Batch, Buffer, ImageSet, MemorySet, mixed_seed, seeded, whole_batch
from classifier.data.split import order_by_name, stratified_split
from classifier.data.workers import workers
from classifier.suggest import did_you_mean

MAX_WORKERS = 1024  # more bring a machine down before they read an image
SPLIT_NAMES = {"train": ["train"], "val": ["val", "valid", "validation"], "test": ["test"]}
# Mean and standard deviation of ImageNet's training images, on which most weights were pretrained.
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class FolderSet(ImageSet):
    """Image files that are read and transformed when a batch needs them.

    Args:
        paths: The N files.
        labels: int64 ``(N,)``.
        read: Reads one of them.
        seed: Makes random transforms a function of (seed, epoch, image) alone.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, read: ImageReader, seed: int) -> None:
        self.paths = list(paths)
        self.labels = labels
        self.read = read
        self.seed = seed

    def __getitems__(self, keys: list[int]) -> Batch:
        images = stack([self._image(key) for key in keys])
        return images, self.labels[torch.tensor(keys) % len(self)]

    def _image(self, key: int) -> Tensor:
        with seeded(mixed_seed(self.seed, key)):
            return self.read(self.paths[key % len(self)])

    def content(self) -> Iterator[Buffer]:
        """Yields class folder, name and size of each file, and its label."""
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            yield f"{path.parent.name}/{path.name} {path.stat().st_size} {label}\n".encode()


class ImageFolder(ImageDataModule):
    """Images in ``root/<class>/`` or in ``root/{train,val,test}/<class>/``.

    Any format that Pillow reads counts as an image; hidden files and folders do not. Missing val
    and test folders are replaced by a share of each class of the training images.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 (greyscale) or 3 (RGB), not {in_channels}.")
        if in_memory and train_transform:
            raise ValueError(
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
            raise ValueError(
                f"num_workers is a number of processes, 0 to {MAX_WORKERS}, not {num_workers}."
            )
        self._num_workers = num_workers
        self.test_fraction = proper_fraction("test_fraction", test_fraction)

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
        folders = find_splits(self.root)
        names = self._class_names
        found = {split: find_images(folder, names) for split, folder in folders.items()}
        shares = {"val": self.val_fraction, "test": self.test_fraction}
        missing = [split for split in shares if split not in found]
        paths, labels = found["train"]
        fractions = [shares[split] for split in missing]
        order = order_by_name([path.relative_to(self.root) for path in paths], self.split_seed)
        parts = stratified_split(labels, fractions, order, names)
        for split, part in zip(["train", *missing], parts, strict=True):
            found[split] = [paths[index] for index in part.tolist()], labels[part]
        train, val, test = (self._set(split, *found[split]) for split in SPLIT_NAMES)
        return train, val, test

    def reader(self) -> ImageReader:
        """Returns a reader with ``eval_transform``."""
        size = self.image_size
        resized = size if self.in_memory else round(size * 8 / 7)  # 256 for 224
        default = [v2.Resize(resized, antialias=True), v2.CenterCrop(size)]
        return ImageReader(self._in_channels, nn.Sequential(*(self._eval_transform or default)))

    @cached_property
    def _class_names(self) -> list[str]:
        return find_classes(find_splits(self.root)["train"])

    def _train_reader(self) -> ImageReader:
        default = [v2.RandomResizedCrop(self.image_size, antialias=True), v2.RandomHorizontalFlip()]
        return ImageReader(self._in_channels, nn.Sequential(*(self._train_transform or default)))

    def _set(self, split: str, paths: list[Path], labels: Tensor) -> ImageSet:
        augmented = split == "train" and not self.in_memory
        read = self._train_reader() if augmented else self.reader()
        images = FolderSet(paths, labels, read, seed=self.seed)
        if not self.in_memory:
            return images
        batches = DataLoader(images, 64, collate_fn=whole_batch, **workers(self._num_readers()))
        return MemorySet(torch.cat([pixels for pixels, _ in batches]), labels)

    def _num_readers(self) -> int:
        if self._num_workers is not None:
            return self._num_workers
        return min(8, suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1))


def find_splits(root: Path) -> dict[str, Path]:
    """Finds the folders of train, val and test; without a train folder, ``root`` is train.

    Raises:
        FileNotFoundError: There is no ``root``.
        ValueError: ``root`` is not a folder, or has val or test but no train folder.
    """
    if not root.exists():
        siblings = [path.name for path in _subfolders(root.parent)] if root.parent.is_dir() else []
        hint = did_you_mean(root.name, siblings, "; set root to the folder of the class folders.")
        raise FileNotFoundError(f"No folder '{root}'{hint}")
    if not root.is_dir():
        raise ValueError(f"'{root}' is a file; expected the folder of the class folders.")
    folders = {folder.name.lower(): folder for folder in _subfolders(root)}
    splits = {
        split: folders[alias]
        for split, aliases in SPLIT_NAMES.items()
        for alias in aliases
        # Vehicles have a class "train" too, but its folder holds images, not folders.
        if alias in folders and _subfolders(folders[alias])
    }
    if not splits:
        return {"train": root}
    if "train" not in splits:
        raise ValueError(
            f"'{root}' has a folder '{next(iter(splits.values())).name}', but no 'train/<class>/'."
        )
    return splits


def find_classes(folder: Path) -> list[str]:
    """Lists the class folders in alphabetical order.

    Raises:
        ValueError: There are fewer than two.
    """
    names = [subfolder.name for subfolder in _subfolders(folder)]
    if len(names) >= 2:
        return names
    images = sum(map(is_image_name, folder.iterdir()))
    found = f"only one class folder, '{names[0]}'" if names else "no class folders"
    raise ValueError(
        f"'{folder}' has {found}{f' but {images} images directly inside' if images else ''}; "
        f"expected '{folder}/<class name>/<image>' for two or more classes."
    )


def find_images(folder: Path, class_names: list[str]) -> tuple[list[Path], Tensor]:
    """Lists the images below the class folders and their labels, int64 ``(N,)``.

    Raises:
        ValueError: A class folder is unknown or has no images.
    """
    paths: list[Path] = []
    labels: list[int] = []
    for subfolder in _subfolders(folder):
        if subfolder.name not in class_names:
            hint = did_you_mean(subfolder.name, class_names)
            raise ValueError(f"Class folder '{subfolder}' has no counterpart in train{hint}")
        images = sorted(_images_below(subfolder))
        if not images:
            raise ValueError(f"Class folder '{subfolder}' has no images; add some or remove it.")
        paths += images
        labels += [class_names.index(subfolder.name)] * len(images)
    return paths, torch.tensor(labels)


def _subfolders(folder: Path) -> list[Path]:
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if path.is_dir())


def _images_below(folder: Path) -> Iterator[Path]:
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from filter(is_image_name, (Path(parent, name) for name in names))
