"""What the screen says of a training and of an evaluation, read as a user reads it."""

import io
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import rich
from PIL import Image

from classifier.__main__ import main
from classifier.callbacks.progress import RichBar
from classifier.data import Digits, ImageFolder
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet

RESNET = {
    "class_path": "classifier.networks.torchvision_model",
    "init_args": {"name": "squeezenet1_1"},
}


@pytest.fixture
def photos(own_folder, write_config):
    """Twelve cats and twice as many dogs, of 40x30 pixels, and a config for them."""
    for name, number in ("cat", 12), ("dog", 24):
        Path("photos", name).mkdir(parents=True)
        for index in range(number):
            Image.new("RGB", (40, 30), (9 * index, 80, 10)).save(f"photos/{name}/{index}.png")
    settings = {"root": "photos", "image_size": 24, "batch_size": 4, "num_workers": 0}
    data = {"class_path": "classifier.data.ImageFolder", "init_args": settings}
    changes = {"trainer.max_epochs": 1, "trainer.limit_train_batches": 1, "data": data}
    return lambda more=(): write_config({**changes, **dict(more)})


def rows_of(text: str) -> dict[str, str]:
    """The rows of an aligned table, each of which may go on in indented lines."""
    joined = re.sub(r"\n {3,}", " ", text)
    return dict(re.findall(r"^(\w+) {2,}(.*)$", joined, re.M))


def test_the_start_says_what_is_trained_on(photos, capsys):
    config = photos({"model.network": RESNET})

    assert main(["fit", "--config", config]) == 0

    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert rows_of(captured.out) == {
        "run": "runs/tiny/version_0",
        "network": "squeezenet1_1, 723,522 parameters, from scratch",
        "data": "ImageFolder photos, 30 / 3 / 3 images to train / validate / test",
        "classes": "2, images to train: cat (10), dog (20)",
        "images": "24 x 24, RGB; in training RandomResizedCrop, RandomHorizontalFlip",
        "device": "cpu, 1 thread",
    }
    assert max(map(len, lines[:6])) <= 80


def test_augmentation_precision_and_given_weights_are_said(photos, capsys):
    assert main(["fit", "--config", photos({"model.network": RESNET})]) == 0
    erase = {"class_path": "classifier.augment.RandomErase"}
    mix = {"class_path": "torchvision.transforms.v2.MixUp"}
    flip = [{"class_path": "torchvision.transforms.v2.RandomHorizontalFlip"}]
    changes = {"data.init_args.augment": [erase], "data.init_args.mix": mix}
    crop = {"class_path": "torchvision.transforms.v2.RandomCrop", "init_args": {"size": 24}}
    changes |= {"data.init_args.train_transform": [*flip, crop]}
    config = photos(changes)
    capsys.readouterr()

    assert main(["fit", "--config", config, "--trainer.precision", "bf16-mixed"]) == 0

    rows = rows_of(capsys.readouterr().out)
    augmentation = "RandomHorizontalFlip, RandomCrop, RandomErase, MixUp"
    assert rows["images"] == f"24 x 24, RGB; in training {augmentation}"
    assert rows["device"] == "cpu, 1 thread, precision bf16-mixed"
    assert rows["network"] == "MNISTNet, 4,038 parameters"

    assert main(["fit", "--ckpt_path", "runs/tiny/version_0", "--trainer.max_epochs", "2"]) == 0

    weights = "weights of runs/tiny/version_0/checkpoints/last.ckpt"
    rows = rows_of(capsys.readouterr().out)
    assert rows["network"] == f"squeezenet1_1, 723,522 parameters, {weights}"


def test_of_many_classes_only_the_rarest_and_the_commonest_are_named():
    for index in range(13):
        Path(f"many/c{index:02}").mkdir(parents=True)
        for number in range(10 + 10 * (index == 4)):
            Image.new("L", (8, 8)).save(f"many/c{index:02}/{number}.png")
    data = ImageFolder("many", 8, num_workers=0)
    data.setup("fit")

    assert data.summary()["classes"] == "13, with 8 (c00) to 16 (c04) images to train"


def test_a_batch_of_more_images_than_there_are_is_noted(photos, capsys):
    assert main(["fit", "--config", photos({"data.init_args.batch_size": 31})]) == 0
    assert capsys.readouterr().err == (
        "note: data.batch_size 31 is more than the 30 training images, so each epoch is a single "
        "step.\n"
    )


