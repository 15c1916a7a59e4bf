"""What a checkpoint may name: its config is a stranger's text, and a class path in it is code.

While a checkpoint's config is read, jsonargparse imports nothing but classes of the packages that
are trusted and those that the user names as well.
"""

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jsonargparse import _util, set_parsing_settings
from jsonargparse._common import ImportDenied, check_import_path

PACKAGES = (
    "adabelief_pytorch",
    "classifier.augment",
    "classifier.data",
    "classifier.networks",
    "timm.create_model",
    "timm.layers",
    "timm.loss",
    "timm.models",
    "timm.optim",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
)
"""Packages, modules and functions that a checkpoint may use."""
LOADERS = (
    "cloudpickle",
    "dill",
    "joblib",
    "numpy.load",
    "torch.hub",
    "torch.jit",
    "torch.load",
    "torch.package",
    "torch.serialization",
    "torch.utils.cpp_extension",
    "torch.utils.model_zoo",
    "yaml",
)
"""What runs code out of a file; no config may name it, beside what jsonargparse denies itself."""
FORCE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class Trust:
    """Decides which class paths may be imported.

    Args:
        packages: What is trusted with all that is defined in it.
        named: Class paths, or names of imported classes, that the user gives as well.
    """

    def __init__(self, packages: Iterable[str], named: Iterable[str] = ()) -> None:
        self.packages = tuple(packages)
        self.named = set(named)

    def allows(self, path: str) -> bool:
        """Whether a class path may be imported, judged by its name alone."""
        packages = any(f"{path}.".startswith(f"{package}.") for package in self.packages)
        return packages or path in self.named or path in plain_values()

    def check(self, path: str) -> None:
        """Raises `ImportDenied` for a path that may not be imported.

        jsonargparse asks twice: for the path as it is given, before it imports anything, and for
        where the object is defined, so that ``torch.nn.modules.module.os.system`` is refused too.
        """
        check_import_path(path)
        module, _, name = path.rpartition(".")
        if path in self.named:
            self.named |= _util.canonical_import_paths(_util.import_object(path, check_path=False))
        elif not (self.allows(path) and _is_module(module)) and not self._is_named(module, name):
            raise ImportDenied(self._refusal([path]))

    def check_config(self, config: Any) -> None:
        """Raises `ImportDenied` at once for the class paths of a config that it finds by itself.

        Others, as in a text that is YAML again, are found when they are imported.
        """
        paths = [path for path in class_paths(config) if "." in path]
        if refused := [path for path in paths if not self.allows(path)]:
            raise ImportDenied(self._refusal(refused))

    def _refusal(self, paths: list[str]) -> str:
        """What the user is told of class paths that the checkpoint may not use."""
        partly = {package.partition(".")[0] for package in self.packages}
        missing = []
        for path in paths:
            top = path.partition(".")[0]
            missing.append(path.rpartition(".")[0] if top in partly else top)
        names = " and ".join(f"'{path}'" for path in dict.fromkeys(paths))
        return (
            f"the checkpoint's config names {names}, and importing that would run its code. If "
            f"you trust the checkpoint: --trust {','.join(dict.fromkeys(missing))}, or trust=[...] "
            "of load_from_checkpoint."
        )

    def _is_named(self, module: str, name: str) -> bool:
        """Whether the user gives the bare name of a class that is imported already."""
        return name in self.named and isinstance(getattr(sys.modules.get(module), name, None), type)


@functools.cache
def plain_values() -> frozenset[str]:
    """The names of torch's values that do nothing, such as ``torch.float32``, and of their types.

    jsonargparse reads them by importing them, and then asks for their type as well.
    """
    import torch  # which not everything that knows of trust needs

    kinds = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)
    names = [name for name, value in vars(torch).items() if isinstance(value, kinds)]
    return frozenset(f"torch.{name}" for name in (*names, *(kind.__name__ for kind in kinds)))


def class_paths(config: Any) -> list[str]:
    """All class paths of a config."""
    if isinstance(config, dict):
        own = [config["class_path"]] if isinstance(config.get("class_path"), str) else []
        return own + class_paths(list(config.values()))
    if isinstance(config, list):
        return [path for value in config for path in class_paths(value)]
    return []


def strings(value: Any) -> Iterator[str]:
    """All texts in a value, not the keys of its mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


@contextlib.contextmanager
def confined(trust: Trust) -> Iterator[None]:
    """Within, configs import what is trusted and nothing else, and no file is unpickled.

    That a file is when ``weights_only`` is not given, as in some packages, is an exception that a
    variable of the environment makes.
    """
    token = _active.set(trust)
    exception = os.environ.pop(FORCE, None)
    try:
        yield
    finally:
        _active.reset(token)
        if exception is not None:
            os.environ[FORCE] = exception


def _is_module(name: str) -> bool:
    """Whether it is one; called for names inside the trusted packages."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _check(path: str) -> None:
    trust = _active.get()
    if trust is None:
        check_import_path(path)
    else:
        trust.check(path)


_active: ContextVar[Trust | None] = ContextVar("trust", default=None)
# Private: the settings of jsonargparse hold for the process and for good, and cannot tell the
# user's text from the checkpoint's. tests/test_security.py fails when jsonargparse changes it.
_util.check_import_path = _check  # type: ignore[attr-defined]
# A mapping with a class_path builds something only where the parameter's type says so.
set_parsing_settings(import_path_denylist=list(LOADERS), instantiate_subclass_spec_in_any=False)
