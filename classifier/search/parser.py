"""The parser of ``classifier search``: readable help, short errors."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import optuna
from jsonargparse import ArgumentParser
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from classifier.anchored_yaml.scalars import literal
from classifier.cli.errors import Where, explain
from classifier.errors import UserError, did_you_mean
from classifier.internals.jsonargparse import Formatter, names_of
from classifier.search import samplers

DEFAULTS = {"sampler": samplers.DEFAULT_SAMPLER, "pruner": samplers.DEFAULT_PRUNER}
WORKING = {
    "sampler": sorted(
        set(optuna.samplers.__all__) - {"BaseSampler", "BaseGASampler", "nsgaii", *samplers.GRIDS}
    ),
    "pruner": sorted(set(optuna.pruners.__all__) - {"BasePruner"}),
}

ASIDE = ("space", "engine_options")


def parse(
    schema: type, given: Mapping[str, Any], arguments: Sequence[str], where: Where
) -> dict[str, Any]:
    """Reads and checks the settings that the constructor of ``schema`` has.

    What the command line's ``arguments`` say wins over what is ``given`` in the search file.

    Raises:
        UserError: A setting is unknown or of the wrong type.
    """
    # A key without a value is not given, but for the pruner: that is none.
    given = {key: value for key, value in given.items() if value is not None or key == "pruner"}
    for key, default in DEFAULTS.items():
        if any(argument.partition("=")[0] == f"--{key}" for argument in arguments):
            given.pop(key, None)  # jsonargparse would carry its init_args over to another class
        else:
            _check_class(key, given.setdefault(key, default), where)
    # Blocks in the space stay what they are: jsonargparse would resolve every class_path in them.
    aside = {key: given.pop(key) for key in ASIDE if isinstance(given.get(key), dict)}
    parser = _parser(schema)
    try:
        with samplers.without_experimental_warnings():
            found = parser.parse_args([f"--config={literal(given)}", *arguments])
    except (TypeError, ValueError, argparse.ArgumentError) as error:
        raise UserError(_explained(str(error), names_of(parser), where)) from None
    settings = {
        key: samplers.spec_of(value) for key, value in vars(found).items() if key != "config"
    }
    return settings | aside


def _check_class(key: str, value: Any, where: Where) -> None:
    """Refuses what is not a class before jsonargparse tries to make one of it."""
    block = value if isinstance(value, dict) else {"class_path": value}
    for name in block:
        if name not in ("class_path", "init_args"):
            hint = did_you_mean(str(name), ["init_args"], "; it has class_path and init_args.")
            raise UserError(f"{where(key)}{key}: there is no '{name}'{hint}")
    if value is not None and not isinstance(block.get("class_path"), str):
        raise UserError(
            f"{where(key)}{key}: {literal(value)} is not a class, as "
            f"{DEFAULTS[key]['class_path']} is."
        )


class _HelpFormatter(Formatter):
    """Leaves types out: the texts say what is expected."""

    def text_of(self, name: str, text: Callable[[], str]) -> str:
        told, facts, *_ = [*re.split(r" \((?:required, )?type: ", text()), ""]
        default = re.search(r"default: ([\w.]+)\)$", facts)
        shown = default and default[1] not in ("null", "None", ".")
        return f"{told} (default: {default[1]})" if default and shown else told


class _Parser(ArgumentParser):
    """Adds to an unknown init_arg which there are."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if option := re.search(r"Option '([^']+)' is not accepted$", message):
            names = [name for name in names_of(self) if not name.endswith("help")]
            message += did_you_mean(option[1], names, f"; it has {', '.join(names)}.")
        super().error(message, ex)


def _parser(schema: type) -> ArgumentParser:
    parser = _Parser(
        prog="classifier search",
        usage="classifier search --config FILE [--KEY VALUE ...]",
        description="Trains a config with many values of its hyperparameters. The same command "
        "resumes a search that was stopped.",
        epilog="classifier search status|table|best|importance|refit DIR looks at a search, or "
        "trains its best again; classifier search worker DIR joins in. --sampler.help CLASS and "
        "--pruner.help CLASS show the settings of a class.",
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )
    parser.add_argument("--config", action="config", help="The search file: the settings below.")
    parser.add_class_arguments(schema, as_group=False, skip={"sampler", "pruner", "plan"})
    parser.set_defaults(direction=None)  # depends on the monitor
    parser.add_argument(
        "--sampler",
        type=BaseSampler | Literal["grid"],
        help=f"What chooses the next configuration: {', '.join(WORKING['sampler'])} or any other "
        "class; or the word grid, for all combinations. (default: TPESampler)",
    )
    parser.add_argument(
        "--pruner",
        type=BasePruner | None,
        help=f"What stops bad trials early: {', '.join(WORKING['pruner'])} or any other class; "
        "null for none. (default: MedianPruner, once 5 trials are complete)",
    )
    return parser


def _explained(message: str, names: Sequence[str], where: Where) -> str:
    if lonely := re.match(r"argument (--\S+): expected one argument", message):
        return f"{lonely[1]}: expected a value."
    if unknown := re.search(r"Expected a dot import path string: (.+)$", message, re.M):
        key = "pruner" if 'Parser key "pruner"' in message else "sampler"
        hint = did_you_mean(unknown[1], WORKING[key], f"; there are {', '.join(WORKING[key])}.")
        return f"{where(key)}{key}: there is no class '{unknown[1]}'{hint}"
    if "optuna.samplers.GridSampler" in message:  # it lacks what the space says already
        return f"{where('sampler')}sampler: {samplers.NO_GRID}"
    if "Problem with given class_path" in message:  # then nobody meant the word grid
        message = re.sub(r".*Expected a typing.Literal\['grid'\]\n", "", message)
    return explain(message, names, where)
