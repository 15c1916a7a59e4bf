"""The LightningCLI program that people write today, with nothing left out and nothing sped up.

    python lightning_program.py fit --model.work mnist --data.work mnist --data.root DATA

A torchvision data set opens each image with Pillow and transforms it alone; torchmetrics and
``self.log`` at every step; the trainer's own checkpoints, logger and progress bar.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import datasets, transforms
from works import RATE, WORKS, build


class PlainModule(pl.LightningModule):
    """A classifier.

    Args:
        work: Name of the work.
    """

    def __init__(self, work: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = build(WORKS[work])
        self.loss = nn.CrossEntropyLoss()
        num_classes = WORKS[work].num_classes
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss: Tensor = self.loss(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", self.train_accuracy, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.val_accuracy(logits, labels)
        self.log("val_loss", self.loss(logits, labels), prog_bar=True)
        self.log("val_accuracy", self.val_accuracy, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.test_accuracy(logits, labels)
        self.log("test_loss", self.loss(logits, labels))
        self.log("test_accuracy", self.test_accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=RATE)


class PlainData(pl.LightningDataModule):
    """Images that are opened one by one.

    Args:
        work: Name of the work.
        root: Folder of the data.
        num_workers: Processes that open images.
    """

    def __init__(self, work: str, root: str, num_workers: int = 0) -> None:
        super().__init__()
        self.work = WORKS[work]
        self.root = root
        self.num_workers = num_workers
        resize = [transforms.Resize(self.work.resized), transforms.CenterCrop(self.work.image_size)]
        self.transform = transforms.Compose(
            [
                *([] if self.work.is_mnist else resize),
                transforms.ToTensor(),
                transforms.Normalize(self.work.mean, self.work.std),
            ]
        )

    def setup(self, stage: str) -> None:
        self.train_set, self.test_set = self._open("train"), self._open("test")

    def _open(self, split: str) -> Dataset[Any]:
        if self.work.is_mnist:
            return datasets.MNIST(self.root, train=split == "train", transform=self.transform)
        return datasets.ImageFolder(str(Path(self.root, split)), transform=self.transform)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.test_set)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.test_set)

    def _loader(self, images: Dataset[Any], shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            images, self.work.batch_size, shuffle=shuffle, num_workers=self.num_workers
        )


if __name__ == "__main__":
    LightningCLI(PlainModule, PlainData)
