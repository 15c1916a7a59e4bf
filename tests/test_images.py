import contextlib
import io
import os
import random
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from classifier.errors import UserError
from classifier.images.read import ImageReader, read_image

RAMP = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5


def test_pixels_come_as_channels_rows_columns(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "ramp.png")

    image = read_image(tmp_path / "ramp.png", 3)

    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()  # channels innermost, as they are resized fastest
    assert torch.equal(image, torch.from_numpy(RAMP).permute(2, 0, 1))


def test_one_channel_is_greyscale(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "ramp.png")

    image = read_image(tmp_path / "ramp.png", 1)

    grey = RAMP @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2, as in Pillow
    assert image.shape == (1, 4, 4)
    assert np.abs(image[0].numpy() - grey).max() <= 1


def test_the_orientation_of_the_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the picture must be turned by 90 degrees clockwise
    Image.fromarray(RAMP[:2]).save(tmp_path / "turned.png", exif=exif)

    image = read_image(tmp_path / "turned.png", 3)

    assert torch.equal(image, torch.from_numpy(np.rot90(RAMP[:2], -1).copy()).permute(2, 0, 1))


def test_a_large_colour_profile_is_no_hindrance(tmp_path):
    profile = random.Random(0).randbytes(1000) * 4000
    Image.fromarray(RAMP).save(tmp_path / "print.png", icc_profile=profile)

    assert read_image(tmp_path / "print.png", 3).shape == (3, 4, 4)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.array([[0, 128, 129, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")

    assert read_image(tmp_path / "deep.png", 1).flatten().tolist() == [0, 0, 1, 100, 255]


def test_transparent_pixels_lie_over_white(tmp_path):
    pixels = np.array([[[0, 0, 0, 0], [10, 20, 30, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "clear.png")

    image = read_image(tmp_path / "clear.png", 3)

    assert image[:, 0].T.tolist() == [[255, 255, 255], [10, 20, 30]]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("CMYK", "jpg"), ("P", "png"), ("1", "png"), ("L", "jpg"), ("LA", "png"), ("RGBA", "webp")],
)
def test_every_usual_mode_is_read(tmp_path, mode, suffix):
    grey = Image.new("RGB", (6, 5), (102, 102, 102)).convert(mode, dither=Image.Dither.NONE)
    grey.save(tmp_path / f"image.{suffix}")

    image = read_image(tmp_path / f"image.{suffix}", 3)

    assert image.shape == (3, 5, 6)
    expected = 0 if mode == "1" else 102
    assert (image.int() - expected).abs().max() <= 4  # JPEG is not exact


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (200, 50)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])

    assert read_image(tmp_path / "film.gif", 1).unique().tolist() == [200]


def write_truncated(path):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "png")
    path.write_bytes(buffer.getvalue()[:-300])


def write_bomb(path):
    Image.new("1", (9500, 9500)).save(path)  # compresses to a few kB


def write_floats(path):
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(path, "tiff")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.touch(), "the file is empty"),
        (lambda path: path.mkdir(), "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.write_text("Dear user"), "not an image"),
        (write_truncated, "truncated"),
        (write_bomb, "more than 89,478,485 pixels"),
        (write_floats, "floating-point pixels"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason_in_one_line(tmp_path, write, reason):
    path = tmp_path / "image.png"
    write(path)

    with pytest.raises(ValueError, match=reason) as caught:
        read_image(path, 3)

    assert str(caught.value).startswith(f"Cannot read image '{path}': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpeg", "gif", "webp", "tiff"])
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path, suffix):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.tile(RAMP, (4, 4, 1))).save(buffer, suffix, exif=exif)
    draw = random.Random(0)
    path = tmp_path / f"image.{suffix}"

    for _ in range(60):
        content = bytearray(buffer.getvalue())
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(ValueError):
            assert read_image(path, 3).shape[0] == 3


def test_a_header_that_promises_a_giant_is_refused_before_decoding(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "bmp")
    content = bytearray(buffer.getvalue())
    content[18:26] = struct.pack("<ii", 60_000, 60_000)
    (tmp_path / "giant.bmp").write_bytes(content)

    with pytest.raises(ValueError, match="more than 89,478,485 pixels"):
        read_image(tmp_path / "giant.bmp", 1)


class ToUnitRange(nn.Module):
    def forward(self, image):
        return image / 255


def test_a_transform_that_changes_the_scale_is_refused(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "ramp.png")

    with pytest.raises(UserError, match="leave out conversion and normalisation"):
        ImageReader(3, ToUnitRange())(tmp_path / "ramp.png")
