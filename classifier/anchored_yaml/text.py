"""Reads and checks the YAML of a config, with the file and the line in every message."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import yaml

from classifier.anchored_yaml.scalars import MAX_LEVELS, Loader, literal
from classifier.errors import UserError, did_you_mean

KeyPath: TypeAlias = tuple[str | int, ...]

GLUED_ABOVE = 5  # lines in which a blank is looked for that is missing
KEPT = 16  # texts; a command asks fifty times for the parts of its four or five
MAX_VALUES = 100_000  # with every alias written out: a few lines of aliases can mean billions
EXPLANATIONS = {
    "found duplicate anchor '?([^';]+)": r"anchor '&\1' is defined a second time; rename one.",
    r"'\\t'": "a tab; indent with spaces.",
    "mapping values are not allowed": (
        "a second ':' in one value, or wrong indentation; quote text which contains ': '."
    ),
    "expected <block end>|could not find expected ':'": (
        "this does not fit the lines above; check the indentation, ':' and quotes."
    ),
    "found (character .+) that cannot start any token": r"\1; put text in quotes.",
    "for the tag '!include'": "no file includes another; name both, --config A --config B.",
    "constructor for the tag (.+)": r"unknown tag \1; put text which starts with '!' in quotes.",
    "while parsing a flow (mapping|sequence)": r"this \1 in brackets is not complete.",
    "while scanning a quoted scalar": "a quote is opened and not closed.",
}
MERGE = "tag:yaml.org,2002:merge"
MISSING = object()  # stands for a part that a value has not


class ConfigSource(NamedTuple):
    """A config text and the name to call it by in messages, such as the path the user wrote."""

    name: str
    text: str


def check(source: ConfigSource) -> None:
    """Raises `UserError` for whatever keeps a text from being a config.

    These are wrong YAML, names written twice, unknown aliases, aliases inside their own anchor,
    more than 100 levels or 100 000 values, and a top level which is not ``name: value``.
    """
    compose(source.text, source.name)
    load(source.text, source.name)


def load(text: str, name: str = "config") -> Any:
    """Returns the checked value of a YAML text; an empty text is an empty mapping."""
    return deepcopy(_value(text, name))


@lru_cache(KEPT)
def _value(text: str, name: str) -> Any:
    with explained(text, name):
        node = parse(text, name)
        return {} if node is None else Loader("").construct_document(node)


@lru_cache(KEPT)
def compose(text: str, name: str = "config") -> yaml.MappingNode:
    """Returns the checked node tree of a config; an alias is the same object as its anchor.

    It is kept, and not to be changed.
    """
    with explained(text, name):
        node = parse(text, name)
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return yaml.MappingNode("tag:yaml.org,2002:map", [])
    if not isinstance(node, yaml.MappingNode):
        raise UserError(
            f"{name}:{line(node)}: a config is made of 'name: value' lines, found "
            f"{'a list' if isinstance(node, yaml.SequenceNode) else repr(node.value[:40])}."
        )
    return node


def parse(text: str, name: str) -> yaml.Node | None:
    """Composes any YAML value and checks its size and its keys."""
    node = yaml.compose(text, Loader=Loader)
    if node is not None:
        inspect(node, name, {})
    return node


@contextmanager
def explained(text: str, name: str) -> Iterator[None]:
    """Turns the errors of PyYAML into messages for the user."""
    try:
        yield
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None else f"{name}:{mark.line + 1}"
        glued = _line_without_blank(error, text)
        told = f"{name}:{glued[0]}: {glued[1]}" if glued else f"{place}: {explanation(error, text)}"
        raise UserError(told) from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise UserError(f"{name}:{number}: a character YAML does not allow.") from None
    except RecursionError:
        raise UserError(f"{name}: more than {MAX_LEVELS} levels of nesting.") from None
    except ValueError as error:
        raise UserError(f"{name}: {error}.") from None


def explanation(error: yaml.MarkedYAMLError, text: str) -> str:
    """Says in the user's words what PyYAML says in a parser's."""
    problem = " ".join(filter(None, [error.context, error.problem]))
    if alias := re.search("found undefined alias '?([^']+)", problem):
        anchored = re.findall(r"&([\w-]+)", text)
        if alias[1] in anchored:
            return f"alias '*{alias[1]}' stands before its anchor; move the anchor up."
        return f"no anchor '&{alias[1]}' for this alias{did_you_mean(alias[1], anchored)}"
    if "${" in text and "flow mapping" in problem:
        return "a value is used again by '*name', not by '${name}', where '&name 3' has named it."
    for pattern, words in EXPLANATIONS.items():
        if found := re.search(pattern, problem):
            return found.expand(words)
    return f"{problem}."


def _line_without_blank(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str] | None:
    """The line, from 1, whose missing blank YAML stumbled over up to some lines below, and why."""
    mark, problem = error.problem_mark, str(error.problem)
    if mark and re.search("mapping values|could not find expected", problem):
        lines = [*enumerate(text.splitlines()[: mark.line + 1], start=1)]
        for number, before in reversed(lines[-GLUED_ABOVE:]):
            if said := missing_blank(before):
                return number, said
    return None


def missing_blank(line: str) -> str:
    """Says so of a line that would be a setting, had it a blank behind its colon; else ""."""
    glued = re.fullmatch(r"\s*([\w.-]+):([^\s:/].*)", line)
    return f"a blank is missing behind a colon: '{glued[1]}: {glued[2]}'." if glued else ""


def inspect(node: yaml.Node, name: str, seen: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Returns how many values and levels a node has; each anchor is counted once, then known."""
    if id(node) in seen:
        if (known := seen[id(node)]) is None:
            raise UserError(f"{name}:{line(node)}: this value contains an alias of itself.")
        return known
    seen[id(node)] = None
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        check_keys(node, name)
        items = [value for _, value in node.value]
    parts = [inspect(item, name, seen) for item in items]
    size = 1 + sum(size for size, _ in parts)
    levels = 1 + max((levels for _, levels in parts), default=0)
    if levels > MAX_LEVELS:
        raise UserError(f"{name}:{line(node)}: more than {MAX_LEVELS} levels of nesting.")
    if size > MAX_VALUES:
        raise UserError(f"{name}:{line(node)}: aliases make more than {MAX_VALUES} values.")
    seen[id(node)] = size, levels
    return size, levels


