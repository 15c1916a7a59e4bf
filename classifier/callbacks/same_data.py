"""Notices that the data is not what the checkpoint was trained on."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from classifier import terminal


class SameData(Callback):
    """Warns when images were added, removed or split otherwise since the training.

    Where validation and test images are split off, some of them may have been trained on.

    Args:
        fingerprint: That of the data of the training.
    """

    state_key = "SameData"

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        if not trainer.is_global_zero or data is None:
            return
        found = data.fingerprint()
        if found != self.fingerprint:
            terminal.warn(
                f"the images or their split are not those of the training (fingerprint {found}, "
                f"not {self.fingerprint}); where no test folder "
                "sets them apart, training images may be among them."
            )
