"""The optional block ``hyperparameters:`` at the top of a config, whose values have YAML anchors.

One change of ``lr: &lr 0.1`` in the block changes every ``*lr`` of the config. A change is an edit
of the text, so it reaches scalars, lists and whole mappings, and the rest of the file stays.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from classifier.anchored_yaml.edit import set_values
from classifier.anchored_yaml.text import (
    ConfigSource,
    KeyPath,
    compose,
    dotted,
    load,
    locate,
    places,
)
from classifier.errors import UserError, did_you_mean

KEY = "hyperparameters"


def split_arguments(arguments: Sequence[str]) -> tuple[dict[KeyPath, Any], list[str]]:
    """Takes the hyperparameters out of a command line.

    Returns:
        The new values by name, and the remaining arguments.

    Raises:
        UserError: A value is missing or is not YAML.

    >>> split_arguments(["fit", "--hyperparameters.lr", "1e-4", "--hyperparameters.sgd.momentum=0"])
    ({('lr',): 0.0001, ('sgd', 'momentum'): 0}, ['fit'])
    """
    overrides: dict[KeyPath, Any] = {}
    remaining: list[str] = []
    arguments_left = iter(arguments)
    for argument in arguments_left:
        option, has_value, text = argument.partition("=")
        if option != f"--{KEY}" and not option.startswith(f"--{KEY}."):
            remaining.append(argument)
            continue
        if not has_value:
            text = next(arguments_left, "")
        if not text.strip() or (not has_value and re.match(r"--|-[A-Za-z]", text)):
            raise UserError(f"{option} needs a value, such as {option}=0.1.")
        for path, value in assignments(option, load(text, option)):
            # A whole mapping replaces what was said about its parts before.
            overrides = {old: overrides[old] for old in overrides if old[: len(path)] != path}
            overrides[path] = value
    return overrides, remaining


def assignments(option: str, value: Any) -> list[tuple[KeyPath, Any]]:
    """Returns the (path, value) pairs of one option; ``--hyperparameters`` alone has several."""
    if option != f"--{KEY}":
        path = tuple(option.removeprefix(f"--{KEY}.").split("."))
        if not all(path):
            raise UserError(f"{option} names no hyperparameter; write --{KEY}.lr 0.1.")
        return [(path, value)]
    if not isinstance(value, dict):
        raise UserError(f"{option} takes a mapping such as '{{lr: 0.1}}', not {value!r}.")
    return [((str(name),), part) for name, part in value.items()]


def apply(sources: Sequence[ConfigSource], overrides: Mapping[KeyPath, Any]) -> list[str]:
    """Edits the hyperparameters of several configs so that all follow the same values.

    The last config which defines a name decides its whole value, and an override, by its path below
    the block as in ``{("sgd", "momentum"): 0.5}``, decides over that; every alias in every config
    follows.

    Returns:
        The texts of the configs in the same order, otherwise unchanged.

    Raises:
        UserError: A config is not valid, or a name is unknown or an alias of another one.
    """
    known: dict[str, Any] = {}
    for source in sources:
        known |= block(source.text, source.name)
    check_names(known, overrides)
    texts = [source.text for source in sources]
    final: dict[str, Any] = {}
    # From the last to the first: a text is edited when the names defined after it are settled.
    for index in reversed(range(len(sources))):
        name = sources[index].name
        wanted: dict[KeyPath, Any] = {}
        for defined in block(texts[index], name):
            if defined in final:
                wanted[defined,] = final[defined]
            else:
                wanted |= {path: overrides[path] for path in overrides if path[0] == defined}
        edits = {(KEY, *path): value for path, value in wanted.items()}
        texts[index] = set_values(texts[index], edits, name)
        final = block(texts[index], name) | final
    return texts


def block(text: str, name: str = "config") -> dict[str, Any]:
    """Returns the hyperparameters of one config by name."""
    compose(text, name)
    found = (load(text, name) or {}).get(KEY)
    place = f"{name}:{locate(text, (KEY,))}"
    if not isinstance(found, dict | None):
        raise UserError(f"{place}: '{KEY}' holds 'name: value' lines, found {found!r}.")
    for key in found or {}:
        if not isinstance(key, str):
            raise UserError(f"{place}: YAML reads a name here as {key!r}; put it in quotes.")
    return found or {}


def values(texts: Sequence[str]) -> dict[str, Any]:
    """Returns the hyperparameters of several configs by name; the later ones win."""
    return {name: value for text in texts for name, value in block(text).items()}


def paths(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yields the path and value of every part, with list indices as the command line has them."""
    if path:
        yield path, value
    parts = value if isinstance(value, dict) else {}
    for key, part in enumerate(value) if isinstance(value, list) else parts.items():
        yield from paths(part, (*path, str(key)))


def check_names(known: Mapping[str, Any], overrides: Mapping[KeyPath, Any]) -> None:
    """Refuses an override of something which no config defines."""
    allowed = [path for path, _ in paths(known)]
    for prefix, value in overrides.items():
        if prefix in allowed:
            allowed += [path for path, _ in paths(value, prefix)]
    for path in overrides:
        if path not in allowed:
            names = [dotted(name) for name in allowed if len(name) == len(path)]
            hint = did_you_mean(dotted(path), names)
            raise UserError(f"no hyperparameter '{dotted(path)}'{hint} {listed(known)}")


def listed(known: Mapping[str, Any]) -> str:
    """Lists the names which can be set; of a list only the whole."""
    names = [
        dotted(path)
        for path, value in paths(known)
        if not (isinstance(value, dict) and value) and not any(map(str.isdigit, map(str, path)))
    ]
    return f"This config has: {', '.join(names)}." if names else f"This config has no {KEY}."


def unused(texts: Sequence[str]) -> list[str]:
    """Returns the names in the blocks of the configs to which no alias refers.

    A mapping is used when one of its parts is, through an alias or a merge key ``<<: *sgd``; so
    is a value which only another, used hyperparameter takes over.
    """
    used: set[str | int] = set()
    for text in texts:
        everything = list(places(compose(text)))
        outside = {node for path, node in everything if path[:1] != (KEY,)}
        block_parts = [(path, node) for path, node in everything if path[:1] == (KEY,)]
        used |= {path[1] for path, node in block_parts if path[1:] and node in outside}
    return [name for name in values(texts) if name not in used]
