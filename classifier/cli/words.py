"""The words of a command line: options taken out of it, and what a mapping would be as words."""

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from classifier.anchored_yaml.scalars import MAX_LEVELS, Dumper
from classifier.anchored_yaml.text import load
from classifier.checkpoint.find import PATH_SETTINGS
from classifier.errors import UserError

VERBS = ("fit", "validate", "test", "predict")
EVALUATING = VERBS[1:]  # any other command, of a subclass too, may train
ASKING = ("h", "help", "print_config", "print_shtab")  # options without a value of their own
NO_SETTINGS = ("config", "c", "ckpt_path", "trust", "images", "output", "tta", "print_config")


def read_words(args: Any, run: bool, verbs: Collection[str] = VERBS) -> tuple[str, list[str]]:
    """Splits what LightningCLI takes as ``args`` into the verb and the words behind it.

    Args:
        args: A list of words; a mapping of settings, with ``run`` within the name of a verb; None
            for the words of this process.
        run: Whether a verb comes first. Without one the settings are those of ``fit``.
        verbs: The commands that there are.

    Raises:
        UserError: If a mapping holds what no config can hold.
    """
    if isinstance(args, Mapping):
        return _read_mapping(args, run, verbs)
    words = list(sys.argv[1:] if args is None else args)
    if not run:
        return "fit", words
    verb, *rest = verb_first(words, verbs) or ["--help"]
    if verb.startswith(("-c", "--config")):
        raise UserError(f"{verb}: name the command, {', '.join(verbs)}, in front of it.")
    return verb, rest


def verb_first(words: Sequence[str], verbs: Collection[str]) -> list[str]:
    """Puts the verb in front of the configs, behind which Lightning takes it too.

    >>> verb_first(["--config", "digits.yaml", "fit"], ["fit", "test"])
    ['fit', '--config', 'digits.yaml']
    """
    options = words[:1] and words[0].startswith(("-c", "--config"))
    at = next((n for n, word in enumerate(words) if word in verbs), 0) if options else 0
    return [*words[at : at + 1], *words[:at], *words[at + 1 :]]


class _Dumper(Dumper):
    """Writes a path as the text that it is in a config."""


_Dumper.add_multi_representer(PurePath, lambda dumper, path: dumper.represent_str(str(path)))


def _read_mapping(
    settings: Mapping[str, Any], run: bool, verbs: Collection[str]
) -> tuple[str, list[str]]:
    verb = "fit"
    if run:
        verb = settings.get("subcommand") or next((key for key in verbs if key in settings), "")
        settings = settings.get(verb, {})
        if not verb or not isinstance(settings, Mapping):
            raise UserError("args: with run=True a mapping names the command, as {'fit': {...}}.")
    try:
        text = yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=False)
    except yaml.representer.RepresenterError as error:
        kind = type(error.args[-1]).__name__
        raise UserError(
            f"args: a mapping holds what a config file can hold, not a {kind}; give its class_path "
            "and init_args."
        ) from None
    return verb, ["--config", text]


def take_option(words: Sequence[str], *names: str) -> tuple[list[str], list[str]]:
    """Splits off the values of an option, ``--name VALUE`` or ``--name=VALUE``, in order.

    A name of one letter takes its value without a space as well.
    """
    values, rest = [], []
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if (short := word[:2]) in names and word[2:] and short[1] != "-":
            values.append(word[2:].removeprefix("="))
        elif name not in names:
            rest.append(word)
        else:
            value = value if equals else next(remaining, "")
            if not value or (value.startswith("--") and not equals):
                raise UserError(f"{name}: expected a value.")
            values.append(value)
    return values, rest


def with_pipes_read(words: Sequence[str]) -> list[str]:
    """Puts in place of a config that comes through a pipe its text, which can be read again."""
    read = []
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        is_config = before in ("--config", "-c") or (name == "--config" and equals)
        path = Path(value if equals else word)
        if is_config and path.is_fifo():
            word = word.removesuffix(str(path)) + path.read_text(encoding="utf-8") + "\n"
        read.append(word)
    return read


def gathered(words: Sequence[str], name: str) -> list[str]:
    """Gives an option that takes several values once, with those of all the times it was given.

    >>> gathered(["--i", "a", "b", "--k", "5", "--i=c"], "--i")
    ['--k', '5', '--i', 'a', 'b', 'c']
    """
    values: list[str] = []
    rest = list(words)
    for start in reversed(range(len(rest))):
        option, equals, value = rest[start].partition("=")
        if option != name:
            continue
        after = range(start + 1, len(rest))
        end = next((index for index in after if rest[index].startswith("--")), len(rest))
        given = [value] * bool(equals) + rest[start + 1 : end]
        if not given or not given[0]:
            raise UserError(f"{name}: expected a value.")
        values = given + values
        del rest[start:end]
    return [*rest, name, *values] if values else rest


def options_of(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The options of a command line, each with its value; a word that is of none has no name.

    >>> list(options_of(["a.yaml", "--lr", "1", "--print_config", "--x+=2", "--y"]))
    [('', 'a.yaml'), ('lr', '1'), ('print_config', None), ('x+', '2'), ('y', None)]
    """
    waiting = ""  # the option that a value may still be of
    for word in words:
        found = re.match(r"--([^=]*)(=?)|-([A-Za-z])()", word)
        if not found:
            yield waiting, word
            waiting = waiting if waiting == "images" else ""
            continue
        if waiting and waiting != "images":
            yield waiting, None
        name, value = found[1] or found[3] or "", word[found.end() :]
        waiting = "" if name in ASKING or found[2] or value else name
        if not waiting:
            yield name, value if found[2] or value else None
    if waiting and waiting != "images":
        yield waiting, None


def given_settings(words: Sequence[str]) -> Iterator[str]:
    """The values of settings in a command line, which may name classes; others name files."""
    for name, value in options_of(words):
        section, _, _ = name.rstrip("+").partition(".")
        if (
            value
            and section not in ("", *NO_SETTINGS)
            and (name.rpartition(".")[2] not in PATH_SETTINGS)
        ):
            yield value


def check_values(words: Sequence[str]) -> None:
    """Refuses what jsonargparse fails at: tags that do not fit, and brackets by the thousand.

    And mappings whose names YAML reads as other values.
    """
    for name, value in options_of(words):
        if value and (
            re.search(r"!!\w+ |^\{.+:.+\}$", value, re.DOTALL)
            or value.count("[") + value.count("{") > MAX_LEVELS
        ):
            load(value, f"--{name}")
