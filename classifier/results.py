"""What an evaluation writes: one CSV row an image, in the order given."""

import contextlib
import csv
import io
import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from typing_extensions import Self

from classifier.atomic import atomic_create, discard, naming_path
from classifier.platform import cleaning

COLUMNS = ("image", "label", "prediction", "probability")  # and one for each class
# Names of files may hold bytes that are not UTF-8; they stay.
as_text = partial(io.TextIOWrapper, encoding="utf-8", errors="surrogateescape", newline="")


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
    """Streams a row an image to a CSV file; nothing of earlier batches is held.

    Its columns are image, label ("" where it is unknown), prediction, the probability of that, and
    under the names of the K classes the probability of each.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path = path
        self.class_names = class_names
        self.count = 0  # rows written
        # A third of the time of a csv.writer: 1,000 classes take as long as a photo to read.
        self.numbers = ",%.6f" * (1 + len(class_names)) + "\r\n"
        self.nothing = "," * (1 + len(class_names)) + "\r\n"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Within, rows are written; at its end the file appears.

        Raises:
            FileExistsError: If there is such a file by then; names the one that has the rows.
            OSError: If it cannot be written.
        """
        with _new_text(self.path) as self.text:
            csv.writer(self.text).writerow([*COLUMNS, *self.class_names])
            yield

    def write(self, images: Sequence[str], labels: Sequence[str], probabilities: Tensor) -> None:
        """Writes the probabilities ``(N, K)`` of N images; NaN of one that was not read."""
        found = probabilities.cpu()  # first, to wait for a GPU but once
        best, names = found.argmax(1).tolist(), csv.writer(_Lines())
        with naming_path(self.path):
            for image, label, k, row in zip(images, labels, best, found.tolist(), strict=True):
                is_read = not math.isnan(row[k])
                line: str = names.writerow([image, label, self.class_names[k] if is_read else ""])
                numbers = self.numbers % (row[k], *row)
                self.text.write(line[:-2] + (numbers if is_read else self.nothing))
        self.count += len(images)


def interleave(parts: Sequence[Path], path: Path) -> None:
    """Makes one table of several, by a row of each in turn, and removes those.

    So the i-th row of part r of R, which rank r has written, becomes row i * R + r.
    """
    with contextlib.ExitStack() as stack:
        text = stack.enter_context(_new_text(path))
        tables = [csv.reader(stack.enter_context(as_text(part.open("rb")))) for part in parts]
        header, *_ = [next(table) for table in tables]
        rows = filter(None, chain.from_iterable(zip_longest(*tables)))
        csv.writer(text).writerows(chain([header], rows))
    for part in parts:
        part.unlink()


class _Lines:
    """Gives each line to who writes it by a ``csv.writer``, which returns what a file answers."""

    write = staticmethod(str)


@contextlib.contextmanager
def _new_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Opens a text file, which appears at the end."""
    with atomic_create(path) as file, cleaning(lambda: discard(file)):
        yield as_text(file, write_through=True)
