"""Base of the public data sets that torchvision downloads."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifier.data.memory import InMemoryDataModule


class DownloadedDataModule(InMemoryDataModule):
    """A data set of ``torchvision.datasets``, with its official test set.

    A subclass sets the class attributes, here and of InMemoryDataModule; no code is needed.

    Args:
        root: Folder of the downloaded data.
        download: Whether to download what is missing in root.
        **kwargs: Arguments of ImageDataModule.
    """

    source: type[Any]
    """Class of the torchvision data set."""
    folder: str
    """Where in ``root`` torchvision keeps its files."""

    def __init__(self, root: str = "data", download: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        if self.files:
            return
        self._open(train=False, download=self.download)  # fetches both sets, reads the smaller

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Returns images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``."""
        dataset = self._open(train, download=False)
        channels, height, width = self.image_shape
        images = torch.as_tensor(dataset.data).view(-1, height, width, channels)
        return images.permute(0, 3, 1, 2).contiguous(), torch.as_tensor(dataset.targets)

    def _open(self, train: bool, download: bool) -> Any:
        try:
            return self.source(self.root, train=train, download=download)
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]  # the lines before list the mirrors
            failure, remedy = (
                (" and could not be downloaded", "check the connection, or copy the files there")
                if download
                else ("", "set root to the folder that has them, or download to true")
            )
            raise FileNotFoundError(
                f"The files of {type(self).__name__} are missing or damaged in "
                f"'{Path(self.root, self.folder)}'{failure} ({reason}); {remedy}."
            ) from error
