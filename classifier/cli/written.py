"""Which settings somebody wrote, apart from the defaults that a saved config writes out as well.

A config that was saved ends in a comment that names those which were written, so that it stays
known wherever the text goes: ``config.yaml``, the checkpoint, a copy, the base of a search.
"""

import contextlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from classifier.anchored_yaml.scalars import literal
from classifier.anchored_yaml.text import load
from classifier.checkpoint.trust import import_class
from classifier.cli.command_line import CommandLine
from classifier.cli.parser import Parser
from classifier.cli.words import options_of
from classifier.errors import UserError
from classifier.internals.jsonargparse import parameters_of

COMMENT = "# Written, all else is filled in: "
PREPARED = "# Prepared as for the pretrained weights: "  # and not changed since by hand
HIDDEN = ("init_args", "dict_kwargs")
PLAIN = (bool, int, float, str, tuple, list, dict, type(None))
OPTIONAL = ("seed_everything", "trainer", "save_every")  # sections without required settings
# No settings of a run.
BESIDE = ("config", "ckpt_path", "hyperparameters", "subcommand", "__default_config__")
Keys = Mapping[str, Any]  # values by dotted key, without init_args and dict_kwargs


def comment(keys: Iterable[str], prepared: Keys) -> str:
    """The last lines of a saved config."""
    told = f"{PREPARED}{literal(dict(prepared))}\n" if prepared else ""
    return f"{told}{COMMENT}{literal(list(keys))}\n"


def named(text: str) -> set[str] | None:
    """The keys that the comment of a saved config names; None without one."""
    keys = _commented(text, COMMENT)
    return set(filter(None, map(str, keys))) if isinstance(keys, list) else None


def _prepared(text: str, values: Keys) -> dict[str, Any]:
    """The settings that a saved config has as its pretrained weights ask for."""
    told = _commented(text, PREPARED)
    known = told.items() if isinstance(told, dict) else ()
    return {key: value for key, value in known if values.get(key) == value}


def _commented(text: str, comment: str) -> Any:
    """What stands in a line behind a comment; None without it."""
    found = re.search(rf"^{re.escape(comment)}(.*)$", text, re.MULTILINE)
    with contextlib.suppress(UserError):
        return load(found[1]) if found else None
    return None


def flat(config: Any) -> dict[str, Any]:
    """The values of a config by dotted key, as the command line has them.

    >>> flat({"model": {"optimizer": {"class_path": "Adam", "init_args": {"lr": 1}}}})
    {'model.optimizer.class_path': 'Adam', 'model.optimizer.lr': 1}
    """
    return {".".join(key): value for key, value in _leaves(config, ())}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    parts = _parts(value)
    if not parts:
        yield path, value
    for name, part in parts:
        if name not in HIDDEN:
            yield from _leaves(part, (*path, name))
        elif part:
            yield from _leaves(part, path)


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(name), part) for name, part in value.items()]
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return [(str(number), part) for number, part in enumerate(value)]
    return []


def without(config: Any, keys: set[str], path: tuple[str, ...] = ()) -> Any:
    """A copy of a config without the values of some dotted keys; lists keep their length."""
    if isinstance(config, list) and _parts(config):
        return [without(part, keys, (*path, str(n))) for n, part in enumerate(config)]
    if not isinstance(config, dict):
        return config
    kept = {}
    for name, part in config.items():
        place = path if name in HIDDEN else (*path, str(name))
        if ".".join(place) not in keys and ((left := without(part, keys, place)) or not part):
            kept[name] = left
    return kept


class Written:
    """What of a command line, its config files and its checkpoint was written by somebody.

    Args:
        parser: That of the command.
        line: The command line.
        default: The class of the module where nobody names one.
        defaults: Those of all settings, by section.

    Attributes:
        keys: The dotted keys that were written and hold.
        prepared: What a saved config has as its pretrained weights ask for, if they still hold.
        argv: The words for the parser. A saved config lacks the defaults of each class that
            the user exchanges: they are not those of the new one.
        lost: Sentences about what was written for a class that was exchanged, and that the new one
            does not take.
    """

    def __init__(
        self, parser: Parser, line: CommandLine, default: str, defaults: Mapping[str, Any]
    ) -> None:
        # As they were saved, for the command line may change hyperparameters in the texts.
        saved = {
            number: load(source.text)
            for number, source in enumerate(line.sources)
            if line.saved[number] or named(source.text) is not None
        }
        configs = [load(text) for text in line.texts]
        filled_in = {}
        self.prepared: dict[str, Any] = {}
        for number, config in saved.items():
            values, now = flat(config), flat(configs[number])
            prepared = _prepared(line.sources[number].text, values)
            self.prepared |= prepared
            keys = _filled_in(config, named(line.sources[number].text), prepared)
            filled_in[number] = {key for key in keys if values[key] == now.get(key)}
        words = [word for word in line.argv if not word.startswith("--print_config")]
        for number, keys in filled_in.items():
            configs[number] = without(configs[number], keys)
            words[number] = f"--config={literal(configs[number])}"
        said = [*map(flat, configs), *_options(line.options)]
        # What must be there is, where a subclass of the CLI has given it a default.
        there = {"model": {"class_path": default}, **_given_defaults(defaults)}
        for source in parser.link_sources:
            _add_default(there, defaults, source.split("."))
        words.insert(0, f"--config={literal(there)}")
        found = flat(parser.parse_args(words, defaults=False).as_dict())
        given = {name for keys in said for key in keys for name in (key, f"{key}.class_path")}
        for key in flat(there).keys() - given:
            found.pop(key, None)
        self.keys = sorted(key for key in found if key.partition(".")[0] not in BESIDE)
        self.lost = _lost(said, found)
        former_weights = set()
        if any(_starts_otherwise(config, found) for config in saved.values()):
            former_weights, self.prepared = {*self.prepared}, {}
        self.argv = list(line.argv)
        for number, keys in filled_in.items():
            if former := _of_exchanged(keys, saved[number], found) | (keys & former_weights):
                text = literal(without(load(line.texts[number]), former))
                self.argv[number] = f"--config={text}"


