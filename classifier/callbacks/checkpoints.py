"""When a run saves its checkpoints, so that it can be resumed to the same bits.

Lightning 2.6 can be stopped anywhere, but then resumes differently: it forgets the random numbers,
the metrics of the first half of an epoch, one step of ReduceLROnPlateau, what early stopping had
decided, and a validation that was due. So checkpoints are saved at clean points only, where little
is in the air, and that little is saved with them: after an optimizer step that no validation
follows, after a validation inside an epoch, and between epochs.

Whatever ends a training, ``last.ckpt`` holds the state from before this end had any effect: without
the schedule's step, the metrics and the further validation of an epoch that was broken off, and
without what callbacks do when a training ends. A stop within a window of accumulation waits for its
step.
"""

import contextlib
import math
import time
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, GradientAccumulationScheduler, ModelCheckpoint

from classifier.atomic import atomic_copy
from classifier.callbacks import epochs
from classifier.callbacks.best_weights import BestWeights, write_best
from classifier.callbacks.signals import StopOnSignal
from classifier.callbacks.stop_reasons import stop_reason
from classifier.checkpoint.find import POSITION
from classifier.errors import UserError
from classifier.internals import lightning
from classifier.platform import fsync_directory
from classifier.runs import Direction, RunFolder

OWN_NAMES = ("best", "last", "previous", "new")
SYNC_EVERY_N_BATCHES = 16  # with the other ranks, each of which makes the device wait


