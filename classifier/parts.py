"""Which parts a network has: what maps its features to the classes, and where images enter."""

from collections.abc import Mapping
from typing import Any

from torch import nn

HEADS = ("head", "fc", "classifier")  # as networks call the part that knows the classes
Layer = nn.Linear | nn.Conv2d


def head_names(network: nn.Module) -> tuple[str, ...]:
    """The dotted names of the modules that map features to the classes; some networks have two.

    It is what timm says of its networks, else a part with a usual name, else the last layer.
    """
    modules = dict(network.named_modules())
    if found := tuple(name for name in _told(network, "classifier") if name in modules):
        return found
    if found := tuple(name for name in HEADS if any(_layers(getattr(network, name, None)))):
        return found[:1]
    layers = [name for name, module in modules.items() if isinstance(module, Layer)]
    return tuple(layers[-1:])


def head_layers(network: nn.Module) -> dict[str, Layer]:
    """The layers whose rows are the classes, by their dotted names: the last of each head."""
    modules = dict(network.named_modules())
    names = {id(module): name for name, module in modules.items()}
    last = [_layers(modules[head])[-1:] for head in head_names(network)]
    return {names[id(layer)]: layer for found in last for layer in found}


def stem_names(network: nn.Module) -> tuple[str, ...]:
    """The dotted names of the convolutions that take the image; the first where nothing says."""
    modules = dict(network.named_modules())
    if found := tuple(name for name in _told(network, "first_conv") if name in modules):
        return found
    return tuple(name for name, part in modules.items() if isinstance(part, nn.Conv2d))[:1]


def _told(network: nn.Module, key: str) -> tuple[str, ...]:
    """What timm says of one of its networks."""
    config: Any = getattr(network, "pretrained_cfg", None)
    value = config.get(key) if isinstance(config, Mapping) else None
    return (value,) if isinstance(value, str) else tuple(value or ())


def _layers(part: Any) -> list[Layer]:
    modules = part.modules() if isinstance(part, nn.Module) else ()
    return [module for module in modules if isinstance(module, Layer)]
