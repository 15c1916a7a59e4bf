r"""All that is printed: what, where to, and on which of several ranks.

A message may hold names that somebody else chose, such as those of files and classes: what could
command a terminal is written out, and pages of one value are cut.
"""

import io
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from classifier import platform


def write_out_what_stdout_lacks() -> None:
    """Lets letters that its encoding does not have be written out, as those of stderr are.

    Otherwise the name of a file could end a command whose output goes to a file on Windows.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def out(text: str) -> None:
    """Prints what was asked for, as it is."""
    if not is_rank_zero():
        return
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # whoever reads it has seen enough, as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed
        raise SystemExit(platform.BROKEN_PIPE) from None


def note(text: str) -> None:
    """Says on stderr what is worth knowing and needs nothing to be done."""
    say(f"note: {text}")


def warn(text: str) -> None:
    """Says on stderr what is probably not meant, though the command goes on."""
    say(f"warning: {text}")


def error(text: str) -> None:
    """Says on stderr why the command ends; on every rank, for each may end on its own."""
    print(f"error: {truncate(text)}", file=sys.stderr, flush=True)  # noqa: T201


def say(text: str) -> None:
    """Says on stderr what is neither."""
    if is_rank_zero():
        print(truncate(text), file=sys.stderr, flush=True)  # noqa: T201


def is_rank_zero() -> bool:
    """Whether this is the first, or only, process of a training."""
    # A command that has not imported Lightning has no ranks.
    ranks = getattr(sys.modules.get("lightning_utilities.core.rank_zero"), "rank_zero_only", None)
    return not getattr(ranks, "rank", 0)


def truncate(text: str) -> str:
    r"""A message as the terminal gets it: without commands to it, and without pages of one value.

    >>> len(truncate("9" * 5000))
    953
    """
    lines = escape(text).splitlines()
    return "\n".join(x if len(x) < 1000 else f"{x[:800]} … {x[-150:]}" for x in lines)


def escape(text: str) -> str:
    r"""Writes out control characters, with which a name could command the terminal.

    >>> escape("cat\x1b[2J")
    'cat\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def table(rows: Mapping[str, str]) -> str:
    """Rows of a name and a text each, aligned, and wrapped to the width of the terminal.

    >>> print(table({"run": "runs/digits/version_0", "device": "cpu"}))
    run     runs/digits/version_0
    device  cpu
    """
    indent = max(map(len, rows)) + 2
    wrapper = textwrap.TextWrapper(
        max(20, shutil.get_terminal_size().columns - indent),
        break_long_words=False,  # a path is to be copied
        break_on_hyphens=False,
    )
    between = "\n" + " " * indent
    return "\n".join(
        f"{name:{indent}}{between.join(wrapper.wrap(escape(text)))}" for name, text in rows.items()
    )


def is_interactive() -> bool:
    """Whether somebody watches; a log file gets no progress bar."""
    return sys.stdout.isatty()


def display_path(path: str | Path) -> Path:
    """The path as seen from here, where that is shorter."""
    path = Path(path).resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def command(*arguments: str | Path) -> str:
    """A command to copy."""
    return platform.quoted(["classifier", *map(str, arguments)])
