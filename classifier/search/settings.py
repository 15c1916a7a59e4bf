"""The settings of a search: its file, its command line, and the copy in its folder."""

import argparse
import inspect
import os
import pkgutil
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler

from classifier import runs
from classifier.cli.errors import Where, explain
from classifier.hyperparameters import ConfigError, ConfigSource, check, locate
from classifier.hyperparameters import load as load_yaml
from classifier.hyperparameters.scalars import Dumper, literal
from classifier.search.space import RANGE, Space
from classifier.suggest import did_you_mean

Spec = dict[str, Any]  # a class: class_path and init_args

SAMPLER: Spec = {"class_path": "optuna.samplers.TPESampler"}
PRUNER: Spec = {
    "class_path": "optuna.pruners.MedianPruner",
    "init_args": {"n_startup_trials": 5, "n_warmup_steps": 1},
}
NOT_USABLE = ("GridSampler", "BruteForceSampler", "BaseSampler", "BasePruner", "nsgaii")
FILE = "search.yaml"
BASE = "base.yaml"
# What may be changed when a search goes on; everything else would mix two searches.
FREE = ("n_trials", "max_seconds", "workers", "engine", "engine_options", "heartbeat")


@dataclass(frozen=True)
class Settings:
    """What a search file and the command line say.

    Args:
        base: The config whose hyperparameters are searched; relative to the search file, else to
            the working folder.
        space: What is searched, by name in the base config's hyperparameters: a range {low: 1e-4,
            high: 0.1, log: true, step: null}, a list of choices, or a class of
            optuna.distributions. A list for seed_everything trains each configuration with each.
        name: Name of the study. (default: name of the folder)
        folder: Folder of the search. (default: searches/NAME_OF_THE_SEARCH_FILE)
        monitor: The metric whose best epoch counts. (default: the base config's model.monitor)
        direction: Whether a small or a large value is good. (default: minimize a loss, maximize
            any other metric)
        n_trials: How many trials there are in all, over all calls. With "sampler: grid" all points
            of the grid if left out.
        max_seconds: No trial is started later than this after the start of the command.
        workers: How many trials are trained at the same time.
        engine: What starts the workers.
        engine_options: Options of sbatch for slurm; for ray those of its tasks, and address.
        storage: URL of a database, postgresql://..., for workers without a common file system with
            locks. (default: a file in the folder)
        heartbeat: Seconds between signs of life; a worker on another machine that is silent for
            four of them is given up, and its trial goes on elsewhere.
        dry_run: Writes the configs of this many trials and trains none.
        sampler: What chooses the next configuration.
        pruner: What stops bad trials early.
        plan: The configurations of a search that chooses none.
    """

    base: Path = Path()
    space: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    folder: Path = Path()
    monitor: str = ""
    direction: Literal["minimize", "maximize"] = "minimize"
    n_trials: int | None = None
    max_seconds: float | None = None
    workers: int = 1
    engine: Literal["local", "slurm", "ray"] = "local"
    engine_options: dict[str, Any] = field(default_factory=dict)
    storage: str | None = None
    heartbeat: float = 30
    dry_run: int = 0
    sampler: Spec | Literal["grid"] = field(default_factory=lambda: SAMPLER)
    pruner: Spec | None = field(default_factory=lambda: PRUNER)
    plan: list[dict[str, Any]] | None = None


KEYS = [part.name for part in fields(Settings) if part.name not in ("dry_run", "plan")]


def parse(arguments: Sequence[str]) -> Settings:
    """Reads the command line and the search file that it names.

    Raises:
        ConfigError: A setting is missing, unknown or wrong.
    """
    taken, rest = _split(arguments)
    sources = [_read(Path(value)) for option, value in taken if option in ("--config", "-c")]
    given: dict[str, Any] = {}
    for source in sources:
        given |= load_yaml(source.text, source.name)
    space = given.setdefault("space", {})
    for option, value in taken:
        if option.startswith("--space.") and isinstance(space, dict):
            _set_range(space, option.removeprefix("--space."), load_yaml(value, option))
    where = _finder(sources, arguments)
    files = [Path(source.name) for source in sources]
    return _completed(_parsed(given, rest, where), files, where)


