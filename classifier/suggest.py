"""The end of an error message that names what was perhaps meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, words: Iterable[str], otherwise: str = ".") -> str:
    """Ends a sentence with up to two similar words, or as told where none is similar.

    >>> did_you_mean("max_epoch", ["max_epochs", "devices"])
    ", did you mean 'max_epochs'?"
    """
    near = difflib.get_close_matches(word, sorted(set(words) - {word}), n=2)
    return f", did you mean {' or '.join(map(repr, near))}?" if near else otherwise
