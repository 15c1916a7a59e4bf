"""Data modules of a user, written as Lightning documents them, or over a source of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import classifier
from classifier.__main__ import main

OWN = """
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from classifier.data import FileDataModule, ImageDataModule
from classifier.sources import Index, Source


class Mine(ImageDataModule):
    class_names = ["dark", "light"]

    def setup(self, stage):
        labels = torch.arange(48) % 2
        images = torch.randint(0, 128, (48, 3, 8, 8)) + 127 * labels[:, None, None, None]
        self.train_set = TensorDataset(self.convert(images.byte())[:32], labels[:32])
        self.val_set = TensorDataset(self.convert(images.byte())[32:], labels[32:])

    def convert(self, images):
        return images

    def train_dataloader(self):
        return DataLoader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, 8)

    test_dataloader = val_dataloader


class Grey(Mine):
    def convert(self, images):
        return images[:, :1]


class Declared(Grey):
    def __init__(self, num_workers: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.num_workers = num_workers
        self.num_classes, self.in_channels, self.mean = 2, 1, [0.4]


class Floats(Mine):
    def convert(self, images):
        return images / 255


class Renamed(Mine):
    class_names = ["light", "dark"]


class Late(Mine):
    @property
    def class_names(self):
        return self.train_set.classes


class Twice(Mine):
    def val_dataloader(self):
        return [super(Twice, self).val_dataloader() for _ in range(2)]

    test_dataloader = val_dataloader


class Bare(ImageDataModule):
    class_names = ["dark", "light"]


class Listed(Source):
    class_names = ("dark", "light")

    def index(self):
        paths = sorted(Path("photos").iterdir())
        labels = torch.tensor([path.name.startswith("light") for path in paths]).long()
        return {"train": Index(paths, labels, [path.name for path in paths])}

    def notes(self):
        return ["one list is all there is."]


class OverSource(FileDataModule):
    image_source = Listed()
"""


@pytest.fixture(autouse=True)
def own(write_module):
    write_module(OWN)


@pytest.fixture
def command(write_config):
    """Trains a small network on a class of the module for two epochs."""

    def complete(name, *arguments):
        changes = {
            "model.network.class_path": "classifier.networks.SmallResNet",
            "model.network.init_args": {"depth": 8, "width": 4},
            "data": {"class_path": f"own.{name}", "init_args": {"batch_size": 8}},
        }
        return ["fit", "--config", write_config(changes), *arguments]

    return complete


@pytest.mark.parametrize("name", ["Mine", "Declared"])
def test_setup_loaders_and_class_names_are_enough_to_train_resume_and_test(name, command, capsys):
    assert main(command(name)) == 0

    output = capsys.readouterr()
    assert f"data     {name}\nclasses  2\n" in output.out
    assert f"note: {name} has its own train_dataloader" in output.err
    folder = Path("runs/tiny/version_0")
    data = json.loads((folder / "run.json").read_text())["data"]
    assert data["class_names"] == ["dark", "light"]
    assert (data["in_channels"], data["mean"]) == (
        (3, [0.485, 0.456, 0.406]) if name == "Mine" else (1, [0.4])
    )
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "3"]) == 0
    assert "epoch 3/3" in capsys.readouterr().out
    assert main(["test", "--ckpt_path", str(folder)]) == 0
    assert "test_accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "lack"),
    [
        ("Grey", "The images of Grey have 1 channels, but its in_channels is 3: define in_channel"),
        ("Late", "Late does not know its class_names before setup; define them, a list of texts"),
        ("Bare", "Bare does not say what images there are: define image_source, or setup and the"),
    ],
)
def test_what_a_data_module_lacks_is_said(name, lack, command, capsys):
    assert main(command(name)) == 2

    assert f"error: {lack}" in capsys.readouterr().err


def test_several_loaders_of_a_stage_are_refused_before_a_step(command, capsys):
    assert main(command("Twice")) == 2
    assert "error: val_dataloader returns several loaders, expected one" in capsys.readouterr().err

    assert main(command("Mine", "--trainer.max_epochs", "1")) == 0
    run = "runs/tiny/version_1"
    assert main(["test", "--ckpt_path", run, "--data", "own.Twice"]) == 2
    assert "error: test_dataloader returns several loaders, expected one" in capsys.readouterr().err


def test_images_that_are_normalised_already_are_warned_of(command, capsys):
    assert main(command("Floats", "--trainer.max_epochs", "1")) == 0

    assert capsys.readouterr().err.count("the images of Floats are not in 0..255") == 1


def test_settings_win_over_what_a_data_module_says_itself(command):
    assert main(command("Declared", "--data.std", "[0.3]", "--trainer.max_epochs", "1")) == 0

    record = json.loads(Path("runs/tiny/version_0/run.json").read_text())
    assert record["data"]["std"] == [0.3]


def test_a_checkpoint_of_other_classes_is_refused(command, capsys):
    assert main(command("Mine")) == 0

    assert main(["test", "--ckpt_path", "runs/tiny/version_0", "--data", "own.Renamed"]) == 2
    assert "class 0 is 'light', expected 'dark'" in capsys.readouterr().err


def test_prediction_asks_for_a_reader(command, capsys):
    assert main(command("Mine", "--trainer.max_epochs", "1")) == 0
    Image.new("RGB", (8, 8)).save("photo.png")

    predict = ["predict", "--ckpt_path", "runs/tiny/version_0", "--images", "photo.png"]
    assert main(predict) == 2

    assert "Mine does not say how an image file is read: define reader" in capsys.readouterr().err


def test_a_source_of_ones_own_is_split_read_and_predicted(command, capsys):
    Path("photos").mkdir()
    for index in range(40):
        name, level = ("light", 200) if index % 2 else ("dark", 20)
        Image.new("RGB", (12, 12), (level, index, level)).save(f"photos/{name}{index}.png")

    small = ["--data.image_size", "8", "--data.num_workers", "0"]
    assert main(command("OverSource", *small)) == 0

    output = capsys.readouterr()
    assert "OverSource, 32 / 4 / 4 images to train / validate / test" in output.out
    assert output.err == "note: one list is all there is.\n"
    predict = ["predict", "--ckpt_path", "runs/tiny/version_0", "--images", "photos"]
    assert main(predict) == 0


NOTEBOOK = """
import sys
from pathlib import Path

from torchvision.transforms.v2 import Resize

from classifier.images.read import ImageReader
from classifier.sources.folder import Folder

source = Folder(Path("animals"))
train = source.index()["train"]
image = ImageReader(3, Resize([4, 4]))(train.images[0])
print(*source.class_names, *train.keys, train.labels.tolist(), tuple(image.shape))
assert "pytorch_lightning" not in sys.modules
"""


def test_a_source_is_listed_and_read_without_lightning():
    for name in ("cat", "dog"):
        Path("animals", name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(f"animals/{name}/0.png")

    command = [sys.executable, "-c", NOTEBOOK]
    environment = {**os.environ, "PYTHONPATH": str(Path(classifier.__file__).parents[1])}
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)

    assert found.stdout == f"cat dog {Path('cat/0.png')} {Path('dog/0.png')} [0, 1] (3, 4, 4)\n"