def test_files_that_are_no_images_are_counted(photos, capsys):
    config = photos()
    for name in ("cat/notes.txt", "dog/more.txt", "dog/list.csv", "dog/README"):
        Path("photos", name).touch()

    assert main(["fit", "--config", config]) == 0

    assert capsys.readouterr().err == (
        "note: left out 4 files that are no images: 2 .txt, 1 .csv, 1 without a suffix.\n"
    )


def test_test_and_validate_show_each_metric_in_a_row_with_four_digits(trained, capsys):
    for verb, part, number in ("test", "test", 359), ("validate", "val", 143):
        assert main([verb, "--ckpt_path", str(trained)]) == 0

        captured = capsys.readouterr()
        assert captured.err == ""
        rows = rows_of(captured.out)
        name = "validation" if part == "val" else part
        assert rows.pop("data") == f"Digits, {number} {name} images"
        assert rows.pop("checkpoint").endswith("version_0/checkpoints/best.ckpt")
        assert rows.pop("predictions").endswith(f"version_0/reports/{verb}_0/predictions.csv")
        assert [*rows] == [f"{part}_{m}" for m in ("accuracy", "accuracy_top5", "f1", "loss")]
        assert all(re.fullmatch(r"\d\.\d{4}", value) for value in rows.values())

    assert main(["test", "--ckpt_path", str(trained), "--verbose", "false"]) == 0
    assert capsys.readouterr().out == ""


TWO_LOADERS = """
from classifier.data import Digits, ImageFolder
from classifier.module import ClassificationModule


class Twice(Digits):
    def test_dataloader(self):
        return [super().test_dataloader(), self.val_dataloader()]


class Module(ClassificationModule):
    def test_step(self, batch, batch_idx, dataloader_idx=0):
        images, labels = batch
        self.log("test_brightness", images.float().mean())
        self.log("test_label", labels.float().mean() + dataloader_idx)
"""


def test_several_loaders_have_a_column_each(write_config, write_module, trained, capsys):
    write_module(TWO_LOADERS)
    classes = ["--model=own.Module", "--data=own.Twice"]

    assert main(["test", "--ckpt_path", str(trained), *classes]) == 0

    rows = rows_of(capsys.readouterr().out)
    assert rows["loader"].split() == ["0", "1"]
    first, second = map(float, rows["test_label"].split())
    assert second == pytest.approx(first + 1, abs=0.2)
    assert len(rows["test_brightness"].split()) == 2


def test_early_stopping_says_which_metric_and_how_long(write_config, capsys):
    stopping = {"monitor": "val_loss", "patience": 1, "min_delta": 9.0}
    callback = {"class_path": "EarlyStopping", "init_args": stopping}

    assert main(["fit", "--config", write_config({"trainer.callbacks": [callback]})]) == 0

    reason = r"ended by EarlyStopping \(val_loss did not improve in the last record, best score: "
    assert re.search(reason + r"\d\.\d+\); change its arguments", capsys.readouterr().out)


class Rate(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, *args):
        pl_module.log("mine", 0.5, prog_bar=True)


def test_the_bar_counts_as_the_lines_and_goes_with_the_training():
    screen = io.StringIO()
    settings = {"file": screen, "force_terminal": True, "width": 80}
    bar = RichBar(refresh_rate=1000, console_kwargs=settings)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, limit_train_batches=3, callbacks=[bar, Rate()], **quiet)
    module = ClassificationModule(MNISTNet(width=2), [*"0123456789"])

    try:
        trainer.fit(module, Digits())
    finally:
        rich.reconfigure()

    frames = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    shown = [line for line in re.split(r"[\r\n]+", frames) if "epoch" in line]
    assert {line.split()[1] for line in shown} == {"1/2", "2/2"}
    assert any("3/3 0:00:00 left" in line for line in shown)
    assert any("mine: 0.500" in line for line in shown)
    assert max(map(len, shown)) <= 80
    assert not re.search(r"loss|\b0\.0/s|\b0\.00it/s", frames)
    # The last that the terminal is told is to go up and clear the line.
    assert re.search(r"\x1b\[1A\x1b\[2K$", screen.getvalue())
