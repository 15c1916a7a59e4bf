"""Lets LearningRateMonitor show the rates that a step has, not those of the schedule alone."""

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, LearningRateMonitor


class ShownRates(Callback):
    """Puts rates in place before an epoch or step, for the callbacks behind it to see.

    Args:
        are_scaled: Whether they are those of the next step, or those of the schedule.
    """

    state_key = "ShownRates"

    def __init__(self, are_scaled: bool) -> None:
        self.are_scaled = are_scaled

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.begin_epoch()  # callbacks hear of it first
        self.on_train_batch_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        rates = pl_module.rates
        rates.scale() if self.are_scaled else rates.restore()


def with_true_rates(callbacks: Iterable[Callback]) -> list[Callback]:
    """Sets each monitor of rates between the rates of the step and those of the schedule."""
    placed: list[Callback] = []
    for callback in callbacks:
        is_monitor = isinstance(callback, LearningRateMonitor)
        placed += [ShownRates(True), callback, ShownRates(False)] if is_monitor else [callback]
    return placed
