"""Image files that Pillow alone does not read in full: ``data.reader`` names a class for them.

Shapes: C channels, H rows, W columns.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from classifier.errors import UserError
from classifier.images.read import (
    DamagedImageError,
    ImageReader,
    Raw,
    may_pass,
    reason,
    refusal,
)

SIXTEEN_BIT = (0, 65535)


class Reader(ABC):
    """Turns a file into pixels: an array or a tensor, ``(C, H, W)`` or ``(H, W)``.

    They are of one of these types; any other is refused, as are NaN and what is out of range:

    - uint8: 0 to 255, taken as it is.
    - uint16: 0 to 65535, or ``value_range``.
    - floating point: ``value_range``, without which it is refused.

    Attributes:
        suffixes: Those of the files that are images, such as (".npy",). Pillow's if None.
        value_range: The lowest and the highest value of pixels that are not uint8. They become 0
            and 255, in float32.
    """

    # A base, though any callable would do: a config of somebody else must not name a function
    # of a trusted package that unpickles the file whose path it is given.
    suffixes: Collection[str] | None = None
    value_range: Sequence[float] | None = None

    @abstractmethod
    def __call__(self, path: Path) -> Any:
        """Returns the pixels of a file; may raise anything, which is told with the file."""


class SixteenBit(Reader):
    """Reads greyscale files, such as PNG and TIFF, of 16 bits with all of them, or of 8 bits.

    The camera's orientation (EXIF) is applied.
    """

    def __call__(self, path: Path) -> NDArray[Any]:
        """Returns uint16 or uint8 ``(H, W)``; raises UserError for other pixels."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                ImageOps.exif_transpose(image, in_place=True)
                values, mode = np.asarray(image), image.mode
        if mode == "L":
            return values
        if not mode.startswith("I"):
            raise UserError(f"{mode} pixels; expected greyscale of 8 or 16 bits")
        if values.min() < 0 or values.max() > SIXTEEN_BIT[1]:
            raise UserError("pixels of more than 16 bits; save it with 8 or 16 bits")
        return values.astype(np.uint16)


class NumpyArray(Reader):
    """Reads files of NumPy, .npy, with one image each; none that holds pickled objects.

    Args:
        value_range: Lowest and highest value that a pixel may have, such as [0, 1]. Needed for
            floating point; 0 to 65535 for uint16 if not given.
        channels: Whether the channels are the first or the last axis of three. The shorter one of
            the two if not given.
    """

    suffixes = (".npy",)

    def __init__(
        self,
        value_range: list[float] | None = None,
        channels: Literal["first", "last"] | None = None,
    ) -> None:
        self.value_range = value_range
        self.channels = channels

    def __call__(self, path: Path) -> NDArray[Any]:
        """Returns the array as ``(C, H, W)`` or ``(H, W)``, of the type that the file has."""
        try:
            values: NDArray[Any] = np.load(path, allow_pickle=False)
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise UserError("not an array of numbers: what is pickled is never read") from None
        if not isinstance(values, np.ndarray):  # an archive of several, by its content
            raise UserError("an archive of arrays; save each image with numpy.save")
        if values.ndim != 3:
            return values
        first, *_, last = values.shape
        if self.channels is None and first == last:
            raise UserError(f"shape {values.shape}: set channels of NumpyArray to first or last")
        is_last = self.channels == "last" if self.channels else last < first
        return np.moveaxis(values, -1, 0) if is_last else values


