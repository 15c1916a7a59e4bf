"""Any LightningDataModule, by its class path alone or with what the config says of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import classifier
from classifier import runs
from classifier.__main__ import main
from classifier.cli import ClassifierCLI
from classifier.errors import UserError

pytestmark = pytest.mark.filterwarnings(  # of data that is not this package's
    "ignore:.*does not have many workers", "ignore:.*is smaller than the logging interval"
)
OWN = """
import json
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Plain(pl.LightningDataModule):
    classes = ["dark", "light"]

    def __init__(
        self, batch_size: int = 8, form: str = "pair", low: float = 0, high: float = 255,
        channels: int = 3, labels: str = "int64",
    ):
        super().__init__()
        self.batch_size = batch_size
        self.form, self.low, self.high, self.channels = form, low, high, channels
        self.labels = labels

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(48) % 2
        noise = torch.randint(0, 128, (48, self.channels, 8, 8), generator=generator)
        images = (noise + 127 * labels[:, None, None, None]).byte()
        if (self.low, self.high) != (0, 255):
            images = images / 255 * (self.high - self.low) + self.low
        self.images, self.targets = images, labels.to(getattr(torch, self.labels))

    def loader(self, part, shuffle):
        data = TensorDataset(self.images[part], self.targets[part])
        return DataLoader(data, self.batch_size, shuffle=shuffle, collate_fn=self.collate)

    def collate(self, rows):
        images, labels = (torch.stack(column) for column in zip(*rows, strict=True))
        return {
            "pair": (images, labels),
            "list": [images, labels],
            "mapping": {"image": images, "label": labels, "path": ["x"] * len(rows)},
            "triple": (images, labels, labels),
            "others": {"pixel_values": images, "labels": labels},
            "flat": (images.flatten(1), labels),
            "column": (images, labels[:, None]),
            "texts": (images, ["x"] * len(rows)),
        }[self.form]

    def train_dataloader(self):
        return self.loader(slice(32), True)

    def val_dataloader(self):
        return self.loader(slice(32, 48), False)

    def test_dataloader(self):
        return self.loader(slice(32, 48), False)


class Unnamed(Plain):
    classes = None


class Counted(Unnamed):
    num_classes = 2


class Late(Unnamed):
    @property
    def num_classes(self):
        return len(self.targets.unique())


class Swapped(Plain):
    classes = ["light", "dark"]


class Grey(Plain):
    in_channels = 1

    def __init__(self, **settings):
        super().__init__(channels=1, **settings)


class TrainOnly(Unnamed):
    num_classes = 2
    val_dataloader = pl.LightningDataModule.val_dataloader
    test_dataloader = pl.LightningDataModule.test_dataloader


class Stored(Plain):
    def __init__(self, data_dir: str, mean: float | None = None):
        super().__init__()
        self.data_dir = data_dir

    def setup(self, stage):
        assert Path(self.data_dir).is_dir()
        super().setup(stage)


class Hooked(Plain):
    calls = []

    def note(self, name):
        assert self.trainer is not None
        self.calls.append(name)
        Path("calls.json").write_text(json.dumps(self.calls))

    def prepare_data(self):
        self.note("prepare_data")

    def setup(self, stage):
        self.note("setup " + stage)
        super().setup(stage)

    def teardown(self, stage):
        self.note("teardown " + stage)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.note("before")
        return {"x": batch[0], "y": batch[1]}

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.note("transfer")
        return {name: part.to(device) for name, part in batch.items()}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.note("after")
        return batch["x"], batch["y"]

    def state_dict(self):
        return {"number": 7}

    def load_state_dict(self, state):
        self.note(f"state {state['number']}")
