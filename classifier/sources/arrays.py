"""Small data sets that lie in memory as a whole, with a test set of their own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from classifier.sources.source import Index, Source
from classifier.splits import random_order, stratified_split


class Arrays(Source):
    """Images as a function loads them: uint8 ``(N, C, H, W)`` and labels, int64 ``(N,)``.

    They are for training, or for test if it is called with False.
    """

    class_names: Sequence[str] = ()  # an attribute in place of the property

    def __init__(
        self, class_names: Sequence[str], load: Callable[[bool], tuple[Tensor, Tensor]]
    ) -> None:
        self.class_names = class_names
        self.load = load

    def index(self) -> dict[str, Index]:
        """Loads both."""
        return {"train": Index(*self.load(True)), "test": Index(*self.load(False))}


def load_digits(train: bool) -> tuple[Tensor, Tensor]:
    """Returns the digits that come with the package, uint8 ``(N, 1, 8, 8)``, and their labels."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        images = torch.from_numpy(file["images"])[:, None]  # 0..16
        labels = torch.from_numpy(file["labels"]).long()
    # A seed of its own: the test set must not change with that of the split.
    order = random_order(len(labels), seed=0)
    parts = stratified_split(labels, [0.2], order, "0123456789")
    part = parts[0] if train else parts[1]
    return (images[part].float() * (255 / 16)).round().byte(), labels[part]


def load_torchvision(dataset: Any) -> tuple[Tensor, Tensor]:
    """Returns images, uint8 ``(N, C, H, W)``, and labels of a set of ``torchvision.datasets``.

    It has them as ``data``, ``(N, H, W)`` or ``(N, H, W, C)``, and ``targets``.
    """
    images = torch.as_tensor(dataset.data)
    images = images.reshape(*images.shape[:3], -1)
    return images.permute(0, 3, 1, 2).contiguous(), torch.as_tensor(dataset.targets)
