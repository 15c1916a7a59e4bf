"""Weights out of a file: a checkpoint, a state dict or what a program has wrapped around one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from classifier.anchored_yaml.text import load
from classifier.checkpoint.find import KEY, resolve_checkpoint, similar_file
from classifier.checkpoint.read import read_values
from classifier.errors import UserError

# Where programs keep a state dict. An average of the weights goes before them, as in timm.
WRAPPINGS = (
    *("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module"),
    *("network", "net", "params"),
)
COUNTERS = "num_batches_tracked"  # of batch normalisation; older files have none
MAX_WRAPPINGS = 3  # one in the other
EXPECTED = (
    "expected is a checkpoint, a state dict as torch.save(network.state_dict(), FILE) writes it, "
    "or a safetensors file"
)


class Weights(NamedTuple):
    """The weights that a file holds.

    Attributes:
        path: The file.
        state: The tensors by name.
        class_names: Those of its head's rows; None where the file does not say.
        preparation: How its images were prepared, as settings of the data; of own checkpoints.
    """

    path: Path
    state: dict[str, Tensor]
    class_names: list[str] | None
    preparation: dict[str, Any]


def read_weights(source: str | Path) -> Weights:
    """Reads the weights of a run, which means its best checkpoint, or of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it is damaged, holds no state dict, or more than tensors and plain values.
    """
    if not str(source):  # else it would be the working folder
        raise UserError(
            "model.init_from: '' is no run, checkpoint or file of weights; leave it out to train "
            "from scratch."
        )
    path = resolve_checkpoint(str(source), "best")
    if path.is_dir():
        raise UserError(f"'{path}' is a folder without a checkpoint; name a run or a file.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file '{path}'{similar_file(path)}")
    content = _content(path)
    state = _state_in(content)
    if state is None:
        raise UserError(f"'{path}' holds no state dict, which maps names to tensors; {EXPECTED}.")
    own = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(own, Mapping):
        return Weights(path, state, None, {})
    data: Mapping[str, Any] = own.get("data") or {}
    names = data.get("class_names") or content.get("hyper_parameters", {}).get("class_names")
    return Weights(path, state, list(names) if names else None, _preparation(own, data))


def _content(path: Path) -> Any:
    if not path.stat().st_size:
        raise UserError(f"'{path}' is empty; {EXPECTED}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return read_values(path)
    except ImportError as error:
        raise UserError(f"'{path}' needs a package: pip install safetensors.") from error
    except Exception as error:  # each format has its own exceptions for a damaged file
        raise UserError(
            f"'{path}' is damaged or holds more than tensors ({_reason(error)}); {EXPECTED}."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        cause: BaseException = error.__cause__ or error
        return str(cause) if type(cause) is ValueError else type(cause).__name__
    return type(error).__name__


def _state_in(content: Any, levels: int = MAX_WRAPPINGS) -> dict[str, Tensor] | None:
    """The state dict itself, also out of what a training script has saved beside it."""
    if not isinstance(content, Mapping):
        return None
    if levels:
        wrapped = (content[key] for key in WRAPPINGS if isinstance(content.get(key), Mapping))
        found = (_state_in(part, levels - 1) for part in wrapped)
        if state := next((state for state in found if state), None):
            return state
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return state or None


def _preparation(own: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What an own checkpoint says of its images."""
    config = load(own["config"]) if "config" in own else {}
    settings = ((config or {}).get("data") or {}).get("init_args") or {}
    names = ("image_size", "interpolation", "crop_share")
    kept = {name: settings[name] for name in names if settings.get(name) is not None}
    return {name: list(data[name]) for name in ("mean", "std") if name in data} | kept
