"""What a person sees of a training: a line to begin with, a line each epoch, where the run is."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from classifier import platform, terminal
from classifier.callbacks import stop_reasons
from classifier.callbacks.checkpoints import RunCheckpoints, best_checkpoint
from classifier.callbacks.epochs import EpochTracker, is_epoch_incomplete
from classifier.runs import RunFolder


class Console(EpochTracker):
    """Prints the start, each epoch and the end of a training.

    There is no run where nothing is kept (``fast_dev_run``).
    """

    state_key = "Console"

    def __init__(self, run: RunFolder | None) -> None:
        super().__init__()
        self.run = run
        self.epochs = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        count = sum(p.numel() for p in pl_module.parameters())
        network = f"{type(pl_module.network).__name__}, {count:,} parameters"
        devices = f"{trainer.num_devices} x " if trainer.num_devices > 1 else ""
        place = f"{self.run.shown}: " if self.run else ""
        device = f"on {devices}{pl_module.device.type}"
        self._print(trainer, f"{place}{network}, {device}; {data.summary()}")
        if trainer.current_epoch:
            self._print(trainer, f"resumed in epoch {trainer.current_epoch + 1}")

    def on_validation_inside(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        self._print_metrics(trainer, f"step {trainer.global_step}", metrics)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.fit_loop.batch_idx < 0:  # stopped before its first batch
            return
        self.epochs += 1
        last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        place = f"epoch {trainer.current_epoch + 1}/{last}"
        if is_epoch_incomplete(trainer):
            place += f", up to step {trainer.global_step}"
        self._print_metrics(trainer, place, self.end_metrics(trainer))

    def _print_metrics(self, trainer: pl.Trainer, place: str, metrics: dict[str, float]) -> None:
        monitor = str(trainer.lightning_module.monitor)
        watched = dict.fromkeys(["train_loss", "val_loss", "val_accuracy", monitor])
        values = "  ".join(f"{name} {metrics[name]:.4f}" for name in watched if name in metrics)
        self._print(trainer, f"{place}  {values}  {self.epoch_seconds():.1f} s")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.run is None:
            return
        why = self._why_it_ended(trainer)
        if self.epochs == 0:
            self._print(trainer, f"nothing to train: {'ended by ' * trainer.should_stop}{why}")
            if not self.run.path.exists():  # removed, for nothing was in it
                return
        elif trainer.should_stop:
            self._print(trainer, f"ended by {why}")
        seconds = f"{self.seconds():.1f} s"
        kept = f"run kept in {self.run.shown}"
        if (checkpoints := best_checkpoint(trainer)) is None:
            self._print(trainer, f"{kept} after {seconds}")
            self._say_what_is_not_logged(trainer)
        else:
            best = f"best {checkpoints.monitor} {checkpoints.best.score:.4f}"
            self._print(trainer, f"{best} after {seconds}, {kept}")
            path = terminal.display_path(checkpoints.best_model_path)
            self._print(trainer, "  " + terminal.command("test", "--ckpt_path", path))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                parent = str(terminal.display_path(logger.log_dir).parent)
                self._print(trainer, "  " + platform.quoted(["tensorboard", "--logdir", parent]))

    def _say_what_is_not_logged(self, trainer: pl.Trainer) -> None:
        """Says that no best checkpoint is kept, for nothing logs the metric that chooses it."""
        monitors = {
            c.monitor for c in trainer.checkpoint_callbacks if isinstance(c, RunCheckpoints)
        }
        if self.epochs and (missing := monitors - {None, *trainer.callback_metrics}):
            terminal.warn(
                f"model.monitor: nothing has logged {missing.pop()}, so there is no best.ckpt; "
                f"logged are {', '.join(sorted(trainer.callback_metrics))}."
            )

    def _why_it_ended(self, trainer: pl.Trainer) -> str:
        """What ended the training, and what resumes it."""
        if trainer.should_stop:
            return stop_reasons.describe(stop_reasons.stop_reason(trainer))
        if 0 <= trainer.max_steps <= trainer.global_step:
            return f"{trainer.global_step} steps are done; raise trainer.max_steps to continue."
        return f"{trainer.current_epoch} epochs are done; raise trainer.max_epochs to continue."

    def on_exception(self, trainer: pl.Trainer, _: Any, exception: BaseException) -> None:
        run = self.run
        if isinstance(exception, Exception) or not (run and run.is_taken):
            return
        hint = f"; resume with\n  {run.resume_command}" if run.last.exists() else ""
        self._print(trainer, f"stopped in epoch {trainer.current_epoch + 1}{hint}")

    def _print(self, trainer: pl.Trainer, text: str) -> None:
        if not trainer.is_global_zero:
            return
        bar = trainer.progress_bar_callback
        if isinstance(bar, RichProgressBar) and bar.progress is not None:
            bar.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            terminal.out(text)


class RichBar(RichProgressBar):
    """Lightning's bar, which leaves to ``Console`` what stays on the screen."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.progress is not None:
            self.progress.stop()  # before the console's last lines, not below them

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # the run folder is already on the screen
        return metrics


class DataNotes(Callback):
    """Prints what the data module notes of its data, such as images that it left out."""

    state_key = "DataNotes"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        if trainer.is_global_zero and data is not None:
            for note in data.notes(stage):
                terminal.note(note)
