"""A training that is a trial of a search: it reports to the search, and is stopped by it."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from classifier import runs

VARIABLE = "CLASSIFIER_TRIAL"


@dataclass(frozen=True)
class Trial:
    """What a search tells the training that it starts, as JSON in ``CLASSIFIER_TRIAL``.

    Attributes:
        folder: Run folder of the training, ``<search folder>/trials/<number>``.
        monitor: The metric that the search improves.
        direction: ``minimize`` or ``maximize``.
        hyperparameters: The searched values by name, for TensorBoard.
        words: What the user's own words name in the search, class paths among it.
        trusted: Packages that the user trusts.
        channel: File descriptor of one end of a ``multiprocessing.Pipe`` to the search. Only the
            process that the search started has it. None if nobody listens.
    """

    folder: Path
    monitor: str
    direction: runs.Direction
    hyperparameters: Mapping[str, Any]
    channel: int | None
    words: Sequence[str] = ()
    trusted: Sequence[str] = ()

    @classmethod
    def from_environment(cls) -> "Trial | None":
        """The trial that this process trains; None in an ordinary training."""
        text = os.environ.get(VARIABLE)
        if text is None:
            return None
        facts = json.loads(text)
        return cls(**{**facts, "folder": Path(facts["folder"])})

    @property
    def name(self) -> str:
        """What the run is called: the search folder and the number."""
        return f"{self.folder.parent.parent.name}_{self.folder.name}"


class TrialReport(Callback):
    """Reports each epoch to the search, obeys its answer, and fills TensorBoard's HParams.

    After every epoch that measured the monitor, rank zero sends ``(epochs_done, value)``, the best
    value of the epoch's validations, and receives whether to stop. When the other end is closed
    the search is dead, and so is the trial: another one may take it up at any time.

    Comes after ``RunRecord``, whose ``metrics.csv`` it reads.

    Args:
        trial: What the search says.
    """

    state_key = "TrialReport"

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self.trial = trial
        self.started_session = False
        self.is_pruned = False
        self.channel = None if trial.channel is None else _Channel(trial.channel)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {name: _plain(value) for name, value in self.trial.hyperparameters.items()}
        self._write(trainer, hparams_pb(values, trial_id=self.trial.name))
        self.started_session = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stop = False
        value = self._measured(trainer.current_epoch) if trainer.is_global_zero else None
        if value is not None:
            self._log_best(trainer)
            if self.channel is not None:
                stop = self.channel.ask((trainer.current_epoch + 1, value))
        if trainer.strategy.broadcast(stop):
            trainer.should_stop = self.is_pruned = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer, STATUS_SUCCESS)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        # TensorBoard keeps the first end; a training that was only interrupted may go on.
        if self.started_session and isinstance(exception, Exception):
            self._end(trainer, STATUS_FAILURE)

    def _measured(self, epoch: int) -> float | None:
        """The best of an epoch's validations, or one that is not finite; None if there is none."""
        rows = runs.read_metrics(self.trial.folder)
        texts = [row.get(self.trial.monitor) for row in rows if int(row["epoch"]) == epoch]
        values = [float(text) for text in texts if text]
        bad = [value for value in values if not math.isfinite(value)]
        best = min if self.trial.direction == "minimize" else max
        return bad[0] if bad else best(values, default=None)

    def _log_best(self, trainer: pl.Trainer) -> None:
        rows = runs.read_metrics(self.trial.folder)
        best = runs.best_value(rows, self.trial.monitor, self.trial.direction)
        for writer in _writers(trainer):
            if best is not None:
                writer.add_scalar(f"best/{self.trial.monitor}", best, trainer.global_step - 1)
            writer.flush()  # before the checkpoint is saved from which a killed trial goes on

    def _end(self, trainer: pl.Trainer, status: Any) -> None:
        end = SessionEndInfo(status=status, end_time_secs=time.time())
        data = metadata.create_summary_metadata(HParamsPluginData(session_end_info=end))
        value = Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG, metadata=data, tensor=metadata.NULL_TENSOR
        )
        self._write(trainer, Summary(value=[value]))

    def _write(self, trainer: pl.Trainer, summary: Summary) -> None:
        if not trainer.is_global_zero:
            return
        for writer in _writers(trainer):
            writer.file_writer.add_summary(summary)
            writer.flush()


class _Channel:
    """The trial's end of the pipe; reads it in a thread, which also notices its end."""

    def __init__(self, descriptor: int) -> None:
        self.connection = Connection(descriptor)
        self.answers: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=self._listen, name="trial", daemon=True).start()

    def ask(self, report: tuple[int, float]) -> bool:
        """Reports and waits for the answer."""
        try:
            self.connection.send(report)
        except OSError:
            _die()
        return self.answers.get()

    def _listen(self) -> None:
        while True:
            try:
                self.answers.put(self.connection.recv())
            except (EOFError, OSError):
                _die()


def _die() -> None:
    """Kills this process and those that it started, at once: nothing more is written."""
    leads_its_group = os.getpgrp() == os.getpid()
    os.kill(0 if leads_its_group else os.getpid(), signal.SIGKILL)


def _writers(trainer: pl.Trainer) -> list[Any]:
    """TensorBoard's writers of this training."""
    return [log.experiment for log in trainer.loggers if isinstance(log, TensorBoardLogger)]


def _plain(value: Any) -> Any:
    """Anything but truth values, numbers and texts as a text: None becomes ``null``."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