def _given_defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the sections that have required settings, as far as a text can hold them."""
    own = {key: value for key, value in defaults.items() if key not in (*OPTIONAL, *BESIDE)}
    given: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
    unwritable = {key for key, value in flat(given).items() if not isinstance(value, PLAIN)}
    return {key: without(value, unwritable, (key,)) for key, value in given.items()}


def _add_default(there: Any, defaults: Any, path: Sequence[str]) -> None:
    """Takes over the default of a setting, where it has one and none is there."""
    for key in path[:-1]:
        defaults = defaults.get(key) if isinstance(defaults, Mapping) else None
        if not isinstance(defaults, Mapping) or not isinstance(there, dict):
            return  # and leaves no empty section, which would stand for the base of its classes
        there = there.setdefault(key, {})
    if isinstance(defaults, Mapping) and isinstance(there, dict) and path[-1] in defaults:
        there.setdefault(path[-1], defaults[path[-1]])


def _filled_in(config: Any, written: set[str] | None, prepared: Keys) -> set[str]:
    """The keys of a saved config that nobody wrote."""
    judged = dict(_judged(config, ()))
    if written is None:  # of an earlier version: what is no default was written
        return {key for key, is_default in judged.items() if is_default}
    added = tuple(
        key.removesuffix("class_path")
        for key in flat(config).keys() - written
        if key.endswith(".class_path")
    )
    # What was changed or added by hand since was written, too.
    return {
        key
        for key in flat(config).keys() - written
        if not key.startswith(added)
        and (judged.get(key, True) or key.endswith(".mode") or key in prepared)
    }


def _of_exchanged(keys: set[str], saved: Any, found: Keys) -> set[str]:
    """Those keys of a saved config that belong to classes which are others by now."""
    exchanged = tuple(
        key.removesuffix("class_path")
        for key, path in flat(saved).items()
        if key.endswith(".class_path") and found.get(key, path) != path
    )
    return {key for key in keys if key.startswith(exchanged)}


def _starts_otherwise(saved: Any, found: Keys) -> bool:
    """Whether network or pretrained weights are others than in a saved config."""
    before, starts = flat(saved), ("model.network.", "model.init_from")
    return any(before.get(key) != found[key] for key in found if key.startswith(starts))


def _judged(config: Any, path: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """The settings of classes, and whether they have their default, as far as that can be told."""
    if isinstance(config, dict) and isinstance(config.get("class_path"), str):
        with contextlib.suppress(ImportError, AttributeError, TypeError, ValueError):
            parameters = inspect.signature(import_class(config["class_path"])).parameters
            for name, value in (config.get("init_args") or {}).items():
                default = parameters[name].default if name in parameters else inspect.Parameter
                if isinstance(default, Enum):  # one that is a text, too, is written by its value
                    yield ".".join((*path, name)), value in (default.name, default.value)
                elif isinstance(default, PLAIN):
                    default = list(default) if isinstance(default, tuple) else default
                    yield ".".join((*path, name)), value == default
    for name, part in _parts(config):
        yield from _judged(part, path if name in HIDDEN else (*path, name))


def _options(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The settings of a command line, one after the other."""
    for name, value in options_of(words):
        with contextlib.suppress(UserError):  # an argument need not be YAML
            keys = tuple(key for key in name.rstrip("+").split(".") if key not in HIDDEN)
            yield {".".join(key): part for key, part in _leaves(load(value or ""), keys)}


def _lost(words: Sequence[Keys], found: Keys) -> list[str]:
    """Sentences about what was written of blocks whose class was exchanged, and is left out.

    Args:
        words: What was written, one text or option after the other.
        found: What is left of it.
    """
    blocks = {key.removesuffix(".class_path") for key in found if key.endswith(".class_path")}
    lost: dict[tuple[str, str], set[str]] = {}
    for number, said in enumerate(words):
        for key in said.keys() - found.keys():
            parts = key.split(".")
            around = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
            block = next((name for name in around if name in blocks), None)
            if block is None or any(part.isdecimal() for part in parts):
                continue  # a list is replaced as a whole
            name = f"{block}.{key.removeprefix(block).split('.')[1]}"
            if any(f"{left}.".startswith(f"{name}.") for left in found):
                continue
            name = name.rpartition(".")[2]
            if why := _why_lost(name, found[f"{block}.class_path"], block, words[number:]):
                lost.setdefault((block, why), set()).add(name)
    return [
        f"{block}: {why.format(', '.join(sorted(names)))}" for (block, why), names in lost.items()
    ]


def _why_lost(name: str, now: str, block: str, words: Sequence[Keys]) -> str:
    """Why a block of this class lacks what was written in the first of some words; "" if unknown.

    The names of what is lost are to stand at ``{}``.
    """
    said, *later = words
    named = _is_named(now, said, block)
    if not named and name not in parameters_of(import_class(now)):
        return f"{now} has no {{}}; what was written of that for another class is left out."
    if any(_is_named(now, word, block) is False for word in later):
        return "what was written of {} is left out: the class was another in between."
    if not named:
        return f"what was written of {{}} for another class is left out: {now} takes other values."
    return ""


def _is_named(class_path: str, said: Keys, block: str) -> bool | None:
    """Whether a text or option names this class for a block; None if it names none."""
    named = said.get(f"{block}.class_path", said.get(block))
    if not isinstance(named, str):
        return None
    return class_path.endswith(named if "." in named else f".{named}")
