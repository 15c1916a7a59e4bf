"""Words for the user: what was perhaps meant, and names that somebody else chose."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, words: Iterable[str], otherwise: str = ".") -> str:
    """Ends a sentence with up to two similar words, or as told where none is similar.

    >>> did_you_mean("max_epoch", ["max_epochs", "devices"])
    ", did you mean 'max_epochs'?"
    """
    near = difflib.get_close_matches(word, sorted(set(words) - {word}), n=2)
    return f", did you mean {' or '.join(map(repr, near))}?" if near else otherwise


def shown(text: str) -> str:
    r"""A message as the terminal gets it: without commands to it, and without pages of one value.

    >>> len(shown("9" * 5000))
    953
    """
    lines = printable(text).splitlines()
    return "\n".join(x if len(x) < 1000 else f"{x[:800]} … {x[-150:]}" for x in lines)


def printable(text: str) -> str:
    r"""Writes out control characters, with which a name could command the terminal.

    >>> printable("cat\x1b[2J")
    'cat\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
