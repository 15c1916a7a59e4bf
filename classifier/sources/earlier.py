"""How runs of format 1 find their images: without links to folders, and knowing no litter."""

import os
from collections.abc import Sequence
from pathlib import Path

from classifier.errors import UserError
from classifier.images.read import image_suffixes

SPLIT_NAMES = {"train": ["train"], "val": ["val", "valid", "validation"], "test": ["test"]}


class EarlierFinder:
    """Stands in for ``Finder``."""

    def subfolders(self, folder: Path) -> list[Path]:
        """Lists the folders in a folder and the links to folders."""
        visible = (path for path in folder.iterdir() if not path.name.startswith("."))
        return sorted(path for path in visible if path.is_dir())

    def below(self, tops: Sequence[Path]) -> list[list[str]]:
        """Lists the images below each of some folders, sorted."""
        return [[str(path) for path in sorted(_images_below(top))] for top in tops]

    def notes(self) -> list[str]:
        """Says nothing."""
        return []

    left_out = notes


def find_splits(root: Path) -> dict[str, Path]:
    """Finds the folders of train, val and test; without a train folder, ``root`` is train."""
    finder = EarlierFinder()
    folders = {folder.name.lower(): folder for folder in finder.subfolders(root)}
    splits = {
        split: folders[alias]
        for split, aliases in SPLIT_NAMES.items()
        for alias in aliases
        if alias in folders and finder.subfolders(folders[alias])
    }
    if splits and "train" not in splits:
        raise UserError(
            f"'{root}' has a folder '{next(iter(splits.values())).name}', but no 'train/<class>/'."
        )
    return splits or {"train": root}


def _images_below(folder: Path) -> list[Path]:
    suffixes = image_suffixes()
    found = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in suffixes]
    return found
