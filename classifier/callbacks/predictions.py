"""Hands predictions on to their file as they come."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter, Callback
from torch import Tensor

from classifier import terminal
from classifier.errors import UserError
from classifier.platform import cleaning
from classifier.results import PredictionTable, interleave
from classifier.runs import PREDICTIONS
from classifier.splits import EVALUATED


class PredictionWriter(BasePredictionWriter):
    """Writes a ``PredictionTable``, whose arguments it takes; ``facts`` is said of them."""

    state_key = "PredictionWriter"

    def __init__(self, path: Path, class_names: Sequence[str], facts: Mapping[str, str]) -> None:
        super().__init__("batch")
        self.facts = "".join(f"; {name} {fact}" for name, fact in facts.items())
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
        terminal.out(f"{self.table.count} predictions in {self.table.path}{self.facts}")

    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: Tensor, indices: Any, batch: Any, *_: Any
    ) -> None:
        """Writes the probabilities ``(N, K)`` of one batch of image files."""
        self.table.write(batch.files, [""] * len(batch.files), prediction)
        self.unreadable += batch.unreadable


class EvaluationWriter(Callback):
    """Writes what ``validate`` or ``test`` predicts: a ``PredictionTable`` in a folder of its own.

    Each image of the part has a row, in the order of the part, on any number of ranks; one that is
    skipped, for it is damaged, has none but its name and label. Where that cannot be, there is no
    file and a note says why.

    Args:
        claim: Makes the folder; raises an OSError or UserError where there can be none.
        class_names: Names of the K classes.
        is_asked: Whether somebody has named the folder, so that failing to write is an error.
    """

    state_key = "EvaluationWriter"

    def __init__(
        self, claim: Callable[[], Path], class_names: Sequence[str], is_asked: bool = False
    ) -> None:
        self.claim, self.class_names, self.is_asked = claim, class_names, is_asked
        self.within = contextlib.ExitStack()
        self.measured: list[Tensor] = []  # logits of the batch at work
        self.reason = ""  # why there is no file
        self.path: Path | None = None  # of the file, once it is there

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        part = EVALUATED[stage]
        self.name_of: Callable[[int], str] | None = data.namer(part)
        with self._failing():
            if self.name_of is None:
                raise UserError(f"{data.kind} loads the images itself, in an order not known.")
        folder = self._claimed() if trainer.is_global_zero and not self.reason else ""
        self.folder = Path(trainer.strategy.broadcast(folder))
        self.reason = trainer.strategy.broadcast(self.reason)
        self.rank, self.ranks = trainer.global_rank, trainer.world_size
        if self.reason:
            return
        self.images, self.unread = data.sets[part], data.unread(part)
        metrics: Any = getattr(pl_module, f"{part}_metrics")
        self.within.callback(metrics.register_forward_pre_hook(self._measure).remove)
        with self._failing():
            self.table = PredictionTable(self._file_of(self.rank), self.class_names)
            self.within.enter_context(self.table.writing())

    def _claimed(self) -> str:
        """Makes the folder, which is gone again where no file appears in it."""
        folder = None
        with self._failing():
            folder = self.claim()
            self.within.enter_context(cleaning(lambda: _remove_if_empty(folder)))
            self.within.callback(_remove_if_empty, folder)
        return str(folder or "")

    def _file_of(self, rank: int) -> Path:
        return self.folder / (PREDICTIONS if self.ranks == 1 else f".{rank}.{PREDICTIONS}")

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Within, what cannot be written becomes the reason why there is no file."""
        try:
            yield
        except (OSError, UserError) as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._close()
        if self.is_asked:
            raise UserError(f"predictions are not kept: {reason}")

    def _close(self, *args: Any, **kwargs: Any) -> None:
        """Lets no file appear, unless it is there."""
        self.within.__exit__(UserError, UserError(self.reason), None)

    teardown = on_exception = _close

    def _measure(self, metrics: Any, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        self.measured.append(batch[0].detach())

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Writes the rows of a batch, of images and labels ``(N,)``."""
        measured, self.measured = self.measured, []
        if self.reason or not len(batch[1]):  # all its images are damaged
            return
        if [len(logits) for logits in measured] != [len(batch[1])]:
            self._give_up(f"{type(pl_module).__name__} does not measure each image once by step.")
            return
        self._write(measured[0].float().softmax(1).cpu())

    def _write(self, probabilities: Tensor) -> None:
        """Writes rows for the next N images that were read, and for those unread before or between.

        With none, ``(0, K)``, for the unread ones that come next.
        """
        assert self.name_of
        places: list[int] = []
        read: list[int] = []
        place = self.rank + self.table.count * self.ranks
        while place < len(self.images):
            is_read = self.unread is None or not self.unread[place]
            if is_read and len(read) == len(probabilities):
                break
            read += [len(places)] * is_read
            places.append(place)
            place += self.ranks
        rows = torch.full((len(places), len(self.class_names)), torch.nan)
        rows[read] = probabilities
        labels = self.images.labels[places].tolist()
        with self._failing():
            self.table.write(
                [self.name_of(place) for place in places],
                [self.class_names[label] for label in labels],
                rows,
            )

    on_validation_batch_end = on_test_batch_end

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the rows of all ranks together, and lets the file appear."""
        if not self.reason:
            self._write(torch.empty(0, len(self.class_names)))
            with self._failing():
                self.within.close()
        if not trainer.strategy.reduce_boolean_decision(not self.reason):
            self.reason = self.reason or "another rank could not write its rows."
        elif self.ranks > 1 and trainer.is_global_zero:
            with self._failing():
                interleave([*map(self._file_of, range(self.ranks))], self.folder / PREDICTIONS)
        if self.reason:
            terminal.note(f"predictions are not kept: {self.reason}")
        else:
            self.path = self.folder / PREDICTIONS

    on_validation_end = on_test_end


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
