"""MNIST whose validation images are the test images, to follow the test accuracy by the epoch."""

from classifier.data import MNIST
from classifier.data.sets import MemorySet


class TestedMNIST(MNIST):
    """For measurements only: it hides nothing from the choice of the best checkpoint."""

    def load_sets(self) -> tuple[MemorySet, MemorySet, MemorySet]:
        train, _, test = super().load_sets()
        return train, test, test