class RunCheckpoints(ModelCheckpoint):
    """Keeps ``best.ckpt``, ``last.ckpt`` and the one before it, ``previous.ckpt``.

    ``best.ckpt`` holds the very weights whose score it bears, also where a callback changes them
    after the validation. A signal (SIGTERM, SIGINT, SIGUSR1) saves at the next clean point and ends
    the training there; a second one ends it at once.

    To others it is a ``ModelCheckpoint``: with ``best_model_path``, ``best_model_score`` and
    ``last_model_path``, and "best" and "last" as ``ckpt_path``. Lightning calls it after all other
    callbacks. What has to come before all others is ``ResumeRun``.

    Args:
        run: The run folder, which may have been moved.
        monitor: The metric whose best value is ``best.ckpt``; there is none if not given.
        direction: Whether a small or a large value of it is good.
        minutes: How much of a training may be lost: it is saved inside epochs that take longer.
        steps: The same, in optimizer steps.
    """

    state_key = "RunCheckpoints"

    def __init__(
        self,
        run: RunFolder,
        monitor: str | None,
        direction: Direction,
        minutes: float = 5.0,
        steps: int | None = None,
    ) -> None:
        self.run = run
        mode = "min" if direction == "minimize" else "max"
        super().__init__(None, "best", monitor, mode=mode)
        self.minutes = minutes
        self.steps = steps
        self.best = BestWeights(monitor, direction)
        self.signals = StopOnSignal()
        self.is_due = False  # the validation that follows, whether or not the training ends
        self.held = False  # a stop that waits for a clean point
        self.saved_time = time.monotonic()
        self.saved_step = 0
        self.first_step = 0  # of this process
        self.position: dict[str, Any] | None = None  # of what is saved; None if others save
        self.checkpoint: dict[str, Any] = {}  # what Lightning has gathered
        self.pending_results: list[dict[str, Any]] = []  # of this epoch, from the checkpoint

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.dirpath = str(self.run.checkpoints)
            self.signals.listen(trainer)

    def _end(self, *args: Any, **kwargs: Any) -> None:
        self.signals.listening.close()

    teardown = on_exception = _end

    # ---- when to save ----

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.first_step = self.saved_step = trainer.global_step
        self.saved_time = time.monotonic()
        for link in self.run.checkpoints.glob(".*.link"):  # left by a kill
            with contextlib.suppress(OSError):
                link.unlink()
        trainer.accumulate_grad_batches = accumulated(trainer)  # inside an epoch, too

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if self.pending_results:
            lightning.add_pending_results(trainer, self.pending_results)
            self.pending_results = []
        if not epochs.is_inside_epoch(trainer):
            self._hold_stop(trainer)
            return
        self._release_stop(trainer)
        self.is_due = lightning.is_validation_due(trainer)
        if not self.is_due:
            self._save_if_asked(trainer, epochs.is_epoch_ending(trainer))

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # After all other callbacks: one that validates other weights has put them in place.
        if epochs.is_part_of_fit(trainer):
            self.best.on_validation_start(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not epochs.is_part_of_fit(trainer):
            return
        self.best.on_validation_end(trainer)
        is_better = self.best.candidate is not None
        if not epochs.is_inside_epoch(trainer):
            self._hold_stop(trainer)
        elif self.is_due:
            self._save_if_asked(trainer, is_better or epochs.is_epoch_ending(trainer))
        elif is_better:
            # A validation that the end of the training caused; no other training has seen it.
            self._save(trainer, inside_epoch=True, last=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._release_stop(trainer)
        self.best.on_epoch_end(trainer)

    def save_between_epochs(self, trainer: pl.Trainer) -> None:
        """Saves what the epoch before has led to, now that its schedule has stepped."""
        self.signals.agree(trainer, False)
        self._save(trainer, inside_epoch=False)
        self.signals.obey()

    def save_end(self, trainer: pl.Trainer) -> None:
        """Saves what the training has led to, before callbacks do what they do at its end."""
        if trainer.global_step == self.first_step:
            return
        if not epochs.is_epoch_incomplete(trainer):
            self._save(trainer, inside_epoch=False)
        elif self.best.candidate or not self.saved_step:
            # It was stopped where nothing could be saved, by the module's own on_train_batch_end.
            self._save(trainer, inside_epoch=True, last=not self.saved_step, exact=False)

    def _save_if_asked(self, trainer: pl.Trainer, now: bool) -> None:
        steps = trainer.global_step - self.saved_step
        due = now or (self.steps is not None and steps >= self.steps)
        if trainer.world_size == 1 or (trainer.fit_loop.batch_idx + 1) % SYNC_EVERY_N_BATCHES == 0:
            seconds = time.monotonic() - self.saved_time
            late = trainer.is_global_zero and seconds >= 60 * self.minutes
            due = self.signals.agree(trainer, due or late)
        if due:
            self._save(trainer, inside_epoch=True)
            if not epochs.is_epoch_ending(trainer):  # else it ends without being told
                self.signals.obey()

    def _hold_stop(self, trainer: pl.Trainer) -> None:
        """Lets a stop wait for the step of its window, or for the end of an epoch that is over.

        At once it would lose gradients, or cause a validation that no schedule should see.
        """
        self.held = self.held or trainer.should_stop
        trainer.should_stop = False

    def _release_stop(self, trainer: pl.Trainer) -> None:
        """Lets a stop that was held take effect."""
        trainer.should_stop = trainer.should_stop or self.held
        self.held = False

    # ---- what is saved ----

    def _save(
        self, trainer: pl.Trainer, inside_epoch: bool, last: bool = True, exact: bool = True
    ) -> None:
        """Saves ``last.ckpt``, if wanted, and ``best.ckpt``, if there is a better score."""
        candidate, self.best.candidate = self.best.candidate, None
        score = candidate.score if candidate else self.best.score
        self.position = {
            "inside_epoch": inside_epoch,
            "exact": exact and last,  # whether a training that is resumed from it is
            "best": {"monitor": self.monitor, "direction": self.best.direction, "score": score},
        }
        new = self.run.checkpoints / "new.ckpt"
        try:
            trainer.save_checkpoint(new, weights_only=False)
            if candidate and trainer.is_global_zero:  # first, for the others know of it
                write_best(candidate.weights, self.checkpoint, new, self.run.best)
        finally:
            self.position, self.checkpoint = None, {}
        self.best.score = score
        if trainer.is_global_zero and last:
            if self.run.last.exists():
                atomic_copy(self.run.last, self.run.previous)
            new.replace(self.run.last)
            fsync_directory(self.run.checkpoints)
        elif trainer.is_global_zero:
            new.unlink()
        if last:
            self.saved_time, self.saved_step = time.monotonic(), trainer.global_step
            self.last_model_path = str(self.run.last)
        self._name_best()

    def _name_best(self) -> None:
        """Says in ModelCheckpoint's attributes what ``best.ckpt`` is, once there is one."""
        if not math.isnan(self.best.score):
            self.best_model_path = str(self.run.best)
            self.best_model_score = torch.tensor(self.best.score, dtype=torch.double)

    def on_save_checkpoint(self, trainer: pl.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        if self.position is None:
            return
        inside = self.position["inside_epoch"]
        if not inside:
            checkpoint["epoch"] = trainer.current_epoch - 1  # as Lightning's own checkpoints say
            lightning.mark_epoch_ended(checkpoint["loops"]["fit_loop"])
        stopping = trainer.should_stop or self.held
        states = lightning.metric_states(trainer) if inside else {}
        ranks = [states] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(ranks, states)
        checkpoint[POSITION] = self.position | {
            "ranks": ranks,
            "callback_metrics": {k: v.clone() for k, v in trainer.callback_metrics.items()},
            "stopped_by": stop_reason(trainer) if stopping else None,
            "by_validation": self.best.by_validation,
        }
        self.checkpoint = checkpoint

    def on_load_checkpoint(self, trainer: pl.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        if POSITION in checkpoint:
            self.best.restore(checkpoint[POSITION], self.run.best, self.state_key)
            self.last_model_path = str(self.run.last) if self.run.last.exists() else ""
            self._name_best()

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What there is says ``on_load_checkpoint``."""


def refuse_taken_names(callbacks: Iterable[Callback]) -> None:
    """Raises UserError for a ModelCheckpoint that would write over what the run keeps.

    Without a folder of its own it writes into that of the run.
    """
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.dirpath:
            continue
        last = callback.CHECKPOINT_NAME_LAST if callback.save_last else None
        if taken := [name for name in (callback.filename, last) if name in OWN_NAMES]:
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} would write {taken[0]}.ckpt, which "
                "the run keeps itself; leave that out, or give it another filename or a dirpath."
            )


def best_checkpoint(trainer: pl.Trainer) -> RunCheckpoints | None:
    """The callback that keeps ``best.ckpt``, once it has kept one."""
    found = (c for c in trainer.checkpoint_callbacks if isinstance(c, RunCheckpoints))
    return next((callback for callback in found if callback.best_model_path), None)


def accumulated(trainer: Any) -> int:
    """How many batches a step accumulates in this epoch; a scheduler sets it where one begins."""
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            return callback.get_accumulate_grad_batches(trainer.current_epoch)
    return int(trainer.accumulate_grad_batches)
