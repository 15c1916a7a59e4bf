"""What a resumed training takes from its checkpoint when settings were changed since.

The command line and the config files win over the checkpoint. PyTorch's ``load_state_dict``
does the opposite: it brings back the learning rate and every other saved setting.
"""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]


def follow_new_settings(checkpoint: dict[str, Any], settings: Settings) -> None:
    """Edits the saved optimizer and scheduler states so that changed settings take effect.

    Another optimizer or scheduler class starts with a fresh state. A changed learning rate keeps
    the position in the schedule: the rate is scaled by new over old base rate. Without base rate
    (no scheduler, or ReduceLROnPlateau) it is set.

    Args:
        checkpoint: A loaded Lightning checkpoint; changed in place.
        settings: The ``model`` settings that hold now, as plain mappings.
    """
    saved = checkpoint.get("hyper_parameters", {})
    if "optimizer_states" not in checkpoint or "network" not in saved:
        return  # weights only, or not made from the command line
    regrouped = saved.get("no_decay_norm_bias") != settings.get("no_decay_norm_bias")
    if regrouped or _class_path(saved, "optimizer") != _class_path(settings, "optimizer"):
        checkpoint["optimizer_states"] = []
        checkpoint["lr_schedulers"] = []
        return
    if _class_path(saved, "lr_scheduler") != _class_path(settings, "lr_scheduler"):
        checkpoint["lr_schedulers"] = []
    for state in checkpoint["lr_schedulers"]:
        for name in _changed(saved, settings, "lr_scheduler"):
            state.pop(name, None)  # what is not restored keeps its new value
    changed = _changed(saved, settings, "optimizer")
    for state in checkpoint["optimizer_states"]:
        decayed, *exempt = state["param_groups"]
        _update_group(decayed, changed, checkpoint["lr_schedulers"])
        changed.pop("weight_decay", None)
        for group in exempt:
            _update_group(group, changed, checkpoint["lr_schedulers"])


def _update_group(
    group: dict[str, Any], changed: dict[str, Any], schedulers: list[dict[str, Any]]
) -> None:
    for name in changed.keys() & group.keys():
        if name == "lr" and group.get("initial_lr"):
            group["lr"] *= changed["lr"] / group["initial_lr"]
            group["initial_lr"] = changed["lr"]
            for state in schedulers:
                state["base_lrs"] = [changed["lr"] for _ in state.get("base_lrs", [])]
        else:
            group[name] = changed[name]


def _class_path(settings: Settings, name: str) -> str | None:
    spec = settings.get(name)
    return spec["class_path"] if isinstance(spec, Mapping) else spec


def _changed(saved: Settings, settings: Settings, name: str) -> dict[str, Any]:
    """The init_args of ``name`` that differ from the saved ones."""
    old, new = (
        dict(spec.get("init_args") or {}) if isinstance(spec, Mapping) else {}
        for spec in (saved.get(name), settings.get(name))
    )
    return {key: value for key, value in new.items() if key not in old or old[key] != value}
