"""Stops a training that has diverged before it harms a checkpoint, and keeps the batch."""

import io
import math
from dataclasses import dataclass
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from classifier import terminal
from classifier.atomic import atomic_write
from classifier.checkpoint.read import read_checkpoint
from classifier.divergence import max_abs, mean_over_ranks
from classifier.runs import RunFolder

MAX_IN_A_ROW = 10  # skipped steps; after so many the weights are broken, not the batch
REMEDY = (
    "A lower learning rate, trainer.gradient_clip_val or another trainer.precision may help; "
    "model.skip_bad_steps leaves such steps out."
)


@dataclass
class Step:
    """A step that was taken: its batch as the module saw it, its loss on the way to the host."""

    batch: Any  # images and labels
    loss: Tensor  # the mean over the ranks
    epoch: int  # from 0
    batch_index: int  # in the epoch, from 0
    number: int  # of the optimizer step, from 1
    arrived: torch.cuda.Event | None = None  # the copy of the loss; None if it already is

    def __post_init__(self) -> None:
        if self.loss.is_cuda:
            self.loss = self.loss.to("cpu", non_blocking=True)
            self.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.arrived.record()

    def loss_value(self) -> float:
        """The loss, once it has arrived."""
        if self.arrived:
            self.arrived.synchronize()
        return self.loss.item()


class StopOnDivergence(Callback):
    """Raises a FloatingPointError when the loss is not finite or has exploded.

    It follows the loss that ``training_step`` returns, and looks at nothing where the module
    optimizes by itself (``automatic_optimization = False``).

    The batch is kept in ``bad_batch.pt``. On a GPU the loss is looked at one step late, so that the
    host need not wait for it. No checkpoint is written of weights that are not finite, or before
    the loss of the newest step is known.

    With ``model.skip_bad_steps`` the module leaves out the step, and the training goes on unless
    ten in a row, or a whole epoch, were left out. Without a run folder (``fast_dev_run``) nothing
    is kept.
    """

    state_key = "FiniteLoss"

    def __init__(self, run: RunFolder | None, seed: int | None) -> None:
        self.run = run
        self.seed = seed
        self.newest: Step | None = None
        self.pending = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not pl_module.automatic_optimization:
            terminal.note(
                "the module optimizes by itself (automatic_optimization is false), so nothing "
                "stops a training that diverges, and model.skip_bad_steps skips no step."
            )

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self.number = trainer.global_step + 1  # at the end it depends on accumulation

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._look(trainer, pl_module)
        if not (pl_module.automatic_optimization and outputs):  # or training_step returned None
            return
        # Lightning has divided it.
        loss = mean_over_ranks(outputs["loss"] * trainer.accumulate_grad_batches)
        self.newest = Step(batch, loss, trainer.current_epoch, batch_idx, self.number)
        self.pending = True
        if self.newest.arrived is None:
            self._look(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look_closely(trainer, pl_module)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, _: dict[str, Any]) -> None:
        self._look_closely(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        skipped = pl_module.divergence.skipped
        if skipped and trainer.is_global_zero:
            terminal.warn(
                f"{skipped} of {trainer.global_step} steps were skipped, for their loss "
                "or gradient was not finite or had exploded."
            )

    def _look(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Judges the newest step, if that was not done."""
        if self.newest is None or not self.pending:
            return
        self.pending = False
        detector, loss = pl_module.divergence, self.newest.loss_value()
        if not detector.allows(loss):
            self._keep(trainer, self.newest)
            if not pl_module.skip_bad_steps:
                what = f"train_loss is {detector.describe(loss)}"
                self._stop(trainer, self.newest, what, REMEDY)
        if detector.in_a_row >= min(MAX_IN_A_ROW, trainer.num_training_batches):
            what = f"{detector.in_a_row} steps in a row were skipped, the last"
            remedy = "The weights or all batches are to blame, not one batch."
            self._stop(trainer, self.newest, what, remedy)

    def _look_closely(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judges the weights too: a gradient can overflow where the loss did not."""
        self._look(trainer, pl_module)
        if self.newest is None:
            return
        if not math.isfinite(mean_over_ranks(max_abs(pl_module.parameters())).item()):
            self._keep(trainer, self.newest)
            self._stop(trainer, self.newest, "the weights are no longer finite", REMEDY)

    def _keep(self, trainer: pl.Trainer, step: Step) -> None:
        """Writes what a replay of the step needs; each rank its own batch."""
        if self.run is None:
            return
        images, labels = step.batch
        file = io.BytesIO()
        facts = {
            "images": images.cpu(),
            "labels": labels.cpu(),
            "loss": step.loss_value(),
            "seed": self.seed,
            "epoch": step.epoch,
            "batch": step.batch_index,
            "step": step.number,
            "rank": trainer.global_rank,
        }
        torch.save(facts, file)
        with atomic_write(self.run.path / _file_name(trainer.global_rank)) as kept:
            kept.write(file.getvalue())

    def _stop(self, trainer: pl.Trainer, step: Step, what: str, remedy: str) -> NoReturn:
        if not trainer.is_global_zero:
            # Rank zero speaks for all; it would be killed unheard if another failed before it.
            raise SystemExit(0)
        place = f"{what} in epoch {step.epoch + 1}, step {step.number}"
        raise FloatingPointError("\n".join([place, *self._kept(), remedy]))

    def _kept(self) -> list[str]:
        """What is kept, and where a training can go on."""
        if self.run is None:
            return []
        batch = f"The batch is kept in {terminal.display_path(self.run.path / _file_name(0))}"
        if not self.run.last.exists():
            return [f"{batch}; there is no checkpoint yet."]
        step = read_checkpoint(self.run.last)["global_step"]
        return [f"{batch}; from step {step} it is resumed with: {self.run.resume_command}"]


def _file_name(rank: int) -> str:
    return f"bad_batch_rank_{rank}.pt" if rank else "bad_batch.pt"
