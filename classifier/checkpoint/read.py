"""Reading a checkpoint: only weights and plain values, never code.

Whoever wrote the file may mean harm, so whatever this package goes by is checked here.
"""

import contextlib
import hashlib
import math
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from classifier import DISTRIBUTION
from classifier.checkpoint.file import verify_checksum
from classifier.checkpoint.find import FORMAT, KEY, check_is_there
from classifier.checkpoint.limits import check_archive, check_values
from classifier.checkpoint.signature import Origin
from classifier.errors import UserError
from classifier.platform import memory_limit, name_of_open

READINGS = 3  # of a file that is written to meanwhile
MAX_CONFIG = 1_000_000  # characters; reading YAML takes 10 s for so many
VERSION = re.compile(r"\d[\w.+-]{,50}")
Check = Callable[[Any], object]  # whether a value is as it should be


class OpenCheckpoint(NamedTuple):
    """A checkpoint that was read."""

    content: dict[str, Any]  # on the CPU
    origin: Origin
    file: IO[bytes]  # the very file that was read, for as long as it is open


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a checkpoint on the CPU; large tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: If there is no such file; names a similar one.
        ValueError: If the file is not a checkpoint, or holds anything but weights and plain values.
    """
    return read_with_origin(path)[0]


def read_with_origin(path: Path) -> tuple[dict[str, Any], Origin]:
    """Loads a checkpoint likewise, and says whose it is."""
    with open_checkpoint(path) as (content, origin, _):
        return content, origin


def read_values(path: Path) -> Any:
    """Loads on the CPU what ``torch.save`` has written: weights and plain values of any kind.

    Raises:
        UserError: If the file is damaged, or holds anything else.
    """
    with path.open("rb") as file:
        content, _ = _read_values(path, file, is_zip=file.read(2) == b"PK")  # as torch tells it
    if isinstance(content, dict) and KEY in content:
        _check_types(path, content)
    return content


@contextlib.contextmanager
def open_checkpoint(path: Path) -> Iterator[OpenCheckpoint]:
    """Opens a checkpoint and reads it, as ``read_checkpoint`` does.

    What is loaded is what was verified, whatever happens to the name meanwhile.
    """
    check_is_there(path)
    with path.open("rb") as file:
        for _ in range(READINGS):
            before = os.fstat(file.fileno())
            saved = _read(path, file)
            if _changes(before) == _changes(os.fstat(file.fileno())):
                break
        else:
            raise UserError(f"'{path}' was changed again and again while it was read.")
        yield saved


def _changes(known: os.stat_result) -> tuple[int, ...]:
    """What is different once a file was written to."""
    return known.st_size, known.st_mtime_ns, known.st_ctime_ns


def _read(path: Path, file: IO[bytes]) -> OpenCheckpoint:
    checkpoint, origin = _read_values(path, file)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"'{path}' holds no training checkpoint: it has no 'state_dict'.")
    _check_types(path, checkpoint)
    return OpenCheckpoint(checkpoint, origin, file)


def _read_values(path: Path, file: IO[bytes], is_zip: bool = True) -> tuple[Any, Origin]:
    origin: Origin = "unsigned"
    size, same = os.fstat(file.fileno()).st_size, None
    try:
        if is_zip:  # as torch writes since 1.6
            check_archive(file)
            origin = verify_checksum(file)
            # The same file under another name, for torch maps none into memory that has no name.
            same = name_of_open(file)
        file.seek(0)
        with memory_limit(size):
            content = torch.load(
                same or file, map_location="cpu", weights_only=True, mmap=bool(same)
            )
        check_values(content, size)
    except pickle.UnpicklingError as error:
        raise UserError(f"'{path}' is not a checkpoint that loads without running code.") from error
    except ValueError as error:
        raise UserError(f"'{path}' is not a checkpoint, or it is damaged: {error}.") from error
    except (MemoryError, RecursionError) as error:
        raise UserError(f"'{path}' would take far more memory than its size.") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"'{path}' is not a checkpoint, or it is damaged.") from error
    return content, origin


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


def is_plain(value: Any) -> bool:
    """Whether a checkpoint can hold a value: weights, and what consists of numbers and texts."""
    if type(value) in (list, tuple, dict):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return all(map(is_plain, parts))
    plain = (torch.Tensor, torch.dtype, torch.device, bool, int, float, str, type(None))
    return isinstance(value, torch.Tensor) or type(value) in plain


def _check_types(path: Path, checkpoint: dict[str, Any]) -> None:
    """Checks the entries that this package and Lightning go by."""
    entry = checkpoint.get(KEY, {})
    number = entry.get("format", 1) if _is_mapping(entry) else 1
    if type(number) is int and number > FORMAT:
        raise UserError(
            f"'{path}' has format {number} and was written by a newer version of classifier; "
            f"this one reads up to {FORMAT}: pip install -U {DISTRIBUTION}."
        )
    if wrong := _wrong_entry(checkpoint, ENTRIES) or _wrong_entry(entry, OWN_ENTRIES):
        raise UserError(f"'{path}' is not a checkpoint of this package: wrong '{wrong}'.")


def _wrong_entry(value: Mapping[str, Any], entries: Mapping[str, Check]) -> str:
    """The first of the entries that a mapping has and that is not as it should be; "" if none."""
    found = (key for key, check in entries.items() if key in value and not check(value[key]))
    return next(found, "")


def _with(**entries: Check) -> Check:
    """Checks a mapping from names, and those of its entries that it has."""
    return lambda value: _is_mapping(value) and not _wrong_entry(value, entries)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_table(value: Any) -> bool:
    return _is_mapping(value) and all(map(_is_text, value.values()))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_description(value: Any) -> bool:
    if not _is_mapping(value) or {"class_names", "in_channels", "mean", "std"} - set(value):
        return False
    names, channels = value["class_names"], value["in_channels"]
    numbers = [value["mean"], value["std"]]
    return (
        isinstance(names, list | tuple)
        and all(map(_is_text, names))
        and type(channels) is int
        and 0 < channels <= 10_000
        and all(isinstance(part, list | tuple) and len(part) in (1, channels) for part in numbers)
        and all(type(x) in (int, float) and math.isfinite(x) for part in numbers for x in part)
    )


ENTRIES: Mapping[str, Check] = {
    "pytorch-lightning_version": lambda text: _is_text(text) and VERSION.fullmatch(text),
    "epoch": _is_count,
    "global_step": _is_count,
    "state_dict": _is_mapping,
    "hyper_parameters": _is_mapping,
    KEY: _is_mapping,
}
OWN_ENTRIES: Mapping[str, Check] = {
    "format": _is_count,
    "objects": _are_texts,
    "classes": _is_mapping,
    "config": lambda text: _is_text(text) and len(text) <= MAX_CONFIG,
    "run": _with(
        **dict.fromkeys(("id", "name", "working_folder"), _is_text),
        **dict.fromkeys(("code", "code_folders"), _is_table),
        trusted=_are_texts,
        environment=_with(packages=_is_mapping),
        data=_with(fingerprint=_is_text),
        init_from=_is_table,
    ),
    "data": lambda value: value is None or _is_description(value),
}
