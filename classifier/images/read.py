"""Image files to uint8 tensors.

Decoding is Pillow's: ``torchvision.io`` crashes the whole process on some damaged PNG files
(https://github.com/pytorch/vision/issues/3613).
Shapes: N images, C channels, H rows, W columns.
"""

import errno
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor, nn

from classifier.errors import UserError

HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
# Camera raws, what only other programs read, and what Pillow may lack.
OTHERS = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2"
    " .rwl .sr2 .srf .srw .x3f .dcm .exr .jxl .jxr .avif .webp"
)
UNREAD_SUFFIXES = HEIF_SUFFIXES | {*OTHERS.split()}  # unless Pillow, or a plugin, registers them
# A file, what is in one, or what a data set of Python's gives: pixels (H, W) or (H, W, C).
Raw = Path | bytes | Image.Image | NDArray[Any]
Change = Callable[[Tensor], Tensor]
# The first thing that is done to an image (C, H, W): of its height and width it makes how many
# times smaller the image may be decoded for that, and what is done then.
First = Callable[[tuple[int, int]], tuple[float, Change]]
NEAR_UNIT = (-0.5, 1.5)  # bicubic resizing overshoots 0..1 by less
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # the tag of EXIF, and where width is height
JPEG_SCALES = (8, 4, 2)  # at which a JPEG is decoded in less time
PROFILE_BYTES = 16 * 2**20  # of a colour profile or text; Pillow's own limit, 1 MiB, is exceeded


class DamagedImageError(UserError):
    """An image that is not there or not whole, and will not be if it is read again."""


def read_image(
    raw: Raw, in_channels: int, name: object = None, first: First | None = None
) -> Tensor:
    """Reads an image as uint8 ``(C, H, W)``.

    The camera's orientation (EXIF) is applied, 16-bit greyscale is scaled to 8 bits, transparent
    pixels are laid over white, and of an animation the first frame counts. One channel is
    greyscale, three are RGB.

    Args:
        raw: An image file, or an image.
        in_channels: 1 or 3.
        name: What the image is called in errors; its path if not given.
        first: What is done to it before anything else. A JPEG is decoded at a half, a quarter or an
            eighth of its size where that is large enough for it.

    Raises:
        DamagedImageError: It is not a whole image of a supported kind; the text names it and why.
        UserError: The disk or the network does not give it, or memory is short; likewise.
    """
    mode = {1: "L", 3: "RGB"}[in_channels]
    try:
        image, change = _decode(raw, mode, first)
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        why = reason(raw, error) if isinstance(raw, Path) else _in_words(error)
        kind = UserError if may_pass(error) else DamagedImageError
        raise kind(refusal(raw if name is None else name) + why) from None
    return change(image) if change else image


def may_pass(error: Exception) -> bool:
    """Whether an image may be whole though it cannot be read now."""
    missing = (None, errno.ENOENT, errno.ENOTDIR)  # None is Pillow's, of what it decodes
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno not in missing
    )


def size_of(raw: Raw) -> tuple[int, int] | None:
    """Height and width of an image, upright, as its header says; None if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(raw) as image:
                return _upright(image)
    except Exception:  # whoever reads its pixels says why
        return None


def _upright(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(ORIENTATION, 1) in TURNED
    return image.size if turned else (image.height, image.width)


def image_suffixes() -> set[str]:
    """The suffixes, in lower case with their dot, of the formats that Pillow reads."""
    return {s for s, format_ in Image.registered_extensions().items() if format_ in Image.OPEN}


def reads_heif() -> bool:
    """Makes Pillow read HEIF if pillow-heif is installed; returns whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def remedy(suffix: str) -> str:
    """What to do about an image that no installed package reads."""
    if suffix in HEIF_SUFFIXES:
        return "to read HEIC photos, pip install pillow-heif."
    return f"Pillow does not read {suffix}; save it as JPEG or PNG."


def stack(images: list[Tensor]) -> Tensor:
    """Stacks images ``(C, H, W)`` to ``(N, C, H, W)``; raises UserError if their sizes differ."""
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise UserError(
            f"The transforms give images of different sizes, such as {shapes[0]} and {shapes[1]}; "
            "let them end with a crop or resize to one size."
        )
    return torch.stack(images)


def refusal(name: object) -> str:
    """How the text begins of an error about an image that cannot be read."""
    return f"Cannot read image '{name}': "


