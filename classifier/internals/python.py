"""Python's multiprocessing: what the interpreters that it starts find when they begin.

``python -c`` puts the working folder before the standard library, and from 3.13 on imports from it
before the first statement. -P keeps it from that, but is unknown to 3.10. tests/test_planted.py
fails when a process is started in another way.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import spawn, util
from typing import Any

APART = "import sys; sys.path[:1] = [folder for folder in sys.path[:1] if folder]; "


@contextlib.contextmanager
def isolate_children(prelude: Callable[[], str]) -> Iterator[None]:
    """Within, a process that is started, not forked, has no working folder on its path.

    What ``prelude`` returns it executes next: statements, each with a semicolon behind it.
    """
    start, line = util.spawnv_passfds, spawn.get_command_line

    def isolated(given: Sequence[Any]) -> list[Any]:
        words, added = list(given), APART + prelude()
        if sys.platform == "win32":  # where all words are put between quotes as they are
            added = subprocess.list2cmdline([added])[1:-1]
        code = words.index("-c") + 1
        words[code] = added + words[code]
        if sys.version_info >= (3, 11):
            words.insert(code - 1, "-P")
        return words

    if sys.platform == "win32":
        spawn.get_command_line = lambda **settings: isolated(line(**settings))
    else:
        util.spawnv_passfds = lambda path, args, passfds: start(path, isolated(args), passfds)
    try:
        yield
    finally:
        util.spawnv_passfds, spawn.get_command_line = start, line
