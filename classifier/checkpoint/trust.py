"""What a config may name: a class path in it is code that runs when it is imported.

Two things speak for the user: files and words that the user names, and what carries the user's
signature. Whatever else a config names has to be of packages that do no harm.
"""

import contextlib
import functools
import importlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import classifier
from classifier.anchored_yaml.text import load
from classifier.checkpoint import signature
from classifier.checkpoint.find import PATH_SETTINGS
from classifier.checkpoint.modules import OwnModules, digest, found_by_others, served, source_in
from classifier.checkpoint.signature import Origin
from classifier.errors import UserError
from classifier.internals.jsonargparse import (
    ImportDenied,
    asking,
    check_import_path,
    defining_paths,
)

# Packages, modules and functions that a checkpoint may use.
PACKAGES = (
    *("classifier.augment", "classifier.data", "classifier.images.readers"),
    *("classifier.metrics", "classifier.networks"),
    "classifier.module.ClassificationModule",
    *("timm.create_model", "timm.layers", "timm.loss", "timm.models", "timm.optim"),
    *("torch.nn", "torch.optim", "torchmetrics", "adabelief_pytorch"),
    *("torchvision.models", "torchvision.ops", "torchvision.transforms"),
)
# What runs code out of a file; no config may name it, beside what jsonargparse denies itself.
LOADERS = (
    *("cloudpickle", "dill", "joblib", "numpy.load", "yaml"),
    *("torch.hub", "torch.jit", "torch.load", "torch.package", "torch.serialization"),
    *("torch.utils.cpp_extension", "torch.utils.model_zoo"),
)
FORCE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
# The entries of a run record that decide what its config may import.
SIGNED = ("trusted", "working_folder", "code", "code_folders")


class NotTrustedError(ImportDenied, UserError):
    """A class path that a config may not use."""


@dataclass
class Found:
    """A config that nobody named, but that was found in a checkpoint or a folder."""

    name: str  # what it was found in, for messages
    origin: Origin
    record: Mapping[str, Any]  # the run record beside it
    remedy: str = ""  # what else the user can do if it is refused, as a sentence


