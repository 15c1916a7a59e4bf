"""Schedules that have to know how long the training is: which, in what unit, by which setting."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    OneCycleLR,
    PolynomialLR,
)

from classifier.checkpoint.trust import import_class
from classifier.errors import UserError
from classifier.optimization.build import SchedulerBuilder, class_and_settings

Interval = Literal["epoch", "step"]
# By class, as those derived from it; not by name: total_iters of LinearLR and ConstantLR is the
# length of a warm-up.
LENGTHS: dict[type, str] = {
    CosineAnnealingLR: "T_max",
    PolynomialLR: "total_iters",
    OneCycleLR: "total_steps",
}
BY_STEP = (OneCycleLR, CyclicLR)  # made for it
A_GROUP_EACH = ("base_lr", "max_lr", "min_lr", "lr_lambda")  # settings that may be lists


def length_setting(kind: object) -> str | None:
    """The setting of a class that is its length, its base's where it takes it; None for others."""
    if not isinstance(kind, type):
        return None
    name = next((LENGTHS[base] for base in kind.__mro__ if base in LENGTHS), None)
    if name is None:
        return None
    parameters = inspect.signature(kind).parameters.values()
    takes_all = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    return name if takes_all or name in (parameter.name for parameter in parameters) else None


def length_settings() -> dict[str, str]:
    """Those of all classes that are imported by now, as configs name them."""
    kinds = [*LENGTHS]
    for kind in kinds:  # grows while it is walked: subclasses of subclasses
        kinds += kind.__subclasses__()
    found = ((f"{kind.__module__}.{kind.__qualname__}", length_setting(kind)) for kind in kinds)
    return {path: name for path, name in found if name}


def interval_of(builder: SchedulerBuilder | None, given: Interval | None) -> Interval:
    """When a schedule moves on: as given, else as it is made for, after each epoch if unknown."""
    kind, _ = class_and_settings(builder)
    return given or ("step" if kind and issubclass(kind, BY_STEP) else "epoch")


def missing_length(builder: SchedulerBuilder | None) -> str | None:
    """The setting of a schedule that is to be filled in with the length of the training."""
    kind, settings = class_and_settings(builder)
    name = length_setting(kind)
    return name if name and settings.get(name) is None and not _product(settings) else None


def _product(settings: Mapping[str, Any]) -> int:
    """OneCycleLR's other way to be told its length; 0 where it is not."""
    return int((settings.get("epochs") or 0) * (settings.get("steps_per_epoch") or 0))


def refuse_short_cycle(
    builder: SchedulerBuilder | None, interval: Interval, length: Callable[[], int | None]
) -> None:
    """Raises UserError for a OneCycleLR that fails in the training, being over before its end."""
    kind, settings = class_and_settings(builder)
    total = settings.get("total_steps")
    told = total or _product(settings)
    if not (kind and issubclass(kind, OneCycleLR) and told) or told >= (number := length() or 0):
        return
    name = "total_steps" if total else "epochs times steps_per_epoch"
    way = ", or set model.interval to epoch" if interval == "step" else ""
    raise UserError(
        f"model.lr_scheduler: {kind.__name__} has {name} {told}, but goes on after each of "
        f"{number:,} {interval}s; leave it out{way}."
    )


def builder_without_length(described: Any) -> SchedulerBuilder | None:
    """What builds a schedule that a config describes, if its length is left to the training.

    jsonargparse would ask for the length, or take the default of it, outside our own parser.
    """
    if not isinstance(described, Mapping) or "class_path" not in described:
        return None
    try:
        kind = import_class(described["class_path"])
    except (ImportError, AttributeError):
        return None  # jsonargparse says that it is gone
    settings = dict(described.get("init_args") or {})
    name = length_setting(kind)
    if name is None or settings.pop(name, None) is not None:
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
