"""What people get wrong: each mistake is answered in at most three lines, with key and remedy."""

import os
import struct
from pathlib import Path

import pytest
import torch
from conftest import TINY
from PIL import Image

from classifier.__main__ import main

NETWORK = "classifier.networks.MNISTNet"


def images(folder: str, number: int = 4) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for index in range(number):
        Image.new("RGB", (16, 16), (60 * index, 80, 10)).save(f"{folder}/{index}.png")


def folder_data(root: str) -> list[str]:
    return ["--data=classifier.data.ImageFolder", f"--data.root={root}", "--data.image_size=16"]


# A change of the config file: what is replaced, by what, and words that the answer must have.
IN_THE_FILE = {
    "section misspelt": ("trainer:", "trianer:", ["tiny.yaml:7", "trianer", "'trainer'"]),
    "empty section misspelt": ("data:\n", "modl: {}\ndata:\n", ["modl", "'model'"]),
    "trainer setting misspelt": (
        "max_epochs:",
        "max_epoch:",
        ["tiny.yaml:8", "'trainer.max_epochs'"],
    ),
    "model setting misspelt": (
        "  optimizer:",
        "  optimiser:",
        ["model.optimiser", "'optimizer'"],
    ),
    "network setting misspelt": ("      width:", "      widht:", ["tiny.yaml:14", "'width'"]),
    "optimizer setting misspelt": (
        "      lr: *lr",
        "      rl: *lr",
        ["optimizer.init_args.rl", "it has lr"],
    ),
    "optimizer setting of another": (
        "      lr: *lr",
        "      momentum: 0.9",
        ["momentum", "Adam", "betas"],
    ),
    "data setting misspelt": ("batch_size: *b", "batchsize: *b", ["tiny.yaml:22", "'batch_size'"]),
    "init_args misspelt": (
        "    init_args:\n      lr",
        "    init_arg:\n      lr",
        ["init_arg", "Adam"],
    ),
    "class_path misspelt": (
        f"class_path: {NETWORK}",
        f"class_pat: {NETWORK}",
        ["tiny.yaml:12", "class_pat", "'class_path'"],
    ),
    "setting beside a class path": (
        f"class_path: {NETWORK}",
        f"class_path: {NETWORK}\n    depth: 3",
        ["tiny.yaml:13", "depth", "init_args"],
    ),
    "blank missing in settings": (
        "batch_size: *batch_size",
        "batch_size:*batch_size",
        ["tiny.yaml:21", "'batch_size: *batch_size'"],
    ),
    "text for settings": ("      lr: *lr", "      fast", ["tiny.yaml:17", "optimizer", "NAME"]),
    "class path without value": (NETWORK, "null", ["tiny.yaml:12", "class_path"]),
    "null for a number": ("width: *width", "width: null", ["tiny.yaml:14", "width", "null"]),
    "name that is read as a truth value": (
        "width: &width 4",
        "off: &width 4",
        ["tiny.yaml:5", "name off as False", "'off'"],
    ),
    "name that is read as a number": (
        "width: &width 4",
        "010: &width 4",
        ["tiny.yaml:5", "name 010 as 8", "'010'"],
    ),
    "wrong tag": ("lr: &lr 0.01", "lr: &lr !!float x", ["tiny.yaml:3", "'x'", "float"]),
    "wrong date": ("lr: &lr 0.01", "lr: &lr !!timestamp x", ["tiny.yaml:3", "'x'", "timestamp"]),
    "text with a quote for a number": (
        "lr: &lr 0.01",
        'lr: &lr "it\'s"',
        ["tiny.yaml:18", "it's", "is not a number"],
    ),
    "class name misspelt": (NETWORK, "MNISTNett", ["tiny.yaml:11", "'MNISTNet'"]),
    "class path misspelt": (NETWORK, f"{NETWORK}t", ["tiny.yaml:11", "MNISTNett", "'MNISTNet'"]),
    "no such package": (NETWORK, "netwrks.Net", ["no 'netwrks'", "neither installed nor in '"]),
    "not a network": (NETWORK, "torch.optim.Adam", ["model.network", "torch.optim.Adam", "Module"]),
    "not a class": (NETWORK, "math.pi", ["model.network", "math.pi"]),
    "text for a number": (
        "lr: &lr 0.01",
        "lr: &lr fast",
        ["optimizer.init_args.lr", "'fast'", "number"],
    ),
    "list for a number": (
        "epochs: &epochs 2",
        "epochs: &epochs [2]",
        ["max_epochs", "whole number"],
    ),
    "learning rate NaN": ("lr: &lr 0.01", "lr: &lr .nan", ["model.optimizer", "nan"]),
    "learning rate negative": ("lr: &lr 0.01", "lr: &lr -0.1", ["model.optimizer", "-0.1"]),
    "batch size zero": ("batch_size 64", "batch_size 0", ["batch_size", "at least 1"]),
    "section without settings": (
        "trainer:\n  max_epochs: *epochs\n  limit_train_batches: 4",
        "trainer: 3",
        ["tiny.yaml:7", "trainer"],
    ),
    "duplicate key": (
        "  lr: &lr 0.01",
        "  lr: 1\n  lr: &lr 0.01",
        ["tiny.yaml:4", "duplicate", "'lr'"],
    ),
    "undefined alias": ("lr: *lr", "lr: *rate", ["tiny.yaml", "rate"]),
    "bad indentation": ("  max_epochs:", " max_epochs:", ["tiny.yaml:9"]),
    "tab": ("  max_epochs:", "\tmax_epochs:", ["tiny.yaml:8", "tab"]),
    "bracket left open": ("epochs: &epochs 2", "epochs: &epochs [2", ["tiny.yaml"]),
    "number of classes wrong": (
        "width: *width",
        "num_classes: 3",
        ["num_classes is 3", "Digits has 10"],
    ),
    "loss is no loss": (
        "  optimizer:",
        "  loss: torch.optim.SGD\n  optimizer:",
        ["model.loss", "SGD"],
    ),
    "monitor misspelt": (
        "  optimizer:",
        "  monitor: val_los\n  optimizer:",
        ["model.monitor", "'val_loss'"],
    ),
}


