"""What a callback has to know of an epoch to report it."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from classifier.internals.lightning import can_stop_early, measured_by_validation


class EpochTracker(Callback):
    """Takes the time of an epoch and tells which metrics are its own."""

    def __init__(self) -> None:
        self.started = self.epoch_started = time.monotonic()
        self.validated = False  # in this epoch
        self.validated_inside = False  # and not at its end

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch_started = time.monotonic()
        self.validated = self.validated_inside = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not is_part_of_fit(trainer):
            return
        self.validated = True
        self.validated_inside = is_epoch_incomplete(trainer)
        if self.validated_inside:
            measured = measured_by_validation(trainer)
            metrics = {k: v for k, v in self.epoch_metrics(trainer).items() if k in measured}
            self.on_validation_inside(trainer, metrics)

    def on_validation_inside(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        """Called after a validation before the end of an epoch, with what it has measured."""

    def state_dict(self) -> dict[str, Any]:
        # Before a checkpoint inside the epoch.
        return {"validated": self.validated, "validated_inside": self.validated_inside}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated = state_dict["validated"]
        self.validated_inside = state_dict.get("validated_inside", False)  # not in format 1

    def epoch_metrics(self, trainer: pl.Trainer) -> dict[str, float]:
        """The metrics of this epoch; Lightning's also has those of an earlier validation."""
        return {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if self.validated or not name.startswith("val_")
        }

    def end_metrics(self, trainer: pl.Trainer) -> dict[str, float]:
        """Those of the end of this epoch, without those of a validation inside it."""
        hidden = "val_" if self.validated_inside else ()
        return {k: v for k, v in self.epoch_metrics(trainer).items() if not k.startswith(hidden)}

    def seconds(self) -> float:
        """How long training takes so far."""
        return time.monotonic() - self.started

    def epoch_seconds(self) -> float:
        """How long the epoch takes so far."""
        return time.monotonic() - self.epoch_started


def is_part_of_fit(trainer: pl.Trainer) -> bool:
    """Whether a validation belongs to a training, and is not the check before it."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def is_epoch_incomplete(trainer: pl.Trainer) -> bool:
    """Whether the training has left its epoch before the last batch, perhaps before the first."""
    batches = trainer.fit_loop.batch_idx + 1
    return not (trainer.is_last_batch or batches == trainer.num_training_batches)


def is_inside_epoch(trainer: pl.Trainer) -> bool:
    """Whether the optimizer has stepped on the batch before, and more batches follow it.

    After the last one the epoch has yet to be ended, which a resumed training would not do.
    """
    has_stepped = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return has_stepped and is_epoch_incomplete(trainer)


def is_epoch_ending(trainer: pl.Trainer) -> bool:
    """Whether no further batch of the epoch will be trained on."""
    done = not is_epoch_incomplete(trainer) or 0 <= trainer.max_steps <= trainer.global_step
    return done or (trainer.should_stop and can_stop_early(trainer))