def save(settings: Settings, folder: Path) -> None:
    """Writes ``search.yaml``, the complete settings, and ``base.yaml`` into a search folder."""
    runs.write_text(folder / BASE, settings.base.read_text(encoding="utf-8"))
    skipped = ("folder", "dry_run") if settings.plan is not None else ("folder", "dry_run", "plan")
    data = {p.name: getattr(settings, p.name) for p in fields(settings) if p.name not in skipped}
    text: str = yaml.dump(
        data | {"base": BASE}, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    note = f"# The complete settings of this search. {', '.join(FREE)} may change.\n"
    runs.write_text(folder / FILE, note + text)


def load(folder: Path) -> Settings:
    """Reads the settings that a search folder was made with.

    Raises:
        ConfigError: The folder is not that of a search, or its settings are damaged.
    """
    path = folder / FILE
    if not path.is_file():
        others = [str(file.parent) for file in folder.parent.glob(f"*/{FILE}")]
        hint = did_you_mean(str(folder), others, "; 'classifier search --config FILE' makes one.")
        raise ConfigError(f"'{folder}' is not the folder of a search, without {FILE}{hint}")
    source = ConfigSource(str(path), path.read_text(encoding="utf-8"))
    given = load_yaml(source.text, source.name)
    plan = given.pop("plan", None)
    found = _parsed(given, [], _finder([source], []))
    folder = folder.resolve()
    return Settings(**{**found, "base": folder / BASE, "folder": folder, "plan": plan})


def differences(old: Settings, new: Settings) -> list[str]:
    """Names of settings that differ although they must not when a search goes on.

    The base config is left out: its text counts, not where it lies.
    """
    kept = [p.name for p in fields(old) if p.name not in (*FREE, "base", "folder", "dry_run")]
    return [name for name in kept if getattr(old, name) != getattr(new, name)]


def make_sampler(settings: Settings, number: int) -> BaseSampler:
    """A fresh sampler for one trial.

    Its seed depends on the number of the trial, so that a search that was interrupted goes on
    as if it had not been, and workers that sample at the same time draw different numbers.

    Args:
        settings: The search's.
        number: The trial's.
    """
    if settings.sampler == "grid":
        return RandomSampler()  # never asked
    sampler: BaseSampler = _made("sampler", BaseSampler, _reseeded(settings.sampler, number))
    return sampler


def make_pruner(settings: Settings) -> BasePruner:
    """The pruner; one that never stops a trial if there is none."""
    if settings.pruner is None:
        return NopPruner()
    pruner: BasePruner = _made("pruner", BasePruner, settings.pruner)
    return pruner


# ---- the command line and the search file ----


def _split(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Takes the search files and the changes of the space out of a command line."""
    taken, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        option, has_value, value = argument.partition("=")
        if option not in ("--config", "-c") and not option.startswith("--space."):
            rest.append(argument)
            continue
        if not has_value:
            value = next(remaining, "")
        if not value.strip() or value.startswith("--"):
            raise ConfigError(f"{option}: a value is missing behind it.")
        taken.append((option, value))
    return taken, rest


def _read(path: Path) -> ConfigSource:
    if not path.is_file():
        raise ConfigError(f"--config: {_no_file(path, [path])}")
    source = ConfigSource(str(path), _text(path, str(path)))
    for key in load_yaml(source.text, source.name):
        if key not in KEYS:
            line = locate(source.text, [key])
            hint = did_you_mean(str(key), KEYS, f"; there are {', '.join(KEYS)}.")
            raise ConfigError(f"{source.name}:{line}: no setting '{key}'{hint}")
    return source


def _no_file(wanted: Path, tried: Iterable[Path]) -> str:
    tried = list(tried)
    if any(path.is_dir() for path in tried):
        return f"'{wanted}' is a folder, expected a YAML file."
    near = [file.name for path in tried for file in path.parent.glob("*.y*ml")]
    folders = " or ".join(dict.fromkeys(f"'{os.path.normpath(path.parent)}'" for path in tried))
    return f"no file '{wanted.name}' in {folders}{did_you_mean(wanted.name, near)}"


def _set_range(space: dict[str, Any], key: str, value: Any) -> None:
    """Changes an entry of the space, or the part of a range: ``lr`` or ``lr.high``."""
    name, _, part = key.rpartition(".")
    if part in RANGE and key not in space:
        entry = space.get(name)
        space[name] = {**(entry if isinstance(entry, dict) else {}), part: value}
    else:
        space[key] = value


def _finder(sources: Sequence[ConfigSource], arguments: Sequence[str]) -> Where:
    options = [argument.partition("=")[0].lstrip("-") for argument in arguments]

    def where(key: str) -> str:
        if any(f"{option}.".startswith(f"{key}.") for option in options):
            return ""
        section, _, name = key.partition(".")
        path = [section, name] if section == "space" and name else key.split(".")
        for source in reversed(sources):
            if line := locate(source.text, path):
                return f"{source.name}:{line}: "
        return ""

    return where


class _HelpFormatter(DefaultHelpFormatter):
    """Leaves types out: the texts say what is expected."""

    def add_argument(self, action: Any) -> None:
        if not action.dest.endswith(".help"):  # the epilog explains them
            super().add_argument(action)

    def _expand_help(self, action: Any) -> str:
        text: str = super()._expand_help(action)
        text, facts, *_ = [*re.split(r" \((?:required, )?type: ", text), ""]
        default = re.search(r"default: ([\w.]+)\)$", facts)
        shown = default and default[1] not in ("null", "None", ".")
        return f"{text} (default: {default[1]})" if default and shown else text


class _Parser(ArgumentParser):
    """Adds to an unknown init_arg which there are."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if option := re.search(r"Option '([^']+)' is not accepted$", message):
            names = [action.dest for action in self._actions if not action.dest.endswith("help")]
            message += did_you_mean(option[1], names, f"; it has {', '.join(names)}.")
        super().error(message, ex)


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="classifier search",
        usage="classifier search --config FILE [--KEY VALUE ...]",
        description="Trains a config with many values of its hyperparameters. The same command "
        "goes on with a search that was stopped.",
        epilog="--sampler.help CLASS and --pruner.help CLASS show the settings of a class.",
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )
    parser.add_argument("--config", action="config", help="The search file: the settings below.")
    parser.add_class_arguments(
        Settings, as_group=False, skip={"sampler", "pruner", "plan"}, fail_untyped=False
    )
    parser.add_argument(
        "--sampler",
        type=BaseSampler | Literal["grid"],
        help="What chooses the next configuration: a class of optuna.samplers such as "
        "RandomSampler or GPSampler, or the word grid for all combinations. (default: TPESampler)",
    )
    parser.add_argument(
        "--pruner",
        type=BasePruner | None,
        help="What stops bad trials early: a class of optuna.pruners, or null. (default: "
        "MedianPruner, never before 5 trials are complete)",
    )
    parser.set_defaults(direction=None)  # depends on the monitor
    return parser


