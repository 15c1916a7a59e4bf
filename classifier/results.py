"""What an evaluation writes: one CSV row an image, in the order given."""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from typing_extensions import Self

from classifier.atomic import atomic_create, discard, naming_path
from classifier.platform import cleaning


class Prediction(NamedTuple):
    """What a module says of one image."""

    image: str  # its path, or its place among those that were given
    prediction: str  # the class that is most probable
    probability: float
    probabilities: dict[str, float]  # of all K classes

    @classmethod
    def of(cls, image: object, probabilities: Tensor, class_names: Sequence[str]) -> Self:
        """Reads the probabilities ``(K,)`` of an image."""
        known = dict(zip(class_names, probabilities.tolist(), strict=True))
        best = max(known, key=known.__getitem__)
        return cls(str(image), best, known[best], known)


class PredictionTable:
    """Streams ``file, label, probability`` and the next best classes to a CSV file.

    A row has ``top_k`` of the K classes, best first. Nothing of earlier batches is held.
    """

    def __init__(self, path: Path, class_names: Sequence[str], top_k: int) -> None:
        self.path = path
        self.class_names = class_names
        self.top_k = min(top_k, len(class_names))
        self.count = 0  # rows written

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Within, rows are written; at its end the file appears.

        Raises:
            FileExistsError: If there is such a file by then; names the one that has the rows.
            OSError: If it cannot be written.
        """
        with atomic_create(self.path) as file, cleaning(lambda: discard(file)):
            # Names of files may hold bytes that are not UTF-8; they stay.
            text = io.TextIOWrapper(file, "utf-8", "surrogateescape", "", write_through=True)
            self.rows = csv.writer(text)
            columns = ["file", "label", "probability"]
            for rank in range(2, self.top_k + 1):
                columns += [f"label_{rank}", f"probability_{rank}"]
            self.rows.writerow(columns)
            yield

    def write(self, files: Sequence[str], probabilities: Tensor) -> None:
        """Writes the probabilities ``(N, K)`` of N image files."""
        best = probabilities.cpu().topk(self.top_k)  # first, to wait for a GPU but once
        with naming_path(self.path):
            for name, *ranked in zip(files, *(part.tolist() for part in best), strict=True):
                row: list[str] = [name]
                for probability, index in zip(*ranked, strict=True):
                    row += [self.class_names[index], f"{probability:.6f}"]
                self.rows.writerow(row)
        self.count += len(files)
