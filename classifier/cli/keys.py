"""Which settings there are, as the last command that was parsed left them.

Only the classes know, and to import them takes seconds. Of what is installed the names are kept in
a file of the user's cache, with the files that they come from: where one has changed since, they
are not known.
"""

import contextlib
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import classifier
from classifier.anchored_yaml.text import KeyPath, dotted
from classifier.atomic import write_text
from classifier.checkpoint.modules import is_installed
from classifier.errors import did_you_mean
from classifier.platform import cache_folder

COMMAND = "classifier.cli.classifier_cli.ClassifierCLI"  # the class behind the command classifier
MODULE = "classifier.module.ClassificationModule"  # of ``model`` where nobody names one
OWNERS = {"trainer": "pytorch_lightning.Trainer", "save_every": COMMAND}  # sections, not classes
MODEL = "model.init_args"
NETWORK = f"{MODEL}.network.init_args"
LINKS = [  # what data is the source of, and what is filled in
    ("data.num_classes", f"{NETWORK}.num_classes"),
    ("data.in_channels", f"{NETWORK}.in_channels"),
    ("data.in_channels", f"{NETWORK}.in_chans"),
    ("data.class_names", f"{MODEL}.class_names"),
    ("data.mean", f"{MODEL}.mean"),
    ("data.std", f"{MODEL}.std"),
]
OF_METRICS = ("num_classes", "task")  # what is filled in for each of model.metrics
RENAMED = {  # as other programs, or earlier versions of Lightning, call it
    **dict.fromkeys(("gpus", "trainer.gpus", "trainer.num_processes"), "trainer.devices"),
    **dict.fromkeys(("trainer.epochs", "max_epochs", "epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("resume", "checkpoint", "trainer.resume_from_checkpoint"), "ckpt_path"),
    **dict.fromkeys(("trainer.amp_backend", "trainer.amp_level", "precision"), "trainer.precision"),
    "trainer.checkpoint_callback": "trainer.enable_checkpointing",
    "trainer.progress_bar_refresh_rate": "trainer.enable_progress_bar",
    "trainer.weights_summary": "trainer.enable_model_summary",
    "trainer.distributed_backend": "trainer.strategy",
    "batch_size": "data.batch_size",
    "lr": "model.optimizer.lr",
    "seed": "seed_everything",
    "output_dir": "trainer.default_root_dir",
}
SYNONYMS = {"learning_rate": "lr", "freeze": "groups"}  # likewise, of settings of classes
NAME_A_CONFIG = (
    "Name a config file, --config FILE, or a checkpoint that carries its config, --ckpt_path FILE."
)
OF_MODEL = ("optimizer", "lr_scheduler", "network", "loss")  # where LightningCLI has some itself
FILLED_IN = frozenset([*(target.rpartition(".")[2] for _, target in LINKS), *OF_METRICS])
Keys = Mapping[str, list[str]]  # as ``used_at`` names them


def known_keys(cli: str = COMMAND) -> Keys:
    """The settings of sections, and of classes where they were used; of no others."""
    return {name: entry["keys"] for name, entry in _read(cli).items()}


def used_at(path: Iterable[str | int], owner: str) -> str:
    """The name of a section, or of a class at its place in a config.

    >>> used_at(["trainer", "callbacks", 0, "init_args"], "own.Saver")
    'trainer.callbacks own.Saver'
    """
    place = dotted([part for part in path if part != "init_args" and isinstance(part, str)])
    return place if place in OWNERS else f"{place} {owner}"


def remember(cli: str, settings: Mapping[str, Any], left_out: Mapping[str, str]) -> None:
    """Keeps the names of the settings in a config that was parsed, which has all defaults.

    Those of some classes lack one, which is ``left_out``.
    """
    before = _read(cli)
    found = [
        (used_at(path, kind), kind, keys | ({left_out[kind]: None} if kind in left_out else {}))
        for path, kind, keys in _found_in(settings)
    ]
    found += [(name, kind, settings[name]) for name, kind in OWNERS.items() if name in settings]
    entries = {
        name: {"keys": list(keys), "files": files}
        for name, kind, keys in found
        if (files := _files_of(kind))
    }
    if any(before.get(name) != entry for name, entry in entries.items()):
        with contextlib.suppress(OSError):
            _file(cli).parent.mkdir(parents=True, exist_ok=True)
            write_text(_file(cli), json.dumps({**before, **entries}))


def _found_in(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str, dict[str, Any]]]:
    """Every class of a config with its place and its settings."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str) and isinstance(value.get("init_args"), dict):
            yield path, value["class_path"], value["init_args"]
        for key, part in value.items():
            yield from _found_in(part, (*path, key))
    for number, part in enumerate(value if isinstance(value, list) else ()):
        yield from _found_in(part, (*path, number))


def _files_of(path: str) -> dict[str, int]:
    """The files that an installed class or function is written in, and when each was changed."""
    module, _, name = path.rpartition(".")
    found: Any = getattr(sys.modules.get(module), name, None)
    kinds = inspect.getmro(found) if isinstance(found, type) else [inspect.unwrap(found)]
    modules = {module, *(str(getattr(kind, "__module__", "")) for kind in kinds)}
    files = [getattr(sys.modules.get(module), "__file__", None) for module in modules]
    paths = [Path(file) for file in files if file]
    here = Path(classifier.__file__).parent
    if not paths or not all(is_installed(path) or path.is_relative_to(here) for path in paths):
        return {}
    return {str(path): path.stat().st_mtime_ns for path in paths}


def _file(cli: str) -> Path:
    """One for each installation and each class of a command line."""
    place = hashlib.sha256(f"{sys.prefix} {classifier.__file__} {cli}".encode())
    return cache_folder() / "classifier" / f"keys-{place.hexdigest()[:16]}.json"


def _read(cli: str) -> dict[str, Any]:
    try:
        entries = json.loads(_file(cli).read_text(encoding="utf-8"))
        return {name: entry for name, entry in entries.items() if _holds(entry["files"])}
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # none yet, or damaged: it is made anew


def _holds(files: Mapping[str, int]) -> bool:
    with contextlib.suppress(OSError):  # one is gone
        return all(Path(file).stat().st_mtime_ns == changed for file, changed in files.items())
    return False


# ---- what is said of one that there is not ----


def close_key(key: str, names: Iterable[str]) -> str:
    """Suggests a whole dotted name, of all the names that the parser knows."""
    if key in RENAMED:
        return f", did you mean '{RENAMED[key]}'?"
    known = set(names)
    groups = {name.rsplit(".", i)[0] for name in known for i in range(name.count(".") + 1)}
    while "." in key and key.rpartition(".")[0] not in groups:
        key = key.rpartition(".")[0]  # the first part that is wrong
    return did_you_mean(key, known | groups)


def no_such_setting(key: str, owner: str, names: Collection[str]) -> str:
    """What is said of a setting that a section, or the class that owns it, does not have."""
    *_, section, name = ["", *key.split(".")]
    if section == owner:
        return f"{key}: no such setting{close_key(key, [f'{section}.{known}' for known in names])}"
    return f"{without_module(key)}: no such setting of {owner}{close_setting(name, names)}"


def close_setting(name: str, names: Collection[str]) -> str:
    """Ends a sentence about a setting that a class does not have, given those that it has."""
    if SYNONYMS.get(name) in names:
        return f", did you mean '{SYNONYMS[name]}'?"
    return did_you_mean(name, names, f"; it has {', '.join(names)}.")


def without_module(key: str) -> str:
    """A dotted key as a config has it where the module is of the usual class.

    >>> without_module("model.init_args.network.init_args.width")
    'model.network.init_args.width'
    """
    return re.sub(r"^model\.init_args\.", "model.", key)
