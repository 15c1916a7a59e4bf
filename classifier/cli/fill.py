"""All that is filled into a config once its data is known, so that nobody has to write it.

In this order: ``fill_preparation`` (pretrained weights → data); the links (data → network and
module); ``fill_modes`` (metric → what follows it), which a saved config shows; ``fill_metrics``
(data → metrics), ``fill_network`` (data → networks that no link reaches) and
``switch_off_pretrained`` (checkpoint → network), which it does not. What the user writes wins, and
a contradiction is an error.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from classifier.checkpoint.trust import import_class
from classifier.cli.command_line import CommandLine
from classifier.cli.errors import TYPES, Where
from classifier.cli.keys import LINKS, OF_METRICS, without_module
from classifier.data import ImageDataModule
from classifier.errors import UserError
from classifier.internals.jsonargparse import defaults_of
from classifier.metrics import Mode, better
from classifier.weights.preparation import preparation_for
from classifier.weights.sizes import size_settings

MODES = ("min", "max")


def without_links(config: Namespace) -> dict[str, Any]:
    """A config that was parsed, without what the data is to fill in, names and file names."""
    kept = config.clone()
    left_out = ("config", "hyperparameters", *(target for _, target in LINKS))
    for key in config.keys():  # noqa: SIM118  # dotted, and of its leaves
        if f".{key}".endswith(tuple(f".{name}" for name in left_out)):
            del kept[key]
    settings: dict[str, Any] = kept.as_dict()
    return settings


def fill_preparation(config: Namespace, given: Collection[str]) -> dict[str, Any]:
    """Prepares the images as for the pretrained weights, in place, where nothing is given.

    Args:
        config: The config.
        given: The dotted keys of what somebody wrote, or was filled in before.

    Returns:
        What was filled in, by dotted key.
    """
    network = config.model.get("init_args.network")
    settings: Any = config.data.get("init_args") or {}
    kind = import_class(config.data.class_path)
    # Another's settings may have these names, and not mean this.
    if network is None or not (isinstance(kind, type) and issubclass(kind, ImageDataModule)):
        return {}
    found = preparation_for(network.as_dict(), config.model.get("init_args.init_from"))
    if settings.get("in_memory"):  # for images so small that they are taken as they are
        found.pop("crop_share", None)
    for name in {"mean", "std"} & found.keys():
        channels = _channels_of(config.data)
        measured = settings.get("reader") and len(found[name]) != channels
        if measured or settings.get("range") == "normalised":  # by which is a fact of the data
            del found[name]
        else:
            found[name] = _for_channels(found[name], channels)
    filled = {k: v for k, v in found.items() if k in settings and f"data.{k}" not in given}
    for name, value in filled.items():
        settings[name] = value
    return {f"data.{name}": value for name, value in filled.items()}


def preparation_in_words(filled: Mapping[str, Any]) -> str:
    """A sentence about what was filled in."""
    told = []
    for key, value in filled.items():
        values = value if isinstance(value, list) else [value]
        shown = values[:1] if len({*values}) == 1 else values
        told.append(f"{key.removeprefix('data.')} {' '.join(map(str, shown))}")
    return f"images are prepared as for the pretrained weights: {', '.join(told)}."


def _channels_of(data: Namespace) -> int:
    """How many channels the images will have, before the data is built."""
    settings, kind = data.get("init_args") or {}, import_class(data.class_path)
    shape = getattr(kind, "image_shape", None)
    own = shape[0] if shape else getattr(kind, "in_channels", 3)
    number = settings.get("in_channels", own)
    return number if isinstance(number, int) else 3


def _for_channels(values: list[float], in_channels: int) -> list[float]:
    """The numbers of each channel, or their mean for images of others."""
    if len(values) == in_channels:
        return values
    return [round(sum(values) / len(values), 4)]


def fill_network(network: Namespace, data: ImageDataModule) -> None:
    """Completes the network's settings, in place, where jsonargparse's links do not reach.

    A link needs a parameter of its name. timm's factories hide theirs in ``**kwargs``.
    torchvision's builders always have three channels and, with pretrained weights, 1,000 classes,
    so they are called through ``classifier.networks.torchvision_model``.
    """
    given = dict(network.get("dict_kwargs") or {})
    if network.class_path.startswith("timm."):
        numbers = {"num_classes": data.num_classes, "in_chans": data.in_channels}
        network["dict_kwargs"] = {**numbers, **given}
    elif network.class_path.startswith("torchvision.models."):
        settings = _without_defaults(network)
        name = settings.pop("name", network.class_path.rpartition(".")[2])
        weights = settings.pop("weights", None)
        settings.pop("num_classes", None)  # linked
        network["class_path"] = "classifier.networks.torchvision_model"
        network["init_args"] = Namespace(  # type: ignore[no-untyped-call]
            name=name, num_classes=data.num_classes, in_channels=data.in_channels, weights=weights
        )
        network["dict_kwargs"] = {**settings, **given}
    own = dict(network.get("dict_kwargs") or {})
    is_chosen = hasattr(data, "image_size")
    if found := size_settings(network.as_dict(), size_of(data), is_chosen):
        network["dict_kwargs"] = {**found, **own}


def size_of(data: ImageDataModule) -> tuple[int, int] | None:
    """Height and width of the images, as far as the data says it before it is set up."""
    if isinstance(size := getattr(data, "size", None), tuple):
        return size
    shape = getattr(data, "image_shape", None)
    return (shape[1], shape[2]) if isinstance(shape, tuple) and len(shape) == 3 else None


def fill_metrics(model: Namespace, data: ImageDataModule, where: Where) -> dict[str, Any]:
    """Completes the settings of the metrics, in place: the number of classes, and what they are.

    Returns:
        The settings of each, None for one that is left out.

    Raises:
        UserError: If a metric is told another number of classes than there are.
    """
    metrics: dict[str, Any] = model.get("init_args.metrics") or {}
    values = dict(zip(OF_METRICS, (data.num_classes, "multiclass"), strict=True))
    for metric, spec in metrics.items():
        if spec is None:
            continue
        settings = spec["init_args"] = spec.get("init_args") or Namespace()  # type: ignore[no-untyped-call]
        for name in inspect.signature(import_class(spec.class_path)).parameters.keys() & values:
            value = settings.get(name)
            if value not in (None, values[name]):
                key = f"model.metrics.{metric}.init_args.{name}"
                raise UserError(
                    f"{where(key)}{key} is {value}, expected {values[name]}, as it is filled in: "
                    "leave it out."
                )
            settings[name] = values[name]
    return metrics


def _without_defaults(network: Namespace) -> dict[str, Any]:
    """The init_args that differ from the defaults, those that stand behind ``**kwargs`` included.

    Some defaults (partials) no config can hold, and some that jsonargparse finds are not those of
    the function, which sets others itself.
    """
    defaults = defaults_of(import_class(network.class_path))
    return {
        name: value
        for name, value in dict(network.get("init_args") or {}).items()
        if not callable(value) and (name not in defaults or value != defaults[name])
    }


def refuse_contradictions(line: CommandLine, data: ImageDataModule) -> None:
    """Raises UserError if the user gives what is filled in, but not as the data has it."""
    for source, target in LINKS:
        place = without_module(target)
        for shown in dict.fromkeys((place, place.replace("init_args", "dict_kwargs"))):
            given = line.value(tuple(shown.split(".")))
            if given is None:
                continue
            known = getattr(data, source.removeprefix("data."))
            if given != (list(known) if isinstance(given, list) else known):
                raise UserError(
                    f"{line.where(shown)}{shown} is {given}, but {data.kind} has {known}."
                    f" Leave it out: it is filled in from {source}."
                )


def refuse_nulls(config: Any, line: CommandLine, filled_in: Collection[str], key: str = "") -> None:
    """Raises UserError for a null where a class wants a value; jsonargparse lets any through.

    What is filled in, as a link does, may be left out, as null is for it.
    """
    if isinstance(config, list):
        for part in config:
            refuse_nulls(part, line, filled_in, key)
    elif isinstance(config, dict):
        for name, kind in _nulls(config):
            place = f"{key}.init_args.{name}"
            if place not in filled_in:
                shown = without_module(place)
                raise UserError(f"{line.where(shown)}{shown}: null is not {kind}.")
        for name, part in config.items():
            refuse_nulls(part, line, filled_in, f"{key}.{name}".lstrip("."))


def _nulls(block: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names the settings of a class that are null and must not be, with what they must be."""
    settings = block.get("init_args")
    if "class_path" not in block or not isinstance(settings, dict):
        return
    kind = import_class(block["class_path"])
    is_metric = isinstance(kind, type) and issubclass(kind, Metric)
    for name, parameter in inspect.signature(kind).parameters.items():
        if is_metric and name in OF_METRICS:  # filled in
            continue
        plain = TYPES.get(getattr(parameter.annotation, "__name__", ""))
        if plain and parameter.default is not None and settings.get(name, "left out") is None:
            yield name, plain


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
    model: Any = config.model.get("init_args") or {}
    monitor, mode = model.get("monitor", "val_loss"), model.get("monitor_mode")
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
    model: Any = config.model.get("init_args") or {}
    scheduler, callbacks = model.get("lr_scheduler"), config.trainer.callbacks
    if scheduler and _is_plateau(scheduler.class_path) and _has_mode(scheduler):
        settings = scheduler.init_args
        yield "model.lr_scheduler", scheduler, settings.get("monitor") or model.get("monitor")
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