def _parsed(given: Mapping[str, Any], arguments: Sequence[str], where: Where) -> dict[str, Any]:
    """The settings of the files and the command line; those that depend on others may be empty."""
    given = dict(given)
    for key, default in (("sampler", SAMPLER), ("pruner", PRUNER)):
        if any(argument.partition("=")[0] == f"--{key}" for argument in arguments):
            given.pop(key, None)  # jsonargparse would carry its settings over to the other class
        else:
            given.setdefault(key, default)
    parser = _parser()
    try:
        with _without_notes():
            found = parser.parse_args([f"--config={literal(given)}", *arguments])
    except (TypeError, ValueError, argparse.ArgumentError) as error:
        names = [action.dest for action in parser._actions]
        raise ConfigError(_explained(str(error), names, where)) from None
    return {key: _plain(value) for key, value in vars(found).items() if key != "config"}


def _explained(message: str, names: Sequence[str], where: Where) -> str:
    if lonely := re.match(r"argument (--\w+): expected one argument", message):
        return f"{lonely[1]}: a value is missing behind it."
    key = "pruner" if 'Parser key "pruner"' in message else "sampler"
    kinds = [name for name in getattr(optuna, f"{key}s").__all__ if name not in NOT_USABLE]
    if unknown := re.search(r"Expected a dot import path string: (.+)$", message, re.M):
        hint = did_you_mean(unknown[1], kinds, f"; there are {', '.join(kinds)}.")
        return f"{where(key)}{key}: no class '{unknown[1]}'{hint}"
    if "Problem with given class_path" in message:
        message = re.sub(r".*Expected a typing.Literal\['grid'\]\n", "", message)
    return explain(message, names, where)


def _plain(value: Any) -> Any:
    """A class with its init_args as YAML has it, without those that are None by default.

    Optuna marks settings which it is about to remove by that default: a search that was made with
    one version then goes on with the next.
    """
    if inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    if not isinstance(value, Namespace):
        return value
    parameters = inspect.signature(pkgutil.resolve_name(value.class_path)).parameters
    arguments = {
        name: _plain(argument)
        for name, argument in vars(value.get("init_args", Namespace())).items()
        if argument is not None or parameters[name].default is not None
    }
    return {"class_path": value.class_path, "init_args": arguments}


