"""Hands predictions on to their file as they come."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from classifier import terminal
from classifier.results import PredictionTable


class PredictionWriter(BasePredictionWriter):
    """Writes a ``PredictionTable``, whose arguments it takes."""

    state_key = "PredictionWriter"

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        super().__init__("batch")
        self.within = contextlib.ExitStack()
        self.table = PredictionTable(path, class_names)
        self.unreadable: list[tuple[str, str]] = []  # files, each with the reason

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.within.enter_context(self._writing())

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.predict_loop.return_predictions = False  # they are on the disk

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.within.close()

    def on_exception(self, trainer: pl.Trainer, _: Any, exception: BaseException) -> None:
        self.within.__exit__(type(exception), exception, exception.__traceback__)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Within, batches are written; at its end the file appears, and what it holds is told."""
        with self.table.writing():
            yield
            for name, reason in self.unreadable:
                terminal.say(f"unreadable: {name}: {reason}")
        terminal.out(f"{self.table.count} predictions in {self.table.path}")

    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: Tensor, indices: Any, batch: Any, *_: Any
    ) -> None:
        """Writes the probabilities ``(N, K)`` of one batch of image files."""
        self.table.write(batch.files, [""] * len(batch.files), prediction)
        self.unreadable += batch.unreadable
