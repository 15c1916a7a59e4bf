"""How runs with ``weights: FILE`` of ``torchvision_model`` took it, before ``model.init_from``.

They are trained again from scratch by it, to the same bits; nothing new asks for it.
"""

from pathlib import Path

from torch import nn

from classifier.errors import UserError
from classifier.parts import head_layers, stem_layers
from classifier.weights.file import COUNTERS, read_weights
from classifier.weights.layers import resize_head, resize_stem

WEIGHTS_SUFFIXES = (".pt", ".pth", ".safetensors")


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a state dict into ``network``, whose stem and head take on the sizes in the file."""
    state = {key.removeprefix("module."): value for key, value in read_weights(path).state.items()}
    for name, stem in stem_layers(network).items():
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.ndim == 4:
            resize_stem(stem, weight.shape[1], fresh=True)
    for name, head in head_layers(network).items():
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.ndim == head.weight.ndim:
            resize_head(head, len(weight))
    own = network.state_dict()  # which knows the versions of its modules
    wrong = [key for key in own.keys() ^ state.keys() if COUNTERS not in key]
    if wrong:
        raise UserError(
            f"'{path}' is not a state dict of this network: '{min(wrong)}' is in one alone "
            f"({len(wrong)} such keys)."
        )
    own.update(state)
    try:
        network.load_state_dict(own)
    except RuntimeError as error:  # a size; the message's first line only names the class
        raise UserError(f"'{path}' does not fit: {str(error).splitlines()[1].strip()}") from error
