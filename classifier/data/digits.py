"""Handwritten digits that come with the package: they need no download."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classifier.data.memory import InMemoryDataModule
from classifier.splits import random_order, stratified_split


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
        with np.load(Path(__file__).with_name("digits.npz")) as file:
            images = torch.from_numpy(file["images"])[:, None]  # 0..16
            labels = torch.from_numpy(file["labels"]).long()
        # A seed of its own: the test set must not change with that of the split.
        parts = stratified_split(labels, [0.2], random_order(len(labels), seed=0), self.classes)
        part = parts[0] if train else parts[1]
        return (images[part].float() * (255 / 16)).round().byte(), labels[part]
