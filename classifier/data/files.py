"""Finding image files by what a person types: files, folders and globs."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from classifier.data.images import is_image_name


def find_images(patterns: Sequence[str]) -> list[Path]:
    """Lists image files in the order given; those of a folder or glob by name.

    A file that is named itself is taken whatever its suffix; a folder is searched with its
    subfolders, without what is hidden.

    Raises:
        FileNotFoundError: If a pattern stands for nothing.
    """
    files = []
    for pattern in patterns:
        found = list(_find(pattern))
        if not found:
            kind = "image in folder" if Path(pattern).is_dir() else "file, folder or glob"
            raise FileNotFoundError(f"--images: there is no {kind} '{pattern}'.")
        files += found
    return files


def _find(pattern: str) -> Iterator[Path]:
    # A name may itself hold brackets; and Path.glob takes no absolute patterns.
    matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    for path in map(Path, matches):
        if path.is_dir():
            yield from sorted(image for image in path.rglob("*") if is_image_name(image))
        else:
            yield path
