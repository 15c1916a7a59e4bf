"""How images were prepared for pretrained weights, as settings of the data.

Nothing is built for it: timm and torchvision describe their weights, and so do own checkpoints.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from classifier.weights.file import read_weights
from classifier.weights.origin import FILES, name_of, settings_of
from classifier.weights.pretrained import torchvision_entry

LITE0 = "classifier.networks.efficientnet_lite0"
OF_TORCHVISION = ("torchvision.models.", "classifier.networks.torchvision_model")
INTERPOLATIONS = ("bilinear", "bicubic")


def preparation_for(network: Mapping[str, Any], init_from: str | None) -> dict[str, Any]:
    """The settings ``mean``, ``std``, ``image_size``, ``interpolation`` and ``crop_share``.

    Those that the weights ask for: pretrained ones of timm or torchvision, or those that
    ``init_from`` names. Of a file that does not say, what timm says of the network holds. It is
    empty where nothing pretrained is asked for, or nothing is known.

    Args:
        network: A mapping with ``class_path``.
        init_from: What training starts from.
    """
    settings, path = settings_of(network), network["class_path"]
    if init_from and (known := read_weights(init_from).preparation):
        return known
    if path == LITE0:
        return _of_timm("tf_efficientnet_lite0", {}) if settings.get("pretrained") else {}
    if path.startswith("timm."):
        asked = init_from or settings.get("pretrained")
        return _of_timm(name_of(network), settings) if asked else {}
    weights = settings.get("weights")
    if path.startswith(OF_TORCHVISION) and weights and Path(str(weights)).suffix not in FILES:
        return _of_torchvision(name_of(network), weights)
    return {}


def _of_timm(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError:  # the network says what it needs
        return {}
    given = settings.get("pretrained_cfg")
    if isinstance(given, str):  # a tag
        name = f"{name.partition('.')[0]}.{given}"
    found = get_pretrained_cfg(name)
    config = {
        **(dataclasses.asdict(found) if found else {}),
        **(given if isinstance(given, dict) else {}),
        **(settings.get("pretrained_cfg_overlay") or {}),
    }
    if "mean" not in config:
        return {}
    mean, std, (_, height, width) = config["mean"], config["std"], config["input_size"]
    size = height if height == width else None
    return _settings(mean, std, size, config["interpolation"], config["crop_pct"])


def _of_torchvision(name: str, weights: str) -> dict[str, Any]:
    from torchvision import models

    builder: Callable[..., nn.Module] = models.get_model_builder(name.lower())
    preset = torchvision_entry(builder, weights).transforms()
    size, resized = preset.crop_size[0], preset.resize_size[0]
    return _settings(preset.mean, preset.std, size, preset.interpolation.value, size / resized)


def _settings(
    mean: Any, std: Any, size: int | None, interpolation: str, share: float
) -> dict[str, Any]:
    found = {
        "mean": list(mean),
        "std": list(std),
        "image_size": size,
        "interpolation": interpolation if interpolation in INTERPOLATIONS else None,
        "crop_share": round(min(share, 1.0), 6),
    }
    return {key: value for key, value in found.items() if value is not None}
