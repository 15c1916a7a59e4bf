"""Images that are decoded once, and those that are decoded smaller, give what others give."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from disks import fill, small_disk
from PIL import Image
from torchvision.transforms import v2

from classifier.__main__ import main
from classifier.data import ImageFolder
from classifier.data.cache import keep
from classifier.images.cache import DiskShards, Kept, name_of
from classifier.images.read import ImageReader, read_image
from classifier.images.shape import DrawnCrop
from classifier.runs import read_metrics
from classifier.seeds import seeded

NUMBER = 10  # photos of each class
FIT = """
trainer: {max_epochs: 2, accelerator: cpu}
model: {network: MNISTNet}
data:
  class_path: ImageFolder
  init_args: {root: photos, image_size: 24, batch_size: 4, num_workers: 0}
"""


@pytest.fixture
def photos(own_folder):
    """JPEGs of smooth colours and of any shape, in two classes, and ``photos.yaml``."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for number in range(NUMBER):
            small = Image.fromarray(draw.integers(0, 255, (6, 8, 3), dtype=np.uint8))
            sides = 90 + 10 * number, 150 - 5 * number
            small.resize(sides, Image.Resampling.BICUBIC).save(f"photos/{name}/{number}.jpg")
    Path("photos.yaml").write_text(FIT)
    return Path("photos")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "classifier" / "images"


def wait_until(reached):
    for _ in range(600):
        if reached():
            return
        time.sleep(0.05)
    raise AssertionError


def weights(run):
    return json.loads((run / "run.json").read_text())["weights_sha256"]


def shards(folder):
    return sorted(folder.rglob("*.pixels"))


# ---- a cache ----


def test_weights_are_the_same_from_memory_from_disk_and_from_what_another_run_kept(
    photos, cache, fit, capfd
):
    run = ["--config", "photos.yaml", "--data.cache"]

    in_memory = weights(fit(*run, "memory"))
    assert "decoding 16 images once" in capfd.readouterr().err
    cold = weights(fit(*run, "disk", "--data.num_workers", "2"))
    assert str(cache) in capfd.readouterr().err
    warm = weights(fit(*run, "disk"))

    assert in_memory == cold == warm
    assert "decoding" not in capfd.readouterr().err
    assert weights(fit("--config", "photos.yaml")) != warm  # crops of whole photos


def test_validation_measures_the_same_with_a_cache_and_without(photos, cache, fit):
    run = fit("--config", "photos.yaml", "--data.cache", "disk")
    (row, *_) = [r for r in read_metrics(run) if r["val_loss"]]
    data = {
        where: ImageFolder("photos", num_workers=0, image_size=24, cache=where)
        for where in (None, "memory", "disk")
    }
    for module in data.values():
        module.setup("fit")

    first, *others = [next(iter(module.val_dataloader()))[0] for module in data.values()]
    assert all(torch.equal(first, other) for other in others)
    assert all(first.stride() == other.stride() for other in others)
    assert float(row["val_loss"]) > 0


def test_a_killed_run_that_has_a_cache_resumes_to_the_same_weights(photos, cache, fit):
    whole = fit("--config", "photos.yaml", "--data.cache", "disk")
    half = fit("--config", "photos.yaml", "--data.cache", "disk", "--trainer.max_epochs", "1")

    assert main(["fit", "--ckpt_path", str(half), "--trainer.max_epochs", "2"]) == 0

    assert weights(half) == weights(whole)


def test_an_image_that_has_changed_is_decoded_again(photos, cache, fit, capfd):
    run = ["--config", "photos.yaml", "--data.cache", "disk"]
    fit(*run)
    for path in sorted(photos.rglob("*.jpg")):
        os.utime(path, ns=(0, 0))
        break
    capfd.readouterr()

    fit(*run)

    assert "decoding 1 images once" in capfd.readouterr().err


