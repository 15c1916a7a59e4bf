"""Images and labels of any map-style data set of PyTorch."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from classifier.errors import UserError
from classifier.images.read import Raw
from classifier.sources.choice import Choice
from classifier.sources.finder import key
from classifier.sources.source import Files, Index, Names, Picked, Source, in_folder_order

Make = Callable[[], Dataset[Any]]


class Items(Picked[Raw]):
    """The images of a data set, as it gives them."""

    def read(self, thing: Any) -> Raw:
        image: Any = thing[0]
        if isinstance(image, Tensor):  # (C, H, W), as all that torchvision makes
            image = image.permute(1, 2, 0).numpy() if image.ndim == 3 else image.numpy()
        return image  # type: ignore[no-any-return]  # the reader says what it cannot read


class Part(NamedTuple):
    """What is known of one data set without looking at its images."""

    dataset: Any
    labels: Tensor  # int64 (N,)
    paths: Sequence[str] | None  # of its files, if it has some


class Datasets(Source):
    """Data sets that give ``(image, label)`` for a position, made when they are first asked for.

    Of those that have a ``loader``, as many of torchvision's do, the files are read as all others
    are. Images of others are taken as they give them.

    Args:
        make: What makes the data set of each part; "val" and "test" may lack.
        given_names: The classes, in the order of the labels, where the data set does not name them.
        choice: Which classes and images count.
    """

    def __init__(
        self, make: Mapping[str, Make], given_names: Sequence[str] | None, choice: Choice
    ) -> None:
        self.make = make
        self.given_names = given_names
        self.choice = choice

    @cached_property
    def parts(self) -> dict[str, Part]:
        return {part: self._read(part, make()) for part, make in self.make.items()}

    def _read(self, part: str, dataset: Any) -> Part:
        title = f"data.{part}: {type(dataset).__name__}"
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and len(dataset)):
            raise UserError(
                f"{title} is no map-style data set with images; expected a length above 0, and "
                "(image, label) for each position."
            )
        if getattr(dataset, "transform", None) is not None:
            raise UserError(
                f"{title} has a transform, which would act on images before they are read alike in "
                "training and evaluation; leave it out, and use data.train_transform."
            )
        paths, labels = _files(title, dataset) or (None, _labels(title, dataset))
        if labels is None:
            labels = [_pair(title, dataset, place)[1] for place in range(len(dataset))]
        try:
            numbers = torch.tensor([int(label) for label in labels])
        except (TypeError, ValueError):
            raise UserError(
                f"{title}: a label is {next(iter(labels))!r:.60}; expected the number of a class."
            ) from None
        return Part(dataset, numbers, paths)

    @property
    def class_names(self) -> Sequence[str]:
        """Those that count, of the names that are given or that the data set has."""
        return self.choice.classes_of(self._all_names)

    @cached_property
    def _all_names(self) -> Sequence[str]:
        """The name of each label."""
        if self.given_names is not None:
            return self.given_names
        dataset, labels, _ = self.parts["train"]
        while dataset is not None:  # a Subset has the names of what it is one of
            names = getattr(dataset, "classes", None)
            if isinstance(names, list | tuple) and len(names) > 1:
                return [str(name) for name in names]
            dataset = getattr(dataset, "dataset", None)
        there = {*labels.tolist()}
        if missing := sorted({*range(max(2, max(there) + 1))} - there):
            raise UserError(
                f"data.train does not name its classes, and none of its images has the label "
                f"{missing[0]} ({len(missing)} of {max(there) + 1} are missing); set "
                "data.class_names to the names of all, in the order of the labels."
            )
        return [str(label) for label in sorted(there)]

    def index(self) -> dict[str, Index]:
        names = self._all_names
        chosen = {name: number for number, name in enumerate(self.class_names)}
        number_of = torch.tensor([chosen.get(name, -1) for name in names])
        root = _common_root([part for part in self.parts.values() if part.paths])
        found = {}
        for name, (dataset, labels, paths) in self.parts.items():
            if not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
                wrong = int(labels.max()) if labels.max() >= len(names) else int(labels.min())
                raise UserError(
                    f"data.{name} has the label {wrong}; expected 0 to {len(names) - 1}, for there "
                    f"are {len(names)} classes."
                )
            keys = [key(path, root) for path in paths or ()]
            keys = keys or [f"{name}/{place}" for place in range(len(labels))]
            numbers = number_of[labels]
            kept = [
                p for p, k in enumerate(keys) if numbers[p] >= 0 and not self.choice.leaves_out(k)
            ]
            if paths:  # in the order of folders of classes
                kept.sort(key=lambda p: (int(numbers[p]), in_folder_order(keys[p])))
            texts = Names(keys[place] for place in kept)
            places = torch.tensor(kept)
            images = Files(root, texts) if paths else Items(dataset, places)
            found[name] = Index(images, numbers[places], texts)
        return found

    def notes(self) -> list[str]:
        return self.choice.notes()


def _pair(title: str, dataset: Any, place: int) -> Any:
    item = dataset[place]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UserError(
            f"{title}[{place}] is {type(item).__name__}, not (image, label); wrap it in a data set "
            "of your own that gives these."
        )
    return item


def _files(title: str, dataset: Any) -> tuple[list[str], list[Any]] | None:
    """The paths and labels of the files that a data set reads; it opens none for that."""
    if not callable(getattr(dataset, "loader", None)):
        return None
    loader, dataset.loader = dataset.loader, str
    try:
        pairs = [_pair(title, dataset, place) for place in range(len(dataset))]
    finally:
        dataset.loader = loader
    paths = [path for path, _ in pairs if isinstance(path, str)]
    return (paths, [label for _, label in pairs]) if len(paths) == len(pairs) else None


def _labels(title: str, dataset: Any) -> list[Any] | None:
    """The labels that a data set has in one piece, if they are those that it gives."""
    for name in ("targets", "labels"):
        labels = getattr(dataset, name, None)
        if labels is None or getattr(labels, "ndim", 1) != 1 or len(labels) != len(dataset):
            continue
        if all(
            labels[place] == dataset[place][1] for place in (0, len(labels) // 2, len(labels) - 1)
        ):
            return list(labels)
    return None


def _common_root(parts: Sequence[Part]) -> Path:
    """The folder below which all files are: that of the data sets, if they tell it."""
    paths = [Path(path) for part in parts for path in part.paths or ()]
    if not paths:
        return Path()
    told = [getattr(part.dataset, "root", None) for part in parts]
    if all(isinstance(root, str | Path) for root in told):
        root = Path(os.path.commonpath([Path(str(root)) for root in told]))
        if all(path.is_relative_to(root) for path in paths):
            return root
    return Path(os.path.commonpath([path.parent for path in paths]))
