"""Images and labels as the rows of a table list them."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from classifier.errors import UserError
from classifier.sources.cells import Cells, Mistakes
from classifier.sources.choice import Choice
from classifier.sources.columns import Columns, find_columns, read_table
from classifier.sources.parquet import Blobs, Inside
from classifier.sources.source import Files, Index, Names, Source, in_folder_order
from classifier.sources.split_folders import ROLES


class Entry(NamedTuple):
    """What a row says of an image."""

    row: int
    place: int  # among the rows
    key: str
    label: str
    part: str
    group: str


class Table(Source):
    """Images that a table lists, a row for each.

    Args:
        path: A CSV or TSV file of any delimiter, or a Parquet file.
        root: Folder that the paths of the images are relative to; that of the table if not given.
        columns: Which column is "image", "label", "split" or "group", by its name or by its
            position from 0, where the names of the columns do not say it. Several columns of 0 and
            1 for "label" are a class each.
        choice: Which classes and images count.
        options: ``header``, ``delimiter`` and ``encoding`` of ``read_cells``.
    """

    def __init__(
        self, path: Path, root: Path | None, columns: Columns, choice: Choice, **options: Any
    ) -> None:
        self.path = path
        self.root = path.parent if root is None else root
        self.columns = columns
        self.choice = choice
        self.options = options
        self._told: list[str] = []

    @property
    def class_names(self) -> Sequence[str]:
        """The labels of training images, as texts; numbers in their order."""
        return self._read[0]

    def index(self) -> dict[str, Index]:
        return self._read[1]

    def notes(self) -> list[str]:
        return [*self._told, *self.choice.notes()]

    @cached_property
    def _read(self) -> tuple[list[str], dict[str, Index]]:
        suffixes = self.choice.suffixes
        cells = read_table(self.path, suffixes, **self.options)
        roles = find_columns(self.path, cells, self.columns, ["image", "label"], suffixes)
        mistakes = Mistakes(self.path)
        entries = self._each_once(self._entries(cells, roles, mistakes), mistakes)
        found = {entry.label for entry in entries if entry.part == "train"}
        names = self.choice.classes_of(sorted(found, key=_in_order)) if found else []
        others = [entry for entry in entries if entry.label not in names]
        if self.choice.classes is not None and others:
            self._told.append(f"left out {len(others):,} images of classes not in data.classes.")
        elif found:
            for entry in others:
                mistakes.add("no training image is of this class", entry.row, entry.label)
        mistakes.refuse()
        if len(names) < 2:
            only = f"of the class '{names[0]}' alone" if names else "of no class"
            raise UserError(
                f"'{self.path}' has training images {only}; expected two or more classes."
            )
        self._told += _alike(names)
        numbers = {name: number for number, name in enumerate(names)}
        kept = [entry for entry in entries if entry.label in numbers]
        # As folders of classes are listed, so that both are the same data set.
        kept.sort(key=lambda entry: (numbers[entry.label], in_folder_order(entry.key)))
        images = cells.columns[roles["image"][0]]
        index = {}
        for part in dict.fromkeys(entry.part for entry in kept):
            its = [entry for entry in kept if entry.part == part]
            keys = Names(entry.key for entry in its)
            places = torch.tensor([entry.place for entry in its])
            index[part] = Index(
                images.select(places) if isinstance(images, Blobs) else Files(self.root, keys),
                torch.tensor([numbers[entry.label] for entry in its]),
                keys,
                Names(entry.group for entry in its) if "group" in roles else None,
            )
        return names, index

    def _entries(
        self, cells: Cells, roles: Mapping[str, Sequence[int]], mistakes: Mistakes
    ) -> Iterator[Entry]:
        """Yields what each row says that is not left out."""
        images = cells.columns[roles["image"][0]]
        if isinstance(images, Blobs):
            keys = images.names(self.path)
        else:
            keys = find_files(self.root, cells.rows, images, mistakes, self.choice)
        labels = _labels(cells, roles["label"], mistakes)
        parts = cells.columns[roles["split"][0]] if "split" in roles else None
        groups = cells.columns[roles["group"][0]] if "group" in roles else None
        for place, (row, key, label) in enumerate(zip(cells.rows, keys, labels, strict=True)):
            if not key or self.choice.leaves_out(key):
                continue
            said = "train" if parts is None else str(parts[place])
            part = ROLES.get(said.lower(), "")
            group = "" if groups is None else str(groups[place])
            if not part:
                mistakes.add("expected train, val or test as the split, not", row, said)
            elif groups is not None and not group:
                mistakes.add("no group for", row, key)
            elif label:
                yield Entry(row, place, key, label, part, group)

    def _each_once(self, entries: Iterator[Entry], mistakes: Mistakes) -> list[Entry]:
        """The entries without repetitions; rows that contradict each other are mistakes."""
        first: dict[str, Entry] = {}
        again = []
        for entry in entries:
            known = first.setdefault(entry.key, entry)
            if known is entry:
                continue
            if known[3:] == entry[3:]:
                again.append(entry)
                continue
            pairs = zip(entry[3:], known[3:], strict=True)
            here, there = next(pair for pair in pairs if pair[0] != pair[1])
            told = f"{entry.key}: {here}, but {there} in row {known.row}"
            mistakes.add("contradicts an earlier row", entry.row, told)
        if again:
            self._told.append(
                f"{len(again)} rows say again what others do, such as row {again[0].row}."
            )
        return [*first.values()]


def _labels(cells: Cells, places: Sequence[int], mistakes: Mistakes) -> Iterator[str]:
    """Yields the label of each row, or "" where there is none."""
    columns = [cells.columns[place] for place in places]
    if len(columns) == 1:
        names = cells.classes.get(places[0], ())
        for row, cell in zip(cells.rows, columns[0], strict=True):
            label = "" if cell is None else str(cell)
            if not label:
                mistakes.add("no label", row)
            yield names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else label
        return
    for row, marks in zip(cells.rows, zip(*columns, strict=True), strict=True):
        marked = [
            place
            for place, mark in zip(places, marks, strict=True)
            if str(mark) in ("1", "1.0", "True")
        ]
        if len(marked) != 1:
            mistakes.add(f"{len(marked)} labels, not one", row)
        yield cells.names[marked[0]] if len(marked) == 1 else ""


def images_of(path: Path, choice: Choice) -> Sequence[Path | Inside]:
    """The images that a table holds or lists, in its order; paths begin at its folder."""
    cells = read_table(path, choice.suffixes)
    (column,) = find_columns(path, cells, {}, ["image"], choice.suffixes)["image"]
    images = cells.columns[column]
    if isinstance(images, Blobs):
        return [Inside(path, name, images, n) for n, name in enumerate(images.names(path))]
    mistakes = Mistakes(path)
    keys = [*find_files(path.parent, cells.rows, images, mistakes, choice)]
    mistakes.refuse()
    return [path.parent / key for key in keys]


def find_files(
    root: Path, rows: Sequence[int], cells: Sequence[Any], mistakes: Mistakes, choice: Choice
) -> Iterator[str]:
    """Yields the path below root that each cell means, or "" where there is no such image.

    It lists each folder once, and asks the disk about no file. Cells may lack the suffix.
    """
    listed = cache(partial(_files_in, choice.image_suffixes(unread=True)))
    top = root.absolute()
    for row, cell in zip(rows, cells, strict=True):
        path = posixpath.normpath(str(cell).replace("\\", "/")) if cell else ""
        if posixpath.isabs(path) and Path(path).is_relative_to(top):
            path = Path(path).relative_to(top).as_posix()
        folder, name = posixpath.split(path)
        files = listed(root / folder).get(name, [])
        if len(files) == 1:
            yield posixpath.join(folder, files[0])
            continue
        if not path:
            mistakes.add("no image is named", row)
        elif files:
            mistakes.add(f"may be {' or '.join(files)}", row, path)
        elif not choice.leaves_out(path):
            mistakes.add(f"no such image in '{root}'{_hint(root, name, listed)}", row, path)
        yield ""


def _hint(root: Path, name: str, listed: Callable[[Path], dict[str, list[str]]]) -> str:
    """Where the images of a table are rather, if that can be seen."""
    if not root.is_dir():
        return ", which is no folder; data.root is the folder of the images"
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir())[:100]:
        if listed(folder).get(name):
            return f" (set data.root to '{folder}'?)"
    return ""


def _files_in(suffixes: Collection[str], folder: Path) -> dict[str, list[str]]:
    """The images in a folder by their names, also without their suffix."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        if dot + suffix.lower() in suffixes:
            found[stem].append(name)
    return dict(found) | {name: [name] for name in names}


def _in_order(label: str) -> tuple[int, int, str]:
    """Sorts numbers by their value, in front of other texts."""
    return (0, int(label), label) if label.isdecimal() else (1, 0, label)


def _alike(names: Sequence[str]) -> list[str]:
    """Says which classes are the same number, or the same but for capitals and blanks."""
    by_form: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        by_form[name.strip().casefold().lstrip("0")].append(name)
    return [
        f"the classes {', '.join(map(repr, alike))} are taken as different."
        for alike in by_form.values()
        if len(alike) > 1
    ]