@pytest.mark.parametrize(("old", "new", "words"), IN_THE_FILE.values(), ids=IN_THE_FILE)
def test_a_mistake_in_the_config_is_answered_with_key_and_remedy(old, new, words, answer):
    assert TINY.count(old) == 1
    Path("tiny.yaml").write_text(TINY.replace(old, new))

    answer(["fit", "--config", "tiny.yaml"], words)


FIT = ["fit", "--config", "tiny.yaml"]
ONE_CYCLE = ["--model.lr_scheduler=OneCycleLR", "--model.lr_scheduler.max_lr=0.1"]
PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"
HEAD = "[{match: head, lr_scale: 2}]"
# A command line, and words that the answer must have.
ON_THE_COMMAND_LINE = {
    "nothing given": (["fit"], ["model.network", "--config", "--ckpt_path"]),
    "config missing": (["fit", "--config", "tinny.yaml"], ["tinny.yaml", "'tiny.yaml'"]),
    "config is a folder": (["fit", "--config", "."], ["folder", "YAML"]),
    "config without value": (["fit", "--config"], ["--config", "expected a value"]),
    "config is empty": (["fit", "--config", "empty.ckpt.yaml"], ["model.network", "not given"]),
    "settings file missing": ([*FIT, "--model", "nope.yaml"], ["model: ", "no file 'nope.yaml'"]),
    "config in a config": (["fit", "--config", "nested.yaml"], ["no section 'config'"]),
    "config is binary": (["fit", "--config", "binary.yaml"], ["binary.yaml", "UTF-8"]),
    "config without its option": (["fit", "tiny.yaml"], ["'--config tiny.yaml'"]),
    "folder without its option": ([*FIT, "pairs"], ["'pairs'", "'--data.root pairs'"]),
    "run without its option": (["test", "best.ckpt"], ["'--ckpt_path best.ckpt'"]),
    "images without their option": (
        ["predict", "--ckpt_path", "TRAINED", "pairs"],
        ["'--images pairs'"],
    ),
    "word without an option": ([*FIT, "quickly"], ["'quickly'", "--KEY VALUE"]),
    "hyperparameter without its block": ([*FIT, "--lr", "1"], ["'hyperparameters.lr'"]),
    "option of another program": ([*FIT, "--resume", "x"], ["'ckpt_path'"]),
    "option that nobody has": ([*FIT, "--name", "x"], ["name: no such", "hyperparameters, "]),
    "setting of an earlier Lightning": ([*FIT, "--trainer.gpus", "1"], ["'trainer.devices'"]),
    "setting without value": ([*FIT, "--trainer.max_epochs"], ["max_epochs", "expected a value"]),
    "network without its package": (
        [*FIT, "--model.network", "resnet18"],
        ["'torchvision.models.resnet18'"],
    ),
    "class in other letters": ([*FIT, "--model.optimizer", "torch.optim.Adamw"], ["'AdamW'?"]),
    "data is a folder": ([*FIT, "--data", "pairs"], ["'pairs'", "a folder", "data.root"]),
    "folder below the home folder": (
        [*FIT, *folder_data("~/nowhere")],
        [f"'{Path('~/nowhere').expanduser()}'"],
    ),
    "variable of the shell": ([*FIT, *folder_data("$HERE/x")], ["$HERE", "not replaced"]),
    "option misspelt": ([*FIT, "--trainer.max_epoch", "3"], ["max_epoch", "'trainer.max_epochs'"]),
    "section misspelt": ([*FIT, "--modle.monitor", "x"], ["modle", "'model'"]),
    "hyperparameter misspelt": (
        [*FIT, "--hyperparameters.lrr", "1"],
        ["lrr", "'lr'", "batch_size"],
    ),
    "hyperparameter without value": (
        [*FIT, "--hyperparameters.lr"],
        ["--hyperparameters.lr", "value"],
    ),
    "text for a number": (
        [*FIT, "--trainer.max_epochs", "many"],
        ["max_epochs", "'many'", "number"],
    ),
    "not one of the choices": (
        [*FIT, "--model.interval", "steps"],
        ["interval", "'steps'", "epoch or step"],
    ),
    "wrong date": ([*FIT, "--model.monitor", "!!timestamp x"], ["model.monitor", "timestamp"]),
    "nested without end": (
        [*FIT, "--trainer.max_epochs", "[" * 50_000],
        ["max_epochs", "100 levels"],
    ),
    "more processes than the machine bears": (
        [*FIT, "--trainer.devices", "1000000", "--trainer.accelerator", "cpu"],
        ["trainer.devices", "1000000", "at most"],
    ),
    "more readers than a machine bears": (
        [*FIT, *folder_data("pairs"), "--data.num_workers", "1000000"],
        ["num_workers", "1024", "1000000"],
    ),
    "seed too large": ([*FIT, "--seed_everything", str(2**32)], ["seed_everything", "4294967296"]),
    "no validation to stop by": (
        [
            *(*FIT, "--trainer.limit_val_batches=0", "--trainer.callbacks+=EarlyStopping"),
            "--trainer.callbacks.monitor=val_loss",
        ],
        ["EarlyStopping", "limit_val_batches", "val_loss"],
    ),
    "config name too long": (["fit", "--config", "x" * 999], ["xxx", "too long"]),
    "checkpoint without value": (["test", "--ckpt_path="], ["--ckpt_path", "expected a value"]),
    "checkpoint is the working folder": (["test", "--ckpt_path", "."], ["'.'", "folder"]),
    "runs are no folder": ([*FIT, "--trainer.default_root_dir", "tiny.yaml"], ["tiny.yaml"]),
    "precision unknown": ([*FIT, "--trainer.precision", "17"], ["precision", "'17'", "bf16-mixed"]),
    "no GPU": (
        [*FIT, "--trainer.accelerator", "gpu"],
        ["trainer.accelerator", "no gpu here", "auto"],
    ),
    "precision by another name": (
        [*FIT, "--trainer.precision", "fp16"],
        ["trainer.precision", "'fp16'", "'16-mixed'"],
    ),
    "schedule too short for its steps": (
        [*FIT, *ONE_CYCLE, "--model.lr_scheduler.total_steps=2"],
        ["total_steps 2, but", "each of 8 steps", "model.interval to epoch"],
    ),
    "schedule too short by its epochs": (
        [
            *FIT,
            *ONE_CYCLE,
            "--model.lr_scheduler.epochs=1",
            "--model.lr_scheduler.steps_per_epoch=3",
        ],
        ["epochs times steps_per_epoch 3, but", "each of 8 steps", "leave it out"],
    ),
    "schedule too short for its epochs": (
        [*FIT, *ONE_CYCLE, "--model.lr_scheduler.total_steps=1", "--model.interval=epoch"],
        ["total_steps 1, but", "each of 2 epochs"],
    ),
    "schedule of length zero": (
        [*FIT, "--model.lr_scheduler=CosineAnnealingLR", "--model.lr_scheduler.T_max=0"],
        ["model.lr_scheduler", "CosineAnnealingLR with", "T_max 0", "modulo by zero", "init_args"],
    ),
    "schedule that cannot be built": (
        [*FIT, *ONE_CYCLE, "--model.lr_scheduler.div_factor=0"],
        ["model.lr_scheduler", "OneCycleLR with", "div_factor 0", "division by zero"],
    ),
    "schedule to a negative rate": (
        [*FIT, "--model.lr_scheduler=ExponentialLR", "--model.lr_scheduler.gamma=-1"],
        ["ExponentialLR with gamma -1.0", "lr -0.01 at its first step", "a number >= 0"],
    ),
    "plateau by step": (
        [*FIT, f"--model.lr_scheduler={PLATEAU}", "--model.interval=step"],
        [
            "model.interval is step",
            "ReduceLROnPlateau follows val_loss",
            "leave model.interval out",
        ],
    ),
    "schedule without an end": (
        [*FIT, *ONE_CYCLE, "--trainer.max_epochs=-1", "--trainer.max_time=00:00:01:00"],
        ["OneCycleLR", "only trainer.max_time", "trainer.max_steps", "total_steps"],
    ),
    "schedule without a setting": ([*FIT, "--model.lr_scheduler=StepLR"], ["needs step_size"]),
    "schedule of several": (
        [*FIT, "--model.lr_scheduler=SequentialLR"],
        ["lr_scheduler", "of several", "model.warmup"],
    ),
    "schedule of timm": (
        [*FIT, "--model.lr_scheduler=timm.scheduler.CosineLRScheduler"],
        ["CosineLRScheduler", "CosineAnnealingLR", "model.warmup"],
    ),
    "warm-up in two units": (
        [*FIT, "--model.warmup={epochs: 1, steps: 9}"],
        ["model.warmup", "one length"],
    ),
    "warm-up misspelt": ([*FIT, "--model.warmup={step: 9}"], ["'step'", "'steps'"]),
    "warm-up longer than the training": (
        [*FIT, "--model.warmup.epochs=2.5"],
        ["10 steps", "the training has 8", "shorter"],
    ),
    "warm-up negative": ([*FIT, "--model.warmup.steps=-1"], ["model.warmup.steps is -1"]),
    "group that matches nothing": (
        [*FIT, "--model.groups=[{match: feature.0, lr_scale: 2}]"],
        ["'feature.0' matches no parameter", "'features.0'"],
    ),
    "group that another has taken": (
        [*FIT, "--model.groups=[{match: '*'}, {match: head, lr_scale: 2}]"],
        ["'head'", "taken by *", "put it first"],
    ),
    "group without a match": ([*FIT, "--model.groups=[{lr_scale: 2}]"], ["groups", "lacks match"]),
    "group setting misspelt": (
        [*FIT, "--model.groups=[{match: head, freeze_epoch: 1}]"],
        ["'freeze_epoch'", "'freeze_epochs'"],
    ),
    "group with a negative rate": (
        [*FIT, "--model.groups=[{match: head, lr_scale: -1}]"],
        ["head: lr_scale is -1", "freeze: true"],
    ),
    "group frozen and trained": (
        [*FIT, "--model.groups=[{match: backbone, freeze: true, weight_decay: 0.1}]"],
        ["backbone", "freeze: true and weight_decay contradict"],
    ),
    "group frozen to the end": (
        [*FIT, "--model.groups=[{match: backbone, freeze_epochs: 2}]"],
        ["freeze_epochs is 2", "trainer.max_epochs ends", "in epoch 2", "freeze: true"],
    ),
    "group frozen to the last step": (
        [*FIT, "--trainer.max_steps=4", "--model.groups=[{match: backbone, freeze_epochs: 1}]"],
        ["freeze_epochs is 1", "trainer.max_steps ends", "in epoch 1", "more trainer.max_steps"],
    ),
    "all frozen": (
        [*FIT, "--model.groups=[{match: '*', freeze_epochs: 1}]"],
        ["nothing to train", "the head"],
    ),
    "group and schedule with rates": (
        [*FIT, *ONE_CYCLE, "--model.lr_scheduler.max_lr=[0.1, 0.2]", f"--model.groups={HEAD}"],
        ["max_lr is the list [0.1, 0.2]", "lr_scale"],
    ),
    "group with a decay that there is not": (
        [*FIT, "--model.optimizer=Rprop", "--model.groups=[{match: head, weight_decay: 0.1}]"],
        ["head", "Rprop has no weight_decay"],
    ),
    "layers that the network does not say": (
        [*FIT, "--model.layer_decay=0.7"],
        ["layer_decay", "MNISTNet", "model.groups"],
    ),
    "layers of growing rates": ([*FIT, "--model.layer_decay=1.5"], ["layer_decay is 1.5", "0 and"]),
    "optimizer of matrices": ([*FIT, "--model.optimizer=torch.optim.Muon"], ["timm.optim.Muon"]),
    "fine-tuning of Lightning": (
        [*FIT, "--trainer.callbacks=BackboneFinetuning"],
        ["BackboneFinetuning", "model.groups", "freeze_epochs"],
    ),
    "finder of rates": (
        [*FIT, "--trainer.callbacks=LearningRateFinder"],
        ["LearningRateFinder", "classifier search"],
    ),
    "data module of Lightning": (
        [*FIT, "--data=pytorch_lightning.LightningDataModule"],
        ["LightningDataModule does not say its classes", "class_names: [cat, dog]"],
    ),
    "callback misspelt": (
        [*FIT, "--trainer.callbacks+=EarlyStoping"],
        ["callbacks", "'EarlyStopping'"],
    ),
    "callback monitors nothing": (
        [*FIT, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_los"],
        ["EarlyStopping", "'val_loss'"],
    ),
    "first of two callbacks monitors nothing": (
        [
            *(*FIT, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_los"),
            *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"),
        ],
        ["EarlyStopping", "'val_los'", "'val_loss'"],
    ),
    "ambiguous scheduler": (
        [*FIT, "--model.lr_scheduler=ReduceLROnPlateau"],
        ["torch.optim.lr_scheduler"],
    ),
    "weights unknown": (
        [*FIT, "--model.network=torchvision.models.resnet18", "--model.network.weights=BEST"],
        ["weights", "'BEST'", "DEFAULT"],
    ),
    "images of one size, and a network of another": (
        [*FIT, "--model.network=torchvision.models.inception_v3"],
        ["8 x 8", "at least 75 x 75; choose another network", "images of one size"],
    ),
    "data set missing": (
        [*FIT, "--data=MNIST", "--data.root=nowhere", "--data.download=false"],
        ["MNIST", "nowhere", "download"],
    ),
    "image folder missing": ([*FIT, *folder_data("foto")], ["foto", "'fotos'"]),
    "image folder empty": ([*FIT, *folder_data("empty")], ["empty", "class"]),
    "image folder is a file": ([*FIT, *folder_data("tiny.yaml")], ["tiny.yaml", "folder"]),
    "one class only": ([*FIT, *folder_data("single")], ["single", "cats"]),
    "labels in a table": (
        [*FIT, *folder_data("table")],
        ["'images'", "labels.csv'", "--data Table"],
    ),
    "class without images": ([*FIT, *folder_data("fotos")], ["dogs", "no images"]),
    "unreadable training image": (
        [*FIT, *folder_data("broken"), "--data.batch_size=5"],
        ["dogs/4.png", "Cannot read"],
    ),
    "checkpoint missing": (["test", "--ckpt_path", "x.ckpt"], ["x.ckpt"]),
    "checkpoint not given": (["test", "--config", "tiny.yaml"], ["--ckpt_path"]),
    "run folder without checkpoints": (
        ["test", "--ckpt_path", "empty"],
        ["'empty'", "folder", "checkpoints/best.ckpt"],
    ),
    "resume from a folder without checkpoints": (
        ["fit", "--ckpt_path", "empty"],
        ["'empty'", "folder", "last.ckpt"],
    ),
    "checkpoint in the config missing": (
        ["test", "--config", "resumed.yaml"],
        ["bst.ckpt", "'best.ckpt'"],
    ),
    "checkpoint is an image": (
        ["test", "--ckpt_path", "fotos/cats/0.png"],
        ["0.png", "checkpoint"],
    ),
    "checkpoint is empty": (["test", "--ckpt_path", "empty.ckpt"], ["empty.ckpt", "checkpoint"]),
    "checkpoint is code": (["test", "--ckpt_path", "code.ckpt"], ["code.ckpt", "code"]),
    "checkpoint of another program": (
        ["test", "--ckpt_path", "other.ckpt"],
        ["'other.ckpt' carries no config", "--config FILE"],
    ),
    "checkpoint has only weights": (
        ["test", "--ckpt_path", "state.pt"],
        ["state.pt", "state_dict"],
    ),
    "predict without images": (["predict", "--ckpt_path", "TRAINED"], ["--images"]),
    "images missing": (["predict", "--ckpt_path", "TRAINED", "--images", "no*.png"], ["no*.png"]),
    "top_k of earlier versions": (
        ["predict", "--ckpt_path", "TRAINED", "--images", "fotos", "--top_k", "2"],
        ["--top_k: predictions.csv has a column for each class"],
    ),
    "other classes than the checkpoint": (
        ["test", "--ckpt_path", "TRAINED", *folder_data("pairs")],
        ["'cats'", "'0'", "checkpoint"],
    ),
    "other network than the checkpoint": (
        ["test", "--ckpt_path", "TRAINED", "--model.network.width", "5"],
        ["checkpoint", "network", "size mismatch"],
    ),
}


@pytest.fixture
def surroundings(own_folder):
    Path("tiny.yaml").write_text(TINY)
    Path("binary.yaml").write_bytes(struct.pack("8f", *range(8)) + b"\xff\xfe")
    Path("empty").mkdir()
    Path("empty.ckpt").touch()
    Path("empty.ckpt.yaml").write_text("# nothing yet\n")
    Path("nested.yaml").write_text("config: tiny.yaml\n")
    Path("best.ckpt").touch()
    Path("resumed.yaml").write_text("ckpt_path: bst.ckpt\n")
    for folder in (
        "single/cats",
        "fotos/cats",
        "pairs/cats",
        "pairs/dogs",
        "broken/cats",
        "broken/dogs",
        "table/images",
    ):
        images(folder)
    Path("table/labels.csv").touch()
    Path("fotos/dogs").mkdir()
    Path("broken/dogs/4.png").write_text("not an image")
    torch.save({"state_dict": os.system}, "code.ckpt")
    torch.save({"weight": torch.zeros(2)}, "state.pt")
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, "other.ckpt")


@pytest.mark.parametrize(
    ("arguments", "words"), ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE
)
def test_a_mistake_on_the_command_line_is_answered(arguments, words, surroundings, trained, answer):
    best = str(trained / "checkpoints" / "best.ckpt")

    answer([best if argument == "TRAINED" else argument for argument in arguments], words)


@pytest.fixture
def answer(capsys):
    """Runs a command that must be refused, and checks how."""

    def run(arguments, words):
        code = main(arguments)

        printed = capsys.readouterr()
        lines = printed.err.strip().splitlines()
        assert code == 2
        assert lines[0].startswith("error: ")
        assert len(lines) <= 3
        assert [word for word in words if word not in printed.err] == []
        assert "Traceback" not in printed.err
        assert "epoch 1/" not in printed.out  # found out before any training

    return run


OWN_NETWORK = """
from torch import nn


class Own(nn.Module):
    def __init__(self, hidden: int, num_classes: int) -> None:
        super().__init__()


def build(hidden: int, num_classes: int) -> nn.Module:
    return Own(hidden, num_classes)
"""


@pytest.mark.parametrize("name", ["Own", "build"])
@pytest.mark.parametrize("place", ["file", "command line"])
def test_a_missing_argument_of_an_own_network_is_named(
    name, place, write_config, write_module, capsys
):
    write_module(OWN_NETWORK)
    arguments = ["--config", write_config()]
    if place == "file":
        arguments = ["--config", write_config({"model.network": {"class_path": f"own.{name}"}})]
    else:
        arguments += [f"--model.network=own.{name}"]

    assert main(["fit", *arguments]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) <= 3
    assert "model.network" in error
    assert "hidden" in error
    assert "Name a config file" not in error


OF_ONE_SIZE = """
from torch import nn


class OfOneSize(nn.Linear):
    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(width, num_classes)

    def forward(self, images):
        height = images.shape[2]
        assert height == 224, f"Wrong image height! Expected 224 but got {height}!"
"""


def test_a_network_of_one_image_size_is_answered_with_it(write_config, write_module, answer):
    write_module(OF_ONE_SIZE)  # as torchvision's vision transformers say it

    answer(
        ["fit", "--config", write_config(), "--model.network=own.OfOneSize"],
        ["takes 224 pixels, not 8", "choose another network"],
    )


OPTIMIZERS = """
from torch.optim import SGD


class SAM(SGD):
    "Of the shape of github.com/davda54/sam."

    def __init__(self, params, lr=0.1, rho=0.05):
        super().__init__(params, lr=lr)

    def first_step(self, zero_grad=False): ...
    def second_step(self, zero_grad=False): ...


class ScheduleFree(SGD):
    "Of the shape of the package schedulefree."

    def train(self): ...
    def eval(self): ...


class Lookahead(SGD):
    "Of the shape of timm's."

    def __init__(self, base_optimizer, lr=0.1):
        super().__init__(base_optimizer.param_groups, lr=lr)
"""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("SAM", ["SAM needs two gradients a step", "take its base optimizer"]),
        ("ScheduleFree", ["ScheduleFree", "exchanged before each validation", "CosineAnnealingLR"]),
        ("Lookahead", ["Lookahead with lr 0.01 cannot be made: AttributeError", "another class"]),
    ],
)
def test_an_optimizer_that_needs_more_than_a_step_gives_is_answered_with_another(
    kind, words, write_config, write_module, answer
):
    write_module(OPTIMIZERS)
    words = ["model.optimizer: ", *words]

    answer(["fit", "--config", write_config(), f"--model.optimizer=own.{kind}"], words)


