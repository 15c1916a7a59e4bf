"""Schedules that have to know how long the training is: which, in what unit, by which setting."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    OneCycleLR,
    PolynomialLR,
)

from classifier.errors import UserError
from classifier.optimization.build import SchedulerBuilder

Interval = Literal["epoch", "step"]
# By class, not by name: total_iters of LinearLR and ConstantLR is the length of a warm-up.
LENGTHS: dict[type, str] = {
    CosineAnnealingLR: "T_max",
    PolynomialLR: "total_iters",
    OneCycleLR: "total_steps",
}
PATHS = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in LENGTHS}  # as configs name them
BY_STEP = (OneCycleLR, CyclicLR)  # made for it
A_GROUP_EACH = ("base_lr", "max_lr", "min_lr", "lr_lambda")  # settings that may be lists


def class_and_settings(builder: SchedulerBuilder | None) -> tuple[type | None, Mapping[str, Any]]:
    """The class of a schedule and the settings that it is given; None where that is not to be seen.

    A config's builder is a ``partial`` whose first argument is the class.
    """
    if isinstance(builder, partial):
        kinds = [part for part in (builder.func, *builder.args) if isinstance(part, type)]
        return (kinds[0] if kinds else None), builder.keywords
    return (builder if isinstance(builder, type) else None), {}


def interval_of(builder: SchedulerBuilder | None, given: Interval | None) -> Interval:
    """When a schedule moves on: as given, else as it is made for, after each epoch if unknown."""
    kind, _ = class_and_settings(builder)
    return given or ("step" if kind in BY_STEP else "epoch")


def missing_length(builder: SchedulerBuilder | None) -> str | None:
    """The setting of a schedule that is to be filled in with the length of the training."""
    kind, settings = class_and_settings(builder)
    name = LENGTHS.get(kind) if kind else None
    # OneCycleLR's other way to be told.
    by_product = settings.get("epochs") and settings.get("steps_per_epoch")
    return name if name and settings.get(name) is None and not by_product else None


def builder_without_length(described: Any) -> SchedulerBuilder | None:
    """What builds a schedule that a config describes, if its length is left to the training.

    jsonargparse would ask for the length, or take the default of it, outside our own parser.
    """
    if not isinstance(described, Mapping):
        return None
    kind = PATHS.get(str(described.get("class_path")))
    settings = dict(described.get("init_args") or {})
    if kind is None or settings.pop(LENGTHS[kind], None) is not None:
        return None
    return partial(kind, **settings)


def refuse_rates_by_group(builder: SchedulerBuilder | None) -> None:
    """Raises UserError for a schedule with a rate for each group, which would count twice."""
    _, settings = class_and_settings(builder)
    for name in A_GROUP_EACH:
        if isinstance(settings.get(name), list | tuple):
            raise UserError(
                f"model.lr_scheduler: {name} is the list {list(settings[name])}, a rate for each "
                "group; give it one number, and the groups of model.groups an lr_scale."
            )
