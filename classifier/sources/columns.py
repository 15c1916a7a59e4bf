"""Which column of a table is what: the image, its label, its part, its group."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from classifier.errors import UserError, did_you_mean
from classifier.images.read import UNREAD_SUFFIXES, image_suffixes
from classifier.sources.cells import Cells, read_cells
from classifier.sources.parquet import Blobs, read_parquet

# What columns are usually called, in small letters and digits alone.
WORDS = {
    "image": "image images img file files filename filepath path imageid imagename imagepath "
    "imagefile imgid imgpath imgname photo picture",
    "label": "label labels class classname category target species kind",
    "split": "split part subset partition",
    "group": "group groupid",
}
KNOWN = {word: role for role, words in WORDS.items() for word in words.split()}
Column = str | int
Columns = Mapping[str, Column | Sequence[Column]]


def read_table(path: Path, suffixes: Collection[str] | None = None, **options: Any) -> Cells:
    """Reads a CSV, TSV or Parquet file; ``options`` are those of ``read_cells``.

    Of image files the suffixes may be others than usual.
    """
    if path.suffix.lower() == ".parquet" and path.is_file():
        return read_parquet(path)
    return read_cells(path, partial(_is_header, suffixes), **options)


def find_columns(
    path: Path,
    cells: Cells,
    given: Columns,
    required: Sequence[str],
    suffixes: Collection[str] | None = None,
) -> dict[str, list[int]]:
    """Finds the columns of each role: those that are given, else by their names or content.

    Args:
        path: The table, for errors.
        cells: What is in it.
        given: The column of some roles, by its name or by its position from 0.
        required: The roles that must have one.
        suffixes: Of image files; the usual ones if none.

    Raises:
        UserError: A column is not there, or not exactly one fits.
    """
    for role in given:
        if role not in WORDS:
            hint = did_you_mean(role, WORDS, f"; there are {', '.join(WORDS)}.")
            raise UserError(f"data.columns: nothing is called '{role}'{hint}")
    found = {role: _given(path, cells, role, columns) for role, columns in given.items()}
    found |= _named(path, cells, found)
    if "image" not in found:
        like_files = [p for p in _others(cells, found) if _holds_files(suffixes, cells.columns[p])]
        found |= {"image": like_files} if len(like_files) == 1 else {}
    others = _others(cells, found)
    if "label" not in found and "image" in found and len(others) == 1:
        found["label"] = others
    for role in required:
        if role not in found:
            hint = _several_columns(cells, others) if role == "label" else ""
            raise UserError(
                f"'{path}': no column is called as one that holds the {role}; set "
                f"data.columns.{role} to one of {_listed(cells)}.{hint}"
            )
    return found


def _named(path: Path, cells: Cells, given: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The columns of other roles than given by their names."""
    found: dict[str, list[int]] = {}
    for place in _others(cells, given):
        role = KNOWN.get(_plain(cells.names[place]))
        if role is not None and role not in given:
            found.setdefault(role, []).append(place)
    for role, places in found.items():
        if len(places) > 1:
            names = " or ".join(f"'{cells.names[place]}'" for place in places)
            raise UserError(f"'{path}': the {role} may be in {names}; set data.columns.{role}.")
    return found


def _holds_files(suffixes: Collection[str] | None, column: Any) -> bool:
    return isinstance(column, Blobs) or any(map(partial(is_file, suffixes), column[:50]))


def is_file(suffixes: Collection[str] | None, cell: object) -> bool:
    """Whether a cell ends as the name of an image."""
    suffix = cell[cell.rfind(".") :].lower() if isinstance(cell, str) and "." in cell else ""
    return suffix in (suffixes or image_suffixes() | UNREAD_SUFFIXES)


def _is_header(suffixes: Collection[str] | None, rows: Sequence[Sequence[str]]) -> bool | None:
    names_file = partial(is_file, suffixes)
    if any(map(names_file, rows[0])):
        return False
    if any(_plain(cell) in KNOWN for cell in rows[0]):
        return True
    below = [any(map(names_file, row)) for row in rows[1:50]]
    return True if below and sum(below) >= len(below) / 2 else None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _others(cells: Cells, found: Mapping[str, Sequence[int]]) -> list[int]:
    taken = {place for places in found.values() for place in places}
    return [place for place in range(len(cells.names)) if place not in taken]


def _given(path: Path, cells: Cells, role: str, columns: Column | Sequence[Column]) -> list[int]:
    places = []
    for column in [columns] if isinstance(columns, str | int) else columns:
        if isinstance(column, int) and 0 <= column < len(cells.names):
            places.append(column)
        elif column in cells.names:
            places.append(cells.names.index(str(column)))
        else:
            hint = did_you_mean(str(column), cells.names, f"; there are {_listed(cells)}.")
            raise UserError(f"data.columns.{role}: '{path}' has no column {column!r}{hint}")
    if len(places) != 1 and (role != "label" or not places):
        raise UserError(f"data.columns.{role} is one column, not {len(places)}.")
    return places


def _listed(cells: Cells) -> str:
    return ", ".join(f"'{name}'" for name in cells.names[:10])


def _several_columns(cells: Cells, places: Sequence[int]) -> str:
    """What to do about columns of 0 and 1, if there are any."""
    marks = [p for p in places if {*map(str, cells.columns[p])} <= {"0", "1"}]
    if len(marks) < 2:
        return ""
    names = ", ".join(cells.names[place] for place in marks)
    if all(sum(map(int, row)) == 1 for row in zip(*(cells.columns[p] for p in marks), strict=True)):
        return f" Where columns are the classes: data.columns.label: [{names}]."
    return f" Columns {names} give several labels an image; a class is one label."
