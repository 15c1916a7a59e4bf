"""Resuming a training where its checkpoint has left it, to the same bits.

Under changed settings an epoch is resumed at the image where it was left, or begins again.
"""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, WeightAveraging

from classifier import terminal
from classifier.anchored_yaml.text import load
from classifier.callbacks import stop_reasons
from classifier.callbacks.checkpoints import RunCheckpoints, accumulated
from classifier.callbacks.epochs import is_epoch_incomplete
from classifier.checkpoint.find import KEY, POSITION
from classifier.internals import lightning


class ResumeRun(Callback):
    """Resumes a training, and saves between epochs and at the end, before all other callbacks.

    Another config than that of the checkpoint lifts what had stopped the training.
    """

    state_key = "ResumeRun"

    def __init__(self, checkpoints: RunCheckpoints, config: str) -> None:
        self.checkpoints = checkpoints
        self.config = config
        self.loaded: dict[str, Any] = {}  # the checkpoint, until it is resumed from
        self.at_epoch_start = False  # resumed between two epochs
        self.stopped_by: str | None = None  # what had ended the training, if that still holds

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if POSITION not in checkpoint:
            return
        self.loaded = checkpoint
        averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]  # undeclared
        if "current_model_state" in checkpoint and not averages:  # it did, and then has both
            pl_module.load_state_dict(checkpoint["current_model_state"])
        then, now = (config.get("trainer") or {} for config in self._configs())
        stop_reasons.follow_new_arguments(trainer, checkpoint["callbacks"], then, now)
        cause = checkpoint[POSITION].get("stopped_by")
        if checkpoint[POSITION].get("should_stop"):  # of format 1, which did not say by what
            cause = stop_reasons.ANOTHER
        if cause and stop_reasons.still_holds(cause, then, now):
            self.stopped_by = cause
        else:
            stop_reasons.forget(trainer, checkpoint["callbacks"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped_by is not None
        if self.loaded and not self.loaded[POSITION].get("exact", True):
            terminal.note(
                "this checkpoint was saved for evaluation, with the weights of a validation "
                "that no step followed; a training that is resumed from it differs from one that "
                "was left alone. last.ckpt resumes exactly."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.loaded:
            return
        position = self.loaded[POSITION]
        self.at_epoch_start = not position["inside_epoch"]
        if not (self.at_epoch_start or self._resumes_at_image(trainer)):
            lightning.restart_epoch(trainer)
            self.at_epoch_start = True
        results = lightning.restore_metrics(trainer, position, self.at_epoch_start)
        self.checkpoints.pending_results, self.loaded = results, {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.at_epoch_start:
            lightning.begin_whole_epoch(trainer)  # it was saved here, and need not be again
            self.at_epoch_start = False
        elif trainer.current_epoch > 0:
            self.checkpoints.save_between_epochs(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        lightning.end_restart(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if is_epoch_incomplete(trainer):
            stop_reasons.spare_early_stopping(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.checkpoints.save_end(trainer)

    def _resumes_at_image(self, trainer: pl.Trainer) -> bool:
        """Resumes inside an epoch; returns False, and says so, if that cannot be."""
        then, now = self._configs()
        size = then.get("data", {}).get("init_args", {}).get("batch_size")
        if size is None or not hasattr(trainer.train_dataloader, "images_per_batch"):
            return True  # not data of this package
        windows, orders = zip(*(_order_of(config) for config in (then, now)), strict=True)
        images_per_batch = size * self.loaded[KEY]["run"]["devices"]
        if orders[0] == orders[1] and resume_at_image(
            trainer, images_per_batch, accumulated(trainer), windows[0] == windows[1]
        ):
            return True
        seen = trainer.fit_loop.batch_idx + 1
        terminal.note(
            f"epoch {trainer.current_epoch + 1} begins again, so that the first "
            f"{seen * images_per_batch:,} of its images are trained on once more: with another "
            "data.batch_size, data.sampler, accumulation, number of devices or of batches, or seed "
            "no step begins where it was left."
        )
        return False

    def _configs(self) -> list[dict[str, Any]]:
        """The configs of then and now; that of a foreign checkpoint is empty."""
        return [load(text) for text in (self.loaded.get(KEY, {}).get("config", ""), self.config)]


def _order_of(config: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The settings that decide how batches accumulate, and in which order images come."""
    trainer = config["trainer"]
    schedulers = stop_reasons.named(trainer, "GradientAccumulationScheduler")
    window = [trainer.get("accumulate_grad_batches"), *schedulers]
    sampler = (config.get("data", {}).get("init_args") or {}).get("sampler")
    return window, [config.get("seed_everything"), trainer.get("overfit_batches"), sampler]


def resume_at_image(
    trainer: pl.Trainer, images_per_batch: int, window: int, same_windows: bool
) -> bool:
    """Resumes an epoch at the image where it was left, in batches of another size too.

    A batch had ``images_per_batch``, over all ranks; a step accumulates a ``window`` of batches
    now. Returns False if it cannot: a batch or a window would begin elsewhere.
    """
    loader: Any = trainer.train_dataloader
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    number = progress.current.ready
    total = int(trainer.num_training_batches)
    same_batches = loader.images_per_batch == images_per_batch
    if same_batches and number >= total:
        return False  # with fewer batches an epoch than before
    if not same_batches:
        seen = number * images_per_batch
        limited = total < len(loader)
        images = total * loader.images_per_batch if limited else len(loader.loader.dataset)
        left = (images - seen) // loader.images_per_batch
        if left < 1:
            return False
        loader.seen = seen
        number = total - left
    if not (same_batches and same_windows) and number % window:
        loader.seen = None
        return False
    late = progress.total.processed - progress.total.completed  # saved while a batch ended
    for name in ("ready", "started", "processed"):
        setattr(progress.current, name, number)
    progress.current.completed = number - late
    return True
