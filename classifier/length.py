"""How long a training is to be, as its trainer's settings have it."""

import math
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler

from classifier.errors import UserError


class TrainingLength:
    """Epochs and optimizer steps from the first to the last of a training, whenever resumed.

    Accumulation of batches, also where it changes from epoch to epoch, devices and limits of
    batches are respected; what ends a training earlier, as early stopping does, is not known.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer

    @property
    def is_trial(self) -> bool:
        """Whether a few batches are only tried (``fast_dev_run``), however long a training is."""
        return bool(self.trainer.fast_dev_run)  # type: ignore[attr-defined]  # undeclared

    @cached_property
    def _batches(self) -> int:
        """Of a whole epoch, on each device."""
        if self.trainer.train_dataloader is None:
            self.trainer.fit_loop.setup_data()  # as Trainer.estimated_stepping_batches does
        batches = self.trainer.num_training_batches
        if batches == math.inf:
            raise UserError(
                "trainer.limit_train_batches: the data does not say how many batches an epoch "
                "has, of which lengths in model are filled in; set it to a number."
            )
        return int(batches)

    @cached_property
    def _windows(self) -> dict[int, int]:
        """How many batches a step accumulates, by the epoch from which on it does."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # undeclared
            if isinstance(callback, GradientAccumulationScheduler):
                return dict(callback.scheduling)
        return {0: self.trainer.accumulate_grad_batches}

    def window(self, epoch: int) -> int:
        """How many batches a step accumulates in an epoch, counted from 0."""
        return self._windows[max(begin for begin in self._windows if begin <= epoch)]

    def steps_in(self, epoch: int) -> int:
        """How many steps an epoch has, counted from 0."""
        return max(1, math.ceil(self._batches / self.window(epoch)))

    def steps_before(self, epoch: float) -> int:
        """How many steps there are before an epoch, counted from 0, or before a part of it."""
        whole = int(epoch)
        part = (epoch - whole) * self.steps_in(whole) if epoch > whole else 0
        return sum(map(self.steps_in, range(whole))) + round(part)

    def epochs(self, epoch: int = 0, done: int = 0, taken: int = 0) -> int | None:
        """How many epochs there are from a place on, as of ``steps``, with that which it is in."""
        epochs, steps = self.trainer.max_epochs, self.trainer.max_steps
        if steps < 0:
            return None if epochs in (None, -1) else epochs - epoch
        number, taken = epoch, taken - done
        while taken < steps and number != epochs:
            taken += self.steps_in(number)
            number += 1
        return number - epoch

    def steps(self, epoch: int = 0, done: int = 0, taken: int = 0) -> int | None:
        """How many steps there are from a place on; None where only the time ends the training.

        Args:
            epoch: The epoch of the place, counted from 0.
            done: How many steps of that epoch are done.
            taken: How many were taken in all; before a resume, epochs may have had others.
        """
        epochs, steps = self.trainer.max_epochs, self.trainer.max_steps
        left = [] if steps < 0 else [steps - taken]
        if epochs not in (None, -1):
            left.append(self.steps_before(epochs) - self.steps_before(epoch) - done)
        return min(left, default=None)

    def place(self) -> tuple[int, int, int]:
        """Where a training is that is about to go on, as ``steps`` takes it."""
        loop: Any = self.trainer.fit_loop
        epoch, progress = self.trainer.current_epoch, loop.epoch_progress.current
        # Between two epochs the batches of the one before may still be counted.
        is_inside = progress.started > progress.processed
        batches = loop.epoch_loop.batch_progress.current.ready if is_inside else 0
        return epoch, math.ceil(batches / self.window(epoch)), self.trainer.global_step

    def ended_by(self) -> str:
        """The setting that ends the training, other than a time."""
        steps = self.trainer.max_steps
        return "trainer.max_steps" if 0 <= steps == self.steps() else "trainer.max_epochs"
