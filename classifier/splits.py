"""Which images are for training, for validation and for test: each gets its share of each class."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from classifier.errors import UserError

PARTS = {"train": "training", "val": "validation", "test": "test"}  # as in a sentence
EVALUATED = {"validate": "val", "test": "test"}  # which part a stage evaluates


class Fold(NamedTuple):
    """One of some slices of each class, counted from 0."""

    number: int
    of: int


def random_order(number: int, seed: int) -> Tensor:
    """Draws an order of 0..N-1."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(seed))


def order_by_name(names: Iterable[object], seed: int) -> Tensor:
    """Draws an order of N named things in which another one more changes nothing else.

    So a test image remains one, but for a few at the boundary, when images are added.
    """
    digests, blake2b = bytearray(), hashlib.blake2b  # a name of its own is faster in the loop
    for name in names:
        digests += blake2b(f"{seed}/{name}".encode("utf-8", "replace")).digest()
    first = np.frombuffer(digests, ">u8")[::8].astype(np.uint64)  # bytes, which are sorted faster
    order = first.argsort(kind="stable")
    if (np.diff(first[order]) == 0).any():  # as are those of equal names
        order = np.frombuffer(digests, "S64").argsort(kind="stable")
    return torch.from_numpy(order)


def stratified_split(
    labels: Tensor,
    fractions: Sequence[float],
    order: Tensor,
    class_names: Sequence[str],
    groups: Tensor | None = None,
    fold: Fold | None = None,
) -> list[Tensor]:
    """Splits positions 0..N-1 into disjoint parts, each class by its members' order.

    The share of each class in each part is exact to within one image, but at least one image.
    Groups stay whole: each counts for the class that most of its images are of, and comes into the
    part where the middle of its images falls.

    Args:
        labels: Class of each image, int64 ``(N,)``, in 0..K-1.
        fractions: Share of each part after the first; the first part takes the rest.
        order: A random order of the N positions or, with groups, of the M groups.
        class_names: The K names, for the error message.
        groups: Group of each image, int64 ``(N,)`` in 0..M-1.
        fold: Makes this slice of each class the last part, whatever its share; the part before it
            is what lies before it, in a circle. So each image is in the last part of one fold.

    Returns:
        One ascending index tensor per part, ``1 + len(fractions)`` in all.

    Raises:
        UserError: A class has too few images or groups to be in every part.
    """
    into = fold or 1 + len(fractions)
    units = len(labels) if groups is None else len(order)
    needed = fold.of if fold else 1 + len(fractions)
    if groups is not None and units < needed:
        raise _too_few(f"There are {units} groups of images", into)
    counts = labels.bincount(minlength=len(class_names)).tolist()
    for name, number in zip(class_names, counts, strict=True):
        shares = sum(max(1, round(fraction * number)) for fraction in fractions)
        if groups is None and (number < max(needed, 1 + len(fractions)) or number <= shares):
            raise _too_few(f"Class '{name}' has {number} images", into)
    parts = shared_out(labels, fractions, order, groups, fold)
    there = f"there are {units} groups of images"
    trained = labels[parts[0]].bincount(minlength=len(class_names)).tolist()
    for name, number, its in zip(class_names, counts, trained, strict=True):
        if number and not its:
            raise _too_few(f"Class '{name}' would have no training images: {there}", into)
    if not all(map(len, parts)):
        raise _too_few(f"A part would have no images: {there}", into)
    return parts


def shared_out(
    labels: Tensor,
    fractions: Sequence[float],
    order: Tensor,
    groups: Tensor | None = None,
    fold: Fold | None = None,
    least: int = 1,
) -> list[Tensor]:
    """Does what ``stratified_split`` does, without its checks.

    Args:
        labels: As there; the others, too.
        fractions: Likewise.
        order: Likewise.
        groups: Likewise.
        fold: Likewise.
        least: How many images of each class are to come into each part.
    """
    units = torch.arange(len(labels)) if groups is None else groups
    kinds = labels if groups is None else _commonest(labels, groups)
    sizes = units.bincount()
    by_class = order[kinds[order].argsort(stable=True)]
    part_of = torch.empty_like(sizes)
    for members in torch.split(by_class, kinds.bincount().tolist()):
        number = int(sizes[members].sum())
        wanted = [max(least, round(fraction * number)) for fraction in fractions]
        if fold:
            middles = _middles(sizes[members])
            first, last = (number * slices // fold.of for slices in (fold.number, fold.number + 1))
            before, behind = middles < first, middles >= last
            own = members[~before & ~behind]
            members = torch.cat([members[behind], members[before], own])
            wanted[-1] = int(sizes[own].sum())
        bounds = torch.tensor([number - sum(wanted), *wanted]).cumsum(0)[:-1]
        part_of[members] = torch.bucketize(_middles(sizes[members]), bounds, right=True)
    return [(part_of[units] == part).nonzero()[:, 0] for part in range(1 + len(fractions))]


def _too_few(held: str, into: Fold | int) -> UserError:
    parts, remedy = f"{into} parts", "smaller fractions"
    if isinstance(into, Fold):
        parts, remedy = f"{into.of} folds", "fewer folds"
    return UserError(f"{held}, too few to split into {parts}; add images or choose {remedy}.")


def _middles(sizes: Tensor) -> Tensor:
    """Where the middle of each of some things lies that stand in a row."""
    return sizes.cumsum(0) - sizes.double() / 2


def _commonest(labels: Tensor, groups: Tensor) -> Tensor:
    """The class that most images of each group are of; of several the rarest."""
    classes = int(labels.max()) + 1
    pairs, counts = np.unique((groups * classes + labels).numpy(), return_counts=True)
    total = labels.bincount().numpy()[pairs % classes]
    order = np.lexsort((-pairs, -total, counts, pairs // classes))
    ordered = pairs[order]
    last = np.flatnonzero(np.diff(ordered // classes, append=-1))
    return torch.from_numpy(ordered[last] % classes)
