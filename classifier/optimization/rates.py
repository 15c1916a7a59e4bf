"""The rate of each parameter group in a step: what the schedule says, times a factor.

All groups of an optimizer carry the same rate, and it is multiplied only while the optimizer
steps. Groups with rates of their own would not keep their ratio: CosineAnnealingLR with
``eta_min``, OneCycleLR, CyclicLR and ReduceLROnPlateau with ``min_lr`` bring them together. Nor
does a factor stand in any state, so that a resumed training takes the factors of its settings.
The hooks are torch's: Lightning warns of a module that overrides ``optimizer_step`` as soon as
accumulation is scheduled, and does not call it where a module optimizes by itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from torch.optim import Optimizer

from classifier.errors import UserError


class Warmup(TypedDict, total=False):
    """How long the rate rises, in one of the two units: epochs, which may be parts, or steps."""

    epochs: float
    steps: int


def check_warmup(warmup: Mapping[str, Any]) -> None:
    """Raises UserError unless a length stands in exactly one unit."""
    given = {key: value for key, value in warmup.items() if value is not None}
    if len(given) != 1 or not given.keys() <= Warmup.__annotations__.keys():
        raise UserError(
            f"model.warmup is {dict(warmup)}; give it one length, {{epochs: 1}} or {{steps: 500}}."
        )
    (unit, length), *_ = given.items()
    if not 0 < length < math.inf:
        raise UserError(f"model.warmup.{unit} is {length}, expected more than 0; or leave it out.")


class Rates:
    """Multiplies the rates of an optimizer's groups for as long as it steps.

    In step t, counted from 0, that of a group is ``scale * min(1, (t - begin + 1) / warmup)`` times
    the schedule's, and 0 as long as the group is frozen.

    Args:
        optimizer: The optimizer.
        scales: Of each of its groups, how large its rate is, the schedule's being 1.
        warmup: How many optimizer steps the rates rise for; 0 for none.
        step: Tells how many steps were taken.

    Attributes:
        begins: The step from which on each group is trained; infinite while it is frozen.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scales: Sequence[float],
        warmup: int,
        step: Callable[[], int],
    ) -> None:
        self.optimizer, self.scales, self.warmup, self._step = optimizer, scales, warmup, step
        self.begins: list[float] = [0.0] * len(scales)
        self._unscaled: list[Any] | None = None  # the schedule's rates, while others are in place
        optimizer.register_step_pre_hook(self.scale)
        optimizer.register_step_post_hook(self.restore)
        # Of a step that was broken off, as by an error in the forward pass.
        optimizer.register_state_dict_pre_hook(self.restore)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Rates":
        """Itself: a moving average copies the module that it is of, not its optimizer."""
        return self

    def rise(self, steps: float) -> float:
        """The share of the rate after so many steps; 0 before the first."""
        if steps < 0:
            return 0.0
        return min(1.0, (steps + 1) / self.warmup) if self.warmup else 1.0

    def scale(self, *_: Any) -> None:
        """Puts the rates of the next step in place, until ``restore``."""
        self.restore()
        groups, step = self.optimizer.param_groups, self._step()
        self._unscaled = [group["lr"] for group in groups]
        for group, scale, begin in zip(groups, self.scales, self.begins, strict=True):
            group["lr"] = group["lr"] * (scale * self.rise(step - begin))

    def restore(self, *_: Any) -> None:
        """Puts the schedule's rates back."""
        if self._unscaled is not None:
            for group, rate in zip(self.optimizer.param_groups, self._unscaled, strict=True):
                group["lr"] = rate
            self._unscaled = None