class Trust:
    """Decides which class paths may be imported, and from where.

    Args:
        packages: What any config may use with all that is defined in it, where it is installed.
        words: What the user gives: class paths, names of imported classes. None if all that is
            imported is by the user's words.
        trusted: Packages or modules that the user trusts with all that is defined in them.
        found: The config that is read besides the user's words.
        here: The folder whose modules the user's words may name; the working folder if not given.
        beside: Others, in which his configs are.
    """

    def __init__(
        self,
        packages: Iterable[str] = (),
        words: Iterable[str] | None = (),
        trusted: Iterable[str] = (),
        found: Found | None = None,
        here: Path | None = None,
        beside: Iterable[Path] = (),
    ) -> None:
        self.packages = tuple(packages)
        self.words = None if words is None else set(words)
        self.trusted = tuple(trusted)
        self.found = found
        self.folders = list(dict.fromkeys([here or Path.cwd(), *map(Path.resolve, beside)]))
        self.granted: set[str] = set()  # imported because the user or the signature asks for it
        record = found.record if found and found.origin == "own" else {}
        # What the user's own words asked for in a run that the user's signature is on.
        self.signed: set[str] = set(record.get("trusted", ()))
        folders, digests = (dict(record.get(name, {})) for name in ("code_folders", "code"))
        self.modules = OwnModules(folders, digests, str(self.folders[0]))

    def allows(self, path: str) -> bool:
        """Whether any config may import a class path, judged by its name alone."""
        return _is_within(path, self.packages) or path in plain_values()

    def check(self, path: str) -> None:
        """Raises `NotTrustedError` for a path that may not be imported.

        jsonargparse asks twice: for the path as it is given, before it imports anything, and for
        where the object is defined, so that ``torch.nn.modules.module.os.system`` is refused too.
        """
        check_import_path(path)
        module, _, name = path.rpartition(".")
        top = path.partition(".")[0]
        if self._is_asked_for(path):
            _reach(top, self.folders)
            if self.words is not None:
                self.words |= defining_paths(path)
        elif _is_within(path, self.signed):
            self._check_module(path)
            self.signed |= defining_paths(path)
        elif self.allows(path) and _is_module(module):
            return
        elif self.allows(path) and not found_by_others(top):
            package = top.replace("_", "-")
            raise NotTrustedError(f"'{path}' needs a package: pip install {package}.")
        elif not self._is_named(module, name):
            raise NotTrustedError(self._refusal([path]))
        self.granted.add(path)

    def check_config(self, config: Any) -> None:
        """Raises `NotTrustedError` at once for the class paths of a config that it finds by itself.

        Others, as in a text that is YAML again, are found when they are imported.
        """
        paths = [path for path in class_paths(config) if "." in path]
        others = [path for path in paths if not (self._is_asked_for(path) or self.allows(path))]
        if refused := [path for path in others if not _is_within(path, self.signed)]:
            raise NotTrustedError(self._refusal(refused))
        for path in others:
            self._check_module(path)

    def for_record(self) -> list[str]:
        """What a later run with the same config may import, beyond ``packages``."""
        return sorted(path for path in {*self.granted, *self.trusted} if not self.allows(path))

    def packages_of(self, paths: Iterable[str]) -> list[str]:
        """What the user has to trust for class paths: whole packages, or modules of known ones."""
        partly = {package.partition(".")[0] for package in self.packages}
        tops = [(path, path.partition(".")[0]) for path in paths]
        found = [path.rpartition(".")[0] if top in partly else top for path, top in tops]
        return [name for name in dict.fromkeys(found) if not _is_within(name, {*found} - {name})]

    def _is_asked_for(self, path: str) -> bool:
        """Whether the user's own words ask for it."""
        return self.words is None or path in self.words or _is_within(path, self.trusted)

    def _check_module(self, path: str) -> None:
        """Refuses a module that the signature is not on."""
        if problem := self.modules.problem(path.partition(".")[0]):
            raise NotTrustedError(self._refusal([path], problem))

    def _is_named(self, module: str, name: str) -> bool:
        """Whether the user gives the bare name of a class that is imported already."""
        given = self.words is not None and name in self.words
        return given and isinstance(getattr(sys.modules.get(module), name, None), type)

    def _refusal(self, paths: list[str], because: str = "") -> str:
        """What the user is told of class paths that may not be used."""
        found = self.found or Found("the config", "unsigned", {})
        names = " and ".join(f"'{path}'" for path in dict.fromkeys(paths))
        packages = ",".join(self.packages_of(paths))
        remedy = f"--trust {packages}, or trust=[...] of load_from_checkpoint"
        if because:
            told = f"{because}. {remedy}, imports whatever has that name here."
        else:
            told = f"importing that would run its code. If you trust it: {remedy}."
        lines = [f"{found.name} names {names}, and {told}"]
        if found.remedy:
            lines.append(found.remedy)
        elif found.origin == "another key":
            lines.append(
                "It is signed with a key that is not at hand. If it comes from another machine or "
                f"container of yours, or a colleague, {signature.VARIABLE}=FILE names one for both."
            )
            if hindrance := signature.hindrance():
                lines.append(f"Here {hindrance}")
        return "\n".join(lines)


@functools.cache
def plain_values() -> frozenset[str]:
    """The names of torch's values that do nothing, such as ``torch.float32``, and of their types.

    jsonargparse reads them by importing them, and then asks for their type as well.
    """
    import torch  # which not everything that knows of trust needs

    kinds = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)
    names = [name for name, value in vars(torch).items() if isinstance(value, kinds)]
    return frozenset(f"torch.{name}" for name in (*names, *(kind.__name__ for kind in kinds)))


