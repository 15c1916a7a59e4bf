"""Writes predictions as they come: one CSV row an image, in the order given."""

import contextlib
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from classifier.suggest import printable


class PredictionWriter(BasePredictionWriter):
    """Streams ``file, label, probability`` and the next best classes to a CSV file.

    Nothing of earlier batches is held. The file appears under its name when it is complete.

    Args:
        path: Where to write; must not exist.
        class_names: Names of the K classes.
        top_k: How many classes a row has, best first.
    """

    state_key = "PredictionWriter"

    def __init__(self, path: Path, class_names: Sequence[str], top_k: int) -> None:
        super().__init__("batch")
        self.path = path
        self.part = path.with_name(f".{path.name}.part")
        self.class_names = class_names
        self.top_k = min(top_k, len(class_names))
        self.count = 0
        self.unreadable: list[tuple[str, str]] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # File names may hold bytes that are not UTF-8; they come out as they went in.
        self.file = self.part.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self.rows = csv.writer(self.file)
        columns = ["file", "label", "probability"]
        for rank in range(2, self.top_k + 1):
            columns += [f"label_{rank}", f"probability_{rank}"]
        self.rows.writerow(columns)

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Writes the probabilities ``(N, K)`` of one batch of image files."""
        best = prediction.topk(self.top_k)
        values, indices = best.values.tolist(), best.indices.tolist()
        for name, probabilities, classes in zip(batch.files, values, indices, strict=True):
            row: list[str] = [name]
            for probability, index in zip(probabilities, classes, strict=True):
                row += [self.class_names[index], f"{probability:.6f}"]
            self.rows.writerow(row)
        self.count += len(batch.files)
        self.unreadable += batch.unreadable

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.file.close()
        self.part.replace(self.path)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if hasattr(self, "file"):  # it had begun
            with contextlib.suppress(OSError):  # of a full disk, which is the exception already
                self.file.close()
            self.part.unlink(missing_ok=True)

    def report(self) -> bool:
        """Prints what was written and what was not; returns whether a file could not be read."""
        print(f"{self.count} predictions in {self.path}")  # noqa: T201
        for name, reason in self.unreadable:
            print(f"unreadable: {printable(name)}: {printable(reason)}", file=sys.stderr)  # noqa: T201
        return bool(self.unreadable)
