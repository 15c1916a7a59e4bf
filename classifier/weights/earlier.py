"""How runs with ``weights: FILE`` of ``torchvision_model`` took it, before ``model.init_from``.

They are trained again from scratch by it, to the same bits; nothing new asks for it.
"""

from pathlib import Path

from torch import nn

from classifier.errors import UserError
from classifier.weights.file import COUNTERS, read_weights
from classifier.weights.layers import resize_head, resize_stem, stem_and_head

WEIGHTS_SUFFIXES = (".pt", ".pth", ".safetensors")


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a state dict into ``network``, whose stem and head take on the sizes in the file."""
    state = {key.removeprefix("module."): value for key, value in read_weights(path).state.items()}
    stem, head = stem_and_head(network)
    names = {module: name for name, module in network.named_modules()}
    stem_weight, head_weight = (state.get(f"{names[layer]}.weight") for layer in (stem, head))
    if stem_weight is not None and stem_weight.ndim == 4:
        resize_stem(stem, stem_weight.shape[1], fresh=True)
    if head_weight is not None and head_weight.ndim == head.weight.ndim:
        resize_head(head, len(head_weight))
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
