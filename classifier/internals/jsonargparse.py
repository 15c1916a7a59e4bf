"""jsonargparse: what is asked before a class path is imported, types of values, layout of help.

Its settings hold for the process and for good, and cannot tell the user's text from a
checkpoint's. tests/test_security.py fails when it asks in another way. No public method lists a
parser's arguments, lets one be left out or orders their groups (tests/test_cli.py and test_rates.py
fail when that changes), takes the registration of a type back (tests/test_tensors.py, when it
outlives a command) or lists the parameters behind ``**kwargs`` (tests/test_networks.py).
"""

import argparse
import contextlib
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from jsonargparse import DefaultHelpFormatter, _typehints, _util, set_dumper, set_parsing_settings
from jsonargparse._common import ImportDenied as ImportDenied  # for others to import from here
from jsonargparse._common import check_import_path as check_import_path
from jsonargparse._common import parsing_settings
from jsonargparse._loaders_dumpers import dumpers
from jsonargparse._parameter_resolvers import get_signature_parameters
from jsonargparse.typing import register_type, registered_type_handlers

_lock = threading.Lock()
_users = 0
_before: dict[str, object] = {}


@contextlib.contextmanager
def asking(check: Callable[[str], None], never: Sequence[str]) -> Iterator[None]:
    """Within, every class path of a value is shown to ``check`` before it is imported.

    It is asked twice: for the path as it is given, and for where the object is defined, and raises
    ``ImportDenied``. There is one for the process. Those that jsonargparse denies by itself, and
    ``never``, are denied anyway.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _before.update(parsing_settings)
            # A mapping with a class_path builds something only where the parameter's type says so.
            set_parsing_settings(
                import_path_denylist=list(never), instantiate_subclass_spec_in_any=False
            )
            _replace(check)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                parsing_settings.update(_before)
                _replace(check_import_path)


def _replace(check: Callable[[str], None]) -> None:
    for module in (_util, _typehints):
        module.check_import_path = check  # type: ignore[attr-defined]


_registrations: dict[type, int] = {}  # how many of those below are under way
_earlier: dict[type, Any] = {}  # the handlers that others have registered for these types


@contextlib.contextmanager
def registered(
    kind: type, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]
) -> Iterator[None]:
    """Within, a parameter of a type takes what a function turns into one, and is written likewise.

    Args:
        kind: The type.
        serializer: Turns one into a plain value.
        deserializer: Turns a plain value into one; raises ValueError.
    """
    with _lock:
        _registrations[kind] = _registrations.get(kind, 0) + 1
        if _registrations[kind] == 1:
            if kind in registered_type_handlers:
                _earlier[kind] = registered_type_handlers.pop(kind)
            register_type(kind, serializer, deserializer)
    try:
        yield
    finally:
        with _lock:
            _registrations[kind] -= 1
            if _registrations[kind] == 0:
                del registered_type_handlers[kind], _registrations[kind]
                if kind in _earlier:
                    registered_type_handlers[kind] = _earlier.pop(kind)


_writing = threading.RLock()  # a config in which there are classes has theirs written within it


@contextlib.contextmanager
def written_by(dumper: Callable[[Any], str]) -> Iterator[None]:
    """Within, configs are written as YAML by a function.

    jsonargparse's own leaves texts such as 1e3 without quotes, which it reads as numbers.
    """
    with _writing:
        before = dumpers["yaml"]
        set_dumper("yaml", dumper)
        try:
            yield
        finally:
            set_dumper("yaml", before)


def defining_paths(path: str) -> set[str]:
    """Imports what a class path names, unasked; returns where it is defined."""
    found: set[str] = _util.canonical_import_paths(_util.import_object(path, check_path=False))
    return found


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's parameters, those included that ``**kwargs`` hands on, with their defaults."""
    return {p.name: p.default for p in get_signature_parameters(function, None)}


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of those parameters of a function that have one."""
    found = parameters_of(function)
    return {name: value for name, value in found.items() if value is not inspect.Parameter.empty}


class Formatter(DefaultHelpFormatter):
    """Lays out help whose texts a function has gone over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"max_help_position": 30, **kwargs})  # type: ignore[no-untyped-call]

    def add_argument(self, action: Any) -> None:
        if not action.dest.endswith(".help"):  # the epilog explains them once
            super().add_argument(action)

    def text_of(self, name: str, text: Callable[[], str]) -> str:
        """Returns what to say of a setting, given its dotted name and jsonargparse's text.

        That is slow: it lists the hundreds of classes that a setting may name.
        """
        return text()

    def _format_action_invocation(self, action: Any) -> str:
        """The option without a name for its value, which says no more than the option itself."""
        shown: str = super()._format_action_invocation(action)
        options = [option for option in action.option_strings if not option.endswith("+")]
        choices = re.search(r" \{.*?\}", shown)
        return ", ".join(options) + (choices[0] if choices else "") if options else shown

    def _expand_help(self, action: Any) -> str:
        return self.text_of(action.dest, partial(super()._expand_help, action))


def names_of(parser: Any) -> list[str]:
    """The dotted names of all settings; of the commands', if the parser is above some."""
    commands = parser._subcommands_action
    parsers = commands.choices.values() if commands else [parser]
    return [a.dest for part in parsers for a in part._actions if a.option_strings]


def leave_out(parser: Any, *names: str) -> None:
    """Lets settings be left out of configs, also of those that hold all defaults."""
    for action in parser._actions:
        if action.dest in names:
            action.required, action.default = False, argparse.SUPPRESS


def groups_of(parser: Any) -> list[tuple[Any, list[str]]]:
    """The groups of settings in a parser's help, each with the names of its settings."""
    return [(group, [a.dest for a in group._group_actions]) for group in parser._action_groups]


@contextlib.contextmanager
def shown_groups(parser: Any, groups: Sequence[Any], without: Sequence[str]) -> Iterator[None]:
    """Within, the help of a parser has these groups, without some of their settings."""
    before = parser._action_groups, [group._group_actions for group in groups]
    parser._action_groups = list(groups)
    for group in groups:
        group._group_actions = [a for a in group._group_actions if a.dest not in without]
    try:
        yield
    finally:
        parser._action_groups = before[0]
        for group, actions in zip(groups, before[1], strict=True):
            group._group_actions = actions
