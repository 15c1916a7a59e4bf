"""Optimizers and schedules, made by their builders; what does not work here is answered."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from classifier.errors import UserError

OptimizerBuilder = Callable[[Iterable[Any]], Optimizer]
SchedulerBuilder = Callable[[Optimizer], LRScheduler]
Built = TypeVar("Built")

# A method that only such optimizers have, and what to use in place of them.
NEEDS_MORE = {
    "first_step": "needs two gradients a step, and a step here has one; take its base optimizer",
    "eval": "wants its weights exchanged before each validation, which nothing here does; take "
    "torch.optim.AdamW with CosineAnnealingLR, or with a moving average of the weights",
}


def class_and_settings(builder: Callable[..., Any] | None) -> tuple[type | None, Mapping[str, Any]]:
    """The class that is built and the settings that it is given; None where that is not to be seen.

    A config's builder is a ``partial`` whose first argument is the class.
    """
    if isinstance(builder, partial):
        kinds = [part for part in (builder.func, *builder.args) if isinstance(part, type)]
        return (kinds[0] if kinds else None), builder.keywords
    return (builder if isinstance(builder, type) else None), {}


def build(setting: str, builder: Callable[[Any], Built], argument: Any) -> Built:
    """Calls a class, or a function that has its other settings; UserError if one is off."""
    try:
        built = builder(argument)
    except (ValueError, TypeError) as error:
        told = str(error)
        if told.startswith("Muon only supports 2D"):
            told = "torch.optim.Muon takes matrices only; timm.optim.Muon takes any network."
        raise UserError(f"model.{setting}: {told}") from error
    if isinstance(built, Optimizer):
        _check_optimizer(setting, built)
    return built


def _check_optimizer(setting: str, built: Optimizer) -> None:
    for group in built.param_groups:
        if not 0 <= group["lr"] < math.inf:  # also false for NaN, which SGD itself accepts
            raise UserError(f"model.{setting}: lr must be a number >= 0, not {group['lr']}.")
    for method, told in NEEDS_MORE.items():
        if callable(getattr(built, method, None)):
            raise UserError(f"model.{setting}: {type(built).__name__} {told}.")


def refuse_other_classes(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> None:
    """Raises UserError if a training resumes with an optimizer or schedule of another class.

    For those that are objects; unlike settings, they cannot be compared.
    """
    for name, then in before.items():
        if then not in (None, now[name]):
            raise UserError(
                f"the checkpoint was trained with {then}, but the {name} of this module is "
                f"{now[name]}. Give it that one, or train without ckpt_path, from the weights of "
                "load_from_checkpoint."
            )
