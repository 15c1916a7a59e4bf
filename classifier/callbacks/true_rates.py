"""Lets LearningRateMonitor show the rates that a step has, not those of the schedule alone."""

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, LearningRateMonitor


class ScaledRates(Callback):
    """Puts the rates of the next step in place before an epoch or step."""

    state_key = "ScaledRates"

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.begin_epoch()  # callbacks hear of it first
        pl_module.rates.scale()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        pl_module.rates.scale()


class RestoredRates(Callback):
    """Puts the rates of the schedule back."""

    state_key = "RestoredRates"

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.rates.restore()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        pl_module.rates.restore()


def with_true_rates(callbacks: Iterable[Callback]) -> list[Callback]:
    """Sets each monitor of rates between two callbacks that scale the rates and restore them."""
    placed: list[Callback] = []
    for callback in callbacks:
        is_monitor = isinstance(callback, LearningRateMonitor)
        placed += [ScaledRates(), callback, RestoredRates()] if is_monitor else [callback]
    return placed
