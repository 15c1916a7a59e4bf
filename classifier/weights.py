"""Where weights come from, and how they fit a network.

A file may be a stranger's. What others have trained is downloaded.
"""

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from classifier.checkpoint.limits import check_archive, check_values
from classifier.errors import UserError
from classifier.platform import memory_limit

WEIGHTS_SUFFIXES = (".pt", ".pth", ".safetensors")
WRAPPINGS = ("state_dict", "model_state_dict", "model")  # of a state dict, as scripts save it
# The setting that names the network, of functions that build several.
NAMED_BY = {"classifier.networks.torchvision_model": "name", "timm.create_model": "model_name"}


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a state dict into ``network``, whose stem and head take on the sizes in the file."""
    state = _read_state(path)
    stem, head = stem_and_head(network)
    names = {module: name for name, module in network.named_modules()}
    stem_weight, head_weight = (state.get(f"{names[layer]}.weight") for layer in (stem, head))
    if stem_weight is not None and stem_weight.ndim == 4:
        resize_stem(stem, stem_weight.shape[1], fresh=True)
    if head_weight is not None and head_weight.ndim == head.weight.ndim:
        resize_head(head, len(head_weight))
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a size; the message's first line only names the class
        raise UserError(f"'{path}' does not fit: {str(error).splitlines()[1].strip()}") from error
    for keys, problem in ((missing, "lacks"), (unexpected, "also has")):
        if keys:
            raise UserError(
                f"'{path}' is not a state dict of this network: it {problem} '{keys[0]}' "
                f"({len(keys)} such keys)."
            )


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file '{path}'.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if zipfile.is_zipfile(path):  # older files are none
            with path.open("rb") as file:
                check_archive(file)
        with memory_limit(2 * path.stat().st_size):
            state = torch.load(path, map_location="cpu", weights_only=True)
        check_values(state, path.stat().st_size)
    except ImportError as error:
        raise UserError(f"'{path}' needs a package: pip install safetensors.") from error
    except Exception as error:  # each format has its own exceptions for a damaged file
        raise UserError(
            f"'{path}' is damaged or holds more than tensors ({type(error).__name__})."
        ) from error
    return _unwrapped(state, path)


def _unwrapped(state: Any, path: Path) -> dict[str, Tensor]:
    """The state dict itself, also out of what a training script has saved beside it."""
    wrapped = [state[key] for key in WRAPPINGS if isinstance(state, dict) and key in state]
    for found in (*wrapped, state):
        if isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values()):
            consume_prefix_in_state_dict_if_present(found, "module.")  # of DataParallel and DDP
            return found
    raise UserError(f"'{path}' holds no state dict, which maps names to tensors.")


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


def name_and_origin(network: Mapping[str, Any]) -> tuple[str, str]:
    """The name of a network and where its weights come from; "" where its settings do not say.

    The network is a mapping with ``class_path``.

    >>> name_and_origin({"class_path": "timm.create_model", "init_args": {"model_name": "vit"}})
    ('vit', '')
    """
    path = network["class_path"]
    settings = {**(network.get("init_args") or {}), **(network.get("dict_kwargs") or {})}
    name = settings.get(NAMED_BY.get(path)) or path.rpartition(".")[2]
    known = [key for key in ("weights", "checkpoint_path", "pretrained") if key in settings]
    given = next((key for key in known if settings[key]), None)
    if given is None:
        return name, "from scratch" if known else ""
    return name, "pretrained" if given == "pretrained" else f"pretrained: {settings[given]}"


def stem_and_head(network: nn.Module) -> tuple[nn.Conv2d, nn.Linear | nn.Conv2d]:
    """Finds the first convolution and the last layer: true of every torchvision classifier."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    stem = next(layer for layer in layers if isinstance(layer, nn.Conv2d))
    return stem, layers[-1]


def resize_head(head: nn.Linear | nn.Conv2d, num_classes: int) -> None:
    """Gives the head ``num_classes`` outputs with PyTorch's initial weights for its type."""
    if isinstance(head, nn.Linear):
        head.out_features = num_classes
    else:
        head.out_channels = num_classes
    head.weight = nn.Parameter(head.weight.new_empty(num_classes, *head.weight.shape[1:]))
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias.new_empty(num_classes))
    head.reset_parameters()


def resize_stem(stem: nn.Conv2d, in_channels: int, fresh: bool) -> None:
    """Gives the stem ``in_channels`` inputs; the spread of its responses stays the same."""
    filters = stem.weight.detach()  # (filters, channels, height, width)
    ratio = stem.in_channels / in_channels
    if fresh:
        shape = (len(filters), in_channels, *stem.kernel_size)
        filters = torch.randn(shape) * filters.std() * math.sqrt(ratio)
    elif in_channels == 1:
        filters = filters.sum(1, keepdim=True)  # exact for grey: every colour had the same value
    else:
        filters = filters.repeat(1, math.ceil(1 / ratio), 1, 1)[:, :in_channels] * ratio
    stem.in_channels = in_channels
    stem.weight = nn.Parameter(filters)
