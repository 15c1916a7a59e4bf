"""Bases of the small data sets that fit into memory, and of those that torchvision downloads."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import Resize

from classifier.data.base import Description, ImageDataModule
from classifier.images.read import ImageReader
from classifier.sources.arrays import Arrays


class InMemoryDataModule(ImageDataModule):
    """Data whose images fit into memory; they are kept as uint8.

    A subclass sets the four class attributes and writes ``load``. Validation images are a share of
    each class of the training images.
    """

    classes: Sequence[str]  # names of the K classes, in the order of the labels
    image_shape: tuple[int, int, int]  # (C, H, W)
    pixel_mean: Sequence[float]  # of each channel over the training images, in 0..1
    pixel_std: Sequence[float]  # likewise, the standard deviation

    @abstractmethod
    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Returns images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``, from the disk."""

    @cached_property
    def image_source(self) -> Arrays:
        return Arrays(self.classes, self.load)

    def own_description(self) -> Description:
        return Description(
            class_names=list(self.classes),
            in_channels=self.image_shape[0],
            mean=list(self.pixel_mean),
            std=list(self.pixel_std),
        )

    def reader(self) -> ImageReader:
        """Returns a reader that resizes to the data set's own size."""
        channels, *size = self.image_shape
        return ImageReader(channels, Resize(size, antialias=True))


class DownloadedDataModule(InMemoryDataModule):
    """A data set of ``torchvision.datasets``, with its official test set.

    A subclass sets the class attributes, here and of InMemoryDataModule; no code is needed.

    Args:
        root: Folder of the downloaded data.
        download: Whether to download what is missing in root.
        **kwargs: Arguments of ImageDataModule.
    """

    source: type[Any]  # class of the torchvision data set
    folder: str  # where in ``root`` torchvision keeps its files

    def __init__(self, root: str = "data", download: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self.download = download

    def prepare_data(self) -> None:
        if not self.files:
            self._open(train=False, download=self.download)  # fetches both sets, reads the smaller

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        dataset = self._open(train, download=False)
        images = torch.as_tensor(dataset.data)  # (N, H, W) or (N, H, W, C)
        images = images.reshape(*images.shape[:3], -1).permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(dataset.targets)

    def _open(self, train: bool, download: bool) -> Any:
        try:
            return self.source(self.root, train=train, download=download)
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]  # the lines before list the mirrors
            place = f"'{Path(self.root, self.folder)}'"
            remedy = "set root to the folder that has them, or download to true"
            if download:
                place += " and could not be downloaded"
                remedy = "check the connection, or copy the files there"
            raise FileNotFoundError(
                f"The files of {type(self).__name__} are missing or damaged in {place} ({reason}); "
                f"{remedy}."
            ) from error
