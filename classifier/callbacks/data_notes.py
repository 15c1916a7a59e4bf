"""Says what a person should know of the data before it is used."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from classifier import terminal


class DataNotes(Callback):
    """Prints what the data module notes of its data, such as images that it left out."""

    state_key = "DataNotes"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        if trainer.is_global_zero and data is not None:
            for note in data.notes(stage):
                terminal.note(note)
