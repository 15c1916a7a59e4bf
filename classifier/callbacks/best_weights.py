"""What ``best.ckpt`` holds: the very weights that a validation measured.

Callbacks may change the weights right after it, and the checkpoint is saved later still.
"""

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from classifier.atomic import atomic_copy
from classifier.callbacks.epochs import is_epoch_incomplete
from classifier.checkpoint.file import write_checkpoint
from classifier.checkpoint.find import POSITION
from classifier.checkpoint.read import read_checkpoint
from classifier.internals.lightning import measured_by_validation
from classifier.runs import Direction


class Candidate(NamedTuple):
    """A score that is better than that of ``best.ckpt``, and the weights that have it.

    They are None on other ranks than zero, and for a metric of the training, which belongs to the
    epoch's last weights.
    """

    score: float
    weights: dict[str, Any] | None


class BestWeights:
    """Judges the monitored metric whenever it is measured; all ranks judge alike."""

    def __init__(self, monitor: str | None, direction: Direction) -> None:
        self.monitor = monitor
        self.direction = direction
        self.score = math.nan  # that of best.ckpt, if there is one
        self.candidate: Candidate | None = None  # a better one, not saved yet
        self.by_validation: bool | None = None  # who measures the metric; unknown at first
        self._validated: dict[str, Any] | None = None  # the weights that are being validated

    def on_validation_start(self, trainer: pl.Trainer) -> None:
        """Keeps the weights; another callback may have put others in place for the validation."""
        if self.monitor and self.by_validation is not False:
            self._validated = weights_of(trainer)

    def on_validation_end(self, trainer: pl.Trainer) -> None:
        """Judges what the validation has measured."""
        self.by_validation = self.monitor in measured_by_validation(trainer)
        if self.by_validation:
            self._judge(trainer, self._validated)
        self._validated = None

    def on_epoch_end(self, trainer: pl.Trainer) -> None:
        """Judges a metric of the training, which is there when the epoch is complete."""
        if not self.by_validation and not is_epoch_incomplete(trainer):
            self._judge(trainer, None)

    def _judge(self, trainer: pl.Trainer, weights: dict[str, Any] | None) -> None:
        if self.monitor not in trainer.callback_metrics:
            return
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        best = self.candidate.score if self.candidate else trainer.strategy.broadcast(self.score)
        sign = 1 if self.direction == "minimize" else -1
        if math.isfinite(score) and not sign * score >= sign * best:
            self.candidate = Candidate(score, weights)

    def restore(self, position: dict[str, Any], best: Path, state_key: str) -> None:
        """Takes up what the position of a checkpoint and ``best.ckpt`` say.

        That file may be missing, damaged or of another metric. In one of format 1 the score stands
        in the state of a callback.
        """
        # Else the metric of an earlier epoch would count for the weights of one without validation.
        by_name = str(self.monitor).startswith("val_") or None  # in format 1
        self.by_validation = position.get("by_validation", by_name)
        self.score = math.nan
        try:
            saved = read_checkpoint(best)
        except (FileNotFoundError, ValueError):
            return
        kept = saved.get(POSITION, {}).get("best") or saved["callbacks"].get(state_key, {})
        same_metric = kept.get("monitor") == self.monitor
        if same_metric and kept.get("direction", self.direction) == self.direction:
            self.score = float(kept.get("score", math.nan))


def write_best(
    weights: dict[str, Any] | None, checkpoint: dict[str, Any], saved: Path, best: Path
) -> None:
    """Writes ``best.ckpt``: the checkpoint that was just saved, but with the weights validated.

    They are None where they are those of the checkpoint.
    """
    if weights is not None and weights.keys() != checkpoint["state_dict"].keys():
        weights = without_masks(weights)
    if weights is None or are_equal(weights, checkpoint["state_dict"]):
        atomic_copy(saved, best)
    else:
        position = {**checkpoint[POSITION], "exact": False}
        write_checkpoint({**checkpoint, "state_dict": weights, POSITION: position}, best)


def weights_of(trainer: pl.Trainer) -> dict[str, Any] | None:
    """A copy of the weights in the memory of the host; None on other ranks than zero."""
    state = trainer.strategy.lightning_module_state_dict()  # all ranks may have a part
    if not trainer.is_global_zero:
        return None
    return {
        name: v.detach().to("cpu", copy=True) if isinstance(v, Tensor) else copy.deepcopy(v)
        for name, v in state.items()
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
    if weights.keys() != others.keys():
        return False
    pairs = ((value, others[name]) for name, value in weights.items())
    return all(torch.equal(a, b.cpu()) if isinstance(a, Tensor) else a == b for a, b in pairs)
