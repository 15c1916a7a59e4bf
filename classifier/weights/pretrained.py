"""Weights that others have trained, and that are downloaded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from classifier.errors import UserError
from classifier.weights.files import WEIGHTS_SUFFIXES


def build_pretrained(
    builder: Callable[..., nn.Module], weights: str, kwargs: dict[str, Any]
) -> nn.Module:
    """Builds the network with torchvision's own weights, from its cache where they lie there."""
    from torchvision.models import get_model_weights

    entries = get_model_weights(builder)
    # Weights without categories are features alone: their classifier has no valid values.
    known = {key: entry for key, entry in entries.__members__.items() if entry.meta["categories"]}
    spelled = {key.lower(): key for key in known}
    spelled |= {f"{entries.__name__}.{key}".lower(): key for key in known}
    if weights.lower() not in spelled:
        raise UserError(
            f"{builder.__name__} has no weights '{weights}', only {', '.join(known)}; "
            f"a file ends in {', '.join(WEIGHTS_SUFFIXES)}."
        )
    entry = known[spelled[weights.lower()]]
    try:
        return builder(weights=entry, **kwargs)
    except OSError as error:  # urllib's URLError and HTTPError among them
        raise FileNotFoundError(
            f"'{entry.url}' could not be downloaded ({error}). Put the file into "
            f"'{torch.hub.get_dir()}/checkpoints', or give its path as weights."
        ) from error


def switch_off_pretrained(network: Any) -> None:
    """Switches off, in place, the loading of pretrained weights that a checkpoint replaces.

    The network is a mapping with ``class_path``. Otherwise each load would download them first,
    which a machine without network cannot do.
    """
    if network["class_path"].startswith(("torchvision.", "timm.", "classifier.networks.")):
        for section in ("init_args", "dict_kwargs"):
            settings = network.get(section) or {}
            for name, off in (("weights", None), ("pretrained", False)):
                if settings.get(name):
                    settings[name] = off
