"""Which parts a network has: what maps its features to the classes, and where images enter."""

from collections.abc import Mapping
from typing import Any

from torch import nn

HEADS = ("head", "fc", "classifier")  # as networks call the part that knows the classes
Layer = nn.Linear | nn.Conv2d


def head_names(network: nn.Module) -> tuple[str, ...]:
    """The dotted names of the modules that map features to the classes; some networks have two.

    timm says it of its networks; elsewhere it is the child with a usual name, and else the last
    layer that has parameters of its own. None if the network has no parameters.
    """
    modules = dict(network.named_modules())
    names = list(_told(network, "classifier"))
    children = dict(network.named_children())
    own = next((name for name in HEADS if name in children), None)
    if own and (not names or own == HEADS[0]):
        names.append(own)
    if found := [n for n in dict.fromkeys(names) if n in modules and _has_parameters(modules[n])]:
        return tuple(found)
    return tuple(name for name, part in modules.items() if _has_parameters(part, False))[-1:]


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


def _has_parameters(module: nn.Module, recurse: bool = True) -> bool:
    return next(module.parameters(recurse), None) is not None
