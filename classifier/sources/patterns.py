"""Finding image files by what a person types: files, folders, globs and tables."""

import glob
import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path

from classifier.sources.choice import Choice
from classifier.sources.finder import LITTER, Finder
from classifier.sources.parquet import Inside
from classifier.sources.table import images_of

TABLES = {".csv", ".tsv", ".parquet"}


def find_images(
    patterns: Sequence[str], suffixes: Collection[str] | None = None
) -> list[Path | Inside]:
    """Lists images in the order given, each once; those of a folder or glob by name.

    A table stands for the images that it lists or holds. Any other file that is named itself is
    taken, whatever its suffix; in folders those count that have one of ``suffixes``, Pillow's if
    none. A folder, and so ``folder/**``, is searched by ``Finder``; that no installed package reads
    an image is left to the reader to say.

    Raises:
        FileNotFoundError: If a pattern stands for nothing.
    """
    files: dict[tuple[str, str], str | Inside] = {}  # by where they really are
    real = cache(os.path.realpath)
    choice = Choice(suffixes=suffixes)
    for pattern in patterns:
        found = _find(os.path.expanduser(pattern), choice)  # noqa: PTH111  # may be a glob
        if not found:
            kind = "image in folder" if Path(pattern).is_dir() else "file, folder or glob"
            raise FileNotFoundError(f"--images: there is no {kind} '{pattern}'.")
        for image in found:
            if isinstance(image, Inside):
                folder, name = str(image.table), image.name
            else:
                folder, name = os.path.split(image)
            files.setdefault((real(folder), name), image)
    return [Path(image) if isinstance(image, str) else image for image in files.values()]


def _find(pattern: str, choice: Choice) -> list[str | Inside]:
    # A name may itself hold brackets.
    matches = [pattern] if Path(pattern).exists() else sorted(_matches(pattern))
    named = [path for path in dict.fromkeys(map(Path, matches)) if not _is_litter(path, pattern)]
    folders = [path for path in named if path.is_dir()]
    finder = Finder(choice=choice, unread=True)
    below = dict(zip(folders, finder.below(folders, copies=True), strict=True))
    listed = {path: images_of(path, choice) for path in named if path.suffix.lower() in TABLES}
    found: dict[Path, Sequence[object]] = {**listed, **below}
    images = (image for path in named for image in found.get(path, [path]))
    return [image if isinstance(image, Inside) else str(image) for image in images]


def _matches(pattern: str) -> Iterator[str]:
    """Does ``glob.glob``, which would go round and round where a link leads upwards."""
    pattern = pattern.replace(os.sep, "/")
    head, *tail = re.split(r"(?:^|(?<=/))\*\*(?:/|$)", pattern, maxsplit=1)
    if not tail:
        yield from glob.glob(pattern)  # noqa: PTH207  # Path.glob takes no absolute patterns
        return
    heads = [head or "."] if Path(head).is_dir() else glob.glob(head)  # noqa: PTH207
    tops = sorted(path for path in map(Path, heads) if path.is_dir())
    if not tail[0]:
        yield from map(str, tops)
        return
    for folder, _, _ in Finder().walk(tops):
        yield from _matches(f"{glob.escape(folder)}/{tail[0]}".removeprefix("./"))


def _is_litter(match: Path, pattern: str) -> bool:
    """Whether a glob led to what systems leave behind, without naming it."""
    return any(part.lower() in LITTER for part in {*match.parts} - {*Path(pattern).parts})
