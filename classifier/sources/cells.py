"""Reading tables of texts: CSV in its dialects.

What can be read in two ways is an error. Python's ``csv.Sniffer`` finds delimiters such as "p", and
pandas splits ``image|label`` at the "l".
"""

import codecs
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from classifier.errors import UserError

DELIMITERS = {"\t": "tab", ";": "semicolon", ",": "comma", "|": "bar"}
BLANKS = "blanks"  # runs of them
NAMED = 10  # rows at most that one line names
KINDS = 8  # of mistakes at most that one error names
SEEN = 1 << 18  # characters that show the delimiter
BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass
class Cells:
    """The cells of a table of N rows, by column.

    Attributes:
        columns: The cells of each column, in sequences; ``Blobs`` where they are image files.
        names: The names of the columns; their positions, as texts, where there is no header.
        rows: The line in the file where each row ends, counted from 1.
        classes: The names of the classes that the numbers in a column stand for, if known.
    """

    names: list[str]
    columns: list[Any]
    rows: Sequence[int]
    classes: Mapping[int, Sequence[str]] = field(default_factory=dict)


class Mistakes:
    """What is wrong with the rows of a table, to be said all at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, list[tuple[int, str]]] = {}

    def add(self, what: str, row: int, example: str = "") -> None:
        self.found.setdefault(what, []).append((row, example))

    def refuse(self) -> None:
        """Raises UserError if there are any: a line for each kind, with its rows."""
        if not self.found:
            return
        lines = []
        for what, places in self.found.items():
            examples = ", ".join(f"'{e}'" for _, e in places[:3] if e)
            more = ", …" * (len(places) > 3 and bool(examples))
            told = f"{what}: {examples}{more}" if examples else what
            lines.append(f"{named_rows([row for row, _ in places])}: {told}.")
        rest = [f"and {len(lines) - KINDS} other kinds."] * (len(lines) > KINDS)
        remedy = "Correct these rows, or leave out images by data.exclude."
        raise UserError("\n  ".join([f"'{self.path}':", *lines[:KINDS], *rest, remedy]))


def named_rows(rows: Sequence[int]) -> str:
    """Names rows by their lines, the first of many.

    >>> named_rows([3]), named_rows([3, 4, 9])
    ('row 3', 'rows 3, 4, 9')
    """
    more = f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:NAMED]))}{more}"


def read_cells(
    path: Path,
    is_header: Callable[[Sequence[Sequence[str]]], bool | None],
    header: bool | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Cells:
    """Reads a table; what is not given shows in the file, or is an error.

    Args:
        path: A CSV or TSV file of any delimiter.
        is_header: Whether the first of some rows names the columns; None if that is in doubt.
        header: Whether it does.
        delimiter: What stands between cells.
        encoding: As Python names it; UTF-8, or UTF-16 with its mark, if not given.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It cannot be read in one way only; the text names the row and the setting.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No table '{path}'; data.path is a CSV, TSV or Parquet file.")
    text = _decoded(path, encoding)
    if not text.strip():
        raise UserError(f"'{path}' is empty; expected a row for each image.")
    mark = _chosen(path, text) if delimiter is None else delimiter
    numbers, rows = _split(path, text, mark)
    width = len(rows[0])
    if ragged := [n for n, row in zip(numbers, rows, strict=True) if len(row) != width]:
        raise UserError(
            f"'{path}': {named_rows(ragged)}: not {width} cells, as in row {numbers[0]}; the cells "
            f"are separated by {DELIMITERS.get(mark, mark)}. Put cells that hold it in quotes, or "
            "set data.delimiter."
        )
    has_names = is_header(rows) if header is None else header
    if has_names is None:
        raise UserError(
            f"'{path}' may begin with the names of its columns or with an image: {rows[0]}; set "
            "data.header to true or false."
        )
    names = rows[0] if has_names else [str(place) for place in range(width)]
    names = [name.strip() for name in names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"'{path}' has two columns '{twice}'; rename one.")
    body = slice(1 if has_names else 0, None)
    columns: list[Any] = [*zip(*rows[body], strict=True)]
    if not columns:
        raise UserError(f"'{path}' has the names of its columns but no rows.")
    return Cells(names, columns, numbers[body])


def _decoded(path: Path, encoding: str | None) -> str:
    content = path.read_bytes()
    marked = next((name for mark, name in BOMS.items() if content.startswith(mark)), None)
    try:
        text = content.decode(encoding or marked or "utf-8")
    except LookupError:
        raise UserError(f"data.encoding: Python knows no encoding '{encoding}'.") from None
    except UnicodeError as error:
        begin = getattr(error, "start", 0)
        row = content.count(b"\n", 0, begin) + 1
        raise UserError(
            f"'{path}', row {row}: not {encoding or 'UTF-8'}; set data.encoding, such as cp1252 "
            "for tables of older Windows programs."
        ) from None
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"'{path}', row {row}: a NUL character; this is no table of texts.")
    return text


def _split(path: Path, text: str, delimiter: str) -> tuple[list[int], list[list[str]]]:
    """The rows that are not empty, and the lines in which they end."""
    lines = io.StringIO(text, newline="")
    numbers, rows = [], []
    if delimiter == BLANKS:
        for number, line in enumerate(lines, 1):
            if cells := line.split():
                numbers.append(number)
                rows.append(cells)
        return numbers, rows
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        for row in reader:
            if any(cell.strip() for cell in row):
                numbers.append(reader.line_num)
                rows.append([cell.strip() for cell in row])
    except csv.Error as error:
        raise UserError(
            f"'{path}', row {reader.line_num}: {error}; double the quotes within a cell."
        ) from None
    except TypeError:
        raise UserError(f"data.delimiter is one character, not {delimiter!r}.") from None
    return numbers, rows


def _chosen(path: Path, text: str) -> str:
    """The delimiter that cuts all rows into as many cells, at least two; else what fits best."""
    if len(text) > SEEN:
        text = text[: text.rfind("\n", 0, SEEN)]
    shares = {mark: _fitting(path, text, mark) for mark in DELIMITERS}
    fitting = [mark for mark, share in shares.items() if share == 1]
    if len(fitting) > 1:
        marks = " or at ".join(f"each {DELIMITERS[mark]}" for mark in fitting)
        raise UserError(f"'{path}' can be cut at {marks}; set data.delimiter.")
    best = max(shares, key=shares.__getitem__)
    if shares[best] >= 0.5:
        return best  # where it does not fit is told by row
    return BLANKS if _fitting(path, text, BLANKS) == 1 else ","


def _fitting(path: Path, text: str, mark: str) -> float:
    """The share of the rows that a delimiter cuts as the first, if that has several cells."""
    try:
        widths = [len(row) for row in _split(path, text, mark)[1]]
    except UserError:  # of a quote: what is in no row cuts nothing
        if mark in text:
            raise
        return 0
    return widths.count(widths[0]) / len(widths) if widths[0] > 1 else 0
