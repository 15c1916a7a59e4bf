"""How images of any shape come to the one size that a network gets, (H, W) in pixels.

The three ways are those of evaluation; training begins and ends as evaluation does, so that what
is random in between sees the same images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from classifier.errors import UserError
from classifier.images.read import Change

# What takes an image of any size; others get one that is resized as for evaluation.
RESIZING = (
    v2.Resize,
    v2.RandomResize,
    v2.RandomResizedCrop,
    v2.RandomShortestSize,
    v2.ScaleJitter,
)


class Cover(nn.Module):
    """Resizes an image ``(C, H, W)`` so that it just covers a size and keeps its shape."""

    choose: Callable[..., float] = staticmethod(max)  # of the scales of height and width

    def __init__(self, size: Sequence[int], interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size, self.interpolation = size, interpolation

    def forward(self, image: Tensor) -> Tensor:
        shape = image.shape[-2:]
        scale = self.choose(new / old for new, old in zip(self.size, shape, strict=True))
        size = [max(1, round(side * scale)) for side in shape]
        resized: Tensor = functional.resize(image, size, self.interpolation, antialias=True)
        return resized


class Fit(Cover):
    """Resizes an image ``(C, H, W)`` so that it just fits into a size, and pads it with black."""

    choose = staticmethod(min)

    def forward(self, image: Tensor) -> Tensor:
        image = super().forward(image)
        more = [new - old for new, old in zip(self.size, image.shape[-2:], strict=True)]
        top, left = (number // 2 for number in more)
        padded: Tensor = functional.pad(image, [left, top, more[1] - left, more[0] - top])
        return padded


class Exact(nn.Module):
    """Crops the middle of an image ``(C, H, W)`` to a size, which it must have at least.

    Raises:
        UserError: The image is smaller: the transforms before have made it so.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = list(size)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if height < self.size[0] or width < self.size[1]:
            raise UserError(
                f"data.train_transform makes images of {height}x{width} pixels, but image_size is "
                f"{self.size[0]}x{self.size[1]}, as in evaluation: give its crop that size."
            )
        cropped: Tensor = functional.center_crop(image, self.size)
        return cropped


@dataclass(frozen=True)
class DrawnCrop:
    """A random crop that is drawn before the image is decoded: ``First`` of a reader."""

    crop: v2.RandomResizedCrop

    def __call__(self, size: tuple[int, int]) -> tuple[float, Change]:
        drawn = self.crop.make_params([torch.empty(1, *size, device="meta")])
        sides = (drawn["height"], drawn["width"])

        def cut(image: Tensor) -> Tensor:
            scales = [now / before for now, before in zip(image.shape[-2:], size, strict=True)]
            begins = (drawn["top"], drawn["left"])
            box = [
                (round(begin * scale), round((begin + side) * scale))
                for begin, side, scale in zip(begins, sides, scales, strict=True)
            ]
            (top, bottom), (left, right) = box
            place = {"top": top, "left": left, "height": bottom - top, "width": right - left}
            cropped: Tensor = self.crop.transform(image, place)
            return cropped

        return min(old / new for old, new in zip(sides, self.crop.size, strict=True)), cut


@dataclass(frozen=True)
class ShortSide:
    """Makes the shorter side of larger images so many pixels long: ``First`` of a reader."""

    pixels: int
    interpolation: InterpolationMode

    def __call__(self, size: tuple[int, int]) -> tuple[float, Change]:
        return min(size) / self.pixels, self.shorten

    def shorten(self, image: Tensor) -> Tensor:
        if min(image.shape[-2:]) <= self.pixels:
            return image
        short: Tensor = functional.resize(image, [self.pixels], self.interpolation, antialias=True)
        return short


@dataclass(frozen=True)
class Whole:
    """All that is done to an image, done at once: ``First`` of a reader."""

    steps: nn.Module

    def __call__(self, size: tuple[int, int]) -> tuple[float, Change]:
        return 1, self.steps


def evaluation_steps(
    size: tuple[int, int], resize: str, crop_share: float, interpolation: InterpolationMode
) -> list[nn.Module]:
    """What brings an image to a size: what resizes it and, for "crop", what cuts it.

    Args:
        size: Height and width.
        resize: "crop" cuts the middle of the image, "pad" puts black around it, "stretch" changes
            its proportions.
        crop_share: Share of the shorter side that the crop keeps.
        interpolation: How pixels are made of others.
    """
    height, width = size
    if resize == "stretch":
        return [v2.Resize([height, width], interpolation, antialias=True)]
    if resize == "pad":
        return [Fit(size, interpolation)]
    larger = [round(side / crop_share) for side in size]  # 256 for 224
    if height == width:
        return [v2.Resize(larger[0], interpolation, antialias=True), v2.CenterCrop(height)]
    return [Cover(larger, interpolation), v2.CenterCrop([height, width])]


def takes_any_size(transforms: Sequence[nn.Module]) -> bool:
    """Whether the first of some transforms resizes, so that it takes images of any size."""
    return next((isinstance(module, RESIZING) for module in transforms), False)


def before_crop(evaluation: Sequence[nn.Module]) -> list[nn.Module]:
    """What evaluation does to images before it cuts them."""
    return [step for step in evaluation if not isinstance(step, v2.CenterCrop)]


def random_crop(size: tuple[int, int], interpolation: InterpolationMode) -> nn.Module:
    """A crop of random place, size and shape, which is resized to a size."""
    height, width = size
    shape = width / height
    ratio = (3 / 4 * shape, 4 / 3 * shape)
    crop: nn.Module = v2.RandomResizedCrop(size, (0.08, 1), ratio, interpolation, antialias=True)
    return crop


def kept_share(image: tuple[int, int], size: tuple[int, int]) -> float:
    """The share of an image's pixels, (H, W), that a crop of the shape of a size keeps at most.

    >>> kept_share((480, 640), (224, 224))
    0.75
    """
    shape, wanted = image[1] / image[0], size[1] / size[0]
    return min(shape, wanted) / max(shape, wanted)