def test_settings_that_make_other_pixels_have_a_cache_of_their_own(photos, cache, fit, capfd):
    run = ["--config", "photos.yaml", "--data.cache", "disk"]
    fit(*run)
    for changed in (["--data.image_size", "20"], ["--data.interpolation", "bicubic"]):
        capfd.readouterr()
        fit(*run, *changed)
        assert "decoding 16 images once" in capfd.readouterr().err
    capfd.readouterr()
    fit(*run, "--data.crop_share", "1.0")
    assert capfd.readouterr().err.count("decoding") == 1  # for validation alone


@pytest.mark.parametrize("left", [0, 7, 100])
def test_a_shard_that_is_damaged_is_not_used(left, photos, cache, fit):
    run = ["--config", "photos.yaml", "--data.cache", "disk"]
    first = weights(fit(*run))
    for shard in shards(cache):
        shard.write_bytes(shard.read_bytes()[:left])

    assert weights(fit(*run)) == first


def test_a_cache_that_would_take_more_than_half_of_what_is_free_is_refused(
    photos, cache, capfd, monkeypatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=100_000))

    assert main(["fit", "--config", "photos.yaml", "--data.cache", "disk"]) == 2

    error = capfd.readouterr().err
    assert "data.cache: 16 images take about 0 MB in '" in error
    assert not Path("runs").exists()


def test_images_that_a_full_disk_does_not_take_are_decoded_each_time(photos, cache, capfd):
    data = ImageFolder("photos", num_workers=0, image_size=24)
    data.setup("fit")
    images = data.sets["train"]
    expected, _ = images.__getitems__([0, 1, 2])
    calls = []

    def filling(size):
        calls.append(size)
        if len(calls) == len(images) + 3:  # after those that are measured
            fill(cache)
        return 1, torch.Tensor.contiguous

    cache.mkdir(parents=True)
    with small_disk(cache, "3m"):
        images.read = dataclasses.replace(images.read, first=filling)
        images.kept = keep(images, "disk", "settings", 0)
        assert not [path for path in cache.rglob("*") if path.suffix in (".part", ".pixels")]

    assert "images that are not in the cache are decoded each time" in capfd.readouterr().err
    assert images.kept.missing == [*range(len(images))]
    assert images.__getitems__([0, 1, 2])[0].shape[0] == len(expected)


