"""What a run keeps of itself, and how it goes on from there to the same bits.

Lightning 2.6 can be stopped anywhere, but then goes on differently: it forgets the random numbers,
the metrics of the first half of an epoch, one step of ReduceLROnPlateau, what early stopping had
decided, and a validation that was due. So checkpoints are saved at clean points only, where little
is in the air, and that little is saved with them: after an optimizer step that no validation
follows, after a validation inside an epoch, and between epochs.
"""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from classifier import runs
from classifier.archive import POSITION
from classifier.callbacks.position import (
    add_results,
    begin_epoch,
    end_epoch,
    is_clean,
    is_inside_epoch,
    metrics_of,
    restore_metrics,
    resumed,
)
from classifier.callbacks.stop_signals import StopSignals
from classifier.durable import sync, written_whole

ASK_EVERY = 16  # batches between questions to the other ranks, each of which makes the device wait


class RunCheckpoints(Checkpoint):
    """Keeps ``best.ckpt``, ``last.ckpt`` and the one before it, ``previous.ckpt``.

    A signal (SIGTERM, SIGINT, SIGUSR1) saves at the next clean point and ends the training there;
    a second one ends it at once.

    It is a ``Checkpoint``, because Lightning calls those after all other callbacks.

    Args:
        folder: The run folder, which may have been moved.
        monitor: The metric whose best epoch is ``best.ckpt``; there is none if not given.
        minutes: How much of a training may be lost: it is saved inside epochs that take longer.
        steps: The same, in optimizer steps.
        direction: Whether a small or a large value of the monitor is good.
    """

    state_key = "RunCheckpoints"

    def __init__(
        self,
        folder: Path,
        monitor: str | None,
        minutes: float = 5.0,
        steps: int | None = None,
        direction: runs.Direction = "minimize",
    ) -> None:
        self.folder = folder / "checkpoints"
        self.monitor = monitor
        self.minutes = minutes
        self.steps = steps
        self.direction = direction
        self.score = math.nan  # of best.ckpt
        self.candidate = math.nan  # of the epoch that just ended, if it is better
        self.saved = time.monotonic()
        self.saved_step = 0
        self.signals = StopSignals()
        self.inside_epoch: bool | None = None  # while saving; None if somebody else saves
        self.position: dict[str, Any] = {}  # of the checkpoint that was loaded
        self.begins_anew = False  # resumed between two epochs
        self.earlier: dict[str, Any] = {}  # what was logged in this epoch before the checkpoint

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.ckpt"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.ckpt"

    # ---- when to save ----

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        if self.earlier:
            add_results(trainer, self.earlier)
            self.earlier = {}
        if is_clean(trainer):
            self._save_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        inside = trainer.state.fn == "fit" and not trainer.sanity_checking
        if inside and is_inside_epoch(trainer):
            self._save_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.candidate = math.nan
        if self.monitor in trainer.callback_metrics:
            score = float(trainer.callback_metrics[self.monitor])
            sign = 1 if self.direction == "minimize" else -1
            if math.isfinite(score) and not sign * score >= sign * self.score:
                self.candidate = score

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The epoch before it is only now done with: schedules come after on_train_epoch_end.
        if self.begins_anew:
            begin_epoch(trainer)  # it was saved here, and need not be again
            self.begins_anew = False
        elif trainer.current_epoch > 0:
            self.signals.agree(trainer, False)
            self._save(trainer, inside_epoch=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, inside_epoch=False)

    def _save_if_asked(self, trainer: pl.Trainer) -> None:
        due = self.steps is not None and trainer.global_step - self.saved_step >= self.steps
        if trainer.world_size == 1 or (trainer.fit_loop.batch_idx + 1) % ASK_EVERY == 0:
            late = trainer.is_global_zero and time.monotonic() - self.saved >= 60 * self.minutes
            due = self.signals.agree(trainer, due or late)
        if due:
            self._save(trainer, inside_epoch=True)

    # ---- being told to stop ----

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.signals.listen(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.signals.give_back()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.signals.give_back()

    # ---- saving ----

    def _save(self, trainer: pl.Trainer, inside_epoch: bool) -> None:
        better, before = not math.isnan(self.candidate), self.score
        if better:
            self.score, self.candidate = self.candidate, math.nan
        self.inside_epoch = inside_epoch
        new = self.folder / "new.ckpt"
        try:
            trainer.save_checkpoint(new, weights_only=False)
            if better and trainer.is_global_zero:  # first, for the others know of it
                replace_by_copy(new, self.best)
        except BaseException:
            self.score = before  # as that of the file still is
            raise
        finally:
            self.inside_epoch = None
        if trainer.is_global_zero:
            if self.last.exists():
                replace_by_copy(self.last, self.last.with_name("previous.ckpt"))
            new.replace(self.last)
            sync(self.folder)
        self.saved, self.saved_step = time.monotonic(), trainer.global_step
        self.signals.obey()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.inside_epoch is None:
            return
        if not self.inside_epoch:
            checkpoint["epoch"] = trainer.current_epoch - 1  # as Lightning's own checkpoints say
            end_epoch(checkpoint["loops"]["fit_loop"])
        checkpoint[POSITION] = {
            "inside_epoch": self.inside_epoch,
            "ranks": all_ranks(trainer, metrics_of(trainer) if self.inside_epoch else {}),
            "callback_metrics": {k: v.clone() for k, v in trainer.callback_metrics.items()},
            "should_stop": trainer.should_stop,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "score": self.score}

    # ---- going on ----

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.position = dict(checkpoint.get(POSITION, {}))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the best epoch so far, if its file is here; elsewhere it starts anew."""
        if state_dict["monitor"] == self.monitor and self.best.exists():
            self.score = state_dict["score"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved, self.saved_step = time.monotonic(), trainer.global_step
        if self.position:
            self.earlier = restore_metrics(trainer, self.position)
            self.begins_anew = not self.position["inside_epoch"]
            self.position = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        resumed(trainer)


def best_checkpoint(trainer: pl.Trainer) -> RunCheckpoints | None:
    """The callback that keeps ``best.ckpt``, once it has kept one."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, RunCheckpoints) and not math.isnan(callback.score):
            return callback
    return None


def replace_by_copy(source: Path, target: Path) -> None:
    """Puts the content of a file under another name, in one go; without copying if possible."""
    link = target.with_name(f".{target.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(source, link)
    except OSError:  # not every file system has links
        with source.open("rb") as content, written_whole(target) as file:
            shutil.copyfileobj(content, file)
    else:
        link.replace(target)
        link.unlink(missing_ok=True)  # it stays if it and target were names of the same file


def all_ranks(trainer: pl.Trainer, value: Any) -> list[Any]:
    """The value of each rank."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values
