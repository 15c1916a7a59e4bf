"""Which images are for training, for validation and for test: each gets its share of each class."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from classifier.errors import UserError

PARTS = {"train": "training", "val": "validation", "test": "test"}  # as in a sentence


def random_order(number: int, seed: int) -> Tensor:
    """Draws an order of 0..N-1."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(seed))


def order_by_name(names: Sequence[object], seed: int) -> Tensor:
    """Draws an order of N named things in which another one more changes nothing else.

    So a test image remains one, but for a few at the boundary, when images are added.
    """
    digests = [
        hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "replace")).digest() for name in names
    ]
    return torch.tensor(sorted(range(len(names)), key=digests.__getitem__))


def stratified_split(
    labels: Tensor, fractions: Sequence[float], order: Tensor, class_names: Sequence[str]
) -> list[Tensor]:
    """Splits positions 0..N-1 into disjoint parts, each class by its members' order.

    The share of each class in each part is exact to within one image, but at least one image.

    Args:
        labels: Class of each image, int64 ``(N,)``, in 0..K-1.
        fractions: Share of each part after the first; the first part takes the rest.
        order: A random order of the positions, int64 ``(N,)``.
        class_names: The K names, for the error message.

    Returns:
        One ascending index tensor per part, ``1 + len(fractions)`` in all.

    Raises:
        ValueError: A class has too few images to be in every part.
    """
    by_class = order[labels[order].argsort(stable=True)]
    counts = torch.bincount(labels, minlength=len(class_names)).tolist()
    shares = []
    for members, name in zip(torch.split(by_class, counts), class_names, strict=True):
        sizes = [max(1, round(fraction * len(members))) for fraction in fractions]
        rest = len(members) - sum(sizes)
        if rest < 1:
            raise UserError(
                f"Class '{name}' has {len(members)} images, too few to split into "
                f"{1 + len(fractions)} parts; add images or choose smaller fractions."
            )
        shares.append(torch.split(members, [rest, *sizes]))
    return [torch.cat(part).sort().values for part in zip(*shares, strict=True)]
