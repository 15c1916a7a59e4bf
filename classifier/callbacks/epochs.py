"""What a callback has to know of an epoch to report it."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class EpochWatch(Callback):
    """Takes the time of an epoch and tells which metrics are its own."""

    def __init__(self) -> None:
        self.started = self.epoch_started = time.monotonic()
        self.validated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch_started = time.monotonic()
        self.validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated = True

    def state_dict(self) -> dict[str, Any]:
        return {"validated": self.validated}  # before a checkpoint inside the epoch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated = state_dict["validated"]

    def epoch_metrics(self, trainer: pl.Trainer) -> dict[str, float]:
        """The metrics of this epoch; Lightning's also has those of an earlier validation."""
        return {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if self.validated or not name.startswith("val_")
        }

    def seconds(self) -> float:
        """How long training takes so far."""
        return time.monotonic() - self.started

    def epoch_seconds(self) -> float:
        """How long the epoch takes so far."""
        return time.monotonic() - self.epoch_started
