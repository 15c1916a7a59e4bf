"""Which parts a network has: what maps its features to the classes, and where images enter."""

from collections.abc import Mapping
from typing import Any

from torch import nn

HEADS = ("head", "fc", "classifier")  # as networks call the part that knows the classes
Layer = nn.Linear | nn.Conv2d


def head_names(network: nn.Module, outputs: int | None = None) -> tuple[str, ...]:
    """The dotted names of the modules that map features to the classes; some networks have two.

    timm says it of its networks; elsewhere it is the child with a usual name. Else it is the last
    layer that has as many outputs as there are classes, or the last that has parameters. None if
    the network has no parameters.
    """
    modules = {name: part for name, part in network.named_modules() if _has_parameters(part)}
    if told := [name for name in _told(network, "classifier") if name in modules]:
        return tuple(told)
    children = dict(network.named_children())
    if own := [name for name in HEADS if name in children and name in modules]:
        return (own[0],)
    layers = [name for name, part in modules.items() if _has_parameters(part, False)]
    fitting = [
        n for n in layers if isinstance(modules[n], Layer) and len(modules[n].weight) == outputs
    ]
    return tuple((fitting or layers)[-1:])


def head_layers(network: nn.Module, outputs: int | None = None) -> dict[str, Layer]:
    """The layers whose rows are the classes, by their dotted names: the last of each head."""
    found: dict[str, Layer] = {}
    for head in head_names(network, outputs):
        parts = network.get_submodule(head).named_modules(prefix=head)
        found |= [(name, part) for name, part in parts if isinstance(part, Layer)][-1:]
    return found


def stem_layers(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions that take the image, by their dotted names; the first if nothing says."""
    every = {name: part for name, part in network.named_modules() if isinstance(part, nn.Conv2d)}
    told = {name: every[name] for name in _told(network, "first_conv") if name in every}
    return told or dict([*every.items()][:1])


def _told(network: nn.Module, key: str) -> tuple[str, ...]:
    """What timm says of one of its networks."""
    config: Any = getattr(network, "pretrained_cfg", None)
    value = config.get(key) if isinstance(config, Mapping) else None
    return (value,) if isinstance(value, str) else tuple(value or ())


def _has_parameters(module: nn.Module, recurse: bool = True) -> bool:
    return next(module.parameters(recurse), None) is not None
