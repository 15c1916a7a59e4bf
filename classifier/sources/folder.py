"""Images in one folder per class."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch

from classifier.errors import UserError, did_you_mean
from classifier.sources.choice import Choice
from classifier.sources.finder import Finder, key, keys
from classifier.sources.source import Files, Index, Names, Source
from classifier.sources.split_folders import Splits, find_splits


class Folder(Source):
    """Images in ``root/<class>/`` or in ``root/{train,val,test}/<class>/``.

    Args:
        root: Folder of the class folders, or of train, val and test.
        splits: As for ``find_splits``.
        choice: Which classes and images count.
    """

    def __init__(self, root: Path, splits: Splits = None, choice: Choice | None = None) -> None:
        self.root = root
        self.splits = splits
        self.choice = choice or Choice()
        self.finder = Finder(root, self.choice)
        self._left_out: set[str] = set()  # classes

    @cached_property
    def class_names(self) -> Sequence[str]:
        """The names of the class folders that count, in alphabetical order if none is chosen."""
        return self.choice.classes_of(find_classes(self.split_folders["train"], self.finder))

    @cached_property
    def split_folders(self) -> dict[str, Path]:
        """The folder of each part that has one."""
        check_root(self.root)
        return self.find_splits()

    def find_splits(self) -> dict[str, Path]:
        """Finds the folders of train, val and test in a root that is there."""
        return find_splits(self.root, self.splits, self.finder)

    def index(self) -> dict[str, Index]:
        """Lists the images of each split that has a folder; their keys are paths below root."""
        tops = {part: self._class_folders(folder) for part, folder in self.split_folders.items()}
        below = iter(self.finder.below([top for folders in tops.values() for top in folders]))
        found = {}
        for part, folders in tops.items():
            images = dict(zip((folder.name for folder in folders), below, strict=False))
            self._refuse_empty(part, images)
            paths = chain.from_iterable(images.get(name, []) for name in self.class_names)
            names = Names(keys(paths, self.root))
            counts = torch.tensor([len(images.get(name, [])) for name in self.class_names])
            labels = torch.arange(len(counts)).repeat_interleave(counts)
            found[part] = Index(Files(self.root, names), labels, names)
        return found

    def _class_folders(self, split_folder: Path) -> list[Path]:
        folders = self.finder.subfolders(split_folder)
        others = [folder for folder in folders if folder.name not in self.class_names]
        if others and self.choice.classes is None:
            hint = did_you_mean(others[0].name, self.class_names)
            raise UserError(f"Class folder '{others[0]}' has no counterpart in train{hint}")
        self._left_out.update(folder.name for folder in others)
        return [folder for folder in folders if folder not in others]

    def _refuse_empty(self, part: str, images: Mapping[str, Sequence[str]]) -> None:
        """Raises UserError if a class has no images to train on, or a part has none at all."""
        missing = [name for name in self.class_names if not images.get(name)]
        folder = self.split_folders[part]
        if missing and part == "train":
            empty = f"Class folder '{folder / missing[0]}' has no images"
        elif len(missing) == len(self.class_names):
            empty = f"'{folder}' has no images in class folders"
        else:
            return
        notes = self.finder.left_out()
        if others := self.finder.others():
            listed = ", ".join(sorted(self.choice.suffixes or ())) or "those of Pillow"
            notes += [f"{others[0]} The suffixes of data.reader say which are: {listed}."]
        why = "".join(f"\n  {note}" for note in notes)
        raise UserError(f"{empty}; add some or remove it.{why}")

    def notes(self) -> list[str]:
        """Says what was left out, and what lies beside the class folders and beside the splits."""
        notes = self.finder.notes()
        if self._left_out:
            names = ", ".join(f"'{name}'" for name in sorted(self._left_out)[:5])
            number = len(self._left_out)
            notes.append(f"left out {number} classes that are not in data.classes: {names}.")
        looked_into = map(self.finder.contents, {self.root, *self.split_folders.values()})
        loose = sorted(path for folder in looked_into for path in folder.images)
        if loose:
            example = key(loose[0], self.root)
            notes.append(f"left out {len(loose)} images in no class folder, such as '{example}'.")
        if isinstance(self.splits, Mapping):
            named = {Path(name).parts[0] for name in self.splits.values()}
            others = [f.name for f in self.finder.subfolders(self.root) if f.name not in named]
            names = ", ".join(f"'{name}'" for name in others[:5])
            if others:
                notes.append(f"left out folders that data.splits does not name: {names}.")
        return notes


def check_root(root: Path) -> None:
    """Raises FileNotFoundError if there is no ``root``, UserError if it is a file."""
    if root.is_dir():
        return
    if root.exists():
        raise UserError(f"'{root}' is a file; expected the folder of the class folders.")
    if "$" in str(root):
        raise FileNotFoundError(f"No folder '{root}': variables are not replaced; write it out.")
    beside = Finder().subfolders(root.parent) if root.parent.is_dir() else []
    remedy = "; data.root is the folder of the class folders: --data.root DIR."
    hint = did_you_mean(root.name, [path.name for path in beside], remedy)
    raise FileNotFoundError(f"No folder '{root}'{hint}")


def find_classes(folder: Path, finder: Finder) -> list[str]:
    """Lists the class folders in alphabetical order; raises UserError if there are not two."""
    folders = finder.subfolders(folder)
    if len(folders) >= 2:
        names = [path.name for path in folders]
        for name in names:
            if name.encode("utf-8", "replace").decode() != name:
                raise UserError(f"The name of class folder {name!r} is not UTF-8; rename it.")
        return names
    expected = f"expected '{folder}/<class name>/<image>' for two or more classes."
    if tables := sorted(path.name for path in folder.glob("*.csv")):
        expected += (
            f" Is '{tables[0]}' a table of labels? --data Table --data.path '{folder / tables[0]}'"
        )
    if not folders:
        images = sum(path.suffix.lower() in finder.suffixes for path in folder.iterdir())
        directly = f" but {images} images directly inside" if images else ""
        raise UserError(f"'{folder}' has no class folders{directly}; {expected}")
    inside = len(finder.subfolders(folders[0]))
    remedy = f" Set root to '{folders[0]}', which has {inside}?" if inside > 1 else ""
    raise UserError(
        f"'{folder}' has only one class folder, '{folders[0].name}'; {expected}{remedy}"
    )
