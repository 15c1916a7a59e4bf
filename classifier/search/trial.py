"""The training of a trial: an ordinary fit that reports to its search, and is stopped by it."""

import math
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary

from classifier import runs
from classifier.cli.run import run as run_verb
from classifier.platform import die
from classifier.search import hparams
from classifier.search.process import Trial


def run(trial: Trial, channel: Connection | None = None) -> int:
    """Fits a trial; returns the exit code."""
    report = TrialReport(trial, channel)
    return run_verb(["fit", *trial.arguments], trial.job, trainer_defaults={"callbacks": [report]})


class TrialReport(Callback):
    """Reports each epoch to the search, obeys its answer, and fills TensorBoard's HParams.

    After every epoch that measured the monitor, rank zero sends ``(epochs_done, value)``, the best
    value of the epoch's validations, and receives whether to stop. When the other end is closed
    the search is dead, and so is the trial: another one may take it up at any time.

    Comes after ``RunRecord``, whose ``metrics.csv`` it reads. ``channel`` is the trial's end of a
    pipe to the search; None if nobody listens, and on all ranks but the first.
    """

    state_key = "TrialReport"

    def __init__(self, trial: Trial, channel: Connection | None = None) -> None:
        self.trial, self.job = trial, trial.job
        self.monitor = str(trial.job.monitor)
        self.channel = channel and _Channel(channel)
        self.started_session = False
        self.is_pruned = False  # by the search

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        start = hparams.session_start(self.trial.hyperparameters, str(self.job.name))
        self._write(trainer, start)
        self.started_session = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stop = False
        if trainer.is_global_zero:
            rows = runs.read_metrics(self.job.folder)
            of_epoch = [row for row in rows if int(row["epoch"]) == trainer.current_epoch]
            value = self._measured(of_epoch)
            if value is not None:
                self._log_best(trainer, rows)
                stop = bool(self.channel and self.channel.ask((trainer.current_epoch + 1, value)))
        if trainer.strategy.broadcast(stop):
            trainer.should_stop = self.is_pruned = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, hparams.session_end(succeeded=True))

    def on_exception(self, trainer: pl.Trainer, _: Any, exception: BaseException) -> None:
        # TensorBoard keeps the first end; a training that was only interrupted may be resumed.
        if self.started_session and isinstance(exception, Exception):
            self._write(trainer, hparams.session_end(succeeded=False))

    def _measured(self, rows: list[dict[str, str]]) -> float | None:
        """The best of some validations, or one that is not finite; None if there is none."""
        values = [float(text) for row in rows if (text := row.get(self.monitor))]
        bad = [value for value in values if not math.isfinite(value)]
        return bad[0] if bad else runs.best_value(rows, self.monitor, self.job.direction)

    def _log_best(self, trainer: pl.Trainer, rows: list[dict[str, str]]) -> None:
        best = runs.best_value(rows, self.monitor, self.job.direction)
        for log in _loggers(trainer):
            if best is not None:
                step = trainer.global_step - 1
                log.experiment.add_scalar(f"best/{self.monitor}", best, step)
            log.experiment.flush()  # before the checkpoint from which a killed trial is resumed

    def _write(self, trainer: pl.Trainer, summary: Summary) -> None:
        for log in _loggers(trainer) if trainer.is_global_zero else ():
            log.experiment.file_writer.add_summary(summary)
            log.experiment.flush()


class _Channel:
    """The trial's end of the pipe; reads it in a thread, which also notices its end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.answers: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=self._listen, name="trial", daemon=True).start()

    def ask(self, report: tuple[int, float]) -> bool:
        try:
            self.connection.send(report)
        except OSError:
            die()
        return self.answers.get()

    def _listen(self) -> None:
        while True:
            try:
                self.answers.put(self.connection.recv())
            except (EOFError, OSError):
                die()


def _loggers(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    return [log for log in trainer.loggers if isinstance(log, TensorBoardLogger)]
