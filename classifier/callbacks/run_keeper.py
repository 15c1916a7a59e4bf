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

    Comes before all callbacks that look at the folder. ``RunLogger`` takes it a little earlier, for
    Lightning opens loggers before it sets up callbacks. ``claim`` makes the folder, or returns that
    of the run that is resumed.
    """

    state_key = "RunKeeper"

    def __init__(self, run: RunFolder, claim: Callable[[], Path]) -> None:
        self.run = run
        self.claim = claim
        self.lock = contextlib.ExitStack()
        self.is_open = False

    def taken(self) -> RunFolder:
        """Returns the folder, which is made if it was not yet."""
        if not self.run.is_taken:
            self.run.take(self.claim())
        return self.run

    def open(self) -> RunFolder:
        """Returns the folder, from now on locked."""
        run = self.taken()
        if not self.is_open:
            self.lock.enter_context(locked(run.path))
            self.is_open = True
        return run

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            if getattr(trainer, "datamodule", None) is None:
                raise UserError("fit: name the data module, trainer.fit(model, datamodule=…).")
            path = str(self.open().path) if trainer.is_global_zero else ""
            self.run.take(Path(trainer.strategy.broadcast(path)))

    def _close(self, *args: Any, **kwargs: Any) -> None:
        self.lock.close()
        self.is_open = False

    teardown = on_exception = _close
