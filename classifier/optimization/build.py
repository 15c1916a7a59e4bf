"""Optimizers and schedules, made by their builders; what does not work here is answered."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

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
    """Calls a class, or a function that has its other settings; UserError if that fails."""
    try:
        built = builder(argument)
    except (ValueError, TypeError) as error:
        told = str(error)
        if told.startswith("Muon only supports 2D"):
            told = "torch.optim.Muon takes matrices only; timm.optim.Muon takes any network."
        raise UserError(f"model.{setting}: {told}") from error
    except Exception as error:  # as timm.optim.Lookahead, which is given an optimizer
        raise UserError(
            f"model.{setting}: {_in_words(builder)} cannot be made: {type(error).__name__}, "
            f"{error}; take another class, or other settings."
        ) from error
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


def try_schedule(builder: SchedulerBuilder, optimizer: Optimizer) -> None:
    """Raises UserError for a schedule that fails at its first step, or gives what is no rate then.

    Another optimizer with the same groups takes that step, which leaves this one as it is.
    """
    stand_in = SGD([{**group} for group in optimizer.param_groups], lr=0.0)
    stand_in.defaults = optimizer.defaults
    schedule: Any = build("lr_scheduler", builder, stand_in)
    told = f"model.lr_scheduler: {_in_words(builder)}, "
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a schedule that goes on before the optimizer
            schedule.step(*([0.0] if isinstance(schedule, ReduceLROnPlateau) else []))
    except Exception as error:
        told += f"fails at its first step: {type(error).__name__}, {error}"
        raise UserError(f"{told}; correct its init_args.") from error
    for group in stand_in.param_groups:
        if not 0 <= group["lr"] < math.inf:
            told += f"makes lr {group['lr']} at its first step, expected a number >= 0"
            raise UserError(f"{told}; correct its init_args.")


def _in_words(builder: Callable[..., Any]) -> str:
    """The class that is built, and with which settings."""
    kind, settings = class_and_settings(builder)
    given = ", ".join(f"{name} {value}" for name, value in settings.items())
    return (kind.__name__ if kind else "this") + (f" with {given}" if given else "")


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
