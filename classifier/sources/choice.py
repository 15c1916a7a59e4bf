"""Which classes and images of a source count."""

import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from classifier.errors import UserError, did_you_mean
from classifier.images.read import UNREAD_SUFFIXES, image_suffixes
from classifier.sources.columns import find_columns, read_table

Exclude = Sequence[str] | str  # patterns, or a file


class Choice:
    """A choice of classes, in their order, and of images.

    Args:
        classes: The classes that count, in the order of the labels. All, by their names, if none.
        exclude: Patterns of ``fnmatch`` for images to leave out: for their names or, with a "/",
            for their keys. Or a table with a column of keys.
        suffixes: Those of image files, in lower case with their dot. Pillow's if none.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        exclude: Exclude = (),
        suffixes: Collection[str] | None = None,
    ) -> None:
        self.suffixes = suffixes
        self.classes = classes
        if classes is not None:
            twice = [name for name, number in Counter(classes).items() if number > 1]
            if twice or len(classes) < 2:
                what = f"'{twice[0]}' twice" if twice else f"only {list(classes)}"
                raise UserError(f"data.classes names {what}; name two or more classes, each once.")
        self.exclude = exclude
        self.excluded: list[str] = []
        self._listed: set[str] = set()
        self._forms: dict[str, re.Pattern[str]] = {}
        if isinstance(exclude, str):
            path = Path(exclude).expanduser()
            cells = read_table(path, suffixes)
            (column,) = find_columns(path, cells, {}, ["image"], suffixes)["image"]
            self._listed = set(cells.columns[column])
        else:
            self._forms = {pattern: re.compile(fnmatch.translate(pattern)) for pattern in exclude}
        self._unmatched = {*self._forms, *self._listed}

    def image_suffixes(self, unread: bool = False) -> set[str]:
        """The suffixes of image files; with ``unread`` also of those that Pillow cannot read."""
        if self.suffixes:
            return {*self.suffixes}
        return image_suffixes() | (UNREAD_SUFFIXES if unread else set())

    def leaves_out(self, key: str) -> bool:
        """Whether an image is left out; notes it."""
        if not self.exclude:
            return False
        name = key[key.rfind("/") + 1 :]
        matched = {p for p, form in self._forms.items() if form.match(key if "/" in p else name)}
        matched |= {key} & self._listed
        if matched:
            self.excluded.append(key)
            self._unmatched -= matched
        return bool(matched)

    def classes_of(self, names: Sequence[str]) -> list[str]:
        """Returns the classes that count, of those that there are.

        Raises:
            UserError: One that is chosen is not there.
        """
        for name in self.classes or ():
            if name not in names:
                hint = did_you_mean(name, names, f"; there are {', '.join(names[:10])}.")
                raise UserError(f"data.classes: there is no class '{name}'{hint}")
        return list(self.classes or names)

    def notes(self) -> list[str]:
        """Says what was left out, and what could not be."""
        return [*self.left_out(), *self.unmatched()]

    def left_out(self) -> list[str]:
        """Says in a sentence which images were left out."""
        if not self.excluded:
            return []
        return [f"left out by data.exclude: {len(self.excluded)}, such as '{min(self.excluded)}'."]

    def unmatched(self) -> list[str]:
        """Says in a sentence each which patterns no image matches."""
        if isinstance(self.exclude, str) and self._unmatched:
            number, first = len(self._unmatched), min(self._unmatched)
            return [
                f"'{self.exclude}' lists {number} images that are not there, such as '{first}'."
            ]
        return [f"data.exclude: no image matches '{p}'." for p in sorted(self._unmatched)]
