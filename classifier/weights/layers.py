"""The first and the last layer of a network, fitted to other channels and classes."""

import math

import torch
from torch import Tensor, nn

from classifier.parts import Layer


def resize_head(head: Layer, num_classes: int) -> None:
    """Gives the head ``num_classes`` outputs with PyTorch's initial weights for its type."""
    if isinstance(head, nn.Linear):
        head.out_features = num_classes
    else:
        head.out_channels = num_classes
    head.weight = nn.Parameter(head.weight.new_empty(num_classes, *head.weight.shape[1:]))
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias.new_empty(num_classes))
    head.reset_parameters()


def resize_stem(stem: nn.Conv2d, in_channels: int, fresh: bool) -> None:
    """Gives the stem ``in_channels`` inputs; the spread of its responses stays the same."""
    filters = stem.weight.detach()  # (filters, channels, height, width)
    if fresh:
        shape = (len(filters), in_channels, *stem.kernel_size)
        ratio = stem.in_channels / in_channels
        filters = torch.randn(shape) * filters.std() * math.sqrt(ratio)
    else:
        filters = filters_for(filters, in_channels)
    stem.in_channels = in_channels
    stem.weight = nn.Parameter(filters)


def filters_for(filters: Tensor, in_channels: int) -> Tensor:
    """The filters ``(F, C, H, W)`` for other channels: summed for grey, else repeated and scaled.

    Exact for grey images, whose colours all had the same value.
    """
    if in_channels == 1:
        return filters.sum(1, keepdim=True)
    ratio = filters.shape[1] / in_channels
    return filters.repeat(1, math.ceil(1 / ratio), 1, 1)[:, :in_channels] * ratio