"""
SETTINGS = {"class_names": ["dark", "light"], "in_channels": 3, "mean": [0.5], "std": [0.25]}


@pytest.fixture(autouse=True)
def own(write_module):
    write_module(OWN)


@pytest.fixture
def command(write_config):
    """Trains a small network on a class of the module, given alone or within LightningData."""

    def complete(name, *arguments, wrapped=None, **init_args):
        data = {"class_path": f"own.{name}", "init_args": init_args}
        if wrapped is not None:
            data = {"class_path": "LightningData", "init_args": {"data": data, **wrapped}}
        changes = {
            "model.network.class_path": "classifier.networks.SmallResNet",
            "model.network.init_args": {"depth": 8, "width": 4},
            "data": data,
        }
        return ["fit", "--config", write_config(changes), *arguments]

    return complete


RUN = Path("runs/tiny/version_0")
EPOCH = ("--trainer.max_epochs", "1")


@pytest.mark.parametrize("form", ["pair", "list", "mapping"])
def test_a_data_module_of_lightning_is_trained_validated_tested_and_resumed(form, command, capsys):
    assert main(command("Plain", form=form)) == 0

    output = capsys.readouterr()
    assert "data     Plain, an unknown number of images\nclasses  2\n" in output.out
    assert output.err.count("note: Plain does not say") == 1
    record = runs.read_record(RUN)
    assert record["data"]["class_names"] == ["dark", "light"]
    assert (record["data"]["fingerprint"], "order on resume" in record["data"]["unknown"]) == (
        *("", True),
    )
    saved = yaml.safe_load((RUN / "config.yaml").read_text())
    assert saved["data"]["class_path"] == "own.Plain"  # what the user wrote
    assert main(["fit", "--ckpt_path", str(RUN), "--trainer.max_epochs", "3"]) == 0
    assert "epoch 3/3" in capsys.readouterr().out
    for verb in ("validate", "test"):
        assert main([verb, "--ckpt_path", str(RUN)]) == 0
    output = capsys.readouterr()
    assert "test_accuracy" in output.out
    kept = "predictions are not kept: Plain loads the images itself, in an order not known."
    assert output.err == f"note: {kept}\n" * 2


def test_a_training_of_it_that_ended_inside_an_epoch_goes_on(command, capsys):
    assert main(command("Plain", "--trainer.max_steps", "2")) == 0

    resume = ["fit", "--ckpt_path", str(RUN), "--trainer.max_steps", "-1"]
    with pytest.warns(UserWarning, match="your dataloader is not resumable"):
        assert main(resume) == 0
    rows = runs.read_metrics(RUN)
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "4"), ("1", "8")]


def logits(run, images):
    from classifier.module import ClassificationModule

    module = ClassificationModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    with torch.no_grad():
        return module.eval()(images)


@pytest.mark.parametrize(
    ("low", "high", "range_"),
    [(0, 1, [0, 1]), (-1, 1, [-1, 1]), (-2, 2, "normalised"), (0, 255, None)],
)
def test_whatever_the_range_the_network_is_trained_on_pixels(low, high, range_, command):
    for settings in ({"low": low, "high": high, "labels": "int32"}, {}):
        wrapped = {**SETTINGS, "range": range_ if settings else None}
        assert main(command("Plain", wrapped=wrapped, **settings)) == 0

    images = torch.randint(0, 256, (4, 3, 8, 8))
    by_range, by_pixels = (logits(RUN.with_name(f"version_{n}"), images) for n in (0, 1))
    torch.testing.assert_close(by_range, by_pixels, rtol=1e-3, atol=1e-3)


def test_what_the_config_says_stands_in_the_checkpoint_and_rebuilds_it(command, capsys):
    wrapped = {**SETTINGS, "in_channels": 1, "range": [0, 1]}
    grey = command("Unnamed", *EPOCH, wrapped=wrapped, channels=1, high=1)
    assert main(grey) == 0

    data = torch.load(RUN / "checkpoints" / "best.ckpt", weights_only=True)["classifier"]["data"]
    assert data == {**SETTINGS, "in_channels": 1}
    assert main(["test", "--ckpt_path", str(RUN)]) == 0
    assert "test_accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "names"), [("Counted", ["0", "1"]), ("Grey", ["dark", "light"])])
def test_what_its_attributes_say_need_not_be_written(name, names, command):
    assert main(command(name, *EPOCH)) == 0

    data = runs.read_record(RUN)["data"]
    assert (data["class_names"], data["in_channels"]) == (names, 1 if name == "Grey" else 3)


def test_its_hooks_are_called_and_its_state_is_kept(command):
    assert main(command("Hooked", *EPOCH, "--trainer.num_sanity_val_steps", "0")) == 0

    calls = json.loads(Path("calls.json").read_text())
    assert calls[:5] == ["prepare_data", "setup fit", "before", "transfer", "after"]
    assert calls.count("after") == 6
    assert calls[-1] == "teardown fit"
    checkpoint = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["LightningData"] == {"number": 7}
    assert main(["fit", "--ckpt_path", str(RUN), "--trainer.max_epochs", "2"]) == 0
    assert "state 7" in json.loads(Path("calls.json").read_text())


def test_without_validation_it_is_trained_all_the_same(command, capsys):
    words = command("TrainOnly", *EPOCH, "--model.monitor", "train_loss")
    with pytest.warns(UserWarning, match="have no `val_dataloader`"):
        assert main(words) == 0
    assert "val_loss" not in capsys.readouterr().out


def test_files_are_predicted_by_other_data_that_reads_them(command, capsys):
    assert main(command("Hooked", *EPOCH)) == 0
    Path("calls.json").unlink()
    Image.new("RGB", (9, 9)).save("photo.png")
    predict = ["predict", "--ckpt_path", str(RUN), "--images", "photo.png"]

    assert main(predict) == 2
    told = capsys.readouterr().err
    assert "error: Hooked does not say how an image file is read" in told
    assert not Path("calls.json").exists()  # nothing was downloaded for it
    other = ["--data", "ImageFolder", "--data.root", ".", "--data.image_size", "8"]
    assert main([*predict, *other]) == 0
    assert Path("predictions.csv").read_text().count("\n") == 2


def test_a_checkpoint_of_other_classes_is_refused(command, capsys):
    assert main(command("Plain", *EPOCH)) == 0

    assert main(["test", "--ckpt_path", str(RUN), "--data", "own.Swapped"]) == 2
    assert "class 0 is 'light', expected 'dark'" in capsys.readouterr().err


def test_a_strangers_checkpoint_that_names_one_is_refused_without_trust(
    command, capsys, monkeypatch
):
    assert main(command("Plain", *EPOCH)) == 0
    monkeypatch.setenv("CLASSIFIER_KEY", "another")
    test = ["test", "--ckpt_path", str(RUN / "checkpoints" / "best.ckpt")]

    assert main(test) == 2
    assert "names 'own.Plain', and importing that would run its code" in capsys.readouterr().err
    assert main([*test, "--trust", "own"]) == 0


def test_a_run_of_other_data_trusts_nothing_of_lightning(fit, write_config):
    assert runs.read_record(fit("--config", write_config()))["trusted"] == []


@pytest.mark.parametrize("wrapped", [None, SETTINGS])
def test_its_folder_is_found_from_elsewhere(wrapped, command, monkeypatch):
    Path("photos").mkdir()
    assert main(command("Stored", *EPOCH, wrapped=wrapped, data_dir="photos")) == 0

    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["test", "--ckpt_path", str(Path("..", RUN))]) == 0


def test_pretrained_weights_prepare_what_is_said_in_their_terms(command):
    def built(**data):
        network = {"class_path": "classifier.networks.efficientnet_lite0"}
        network["init_args"] = {"pretrained": True}
        return ClassifierCLI(args={"model": {"network": network}, "data": data}, run=False)

    stored = {"class_path": "own.Stored", "init_args": {"data_dir": "."}}
    assert built(**stored).settings.data.init_args.mean is None
    scaled = {"data": stored, "range": [0, 1]}
    cli = built(class_path="LightningData", init_args=scaled)
    assert cli.settings.data.init_args.mean == cli.datamodule.mean == cli.model.hparams["mean"]
    assert cli.notes[-1].startswith("images are prepared as for the pretrained weights: mean")
    with pytest.raises(UserError, match=r"data\.mean and data\.std must say"):
        built(class_path="LightningData", init_args={"data": stored, "range": "normalised"})


def test_weights_need_its_class_counts(command, capsys):
    assert main(command("Plain", "--model.class_weights", "balanced")) == 2
    assert "a data module says it by class_counts" in capsys.readouterr().err

    Path("own.py").write_text(f"{OWN}\n    def class_counts(self):\n        return [16, 16]\n")
    sys.modules.pop("own")
    assert main(command("Hooked", *EPOCH, "--model.class_weights", "balanced")) == 0


def test_from_python_it_may_be_the_default_class(command, monkeypatch):
    command("Plain")
    monkeypatch.syspath_prepend(".")
    from own import Plain

    config = yaml.safe_load(Path("tiny.yaml").read_text())
    del config["data"]
    cli = ClassifierCLI(datamodule_class=Plain, args=config, run=False)
    assert (cli.datamodule.kind, cli.model.class_names) == ("Plain", ["dark", "light"])
    config["data"] = {"class_path": "LightningData", "init_args": {"data": "own.Unnamed"}}
    config["data"]["init_args"]["class_names"] = ["a", "b"]
    cli = ClassifierCLI(datamodule_class=Plain, args=config, run=False)
    assert cli.model.class_names == ["a", "b"]


def test_two_ranks_share_its_images(command):
    ranks = ["--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2"]
    path = str(Path(classifier.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-m", "classifier", *command("Plain", *ranks)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert run.returncode == 0, run.stderr
    assert [row["step"] for row in runs.read_metrics(RUN)] == ["2", "4"]  # of 4 batches of 8


# ---- mistakes ----

HALF = {"class_names": ["dark"]}
MISTAKES = {
    "no classes": ("Unnamed", None, {}, ["classes", "own.Unnamed", "class_names: [cat, dog]"]),
    "classes after setup": ("Late", None, {}, ["before setup", "class_names: [cat, dog]"]),
    "fewer names than classes": ("Plain", HALF, {}, ["class_names", "1 classes", "2 classes"]),
    "fewer names than classes, known late": ("Late", HALF, {}, ["1 classes", "2 classes"]),
    "names in another order": (
        *("Plain", {"class_names": ["light", "dark"]}, {}),
        ["light, dark", "dark, light", "leave class_names out"],
    ),
    "a name twice": ("Unnamed", {"class_names": ["a", "a"]}, {}, ["a name of its own"]),
    "a label without a name": ("Unnamed", HALF, {}, ["the label 1", "expected 0 to 0"]),
    "batches of three": ("Plain", None, {"form": "triple"}, ["a tuple of 3", "(images, labels)"]),
    "batches with other keys": (
        *("Plain", None, {"form": "others"}),
        ["'pixel_values', 'labels'", '"image"'],
    ),
    "flat images": ("Plain", None, {"form": "flat"}, ["uint8 (8, 192)", "(N, C, H, W)"]),
    "other channels": ("Plain", None, {"channels": 1}, ["1 channels", "in_channels: 1"]),
    "labels that are no numbers": ("Plain", None, {"form": "texts"}, ["labels", "a list of 8"]),
    "labels of two dimensions": ("Plain", None, {"form": "column"}, ["int64 (8, 1)", "(8,)"]),
    "labels with fractions": ("Plain", None, {"labels": "float32"}, ["float32 (8,)", "whole"]),
    "values of an unknown range": (
        *("Plain", None, {"high": 1}),
        ["float32", "from 0 to 0.9", "range: [0, 1]"],
    ),
    "values of another range": (
        *("Plain", {"range": [0, 1]}, {"high": 2}),
        ["from 0 to 1.9", "data.range [0, 1]"],
    ),
    "a range from white to black": ("Plain", {"range": [1, 0]}, {}, ["data.range", "black"]),
    "a range that there is not": ("Plain", {"range": "float"}, {}, ["range", "'float'"]),
    "normalised by what": ("Plain", {"range": "normalised"}, {}, ["data.mean and data.std"]),
}


@pytest.mark.parametrize(("name", "wrapped", "init_args", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered(name, wrapped, init_args, words, command, capsys):
    assert main(command(name, wrapped=wrapped, **init_args)) == 2

    printed = capsys.readouterr()
    error = printed.err[printed.err.index("error: ") :]
    assert len(error.strip().splitlines()) <= 3
    assert [word for word in words if word not in error] == []
    assert "epoch 1/" not in printed.out


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("torch.nn.Linear", ["not a subclass of LightningDataModule: let it derive from"]),
        ("LightningData", ["data: needs data, which is not given"]),
        ("pytorch_lightning.LightningDataModule", ["does not say its classes"]),
    ],
)
def test_what_is_no_data_module_is_refused(data, words, command, capsys):
    assert main([*command("Plain"), "--data", data]) == 2
    told = capsys.readouterr().err
    assert [word for word in words if word not in told] == []


def test_data_of_this_package_needs_no_wrapper(command, capsys):
    words = ["--data", "LightningData", "--data.data", "classifier.data.Digits"]
    assert main([*command("Plain"), *words]) == 2
    assert "Digits needs no LightningData: name it as data itself" in capsys.readouterr().err
