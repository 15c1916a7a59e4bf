"""The ways to train that are compared: each makes the command line of a job, or says why it cannot.

A command runs in an empty folder of its own and prints, as its last line, what it measured.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from training.works import RATE, WORKS, Work

PROGRAMS = Path(__file__).parent
CLASSIFIER = [sys.executable, "-m", "classifier"]
EPOCHS = 2  # of which the first is not counted
ACCURACY_EPOCHS, ACCURACY_STEPS = 8, 421  # all 54,000 images


class SkippedError(Exception):
    """A way does not do a job; the text says why."""


@dataclass
class Setup:
    """Where the data lies and what was found out about the machine."""

    folder: Path
    """A temporary one."""
    options: argparse.Namespace
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``precision`` and ``channels_last`` that train fastest, for each work."""

    def root(self, work: str) -> Path:
        """Folder of the data of a work."""
        data: Path = self.options.data
        return data if WORKS[work].is_mnist else self.folder / work


@dataclass(frozen=True)
class Job:
    """What a way is to do."""

    task: str
    name: str
    """Of the work."""
    seed: int = 0

    @property
    def work(self) -> Work:
        """The work."""
        return WORKS[self.name]

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return {"startup": 1, "accuracy": ACCURACY_STEPS}.get(self.task, self.work.steps)

    @property
    def epochs(self) -> int:
        """Epochs of training."""
        return {"startup": 1, "accuracy": ACCURACY_EPOCHS}.get(self.task, EPOCHS)


def ours(setup: Setup, job: Job) -> list[str]:
    """``classifier fit``, or ``test`` or ``predict`` with a checkpoint of a step of training."""
    return _classifier(setup, job, [])


def tuned(setup: Setup, job: Job) -> list[str]:
    """The same with an overlay."""
    folder: Path | None = setup.options.overlays
    path = (folder or setup.folder / "overlays") / f"{job.name}.yaml"
    if folder is None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(overlay(setup.chosen[job.name])))
    elif not path.is_file():
        raise SkippedError(f"--overlays has no {path.name}")
    return _classifier(setup, job, ["--config", str(path)])


def _classifier(setup: Setup, job: Job, overlays: list[str]) -> list[str]:
    if job.task == "help":
        return [*CLASSIFIER, "fit", "--help"]
    base = setup.folder / f"{job.name}-{job.task}.yaml"
    base.write_text(yaml.safe_dump(config(setup, job), sort_keys=False))
    if job.task not in ("evaluation", "prediction"):
        more = ["--seed_everything", str(job.seed)]
        if job.task == "accuracy":
            more += [
                "--trainer.callbacks+=stopwatch.Stopwatch",
                "--trainer.limit_val_batches",
                "1.0",
            ]
            more += ["--data.class_path", "tested_mnist.TestedMNIST"]
        return [*CLASSIFIER, "fit", "--config", str(base), *overlays, *more]
    stopwatch = ["--trainer.callbacks+=stopwatch.Stopwatch"]
    checkpoint = ["--ckpt_path", str(setup.folder / f"{job.name}.ckpt"), *overlays]
    if job.task == "evaluation":
        return [*CLASSIFIER, "test", *checkpoint, *stopwatch]
    images = ["--images", str(setup.root(job.name) / "test")]
    return [*CLASSIFIER, "predict", *checkpoint, *images, *stopwatch]


def config(setup: Setup, job: Job) -> dict[str, Any]:
    """The config of a work, without validation."""
    work, root = job.work, str(setup.root(job.name))
    data: dict[str, Any] = {"root": root, "batch_size": work.batch_size}
    if work.is_mnist:
        data["download"] = False
    else:
        data["image_size"] = work.image_size
        transforms = {"Resize": {"size": work.resized}, "CenterCrop": {"size": work.image_size}}
        in_memory = work.resized == work.image_size
        data |= {"in_memory": True} if in_memory else {"train_transform": listed(transforms)}
    source = "MNIST" if work.is_mnist else "ImageFolder"
    return {
        "trainer": {
            "max_epochs": job.epochs,
            "limit_train_batches": job.steps,
            "limit_val_batches": 0,
            "default_root_dir": "runs",
        },
        "model": {
            "network": {"class_path": work.network, "init_args": dict(work.arguments)},
            "channels_last": True,  # as in the configs that come with the package
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": RATE}},
        },
        "data": {"class_path": f"classifier.data.{source}", "init_args": data},
    }


