"""Notices that a training goes on, or begins again, on something that computes other last bits."""

import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    Callback,
    ModelPruning,
    StochasticWeightAveraging,
)

from classifier import terminal

# Each with what does instead: they change schedules and weights where no checkpoint sees it.
NOT_EXACT = {
    StochasticWeightAveraging: "WeightAveraging and EMAWeightAveraging go on exactly",
    BaseFinetuning: "a training of the head and a second one of all from its checkpoint do",
    ModelPruning: "pruning the weights of the finished training does without",
}


class SameConditions(Callback):
    """Says what keeps a training, or its going on, from having the bits that it would have.

    Which of device, precision, threads, instruction set and PyTorch are others now, and which
    callbacks cannot go on exactly.

    Args:
        before: The record of the run that goes on or is trained again.
    """

    state_key = "SameConditions"

    def __init__(self, before: Mapping[str, Any]) -> None:
        self.before = conditions_of(before)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        here = {
            "device": trainer.strategy.root_device.type,
            "devices": trainer.world_size,
            "precision": str(trainer.precision),
            "threads": torch.get_num_threads(),
            "instruction set": torch.backends.cpu.get_cpu_capability(),
            "torch": metadata.version("torch"),
        }
        self._name_what_is_not_exact(trainer)
        changed = [
            f"{name} {here[name]}, not {value}"
            for name, value in self.before.items()
            if value is not None and value != here[name]
        ]
        if changed:
            note = f"note: the last bits may differ from before: {'; '.join(changed)}."
            threads = self.before["threads"]
            if threads not in (None, here["threads"]):
                note += f" OMP_NUM_THREADS={threads} sets the threads."
            rank_zero_only(print)(note, file=sys.stderr)

    def _name_what_is_not_exact(self, trainer: Any) -> None:
        for kind, instead in NOT_EXACT.items():
            for callback in trainer.callbacks:
                if isinstance(callback, kind):
                    terminal.note(
                        f"with {type(callback).__name__} a training that is stopped and goes "
                        f"on differs from one that was left alone; {instead}."
                    )
        if getattr(trainer, "val_check_interval", None) is None:  # it is one of time
            terminal.note(
                "with a trainer.val_check_interval of time, validations depend on how fast "
                "the machine is; a number of batches, or a share of the epoch, does not."
            )


def conditions_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's record says of it; None where it says nothing."""
    environment = record.get("environment", {})
    named = {name: record.get(name) for name in ("device", "devices", "precision")}
    return {
        **named,
        "threads": environment.get("threads"),
        "instruction set": environment.get("cpu_capability"),
        "torch": environment.get("packages", {}).get("torch"),
    }
