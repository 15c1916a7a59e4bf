"""``classifier search``: the command line."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from classifier.checkpoint.trust import Trust, confined, packages_in
from classifier.cli.run import CommandParser, explained
from classifier.errors import UserError, did_you_mean
from classifier.search import report
from classifier.search.launch import check_trusted, search
from classifier.search.refit import refit
from classifier.search.settings import parse
from classifier.search.signed import trust_in
from classifier.search.stop import Stop
from classifier.search.worker import work


def run(given: Sequence[str]) -> int:
    """Runs ``search``, or one of its actions on a search folder.

    Returns:
        0; 1 for a search that failed; 2 for what the user can mend; 130 or 143 after a signal.
    """
    return explained(lambda: _act(given))


def _act(given: Sequence[str]) -> int:
    name, *rest = given or ["--help"]
    if name.startswith("-"):
        with confined(Trust(words=None)):
            return search(parse(given))
    if name not in ACTIONS:
        otherwise = f"; there are {', '.join(ACTIONS)}, and --config FILE."
        raise UserError(f"search has no '{name}'{did_you_mean(name, ACTIONS, otherwise)}")
    meaning, add_options, action = ACTIONS[name]
    prog = f"classifier search {name}"
    parser = CommandParser(prog=prog, description=meaning, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="DIR", help="The search folder.")
    if add_options:
        add_options(parser)
    _add_trust(parser)
    options = parser.parse_args(rest)
    with confined(trust_in(options.folder, packages_in(options.trust))):
        if name in TRAINING:
            check_trusted(options.folder)
        return action(options)


def _refit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top_k", type=_positive, default=3, help="How many of the best. (3)")
    parser.add_argument("--seeds", type=_positive, default=3, help="New seeds for each. (3)")
    parser.add_argument("--workers", type=_positive, help="As many as the search, if not given.")


def _importance_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plot", type=Path, help="Also draw them into this file.")


def _worker_options(parser: argparse.ArgumentParser) -> None:
    help_text = "Unix time after which no trial is begun."
    parser.add_argument("--until", type=float, help=help_text)
    parser.add_argument(
        "--attached", action="store_true", help="End when standard input is closed."
    )


def _add_trust(parser: argparse.ArgumentParser) -> None:
    help_text = "What it may import although it is not signed with your key."
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE[,PACKAGE]", help=help_text
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


TRAINING = ("refit", "worker")
Options = Callable[[argparse.ArgumentParser], None] | None
Action = Callable[[argparse.Namespace], int]
ACTIONS: dict[str, tuple[str, Options, Action]] = {
    "status": (
        "Shows how far a search is; on a terminal, until it ends.",
        None,
        lambda options: report.status(options.folder),
    ),
    "table": (
        "Lists the trials, best first.",
        None,
        lambda options: report.table(options.folder),
    ),
    "best": (
        "Shows the best configuration, which best.yaml holds.",
        None,
        lambda options: report.best(options.folder),
    ),
    "refit": (
        "Trains the best configurations anew with new seeds: the winner of many trials is in part "
        "a lucky one.",
        _refit_options,
        lambda options: refit(options.folder, options.top_k, options.seeds, options.workers),
    ),
    "importance": (
        "Shows how much of the differences each searched name explains.",
        _importance_options,
        lambda options: report.importance(options.folder, options.plot),
    ),
    "worker": (
        "Runs trials until there are none left. On as many machines as there are, at any time.",
        _worker_options,
        lambda options: work(options.folder, Stop.on_signals(options.attached), options.until),
    ),
}
