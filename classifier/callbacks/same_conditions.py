"""Notices that a training goes on, or begins again, on something that computes other last bits."""

import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback


class SameConditions(Callback):
    """Says which of device, precision, threads, instruction set and PyTorch are others now.

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