def reason(path: Path, error: Exception) -> str:
    """Why a file could not be read: what is wrong with it, else what the error says."""
    if not path.exists():
        return "no such file."
    if not path.is_file():
        return "not a regular file."
    if path.stat().st_size == 0:
        return "the file is empty."
    kind = _unread_kind(path) if isinstance(error, UnidentifiedImageError) else ""
    return remedy(kind) if kind else _in_words(error)


def _in_words(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged at its start."
    return " ".join(str(error).split()).rstrip(".") + "."


def _decode(raw: Raw, mode: str, first: First | None) -> tuple[Tensor, Change | None]:
    if isinstance(raw, Path) and not raw.is_file():  # opening a named pipe would wait forever
        raise FileNotFoundError(raw)
    change = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with _opened(raw) as opened:
                if first is not None:
                    smaller, change = first(_upright(opened))
                    scale = next((s for s in JPEG_SCALES if s <= smaller), 1)
                    if scale > 1:  # of other formats nothing comes of it
                        opened.draft(None, (opened.width // scale, opened.height // scale))
                ImageOps.exif_transpose(opened, in_place=True)
                image = _eight_bit(opened)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise UserError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != mode:
        image = image.convert(mode)
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1)  # (H, W, C)
    # Not made contiguous: resizing is twice as fast where the channels are innermost.
    return pixels.permute(2, 0, 1), change


def _opened(raw: Raw) -> Image.Image:
    PngImagePlugin.MAX_TEXT_CHUNK = PROFILE_BYTES
    if isinstance(raw, Image.Image):
        return raw.copy()  # what is done to it here stays here
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw)
    if isinstance(raw, bytes):
        return Image.open(io.BytesIO(raw))
    path = raw
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        if _unread_kind(path) not in HEIF_SUFFIXES or not reads_heif():
            raise
        return Image.open(path)


def _unread_kind(path: Path) -> str:
    """The suffix of an image that Pillow does not know, or ""; HEIC is known by its content."""
    with path.open("rb") as file:
        header = file.read(64)
    is_heic = header[4:8] == b"ftyp" and any(b in header for b in (b"heic", b"heix", b"hevc"))
    suffix = ".heic" if is_heic else path.suffix.lower()
    known = image_suffixes() if is_heic else image_suffixes() | HEIF_SUFFIXES
    return suffix if suffix in UNREAD_SUFFIXES - known else ""


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UserError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        image.load()
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UserError("pixels of more than 16 bits; save it with 8 or 16 bits")
    # Pillow's own conversion clips at 255 and so turns most 16-bit images white.
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


@dataclass(frozen=True)
class ImageReader:
    """Reads and transforms one image; travels to the loader's worker processes.

    Args:
        in_channels: 1 or 3.
        transform: What is done to the image.
        first: What is done to it before that.
    """

    in_channels: int
    transform: nn.Module
    first: First | None = None

    def __call__(self, raw: Raw, name: object = None) -> Tensor:
        """Reads an image as uint8 ``(C, H, W)``; ``name`` is for errors.

        Raises:
            DamagedImageError: The image is not there or not whole.
            UserError: It cannot be read, or ``finish`` raises it.
        """
        return self.finish(self.begin(raw, name))

    def begin(self, raw: Raw, name: object = None) -> Tensor:
        """Reads an image and does what comes first; ``finish`` has the rest."""
        return read_image(raw, self.in_channels, name, self.first)

    def finish(self, pixels: Tensor) -> Tensor:
        """Transforms pixels ``(C, H, W)``, uint8 or floating point in 0..1, to 0..255.

        Raises:
            UserError: The transform changed their type or range, so that their scale is in doubt.
        """
        is_float = pixels.is_floating_point()
        image: Tensor = self.transform(pixels)
        told = ""
        if image.dtype != pixels.dtype:
            told = f"{str(pixels.dtype).removeprefix('torch.')} images into {image.dtype}"
        elif is_float and not NEAR_UNIT[0] <= image.min() <= image.max() <= NEAR_UNIT[1]:
            told = f"pixels in 0..1 into {image.min():.2g} to {image.max():.2g}"
        if told:
            raise UserError(
                f"The transforms turn {told}; leave out conversion and normalisation, which the "
                "model does itself."
            )
        return 255 * image if is_float else image
