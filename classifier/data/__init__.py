"""Data modules: one class for each data set, by its own name; ImageFolder for your own images."""

from classifier.data.base import ImageDataModule
from classifier.data.cifar import CIFAR10, CIFAR100
from classifier.data.datasets import Datasets, HuggingFace
from classifier.data.digits import Digits
from classifier.data.folder import ImageFolder
from classifier.data.image_files import FileDataModule
from classifier.data.lightning import LightningData
from classifier.data.memory import DownloadedDataModule, InMemoryDataModule
from classifier.data.mnist import MNIST, FashionMNIST
from classifier.data.sets import ImageFiles
from classifier.data.table import Table

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "Datasets",
    "Digits",
    "DownloadedDataModule",
    "FashionMNIST",
    "FileDataModule",
    "HuggingFace",
    "ImageDataModule",
    "ImageFiles",
    "ImageFolder",
    "InMemoryDataModule",
    "LightningData",
    "Table",
]
