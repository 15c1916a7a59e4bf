"""How Lightning writes and reads the checkpoints of a run."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.strategies import Strategy

from classifier.checkpoint.file import write_checkpoint
from classifier.checkpoint.read import read_checkpoint
from classifier.errors import UserError
from classifier.internals.lightning import starts_by_command


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are there as a whole or not at all, and reads none that is damaged.

    Lightning's own writes into the folder of temporary files and moves the file from there: a
    copy, half of which is there for a while, if that folder is on another disk.
    """

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def use_atomic_checkpoints(trainer: pl.Trainer) -> None:
    """Lets a trainer write and read its checkpoints by ``AtomicCheckpointIO``.

    Raises UserError if its strategy or plugin has another way, or its processes would be copies.
    """
    strategy = trainer.strategy
    given = type(strategy.checkpoint_io)
    if given not in (TorchCheckpointIO, AtomicCheckpointIO):
        raise UserError(
            f"{given.__name__}, in trainer.plugins or trainer.strategy, writes checkpoints "
            "without the checksum that every reading verifies; leave it out."
        )
    if type(strategy).save_checkpoint is not Strategy.save_checkpoint:
        raise UserError(
            f"trainer.strategy: {type(strategy).__name__} does not write a checkpoint as one file "
            "of the whole training, as which a run is kept; use 'ddp', or leave it out."
        )
    if not starts_by_command(strategy):
        raise UserError(
            "trainer.strategy: processes that are copied from this one (spawn, fork, notebook) "
            "lack what it holds; use 'ddp', which starts each by the same command line."
        )
    strategy.checkpoint_io = AtomicCheckpointIO()
