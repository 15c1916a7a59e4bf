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


def build_optimizer(
    build: OptimizerBuilder,
    parameters: list[nn.Parameter],
    no_decay_norm_bias: bool,
) -> Optimizer:
    """Builds an optimizer of parameters.

    Args:
        build: The class, or a function that has its other settings.
        parameters: What it trains.
        no_decay_norm_bias: Whether to exempt biases and normalisation layers from weight decay.

    Raises:
        UserError: If a setting or the learning rate is out of range.
    """
    groups = _without_decay(parameters) if no_decay_norm_bias else parameters
    optimizer = _build("optimizer", build, groups)
    for group in optimizer.param_groups:
        if not 0 <= group["lr"] < math.inf:  # also false for NaN, which SGD itself accepts
            raise UserError(f"model.optimizer: lr must be a number >= 0, not {group['lr']}.")
    return optimizer


def build_scheduler(build: SchedulerBuilder, optimizer: Optimizer) -> LRScheduler:
    """Builds a schedule of an optimizer's learning rate.

    Raises:
        UserError: If a setting is out of range.
    """
    return _build("lr_scheduler", build, optimizer)


def _without_decay(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Groups parameters; those with fewer than two dimensions come second and do not decay."""
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _build(setting: str, build: Callable[[Any], Built], argument: Any) -> Built:
    try:
        return build(argument)
    except (ValueError, TypeError) as error:
        raise UserError(f"model.{setting}: {error}") from error
