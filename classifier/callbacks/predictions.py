"""Writes predictions as they come: one CSV row an image, in the order given."""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from classifier import terminal
from classifier.atomic import naming, written_new
from classifier.platform import cleaning


class PredictionWriter(BasePredictionWriter):
    """Streams ``file, label, probability`` and the next best classes to a CSV file.

    Nothing of earlier batches is held.

    Args:
        path: Where to write.
        class_names: Names of the K classes.
        top_k: How many classes a row has, best first.

    Attributes:
        unreadable: Names of the files that could not be read, each with the reason.
    """

    state_key = "PredictionWriter"

    def __init__(self, path: Path, class_names: Sequence[str], top_k: int) -> None:
        super().__init__("batch")
        self.path = path
        self.class_names = class_names
        self.top_k = min(top_k, len(class_names))
        self.within = contextlib.ExitStack()
        self.count = 0
        self.unreadable: list[tuple[str, str]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.within.enter_context(self._writing())

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.predict_loop.return_predictions = False  # they are on the disk

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.within.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.within.__exit__(type(exception), exception, exception.__traceback__)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Within, batches are written; at its end the file appears, and what it holds is told.

        Raises:
            FileExistsError: If there is such a file by then; names the one that has the rows.
            OSError: If it cannot be written.
        """
        with written_new(self.path) as file, cleaning(Path(file.name).unlink):
            self.rows = csv.writer(_Encoded(file))
            columns = ["file", "label", "probability"]
            for rank in range(2, self.top_k + 1):
                columns += [f"label_{rank}", f"probability_{rank}"]
            self.rows.writerow(columns)
            yield
            for name, reason in self.unreadable:
                terminal.say(f"unreadable: {name}: {reason}")
        terminal.out(f"{self.count} predictions in {self.path}")

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
        with naming(self.path):
            for name, probabilities, classes in zip(batch.files, values, indices, strict=True):
                row: list[str] = [name]
                for probability, index in zip(probabilities, classes, strict=True):
                    row += [self.class_names[index], f"{probability:.6f}"]
                self.rows.writerow(row)
        self.count += len(batch.files)
        self.unreadable += batch.unreadable


class _Encoded:
    """Takes texts for a file. Names of files may hold bytes that are not UTF-8; they stay."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write(self, text: str) -> None:
        self.file.write(text.encode("utf-8", "surrogateescape"))
