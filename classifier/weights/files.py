"""Weights out of a file, which may be a stranger's."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from classifier.checkpoint.limits import check_archive, check_values
from classifier.errors import UserError
from classifier.platform import memory_limit
from classifier.weights.stem_and_head import resize_head, resize_stem, stem_and_head

WEIGHTS_SUFFIXES = (".pt", ".pth", ".safetensors")


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
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        return state
    raise UserError(f"'{path}' holds no state dict, which maps names to tensors.")
