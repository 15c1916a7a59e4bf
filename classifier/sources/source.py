"""What every source says of its images: which there are, where each is, what it shows."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from classifier.splits import order_by_name, random_order


@dataclass(frozen=True)
class Index:
    """N images of one part.

    Their keys are names that stay when others come and go; None if only order tells them apart.
    """

    images: Tensor | Sequence[Path]  # uint8 (N, C, H, W) in memory, else the file of each
    labels: Tensor  # class of each, int64 (N,)
    keys: Sequence[str] | None = None

    def draw_order(self, seed: int) -> Tensor:
        """Draws an order of the positions, by the keys if there are any."""
        if self.keys is None:
            return random_order(len(self.labels), seed)
        return order_by_name(self.keys, seed)

    def select(self, positions: Tensor) -> "Index":
        """Returns the images at M positions, int64 ``(M,)``, in that order."""
        images, keys, chosen = self.images, self.keys, positions.tolist()
        return Index(
            images[positions] if isinstance(images, Tensor) else [images[p] for p in chosen],
            self.labels[positions],
            None if keys is None else [keys[p] for p in chosen],
        )


class Source(ABC):
    """Where labelled images come from."""

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names of the K classes, in the order of the labels; looks at no image."""

    @abstractmethod
    def index(self) -> dict[str, Index]:
        """Lists the images for "train" and, where they are set apart, for "val" and "test"."""

    def notes(self) -> list[str]:
        """Says in a sentence each what a person should know of the listing, after ``index``."""
        return []
