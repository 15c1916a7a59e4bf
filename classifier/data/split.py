"""Stratified splitting: every part gets its share of every class."""

from collections.abc import Sequence

import torch
from torch import Tensor


def stratified_split(
    labels: Tensor, fractions: Sequence[float], seed: int, class_names: Sequence[str]
) -> list[Tensor]:
    """Splits positions 0..N-1 into disjoint parts, the same way for the same seed.

    The share of each class in each part is exact to within one image, but at least one image.

    Args:
        labels: Class of each image, int64 ``(N,)``, in 0..K-1.
        fractions: Share of each part after the first; the first part takes the rest.
        seed: Chooses which images go where.
        class_names: The K names, for the error message.

    Returns:
        One ascending index tensor per part, ``1 + len(fractions)`` in all.

    Raises:
        ValueError: A class has too few images to be in every part.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    counts = torch.bincount(labels, minlength=len(class_names)).tolist()
    shares = []
    for members, name in zip(torch.split(by_class, counts), class_names, strict=True):
        sizes = [max(1, round(fraction * len(members))) for fraction in fractions]
        rest = len(members) - sum(sizes)
        if rest < 1:
            raise ValueError(
                f"Class '{name}' has {len(members)} images, too few to split into "
                f"{1 + len(fractions)} parts; add images or choose smaller fractions."
            )
        shares.append(torch.split(members, [rest, *sizes]))
    return [torch.cat(part).sort().values for part in zip(*shares, strict=True)]
