"""MNIST and Fashion-MNIST; mean and std were computed over their 60,000 training images."""

from torchvision import datasets

from classifier.data.memory import DownloadedDataModule


class MNIST(DownloadedDataModule):
    """70,000 handwritten digits, 28x28 (LeCun et al., 1998, http://yann.lecun.com/exdb/mnist)."""

    source = datasets.MNIST
    folder = "MNIST/raw"
    classes = tuple("0123456789")
    image_shape = (1, 28, 28)
    pixel_mean = (0.1307,)
    pixel_std = (0.3081,)


class FashionMNIST(DownloadedDataModule):
    """70,000 pictures of clothes, 28x28 (Xiao et al., 2017, https://arxiv.org/abs/1708.07747)."""

    source = datasets.FashionMNIST
    folder = "FashionMNIST/raw"
    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    image_shape = (1, 28, 28)
    pixel_mean = (0.2860,)
    pixel_std = (0.3530,)
