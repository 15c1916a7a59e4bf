"""Keeps the run folder: config, record, metrics of each epoch."""

import contextlib
import os
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from classifier import runs, terminal
from classifier.atomic import write_text
from classifier.callbacks.checkpoints import best_checkpoint
from classifier.callbacks.epochs import EpochTracker, is_epoch_incomplete
from classifier.checkpoint.read import weights_digest
from classifier.environment import describe_device
from classifier.runs import RunFolder

KEPT_BESIDE = ("epoch", "step", "seconds", "lr")  # the columns of metrics.csv besides the metrics


class RunRecord(EpochTracker):
    """Writes ``config.yaml``, ``run.json`` and ``metrics.csv``, and tells the checkpoint of them.

    Args:
        run: The run folder. Under several processes, that of rank zero counts.
        config: Text of the config.
        facts: What is known before the training: command line, seed, environment.
        resumed: Whether a checkpoint is resumed. Nothing is written before its first step, so
            that a run with nothing to train stays as it is.
    """

    state_key = "RunRecord"

    def __init__(
        self, run: RunFolder, config: str, facts: Mapping[str, Any], resumed: bool = False
    ) -> None:
        super().__init__()
        self.run = run
        self.config = config
        self.record: dict[str, Any] = {"state": "running", **facts}
        self.resumed = resumed
        self.begun = False  # whether anything was written
        self.first_step = 0  # of this process
        self.rows: list[dict[str, Any]] = []  # of epochs that have ended
        self.inside: list[dict[str, Any]] = []  # of validations inside the one under way
        self.rate = 0.0
        self.write_manifest: Callable[[Path], None]  # from setup on

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        self.write_manifest = data.write_manifest
        unknown = {"unknown": [*data.unknown]} if data.unknown else {}
        self.record |= {
            "data": {**data.describe(), "fingerprint": data.fingerprint(), **unknown},
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "device": trainer.strategy.root_device.type,
            "devices": trainer.world_size,
            "precision": str(trainer.precision),
        }
        # Lightning may have set it for processes that share the cores.
        self.record["environment"]["threads"] = torch.get_num_threads()
        self.record["environment"] |= describe_device(trainer.strategy.root_device)
        pl_module.provenance = {  # type: ignore[assignment]  # of ClassificationModule
            "format": self.record["format"],
            "config": self.config,
            "data": data.describe(),
            "run": self.record,
        }

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record["started"] = _now()
        # Weights and optimizer are in place: a mistake no longer touches the folder.
        if trainer.is_global_zero and not self.resumed:
            self._begin()

    def _begin(self) -> None:
        """Writes what is known before the training; what is resumed has taken its first step."""
        if not self.run.begun:
            runs.save_config(self.run.path, self.config)  # first: a record without it is no run
        else:
            earlier = runs.read_record(self.run.path)
            done = ("metrics", "epochs", "steps")
            self.record |= {name: earlier[name] for name in done if name in earlier}
            self.record["resumed"] = [*earlier.pop("resumed", []), earlier]
        self.record |= {"pid": os.getpid(), "config_sha256": runs.text_sha256(self.config)}
        # In this order, so that after a kill between the two the config is one that is known.
        runs.write_record(self.run.path, self.record)
        runs.save_config(self.run.path, self.config)
        self.write_manifest(self.run.path)
        self.begun = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.first_step = trainer.global_step
        # The epochs that a resumed training repeats are written again.
        rows = runs.read_metrics(self.run.path)
        here = trainer.is_global_zero and self.run.begun
        if here and not rows and trainer.current_epoch:
            terminal.note("the run has no metrics.csv of its earlier epochs; a new one begins.")
        self.rows = [row for row in rows if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.inside = []
        # Now, for at its end the schedule has already moved on.
        self.rate = _rate(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if not self.begun and trainer.is_global_zero and trainer.global_step > self.first_step:
            self._begin()

    def on_validation_inside(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        self.inside.append({**self._row(trainer, _rate(trainer)), **metrics})
        self._write_rows(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fit_loop.batch_idx < 0:  # without a batch
            return
        row = {**self._row(trainer, self.rate), **self.end_metrics(trainer)}
        self.rows += [*self.inside, row]
        self.inside = []
        self._write_rows(trainer)
        # What a checkpoint says of this epoch.
        done = {"epochs": trainer.current_epoch + 1, "steps": trainer.global_step}
        self.record |= {"metrics": self.epoch_metrics(trainer), **done}
        self._record_skipped(trainer)
        for logger in trainer.loggers:
            logger.log_metrics({"lr": self.rate}, trainer.global_step - 1)

    def _record_skipped(self, trainer: pl.Trainer) -> None:
        """Writes which damaged images were skipped, as soon as there are new ones."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        if data.skipped and data.skipped != self.record.get("skipped"):
            self.record["skipped"] = dict(data.skipped)
            runs.write_record(self.run.path, self.record)

    def _row(self, trainer: pl.Trainer, rate: float) -> dict[str, Any]:
        return {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": round(self.epoch_seconds(), 3),
            "lr": rate,
        }

    def _write_rows(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            runs.write_metrics(self.run.path, [*self.rows, *self.inside])

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weights = trainer.strategy.lightning_module_state_dict()  # all ranks may have a part
        if trainer.is_global_zero and (self.begun or self._was_killed_when_done()):
            self.record["weights_sha256"] = weights_digest(weights)
            self._close(trainer, "finished")

    def _was_killed_when_done(self) -> bool:
        """Whether a run is to be closed that was killed when all was trained."""
        if not self.run.begun:  # claimed for a training without a step
            runs.remove_if_unused(self.run.path)
            return False
        earlier = runs.read_record(self.run.path)
        self.record |= earlier
        return bool(earlier["state"] == "running")

    def on_exception(self, trainer: pl.Trainer, _: Any, exception: BaseException) -> None:
        if not trainer.is_global_zero or not self.run.is_taken:
            return
        if not self.begun:  # nothing was written
            runs.remove_if_unused(self.run.path)
            return
        failed = isinstance(exception, Exception)
        with contextlib.suppress(OSError):  # of a full disk, which may be why it ended
            if failed:
                self.record["error"] = f"{type(exception).__name__}: {exception}"
            self._close(trainer, "failed" if failed else "interrupted")
            if failed:
                lines = traceback.format_exception(exception)
                write_text(self.run.traceback, "".join(lines))

    def state_dict(self) -> dict[str, Any]:
        # Rows of validations inside the epoch, which only a checkpoint inside it needs.
        return {**super().state_dict(), "rate": self.rate, "rows": self.inside}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.rate = state_dict["rate"]
        self.inside = list(state_dict.get("rows", []))  # not in format 1

    def _close(self, trainer: pl.Trainer, state: str) -> None:
        self.record |= {
            "state": state,
            "ended": _now(),
            "seconds": round(self.seconds(), 3),
            "epochs": trainer.current_epoch
            - int(self.begun and state == "finished" and is_epoch_incomplete(trainer)),
            "steps": trainer.global_step,
        }
        if not self.begun:  # nothing was left to train after a kill
            rows = runs.read_metrics(self.run.path)
            found = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
            texts = {name: row[name] for row in found for name in row if row[name]}
            names = sorted(texts.keys() - set(KEPT_BESIDE))
            self.record["metrics"] = {name: float(texts[name]) for name in names}
        if checkpoints := best_checkpoint(trainer):
            self.record["best"] = {
                "monitor": checkpoints.monitor,
                "value": checkpoints.best.score,
                "checkpoint": os.path.relpath(checkpoints.best_model_path, self.run.path),
                "sha256": runs.sha256(Path(checkpoints.best_model_path)),
            }
        runs.write_record(self.run.path, self.record)


def _rate(trainer: pl.Trainer) -> float:
    module: Any = trainer.lightning_module
    return float(module.learning_rate())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