def test_two_processes_fill_one_cache_and_each_image_is_decoded_once(photos, cache):
    command = [sys.executable, "-m", "classifier", "fit", "--config", "photos.yaml"]
    both = [
        subprocess.Popen([*command, "--data.cache", "disk"], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]

    assert [process.returncode for process in both] == [0, 0], said
    first, second = (weights(run) for run in Path("runs").glob("*/*"))
    assert first == second
    assert sorted(text.count("decoding") for text in said) == [0, 2]


def test_a_process_that_is_killed_while_it_fills_a_cache_leaves_only_whole_shards(
    photos, cache, fit, monkeypatch
):
    run = ["--config", "photos.yaml", "--data.cache", "disk"]
    first = weights(fit(*run))
    for shard in shards(cache):
        shard.unlink()
    small = (  # shards of one image
        "import sys; from classifier.__main__ import main; from classifier.images import cache; "
        "cache.SHARD_BYTES = 1; main(sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", small, "fit", *run], stderr=subprocess.PIPE)
    wait_until(lambda: len(shards(cache)) > 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert weights(fit(*run)) == first
    assert not [*cache.rglob("*.part")]


def test_a_cache_in_memory_is_read_by_processes_that_were_not_forked(photos):
    data = ImageFolder("photos", num_workers=0, image_size=24, cache="memory")
    data.setup("fit")
    images = data.sets["train"]

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(images.kept.__class__.__getitem__, (images.kept, 0))

    assert torch.equal(found, images.kept[0])


def test_nothing_is_kept_of_images_whose_file_is_missing(photos, cache):
    data = ImageFolder("photos", num_workers=0, image_size=24)
    data.setup("fit")
    images = data.sets["train"]
    images.raw[3].unlink()

    kept = keep(images, "disk", "settings", 0)

    assert kept.missing == [3]
    assert kept[3] is None
    assert kept[4].dtype == torch.uint8


def test_the_names_in_a_cache_tell_files_from_each_other(photos):
    one, other = sorted(photos.rglob("*.jpg"))[:2]
    name = name_of(one)
    os.utime(other, ns=(one.stat().st_atime_ns, one.stat().st_mtime_ns))

    assert name_of(one) == name != name_of(other)
    one.write_bytes(one.read_bytes() + b" ")
    assert name_of(one) != name


def test_an_image_is_found_among_shards_by_its_name_alone(tmp_path):
    shards = DiskShards(tmp_path)
    draw = torch.Generator().manual_seed(0)
    images = {
        bytes([0] * 15 + [number]): torch.randint(0, 255, (3, 4 + number, 5), generator=draw)
        for number in range(1, 20)
    }
    shards.add((name, image.byte()) for name, image in images.items())
    names = [*images][::-2]

    kept = Kept(DiskShards(tmp_path), [b"", *names, b"other"])

    assert kept.missing == [0, len(names) + 1]
    for place, name in enumerate(names, 1):
        assert torch.equal(kept[place], images[name].byte())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["--data.in_memory", "true", "--data.cache", "memory"], "leave out cache"),
        (
            ["--data.cache", "disk", "--data.eval_transform", "[torchvision.transforms.v2.Resize]"],
            "size",
        ),
        (["--data.cache", "ram"], "cache"),
        (["--data.max_skipped", "2"], "max_skipped"),
        (["--data.on_error", "ignore"], "on_error"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(settings, told, photos, capfd):
    assert main(["fit", "--config", "photos.yaml", *settings]) == 2
    assert told in capfd.readouterr().err
    assert not Path("runs").exists()


# ---- decoding at a reduced scale ----


def crops(size):
    crop = v2.RandomResizedCrop(size, (0.08, 1), antialias=True)
    rest = torch.nn.Sequential(v2.RandomHorizontalFlip())
    whole = ImageReader(3, torch.nn.Sequential(crop, *rest))
    return whole, ImageReader(3, rest, DrawnCrop(crop))


def read_by_both(path, size, seed):
    found = []
    for reader in crops(size):
        with seeded(seed):
            found.append(reader(path).float())
    return found


@pytest.mark.parametrize("turned", [1, 3, 6, 8])
def test_a_crop_that_is_drawn_before_decoding_shows_the_same(turned, tmp_path):
    rows, columns = np.mgrid[0:480, 0:720]
    waves = [np.sin(rows / 60 + k) * np.cos(columns / 80 - k) for k in range(3)]
    pixels = (127 + 100 * np.stack(waves, -1)).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = turned
    image.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    image.save(tmp_path / "photo.png", exif=exif)

    for seed in range(20):
        whole, smaller = read_by_both(tmp_path / "photo.jpg", 32, seed)
        assert (whole - smaller).abs().mean() < 4  # of 255: a shift of half a pixel at most
        same, as_before = read_by_both(tmp_path / "photo.png", 32, seed)
        assert torch.equal(same, as_before)
        same, as_before = read_by_both(tmp_path / "photo.jpg", 470, seed)  # no smaller scale does
        assert torch.equal(same, as_before)


@pytest.mark.parametrize(("times", "scale"), [(9, 8), (8, 8), (7.9, 4), (2, 2), (1.9, 1)])
def test_a_jpeg_is_decoded_no_larger_than_needed(times, scale, tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "photo.jpg")
    Image.new("RGB", (640, 480)).save(tmp_path / "photo.png")

    for name, expected in (("photo.jpg", scale), ("photo.png", 1)):
        image = read_image(tmp_path / name, 3, first=lambda size: (times, torch.Tensor.contiguous))
        assert image.shape == (3, 480 // expected, 640 // expected)
