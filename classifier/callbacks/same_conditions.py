"""Notices that the data or the conditions of a training have changed since."""

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    Callback,
    ModelPruning,
    StochasticWeightAveraging,
)

from classifier import terminal
from classifier.environment import describe_device
from classifier.platform import THREADS

# Each with what does instead: they change schedules and weights where no checkpoint sees it.
NOT_EXACT = {
    StochasticWeightAveraging: "WeightAveraging and EMAWeightAveraging resume exactly",
    BaseFinetuning: "a training of the head and a second one of all from its checkpoint do",
    ModelPruning: "pruning the weights of the finished training does without",
}


class SameConditions(Callback):
    """Warns when images were added, removed or split otherwise since the training.

    Where one is resumed or begins again, it notes which of device, precision, threads, instruction
    set and PyTorch are others now, than in the record before, and which callbacks cannot be resumed
    exactly.
    """

    state_key = "SameConditions"

    def __init__(self, before: Mapping[str, Any], fingerprint: str | None = None) -> None:
        environment = before.get("environment", {})
        self.before = {  # as conditions_here; None where the record says nothing
            **{name: before.get(name) for name in ("device", "devices", "precision")},
            "threads": environment.get("threads"),
            "instruction set": environment.get("cpu_capability"),
            "torch": environment.get("packages", {}).get("torch"),
            "card": ", ".join(dict.fromkeys(environment.get("gpus", ()))) or None,
            "CUDA": environment.get("cuda"),
            "cuDNN": environment.get("cudnn"),
            "float32_matmul_precision": environment.get("float32_matmul_precision", "highest")
            if environment
            else None,
        }
        self.fingerprint = fingerprint

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        if self.fingerprint is None or data is None or not trainer.is_global_zero:
            return
        found = data.fingerprint()
        if found != self.fingerprint and not (found and self.fingerprint):
            terminal.warn(
                "whether the images and their split are those of the training is not known, for "
                f"{data.kind if not found else 'its data'} does not say them."
            )
        elif found != self.fingerprint:
            terminal.warn(
                f"the images or their split are not those of the training (fingerprint {found}, "
                f"not {self.fingerprint}); where no test folder "
                "sets them apart, training images may be among them."
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for kind, instead in NOT_EXACT.items():
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # likewise
                if isinstance(callback, kind):
                    terminal.note(
                        f"with {type(callback).__name__} a training that is stopped and resumed "
                        f"differs from one that was left alone; {instead}."
                    )
        if getattr(trainer, "val_check_interval", None) is None:  # it is one of time
            terminal.note(
                "with a trainer.val_check_interval of time, validations depend on how fast "
                "the machine is; a number of batches, or a share of the epoch, does not."
            )
        repeatable = torch.are_deterministic_algorithms_enabled()
        if trainer.strategy.root_device.type == "cuda" and not repeatable:
            terminal.note(
                "with trainer.benchmark, or trainer.deterministic false, a training on a GPU that "
                "is stopped and resumed may differ from one that was left alone."
            )
        here = conditions_here(trainer)
        changed = [
            f"{name} {here[name]}, not {value}"
            for name, value in self.before.items()
            if None not in (value, here[name]) and value != here[name]
        ]
        if changed:
            threads = self.before["threads"]
            other = threads not in (None, here["threads"])
            remedy = f" {THREADS}={threads} sets the threads." if other else ""
            terminal.note(f"the last bits may differ from before: {'; '.join(changed)}.{remedy}")


def conditions_here(trainer: pl.Trainer) -> dict[str, Any]:
    """What the last bits of a training depend on; None for what is of another device."""
    device = describe_device(trainer.strategy.root_device)
    return {
        "device": trainer.strategy.root_device.type,
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "torch": metadata.version("torch"),
        "card": ", ".join(device["gpus"]) or None,
        "CUDA": device.get("cuda"),
        "cuDNN": device.get("cudnn"),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