@contextmanager
def _without_notes() -> Iterator[None]:
    """Half of Optuna's classes announce themselves as experimental; nobody can act on that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


# ---- what depends on other settings ----


def _completed(found: dict[str, Any], files: Sequence[Path], where: Where) -> Settings:
    """Finds the base config, fills in what follows from it, and checks everything."""
    base = _base(found["base"], files, where)
    name = os.path.relpath(base)
    text = _text(base, name)
    folder = found["folder"] if found["folder"] != Path() else _default_folder([*files, base][0])
    folder = folder.resolve()
    monitor = found["monitor"] or _monitor(load_yaml(text))
    direction = found["direction"] or ("minimize" if "loss" in monitor else "maximize")
    found |= {"base": base, "folder": folder, "monitor": monitor, "direction": direction}
    settings = Settings(**{**found, "name": found["name"] or folder.name})
    _check(settings, where)
    space = Space(settings.space, where)
    space.check(text, name)
    if settings.sampler == "grid":
        space.grid()
    return settings


def _base(wanted: Path, files: Sequence[Path], where: Where) -> Path:
    if wanted == Path():
        raise ConfigError("base: not given. Name a search file, --config FILE, with 'base: FILE'.")
    tried = [*(file.parent / wanted for file in reversed(files)), wanted]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise ConfigError(f"{where('base')}base: {_no_file(wanted, tried)}")
    return found.resolve()


def _text(path: Path, name: str) -> str:
    """A checked YAML text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"'{name}' is not a text file in UTF-8, expected YAML.") from None
    check(ConfigSource(name, text))
    return text


def _default_folder(file: Path) -> Path:
    """That of the search whose saved settings are read again, or a new one."""
    saved = file.name == FILE and (file.parent / BASE).is_file()
    return file.parent if saved else Path("searches", file.stem)


def _monitor(base: Mapping[str, Any]) -> str:
    model = base.get("model")
    found = model.get("monitor") if isinstance(model, dict) else None
    return str(found or "val_loss")  # which is the module's default


def _check(settings: Settings, where: Where) -> None:
    for key in ("n_trials", "workers"):
        if (number := getattr(settings, key)) is not None and number < 1:
            raise ConfigError(f"{where(key)}{key}: at least 1 is needed, not {number}.")
    for key in ("max_seconds", "heartbeat"):
        if (number := getattr(settings, key)) is not None and not number > 0:
            raise ConfigError(f"{where(key)}{key}: a time above 0 is needed, not {number}.")
    if settings.sampler != "grid" and settings.n_trials is None and settings.max_seconds is None:
        raise ConfigError(
            "n_trials: not given. Say how many trials to train, --n_trials 20, or for how long, "
            "--max_seconds 3600."
        )
    _check_storage(settings.storage, where)
    try:
        make_sampler(settings, 0)
        make_pruner(settings)
    except ConfigError as error:
        key = str(error).partition(":")[0]
        raise ConfigError(f"{where(key)}{error}") from None


def _check_storage(storage: str | None, where: Where) -> None:
    url = os.path.expandvars(storage) if storage else ""
    if url.startswith("sqlite"):
        raise ConfigError(
            f"{where('storage')}storage: SQLite's locks fail between machines; leave storage out, "
            "or use PostgreSQL, postgresql://USER@HOST/NAME."
        )
    if storage is not None and "://" not in url:
        raise ConfigError(
            f"{where('storage')}storage: '{storage}' is not the URL of a database, expected "
            "postgresql://USER@HOST/NAME, or null for a file in the search folder."
        )


# ---- samplers and pruners ----


def _made(key: str, kind: type, spec: Spec) -> Any:
    """An instance of a class; its arguments may be classes too."""
    name = spec["class_path"].rpartition(".")[2]
    if name in NOT_USABLE:
        raise ConfigError(f"{key}: {name} works inside Optuna's own loop only; write 'sampler: grid'.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{key}", type=kind)
    try:
        with _without_notes():
            return parser.instantiate(parser.parse_object({key: spec}))[key]
    except ImportError as error:
        raise ConfigError(f"{key}: {name} needs another package: {error}.") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _reseeded(spec: Spec, number: int) -> Spec:
    """Replaces the seeds of a sampler and of those inside it by seeds of one trial."""
    kind = pkgutil.resolve_name(spec["class_path"])
    arguments = {
        name: _reseeded(value, number)
        if isinstance(value, dict) and "class_path" in value
        else value
        for name, value in spec.get("init_args", {}).items()
    }
    own: int = arguments.get("seed", 0)
    if own < 0:
        raise ConfigError(f"sampler: seed counts from 0, so it cannot be {own}.")
    drawn = int(np.random.SeedSequence([own, number]).generate_state(1)[0])
    if issubclass(kind, QMCSampler):
        # All trials are points of one sequence, which needs the same seed; what is not in the
        # sequence, such as choices, is drawn anew.
        others = {"class_path": "optuna.samplers.RandomSampler", "init_args": {"seed": drawn}}
        arguments = {"seed": own, "independent_sampler": others, **arguments}
    elif "seed" in inspect.signature(kind).parameters:
        arguments["seed"] = drawn
    return {"class_path": spec["class_path"], "init_args": arguments}
