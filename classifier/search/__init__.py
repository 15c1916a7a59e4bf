"""``classifier search``: trains a config with many values of its hyperparameters, compares them."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec


def run(given: Sequence[str]) -> int:
    """Runs a search, or one of its actions; returns the exit code.

    Args:
        given: The command line from ``search`` on.
    """
    if find_spec("optuna") is None:
        print("error: search needs Optuna: pip install 'classifier[search]'", file=sys.stderr)  # noqa: T201
        return 2
    from classifier.search.command import run as command

    return command(given[1:])
