"""Data sets by class path: torchvision's, the Hub's, one's own."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from classifier.data.image_files import FileDataModule
from classifier.errors import UserError, pip_install
from classifier.sources.datasets import Datasets as DatasetsSource


class Datasets(FileDataModule):
    """Map-style data sets of PyTorch, each by its class path.

    An item is (image, label): an image of Pillow, a file's bytes or uint8 pixels, and the number of
    a class.

    Args:
        train: The training images, such as {class_path: torchvision.datasets.Flowers102, init_args:
            {root: data, split: train, download: true}}.
        val: The images for validation. A share of each class of the training images if not given.
        test: Likewise for test.
        class_names: The names of the classes, in the order of the labels. The data set's own if not
            given, in its attribute ``classes``.
        *args: Arguments of FileDataModule.
        **kwargs: Arguments of FileDataModule and ImageDataModule.
    """

    def __init__(
        self,
        train: Callable[[], Dataset[Any]],
        *args: Any,
        val: Callable[[], Dataset[Any]] | None = None,
        test: Callable[[], Dataset[Any]] | None = None,
        class_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.make = {"train": train, "val": val, "test": test}
        self.given_names = class_names

    @property
    def title(self) -> str:
        kinds = dict.fromkeys(
            type(part.dataset).__name__ for part in self.image_source.parts.values()
        )
        return f"{type(self).__name__} {', '.join(kinds)}"

    @cached_property
    def image_source(self) -> DatasetsSource:
        make = {part: made for part, made in self.make.items() if made is not None}
        return DatasetsSource(make, self.given_names, self.choice)


class HuggingFace(Dataset[Any]):
    """A data set of the Hub or of a folder, as ``datasets.load_dataset`` finds it; not decoded.

    Args:
        path: Its name on the Hub, the folder that it is in, or a kind of files such as "parquet".
        split: Which of its splits, such as "train" or "train[:80%]".
        image: The column of the images; the only one that has images if not given.
        label: The column of the labels; "label" or "labels", or the only one of classes.
        **kwargs: Arguments of ``load_dataset``, such as name, data_files and revision.
    """

    def __init__(
        self,
        path: str,
        split: str,
        image: str | None = None,
        label: str | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            import datasets
        except ImportError:
            raise UserError(f"For data sets of the Hub: {pip_install('huggingface')}.") from None
        found = datasets.load_dataset(path, split=split, **kwargs)
        kinds = {name: type(feature).__name__ for name, feature in found.features.items()}
        self.image = _column(kinds, "image", image, "Image")
        self.label = _column(kinds, "label", label, "ClassLabel")
        self.classes = getattr(found.features[self.label], "names", None)
        undecoded = datasets.Image(decode=False)
        self.rows = found.select_columns([self.image, self.label]).cast_column(
            self.image, undecoded
        )
        self.labels = list(self.rows[self.label])
        self.loader: Callable[[str], Any] = Path  # what images that are files are given as

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        row = self.rows[position]
        image = row[self.image]
        return image["bytes"] or self.loader(image["path"]), row[self.label]


def _column(kinds: dict[str, str], role: str, given: str | None, kind: str) -> str:
    of_kind = [name for name, its in kinds.items() if its == kind]
    usual = [name for name in (role, f"{role}s") if name in kinds]
    fitting = [given] if given else of_kind if len(of_kind) == 1 else usual
    if len(fitting) != 1 or fitting[0] not in kinds:
        raise UserError(
            f"Which column is the {role}? There are {', '.join(map(repr, kinds))}; set {role} of "
            "classifier.data.HuggingFace."
        )
    return fitting[0]
