"""How Lightning writes and reads the checkpoints of a run."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from classifier.archive import write_checkpoint
from classifier.checkpoints import read_checkpoint


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are there as a whole or not at all, and reads none that is damaged.

    Lightning's own writes into the folder of temporary files and moves the file from there: a
    copy, half of which is there for a while, if that folder is on another disk.
    """

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))
