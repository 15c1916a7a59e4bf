"""Changes values inside YAML text: comments, order, quoting and anchors outside them survive.

PyYAML knows where every value starts and ends, so a change is a change of that slice alone.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

import yaml

from classifier.anchored_yaml.scalars import Loader, literal, serialized
from classifier.anchored_yaml.text import (
    KeyPath,
    children,
    compose,
    dotted,
    find,
    key_of,
    load,
    locate,
    places,
    same,
    value_at,
)
from classifier.errors import UserError, did_you_mean

ANCHOR = re.compile(r"(?:![^\s,\[\]{}]*\s+)?&([\w-]+)")


def anchor_name(text: str, node: yaml.Node) -> str | None:
    """Returns the anchor written before a value."""
    found = None if node.start_mark is None else ANCHOR.match(text, node.start_mark.index)
    return found[1] if found else None


def keep_keys(text: str, keys: Sequence[str]) -> str:
    """Drops the other top-level keys of a config; aliases survive, and their names."""
    root = compose(text)
    kept = [(key, value) for key, value in root.value if key.value in keys]
    rest = yaml.MappingNode(root.tag, kept, flow_style=root.flow_style)
    return serialized(rest, lambda node: anchor_name(text, node))


def part_of(text: str, key: str) -> str:
    """The text of a top-level section alone; aliases survive, and their names."""
    found = find(compose(text), (key,))
    if found is None or not isinstance(found[2], yaml.MappingNode):
        return "{}\n"
    return serialized(found[2], lambda node: anchor_name(text, node))


def owners(node: yaml.Node, path: KeyPath, found: dict[int, KeyPath]) -> dict[int, KeyPath]:
    """Collects for each node the place where the text writes it; all others are aliases."""
    if id(node) not in found:
        found[id(node)] = path
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*path, key_of(key))
                found.setdefault(id(key), place)  # a name can have an anchor too
                owners(value, place, found)
        for index, item in enumerate(node.value if isinstance(node, yaml.SequenceNode) else ()):
            owners(item, (*path, index), found)
    return found


def written_at(text: str, path: KeyPath) -> KeyPath:
    """Where the value of a key is written: there, or at the anchor of which it is an alias."""
    root = compose(text)
    found = find(root, path)
    assert found  # a place in the text
    return owners(root, (), {})[id(found[2])]


def set_values(text: str, values: Mapping[KeyPath, Any], name: str = "config") -> str:
    """Replaces values of a config text, as in ``{("hyperparameters", "lr"): 0.1}``.

    Anchors stay, so every alias follows. Of a mapping or list with the same keys only the parts
    which differ are written. What is written is plain YAML on one line, which loaders of YAML 1.1
    and 1.2 read alike. Where one path is inside another, the longer one wins.

    Raises:
        UserError: A path does not exist or is an alias, or an alias elsewhere needs an anchor
            inside the replaced value.
    """
    for path, value in sorted(values.items(), key=lambda item: len(item[0])):
        text = set_value(text, path, value, name)
    return text


def set_value(text: str, path: KeyPath, value: Any, name: str) -> str:
    """Replaces one value."""
    root = compose(text, name)
    found = find(root, path)
    if found is None:
        hint = did_you_mean(dotted(path), (dotted(place) for place, _ in places(root) if place))
        raise UserError(f"{name}: there is no '{dotted(path)}'{hint}")
    place, _, node = found
    old = value_at(load(text, name), place)
    if same(old, value):
        return text
    origin = owners(root, (), {})
    if (owner := origin[id(node)]) != place:
        raise UserError(
            f"{name}:{locate(text, path)}: '{dotted(path)}' is an alias of '{dotted(owner)}'; "
            "change that."
        )

    edits = [
        edit(text, part, render(text, part, new, origin))
        for part, new in changes(node, old, value, origin)
    ]
    changed = text
    for start, end, new in sorted(edits, reverse=True):
        changed = changed[:start] + new + changed[end:]
    verify(changed, place, value, name)
    return changed


def changes(
    node: yaml.Node, old: Any, new: Any, origin: Mapping[int, KeyPath]
) -> Iterator[tuple[yaml.Node, Any]]:
    """Yields the smallest nodes whose replacement turns the old value into the new one."""
    if same(old, new):
        return
    parts = {key: child for key, _, child in children(node)}
    keys = new.keys() if isinstance(new, dict) else range(len(new)) if isinstance(new, list) else ()
    differing = [key for key in keys if key in parts and not same(old[key], new[key])]
    # A part written elsewhere (an alias, a merge) belongs to other places too.
    if (
        not differing
        or type(old) is not type(new)
        or parts.keys() != set(keys)
        or any(origin[id(parts[key])][:-1] != origin[id(node)] for key in differing)
    ):
        yield node, new
        return
    for key in differing:
        yield from changes(parts[key], old[key], new[key], origin)


def render(
    text: str, node: yaml.Node, value: Any, origin: Mapping[int, KeyPath], top: bool = True
) -> str:
    """Writes a new value on one line with the anchors of the parts which the old one had."""
    parts = {key: child for key, _, child in children(node)}

    def part(key: Any, new: Any) -> str:
        child = parts.get(key)
        if child is None or origin[id(child)] != (*origin[id(node)], key):
            return literal(new)
        return render(text, child, new, origin, top=False)

    if isinstance(value, dict) and isinstance(node, yaml.MappingNode):
        items = (f"{literal(key)}: {part(key, new)}" for key, new in value.items())
        content = "{" + ", ".join(items) + "}"
    elif isinstance(value, list) and isinstance(node, yaml.SequenceNode):
        content = "[" + ", ".join(part(index, new) for index, new in enumerate(value)) + "]"
    else:
        content = literal(value)
    anchor = None if top else anchor_name(text, node)
    return content if anchor is None else f"&{anchor} {content}"


def edit(text: str, node: yaml.Node, content: str) -> tuple[int, int, str]:
    """Returns which slice of a text gives way to what, so that a node has a new content.

    A tag such as ``!!float`` belongs to the old value and goes; comments beside it stay.
    """
    start, end = node.start_mark.index, node.end_mark.index
    tokens = list(yaml.scan(text, Loader=Loader))
    inside = [token for token in tokens if start <= token.start_mark.index < end]
    marks = (yaml.AnchorToken, yaml.TagToken)
    properties = list(takewhile(lambda token: isinstance(token, marks), inside))
    old = [token for token in inside[len(properties) :] if is_written(token)]
    written = [token for token in tokens if is_written(token) and token.end_mark.index <= start]
    before = properties or written
    start = before[-1].end_mark.index
    first = old[0].start_mark.index if old else start
    # A block scalar reaches to the next line, other values end with their last character.
    last = first + len(text[first : old[-1].end_mark.index].rstrip()) if old else start
    gap = text[start:first]
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        new = f" {content}{gap.rstrip()}"  # from the lines below up behind the colon
    elif old:
        new = gap + content
    else:
        lone_key = isinstance(before[-1], yaml.ScalarToken)  # {lr} is short for {lr: null}
        new = f": {content}" if lone_key else f" {content}"
    if not any(isinstance(token, yaml.TagToken) for token in properties):
        return start, last, new
    anchor = anchor_name(text, node)
    return node.start_mark.index, last, f"&{anchor}{new}" if anchor else new.lstrip()


def is_written(token: yaml.Token) -> bool:
    """Tells what stands in the text from the scanner's brackets around blocks and keys."""
    return bool(token.start_mark.index < token.end_mark.index)


def verify(text: str, path: KeyPath, value: Any, name: str) -> None:
    """Refuses an edit which did not give a readable text with the value at its place."""
    problem = "write it as 'name: value' first."
    try:
        with suppress(LookupError, TypeError):  # of a place that is gone
            if same(value_at(load(text, name), path), value):
                return
    except UserError as error:
        problem = str(error)
    raise UserError(f"{name}: cannot set '{dotted(path)}' to {literal(value)}: {problem}")
