"""Evaluation by mean probabilities: of an image and its mirror image, and of several networks.

The network gives their logarithm in place of its logits, so that all that is measured or written is
that of the mean.
"""

import math
from collections.abc import Sequence
from typing import IO, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from classifier.errors import UserError
from classifier.splits import EVALUATED, PARTS

SPLIT = "data.fold, data.split_seed or data.manifest"


class FlipMean(Callback):
    """Averages the probabilities of each image with those of its mirror image, left to right."""

    state_key = "FlipMean"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        network: Any = pl_module.network
        self.hook = network.register_forward_hook(_mean_with_flipped)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.hook.remove()


def _mean_with_flipped(network: nn.Module, given: tuple[Any, ...], logits: Any) -> Tensor | None:
    if not isinstance(logits, Tensor):
        return None  # which the module refuses
    flipped = network.forward(given[0].flip(-1))
    return torch.logaddexp(_log_softmax(logits), _log_softmax(flipped)) - math.log(2)


class Ensemble(Callback):
    """Averages the probabilities of several networks, which evaluate the same images one by one.

    It is a callback of the trainer of each, in a single process.

    Args:
        members: What they are called in messages, in order.
        sums: An empty file for what they give together, 4 N K bytes for N images and K classes.
    """

    state_key = "Ensemble"

    def __init__(self, members: Sequence[str], sums: IO[bytes]) -> None:
        self.members = members
        self.number = -1  # of the member at work
        self.sums = sums  # of probabilities: their logarithms, float32 (N, K)
        self.images: Any = None  # of the first member
        self.count = 0  # images that it has seen
        self.left_out: list[Any] = []  # by each member: images that it could not read

    def begin(self) -> None:
        """The next member is at work."""
        self.number, self.row = self.number + 1, 0
        self.left_out.append([])

    @property
    def is_last(self) -> bool:
        """Whether the member at work gives the mean."""
        return self.number == len(self.members) - 1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        images = self._images(trainer.datamodule, stage)  # type: ignore[attr-defined]  # undeclared
        if self.number == 0:
            self.images = images
        elif images != self.images:
            first, other = self.members[0], self.members[self.number]
            raise UserError(
                f"'{first}' and '{other}' have other images in what is evaluated, so that one may "
                f"have been trained on what the other has not: average runs of one split ({SPLIT})."
            )
        network: Any = pl_module.network
        self.hook = network.register_forward_hook(self._add)

    def _images(self, data: Any, stage: str) -> Any:
        """What tells the images that are evaluated from others."""
        if stage == "predict":
            return data.files
        part = EVALUATED[stage]
        if data.namer(part) is None:
            raise UserError(
                f"{data.kind} loads the {PARTS[part]} images itself, in an order not "
                "known, by which those of several checkpoints cannot be matched: test one."
            )
        return data.part_fingerprint(part)

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Notes which files are unreadable, for rows are added by their place."""
        self.left_out[-1] += [name for name, _ in batch.unreadable]

    def on_test_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Notes which images were skipped, before the predictions appear."""
        damaged = trainer.datamodule.sets[EVALUATED[trainer.state.fn.value]].damaged
        self.left_out[-1] = damaged.found.nonzero()[:, 0].tolist() if damaged else []
        self._check_left_out()

    on_validation_end = on_test_end

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check_left_out()

    def _check_left_out(self) -> None:
        self._check_count(self.left_out[-1] == self.left_out[0])

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.predict_loop.return_predictions = False  # they are on the disk

    def _add(self, network: nn.Module, given: tuple[Any, ...], logits: Any) -> Tensor | None:
        """Adds what a member gives for the next images; the last one gives the mean."""
        if not isinstance(logits, Tensor):
            return None  # which the module refuses
        total = _log_softmax(logits)
        place = self.row * total[0].nbytes
        self.row += len(total)
        self.sums.seek(place)
        if self.number:
            before = bytearray(self.sums.read(total.nbytes))
            self._check_count(len(before) == total.nbytes)
            summed = torch.frombuffer(before, dtype=total.dtype).view(total.shape)
            total = torch.logaddexp(total, summed.to(total.device))
        if self.is_last:
            return total - math.log(len(self.members))
        self.sums.seek(place)
        self.sums.write(total.cpu().numpy().tobytes())
        return None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.hook.remove()
        self.count = self.count or self.row
        self._check_count(self.row == self.count)

    def _check_count(self, is_same: bool) -> None:
        if not is_same:
            first, other = self.members[0], self.members[self.number]
            raise UserError(f"'{other}' reads other images than '{first}': average without it.")


def _log_softmax(logits: Tensor) -> Tensor:
    """The logarithms of probabilities ``(N, K)``, float32."""
    return logits.float().log_softmax(1)
