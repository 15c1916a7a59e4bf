"""A moving average of the weights, which is validated and kept in place of the weights."""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from classifier.errors import UserError

Average = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]


def _in_a_training(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that does nothing in an evaluation."""

    def call(self: WeightAveraging, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.state.fn == "fit":
            hook(self, trainer, *args)

    return call


class MovingAverage(WeightAveraging):
    """An exponential moving average that warms up, so that it holds little of the first weights.

    The n-th average keeps ``min(decay, (1 + n) / (10 + n))`` of the one before. Lightning's
    ``EMAWeightAveraging`` keeps ``decay`` from the start: after 36 steps with 0.999 it is 96 % the
    weights with which the training began.

    Args:
        decay: What share of the average a step leaves in the end, from 0 to below 1.
    """

    state_key = "MovingAverage"

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=warmed_up(decay))
        self.decay = decay

    def is_like(self, other: object) -> bool:
        """Whether another callback is such an average, too."""
        return isinstance(other, MovingAverage) and other.decay == self.decay

    # A trainer that has trained evaluates what it is given: Lightning's callback would put the
    # weights of the checkpoint in place of their average, or the last average in their place.
    on_load_checkpoint = _in_a_training(WeightAveraging.on_load_checkpoint)
    on_validation_epoch_start = _in_a_training(WeightAveraging.on_validation_epoch_start)
    on_validation_epoch_end = _in_a_training(WeightAveraging.on_validation_epoch_end)


def warmed_up(decay: float) -> Average:
    """Returns what updates averaged tensors, in place, by the current ones."""

    @torch.no_grad()
    def update(averaged: Any, current: Any, number: Tensor | int) -> None:
        done = int(number)
        average: Any = get_ema_multi_avg_fn  # whose types torch lacks
        average(min(decay, (1 + done) / (10 + done)))(averaged, current, number)

    return update


def refuse_another_average(trainer: pl.Trainer) -> None:
    """Raises UserError if a callback of the user averages the weights as well."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set, undeclared
        if isinstance(callback, WeightAveraging) and not isinstance(callback, MovingAverage):
            raise UserError(
                f"model.moving_average and {type(callback).__name__} of trainer.callbacks both "
                "average the weights; leave one out."
            )


def check_decay(decay: float) -> float:
    """Returns a decay; raises UserError for one that is no share."""
    if not 0 <= decay < 1:
        raise UserError(
            f"model.moving_average is the share that a step leaves of the average, from 0 to below "
            f"1, such as 0.99, not {decay}."
        )
    return decay
