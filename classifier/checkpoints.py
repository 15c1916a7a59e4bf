"""Reading a checkpoint: only weights and plain values, never code."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from classifier.suggest import did_you_mean

KEY = "classifier"  # the entry with the config text, the data description and the run record


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a checkpoint on the CPU; large tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: If there is no such file; names a similar one.
        ValueError: If the file is not a checkpoint, or holds anything but weights and plain values.
    """
    if path.is_dir():
        raise FileNotFoundError(f"'{path}' is a folder without checkpoints/best.ckpt or last.ckpt.")
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint '{path}'{similar(path)}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"'{path}' is not a checkpoint that loads without running code."
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"'{path}' is not a checkpoint, or it is damaged.") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"'{path}' holds no training checkpoint: it has no 'state_dict'.")
    return checkpoint


def weights_digest(weights: Mapping[str, Any]) -> str:
    """The SHA-256 of a ``state_dict``: names, types, shapes and bits of its tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        if not isinstance(value, torch.Tensor):  # what a module saves as its extra state
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(bits.numpy().data)
    return digest.hexdigest()


def resolve(path: str, prefer: str) -> Path:
    """The checkpoint meant: a file, or ``checkpoints/<prefer>.ckpt`` of a run folder."""
    folder = Path(path) / "checkpoints"
    found = [folder / f"{name}.ckpt" for name in (prefer, "last")]
    return next((file for file in found if file.is_file()), Path(path))


def without_pretrained(network: Any) -> None:
    """Switches off, in place, the loading of pretrained weights that a checkpoint replaces.

    Otherwise each load would download them first, which a machine without network cannot do.

    Args:
        network: ``class_path`` and its arguments, as a mapping.
    """
    if network["class_path"].startswith(("torchvision.", "timm.", "classifier.networks.")):
        for section in ("init_args", "dict_kwargs"):
            settings = network.get(section) or {}
            for name, off in (("weights", None), ("pretrained", False)):
                if settings.get(name):
                    settings[name] = off


def similar(path: Path) -> str:
    """Ends a sentence: ", did you mean '…'?" where the folder has a file of a similar name."""
    if not path.parent.is_dir():
        return f": there is no folder '{path.parent}'."
    return did_you_mean(str(path), map(str, path.parent.iterdir()))
