"""``classifier search``: trains a config with many values of its hyperparameters, compares them."""

from collections.abc import Sequence
from importlib.util import find_spec

from classifier import terminal


def run(given: Sequence[str]) -> int:
    """Runs a search, or one of its actions; returns the exit code.

    Args:
        given: The command line from ``search`` on.
    """
    if given[1:2] == ["trial"]:  # not for people: Lightning starts the other ranks of one with it
        from classifier.search import process, trial

        return trial.run(process.Trial.from_json(given[2]))
    if find_spec("optuna") is None:
        terminal.error("search needs Optuna: pip install 'classifier[search]'")
        return 2
    from classifier.search.command import run as command

    return command(given[1:])
