"""Parquet files: tables that may hold the images, too, as the Hub stores data sets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from classifier.errors import UserError, pip_install
from classifier.sources.cells import Cells, named_rows
from classifier.sources.source import Picked


class Blobs(Picked[bytes]):
    """Image files in a column of bytes, or of mappings of "bytes" and "path", as the Hub has them.

    Arrow holds the column in memory.
    """

    def read(self, thing: Any) -> bytes:
        cell = thing.as_py()
        found = cell["bytes"] if isinstance(cell, dict) else cell
        return found or b""

    def names(self, path: Path) -> Iterator[str]:
        """Yields the path that a file has of each image, or its number where it has none.

        Raises:
            UserError: It has paths of another machine in place of images.
        """
        numbers = map(str, range(len(self.things)))
        if self.things.type.num_fields == 0:
            return numbers
        missing = [n for n, image in enumerate(self._field("bytes"), 1) if not image.is_valid]
        if missing:
            raise UserError(
                f"'{path}', {named_rows(missing)}: the path of an image that lay on another "
                "machine, not the image; embed the images when the file is written."
            )
        paths = [value.as_py() for value in self._field("path")]
        return iter(paths) if all(paths) and len({*paths}) == len(paths) else numbers

    def _field(self, name: str) -> Iterator[Any]:
        return (value for chunk in self.things.chunks for value in chunk.field(name))


class Inside(NamedTuple):
    """One of the images that a table holds."""

    table: Path
    name: str
    images: Blobs
    place: int  # among them

    def read(self) -> bytes:
        return self.images[self.place]


def raw_and_name(file: Path | Inside) -> tuple[Path | bytes, str]:
    """What an image to predict is read from, and what it is called."""
    return (file.read(), file.name) if isinstance(file, Inside) else (file, str(file))


def read_parquet(path: Path) -> Cells:
    """Reads a Parquet file; images in it stay as they are, in Arrow's memory."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"To read '{path}': {pip_install('parquet')}.") from None
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"'{path}' is no whole Parquet file: {reason}.") from None
    if not len(table):
        raise UserError(f"'{path}' has no rows.")
    metadata = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(metadata).get("info", {}).get("features", {})
    columns: list[Any] = []
    classes = {}
    for place, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        kind = column.type
        holds_bytes = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if holds_bytes or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            columns.append(Blobs(column))
        else:
            columns.append(column.to_pylist())
        if names := features.get(name, {}).get("names"):
            classes[place] = names
    return Cells(table.column_names, columns, range(1, len(table) + 1), classes)
