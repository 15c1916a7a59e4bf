"""Lightning's callbacks that may stand in a stranger's config, computed from Lightning's code.

They are those whose constructor takes no path and no callable, and which lead to no code that names
or writes a file.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from pytorch_lightning import callbacks

PACKAGES = ("pytorch_lightning", "lightning_fabric")
FILES = {
    *("open", "makedirs", "mkdir", "get_filesystem", "dirpath", "unlink", "remove"),
    *("save_checkpoint", "remove_checkpoint"),
}
"""Functions and attributes, one of which is in whatever writes a file."""


@functools.cache
def harmless_callbacks() -> tuple[str, ...]:
    """Their class paths, both as a config gives them and where they are defined."""
    kinds = [getattr(callbacks, name) for name in callbacks.__all__]
    harmless = [kind for kind in kinds if _takes_values(kind) and not _touches_files(kind)]
    return tuple(
        f"{module}.{kind.__name__}"
        for kind in harmless
        for module in (callbacks.__name__, kind.__module__)
    )


def _takes_values(kind: type) -> bool:
    parameters = inspect.signature(kind).parameters.values()
    return all(_is_of_values(parameter.annotation) for parameter in parameters)


def _is_of_values(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    harmful = origin is Callable or annotation in (Callable, Path)
    return not harmful and all(map(_is_of_values, typing.get_args(annotation)))


def _touches_files(kind: type) -> bool:
    """Whether a function of Lightning's that its methods lead to does."""
    methods = [vars(part).values() for part in kind.__mro__ if _is_lightnings(part)]
    pending = [function for values in methods for function in _functions(values)]
    seen = set(pending)
    while pending:
        function = pending.pop()
        names = _names(function.__code__)
        if names & FILES:
            return True
        used = [function.__globals__[name] for name in names & function.__globals__.keys()]
        new = set(_functions(filter(_is_lightnings, used))) - seen
        pending += new
        seen |= new
    return False


def _is_lightnings(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith(PACKAGES)


def _functions(values: Iterable[Any]) -> Iterator[FunctionType]:
    """The functions among them, and those that they wrap."""
    for value in values:
        inner = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
        if isinstance(function := inspect.unwrap(inner), FunctionType):
            yield function


def _names(code: CodeType) -> set[str]:
    """What a function names, with those within it."""
    within = (_names(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*within)
