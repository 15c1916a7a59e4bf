"""What a training comes from: the settings that decide its weights."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# How far, where to and how fast; what the data is tells its fingerprint.
OF_TRAINER = (
    *("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps"),
    *("default_root_dir", "logger", "log_every_n_steps", "profiler"),
    *("enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
)
IGNORED_SETTINGS = (
    *("hyperparameters", "ckpt_path"),  # a change of a hyperparameter shows where it is used
    *(f"trainer.{name}" for name in OF_TRAINER),
    *(f"data.init_args.{name}" for name in ("root", "path", "manifest", "download", "num_workers")),
)
# Not in earlier configs: where they are null, digests are as they were.
OF_MODEL = (
    *("float32_matmul_precision", "warmup", "groups", "layer_decay", "metrics", "class_weights"),
    *("moving_average", "init_from"),
)
OF_DATA = (
    *("sampler", "crop_share", "interpolation", "folds", "fold", "group", "classes", "resize"),
    *("cache", "on_error", "max_skipped", "reader"),
)
CACHE = "data.init_args.cache"  # memory and disk give the same bits
LATER_SETTINGS = (
    *(f"model.{init}{name}" for init in ("", "init_args.") for name in OF_MODEL),
    *(f"data.init_args.{name}" for name in OF_DATA),
)


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted name.

    >>> flatten({"model": {"monitor": "val_loss", "mean": [0.5]}})
    {'model.monitor': 'val_loss', 'model.mean': [0.5]}
    """
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    parts = (flatten(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}


def weight_affecting_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the weights after a given step depend on, by dotted name."""
    return {
        key: value if key != CACHE else bool(value)
        for key, value in flatten(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in IGNORED_SETTINGS)
        and not (value is None and key in LATER_SETTINGS)
    }


def settings_digest(config: Mapping[str, Any]) -> str:
    """The SHA-256 of the weight-affecting settings of a complete config."""
    text = json.dumps(weight_affecting_settings(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
