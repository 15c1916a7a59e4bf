"""Refuses files that would unpack to far more than they hold; sizes are in bytes."""

import struct
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor

MAX_LEVELS = 100
MAX_VALUES = 10_000_000  # with everything that is referred to twice counted twice
MAX_EXPANSION = 4  # bytes of all tensors per byte of the file; views of one storage share it
END = b"PK\x05\x06"  # of the directory of a zip file


def check_archive(file: IO[bytes]) -> None:
    """Raises a ValueError unless a file is a zip as ``torch.save`` writes it.

    Its entries lie side by side, as they are: none is compressed or overlaps another.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            start = archive.start_dir
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError("it is not a zip file as torch.save writes it") from error
    file.seek(start)
    directory = file.read()
    place = directory.find(END)
    offset = struct.unpack_from("<I", directory, place + 16)[0]
    # Python and PyTorch look for the directory in different ways, so there must be but one.
    if directory.count(END) != 1 or offset not in (start, 0xFFFFFFFF):
        raise ValueError("its directory is ambiguous")
    end = 0
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED
        if not stored or entry.file_size != entry.compress_size:
            raise ValueError(f"its entry '{entry.filename}' is compressed")
        if entry.header_offset < end:
            raise ValueError(f"its entry '{entry.filename}' overlaps another")
        end = entry.header_offset + entry.file_size
    if end > start:
        raise ValueError("its entries are larger than the file")


def check_values(value: Any, size: int) -> None:
    """Raises a ValueError if what was loaded is out of proportion to a file of ``size``.

    Tensors may claim more than it can hold, as one number repeated by a stride of 0, and values may
    be nested too deeply or refer to one another too often.
    """
    views: dict[Any, int] = {}
    _extent(value, {}, views, 0)
    if (total := sum(views.values())) > MAX_EXPANSION * size:
        raise ValueError(f"its tensors have {total:,} bytes, but the file has {size:,}")


def _extent(value: Any, seen: dict[int, int | None], views: dict[Any, int], level: int) -> int:
    """Returns how many values there are in a value, as often as it refers to each."""
    if isinstance(value, Tensor):
        # One for tensors that show the same numbers of a storage in the same way.
        view: Any = id(value)
        if value.layout == torch.strided and not value.is_meta:
            view = value.data_ptr(), value.shape, value.stride(), value.dtype
        views[view] = value.numel() * value.element_size()
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return 1
    if level > MAX_LEVELS:
        raise ValueError(f"its values are nested in more than {MAX_LEVELS} levels")
    if id(value) not in seen:
        seen[id(value)] = None
        parts = (*value, *value.values()) if isinstance(value, Mapping) else value
        seen[id(value)] = 1 + sum(_extent(part, seen, views, level + 1) for part in parts)
    known = seen[id(value)]
    if known is None:
        raise ValueError("a value contains itself")
    if known > MAX_VALUES:
        raise ValueError(f"it makes more than {MAX_VALUES:,} values out of few")
    return known
