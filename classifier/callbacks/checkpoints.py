"""Which checkpoints a run keeps: ``best.ckpt`` and ``last.ckpt``."""

import math
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for a file of the run folder, which may have been moved.

    Args:
        folder: The run folder.
        name: The file is ``checkpoints/<name>.ckpt``.
        monitor: The metric whose best epoch is kept; the newest epoch if not given.
    """

    def __init__(self, folder: Path, name: str, monitor: str | None = None) -> None:
        mode = direction(monitor) if monitor else "min"
        super().__init__(
            folder / "checkpoints",
            name,
            monitor=monitor,
            mode=mode,
            # Inside an epoch no loader could go on from it.
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    @property
    def score(self) -> float:
        """The best ``monitor`` so far; NaN while there is none."""
        return math.nan if self.best_model_score is None else float(self.best_model_score)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the best epoch so far, if its file is here; elsewhere it starts anew."""
        here = str(self.dirpath)
        if not Path(self._here(state_dict["best_model_path"])).exists():
            return
        models = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: self._here(state_dict[name]) for name in paths}
        super().load_state_dict({**state_dict, **moved, "best_k_models": models, "dirpath": here})

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else path


def best_and_last(folder: Path, monitor: str | None) -> list[RunCheckpoint]:
    """Keeps the epoch with the best ``monitor``, if one is given, and the newest one.

    The best comes first, so that what the last one saves knows of it. Two callbacks rather than
    ``save_last``, which stops at the best epoch.
    """
    best = [RunCheckpoint(folder, "best", monitor)] if monitor else []
    return [*best, RunCheckpoint(folder, "last")]


def best_checkpoint(trainer: pl.Trainer) -> RunCheckpoint | None:
    """The callback that keeps ``checkpoints/best.ckpt``, once it has kept one."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, RunCheckpoint) and math.isfinite(callback.score):
            return callback
    return None


def direction(monitor: str) -> Literal["min", "max"]:
    """Losses are minimised, everything else is maximised."""
    return "min" if "loss" in monitor else "max"
