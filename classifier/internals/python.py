"""Python's multiprocessing: what the interpreters that it starts find when they begin.

``python -c`` puts the working folder before the standard library, and from 3.13 on imports from it
before the first statement. -P keeps it from that, but is unknown to 3.10. tests/test_planted.py
fails when a process is started in another way.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import util
from typing import Any

APART = "import sys; sys.path[:1] = [folder for folder in sys.path[:1] if folder]; "


@contextlib.contextmanager
def isolate_children(prelude: Callable[[], str]) -> Iterator[None]:
    """Within, a process that is started, not forked, has no working folder on its path.

    What ``prelude`` returns it executes next: statements, each with a semicolon behind it.
    """
    original = util.spawnv_passfds

    def start(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        given = list(args)
        code = given.index("-c") + 1
        given[code] = APART + prelude() + given[code]
        if sys.version_info >= (3, 11):
            given.insert(code - 1, "-P")
        return original(path, given, passfds)

    util.spawnv_passfds = start
    try:
        yield
    finally:
        util.spawnv_passfds = original
