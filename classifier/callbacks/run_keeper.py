"""The folder of a run: taken when a fit begins, and kept from other processes meanwhile."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from classifier.errors import UserError
from classifier.runs import RunFolder, locked


class RunKeeper(Callback):
    """Takes the folder of a run on rank zero, tells the other ranks, and locks it during the fit.

    Comes before all callbacks that look at the folder. ``claim`` makes one, unless that of the run
    that is resumed is taken already.
    """

    state_key = "RunKeeper"

    def __init__(self, run: RunFolder, claim: Callable[[], Path]) -> None:
        self.run = run
        self.claim = claim
        self.lock = contextlib.ExitStack()
        self.is_open = False  # whether a fit has begun

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if getattr(trainer, "datamodule", None) is None:
            raise UserError("fit: name the data module, trainer.fit(model, datamodule=…).")
        if trainer.is_global_zero:
            if not self.run.is_taken:
                self.run.take(self.claim())
            self.lock.enter_context(locked(self.run.path))
        self.is_open = True
        path = str(self.run.path) if trainer.is_global_zero else ""
        self.run.take(Path(trainer.strategy.broadcast(path)))

    def _close(self, *args: Any, **kwargs: Any) -> None:
        self.lock.close()

    teardown = on_exception = _close
