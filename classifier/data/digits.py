"""Handwritten digits that come with the package: they need no download."""

from torch import Tensor

from classifier.data.memory import InMemoryDataModule
from classifier.sources.arrays import load_digits


class Digits(InMemoryDataModule):
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships, for quick trials.

    They are the test set of "Optical Recognition of Handwritten Digits" by Alpaydin and Kaynak
    (1998, https://archive.ics.uci.edu/dataset/80, CC BY 4.0). A fixed fifth of each class is the
    test set here.
    """

    classes = tuple("0123456789")
    image_shape = (1, 8, 8)
    pixel_mean = (0.3049,)
    pixel_std = (0.3757,)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Returns images, uint8 ``(N, 1, 8, 8)``, and labels, int64 ``(N,)``."""
        return load_digits(train)
