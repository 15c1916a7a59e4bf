"""jsonargparse: what is asked before a class path is imported.

Its settings hold for the process and for good, and cannot tell the user's text from a
checkpoint's. tests/test_security.py fails when it asks in another way.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from jsonargparse import _typehints, _util, set_parsing_settings
from jsonargparse._common import ImportDenied, check_import_path, parsing_settings

__all__ = ["ImportDenied", "asking", "check_import_path", "defining_paths"]

_lock = threading.Lock()
_users = 0
_before: dict[str, object] = {}


@contextlib.contextmanager
def asking(check: Callable[[str], None], never: Sequence[str]) -> Iterator[None]:
    """Within, every class path of a value is shown to ``check`` before it is imported.

    It is asked twice: for the path as it is given, and for where the object is defined.

    Args:
        check: Raises ``ImportDenied`` for a path that may not be imported; one for the process.
        never: Paths that are denied besides those that jsonargparse denies by itself.
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


def defining_paths(path: str) -> set[str]:
    """Imports what a class path names, unasked; returns where it is defined."""
    found: set[str] = _util.canonical_import_paths(_util.import_object(path, check_path=False))
    return found
