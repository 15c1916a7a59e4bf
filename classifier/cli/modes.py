"""Fills in which way a metric is better, wherever something follows the metric."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from torch.optim.lr_scheduler import ReduceLROnPlateau

from classifier.cli.errors import Where
from classifier.cli.parser import imported
from classifier.errors import UserError
from classifier.metrics import Mode, better

MODES = ("min", "max")


def fill_modes(
    config: Namespace, own: Mapping[str, Mode | None], written: Collection[str], where: Where
) -> list[str]:
    """Completes the ``mode`` of all that monitors a metric, in place, where nobody wrote it.

    Args:
        config: The settings of ``fit``, complete.
        own: The metrics that the module logs, and what they say of themselves.
        written: The dotted keys that somebody wrote.
        where: Finds a dotted key in the config files.

    Returns:
        What is to be said of metrics of which nothing says which way they are better.

    Raises:
        UserError: If a mode that was written contradicts the metric.
    """
    monitor, mode = config.model.monitor, config.model.monitor_mode
    modes = {**own, monitor: own.get(monitor) or mode}
    if mode and mode != modes[monitor]:
        raise _contradiction("model.monitor_mode", mode, monitor, modes, where)
    unknown = {} if modes[monitor] else {"model.monitor_mode": monitor}
    for key, settings, metric in _followers(config):
        right = modes.get(metric)
        place = f"{key}.init_args.mode"
        if f"{key}.mode" in written:
            if right not in (None, settings["mode"]):
                raise _contradiction(place, settings["mode"], metric, modes, where)
        elif right:
            settings["mode"] = right
        elif metric != monitor:
            unknown[place] = metric
    return [
        f"{key}: nothing says whether a small or a large {metric} is good; set it to min or max."
        for key, metric in unknown.items()
    ]


def _contradiction(
    key: str, mode: str, metric: str, modes: Mapping[str, Mode | None], where: Where
) -> UserError:
    return UserError(
        f"{where(key)}{key} is {mode}, but {better(metric, modes[metric])}: leave it out, or set "
        f"it to {modes[metric]}."
    )


def _followers(config: Namespace) -> Iterator[tuple[str, Any, str]]:
    """What has a mode: its dotted key, its settings and the metric that it follows."""
    scheduler = config.model.lr_scheduler
    if scheduler and _is_plateau(scheduler.class_path):
        settings = scheduler.get("init_args") or {}
        if settings.get("mode") in MODES:
            yield "model.lr_scheduler", settings, settings.get("monitor") or config.model.monitor
    callbacks = config.trainer.callbacks
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    for number, callback in enumerate(listed):
        settings = (callback or {}).get("init_args") or {}
        if settings.get("monitor") and settings.get("mode") in MODES:
            key = f"trainer.callbacks.{number}" if listed is callbacks else "trainer.callbacks"
            yield key, settings, settings["monitor"]


def _is_plateau(class_path: str) -> bool:
    kind = imported(class_path)
    return isinstance(kind, type) and issubclass(kind, ReduceLROnPlateau)
