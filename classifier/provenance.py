"""What a training comes from: the settings and the source code that decide its weights."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# How far, where to and how fast; what the data is tells its fingerprint.
INDIFFERENT = (
    "hyperparameters",  # a change of one shows where it is used
    "ckpt_path",
    *(
        f"trainer.{name}"
        for name in (
            *("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps"),
            *("default_root_dir", "logger", "log_every_n_steps", "profiler"),
            *("enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
        )
    ),
    *(f"data.init_args.{name}" for name in ("root", "download", "num_workers")),
)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted name.

    >>> flat({"model": {"monitor": "val_loss", "mean": [0.5]}})
    {'model.monitor': 'val_loss', 'model.mean': [0.5]}
    """
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    parts = (flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the weights after a given step depend on, by dotted name."""
    return {
        key: value
        for key, value in flat(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in INDIFFERENT)
    }


def settings_digest(config: Mapping[str, Any]) -> str:
    """The SHA-256 of the decisive settings of a complete config."""
    text = json.dumps(decisive(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def code_digests(modules: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of the source of this package and of the user's modules, by top-level name.

    Installed packages have versions instead. Beside a module of the user's, those in the same
    folder count that are imported by now.

    Args:
        modules: Top-level modules that the config names.
    """
    named = (_source(name) for name in set(modules) - {"classifier"})
    folders = {path.parent for path in named if path and not is_installed(path)}
    imported = (name for name in list(sys.modules) if "." not in name and name != "__main__")
    sources = {name: path for name in imported if (path := _source(name))}
    own = [name for name in sorted(sources) if sources[name].parent in folders]
    return {name: _digest(sources[name]) for name in dict.fromkeys(("classifier", *own))}


def is_installed(source: Path) -> bool:
    """Whether a package or module was installed, or came with Python."""
    standard = Path(json.__file__).parents[1]
    return bool({"site-packages", "dist-packages"} & set(source.parts)) or (
        source.is_relative_to(standard)
    )


def _source(name: str) -> Path | None:
    """The file of a module that is imported, or the folder of a package."""
    module = sys.modules.get(name)
    folders = list(getattr(module, "__path__", None) or [])
    file = folders[0] if folders else getattr(module, "__file__", None)
    return Path(file) if file else None


def _digest(source: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(source.rglob("*.py")) if source.is_dir() else [source]
    for file in files:
        digest.update(f"{file.relative_to(source.parent).as_posix()}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
