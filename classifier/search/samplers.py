"""Optuna's samplers and pruners, described by class_path and init_args as in YAML.

A description is kept rather than an object because every trial gets a sampler of its own.
"""

import inspect
import pkgutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler

from classifier.checkpoint.trust import import_class
from classifier.errors import UserError

Spec: TypeAlias = dict[str, Any]  # class_path and init_args

DEFAULT_SAMPLER: Spec = {"class_path": "optuna.samplers.TPESampler"}
DEFAULT_PRUNER: Spec = {
    "class_path": "optuna.pruners.MedianPruner",
    "init_args": {"n_startup_trials": 5},
}
GRIDS = ("GridSampler", "BruteForceSampler")
NO_GRID = "this class needs Optuna's own loop; write 'sampler: grid' in its place."
# Imported by Optuna when the first trial is chosen, and not among its own requirements.
PACKAGES = {
    "CmaEsSampler": "cmaes",
    "GPSampler": "scipy",
    "QMCSampler": "scipy",
    "WilcoxonPruner": "scipy",
}


def make_sampler(spec: Spec | Literal["grid"], number: int) -> BaseSampler:
    """A fresh sampler for one trial.

    Its seed depends on the number of the trial: a search that was interrupted proposes
    what it would have without, and workers that sample at the same time draw different numbers.

    Raises:
        UserError: The class does not accept its init_args, or needs a package.
    """
    if spec == "grid":
        return RandomSampler()  # whose trials are known beforehand
    if spec["class_path"].endswith(GRIDS):
        raise UserError(NO_GRID)
    found: BaseSampler = _instantiate("sampler", BaseSampler, _reseeded(spec, number))
    return found


def make_pruner(spec: Spec | None) -> BasePruner:
    """A pruner; one that stops nothing for None.

    Raises:
        UserError: The class does not accept its init_args, or needs a package.
    """
    found: BasePruner = NopPruner() if spec is None else _instantiate("pruner", BasePruner, spec)
    return found


def spec_of(value: Any) -> Any:
    """What a parser read, as YAML has it, without init_args that are None by default.

    Optuna marks by that default what it is about to remove: a search that was made with one
    version is then resumed with the next. The seed of a sampler is 0 by default.
    """
    if inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    if not isinstance(value, Namespace):
        return value
    kind = pkgutil.resolve_name(value.class_path)
    parameters = inspect.signature(kind).parameters
    init_args = value.get("init_args")
    arguments = {
        name: spec_of(argument)
        for name, argument in (vars(init_args) if init_args else {}).items()
        if argument is not None or parameters[name].default is not None
    }
    if "seed" in parameters and inspect.isclass(kind) and issubclass(kind, BaseSampler):
        arguments.setdefault("seed", 0)
    return {"class_path": value.class_path, "init_args": arguments}


@contextmanager
def without_experimental_warnings() -> Iterator[None]:
    """Half of Optuna's classes announce themselves as experimental; nobody can act on that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _instantiate(key: str, kind: type, spec: Spec) -> Any:
    """An instance of a class; its arguments may be classes too."""
    name = spec["class_path"].rpartition(".")[2]
    package = PACKAGES.get(name)
    if package and find_spec(package) is None:
        raise UserError(f"{name} needs a package: pip install {package}.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{key}", type=kind)
    try:
        with without_experimental_warnings():
            return parser.instantiate(parser.parse_object({key: spec}))[key]
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def _reseeded(spec: Spec, number: int) -> Spec:
    """Replaces the seeds of a sampler and of those inside it by seeds of one trial."""
    kind = import_class(spec["class_path"])  # asks: it may be inside of untyped arguments
    arguments = {
        name: _reseeded(value, number)
        if isinstance(value, dict) and "class_path" in value
        else value
        for name, value in spec.get("init_args", {}).items()
    }
    seed: Any = arguments.get("seed", 0)
    if seed < 0:
        raise UserError(f"a seed is a whole number from 0, not {seed}.")
    if issubclass(kind, QMCSampler):
        arguments["seed"] = seed  # its trials are points of one sequence
    elif "seed" in inspect.signature(kind).parameters:
        arguments["seed"] = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return {"class_path": spec["class_path"], "init_args": arguments}
