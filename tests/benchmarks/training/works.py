"""The works that all programs of the benchmark do: data, network, batch size and steps.

It is imported by the programs and by the one that starts them, so it imports torch only on use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

RATE = 0.001  # learning rate of Adam, its default
MNIST_TRAIN, MNIST_TEST = 54_000, 10_000  # images; classifier sets 6,000 aside for validation
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Work:
    """What is trained."""

    title: str
    network: str
    """Class path."""
    arguments: dict[str, Any]
    """Of the network, besides ``num_classes`` and ``in_channels``."""
    channels: int
    image_size: int
    resized: int
    """Shorter side before the central crop to ``image_size``."""
    num_classes: int
    batch_size: int
    steps: int
    """In an epoch."""
    test_images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def is_mnist(self) -> bool:
        """Whether the images are MNIST's; otherwise they are files in a folder per class."""
        return self.channels == 1


WORKS = {
    "mnist": Work(
        title="MNIST, `MNISTNet` (width 16), batch 128",
        network="classifier.networks.MNISTNet",
        arguments={"width": 16, "dropout": 0.3},
        channels=1,
        image_size=28,
        resized=28,
        num_classes=10,
        batch_size=128,
        steps=100,
        test_images=MNIST_TEST,
        mean=(0.1307,),
        std=(0.3081,),
    ),
    "mlp": Work(
        title="MNIST, one hidden layer of 64, batch 128",
        network="tiny_mlp.TinyMLP",
        arguments={},
        channels=1,
        image_size=28,
        resized=28,
        num_classes=10,
        batch_size=128,
        steps=400,
        test_images=MNIST_TEST,
        mean=(0.1307,),
        std=(0.3081,),
    ),
    "cifar": Work(
        title="CIFAR-10 JPEG files at 32 pixels, `ResNet9`, batch 128",
        network="classifier.networks.ResNet9",
        arguments={},
        channels=3,
        image_size=32,
        resized=32,
        num_classes=10,
        batch_size=128,
        steps=5,
        test_images=1280,
        mean=IMAGENET[0],
        std=IMAGENET[1],
    ),
    "photos": Work(
        title="photos of 512x384 at 224 pixels, ResNet-18, batch 16",
        network="classifier.networks.torchvision_model",
        arguments={"name": "resnet18"},
        channels=3,
        image_size=224,
        resized=256,
        num_classes=6,
        batch_size=16,
        steps=8,
        test_images=60,
        mean=IMAGENET[0],
        std=IMAGENET[1],
    ),
}


def build(work: Work) -> nn.Module:
    """Builds the network of a work with new weights."""
    import importlib

    module, _, name = work.network.rpartition(".")
    builder = getattr(importlib.import_module(module), name)
    network: nn.Module = builder(
        num_classes=work.num_classes, in_channels=work.channels, **work.arguments
    )
    return network


def load(work: Work, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Loads the images of a split, ``train`` or ``test``, into memory.

    Returns:
        Images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``.
    """
    if work.is_mnist:
        return _load_mnist(root / "MNIST" / "raw", split)
    import torch
    from torchvision.transforms import v2

    steps = [v2.Resize(work.resized, antialias=True), v2.CenterCrop(work.image_size)]
    prepare = v2.Compose([*steps, v2.PILToTensor()])
    images, labels = [], []
    for label, folder in enumerate(sorted((root / split).iterdir())):
        for path in sorted(folder.iterdir()):
            images.append(prepare(open_image(path)))
            labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def _load_mnist(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Reads the IDX files, whose headers take 16 and 8 bytes."""
    import numpy as np
    import torch

    stem, number = {"train": ("train", MNIST_TRAIN), "test": ("t10k", MNIST_TEST)}[split]
    pixels = np.fromfile(folder / f"{stem}-images-idx3-ubyte", np.uint8, offset=16)
    classes = np.fromfile(folder / f"{stem}-labels-idx1-ubyte", np.uint8, offset=8)
    images = torch.from_numpy(pixels).view(-1, 1, 28, 28)[:number]
    return images, torch.from_numpy(classes).long()[:number]


def open_image(path: Path) -> Any:
    """Decodes an image file as Pillow's RGB image."""
    from PIL import Image

    with Image.open(path) as opened:
        return opened.convert("RGB")


def report(seconds: Sequence[float], note: str = "", **more: Any) -> None:
    """Prints, as the last line of a program, what it measured.

    Args:
        seconds: Of each epoch of training, or of one evaluation.
        note: Versions and settings.
        **more: ``accuracies`` on the test images after each epoch, and ``times``, of the clock,
            when they were known.
    """
    print(json.dumps({"seconds": list(seconds), "note": note, **more}), flush=True)
