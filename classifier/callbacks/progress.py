"""Lightning's progress bar, which counts as ``Console`` does and leaves to it what stays."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich.progress import ProgressColumn, Task
from rich.text import Text


class RichBar(RichProgressBar):
    """A bar of one line that says how long the whole training will take, and goes with it."""

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        _, bar, batches, *_ = super().configure_columns(trainer)
        return [Column(self._place), bar, batches, Column(self._time_left), Column(_speed)]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._started, self._done_before = time.monotonic(), _share_done(trainer)

    def close(self) -> None:
        """Takes the bar off the screen, before what is printed last."""
        if self.progress is not None:
            self.progress.live.transient = True
            self.progress.stop()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "validate":
            self.close()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_test_end(trainer, pl_module)
        self.close()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_predict_end(trainer, pl_module)
        self.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.close()
        super().on_exception(trainer, pl_module, exception)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What else is logged for the bar: run folder and losses stand in the lines above it."""
        metrics = super().get_metrics(trainer, pl_module)
        return {k: v for k, v in metrics.items() if k not in ("v_num", "train_loss", "val_loss")}

    def _place(self, task: Task) -> str:
        if task.id != self.train_progress_bar_id:
            return task.description
        return f"epoch {epoch_of(self.trainer)}"

    def _time_left(self, task: Task) -> str:
        """Estimates how long the training, or what else is shown, still takes."""
        if task.id == self.train_progress_bar_id:
            done = _share_done(self.trainer)
            new = done - self._done_before
            seconds = (time.monotonic() - self._started) * (1 - done) / new if new > 0 else None
        else:
            seconds = task.time_remaining
        return f"{timedelta(seconds=round(seconds))} left" if seconds is not None else ""


class Column(ProgressColumn):
    """A text that a function gives."""

    max_refresh = 0.5  # seconds; a text that changes with each step cannot be read

    def __init__(self, text: Callable[[Task], str]) -> None:
        super().__init__()
        self.text = text

    def render(self, task: Task) -> Text:
        return Text(self.text(task))


def epoch_of(trainer: pl.Trainer) -> str:
    """The epoch that is being trained and how many there will be, counted from 1.

    It is "3/20", or "3" where nobody knows the number.
    """
    epoch, last = trainer.current_epoch + 1, trainer.max_epochs
    if last is None or last < 0:
        return str(epoch)
    return f"{min(epoch, last)}/{last}"  # after the last one Lightning counts once more


def _share_done(trainer: pl.Trainer) -> float:
    """How much of the training is done, 0..1; 0 where its length is not known."""
    # A limit that is not set is -1, and the batches of a stream are infinitely many.
    batches = (trainer.max_epochs or -1) * trainer.num_training_batches
    by_batches = (trainer.fit_loop.total_batch_idx + 1) / batches if batches else 0.0
    return max(0.0, by_batches, trainer.global_step / trainer.max_steps)


def _speed(task: Task) -> str:
    return f"{task.speed:.1f}/s" if task.speed else ""
