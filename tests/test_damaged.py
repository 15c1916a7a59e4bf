"""Damaged images end a training, or are skipped: the same ones in each run, and it is said."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier.__main__ import main
from classifier.data import ImageFolder
from classifier.module import ClassificationModule

FIT = """
trainer: {max_epochs: 2, accelerator: cpu}
model: {network: MNISTNet}
data:
  class_path: ImageFolder
  init_args:
    {root: photos, image_size: 24, batch_size: 4, num_workers: 0, on_error: skip, max_skipped: 0.4}
"""
DAMAGED = ["cat/0.jpg", "cat/5.jpg", "dog/2.jpg", "dog/11.jpg"]


@pytest.fixture
def photos(own_folder):
    """Photos of two classes in folders of train and val, some of them cut off, and a config."""
    draw = np.random.default_rng(0)
    for part, number in (("train", 12), ("val", 6), ("test", 6)):
        for name in ("cat", "dog"):
            Path("photos", part, name).mkdir(parents=True)
            for place in range(number):
                small = Image.fromarray(draw.integers(0, 255, (6, 8, 3), dtype=np.uint8))
                small.resize((80, 60)).save(f"photos/{part}/{name}/{place}.jpg")
    for name in DAMAGED:
        cut_off(Path("photos/train", name))
    cut_off(Path("photos/val/dog/3.jpg"))
    Path("photos.yaml").write_text(FIT)
    return Path("photos")


def cut_off(path):
    path.write_bytes(path.read_bytes()[:700])


def record(run):
    return json.loads((run / "run.json").read_text())


def test_a_damaged_image_ends_a_training_unless_it_is_to_be_skipped(photos, capfd):
    assert main(["fit", "--config", "photos.yaml", "--data.on_error", "raise"]) == 2

    error = capfd.readouterr().err
    assert "Cannot read image 'photos/" in error
    assert "data.on_error: skip" in error


def test_skipped_images_are_named_and_counted(photos, fit, capfd):
    run = fit("--config", "photos.yaml")

    error = capfd.readouterr().err
    named = ", ".join(f"'train/{name}'" for name in sorted(DAMAGED))
    assert f"skipped 4 damaged training images: {named}." in error
    assert "skipped 1 damaged validation images: 'val/dog/3.jpg'." in error
    assert error.count("skipped") == 2  # once each, not in each epoch
    assert record(run)["skipped"] == {
        "train": [f"train/{name}" for name in sorted(DAMAGED)],
        "val": ["val/dog/3.jpg"],
    }

    assert main(["validate", "--ckpt_path", str(run)]) == 0
    assert "11 of 12 validation images" in capfd.readouterr().out


def test_the_same_images_stand_in_with_and_without_workers_and_in_two_runs(photos, fit):
    runs = [
        fit("--config", "photos.yaml", "--data.num_workers", number) for number in ("0", "2", "0")
    ]

    assert len({record(run)["weights_sha256"] for run in runs}) == 1


@pytest.mark.parametrize("cache", [None, "memory", "disk"])
def test_a_training_that_skips_resumes_to_the_same_weights(cache, photos, fit):
    with_cache = ["--data.cache", cache] if cache else []
    whole = fit("--config", "photos.yaml", *with_cache)
    half = fit("--config", "photos.yaml", *with_cache, "--trainer.max_steps", "4")

    resume = ["fit", "--ckpt_path", str(half), "--trainer.max_steps", "-1"]
    assert main([*resume, "--trainer.max_epochs", "2"]) == 0

    assert record(half)["weights_sha256"] == record(whole)["weights_sha256"]


def test_another_image_of_its_class_stands_in_for_a_damaged_one(photos):
    data = ImageFolder("photos", num_workers=0, image_size=24, on_error="skip", max_skipped=0.4)
    data.setup("fit")
    images = data.sets["train"]
    names = [*images.names]
    damaged = names.index("train/dog/2.jpg")

    (image,), (label,) = images.__getitems__([damaged])
    (again,), _ = images.__getitems__([damaged])
    stand_in = images._another(damaged, 1)

    assert image.shape == (3, 24, 24)
    assert (image == again).all()
    assert label == images.labels[stand_in] == images.labels[damaged]
    assert stand_in != damaged


def test_validation_leaves_damaged_images_out(photos):
    data = ImageFolder("photos", num_workers=0, image_size=24, on_error="skip", max_skipped=0.4)
    data.setup("fit")

    (batch,) = data.val_dataloader()

    assert [len(part) for part in batch] == [11, 11]


def test_a_batch_of_damaged_images_alone_counts_in_no_metric(photos, fit):
    for name in ("cat", "dog"):
        for path in sorted(Path("photos/test", name).iterdir())[:2]:
            cut_off(path)
    run = fit("--config", "photos.yaml")

    test = ["test", "--ckpt_path", str(run), "--data.eval_batch_size", "1"]
    assert main(test) == 0


def test_images_in_memory_are_skipped_too(photos, fit, capfd):
    run = fit("--config", "photos.yaml", "--data.in_memory", "true")

    printed = capfd.readouterr()
    assert "skipped 4 damaged training images" in printed.err
    assert "24 / 11 / 12 images to train / validate / test" in printed.out
    assert main(["validate", "--ckpt_path", str(run)]) == 0
    assert "11 of 12 validation images" in capfd.readouterr().out


def test_a_training_gives_up_above_a_share_of_damaged_images(photos, capfd):
    assert main(["fit", "--config", "photos.yaml", "--data.max_skipped", "0.1"]) == 2

    error = capfd.readouterr().err
    assert "3 of 24 training images are damaged, more than data.max_skipped 0.1 allows" in error


@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_damaged_image_may_be_in_any_case(workers, photos, fit, capfd):
    for name in DAMAGED[1:]:
        Path("photos/train", name).unlink()

    fit("--config", "photos.yaml", "--data.max_skipped", "0.001", "--data.num_workers", workers)

    assert "skipped 1 damaged training images: 'train/cat/0.jpg'." in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["empty", "text", "missing"])
def test_what_is_no_image_is_skipped(kind, photos, fit, capfd):
    path = Path("photos/train/cat/1.jpg")
    if kind == "missing":
        path.unlink()
        path.symlink_to("nowhere.jpg")
    else:
        path.write_text("" if kind == "empty" else "no image")

    fit("--config", "photos.yaml")

    assert "skipped 5 damaged training images" in capfd.readouterr().err


def test_rows_of_skipped_images_are_empty_and_all_others_in_their_place(photos, fit):
    for name in ("cat/0.jpg", "cat/4.jpg", "dog/5.jpg"):
        cut_off(Path("photos/test", name))
    run = fit("--config", "photos.yaml")
    test = ["test", "--ckpt_path", str(run), "--data.eval_batch_size", "4"]
    assert main([*test, "--data.num_workers", "2"]) == 0
    with (run / "reports/test_0/predictions.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]

    assert [row["image"] for row in rows if not row["prediction"]] == [
        *("test/cat/0.jpg", "test/cat/4.jpg", "test/dog/5.jpg"),
    ]
    assert len(rows) == 12
    module = ClassificationModule.load_from_checkpoint(run)
    for row in (row for row in rows if row["prediction"]):
        (alone,) = module.predict([Path("photos", row["image"])])
        assert float(row["probability"]) == pytest.approx(alone.probability, abs=1e-5)
        assert row["label"] == row["image"].split("/")[1]


def test_checkpoints_that_skip_other_images_are_not_averaged(photos, fit, capfd):
    shutil.copytree("photos", "others")
    cut_off(Path("photos/test/cat/0.jpg"))
    cut_off(Path("others/test/dog/4.jpg"))
    runs = [
        str(fit("--config", "photos.yaml", "--data.root", root)) for root in ("photos", "others")
    ]

    assert main(["test", "--ckpt_path", *runs, "--output", "mean"]) == 2

    assert "reads other images than" in capfd.readouterr().err
    assert not Path("mean", "predictions.csv").exists()


@pytest.mark.parametrize("share", ["0", "1", "-0.1"])
def test_a_share_of_skipped_images_is_above_0_and_below_1(share, photos, capfd):
    assert main(["fit", "--config", "photos.yaml", "--data.max_skipped", share]) == 2
    assert "max_skipped is a share of the images" in capfd.readouterr().err


FAILING = """
import errno

import numpy as np
from classifier.images.readers import Reader


class Failing(Reader):
    def __call__(self, path):
        if path.name == "1.jpg":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return np.arange(2700, dtype=np.uint8).reshape(3, 30, 30)
"""


def test_what_the_disk_may_give_another_time_ends_a_training(photos, write_module, capfd):
    write_module(FAILING)

    assert main(["fit", "--config", "photos.yaml", "--data.reader", "own.Failing"]) == 2

    error = capfd.readouterr().err
    assert "Cannot read image 'photos/" in error
    assert "Input/output error" in error
