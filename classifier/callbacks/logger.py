"""TensorBoard's events in the run folder."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from classifier.runs import EVENTS


class RunLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger, writing into the run folder itself.

    Args:
        folder: The run folder.
        purge_step: First optimizer step that a resumed training takes again; what an earlier
            process wrote from there on is dropped from the curves.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        parent = folder.parent
        super().__init__(
            parent.parent,
            parent.name,
            folder.name,
            default_hp_metric=False,  # otherwise a made-up metric of -1
            purge_step=purge_step,
        )
        self.folder = folder
        self.earlier = set(folder.glob(f"{EVENTS}*"))
        self.is_used = False

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
        if status == "success" and not self.is_used:
            # Lightning opens the file even where there is nothing to train.
            for file in set(self.folder.glob(f"{EVENTS}*")) - self.earlier:
                file.unlink(missing_ok=True)

    def save(self) -> None:
        """Flushes the events; Lightning's hparams.yaml would repeat a part of config.yaml."""
        super(TensorBoardLogger, self).save()
