"""Optimizer and schedule: how they are made, and how a resumed training goes on with others.

The command line and the config files win over the checkpoint. PyTorch's ``load_state_dict``
does the opposite: it brings back the learning rate and every other saved setting.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from classifier.checkpoint.find import epochs_done
from classifier.errors import UserError

OptimizerBuilder = Callable[[Iterable[Any]], Optimizer]
SchedulerBuilder = Callable[[Optimizer], LRScheduler]
Settings = Mapping[str, Any]
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


def follow_new_settings(checkpoint: dict[str, Any], settings: Settings) -> int | None:
    """Edits the saved optimizer and scheduler states so that changed settings take effect.

    Another optimizer class starts with a fresh state, another scheduler class at its beginning. A
    schedule with other settings or another learning rate is played again from its base rate up to
    where the checkpoint was; ReduceLROnPlateau and a constant rate have no base rate and take the
    new values as they are.

    Args:
        checkpoint: A loaded Lightning checkpoint; changed in place.
        settings: The ``model`` settings that hold now, as plain mappings.

    Returns:
        How many steps of a new schedule to play; None to keep the saved one.
    """
    saved = checkpoint.get("hyper_parameters", {})
    if "optimizer_states" not in checkpoint or "optimizer" not in saved:
        return None  # weights only, or not made from the command line
    regrouped = saved.get("no_decay_norm_bias") != settings.get("no_decay_norm_bias")
    if regrouped or _class_path(saved, "optimizer") != _class_path(settings, "optimizer"):
        checkpoint["optimizer_states"] = []
        changed = {"lr": None}  # of the new optimizer
    else:
        changed = _changed(saved, settings, "optimizer")
    for state in checkpoint["optimizer_states"]:
        for number, group in enumerate(state["param_groups"]):
            # The second does not decay.
            new = {k: v for k, v in changed.items() if number == 0 or k != "weight_decay"}
            group.update({key: value for key, value in new.items() if key in group})
            if "lr" in new and "initial_lr" in group:
                group["initial_lr"] = new["lr"]
    _follow_metric(checkpoint, saved, settings)
    return _follow_schedule(checkpoint, saved, settings, "lr" in changed)


def replay_schedule(
    optimizer: Optimizer, builder: SchedulerBuilder | None, steps: int
) -> LRScheduler | None:
    """Returns a schedule that was played from its base rate; without one sets that rate."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"])
    if builder is None:
        return None
    scheduler = builder(optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`lr_scheduler.step\\(\\)` before `optimizer.step")
        for _ in range(steps):
            scheduler.step()
    return scheduler


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


def _follow_metric(checkpoint: dict[str, Any], saved: Settings, settings: Settings) -> None:
    """Lets ReduceLROnPlateau forget what was best if it follows another metric now."""
    changed = _changed(saved, settings, "lr_scheduler").keys() & {"monitor", "mode"}
    if changed or saved.get("monitor") != settings.get("monitor"):
        for state in checkpoint["lr_schedulers"]:
            if "num_bad_epochs" in state:
                state.pop("best", None)
                state["num_bad_epochs"] = 0


def _follow_schedule(
    checkpoint: dict[str, Any], saved: Settings, settings: Settings, other_rate: bool
) -> int | None:
    if _class_path(saved, "lr_scheduler") != _class_path(settings, "lr_scheduler"):
        checkpoint["lr_schedulers"] = []
        return 0
    changed = _changed(saved, settings, "lr_scheduler")
    other_interval = saved.get("interval") != settings.get("interval")
    if not (changed or other_rate or other_interval):
        return None
    position = None
    for state in checkpoint["lr_schedulers"]:
        if "base_lrs" in state:
            position = int(state["last_epoch"])
        for name in changed:
            state.pop(name, None)  # what is not restored keeps its new value
    if position is None:
        return None
    checkpoint["lr_schedulers"] = []
    if other_interval:
        by_epoch = settings.get("interval") == "epoch"
        position = epochs_done(checkpoint) if by_epoch else checkpoint["global_step"]
    return position


def _class_path(settings: Settings, name: str) -> str | None:
    spec = settings.get(name)
    return spec["class_path"] if isinstance(spec, Mapping) else spec


def _changed(saved: Settings, settings: Settings, name: str) -> dict[str, Any]:
    """The init_args of ``name`` that differ from the saved ones."""
    specs = (saved.get(name), settings.get(name))
    old, new = (spec.get("init_args") or {} if isinstance(spec, Mapping) else {} for spec in specs)
    return {key: value for key, value in new.items() if key not in old or old[key] != value}
