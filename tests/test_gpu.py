"""What is otherwise on a GPU: shown by stand-ins for torch's functions, and on one if there is."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data._utils.pin_memory import pin_memory

from classifier.__main__ import main
from classifier.callbacks.numerics import Numerics
from classifier.callbacks.same_conditions import SameConditions
from classifier.checkpoint.provenance import settings_digest
from classifier.checkpoint.read import read_checkpoint, weights_digest
from classifier.cli.classifier_cli import ClassifierCLI
from classifier.data import Digits
from classifier.data.loader import TrainLoader
from classifier.data.sets import ImageFiles
from classifier.runs import read_record
from classifier.search.engines import gpus

CARD = {"gpus": ["NVIDIA H100"], "cuda": "12.8", "cudnn": 91002}
KILLS = """
import os, signal

import pytorch_lightning as pl


class Kills(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == int(os.environ.get("KILL", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)
"""
ASKS_FOR_GPU = """
import torch

asked = []


def noted(name):
    function = getattr(torch.cuda, name)
    return lambda *arguments: asked.append(name) or function(*arguments)


for name in ("is_available", "device_count", "_lazy_init"):
    setattr(torch.cuda, name, noted(name))
import classifier.search.preload

print("asked:", *asked)
torch.cuda.is_available()
print("then:", asked[0])
"""
FULL = """
import torch


class Full(torch.nn.Linear):
    def __init__(self, classes):
        super().__init__(64, classes)

    def forward(self, images):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
            "79.10 GiB of which 1.25 GiB is free. Including non-PyTorch memory, this process has "
            "77.84 GiB memory in use. Of the allocated memory 76.90 GiB is allocated by PyTorch."
        )
"""


def loader_on(device: str) -> TrainLoader:
    """The training batches of Digits, for a trainer whose device is another."""
    data = Digits(batch_size=64)
    data.training_seed = 3
    data.setup("fit")
    count = SimpleNamespace(processed=1, ready=2)  # the second epoch, behind two batches
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=count),
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=count)),
    )
    strategy = SimpleNamespace(root_device=torch.device(device))
    return TrainLoader(data.train_dataloader(), SimpleNamespace(strategy=strategy, fit_loop=loop))


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_each_step_seeds_the_generator_of_its_device(kind, monkeypatch):
    seeds: list[int] = []
    monkeypatch.setattr(getattr(torch, kind), "manual_seed", seeds.append)

    number = len(list(loader_on(kind)))

    assert number == len(set(seeds)) > 10


@pytest.fixture
def pinned(monkeypatch) -> list[bool]:
    """What was allocated, and whether pinned: a stand-in of ``torch.empty``, which cannot here."""
    empty, told = torch.empty, []

    def stand_in(*size, pin_memory=False, **settings):
        told.append(pin_memory)
        return empty(*size, **settings)

    monkeypatch.setattr(torch, "empty", stand_in)
    return told


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_the_batches_of_a_gpu_are_those_of_a_cpu(free, pinned, monkeypatch):
    expected = list(loader_on("cpu"))
    loader = loader_on("cpu")
    monkeypatch.setitem(vars(loader.loader), "pin_memory", True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    pinned.clear()

    for (images, labels), (images_there, labels_there) in zip(loader, expected, strict=True):
        assert images.equal(images_there)
        assert labels.equal(labels_there)
    # What has no room on the GPU is gathered in pinned memory; what has is sent once.
    assert pinned == ([] if free else [True] * 2 * len(expected))


def test_images_are_sent_to_a_gpu_once_if_they_take_less_than_a_quarter_of_what_is_free(
    pinned, monkeypatch
):
    loader = loader_on("cpu")
    monkeypatch.setitem(vars(loader.loader), "pin_memory", True)
    size = loader.loader.dataset.images.nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * size, 0))
    list(loader)
    assert loader.on_gpu is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * size + 4, 0))
    loader.trainer.strategy.root_device = torch.device("meta")
    monkeypatch.setattr(torch, "get_device_module", lambda device: torch.random)

    (images, labels), *_ = loader
    there = loader.on_gpu
    assert images.device.type == labels.device.type == "meta"
    list(loader)
    assert loader.on_gpu is there


def on(device: str) -> Any:
    """A trainer whose device is another."""
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))


def settings() -> list[Any]:
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        torch.get_float32_matmul_precision(),
    ]


def test_a_gpu_computes_the_same_bits_each_time_while_a_trainer_runs():
    before = settings()
    numerics = Numerics(repeatable=True)

    numerics.setup(on("cuda"), SimpleNamespace(float32_matmul_precision="high"), "fit")
    assert settings() == [True, False, ":4096:8", "high"]
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    numerics.on_exception()
    assert settings() == before

    numerics.setup(on("cpu"), SimpleNamespace(float32_matmul_precision=None), "fit")
    assert settings() == before


@pytest.mark.parametrize("option", ["deterministic=false", "deterministic=true", "benchmark=true"])
def test_what_the_trainer_is_told_of_bits_wins(option, write_config):
    words = ["--config", write_config()]
    for told, repeatable in (([], True), ([f"--trainer.{option}"], False)):
        trainer = ClassifierCLI(args=[*words, *told], run=False).trainer
        (numerics,) = (c for c in trainer.callbacks if isinstance(c, Numerics))
        assert numerics.repeatable is repeatable
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


def test_the_precision_of_products_is_recorded_and_told_where_it_changes(write_config, fit, capsys):
    one = ["--trainer.max_steps", "1"]
    first = fit("--config", write_config(), *one, "--model.float32_matmul_precision", "high")
    assert torch.get_float32_matmul_precision() == "highest"
    assert read_record(first)["environment"]["float32_matmul_precision"] == "high"
    capsys.readouterr()

    again = ["--trainer.max_steps", "2", "--model.float32_matmul_precision", "null"]
    assert main(["fit", "--ckpt_path", str(first), *again]) == 0
    assert "float32_matmul_precision highest, not high" in capsys.readouterr().err


def test_earlier_runs_have_the_digest_that_they_had(write_config, fit):
    config = yaml.safe_load((fit("--config", write_config()) / "config.yaml").read_text())
    digest = settings_digest(config)

    assert config["model"].pop("float32_matmul_precision", "missing") is None
    assert settings_digest(config) == digest


def test_another_card_cuda_or_cudnn_is_told_when_a_training_is_resumed(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    trainer = on("cuda")
    vars(trainer).update(world_size=1, precision="32-true", callbacks=[], val_check_interval=1.0)
    before = {"device": "cuda", "environment": CARD}

    SameConditions(before).on_fit_start(trainer, None)

    told = capsys.readouterr().err
    assert "card NVIDIA A100, not NVIDIA H100; CUDA 12.6, not 12.8" in told
    assert "cuDNN" not in told
    assert "with trainer.benchmark, or trainer.deterministic false" in told  # no Numerics here


def test_a_full_gpu_is_told_in_two_lines_with_what_takes_less(write_config, write_module, capsys):
    write_module(FULL)
    network = {"model.network": {"class_path": "own.Full", "init_args": {"classes": 10}}}

    assert main(["fit", "--config", write_config(network)]) == 1

    told = capsys.readouterr().err.strip().splitlines()
    assert told[-2:] == [
        "error: GPU 0 with 79.10 GiB ran out of memory at 2.00 GiB more.",
        "A smaller data.batch_size with trainer.accumulate_grad_batches, a smaller "
        "data.eval_batch_size, or trainer.precision bf16-mixed take less.",
    ]


ON_GPU, ON_CPU = (pytest.mark.gpu,), (pytest.mark.slow,)


@pytest.mark.parametrize(
    ("device", "changes"),
    [
        pytest.param("cpu", {"trainer.precision": "bf16-mixed"}, id="cpu, bf16", marks=ON_CPU),
        pytest.param("gpu", {}, id="float32", marks=ON_GPU),
        pytest.param("gpu", {"trainer.precision": "bf16-mixed"}, id="bf16", marks=ON_GPU),
        pytest.param("gpu", {"trainer.precision": "16-mixed"}, id="fp16", marks=ON_GPU),
        pytest.param("gpu", {"model.compile": True}, id="compiled", marks=ON_GPU),
        pytest.param("gpu", {"trainer.devices": 2}, id="two ranks", marks=ON_GPU),
    ],
)
def test_a_training_that_is_killed_and_one_that_is_reproduced_end_with_the_same_bits(
    device, changes, write_config, write_module
):
    if changes.get("trainer.devices", 1) > torch.cuda.device_count() > 0:
        pytest.skip("needs two GPUs")
    write_module(KILLS)
    both = {"trainer.accelerator": device, "trainer.devices": 1, "trainer.max_epochs": 3}
    kills = {"trainer.callbacks": [{"class_path": "own.Kills"}], "save_every.steps": 3}
    config = write_config({**both, **kills, **changes})

    def classify(*words: str, kill: int = -1) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "classifier", *words]
        environment = {**os.environ, "KILL": str(kill)}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert classify("fit", "--config", config).returncode == 0
    assert classify("fit", "--config", config, kill=6).returncode == -signal.SIGKILL
    resumed = classify("fit", "--ckpt_path", "runs/tiny/version_1")
    assert resumed.returncode == 0, resumed.stderr
    whole, killed = (
        weights_digest(
            read_checkpoint(Path("runs/tiny", run, "checkpoints/last.ckpt"))["state_dict"]
        )
        for run in ("version_0", "version_1")
    )
    assert killed == whole
    again = classify("reproduce", "runs/tiny/version_0")
    assert again.stdout.splitlines()[-1] == "identical", again.stdout


def test_files_to_predict_stay_what_they_are_in_pinned_memory(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor + 1)
    batch = ImageFiles(torch.zeros(1, 1, 2, 2), ["a.png"], [("b.png", "damaged")])

    images, files, unreadable = pin_memory(batch)

    assert images.sum() == 4
    assert files == ["a.png"]
    assert [tuple(pair) for pair in unreadable] == [("b.png", "damaged")]


@pytest.mark.slow
def test_what_trials_are_forked_from_asks_for_no_gpu():
    """Once it has, no trial can use one."""
    command = [sys.executable, "-c", ASKS_FOR_GPU]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)

    assert answer.stdout.splitlines() == ["asked:", "then: is_available"]


def test_the_gpus_of_a_machine_without_nvidia_smi_are_counted_by_their_devices(
    own_folder, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(own_folder))
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [f"{folder}/{pattern}"] * 3)

    assert gpus() == ["0", "1", "2"]

    program = own_folder / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0\necho 1\n")
    program.chmod(0o700)
    assert gpus() == ["0", "1"]
