"""Finding image files below folders.

One walk serves class folders and predictions. Paths are sorted as ``Path`` sorts: part by part.
"""

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import repeat
from pathlib import Path

from classifier.images.read import (
    HEIF_SUFFIXES,
    UNREAD_SUFFIXES,
    reads_heif,
    remedy,
)
from classifier.sources.choice import Choice

# What systems, storage boxes and tools leave behind, in lower case.
LITTER = {
    *("__macosx", "temporary items", "network trash folder"),
    *("$recycle.bin", "recycler", "system volume information"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini"),
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("lost+found", ".ipynb_checkpoints", "__pycache__"),
}

LINKED_FOLDERS = "links to folders that are read without them"
LINKED_IMAGES = "links to images that are read without them"


@dataclass
class Contents:
    """Paths of what is in a folder: sorted folders and links to folders, images in any order."""

    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    image_links: list[str] = field(default_factory=list)


class Finder:
    """Finds the images below folders, each real folder once, and tallies what it leaves out.

    It leaves out what is hidden and ``LITTER``, unless that is a folder it is given. Links are
    followed, after all real folders, so that no link takes the files of one. It asks the disk about
    each folder and each link, and about no other file.

    Args:
        root: Folder that names are relative to.
        choice: Which images count.
        unread: Whether to find the images that no installed package reads, too.
    """

    def __init__(
        self, root: Path | None = None, choice: Choice | None = None, unread: bool = False
    ) -> None:
        self.root = root
        # Names of images by the reason or, if nothing reads them, by their suffix.
        self._left_out: defaultdict[str, list[str]] = defaultdict(list)
        self._others: Counter[str] = Counter()  # files that are no images, by suffix
        self._litter: set[str] = set()
        self._namesakes: list[str] = []  # that differ from another image in the suffix alone
        self._namesake_suffixes: Counter[str] = Counter()
        self.choice = choice or Choice()
        self.suffixes = self.choice.image_suffixes(unread)
        self.known = self.suffixes | (set() if self.choice.suffixes else UNREAD_SUFFIXES)
        self._contents: dict[str, Contents] = {}

    def subfolders(self, folder: Path) -> list[Path]:
        """Lists the folders in a folder and the links to folders."""
        contents = self.contents(folder)
        # Windows would take no notice of capitals, and classes would have other numbers there.
        return sorted(map(Path, contents.folders + contents.links), key=lambda path: path.parts)

    def contents(self, folder: Path) -> Contents:
        """Looks into a folder, once: ``below`` does not do it again."""
        if str(folder) not in self._contents:
            self._contents[str(folder)] = self._scan(str(folder))
        return self._contents[str(folder)]

    def below(self, tops: Sequence[Path], copies: bool = False) -> list[list[str]]:
        """Lists the images below each of some folders, sorted; links to images as further ones.

        Without ``copies``, a link to an image that is found anyway is left out.
        """
        found: list[list[str]] = [[] for _ in tops]
        links: list[tuple[str, int]] = []
        deep: set[int] = set()
        for folder, number, contents in self.walk(tops):
            if folder != str(tops[number]):
                deep.add(number)
            found[number] += contents.images + contents.image_links * copies
            links += [(path, number) for path in contents.image_links]
        if links and not copies:
            self._follow(links, found)
        for number, paths in enumerate(found):
            paths.sort(key=_in_folder_order if number in deep else None)  # else it is the same
        return found

    def _follow(self, links: Sequence[tuple[str, int]], found: list[list[str]]) -> None:
        """Adds links to images, but to none that is there already: each counts once."""
        real = cache(os.path.realpath)
        parts = (os.path.split(path) for paths in found for path in paths)
        seen = {f"{real(folder)}{os.sep}{name}" for folder, name in parts}
        for path, number in sorted(links):
            target = os.path.realpath(path)
            if target in seen:
                self._leave_out(LINKED_IMAGES, path)
            else:
                seen.add(target)
                found[number].append(path)

    def notes(self) -> list[str]:
        """Says in a sentence each what was left out, and what looks as if it should be."""
        notes = self.left_out() + self.others()
        if self._litter:
            names = ", ".join(f"'{name}'" for name in sorted(self._litter))
            notes.append(f"left out what systems and tools leave in folders: {names}.")
        notes += self.choice.unmatched()
        if alike := self._namesakes:
            # Of two kinds the rarer one is rather the masks; else what no camera writes.
            suffixes = self._namesake_suffixes
            rarest = min(suffixes, key=lambda s: (suffixes[s], s.lower() in (".jpg", ".jpeg"), s))
            notes.append(
                f"images that share their name with another but for the suffix: {len(alike)}, "
                f"such as {min(alike)}. If they are masks or copies, data.exclude: "
                f'["*{rarest}"] leaves them out.'
            )
        return notes

    def others(self) -> list[str]:
        """Says in a sentence which files are no images, if there are some."""
        if not self._others:
            return []
        others = self._others.most_common(3)
        kinds = ", ".join(f"{number:,} {suffix}" for suffix, number in others)
        more = ", …" * (len(self._others) > 3)
        return [f"left out {self._others.total():,} files that are no images: {kinds}{more}."]

    def left_out(self) -> list[str]:
        """Says which images were left out, and why, in a sentence for each reason."""
        return [
            f"left out {len(names)} {reason}, such as '{min(names)}': {remedy(reason)}"
            if reason.startswith(".")
            else f"left out {reason}: {len(names)}, such as '{min(names)}'."
            for reason, names in sorted(self._left_out.items())  # the suffixes first
        ] + self.choice.left_out()

    def _leave_out(self, reason: str, path: str) -> None:
        self._left_out[reason].append(key(path, self.root))

    def walk(self, tops: Sequence[Path]) -> Iterator[tuple[str, int, Contents]]:
        """Yields some folders and all those below them, each once, with the number of its top."""
        seen = _above(tops)
        real: deque[tuple[str, int]] = deque()
        links: deque[tuple[str, int]] = deque()
        for number, top in enumerate(tops):
            (links if top.is_symlink() else real).append((str(top), number))
        while real or links:
            folder, number = (real or links).popleft()
            place = _place(folder)
            if place in seen:
                self._leave_out(LINKED_FOLDERS, folder)
                continue
            seen.add(place)
            contents = self._contents.pop(folder, None) or self._scan(folder)
            real.extend((path, number) for path in contents.folders)
            links.extend((path, number) for path in contents.links)
            yield folder, number, contents

    def _scan(self, folder: str) -> Contents:
        contents = Contents()
        plain = () if self.choice.exclude else self.suffixes
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                suffix = name[name.rfind(".") :].lower()
                if suffix in plain and name[0] != "." and entry.is_file(follow_symlinks=False):
                    contents.images.append(entry.path)  # nearly all; what follows is slower
                    continue
                lower = name.lower()
                if lower in LITTER:
                    self._litter.add(name)
                elif lower[0] == ".":
                    continue
                elif entry.is_dir(follow_symlinks=False):
                    contents.folders.append(entry.path)
                elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112  # a text
                    contents.links.append(entry.path)
                elif self._is_image(entry.path, name, suffix):
                    linked = entry.is_symlink()
                    (contents.image_links if linked else contents.images).append(entry.path)
        contents.folders.sort()
        contents.links.sort()
        self._tally_namesakes(contents.images + contents.image_links)
        return contents

    def _is_image(self, path: str, name: str, suffix: str) -> bool:
        if suffix not in self.known:
            self._others[suffix if "." in name else "without a suffix"] += 1
            return False
        if self.choice.exclude and self.choice.leaves_out(key(path, self.root)):
            return False
        if suffix in HEIF_SUFFIXES and suffix not in self.suffixes and reads_heif():
            self.suffixes |= HEIF_SUFFIXES
        if suffix not in self.suffixes:
            self._leave_out(suffix, path)
        return suffix in self.suffixes

    def _tally_namesakes(self, images: list[str]) -> None:
        suffix = images[0][images[0].rfind(".") :] if images else ""
        if all(map(str.endswith, images, repeat(suffix))):
            return
        by_stem: dict[str, list[str]] = {}
        for path in sorted(images):
            by_stem.setdefault(path[: path.rfind(".")], []).append(path)
        for first, *others in by_stem.values():
            for other in others:
                self._namesakes.append(f"'{key(other, self.root)}' beside '{Path(first).name}'")
                self._namesake_suffixes.update(path[path.rfind(".") :] for path in (first, other))


def _above(folders: Sequence[Path]) -> set[tuple[int, int]]:
    """Where the folders around some folders are: a link to one of them leads in a circle."""
    around = {os.path.dirname(os.path.abspath(folder)) for folder in folders}  # noqa: PTH100, PTH120
    around |= {os.path.dirname(os.path.realpath(f)) for f in folders if f.is_symlink()}  # noqa: PTH120
    around |= {os.path.realpath(folder) for folder in around}
    above = {Path(folder) for folder in around}
    above |= {parent for folder in above for parent in folder.parents}
    # A folder may be around another; a link among several is rather one that leads in a circle.
    taken = [folder for folder in folders if len(folders) == 1 or not folder.is_symlink()]
    return {*map(_place, above)} - {*map(_place, taken)}


def _in_folder_order(path: str) -> str:
    return path.replace(os.sep, "\0")


def _place(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116  # a text mostly
    return status.st_dev, status.st_ino


def key(path: str | Path, root: Path | None) -> str:
    """A path below root, as it names an image on any system."""
    return next(keys([str(path)], root))


def keys(paths: Iterable[str], root: Path | None) -> Iterator[str]:
    """The keys of many."""
    above = os.path.join(root or "", "")  # noqa: PTH118  # root may be "/"
    return (path.removeprefix(above).replace(os.sep, "/") for path in paths)
