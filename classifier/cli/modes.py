"""Fills in which way a metric is better, wherever something follows the metric."""

from collections.abc import Collection, Iterator, Mapping

from jsonargparse import Namespace
from torch.optim.lr_scheduler import ReduceLROnPlateau

from classifier.checkpoint.trust import import_class
from classifier.cli.errors import Where
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
        told = f"{where('model.monitor_mode')}model.monitor_mode"
        raise _contradiction(told, mode, monitor, modes[monitor])
    unknown = {} if modes[monitor] else {"model.monitor_mode": monitor}
    for key, block, metric in _followers(config):
        right, settings = modes.get(metric), block.init_args
        place = f"{key}.init_args.mode"
        if f"{key}.mode" in written:
            if right not in (None, settings["mode"]):
                name = block.class_path.rpartition(".")[2]
                told = f"{where(place)}{place} of {name}"
                raise _contradiction(told, settings["mode"], metric, right)
        elif right:
            settings["mode"] = right
        elif metric != monitor:
            unknown[place] = metric
    return [
        f"{key}: nothing says whether a small or a large {metric} is good; set it to min or max."
        for key, metric in unknown.items()
    ]


def _contradiction(place: str, mode: str, metric: str, right: Mode | None) -> UserError:
    return UserError(
        f"{place} is {mode}, but {better(metric, right)}: leave it out, or set it to {right}."
    )


def _followers(config: Namespace) -> Iterator[tuple[str, Namespace, str]]:
    """What has a mode: its dotted key, its class and settings, and the metric that it follows."""
    scheduler, callbacks = config.model.lr_scheduler, config.trainer.callbacks
    if scheduler and _is_plateau(scheduler.class_path) and _has_mode(scheduler):
        settings = scheduler.init_args
        yield "model.lr_scheduler", scheduler, settings.get("monitor") or config.model.monitor
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    for number, callback in enumerate(listed):
        if _has_mode(callback) and callback.init_args.get("monitor"):
            key = f"trainer.callbacks.{number}" if listed is callbacks else "trainer.callbacks"
            yield key, callback, callback.init_args.monitor


def _has_mode(block: Namespace | None) -> bool:
    settings = (block.get("init_args") if block else None) or {}
    return settings.get("mode") in MODES


def _is_plateau(class_path: str) -> bool:
    kind = import_class(class_path)
    return isinstance(kind, type) and issubclass(kind, ReduceLROnPlateau)
