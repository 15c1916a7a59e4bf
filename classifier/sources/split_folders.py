"""Which folders of a root are its splits, by their names in any usual spelling, and which classes.

What can be read in both ways is an error that shows both.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Literal

from classifier.anchored_yaml.scalars import literal
from classifier.errors import UserError, did_you_mean
from classifier.platform import quoted
from classifier.sources.finder import Contents, Finder

WORDS = {
    "train": "train training trn tr learn fit",
    "val": "val valid validation dev devel development eval evaluation tune",
    "test": "test testing tst holdout heldout unseen",
}
FILLERS = {
    *("set", "data", "dataset", "images", "imgs", "split", "part", "folder", "photos", "samples"),
    *("new", "final", "raw", "resized"),
}
ROLES = {word: role for role, words in WORDS.items() for word in words.split()}
ROLES |= {joined: r for w, r in ROLES.items() for f in FILLERS for joined in (w + f, f + w)}
Splits = Mapping[str, str] | Literal["none"] | None


def find_splits(root: Path, given: Splits, finder: Finder) -> dict[str, Path]:
    """Finds the folders of train, val and test; where the folders are classes, ``root`` is train.

    The user says which is which, or ``"none"`` where they are classes; else their names do.

    Raises:
        UserError: The folders can be read in two ways, or those given are not there.
    """
    if given == "none":
        return {"train": root}
    if given is not None:
        folders = _given_folders(root, given, finder)
    else:
        tops = {path.name: finder.contents(path) for path in finder.subfolders(root)}
        roles = roles_of(list(tops))
        if not _are_splits(root, tops, roles):
            return {"train": root}
        folders = {role: root / name for name, role in roles.items()}
    for (role, folder), (other, path) in permutations(folders.items(), 2):
        if folder.resolve().is_relative_to(path.resolve()):
            left_out = role if role != "train" else other
            others = {r: str(f.relative_to(root)) for r, f in folders.items() if r != left_out}
            raise UserError(
                f"'{folder}' ({role}) is in '{path}' ({other}), so that images would be in both. "
                f"Leave one out, such as with --data.splits {quoted([literal(others)])}"
            )
    return {role: folders[role] for role in WORDS if role in folders}


def roles_of(names: Sequence[str]) -> dict[str, str]:
    """Finds the folder names that stand for a split, and for which one.

    >>> roles_of(["seg_train", "segTEST", "Validation images", "invalid"])
    {'Validation images': 'val'}
    >>> roles_of(["seg_train", "seg_test"])
    {'seg_train': 'train', 'seg_test': 'test'}
    """
    words = {name: _words(name) for name in names}
    common = set.intersection(*words.values()) if len(names) > 1 else set()
    roles = {name: _role(its - common) for name, its in words.items()}
    if not any(roles.values()):
        roles = {name: _role(its) for name, its in words.items()}
    return {name: role for name, role in roles.items() if role}


def _words(name: str) -> set[str]:
    """The words of a name, also in CamelCase, in lower case."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+", name)
    return {word.lower() for word in words}


def _role(words: set[str]) -> str | None:
    left = words - FILLERS
    return ROLES.get(left.pop()) if len(left) == 1 else None


def _are_splits(root: Path, tops: Mapping[str, Contents], roles: Mapping[str, str]) -> bool:
    classes = {
        name: {Path(path).name for path in top.folders + top.links} for name, top in tops.items()
    }
    doubt = _doubt(classes, roles) if roles else _shared(classes)
    if not doubt:
        return bool(roles)
    # Vehicles have a class "train" too, but its folder and all others hold images. A "test1" beside
    # it is no vehicle.
    others = [name for name in tops if name not in roles]
    numbered = any(_role({w for w in _words(name) if not w.isdecimal()}) for name in others)
    flat = all(top.images or top.image_links for top in tops.values())
    if roles and others and flat and not numbered:
        return False
    remedies = ["If they are splits: each holds <class>/<image>; data.splits names them."]
    if splits := _likely_splits(classes, roles):
        names = _listed(classes[splits["train"]])
        written = quoted([literal(splits)])
        remedies = [f"If they are splits of {names}: --data.splits {written}"]
    if len(tops) > 1:
        remedies.append(f"If {_listed(tops)} are classes: --data.splits none")
    lines = "\n  ".join([f"The folders in '{root}' may be splits or classes: {doubt}", *remedies])
    raise UserError(lines)


def _doubt(classes: Mapping[str, set[str]], roles: Mapping[str, str]) -> str:
    """Why the folders may not be splits, though some are called so."""
    by_role: dict[str, str] = {}
    for name, role in roles.items():
        if role in by_role:
            return f"'{by_role[role]}' and '{name}' both stand for {role}."
        by_role[role] = name
    if "train" not in by_role:
        return f"it has a folder '{min(roles)}', but no 'train/<class>/'."
    train = classes[by_role["train"]]
    for name in classes:
        if name not in roles:
            return f"'{name}' beside '{by_role['train']}' is no split."
        if not classes[name]:
            return f"'{name}' holds no class folders."
        if not _fits(classes[name], train):
            strange = min(classes[name] - train)
            return f"'{name}/{strange}' has no counterpart in train{did_you_mean(strange, train)}"
    return ""


def _shared(classes: Mapping[str, set[str]]) -> str:
    """Why the folders may be splits, though none is called so: they hold the same folders."""
    first: dict[str, str] = {}
    for name, subfolders in classes.items():
        for subfolder in sorted(subfolders):
            other = first.setdefault(subfolder, name)
            # A single one in each is no set of classes.
            if other != name and len(classes[other] | subfolders) > 1:
                return f"'{other}' and '{name}' both hold a folder '{subfolder}'."
    return ""


def _likely_splits(classes: Mapping[str, set[str]], roles: Mapping[str, str]) -> dict[str, str]:
    """The folders to propose as splits, if they can be."""
    names = [name for name, its in classes.items() if its]
    found = {roles[name]: name for name in reversed(names) if name in roles}
    rest = [name for name in names if name not in roles]
    if not roles:
        found = dict(zip(["train", "test"] if len(rest) == 2 else WORDS, rest, strict=False))
    elif "train" not in roles.values() and rest:
        found["train"] = rest[0]
    train = classes.get(found.get("train", ""), set())
    fits = {role for role, name in found.items() if _fits(classes[name], train)}
    return {role: found[role] for role in WORDS if role in fits} if len(train) > 1 else {}


def _fits(classes: set[str], train: set[str]) -> bool:
    return 2 * len(classes & train) >= len(classes)


def _given_folders(root: Path, given: Mapping[str, str], finder: Finder) -> dict[str, Path]:
    for role in given:
        if role not in WORDS:
            hint = did_you_mean(role, WORDS, f"; there are {', '.join(WORDS)}.")
            raise UserError(f"data.splits: no split '{role}'{hint}")
    if "train" not in given:
        raise UserError("data.splits names no folder for train; --data.splits.train NAME does.")
    for role, name in given.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"data.splits.{role}: '{name}' is not a folder's path below root.")
        if not (root / name).is_dir():
            names = [path.name for path in finder.subfolders(root)]
            hint = did_you_mean(name, names, f"; there are {_listed(names)}.")
            raise UserError(f"data.splits.{role}: no folder '{name}' in '{root}'{hint}")
    return {role: root / name for role, name in given.items()}


def _listed(names: Iterable[str]) -> str:
    first = [f"'{name}'" for name in sorted(names)]
    return ", ".join(first if len(first) < 6 else [*first[:4], f"{len(first) - 4} more"])
