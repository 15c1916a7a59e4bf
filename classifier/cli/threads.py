"""How many threads a training on processors has, where its user does not say it."""

import copy
import math
from typing import Any

import torch
from torch import nn

from classifier.cli.fill import size_of
from classifier.data import ImageDataModule

# Operations of a step below which threads wait for each other longer than the work that they share
# takes. Measured with two (classifier/tune/README.md): at 0.04 and 0.12 billion one takes at most
# 1.3 times as long as the best way on an idle machine, and is the best beside another process; from
# 1.5 billion on all are better.
SMALL = 5e8


def usual_threads(network: nn.Module, data: ImageDataModule, device: torch.device) -> int:
    """As many threads as torch has, or one where a training step on processors is small.

    It follows from the config alone, not from a measurement: the last bits depend on it.
    """
    most = torch.get_num_threads()
    if most == 1 or device.type != "cpu":
        return most
    return 1 if _operations(network, data) < SMALL else most


def _operations(network: nn.Module, data: ImageDataModule) -> float:
    """Floating-point operations of a training step; infinite if they are many, or not known.

    They are three times those of the forward pass, for the backward pass has two products for each
    of it. Those of a large network are not counted: each parameter is in a product of each image.
    """
    try:
        images, size = data.batch_size, size_of(data)
        least = 6.0 * images * sum(p.numel() for p in network.parameters())
        if size is None or least >= SMALL:
            return math.inf
        from torch.utils.flop_counter import FlopCounterMode  # takes a tenth of a second

        counter: Any = FlopCounterMode(display=False)
        with counter, torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(network).eval()(torch.zeros(1, data.in_channels, *size))
    except Exception:  # what a network takes is its own affair, and is said when it is trained
        return math.inf
    return 3.0 * images * int(counter.get_total_flops())