def check_keys(node: yaml.MappingNode, name: str) -> None:
    """Refuses a key written twice (YAML loaders silently take the last) and keys with parts.

    And a name that YAML reads as another value: nobody would find the class ``no`` as False.
    """
    first_lines: dict[Any, int] = {}
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{name}:{line(key_node)}: a list or mapping cannot be a name.")
        key, written = key_of(key_node), key_node.value
        if key is None or isinstance(key, bool) or written not in (str(key), literal(key)):
            raise UserError(
                f"{name}:{line(key_node)}: YAML reads the name {written} as {key}; put it in "
                f"quotes, '{written}'."
            )
        if key in first_lines:
            raise UserError(
                f"{name}:{line(key_node)}: duplicate key '{key}' "
                f"(first on line {first_lines[key]}); keep one."
            )
        first_lines[key] = line(key_node)


def key_of(node: yaml.ScalarNode) -> Any:
    """Returns the value of a key."""
    if node.tag in ("tag:yaml.org,2002:str", MERGE):
        return node.value
    return Loader("").construct_document(node)


def line(node: yaml.Node) -> int:
    """Returns the line on which a node starts, counted from 1."""
    return int(node.start_mark.line) + 1


def children(node: yaml.Node) -> list[tuple[Any, yaml.Node, yaml.Node]]:
    """Returns (key or index, the node which shows its line, value) with merge keys carried out."""
    if isinstance(node, yaml.SequenceNode):
        return [(index, item, item) for index, item in enumerate(node.value)]
    merged: dict[Any, tuple[Any, yaml.Node, yaml.Node]] = {}
    own: dict[Any, tuple[Any, yaml.Node, yaml.Node]] = {}  # over those of ``<<``
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.tag != MERGE:
            own[key_of(key)] = key_of(key), key, value
            continue
        # The first mapping in the list wins, so it is written last.
        for part in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
            merged |= {child[0]: child for child in children(part)}
    return [*(merged | own).values()]


def places(node: yaml.Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, yaml.Node]]:
    """Yields every place of a tree with its node; an aliased node comes once per place."""
    yield path, node
    for key, _, child in children(node):
        yield from places(child, (*path, key))


def find(node: yaml.Node, path: Sequence[str | int]) -> tuple[KeyPath, yaml.Node, yaml.Node] | None:
    """Follows a path from a node; the ``init_args`` of a class need not be in it.

    Returns:
        The whole path, the node which shows its line, and its value; None where there is no such.
    """
    found: tuple[KeyPath, yaml.Node, yaml.Node] = ((), node, node)
    for part in path:
        node = found[2]
        for key, place, value in children(node):
            if str(key) == str(part):
                found = ((*found[0], key), place, value)
                break
        else:
            within = find(node, ("init_args", part)) if part != "init_args" else None
            if within is None:
                return None
            found = ((*found[0], *within[0]), *within[1:])
    return found


def locate(text: str, path: Sequence[str | int]) -> int | None:
    r"""Returns the line of a key, counted from 1, or None where the text has no such key.

    >>> locate("model:\n  network: ResNet", ("model", "network"))
    2
    """
    found = find(compose(text), path)
    return line(found[1]) if found else None


def setting_in(text: str, path: Sequence[str]) -> Any:
    """Returns what a config text says of a key; None if nothing."""
    found = find(compose(text), path)
    return value_at(load(text), found[0]) if found else None


def same(first: Any, second: Any) -> bool:
    """Says whether two values are equal; unlike ``==``, NaN is NaN and neither True nor 1.0 is 1.

    Lightning takes ``limit_train_batches: 1`` for one batch and ``1.0`` for all of them.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    if type(first) is not type(second):
        return False
    return bool(first == second or (first != first and second != second))


def differing(first: Any, second: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any, Any]]:
    """Yields the smallest parts in which two values differ; ``MISSING`` where one has no such part.

    A list is compared as a whole unless it is made of blocks.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        for key in {**first, **second}:
            yield from differing(first.get(key, MISSING), second.get(key, MISSING), (*path, key))
    elif is_list_of_blocks(first) and is_list_of_blocks(second):
        yield from differing(dict(enumerate(first)), dict(enumerate(second)), path)
    elif not same(first, second):
        yield path, first, second


def is_list_of_blocks(value: Any) -> bool:
    """Says whether a value is a list, of mappings and lists only."""
    return isinstance(value, list) and all(isinstance(item, dict | list) for item in value)


def value_at(data: Any, path: Sequence[Any]) -> Any:
    """Returns the part of loaded data at a path."""
    for key in path:
        data = data[key]
    return data


def dotted(path: Sequence[Any]) -> str:
    """Writes a path as in the command line: ``model.network``."""
    return ".".join(map(str, path))
