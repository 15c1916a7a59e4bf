"""How a resumed training goes on with another optimizer, schedule or grouping of parameters.

The command line and the config files win over the checkpoint. PyTorch's ``load_state_dict``
does the opposite: it brings back the learning rate and every other saved setting.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from classifier.checkpoint.find import KEY
from classifier.optimization.build import SchedulerBuilder
from classifier.optimization.groups import patterns_of

Settings = Mapping[str, Any]


def follow_new_settings(
    checkpoint: dict[str, Any],
    settings: Settings,
    schedule: Settings | None = None,
    decays: Sequence[float | None] = (),
) -> bool:
    """Edits the saved optimizer and scheduler states so that changed settings take effect.

    Another optimizer class starts with a fresh state. A schedule of another class, with other
    settings or with another learning rate is played again from its base rate up to where the
    training is; ReduceLROnPlateau and a constant rate have no base rate and take the new values as
    they are.

    Args:
        checkpoint: A loaded Lightning checkpoint; changed in place.
        settings: The ``model`` settings that hold now, as plain mappings.
        schedule: What is filled into the schedule now, and its interval.
        decays: The weight decay of each parameter group now, None for the optimizer's; empty where
            they are not grouped by pattern.

    Returns:
        Whether the schedule is to be played again; else that of the checkpoint goes on.
    """
    saved = checkpoint.get("hyper_parameters", {})
    if "optimizer_states" not in checkpoint or "optimizer" not in saved:
        return False  # weights only, or not made from the command line
    saved = _with_filled(saved, checkpoint.get(KEY, {}).get("schedule", {}))
    settings = _with_filled(settings, schedule or {})
    regrouped = _grouping(saved) != _grouping(settings)
    if regrouped or _class_path(saved, "optimizer") != _class_path(settings, "optimizer"):
        checkpoint["optimizer_states"] = []
        changed: dict[str, Any] = {"lr": None}  # of the new optimizer
    else:
        changed = _changed(saved, settings, "optimizer")
    for state in checkpoint["optimizer_states"]:
        for number, group in enumerate(state["param_groups"]):
            # Without patterns the second does not decay.
            own = decays[number] if decays else 0.0 if number else None
            new = {k: v for k, v in changed.items() if own is None or k != "weight_decay"}
            if decays and saved.get("groups") != settings.get("groups"):
                new["weight_decay"] = _weight_decay(settings) if own is None else own
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
    if isinstance(scheduler, ReduceLROnPlateau):
        return scheduler  # which goes by what is measured from now on
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`lr_scheduler.step\\(\\)` before `optimizer.step")
        for _ in range(steps):
            scheduler.step()
    return scheduler


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
) -> bool:
    if _class_path(saved, "lr_scheduler") != _class_path(settings, "lr_scheduler"):
        checkpoint["lr_schedulers"] = []
        return True
    changed = _changed(saved, settings, "lr_scheduler")
    other_interval = saved.get("interval") != settings.get("interval")
    if not (changed or other_rate or other_interval):
        return False
    for state in checkpoint["lr_schedulers"]:
        for name in changed:
            state.pop(name, None)  # what is not restored keeps its new value
    if not any("base_lrs" in state for state in checkpoint["lr_schedulers"]):
        return False
    checkpoint["lr_schedulers"] = []
    return True


def _grouping(settings: Settings) -> list[Any]:
    """What decides how many groups there are, and which parameters are in each."""
    groups = [[patterns_of(g), bool(g.get("freeze"))] for g in settings.get("groups") or ()]
    by_layer = settings.get("layer_decay") is not None
    return [bool(settings.get("no_decay_norm_bias")), by_layer, groups]


def _with_filled(settings: Settings, schedule: Settings) -> Settings:
    """Settings with what was filled into the schedule, and when it moves on, written out."""
    spec = settings.get("lr_scheduler")
    filled = {key: value for key, value in schedule.items() if key != "interval"}
    if isinstance(spec, Mapping) and filled:
        spec = {**spec, "init_args": {**(spec.get("init_args") or {}), **filled}}
    interval = schedule.get("interval", settings.get("interval"))
    return {**settings, "lr_scheduler": spec, "interval": interval}


def _weight_decay(settings: Settings) -> float:
    """That of the optimizer; 0 for Adam, which is the one where none is given."""
    spec = settings.get("optimizer")
    given = (spec.get("init_args") or {}) if isinstance(spec, Mapping) else {}
    return float(given.get("weight_decay", 0.0))


def _class_path(settings: Settings, name: str) -> str | None:
    spec = settings.get(name)
    return spec["class_path"] if isinstance(spec, Mapping) else spec


def _changed(saved: Settings, settings: Settings, name: str) -> dict[str, Any]:
    """The init_args of ``name`` that differ from the saved ones."""
    specs = (saved.get(name), settings.get(name))
    old, new = (spec.get("init_args") or {} if isinstance(spec, Mapping) else {} for spec in specs)
    return {key: value for key, value in new.items() if key not in old or old[key] != value}
