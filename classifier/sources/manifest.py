"""The split of a run, kept beside it: which image was in which part; and how it is given back."""

import csv
import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import torch

from classifier.atomic import atomic_write
from classifier.errors import UserError
from classifier.sources.source import Index
from classifier.splits import PARTS

NAME = "manifest.csv.gz"  # in a run folder
COLUMNS = ["image", "label", "group", "part"]


class Entry(NamedTuple):
    """What a manifest says of an image."""

    label: str
    group: str
    part: str


def write_manifest(path: Path, parts: Mapping[str, Index], class_names: Sequence[str]) -> None:
    """Writes a row for each image that has a key; the same split makes the same bytes."""
    with (
        atomic_write(path) as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as zipped,
        io.TextIOWrapper(zipped, "utf-8", "surrogateescape", newline="") as text,
    ):
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for part, index in parts.items():
            labels = (class_names[label] for label in index.labels.tolist())
            groups = index.groups if index.groups is not None else repeat("")
            rows.writerows(zip(index.keys or (), labels, groups, repeat(part), strict=False))


def read_manifest(path: Path) -> dict[str, Entry]:
    """Reads a manifest, or that of a run folder.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is no manifest.
    """
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"data.manifest: no file '{path}'; a run folder has {NAME}.")
    content = path.read_bytes()
    try:
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        lines = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
        header, *rows = csv.reader(lines, strict=True)
        if header != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
        found = {image: Entry(label, group, part) for image, label, group, part in rows}
        if strange := {entry.part for entry in found.values()} - {*PARTS}:
            raise ValueError(f"a part is {min(strange)!r}")
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise UserError(f"data.manifest: '{path}' is no manifest of a run: {error}.") from None
    return found


def split_as_before(
    found: Mapping[str, Index],
    manifest: Mapping[str, Entry],
    fractions: Mapping[str, float],
    seed: int,
    class_names: Sequence[str],
) -> tuple[dict[str, Index], list[str]]:
    """Splits images as a manifest has them, and those that it lacks among themselves.

    New images of a group that it has come to their group.

    Args:
        found: The images of each part that is set apart, and of "train" those to split.
        manifest: What it says of each.
        fractions: The share of new images for each part but "train".
        seed: Chooses which of the new ones come into which part.
        class_names: The names of the classes.

    Returns:
        The images of each part, and what there is to say of them, in sentences.
    """
    pool = found["train"]
    keys = list(pool.keys or ())
    placed: dict[str, list[int]] = {part: [] for part in ("train", *fractions)}
    new: list[int] = []
    relabelled: list[str] = []
    known = {entry.group: entry.part for entry in manifest.values() if entry.group}
    for place, key in enumerate(keys):
        entry = manifest.get(key)
        group = pool.groups[place] if pool.groups is not None else ""
        part = entry.part if entry else known.get(group, "")
        if part and part not in placed:
            raise UserError(
                f"data.manifest has '{key}' in {part}, but the data has {PARTS[part]} images of "
                "its own; leave one out."
            )
        placed.get(part, new).append(place)
        if entry and entry.label != class_names[int(pool.labels[place])]:
            relabelled.append(key)
    if new:
        added, shares = torch.tensor(new), [*fractions.values()]
        parts = pool.select(added).split_positions(shares, seed, class_names, strict=False)
        for part, positions in zip(placed, parts, strict=True):
            placed[part] += added[positions].tolist()
    split = {part: pool.select(torch.tensor(sorted(its)).long()) for part, its in placed.items()}
    if empty := [part for part, its in placed.items() if not its]:
        raise UserError(
            f"data.manifest leaves no {PARTS[empty[0]]} images of those that are there; is it of "
            "this data?"
        )
    there = {key for index in found.values() for key in index.keys or ()}
    told = {
        "are not in it and split among themselves": [keys[place] for place in new],
        "of it are not there": sorted({*manifest} - there),
        "have another label than in it, which is left out": relabelled,
    }
    return split, [
        f"data.manifest: {len(names):,} images {what}, such as '{names[0]}'."
        for what, names in told.items()
        if names
    ]