@dataclass(frozen=True)
class OwnReader(ImageReader):
    """Reads files by a reader, in place of Pillow, and transforms them."""

    read: Reader = field(kw_only=True)

    def begin(self, raw: Raw, name: object = None) -> Tensor:
        """Reads an image file as uint8, or as float32 in 0..1, and does what comes first.

        Raises:
            DamagedImageError: The reader raises; the text names the file.
            UserError: The image is no file, or the reader does not keep to what readers return, or
                the channels are not as many; likewise.
        """
        title = type(self.read).__name__
        if not isinstance(raw, Path):
            raise UserError(
                f"{refusal(name)}data.reader reads files, but this image is not in one of its own; "
                "leave data.reader out."
            )
        try:
            # Opening a named pipe would wait forever.
            if not raw.is_file() or not raw.stat().st_size:
                raise FileNotFoundError(raw)
            values = self.read(raw)
        except Exception as error:  # of any library
            told = reason(raw, error)
            kind = "" if isinstance(error, UserError | OSError) else f"{type(error).__name__}: "
            refused = UserError if may_pass(error) else DamagedImageError
            raise refused(f"{refusal(raw)}{title}: {kind}{told}") from error
        try:
            pixels = as_pixels(values, self.read.value_range)
        except UserError as error:
            raise UserError(f"{refusal(raw)}{title} gives {error}.") from None
        if len(pixels) != self.in_channels:
            raise UserError(
                f"{refusal(raw)}{title} gives {len(pixels)} channel{'s' * (len(pixels) > 1)}, but "
                f"data.in_channels is {self.in_channels}; set data.in_channels to the number that "
                "all images have."
            )
        # torchvision takes floats in 0..1, and clamps some at 1.
        pixels = pixels / 255 if pixels.is_floating_point() else pixels
        if self.first is None:
            return pixels
        height, width = pixels.shape[1:]
        return self.first((height, width))[1](pixels)


def as_pixels(values: Any, value_range: Sequence[float] | None) -> Tensor:
    """Brings what a reader returns to the scale 0..255: uint8 as it is, others as float32.

    Args:
        values: Pixels ``(C, H, W)`` or ``(H, W)``.
        value_range: Which two values become 0 and 255, where they are not uint8.

    Returns:
        Pixels ``(C, H, W)``.

    Raises:
        UserError: They are none; the text says what they are, and what was expected.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":  # else torch has no type
        # A copy: it may be read-only, mirrored, or have its bytes in the other order.
        values = torch.from_numpy(np.array(values, values.dtype.newbyteorder("=")))
    if not isinstance(values, Tensor):
        kind = getattr(values, "dtype", type(values).__name__)
        raise UserError(f"{kind}, expected a tensor or an array of uint8, uint16 or floating point")
    pixels = values[None] if values.ndim == 2 else values
    if pixels.ndim != 3 or not pixels.numel():
        raise UserError(f"pixels of shape {(*values.shape,)}, expected (C, H, W) or (H, W)")
    if pixels.dtype == torch.uint8:
        return pixels
    kind = str(pixels.dtype).removeprefix("torch.")
    if pixels.dtype != torch.uint16 and not pixels.is_floating_point():
        raise UserError(f"{kind} pixels, expected uint8, uint16 or floating point")
    if pixels.is_floating_point() and value_range is None:
        raise UserError(
            f"{kind} pixels, whose range is not known: let it have value_range, the lowest and "
            "highest value, such as (0, 1)"
        )
    low, high = value_range or SIXTEEN_BIT
    pixels = pixels.double()
    least, most = pixels.min().item(), pixels.max().item()
    if not low <= least <= most <= high:  # NaN neither
        raise UserError(f"pixels from {least:g} to {most:g}, expected {low:g} to {high:g}")
    return ((pixels - low) / ((high - low) / 255)).float()


def suffixes_of(reader: Reader) -> Collection[str] | None:
    """The suffixes of the files that a reader reads, in lower case; None for those of Pillow.

    Raises:
        UserError: It is none, or what it says of its files or its range is wrong.
    """
    title = type(reader).__name__
    if not isinstance(reader, Reader):
        raise UserError(f"data.reader: {title} is not a subclass of {Reader.__module__}.Reader.")
    bounds, suffixes = reader.value_range, reader.suffixes
    if bounds is not None and not _is_range(bounds):
        raise UserError(
            f"data.reader: value_range of {title} is the lowest and the highest value of its "
            f"pixels, such as (0, 1), not {bounds}."
        )
    if suffixes is None:
        return None
    if isinstance(suffixes, str) or not suffixes or not all(map(_is_suffix, suffixes)):
        raise UserError(
            f"data.reader: suffixes of {title} are those of its files, each from its only dot on, "
            f'such as (".npy",), not {suffixes!r}.'
        )
    return {suffix.lower() for suffix in suffixes}


def _is_suffix(text: object) -> bool:
    return isinstance(text, str) and len(text) > 1 and text.rfind(".") == 0


def _is_range(bounds: Any) -> bool:
    numbers = [*bounds] if isinstance(bounds, list | tuple) else []
    fit = all(type(n) in (int, float) and math.isfinite(n) for n in numbers)
    return fit and len(numbers) == 2 and numbers[0] < numbers[1]
