"""Gives the network the number of classes and channels of the data, whatever it is built by."""

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.cli import _InstantiatorFn

from classifier.checkpoint.trust import import_class
from classifier.cli.arguments import Arguments
from classifier.cli.errors import TYPES
from classifier.data import ImageDataModule
from classifier.errors import UserError

NETWORK = "model.network.init_args"
LINKS = [
    ("data.num_classes", f"{NETWORK}.num_classes"),
    ("data.in_channels", f"{NETWORK}.in_channels"),
    ("data.in_channels", f"{NETWORK}.in_chans"),
    ("data.class_names", "model.class_names"),
    ("data.mean", "model.mean"),
    ("data.std", "model.std"),
]


def fill(network: Namespace, data: ImageDataModule) -> None:
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
        if isinstance(weights, Enum):  # torchvision's own spelling, as jsonargparse reads it
            weights = weights.name
        settings.pop("num_classes", None)  # linked
        network["class_path"] = "classifier.networks.torchvision_model"
        network["init_args"] = Namespace(  # type: ignore[no-untyped-call]
            name=name, num_classes=data.num_classes, in_channels=data.in_channels, weights=weights
        )
        network["dict_kwargs"] = {**settings, **given}


def _without_defaults(network: Namespace) -> dict[str, Any]:
    """The init_args that differ from the defaults, some of which (partials) no config can hold."""
    parameters = inspect.signature(import_class(network.class_path)).parameters
    return {
        name: value
        for name, value in dict(network.get("init_args") or {}).items()
        if not callable(value) and (name not in parameters or value != parameters[name].default)
    }


def refuse_other_numbers(arguments: Arguments, data: ImageDataModule) -> None:
    """Raises ValueError if the user gives a number that the data contradicts."""
    expected = {
        "num_classes": data.num_classes,
        "in_channels": data.in_channels,
        "in_chans": data.in_channels,
    }
    for name, number in expected.items():
        for section in ("init_args", "dict_kwargs"):
            given = arguments.value(("model", "network", section, name))
            if given not in (None, number):
                raise UserError(
                    f"model.network.{section}.{name} is {given}, but {type(data).__name__} has "
                    f"{number}. Leave it out: it is filled in from the data."
                )


def refuse_nulls(config: Any, arguments: Arguments, key: str = "") -> None:
    """Raises ValueError for a null where a class wants a value; jsonargparse lets any through.

    What the data fills in may be left out, as null is for it.
    """
    if isinstance(config, list):
        for part in config:
            refuse_nulls(part, arguments, key)
    elif isinstance(config, dict):
        for name, kind in _nulls(config):
            place = f"{key}.init_args.{name}"
            if place not in [target for _, target in LINKS]:
                raise UserError(f"{arguments.where(place)}{place}: null is not {kind}.")
        for name, part in config.items():
            refuse_nulls(part, arguments, f"{key}.{name}".lstrip("."))


def _nulls(block: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names the settings of a class that are null and must not be, with what they must be."""
    settings = block.get("init_args")
    if "class_path" not in block or not isinstance(settings, dict):
        return
    for name, parameter in inspect.signature(import_class(block["class_path"])).parameters.items():
        plain = TYPES.get(getattr(parameter.annotation, "__name__", ""))
        if plain and parameter.default is not None and settings.get(name, "left out") is None:
            yield name, plain


def links_that_apply(links: dict[str, Any], network: Namespace) -> dict[str, Any]:
    """Drops the links to parameters that the network does not have."""
    accepted = network.get("init_args") or {}
    return {
        target: value
        for target, value in links.items()
        if not target.startswith(NETWORK) or target.rpartition(".")[2] in accepted
    }


class Instantiator(_InstantiatorFn):
    """Gives the module its hyperparameters for ``load_from_checkpoint``.

    Lightning's own also records links whose target the network does not accept; a checkpoint with
    those cannot be loaded. It is private in Lightning; tests/test_cli.py watches it.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "Instantiator":
        """Itself: the module's optimizer holds it, and a moving average copies the module."""
        return self  # else that would copy the whole command, with its data and its threads

    def __call__(
        self, class_type: Any, *args: Any, applied_instantiation_links: Any, **kwargs: Any
    ) -> Any:
        cli: Any = self.cli
        if self.key == "data" and getattr(cli, "datamodule", None) is not None:
            return cli.datamodule  # built once, before the network was filled
        links = applied_instantiation_links
        if self.key == "model":
            links = links_that_apply(links, cli.settings.model.network)
        built = super().__call__(class_type, *args, applied_instantiation_links=links, **kwargs)
        setattr(built, "format" if self.key == "data" else "run_format", cli.arguments.format)
        if self.key == "data" and "data" in cli.arguments.checkpoint:
            # Before the links ask it: what the checkpoint knows need not be on this machine.
            built.restore(cli.arguments.checkpoint["data"])
        return built
