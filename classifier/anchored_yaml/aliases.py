"""Puts anchors and aliases back into a config which a parser has resolved and dumped.

A saved config with aliases can be run again with another value of a hyperparameter.
"""

import re
from collections.abc import Sequence
from copy import deepcopy
from io import StringIO
from itertools import chain, count
from typing import Any, NamedTuple

import yaml

from classifier.anchored_yaml.edit import anchor_name
from classifier.anchored_yaml.names import KEY
from classifier.anchored_yaml.scalars import Dumper, serialized
from classifier.anchored_yaml.text import (
    KeyPath,
    children,
    compose,
    find,
    key_of,
    load,
    places,
    same,
    value_at,
)


class Anchor(NamedTuple):
    """Places of a config which share one value; the first is where the anchor stands."""

    name: str
    places: list[KeyPath]


def anchors(texts: Sequence[str]) -> list[Anchor]:
    """Collects the shared values of several configs, as `apply` returns them.

    The parts of a shared mapping are shared too, as are those which a merge key ``<<: *sgd``
    brings: each of them can get an alias of its own where the whole is no longer equal. A place
    which a later config, which wins, sets by itself leaves.
    """
    found: dict[KeyPath, Anchor] = {}
    for text in texts:
        everything = list(places(compose(text)))
        shared: dict[yaml.Node, list[KeyPath]] = {}
        for path, node in everything:
            shared.setdefault(node, []).append(path)
        set_here = {
            path
            for path, node in everything
            if path[:1] != (KEY,)
            # A later mapping adds to an earlier one, everything else replaces it.
            and (len(shared[node]) > 1 or not isinstance(node, yaml.MappingNode))
        }
        for anchor in found.values():  # without what is set here, or within something that is
            anchor.places[:] = [
                p for p in anchor.places if not any(p[: n + 1] in set_here for n in range(len(p)))
            ]
        for node, group in shared.items():
            group.sort(key=lambda path: path[:1] != (KEY,))  # stable: the block, then as written
            name = anchor_name(text, node)
            # A list is one value: its items share nothing unless they have their own anchors.
            if len(group) > 1 and (name or all(isinstance(key, str) for key in group[0])):
                name = name or "_".join(map(str, group[0][-2:]))
                known = found.setdefault(group[0], Anchor(name, [])).places
                known += [place for place in group if place not in known]
    return [anchor for anchor in found.values() if len(anchor.places) > 1]


def with_aliases(dumped: str, anchors: Sequence[Anchor]) -> str:
    """Puts anchors and aliases back wherever the value is still the shared one.

    The result loads to the same data, with one exception. A parser adds defaults to a class which
    a hyperparameter describes (``optimizer: &optimizer {class_path: SGD}``); then the value in
    the block is completed likewise, because only an equal value can have an alias. Places which
    hold something else keep it, and merge keys stay written out, with an alias for each part.
    """
    if not anchors:
        return dumped
    data, tree = load(dumped), compose(dumped)
    if KEY in data:
        data = {KEY: data[KEY], **data}  # an anchor stands before its aliases
    found = [
        Anchor(anchor.name, [there[0] for place in anchor.places if (there := find(tree, place))])
        for anchor in anchors
    ]
    present = [anchor for anchor in found if len(anchor.places) > 1]
    # Whole mappings first: their parts are then shared already.
    present.sort(key=lambda anchor: len(anchor.places[0]))
    for anchor in present:
        complete(data, anchor.places)
    root = Dumper(StringIO(), sort_keys=False).represent_data(data)
    names: dict[yaml.Node, str] = {}
    for anchor in present:
        link(root, data, anchor, names)
    return serialized(root, names.get)


def complete(data: dict[str, Any], shared: Sequence[KeyPath]) -> None:
    """Gives a hyperparameter the defaults which a parser added at the places that use it."""
    short = value_at(data, shared[0])
    elsewhere = [value_at(data, place) for place in shared if place[0] != KEY]
    full = next((value for value in elsewhere if is_completion(short, value)), short)
    if shared[0][0] != KEY or same(short, full):
        return  # an alias can stand there already
    for place in shared:
        if place[0] == KEY and same(value_at(data, place), short):
            value_at(data, place[:-1])[place[-1]] = deepcopy(full)


def is_completion(short: Any, full: Any) -> bool:
    """Says whether a value is another one plus defaults, with class names written in full."""
    if isinstance(short, str) and isinstance(full, dict):
        return is_completion(short, full.get("class_path"))
    if isinstance(short, str) and isinstance(full, str):
        return f".{full}".endswith(f".{short}")
    if isinstance(short, dict) and isinstance(full, dict):
        return all(key in full and is_completion(short[key], full[key]) for key in short)
    if isinstance(short, list) and isinstance(full, list):
        return len(short) == len(full) and all(map(is_completion, short, full))
    is_number = isinstance(short, int | float) and not isinstance(short, bool)
    return same(short, full) or (is_number and isinstance(full, float) and short == full)


def link(root: yaml.Node, data: Any, anchor: Anchor, names: dict[yaml.Node, str]) -> None:
    """Lets all places with an equal value share the node of the first one."""
    first, *others = anchor.places
    node = node_at(root, first)
    for place in others:
        equal = same(value_at(data, first), value_at(data, place))
        if node_at(root, place) is node or not equal:
            continue
        parent = node_at(root, place[:-1])
        if isinstance(parent, yaml.MappingNode):
            parent.value = [
                (key, node if key_of(key) == place[-1] else value) for key, value in parent.value
            ]
        else:
            parent.value[place[-1]] = node
        names.setdefault(node, unique(anchor.name, set(names.values())))


def unique(name: str, taken: set[str]) -> str:
    """Returns a valid anchor name which is not taken."""
    name = re.sub("[^0-9A-Za-z_-]", "_", name)
    numbered = (f"{name}_{number}" for number in count(2))
    return next(candidate for candidate in chain([name], numbered) if candidate not in taken)


def node_at(root: yaml.Node, path: KeyPath) -> yaml.Node:
    """Returns the node at a place."""
    for key in path:
        root = next(child for found, _, child in children(root) if found == key)
    return root
