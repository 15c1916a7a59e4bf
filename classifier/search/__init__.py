"""``classifier search``: trains a config with many values of its hyperparameters, compares them."""

from collections.abc import Sequence
from importlib.util import find_spec

from classifier import terminal
from classifier.cli.run import explained
from classifier.errors import pip_install


def run(given: Sequence[str]) -> int:
    """Runs ``search``, or one of its actions on a search folder.

    Returns:
        0; 1 for a search that failed; 2 for a usage or configuration error; 130 or 143 after a
        signal.
    """
    if given[1:2] == ["trial"]:  # not for people: Lightning starts the other ranks of one with it
        from classifier.search import process, trial

        return trial.run(process.Trial.from_json(given[2]))
    if find_spec("optuna") is None:
        terminal.error(f"search needs Optuna: {pip_install('search')}")
        return 2
    from classifier.search.command import act

    return explained(lambda: act(given[1:] or ["--help"]))
