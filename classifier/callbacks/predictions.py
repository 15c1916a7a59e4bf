"""Writes predictions as they come: one CSV row an image, in the order given."""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from classifier import terminal
from classifier.atomic import atomic_create, naming_path
from classifier.platform import cleaning


class PredictionWriter(BasePredictionWriter):
    """Streams ``file, label, probability`` and the next best classes to a CSV file.

    A row has ``top_k`` of the K classes, best first. Nothing of earlier batches is held.
    """

    state_key = "PredictionWriter"

    def __init__(self, path: Path, class_names: Sequence[str], top_k: int) -> None:
        super().__init__("batch")
        self.path = path
        self.class_names = class_names
        self.top_k = min(top_k, len(class_names))
        self.within = contextlib.ExitStack()
        self.count = 0  # rows written
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
        """Within, rows are written; at its end the file appears, and what it holds is told."""
        with atomic_create(self.path) as file, cleaning(Path(file.name).unlink):
            # Names of files may hold bytes that are not UTF-8; they stay.
            text = io.TextIOWrapper(file, "utf-8", "surrogateescape", "", write_through=True)
            self.rows = csv.writer(text)
            columns = ["file", "label", "probability"]
            for rank in range(2, self.top_k + 1):
                columns += [f"label_{rank}", f"probability_{rank}"]
            self.rows.writerow(columns)
            yield
            for name, reason in self.unreadable:
                terminal.say(f"unreadable: {name}: {reason}")
        terminal.out(f"{self.count} predictions in {self.path}")

    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: Tensor, indices: Any, batch: Any, *_: Any
    ) -> None:
        """Writes the probabilities ``(N, K)`` of one batch of N image files."""
        best = prediction.topk(self.top_k)
        with naming_path(self.path):
            for name, *ranked in zip(batch.files, *(part.tolist() for part in best), strict=True):
                row: list[str] = [name]
                for probability, index in zip(*ranked, strict=True):
                    row += [self.class_names[index], f"{probability:.6f}"]
                self.rows.writerow(row)
        self.count += len(batch.files)
        self.unreadable += batch.unreadable
