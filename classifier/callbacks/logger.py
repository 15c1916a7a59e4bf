"""TensorBoard's events in the run folder."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger

from classifier import terminal
from classifier.callbacks.run_keeper import RunKeeper
from classifier.runs import EVENTS


class RunLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger, writing into the run folder once a fit has begun in it.

    ``purge_step`` is the first optimizer step that a resumed training takes again; what an earlier
    process wrote from there on is dropped from the curves.
    """

    def __init__(self, keeper: RunKeeper, purge_step: int | None = None) -> None:
        # Without default_hp_metric=False it would log a made-up metric of -1.
        super().__init__("", default_hp_metric=False, purge_step=purge_step)
        self.keeper, self.run = keeper, keeper.run
        self.earlier: set[Path] | None = None  # files with events, once it has one of its own
        self.is_used = False

    @property
    def log_dir(self) -> str:
        # Lightning tells other ranks that of rank zero.
        return str(self.run.path) if self.run.is_taken and terminal.is_rank_zero() else ""

    @property
    def root_dir(self) -> str:
        return self.log_dir

    @property
    def save_dir(self) -> str:
        return str(Path(self.log_dir).parents[1]) if self.log_dir else ""

    @property
    def name(self) -> str:
        return Path(self.log_dir).parent.name

    @property
    def version(self) -> str:
        return Path(self.log_dir).name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if not self.keeper.is_open:  # Lightning opens it before it sets up callbacks
            return DummyLogger().experiment
        if self.earlier is None:  # not again where the end of a training flushes it
            self.earlier = set(self.run.path.glob(f"{EVENTS}*"))
        return super().experiment

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.is_used = True
        try:
            super().log_metrics(metrics, step)
        except ValueError as error:
            if isinstance(error.__cause__, OSError):  # a full disk, not a value of a wrong type
                raise error.__cause__ from None
            raise

    def finalize(self, status: str) -> None:
        # A full disk, which it finds once more, must not hide why a training failed.
        with contextlib.suppress(OSError) if status == "failed" else contextlib.nullcontext():
            super().finalize(status)
        if status == "success" and not self.is_used and self.earlier is not None:
            # Lightning opens the file even where there is nothing to train.
            for file in set(Path(self.log_dir).glob(f"{EVENTS}*")) - self.earlier:
                file.unlink(missing_ok=True)

    def save(self) -> None:
        """Flushes the events; Lightning's hparams.yaml would repeat a part of config.yaml."""
        super(TensorBoardLogger, self).save()