def test_a_model_of_timm_that_is_misspelt_is_answered_with_a_close_one(write_config, answer):
    pytest.importorskip("timm")
    network = ["--model.network=timm.create_model", "--model.network.model_name=resnet10x"]

    answer(["fit", "--config", write_config(), *network], ["no model 'resnet10x'", "'resnet10t'"])


def test_a_folder_of_runs_is_answered_with_its_newest(trained, monkeypatch, answer):
    monkeypatch.chdir(trained.parents[2])
    for folder in "runs/tiny", "runs":
        answer(["test", "--ckpt_path", folder], ["of 1 runs", "'runs/tiny/version_0'"])


def test_a_refusal_leaves_no_run_folder(write_config, capsys):
    config = write_config({"model.optimizer.init_args.lr": -1})

    assert main(["fit", "--config", config]) == 2

    assert "model.optimizer" in capsys.readouterr().err
    assert list(Path("runs").iterdir()) == []


def test_an_unknown_command_is_answered_with_a_close_one(capsys):
    assert main(["fitt"]) == 2
    assert capsys.readouterr().err == "error: no command 'fitt', did you mean 'fit'?\n"


def test_a_failure_that_is_not_the_users_exits_with_one_and_keeps_the_traceback(
    write_config, write_module, capsys
):
    write_module(
        "import torch\n"
        "class Fails(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.zeros(1))\n"
        "    def forward(self, images):\n"
        "        raise RuntimeError('the network broke')\n"
    )

    code = main(["fit", "--config", write_config(), "--model.network=own.Fails"])

    assert code == 1
    assert "RuntimeError: the network broke" in capsys.readouterr().err
    assert "own.py" in Path("runs/tiny/version_0/traceback.txt").read_text()
