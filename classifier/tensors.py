"""Tensors that are settings: lists in a config, and not among the weights of a checkpoint."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from classifier.internals.jsonargparse import registered


def tensors_as_lists() -> contextlib.AbstractContextManager[None]:
    """Within, a parameter that is a tensor takes a list of numbers, nested for more dimensions.

    Whole numbers become floating-point ones. A config that is written holds lists again.
    """
    return registered(Tensor, _numbers_of, _tensor_of)


def _tensor_of(value: Any) -> Tensor:
    try:
        tensor = torch.tensor(value if isinstance(value, list) else None)  # a number may be one
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(value) from None
    is_whole = not (tensor.is_floating_point() or tensor.dtype == torch.bool)
    return tensor.to(torch.get_default_dtype()) if is_whole else tensor


def _numbers_of(tensor: Tensor) -> Any:
    if not tensor.is_floating_point():
        return tensor.tolist()
    # By their shortest texts: 0.1 in single precision is 0.10000000149011612 in double.
    return tensor.detach().cpu().numpy().astype(str).astype(float).tolist()


def keep_given_tensors(part: nn.Module) -> dict[str, Tensor]:
    """Keeps tensors that are arguments of a class out of checkpoints, which have the settings.

    Else those of a checkpoint would win over what is written.

    Returns:
        Copies of those that were given, by dotted name.
    """
    given = {}
    names = {kind: _tensor_arguments(kind) for kind in {type(module) for module in part.modules()}}
    for place, module in part.named_modules():
        own = names[type(module)]
        buffers = dict(module.named_buffers(recurse=False))
        for name in own & buffers.keys():
            module.register_buffer(name, buffers[name], persistent=False)
            given[f"{place}.{name}".lstrip(".")] = buffers[name].clone()
    return given


def changed_tensors(part: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """Names those of the tensors given that are others now: no checkpoint has what they became."""
    now = {name: part.get_buffer(name).cpu() for name in given}
    return [name for name, then in given.items() if not now[name].equal(then.to(now[name].dtype))]


def without_given_tensors(part: nn.Module, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of an earlier checkpoint, in which such tensors still were."""
    left_out = {
        f"{place}.{name}".lstrip(".")
        for place, module in part.named_modules()
        for name in _tensor_arguments(type(module))
        if not isinstance(getattr(module, name, None), nn.Parameter)
    }
    return {name: value for name, value in weights.items() if name not in left_out}


def _tensor_arguments(kind: type) -> set[str]:
    parameters = inspect.signature(kind).parameters.values()
    return {p.name for p in parameters if "Tensor" in str(p.annotation)}
