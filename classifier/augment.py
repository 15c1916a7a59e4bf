"""Augmentation of whole batches, on whichever device the batch lives.

Every image draws its own random numbers; torchvision's transforms draw once per batch.
Every module maps a batch of any dtype, uint8 above all, to a new batch of the same shape and dtype.
Floating-point images are in 0..1, as torchvision has them, others in 0..255.
Shapes: N images, C channels, H rows, W columns.
"""

import functools
import math

import torch
from torch import Tensor, nn

from classifier.errors import UserError

__all__ = ["RandomErase", "RandomFlip", "RandomOrientation", "RandomShift"]


class RandomFlip(nn.Module):
    """Mirrors each image left to right, by its own draw.

    Args:
        probability: Share of the images that are mirrored, from 0 to 1.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.probability = _checked_probability(probability)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` to the same shape and dtype."""
        number, channels, height, width = images.shape
        flipped = torch.rand(number, 1, device=images.device) < self.probability
        columns = torch.arange(width, device=images.device)
        columns = torch.where(flipped, width - 1 - columns, columns)  # (N, W)
        return images.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))


class RandomOrientation(nn.Module):
    """Turns and mirrors each image, by its own draw, to one of the eight orientations of a square.

    For what has no upright position, such as things seen from above. Images that are not square
    keep their shape, and have the four orientations that do.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` to the same shape and dtype."""
        drawn = torch.rand(3, len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(drawn[0], images.flip(3), images)
        images = torch.where(drawn[1], images.flip(2), images)
        if images.shape[2] == images.shape[3]:
            images = torch.where(drawn[2], images.transpose(2, 3), images)
        return images


class RandomShift(nn.Module):
    """Shifts each image by its own number of pixels and mirrors the border.

    Shifting by up to 4 pixels is the CIFAR-10 recipe of He et al. (2015, section 4.2,
    https://arxiv.org/abs/1512.03385), which fills the border with zeros instead.

    Args:
        max_shift: Largest offset up, down, left and right, in pixels; smaller than the images.
    """

    def __init__(self, max_shift: int = 4) -> None:
        super().__init__()
        if max_shift < 0:
            raise UserError(f"max_shift counts pixels, so it cannot be negative: {max_shift}.")
        self.max_shift = max_shift

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` to the same shape and dtype."""
        number, channels, height, width = images.shape
        if self.max_shift >= min(height, width):
            raise UserError(
                f"max_shift is {self.max_shift} pixels, but the images have only "
                f"{height}x{width}; choose at most {min(height, width) - 1}."
            )
        shifts = torch.randint(2 * self.max_shift + 1, (2, number), device=images.device)
        rows = _mirrored_lines(self.max_shift, height, images.device)[shifts[0]]  # (N, H)
        columns = _mirrored_lines(self.max_shift, width, images.device)[shifts[1]]  # (N, W)
        # One gather that all channels share: no padded copy, and any dtype works.
        source = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (N, H * W)
        source = source[:, None, :].expand(-1, channels, -1)
        return images.flatten(2).gather(2, source).view(images.shape)


class RandomErase(nn.Module):
    """Paints a rectangle over each image, of its own place, shape and colour.

    Random erasing of Zhong et al. (2017, https://arxiv.org/abs/1708.04896), with two differences
    that save time: a rectangle taller or wider than the image is cut rather than drawn again, and
    it has one colour (0 to 255 in each channel) rather than noise.

    Args:
        probability: Share of the images that get a rectangle, from 0 to 1.
        min_area: Smallest area of the rectangle, as a share of the image, above 0.
        max_area: Largest area of the rectangle, as a share of the image, at most 1.
        max_aspect: Longest shape of the rectangle: height by width, or width by height; at least 1.
    """

    def __init__(
        self,
        probability: float = 0.5,
        min_area: float = 0.02,
        max_area: float = 0.4,
        max_aspect: float = 3.3,
    ) -> None:
        super().__init__()
        if not 0 < min_area <= max_area <= 1:
            raise UserError(
                "The areas are shares of the image, 0 < min_area <= max_area <= 1, "
                f"but min_area is {min_area} and max_area {max_area}."
            )
        if not 1 <= max_aspect < math.inf:
            raise UserError(f"max_aspect is the long side by the short, >= 1: {max_aspect}.")
        self.probability = _checked_probability(probability)
        self.min_area = min_area
        self.max_area = max_area
        self.max_aspect = max_aspect

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` to the same shape and dtype; the colours are of its whole range."""
        number, channels, height, width = images.shape
        device = images.device
        chance, size, shape, down, right = torch.rand(5, number, 1, device=device)
        area = (self.min_area + size * (self.max_area - self.min_area)) * height * width  # pixels
        aspect = self.max_aspect ** (2 * shape - 1)  # log-uniform, so that tall and wide balance
        rows = (area * aspect).sqrt().round().clamp(1, height)
        columns = (area / aspect).sqrt().round().clamp(1, width)
        rows = rows * (chance < self.probability)  # no rows: this image stays as it is
        inside = _span(down, rows, height)[:, :, None] & _span(right, columns, width)[:, None, :]
        colour = torch.randint(256, (number, channels, 1, 1), device=device).to(images.dtype)
        colour = colour / 255 if images.is_floating_point() else colour
        return torch.where(inside[:, None], colour, images)


def _checked_probability(probability: float) -> float:
    if not 0 <= probability <= 1:
        raise UserError(f"probability lies between 0 and 1, not at {probability}.")
    return probability


@functools.lru_cache(maxsize=16)  # of all sizes: a dozen operations less in each step
def _mirrored_lines(max_shift: int, size: int, device: torch.device) -> Tensor:
    """Where each line comes from, int64 ``(2 * max_shift + 1, size)``, by shift from -max_shift on.

    Positions outside ``[0, size)`` are reflected back inside; the edge is not repeated.

    >>> _mirrored_lines(1, 4, torch.device("cpu")).tolist()
    [[1, 2, 3, 2], [0, 1, 2, 3], [1, 0, 1, 2]]
    """
    shifts = torch.arange(-max_shift, max_shift + 1, device=device)[:, None]
    index = torch.arange(size, device=device) - shifts
    return size - 1 - (size - 1 - index.abs()).abs()


def _span(place: Tensor, length: Tensor, size: int) -> Tensor:
    """Marks ``length`` positions in a row, from ``place`` 0..1 on: ``(N, 1)`` to ``(N, size)``."""
    first = (place * (size - length + 1)).floor()
    position = torch.arange(size, device=place.device)
    return (position >= first) & (position < first + length)
