"""``classifier search``: the command line."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from classifier.checkpoint.trust import Trust, confined, packages_in
from classifier.cli.run import CommandParser
from classifier.errors import UserError, did_you_mean
from classifier.search import report
from classifier.search.launch import check_trusted, refit, search
from classifier.search.settings import parse
from classifier.search.signed import trust_in
from classifier.search.worker import Stop, work


def act(given: Sequence[str]) -> int:
    """Does what the words behind ``search`` say; returns the exit code."""
    if given[0].startswith("-"):
        with confined(Trust(words=None)):
            return search(parse(given))
    if given[0] not in ACTIONS:
        hint = did_you_mean(given[0], ACTIONS, f"; there are {', '.join(ACTIONS)}, --config FILE.")
        raise UserError(f"search has no '{given[0]}'{hint}")
    action, _ = ACTIONS[given[0]]
    options = vars(_parsers()[given[0]].parse_args(given[1:]))
    with confined(trust_in(options["folder"], packages_in(options.pop("trust")))):
        if action in TRAINING:
            check_trusted(options["folder"])
        return action(**options)


def _work(folder: Path, until: float | None, attached: bool) -> int:
    return work(folder, Stop.on_signals(attached), until, {})


TRAINING = (refit, _work)
ACTIONS: dict[str, tuple[Callable[..., int], str]] = {
    "status": (report.status, "Shows how far a search is; on a terminal, until it ends."),
    "table": (report.table, "Lists the trials, best first."),
    "best": (report.best, "Shows the best configuration, which best.yaml holds."),
    "refit": (refit, "Trains the best again, with new seeds: the best of many is also lucky."),
    "importance": (report.importance, "Shows how much each searched name explains."),
    "worker": (_work, "Runs trials until there are none left. Any number may run, anywhere."),
}


def _parsers() -> Mapping[str, argparse.ArgumentParser]:
    common = CommandParser(add_help=False)
    common.add_argument("folder", type=Path, metavar="DIR", help="The search folder.")
    help_text = "What it may import although it is not signed with your key."
    common.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE[,PACKAGE]", help=help_text
    )
    actions = CommandParser(prog="classifier search").add_subparsers()
    for name, (_, meaning) in ACTIONS.items():
        actions.add_parser(name, description=meaning, parents=[common], allow_abbrev=False)
    add = actions.choices["refit"].add_argument
    add("--top_k", type=_positive, default=3, help="How many of the best. (3)")
    add("--seeds", type=_positive, default=3, help="New seeds for each. (3)")
    add("--workers", type=_positive, help="As many as the search, if not given.")
    actions.choices["importance"].add_argument("--plot", type=Path, help="Draws them, too.")
    add = actions.choices["worker"].add_argument
    add("--until", type=float, help="Unix time after which no trial is begun.")
    add("--attached", action="store_true", help="End when standard input is closed.")
    return actions.choices


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)
