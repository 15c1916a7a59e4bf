"""``classifier search``: the command line."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from classifier.checkpoint.trust import Trust, confined, packages_in
from classifier.cli.run import CommandParser, explained
from classifier.errors import UserError, did_you_mean
from classifier.search import report
from classifier.search.launch import check_trusted, refit, search
from classifier.search.settings import parse
from classifier.search.signed import trust_in
from classifier.search.worker import Stop, work


def run(given: Sequence[str]) -> int:
    """Runs ``search``, or one of its actions on a search folder.

    Returns:
        0; 1 for a search that failed; 2 for a usage or configuration error; 130 or 143 after a
        signal.
    """
    return explained(lambda: _act(given or ["--help"]))


def _act(given: Sequence[str]) -> int:
    if given[0].startswith("-"):
        with confined(Trust(words=None)):
            return search(parse(given))
    options = vars(_action_parser(given[0]).parse_args(given))
    action, folder, trusted = options.pop("action"), options["folder"], options.pop("trust")
    with confined(trust_in(folder, packages_in(trusted))):
        if action in TRAINING:
            check_trusted(folder)
        return int(action(**options))


def _work(folder: Path, until: float | None, attached: bool) -> int:
    return work(folder, Stop.on_signals(attached), until)


TRAINING = (refit, _work)


def _action_parser(name: str) -> argparse.ArgumentParser:
    """The parser of all actions.

    Args:
        name: The action that is wanted.

    Raises:
        UserError: If there is none of that name.
    """
    parser = CommandParser(prog="classifier search")
    actions = parser.add_subparsers()

    def add(name: str, action: Callable[..., int], meaning: str) -> argparse.ArgumentParser:
        one = actions.add_parser(name, description=meaning, allow_abbrev=False)
        one.set_defaults(action=action)
        one.add_argument("folder", type=Path, metavar="DIR", help="The search folder.")
        help_text = "What it may import although it is not signed with your key."
        one.add_argument(
            "--trust", action="append", default=[], metavar="PACKAGE[,PACKAGE]", help=help_text
        )
        return one

    add("status", report.status, "Shows how far a search is; on a terminal, until it ends.")
    add("table", report.table, "Lists the trials, best first.")
    add("best", report.best, "Shows the best configuration, which best.yaml holds.")
    meaning = (
        "Trains the best configurations again, with new seeds: the winner of many is also lucky."
    )
    one = add("refit", refit, meaning)
    one.add_argument("--top_k", type=_positive, default=3, help="How many of the best. (3)")
    one.add_argument("--seeds", type=_positive, default=3, help="New seeds for each. (3)")
    one.add_argument("--workers", type=_positive, help="As many as the search, if not given.")
    meaning = "Shows how much of the differences each searched name explains."
    one = add("importance", report.importance, meaning)
    one.add_argument("--plot", type=Path, help="Also draw them into this file.")
    meaning = (
        "Runs trials until there are none left. On as many machines as there are, at any time."
    )
    one = add("worker", _work, meaning)
    one.add_argument("--until", type=float, help="Unix time after which no trial is begun.")
    one.add_argument("--attached", action="store_true", help="End when standard input is closed.")
    if name not in actions.choices:
        otherwise = f"; there are {', '.join(actions.choices)}, and --config FILE."
        raise UserError(f"search has no '{name}'{did_you_mean(name, actions.choices, otherwise)}")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)
