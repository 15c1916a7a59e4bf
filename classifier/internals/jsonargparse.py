"""jsonargparse: what is asked before a class path is imported, lists for tensors, layout of help.

Its settings hold for the process and for good, and cannot tell the user's text from a
checkpoint's. tests/test_security.py fails when it asks in another way. No public method lists a
parser's arguments or orders their groups; tests/test_cli.py fails when that changes. Nor does one
take the registration of a type back; tests/test_tensors.py fails when it outlives a command.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jsonargparse import DefaultHelpFormatter, _typehints, _util, set_parsing_settings
from jsonargparse._common import ImportDenied as ImportDenied  # for others to import from here
from jsonargparse._common import check_import_path as check_import_path
from jsonargparse._common import parsing_settings
from jsonargparse.typing import register_type, registered_type_handlers
from torch import Tensor

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


_readers = 0
_registered: dict[Any, Any] = {}  # the handler of tensors that somebody had registered before


@contextlib.contextmanager
def tensors_as_lists() -> Iterator[None]:
    """Within, a parameter that is a tensor takes a list of numbers, nested for more dimensions.

    Whole numbers become floating-point ones. A config that is written holds lists again.
    """
    global _readers
    with _lock:
        _readers += 1
        if _readers == 1:
            known = registered_type_handlers
            _registered.update({kind: known[kind] for kind in (Tensor,) if kind in known})
            register_type(Tensor, _numbers_of, _tensor_of)
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                del registered_type_handlers[Tensor]
                registered_type_handlers.update(_registered)
                _registered.clear()


def _tensor_of(value: Any) -> Tensor:
    try:
        tensor = torch.tensor(value if isinstance(value, list) else None)  # a number may be one
    except (RuntimeError, TypeError, ValueError):
        told = "a list of numbers, or of lists of them that are equally long"
        raise ValueError(f"expected {told}, not {value}") from None
    is_whole = not (tensor.is_floating_point() or tensor.dtype == torch.bool)
    return tensor.to(torch.get_default_dtype()) if is_whole else tensor


def _numbers_of(tensor: Tensor) -> Any:
    if not tensor.is_floating_point():
        return tensor.tolist()
    # By their shortest texts: 0.1 in single precision is 0.10000000149011612 in double.
    return tensor.detach().cpu().numpy().astype(str).astype(float).tolist()


def defining_paths(path: str) -> set[str]:
    """Imports what a class path names, unasked; returns where it is defined."""
    found: set[str] = _util.canonical_import_paths(_util.import_object(path, check_path=False))
    return found


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


def require_none_of(parser: Any, names: Collection[str]) -> None:
    """Lets settings of a parser be left out, for they are filled in later."""
    for action in parser._actions:
        action.required = action.required and action.dest not in names


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
