"""The weights that a validation measures, which callbacks may change right after it."""

import copy
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor


def weights_of(trainer: pl.Trainer) -> dict[str, Any] | None:
    """A copy of the weights in the memory of the host; None on other ranks than zero."""
    state = trainer.strategy.lightning_module_state_dict()  # all ranks may have a part
    if not trainer.is_global_zero:
        return None
    return {
        name: value.detach().to("cpu", copy=True)
        if isinstance(value, Tensor)
        else copy.deepcopy(value)
        for name, value in state.items()
    }


def without_masks(weights: dict[str, Any]) -> dict[str, Any]:
    """The weights that ModelPruning saves: those that torch.nn.utils.prune computes with."""
    kept = {}
    for name, value in weights.items():
        plain = name.removesuffix("_orig")
        if f"{plain}_mask" in weights:
            kept[plain] = value * weights[f"{plain}_mask"]
        elif not name.endswith("_mask"):
            kept[name] = value
    return kept


def are_equal(weights: dict[str, Any], others: dict[str, Any]) -> bool:
    """Whether two ``state_dict`` hold the same bits."""
    return weights.keys() == others.keys() and all(
        torch.equal(value, others[name].detach().cpu())
        if isinstance(value, Tensor)
        else value == others[name]
        for name, value in weights.items()
    )
