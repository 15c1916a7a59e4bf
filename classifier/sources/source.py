"""What every source says of its images: which there are, where each is, what it shows."""

import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from classifier.errors import UserError
from classifier.images.read import Raw
from classifier.splits import Fold, order_by_name, random_order, shared_out, stratified_split

T_co = TypeVar("T_co", covariant=True)


class Row(Protocol[T_co]):
    """N things in a row, which may be made when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> T_co: ...
    def __iter__(self) -> Iterator[T_co]:
        return map(self.__getitem__, range(len(self)))

    def select(self, positions: Tensor) -> "Row[T_co]":
        """Returns those at M positions, int64 ``(M,)``, in that order."""


class Names(Row[str]):
    """Texts in one piece of memory, 8 bytes and its own for each: millions go to each worker."""

    def __init__(self, texts: Iterable[str]) -> None:
        joined, ends = bytearray(), array("q", [0])
        for text in texts:
            joined += text.encode("utf-8", "surrogateescape")
            ends.append(len(joined))
        self.bytes, self.ends = bytes(joined), np.array(ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, position: int, /) -> str:
        begin, end = self.ends[position], self.ends[position + 1]  # raises IndexError
        return self.bytes[begin:end].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for begin, end in pairwise(self.ends.tolist()):
            yield self.bytes[begin:end].decode("utf-8", "surrogateescape")

    def select(self, positions: Tensor) -> "Names":
        chosen = positions.numpy()
        first = self.ends[chosen[np.diff(chosen, prepend=-2) != 1]]  # of each run of neighbours
        last = self.ends[chosen[np.diff(chosen, append=-2) != 1] + 1]
        names = Names([])
        pieces = zip(first.tolist(), last.tolist(), strict=True)
        names.bytes = b"".join(self.bytes[begin:end] for begin, end in pieces)
        names.ends = np.append(0, np.diff(self.ends)[chosen].cumsum())
        return names


class Picked(Row[T_co]):
    """Some of the things in a sequence, in an order.

    Args:
        things: The sequence.
        positions: Those that count, int64 ``(N,)``; all if not given.
    """

    def __init__(self, things: Any, positions: Tensor | None = None) -> None:
        self.things = things
        self.positions = torch.arange(len(things)) if positions is None else positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int, /) -> T_co:
        return self.read(self.things[int(self.positions[position])])

    def read(self, thing: Any) -> T_co:
        """Makes of a thing in the sequence what is asked for."""
        return thing  # type: ignore[no-any-return]

    def select(self, positions: Tensor) -> Self:
        return type(self)(self.things, self.positions[positions])


class Files(Row[Path]):
    """Files by their paths below a folder, with "/" on every system."""

    def __init__(self, root: Path, names: Names) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int, /) -> Path:
        return Path(self.root, self.names[position])

    def select(self, positions: Tensor) -> "Files":
        return Files(self.root, self.names.select(positions))


@dataclass(frozen=True)
class Index:
    """N images of one part; lists will do.

    Their keys are names that stay when others come and go; None if only order tells them apart.
    Images of one group, such as those of one patient, belong together.
    """

    images: Tensor | Row[Raw]  # uint8 (N, C, H, W) in memory, else what each is read from
    labels: Tensor  # class of each, int64 (N,)
    keys: Names | None = None
    groups: Names | None = None

    def __post_init__(self) -> None:
        for name, row in (("images", Picked), ("keys", Names), ("groups", Names)):
            if isinstance(given := getattr(self, name), list | tuple):
                object.__setattr__(self, name, row(given))

    def grouped(self, pattern: str) -> "Index":
        """Makes one group of all images whose keys agree in what a regular expression finds.

        That is what its parts in brackets match or, without brackets, all that it matches.

        Raises:
            UserError: It does not match each key; the text names the first other one.
        """
        try:
            form = re.compile(pattern)
        except re.error as error:
            raise UserError(f"data.group: {pattern!r} is no regular expression: {error}.") from None
        found = [form.search(key) for key in self.keys or ()]
        if None in found:
            other = (self.keys or ())[found.index(None)]
            raise UserError(
                f"data.group: {pattern!r} finds nothing in '{other}', one of "
                f"{found.count(None):,} such images of {len(found):,}; match the part of each path "
                "that is the same for all images of a group."
            )
        return replace(self, groups=Names("/".join(m.groups("") or [m[0]]) for m in found if m))

    def split_positions(
        self,
        fractions: Sequence[float],
        seed: int,
        class_names: Sequence[str],
        fold: Fold | None = None,
        strict: bool = True,
    ) -> list[Tensor]:
        """Splits the positions, as ``stratified_split`` does, by keys or groups if there are any.

        Args:
            fractions: As there; class_names and fold, too.
            seed: Chooses which images come into which part.
            class_names: Likewise.
            fold: Likewise.
            strict: Whether each class has to be in each part.
        """
        groups = None
        if self.groups is not None:
            numbers: dict[str, int] = {}
            places = [numbers.setdefault(name, len(numbers)) for name in self.groups]
            groups, order = torch.tensor(places), order_by_name([*numbers], seed)
        elif self.keys is not None:
            order = order_by_name(self.keys, seed)
        else:
            order = random_order(len(self.labels), seed)
        if strict:
            return stratified_split(self.labels, fractions, order, class_names, groups, fold)
        return shared_out(self.labels, fractions, order, groups, fold, least=0)

    def select(self, positions: Tensor) -> "Index":
        """Returns the images at M positions, int64 ``(M,)``, in that order."""
        images, keys = self.images, self.keys and self.keys.select(positions)
        if isinstance(images, Files) and keys and images.names is self.keys:
            chosen: Tensor | Row[Raw] = Files(images.root, keys)  # the same memory
        else:
            chosen = images[positions] if isinstance(images, Tensor) else images.select(positions)
        groups = self.groups and self.groups.select(positions)
        return Index(chosen, self.labels[positions], keys, groups)


def in_folder_order(key: str) -> str:
    """What sorts keys as paths are sorted, part by part: ``img/x`` comes before ``img-1/x``."""
    return key.replace("/", "\0")


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
