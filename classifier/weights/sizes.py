"""Networks that are built for one image size: what they are to be told of it."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classifier.errors import UserError
from classifier.weights.origin import FILES, OFF, name_of, settings_of
from classifier.weights.pretrained import torchvision_entry

Size = tuple[int, int]  # height and width, in pixels
TORCHVISION = "classifier.networks.torchvision_model"
# What torchvision's networks of a fixed size call it, by the beginning of their names.
SETTING = {"vit_": "image_size", "maxvit_": "input_size"}


class SizeError(Exception):
    """A network that does not take images of a size; ``best`` is a side of those that it takes."""

    def __init__(self, name: str, size: Size, wanted: str, best: int) -> None:
        super().__init__(f"{name}: images of {size[0]} x {size[1]} pixels, expected {wanted}")
        self.best = best


def size_settings(
    network: Mapping[str, Any], size: Size | None, is_chosen: bool = True
) -> dict[str, Any]:
    """The arguments that a network of torchvision or timm needs for images of a size.

    Args:
        network: A mapping with ``class_path``; torchvision's through ``torchvision_model``.
        size: That of the images, if it is known.
        is_chosen: Whether the data has a setting for it, ``image_size``.

    Raises:
        UserError: If the network does not take images of this size; it names one that it takes.
    """
    path = network["class_path"]
    if size is None or not path.startswith(("timm.", TORCHVISION)):
        return {}
    of = _of_torchvision if path == TORCHVISION else _of_timm
    try:
        return of(name_of(network), settings_of(network), size)
    except SizeError as error:
        remedy = (
            f"set data.image_size to {error.best}, or choose another network."
            if is_chosen
            else "choose another network, for this data has images of one size."
        )
        raise UserError(f"{error}; {remedy}") from error


def _of_torchvision(name: str, settings: dict[str, Any], size: Size) -> dict[str, Any]:
    from torchvision import models

    if name.lower() not in models.list_models(module=models):
        return {}  # which is said when it is built
    weights = settings.get("weights") or ""
    weights = "" if Path(weights).suffix in FILES else weights  # of an earlier run
    builder = models.get_model_builder(name.lower())
    height, width = torchvision_entry(builder, weights or "DEFAULT").meta["min_size"]
    setting = next((SETTING[start] for start in SETTING if name.lower().startswith(start)), None)
    if setting is None:
        # What its weights were trained with; most take smaller images.
        if min(size) < min(height, width) and _refused(builder, size, (height, width)):
            raise SizeError(name, size, f"at least {height} x {width}", height)
        return {}
    if weights:
        if size != (height, width):
            raise SizeError(f"pretrained {name}", size, f"{height} x {width}", height)
        return {}
    told = {setting: size[0] if setting == "image_size" else size}
    if not _takes(partial(builder, **told), size):
        raise SizeError(name, size, f"{height} x {width} or a size of its patches", height)
    return told


def _of_timm(name: str, settings: dict[str, Any], size: Size) -> dict[str, Any]:
    from timm import create_model
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None or size == config.input_size[1:] or "img_size" in settings:
        return {}
    own = {k: v for k, v in settings.items() if k not in {*OFF, "model_name", "cache_dir"}}
    own["in_chans"] = 3
    if config.fixed_input_size:
        told: dict[str, Any] = {"img_size": size[0] if size[0] == size[1] else size}
        if _takes(partial(create_model, name, **own, **told), size):
            return told
    native: Size = config.input_size[1], config.input_size[2]
    if _refused(partial(create_model, name, **own), size, native):
        raise SizeError(name, size, f"{native[0]} x {native[1]}", native[0])
    return {}


def _refused(build: Callable[[], nn.Module], size: Size, native: Size) -> bool:
    """Whether a network takes images of its own size, but not of another one."""
    return not _takes(build, size) and _takes(build, native)


def _takes(build: Callable[[], nn.Module], size: Size) -> bool:
    """Whether a network takes images of a size, found out without weights and numbers."""
    try:
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
            torch.device("meta"),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            build().eval()(torch.zeros(1, 3, *size))
    except Exception:  # what a network raises for a size is its own choice
        return False
    return True