def listed(transforms: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Transforms of torchvision as a config names them."""
    return [
        {"class_path": f"torchvision.transforms.v2.{name}", "init_args": arguments}
        for name, arguments in transforms.items()
    ]


def overlay(chosen: dict[str, Any]) -> dict[str, Any]:
    """The settings that train fastest, for those who have no measured overlay."""
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": RATE, "fused": True}}
    model = {"optimizer": adam, "channels_last": chosen["channels_last"]}
    precision = "bf16-mixed" if chosen["precision"] == "bf16" else "32-true"
    return {"trainer": {"precision": precision}, "model": model}


def bare(setup: Setup, job: Job) -> list[str]:
    """The bare loop as anyone writes it."""
    return bare_loop(setup, job, [])


def limit(setup: Setup, job: Job) -> list[str]:
    """The bare loop at its fastest."""
    chosen = setup.chosen[job.name]
    layout = ["--channels_last"] if chosen["channels_last"] else []
    return bare_loop(setup, job, ["--fused", "--precision", chosen["precision"], *layout])


def bare_loop(setup: Setup, job: Job, options: list[str]) -> list[str]:
    """A command of ``bare_loop.py``."""
    tasks = {"evaluation": "test", "prediction": "predict", "choice": "choose"}
    where = ["--work", job.name, "--root", str(setup.root(job.name))]
    if job.task == "help":
        where = ["--help"]
    how = ["--steps", str(job.steps), "--epochs", str(job.epochs), "--seed", str(job.seed)]
    after = ["--test"] if job.task == "accuracy" else []
    return [*program("bare_loop"), tasks.get(job.task, "train"), *where, *how, *after, *options]


def lightning(setup: Setup, job: Job) -> list[str]:
    """The plain LightningCLI program."""
    return _lightning(setup, job, workers=0)


def lightning_workers(setup: Setup, job: Job) -> list[str]:
    """The same with workers."""
    return _lightning(setup, job, workers=2)


def _lightning(setup: Setup, job: Job, workers: int) -> list[str]:
    if job.task == "help":
        return [*program("lightning_program"), "fit", "--help"]
    only_fits(job, "evaluation", "accuracy")
    root = str(setup.root(job.name))
    what = ["--model.work", job.name, "--data.work", job.name, "--data.root", root]
    what += ["--data.num_workers", str(workers), "--trainer.callbacks+=stopwatch.Stopwatch"]
    if job.task == "evaluation":
        return [*program("lightning_program"), "test", *what]
    limits = ["--trainer.max_epochs", str(job.epochs), "--seed_everything", str(job.seed)]
    limits += ["--trainer.limit_train_batches", str(job.steps)]
    limits += ["--trainer.limit_val_batches", "1.0" if job.task == "accuracy" else "0"]
    return [*program("lightning_program"), "fit", *what, *limits]


def timm(setup: Setup, job: Job) -> list[str]:
    """timm's train.py."""
    script = _reference_script(setup, job, "timm")
    if job.task == "help":
        return script
    work = job.work
    size = [str(work.channels), str(work.image_size), str(work.image_size)]
    data = ["--data-dir", str(setup.root(job.name)), "--val-split", "val", "--no-aug"]
    data += [
        "--input-size",
        *size,
        "--num-classes",
        str(work.num_classes),
        "--crop-pct",
        str(work.image_size / work.resized),
    ]
    data += ["--mean", *map(str, work.mean), "--std", *map(str, work.std), "--workers", "2"]
    how = ["--model", "benchmark", "--device", "cpu", "--opt", "adam", "--lr", str(RATE)]
    how += ["--batch-size", str(work.batch_size), "--epochs", str(EPOCHS), "--output", "out"]
    return [*script, *data, *how]


def torchvision(setup: Setup, job: Job) -> list[str]:
    """train.py of torchvision's references."""
    script = _reference_script(setup, job, "torchvision")
    if job.task == "help":
        return script
    work, size = job.work, str(job.work.image_size)
    data = ["--data-path", str(setup.root(job.name)), "--workers", "2", "--output-dir", "out"]
    data += ["--train-crop-size", size, "--val-crop-size", size]
    data += ["--val-resize-size", str(work.resized), "--batch-size", str(work.batch_size)]
    how = ["--model", "benchmark", "--device", "cpu", "--opt", "adamw", "--wd", "0"]
    return [*script, *data, *how, "--lr", str(RATE), "--epochs", str(EPOCHS)]


def _reference_script(setup: Setup, job: Job, name: str) -> list[str]:
    path = getattr(setup.options, name)
    if path is None:
        raise SkippedError(f"--{name} does not name its train.py")
    only_fits(job)
    if job.task == "help":
        return [sys.executable, str(path), "--help"]
    if job.work.is_mnist:
        raise SkippedError("it reads image folders and has no limit of steps")
    return [*program("reference_script"), "--script", str(path), "--work", job.name, "--"]


def fastai(setup: Setup, job: Job) -> list[str]:
    """fastai's Learner."""
    return _peer(setup, job, "fastai_program")


def keras(setup: Setup, job: Job) -> list[str]:
    """Keras on PyTorch."""
    if job.name == "photos":
        raise SkippedError("Keras has no ResNet-18")
    return _peer(setup, job, "keras_program")


def _peer(setup: Setup, job: Job, name: str) -> list[str]:
    if setup.options.peers is None:
        raise SkippedError("--peers names no Python that has it")
    only_fits(job, "accuracy")
    if job.task == "help":
        raise SkippedError("it has no command line")
    where = ["--work", job.name, "--root", str(setup.root(job.name))]
    how = ["--steps", str(job.steps), "--epochs", str(job.epochs), "--seed", str(job.seed)]
    after = ["--test"] if job.task == "accuracy" else []
    return [setup.options.peers, str(PROGRAMS / f"{name}.py"), *where, *how, *after]


def program(name: str) -> list[str]:
    """How to start one of the programs beside this file."""
    return [sys.executable, str(PROGRAMS / f"{name}.py")]


def only_fits(job: Job, *others: str) -> None:
    """Skips a job that is not training, nor one of ``others``."""
    if job.task not in ("training", "startup", "help", *others):
        raise SkippedError(f"{job.task} is not measured")


WAYS: dict[str, Callable[[Setup, Job], list[str]]] = {
    "ours": ours,
    "tuned": tuned,
    "bare": bare,
    "limit": limit,
    "lightning": lightning,
    "lightning-workers": lightning_workers,
    "timm": timm,
    "torchvision": torchvision,
    "fastai": fastai,
    "keras": keras,
}
TITLES = {
    "ours": "`classifier`",
    "tuned": "`classifier`, tuned",
    "bare": "bare PyTorch loop, float32",
    "limit": "fastest bare loop",
    "lightning": "plain Lightning, 0 workers",
    "lightning-workers": "plain Lightning, 2 workers",
    "timm": "timm `train.py`, 2 workers",
    "torchvision": "torchvision `train.py`, 2 workers",
    "fastai": "fastai, 2 workers",
    "keras": "Keras 3 on PyTorch",
}
