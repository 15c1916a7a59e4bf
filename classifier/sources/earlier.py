"""How runs of format 1 find their images: without links to folders, and knowing no litter."""

import os
from collections.abc import Sequence
from pathlib import Path

from classifier.errors import UserError
from classifier.images.read import image_suffixes
from classifier.sources.choice import Choice
from classifier.sources.finder import Finder
from classifier.sources.folder import Folder
from classifier.sources.source import Names
from classifier.sources.split_folders import Splits

SPLIT_NAMES = {"train": ["train"], "val": ["val", "valid", "validation"], "test": ["test"]}


class EarlierFolder(Folder):
    """Stands in for ``Folder``."""

    def __init__(self, root: Path, splits: Splits = None, choice: Choice | None = None) -> None:
        if splits or (choice and (choice.exclude or choice.classes or choice.suffixes)):
            raise UserError(
                "data.splits, data.classes, data.exclude and a data.reader of other files are not "
                "for runs of an earlier version, which find their images as that version did. "
                "Train anew to use them."
            )
        super().__init__(root)
        self.finder = EarlierFinder(root)

    def find_splits(self) -> dict[str, Path]:
        """Finds the folders of train, val and test; without a train folder, ``root`` is train."""
        folders = {folder.name.lower(): folder for folder in self.finder.subfolders(self.root)}
        splits = {
            split: folders[alias]
            for split, aliases in SPLIT_NAMES.items()
            for alias in aliases
            if alias in folders and self.finder.subfolders(folders[alias])
        }
        if splits and "train" not in splits:
            name = next(iter(splits.values())).name
            raise UserError(f"'{self.root}' has a folder '{name}', but no 'train/<class>/'.")
        return splits or {"train": self.root}

    def notes(self) -> list[str]:
        return []


class EarlierFinder(Finder):
    """Stands in for ``Finder``; leaves out what is hidden, and tallies nothing."""

    def subfolders(self, folder: Path) -> list[Path]:
        visible = (path for path in folder.iterdir() if not path.name.startswith("."))
        return sorted(path for path in visible if path.is_dir())

    def below(self, tops: Sequence[Path], copies: bool = False) -> list[list[str]]:
        return [[str(path) for path in sorted(_images_below(top))] for top in tops]


def short_names(keys: Names) -> Names:
    """The names by which a fingerprint of format 1 knows images: those of folder and file."""
    return Names("/".join(Path(key).parts[-2:]) for key in keys)


def _images_below(folder: Path) -> list[Path]:
    suffixes = image_suffixes()
    found = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in suffixes]
    return found
