"""What the settings of a network say of its weights: where they come from, and how to do without.

A network is a mapping with ``class_path``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classifier.errors import UserError

# The setting that names the network, of functions that build several.
NAMED_BY = {
    "classifier.networks.torchvision_model": "name",
    "torchvision.models.get_model": "name",
    "timm.create_model": "model_name",
}
LOADING = ("torchvision.", "timm.", "classifier.networks.")  # packages whose networks load weights
FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")  # how a file of weights may end
OFF = {"weights": None, "checkpoint_path": None, "pretrained": False}


def switch_off_pretrained(network: Any) -> None:
    """Switches off, in place, the loading of pretrained weights that a checkpoint replaces.

    Otherwise each load would download them first, which a machine without network cannot do.
    """
    if network["class_path"].startswith(LOADING):
        for section in ("init_args", "dict_kwargs"):
            settings = network.get(section) or {}
            for name, off in OFF.items():
                if settings.get(name):
                    settings[name] = off


def settings_of(network: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a network, wherever they stand."""
    return {**(network.get("init_args") or {}), **(network.get("dict_kwargs") or {})}


def name_of(network: Mapping[str, Any]) -> str:
    """The name of a network: that of its class or function, or the one that such a function takes.

    >>> name_of({"class_path": "timm.create_model", "init_args": {"model_name": "vit"}})
    'vit'
    """
    path = network["class_path"]
    return str(settings_of(network).get(NAMED_BY.get(path, "")) or path.rpartition(".")[2])


def name_and_origin(network: Mapping[str, Any]) -> tuple[str, str]:
    """The name of a network and where its weights come from; "" where its settings do not say.

    >>> name_and_origin({"class_path": "timm.create_model", "init_args": {"model_name": "vit"}})
    ('vit', '')
    """
    settings, name = settings_of(network), name_of(network)
    known = [key for key in OFF if key in settings]
    given = next((key for key in known if settings[key]), None)
    if given is None:
        return name, "from scratch" if known else ""
    return name, "pretrained" if given == "pretrained" else f"pretrained: {settings[given]}"


def refuse_other_ways(network: Mapping[str, Any], init_from: str | None) -> None:
    """Raises UserError for a file of weights beside ``model.init_from``, or for two origins."""
    if not network["class_path"].startswith(LOADING):
        return
    settings = settings_of(network)
    for name in ("weights", "checkpoint_path"):
        value = settings.get(name)
        if isinstance(value, str) and (name != "weights" or Path(value).suffix in FILES):
            raise UserError(
                f"model.network.{name} '{value}': expected no file here; write model.init_from: "
                f"{value}, which takes it for any network."
            )
    if init_from and (given := next((key for key in OFF if settings.get(key)), None)):
        raise UserError(
            f"model.init_from '{init_from}' and model.network.{given}: weights come from one of "
            "them; leave out the other."
        )
