"""Base of the small data sets that fit into memory."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torchvision.transforms.v2 import Resize

from classifier.data.base import Description, ImageDataModule
from classifier.data.sets import MemorySet
from classifier.images.read import ImageReader
from classifier.splits import random_order, stratified_split


class InMemoryDataModule(ImageDataModule):
    """Data whose images fit into memory; they are kept as uint8.

    A subclass sets the four class attributes and writes ``load``. Validation images are a share of
    each class of the training images.
    """

    classes: Sequence[str]
    """Names of the K classes, in the order of the labels."""
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    pixel_mean: Sequence[float]
    """Mean of each channel over the training images, in 0..1."""
    pixel_std: Sequence[float]
    """Standard deviation of each channel over the training images, in 0..1."""

    @abstractmethod
    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Returns images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``, from the disk."""

    def own_description(self) -> Description:
        """Describes the data set by its class attributes."""
        return Description(
            class_names=list(self.classes),
            in_channels=self.image_shape[0],
            mean=list(self.pixel_mean),
            std=list(self.pixel_std),
        )

    def load_sets(self) -> tuple[MemorySet, MemorySet, MemorySet]:
        """Loads the sets and cuts the validation images from the training images."""
        images, labels = self.load(train=True)
        order = random_order(len(labels), self.split_seed)
        train, val = stratified_split(labels, [self.val_fraction], order, self.classes)
        return (
            MemorySet(images[train], labels[train]),
            MemorySet(images[val], labels[val]),
            MemorySet(*self.load(train=False)),
        )

    def reader(self) -> ImageReader:
        """Returns a reader that resizes to the data set's own size."""
        channels, *size = self.image_shape
        return ImageReader(channels, Resize(size, antialias=True))
