"""Errors that speak to the user."""

import difflib
from collections.abc import Iterable

from classifier import DISTRIBUTION


class UserError(ValueError):
    """A mistake that the user can mend: its text says value, expectation and remedy.

    Attributes:
        exit_code: That of the command which it ends.
    """

    exit_code = 2


class WriteError(OSError, UserError):
    """A file or folder that cannot be written: no space, no permission, no folder."""


class UnfitWeightsError(UserError, RuntimeError):
    """Weights that are not those of the network."""


class DataWorkerError(RuntimeError):
    """A process that reads data died or hung; its text names it and what it was reading."""


def told_by(error: BaseException) -> str:
    """What an error tells the user: the text of the first of those behind it that speaks to him."""
    behind: BaseException | None = error
    while behind and not isinstance(behind, UserError):
        behind = behind.__cause__ or behind.__context__
    return str(behind or error)


def pip_install(*extras: str) -> str:
    """The command that installs this package with extras.

    >>> pip_install("search")
    "pip install 'lightning-classifier[search]'"
    """
    return f"pip install '{DISTRIBUTION}[{','.join(extras)}]'"


def did_you_mean(word: str, words: Iterable[str], otherwise: str = ".") -> str:
    """Ends a sentence with up to two similar words, or as told where none is similar.

    >>> did_you_mean("max_epoch", ["max_epochs", "devices"])
    ", did you mean 'max_epochs'?"
    >>> did_you_mean("Adamw", ["Adam", "AdamW"])
    ", did you mean 'AdamW'?"
    """
    others = sorted(set(words) - {word})
    near = [other for other in others if other.lower() == word.lower()]
    near = near or difflib.get_close_matches(word, others, n=2)
    return f", did you mean {' or '.join(map(repr, near))}?" if near else otherwise
