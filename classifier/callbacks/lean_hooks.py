"""Lets a trainer call its hooks at a tenth of the cost, for as long as it runs."""

import contextlib

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from classifier.internals.lightning import lean_hooks


class LeanHooks(Callback):
    """Skips hooks that do nothing: half a millisecond a step."""

    state_key = "LeanHooks"

    def __init__(self) -> None:
        self.within = contextlib.ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.within.enter_context(lean_hooks(trainer))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.within.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.within.close()