def _is_within(path: str, packages: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{package}.") for package in packages)


def _reach(name: str, folders: Sequence[Path]) -> None:
    """Lets Python find a module of a folder, last, where no package has its name.

    With all that is beside it, for that is what it may import.
    """
    if name in sys.modules or found_by_others(name):
        return
    found = list(filter(None, (source_in(folder, name) for folder in folders)))
    # A folder of that name may hold anything, such as images.
    modules = [file for file in found if file.is_file() or (file / "__init__.py").exists()]
    if len(modules) > 1 and len({digest(module) for module in modules}) > 1:
        raise UserError(
            f"'{name}' may be '{modules[0]}' or '{modules[1]}': rename one, or start elsewhere."
        )
    for source in [*modules, *found][:1]:
        sys.path.append(str(source.parent))


def folders_searched() -> list[Path]:
    """Where modules are looked for that are not installed."""
    trust = active.get()
    return trust.folders if trust else [Path.cwd()]


def class_paths(config: Any) -> list[str]:
    """All class paths of a config."""
    if isinstance(config, dict):
        own = [config["class_path"]] if isinstance(config.get("class_path"), str) else []
        return own + class_paths(list(config.values()))
    if isinstance(config, list):
        return [path for value in config for path in class_paths(value)]
    return []


def strings(value: Any) -> Iterator[str]:
    """All texts in a value, but not the keys of its mappings and where data is."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings([part for key, part in value.items() if key not in PATH_SETTINGS])
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def names_in(texts: Iterable[str]) -> set[str]:
    """What the values in YAML texts of the user may name: classes, but no file and no folder."""
    names: set[str] = set()
    for text in texts:
        with contextlib.suppress(UserError):  # an argument need not be YAML
            names |= set(strings(load(text)))
    return {name for name in names if not _is_path(name)}


def _is_path(name: str) -> bool:
    """Whether a value is that of a file: then ``model.ckpt`` does not ask for a ``model.py``."""
    with contextlib.suppress(OSError, ValueError):
        return Path(name).exists()
    return False


def packages_in(options: Sequence[str]) -> list[str]:
    """The packages of ``--trust``, which may be given several times."""
    packages = [package.strip() for option in options for package in option.split(",")]
    for package in packages:
        if not all(part.isidentifier() for part in package.split(".")):
            raise UserError(f"--trust {package!r}: expected a package, such as timm.data.")
    return packages


def signed_part(record: Mapping[str, Any], config: str) -> str:
    """What the signature of a run record is on: the config and what decides what it may import."""
    known = {name: record.get(name) for name in SIGNED}
    return json.dumps({"config": config, **known}, sort_keys=True)


def origin_of_run(record: Mapping[str, Any], config: str) -> Origin:
    """Whose a config is that lies beside a run record."""
    return signature.origin("run", signed_part(record, config), record.get("signature"))


# What decides within ``confined``.
active: ContextVar[Trust | None] = ContextVar("trust", default=None)


def import_class(class_path: str) -> Any:
    """Returns a class or function; raises `NotTrustedError` if it may not be imported."""
    if trust := active.get():
        trust.check(class_path)
    # pkgutil.resolve_name would take a module of the same name.
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def confined(trust: Trust) -> Iterator[None]:
    """Within, configs import what is trusted and nothing else, and no file is unpickled.

    That a file is when ``weights_only`` is not given, as in some packages, is an exception that a
    variable of the environment makes. The working folder is not searched for modules, unless all
    is by the user's words or they name one in it.
    """
    token = active.set(trust)
    exception = os.environ.pop(FORCE, None)
    path = [*sys.path]
    if trust.found:
        sys.path[:] = [folder for folder in path if not _is_here(folder)]
    try:
        with asking(_check, LOADERS), served(trust.modules):
            yield
    finally:
        sys.path[:] = path
        active.reset(token)
        if exception is not None:
            os.environ[FORCE] = exception


def _is_here(folder: str) -> bool:
    """Whether a folder of Python's path is the working folder, unless this package is in it."""
    if Path(classifier.__file__).parents[1] == Path(folder).absolute():
        return False
    with contextlib.suppress(OSError):
        return Path(folder).samefile(Path.cwd())
    return False


def _is_module(name: str) -> bool:
    """Whether it is one; called for names inside the trusted packages."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _check(path: str) -> None:
    trust = active.get()
    check = trust.check if trust else check_import_path
    check(path)
