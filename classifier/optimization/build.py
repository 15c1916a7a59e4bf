"""Builds optimizers and schedules from what the user gives for them."""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from classifier.errors import UserError

OptimizerBuilder = Callable[[Iterable[Any]], Optimizer]
SchedulerBuilder = Callable[[Optimizer], LRScheduler]
Built = TypeVar("Built")


def build(setting: str, builder: Callable[[Any], Built], argument: Any) -> Built:
    """Calls a class, or a function that has its other settings; UserError if one is off."""
    try:
        built = builder(argument)
    except (ValueError, TypeError) as error:
        raise UserError(f"model.{setting}: {error}") from error
    for group in built.param_groups if isinstance(built, Optimizer) else ():
        if not 0 <= group["lr"] < math.inf:  # also false for NaN, which SGD itself accepts
            raise UserError(f"model.{setting}: lr must be a number >= 0, not {group['lr']}.")
    return built


def parameter_groups(parameters: list[nn.Parameter], no_decay_norm_bias: bool) -> list[Any]:
    """Returns what an optimizer is built of; a second group does not decay, if that is asked for.

    It has all parameters with fewer than two dimensions: biases and those of normalisation layers.
    """
    if not no_decay_norm_bias:
        return parameters
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
