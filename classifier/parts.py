"""Which part of a network is its classifier."""

from typing import Any

from torch import nn

HEADS = ("head", "fc", "classifier")  # what networks call it


def head_names(network: nn.Module) -> tuple[str, ...]:
    """Names the modules that turn features into logits; there may be several.

    timm says it of its networks; elsewhere it is the child called head, fc or classifier, and else
    the last layer that has parameters of its own.

    Returns:
        Names as in ``named_modules``, each of a module within the network; none without parameters.
    """
    settings: Any = getattr(network, "pretrained_cfg", None)
    told = settings.get("classifier") if hasattr(settings, "get") else None
    names = [told] if isinstance(told, str) else list(told or ())
    children = dict(network.named_children())
    own = next((name for name in HEADS if name in children), None)
    if own and (not names or own == HEADS[0]):
        names.append(own)
    modules = dict(network.named_modules())
    found = [n for n in dict.fromkeys(names) if n in modules and _has_parameters(modules[n])]
    if not found:
        layers = [n for n, m in modules.items() if _has_parameters(m, False)]
        found = layers[-1:]
    return tuple(found)


def _has_parameters(module: nn.Module, recurse: bool = True) -> bool:
    return next(module.parameters(recurse), None) is not None
