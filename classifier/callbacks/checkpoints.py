"""What a run keeps of itself, and how it goes on from there to the same bits.

Lightning 2.6 can be stopped anywhere, but then goes on differently: it forgets the random numbers,
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
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    Checkpoint,
    GradientAccumulationScheduler,
    ModelCheckpoint,
)

from classifier import runs, terminal
from classifier.anchored_yaml import load
from classifier.atomic import atomic_write, fsync_directory
from classifier.callbacks import resume, stop_reasons
from classifier.callbacks.best_weights import are_equal, weights_of, without_masks
from classifier.callbacks.signals import StopOnSignal
from classifier.checkpoint.file import POSITION, write_checkpoint
from classifier.checkpoint.read import KEY, read_checkpoint
from classifier.errors import UserError
from classifier.internals import lightning

OWN_NAMES = ("best", "last", "previous", "new")
ASK_EVERY = 16  # batches between questions to the other ranks, each of which makes the device wait


@dataclass
class Candidate:
    """A score that is better than that of ``best.ckpt``.

    Attributes:
        score: The monitored metric.
        weights: The ``state_dict`` that has it, if a validation gave it; None on other ranks than
            zero, and for a metric of the training, which belongs to the epoch's last weights.
    """

    score: float
    weights: dict[str, Any] | None


@dataclass
class Saving:
    """What is being saved.

    Attributes:
        inside_epoch: Whether more batches of the epoch follow.
        exact: Whether a training that goes on from it has the bits of one that was left alone.
        checkpoint: What Lightning has gathered.
    """

    inside_epoch: bool
    exact: bool
    checkpoint: dict[str, Any]


class RunCheckpoints(Checkpoint):
    """Keeps ``best.ckpt``, ``last.ckpt`` and the one before it, ``previous.ckpt``.

    ``best.ckpt`` holds the very weights whose score it bears, also where a callback changes them
    after the validation. A signal (SIGTERM, SIGINT, SIGUSR1) saves at the next clean point and ends
    the training there; a second one ends it at once.

    It is a ``Checkpoint``, because Lightning calls those after all other callbacks. What has to
    come before all others is ``BetweenEpochs``.

    Args:
        folder: The run folder, which may have been moved.
        monitor: The metric whose best value is ``best.ckpt``; there is none if not given.
        direction: Whether a small or a large value of it is good.
        config: Text of the config; another one lifts what had stopped the training.
        minutes: How much of a training may be lost: it is saved inside epochs that take longer.
        steps: The same, in optimizer steps.
    """

    state_key = "RunCheckpoints"

    def __init__(
        self,
        folder: Path,
        monitor: str | None,
        direction: runs.Direction,
        config: str,
        minutes: float = 5.0,
        steps: int | None = None,
    ) -> None:
        self.folder = folder / "checkpoints"
        self.monitor = monitor
        self.config = config
        self.minutes = minutes
        self.steps = steps
        self.direction = direction
        self.score = math.nan  # of best.ckpt
        self.candidate: Candidate | None = None  # not saved yet
        self.validated: dict[str, Any] | None = None  # the weights that are being validated
        self.by_validation: bool | None = None  # whether validations measure the monitor
        self.is_due = False  # the validation that follows, whether or not the training ends
        self.held = False  # a stop that waits for a clean point
        self.saved = time.monotonic()
        self.saved_step = 0
        self.first_step = 0  # of this process
        self.signals = StopOnSignal()
        self.saving: Saving | None = None  # None if somebody else saves
        self.loaded: dict[str, Any] = {}  # the checkpoint to go on from
        self.begins_anew = False  # resumed between two epochs
        self.earlier: list[dict[str, Any]] = []  # what was logged in this epoch before
        self.stopped_by: str | None = None  # what had ended the training, if that still holds

    @property
    def best(self) -> Path:
        """The checkpoint of the best score."""
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
            lightning.add_pending_results(trainer, self.earlier)
            self.earlier = []
        if not lightning.is_inside_epoch(trainer):
            self._hold_stop(trainer)
            return
        self._release_stop(trainer)
        self.is_due = lightning.is_validation_due(trainer)
        if not self.is_due:
            self._save_if_asked(trainer, lightning.is_epoch_ending(trainer))

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # After all other callbacks: one that validates other weights has put them in place.
        inside = trainer.state.fn == "fit" and not trainer.sanity_checking
        if inside and self.monitor and self.by_validation is not False:
            self.validated = weights_of(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self.by_validation = lightning.is_measured_by_validation(trainer, self.monitor)
        if self.by_validation:
            self._judge(trainer, self.validated)
        self.validated = None
        if not lightning.is_inside_epoch(trainer):
            self._hold_stop(trainer)
        elif self.is_due:
            self._save_if_asked(
                trainer, self.candidate is not None or lightning.is_epoch_ending(trainer)
            )
        elif self.candidate:
            # A validation that the end of the training caused; no other training has seen it.
            self._save(trainer, inside_epoch=True, last=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._release_stop(trainer)
        if not self.by_validation and not lightning.is_epoch_incomplete(trainer):
            self._judge(trainer, None)

    def before_epoch(self, trainer: pl.Trainer) -> None:
        """Saves what the epoch before has led to, now that its schedule has stepped."""
        if self.begins_anew:
            lightning.begin_whole_epoch(trainer)  # it was saved here, and need not be again
            self.begins_anew = False
        elif trainer.current_epoch > 0:
            self.signals.agree(trainer, False)
            self._save(trainer, inside_epoch=False)
            self.signals.obey()

    def before_end(self, trainer: pl.Trainer) -> None:
        """Saves what the training has led to, before callbacks do what they do at its end."""
        if trainer.global_step == self.first_step:
            return
        if not lightning.is_epoch_incomplete(trainer):
            self._save(trainer, inside_epoch=False)
        elif self.candidate or not self.saved_step:
            # It was stopped where nothing could be saved, by the module's own on_train_batch_end.
            self._save(trainer, inside_epoch=True, last=not self.saved_step, exact=False)

    def _save_if_asked(self, trainer: pl.Trainer, now: bool) -> None:
        due = now or (
            self.steps is not None and trainer.global_step - self.saved_step >= self.steps
        )
        if trainer.world_size == 1 or (trainer.fit_loop.batch_idx + 1) % ASK_EVERY == 0:
            late = trainer.is_global_zero and time.monotonic() - self.saved >= 60 * self.minutes
            due = self.signals.agree(trainer, due or late)
        if due:
            self._save(trainer, inside_epoch=True)
            if not lightning.is_epoch_ending(trainer):  # else it ends without being told
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

    def _judge(self, trainer: pl.Trainer, weights: dict[str, Any] | None) -> None:
        """Notes the monitored metric and its weights if it is the best; all ranks judge alike."""
        if self.monitor not in trainer.callback_metrics:
            return
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        best = self.candidate.score if self.candidate else trainer.strategy.broadcast(self.score)
        sign = 1 if self.direction == "minimize" else -1
        if math.isfinite(score) and not sign * score >= sign * best:
            self.candidate = Candidate(score, weights)

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

    def _save(
        self, trainer: pl.Trainer, inside_epoch: bool, last: bool = True, exact: bool = True
    ) -> None:
        """Saves ``last.ckpt``, if wanted, and ``best.ckpt``, if there is a better score."""
        candidate, before = self.candidate, self.score
        if candidate:
            self.score, self.candidate = candidate.score, None
        self.saving = Saving(inside_epoch, exact and last, {})
        new = self.folder / "new.ckpt"
        try:
            trainer.save_checkpoint(new, weights_only=False)
            if candidate and trainer.is_global_zero:  # first, for the others know of it
                self._save_best(new, candidate, self.saving.checkpoint)
        except BaseException:
            self.score = before  # as that of the file still is
            raise
        finally:
            self.saving = None
        if trainer.is_global_zero and last:
            if self.last.exists():
                replace_by_copy(self.last, self.last.with_name("previous.ckpt"))
            new.replace(self.last)
            fsync_directory(self.folder)
        elif trainer.is_global_zero:
            new.unlink()
        if last:
            self.saved, self.saved_step = time.monotonic(), trainer.global_step

    def _save_best(self, new: Path, candidate: Candidate, checkpoint: dict[str, Any]) -> None:
        weights = candidate.weights
        if weights is not None and weights.keys() != checkpoint["state_dict"].keys():
            weights = without_masks(weights)
        if weights is None or are_equal(weights, checkpoint["state_dict"]):
            replace_by_copy(new, self.best)
        else:
            # Changed since the validation: by a step, or by a callback.
            there = {**checkpoint[POSITION], "exact": False}
            changed = {**checkpoint, "state_dict": weights, POSITION: there}
            write_checkpoint(changed, self.best)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.saving is None:
            return
        inside = self.saving.inside_epoch
        if not inside:
            checkpoint["epoch"] = trainer.current_epoch - 1  # as Lightning's own checkpoints say
            lightning.mark_epoch_ended(checkpoint["loops"]["fit_loop"])
        checkpoint[POSITION] = {
            "inside_epoch": inside,
            "exact": self.saving.exact,
            "ranks": all_ranks(trainer, lightning.metric_states(trainer) if inside else {}),
            "callback_metrics": {k: v.clone() for k, v in trainer.callback_metrics.items()},
            "stopped_by": stop_reasons.stop_reason(trainer)
            if trainer.should_stop or self.held
            else None,
            "best": {
                "monitor": self.monitor,
                "direction": self.direction,
                "score": self.score,
            },
            "by_validation": self.by_validation,
        }
        self.saving.checkpoint = checkpoint

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor}

    # ---- going on ----

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if POSITION not in checkpoint:
            return
        self.loaded = checkpoint
        then, now = (text.get("trainer") or {} for text in self._configs())
        stop_reasons.follow_new_arguments(trainer, checkpoint["callbacks"], then, now)
        cause = checkpoint[POSITION].get("stopped_by")
        if checkpoint[POSITION].get("should_stop"):  # of format 1, which did not say by what
            cause = stop_reasons.ANOTHER
        if cause and stop_reasons.still_holds(cause, then, now):
            self.stopped_by = cause
        else:
            stop_reasons.forget(trainer, checkpoint["callbacks"])
        self.score = self._score_of_best()
        # Else the metric of an earlier epoch would count for the weights of one without validation.
        by_name = str(self.monitor).startswith("val_") or None  # in format 1
        self.by_validation = checkpoint[POSITION].get("by_validation", by_name)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped_by is not None
        if self.loaded and not self.loaded[POSITION].get("exact", True):
            terminal.note(
                "this checkpoint was saved for evaluation, with the weights of a validation "
                "that no step followed; a training that goes on from it differs from one that "
                "was left alone. last.ckpt goes on exactly."
            )

    def go_on(self, trainer: pl.Trainer) -> None:
        """Takes up the training where the checkpoint has left it."""
        self.saved, self.saved_step = time.monotonic(), trainer.global_step
        self.first_step = trainer.global_step
        if not self.loaded:
            return
        there = self.loaded[POSITION]
        self.begins_anew = not there["inside_epoch"]
        for link in self.folder.glob(".*.link"):  # left by a kill
            with contextlib.suppress(OSError):
                link.unlink()
        if there["inside_epoch"] and not self._goes_on_at_image(trainer):
            lightning.restart_epoch(trainer)
            self.begins_anew = True
        self.earlier = lightning.restore_metrics(trainer, there, self.begins_anew)
        self.loaded = {}

    def _goes_on_at_image(self, trainer: pl.Trainer) -> bool:
        """Goes on inside an epoch; returns False, and says so, if that cannot be."""
        then, now = self._configs()
        size = then.get("data", {}).get("init_args", {}).get("batch_size")
        if size is None or not hasattr(trainer.train_dataloader, "images_per_batch"):
            return True  # not data of this package
        windows = [
            [
                config["trainer"].get("accumulate_grad_batches"),
                *stop_reasons.named(config["trainer"], "GradientAccumulationScheduler"),
            ]
            for config in (then, now)
        ]
        images_per_batch = size * self.loaded[KEY]["run"]["devices"]
        seen = trainer.fit_loop.batch_idx + 1
        same = windows[0] == windows[1]
        orders = [
            (config.get("seed_everything"), config["trainer"].get("overfit_batches"))
            for config in (then, now)
        ]
        if orders[0] == orders[1] and resume.go_on_at_image(
            trainer, images_per_batch, accumulated(trainer), same
        ):
            return True
        terminal.note(
            f"epoch {trainer.current_epoch + 1} begins anew, so that the first "
            f"{seen * images_per_batch:,} of its images are trained on once more: with another "
            "data.batch_size, accumulation, number of devices or of batches, or seed no step "
            "begins where it was left."
        )
        return False

    def _configs(self) -> list[dict[str, Any]]:
        """The configs of then and now; that of a foreign checkpoint is empty."""
        return [load(text) for text in (self.loaded.get(KEY, {}).get("config", ""), self.config)]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.accumulate_grad_batches = accumulated(trainer)  # inside an epoch, too

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        lightning.end_restart(trainer)

    def _score_of_best(self) -> float:
        """That of ``best.ckpt``, if it is here and of the same metric; NaN elsewhere."""
        if not self.best.exists():
            return math.nan
        try:
            saved = read_checkpoint(self.best)
        except ValueError:  # damaged
            return math.nan
        # In format 1 it stood in the state of this callback.
        kept = saved.get(POSITION, {}).get("best") or saved["callbacks"].get(self.state_key, {})
        same = kept.get("monitor") == self.monitor
        same = same and kept.get("direction", self.direction) == self.direction
        return float(kept.get("score", math.nan)) if same else math.nan


class BetweenEpochs(Callback):
    """Goes on and saves before all other callbacks begin, between epochs and at the end.

    Args:
        checkpoints: What saves.
    """

    state_key = "BetweenEpochs"

    def __init__(self, checkpoints: RunCheckpoints) -> None:
        self.checkpoints = checkpoints

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.checkpoints.go_on(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.checkpoints.before_epoch(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if lightning.is_epoch_incomplete(trainer):
            stop_reasons.spare_early_stopping(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.checkpoints.before_end(trainer)


def refuse_taken_names(callbacks: Iterable[Callback]) -> None:
    """Refuses a ModelCheckpoint that would write over what the run keeps, or be written over.

    Without a folder of its own it writes into that of the run.

    Raises:
        UserError: If it would.
    """
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.dirpath:
            continue
        last = callback.CHECKPOINT_NAME_LAST if callback.save_last else None
        taken = [name for name in (callback.filename, last) if name in OWN_NAMES]
        if taken:
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} would write {taken[0]}.ckpt, which "
                "the run keeps itself; leave that out, or give it another filename or a dirpath."
            )


def run_checkpoints(trainer: pl.Trainer) -> RunCheckpoints | None:
    """The callback that keeps the checkpoints of a run, if one does."""
    found = (c for c in trainer.checkpoint_callbacks if isinstance(c, RunCheckpoints))
    return next(found, None)


def best_checkpoint(trainer: pl.Trainer) -> RunCheckpoints | None:
    """The callback that keeps ``best.ckpt``, once it has kept one."""
    found = run_checkpoints(trainer)
    return None if found is None or math.isnan(found.score) else found


def accumulated(trainer: Any) -> int:
    """How many batches a step accumulates in this epoch; a scheduler sets it where one begins."""
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            return callback.get_accumulate_grad_batches(trainer.current_epoch)
    return int(trainer.accumulate_grad_batches)


def replace_by_copy(source: Path, target: Path) -> None:
    """Puts the content of a file under another name, in one go; without copying if possible."""
    link = target.with_name(f".{target.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(source, link)
    except OSError:  # not every file system has links
        with source.open("rb") as content, atomic_write(target) as file:
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
