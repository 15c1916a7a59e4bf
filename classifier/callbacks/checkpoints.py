"""Which checkpoints a run keeps: ``best.ckpt`` and ``last.ckpt``."""

from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


def best_and_last(folder: Path, monitor: str) -> list[ModelCheckpoint]:
    """Keeps the epoch with the best ``monitor`` and the newest one, in ``folder/checkpoints``.

    The best comes first: what the last one saves then knows of it, and Lightning's
    ``ckpt_path="best"`` asks the first.
    """
    directory = folder / "checkpoints"
    best = ModelCheckpoint(directory, "best", monitor=monitor, mode=direction(monitor))
    # Two callbacks rather than save_last: that one stops at the best epoch.
    last = ModelCheckpoint(directory, "last", enable_version_counter=False)
    return [best, last]


def best_checkpoint(trainer: pl.Trainer) -> ModelCheckpoint | None:
    """The callback that keeps ``checkpoints/best.ckpt``."""
    callbacks = trainer.checkpoint_callbacks
    return next((c for c in callbacks if isinstance(c, ModelCheckpoint) and c.monitor), None)


def direction(monitor: str) -> Literal["min", "max"]:
    """Losses and errors are minimised, everything else is maximised."""
    return "min" if "loss" in monitor or "error" in monitor else "max"
