"""What a run keeps of itself, and how it goes on from there to the same bits.

Lightning 2.6 can be stopped anywhere, but then goes on differently: it forgets the random numbers,
the metrics of the first half of an epoch, one step of ReduceLROnPlateau, what early stopping had
decided, and a validation that was due. So checkpoints are saved at clean points only, where little
is in the air, and that little is saved with them: after an optimizer step that no validation
follows, after a validation inside an epoch, and between epochs.
"""

import contextlib
import math
import os
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from classifier import runs
from classifier.archive import POSITION, write_checkpoint
from classifier.checkpoints import read_checkpoint
from classifier.durable import sync, written_whole

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
ASK_EVERY = 16  # batches between questions to the other ranks, each of which makes the device wait


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


class Stopped(SystemExit):
    """The training was told to stop by a signal and has saved itself; the code is 128 + number."""


class RunCheckpoints(Checkpoint):
    """Keeps ``best.ckpt``, ``last.ckpt`` and the one before it, ``previous.ckpt``.

    A signal (SIGTERM, SIGINT, SIGUSR1) saves at the next clean point and ends the training there;
    a second one ends it at once.

    It is a ``Checkpoint``, because Lightning calls those after all other callbacks.

    Args:
        folder: The run folder, which may have been moved.
        monitor: The metric whose best epoch is ``best.ckpt``; there is none if not given.
        minutes: How much of a training may be lost: it is saved inside epochs that take longer.
        steps: The same, in optimizer steps.
    """

    def __init__(
        self, folder: Path, monitor: str | None, minutes: float = 5.0, steps: int | None = None
    ) -> None:
        self.folder = folder / "checkpoints"
        self.monitor = monitor
        self.minutes = minutes
        self.steps = steps
        self.score = math.nan  # of best.ckpt
        self.candidate = math.nan  # of the epoch that just ended, if it is better
        self.saved = time.monotonic()
        self.saved_step = 0
        self.signal = 0  # that this process got
        self.told = 0  # that any rank got
        self.handlers: dict[signal.Signals, Any] = {}  # from before the training
        self.inside_epoch: bool | None = None  # while saving; None if somebody else saves
        self.position: dict[str, Any] = {}  # of the checkpoint that was loaded
        self.begins_anew = False  # resumed between two epochs
        self.earlier: dict[str, Any] = {}  # what was logged in this epoch before the checkpoint

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.ckpt"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.ckpt"

    # ---- when to save ----

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        if self.earlier:
            add_results(trainer, self.earlier)
            self.earlier = {}
        if is_clean(trainer):
            self._save_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        inside = trainer.state.fn == "fit" and not trainer.sanity_checking
        if inside and is_inside_epoch(trainer):
            self._save_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.candidate = math.nan
        if self.monitor in trainer.callback_metrics:
            score = float(trainer.callback_metrics[self.monitor])
            sign = 1 if runs.direction_of(self.monitor) == "minimize" else -1
            if math.isfinite(score) and not sign * score >= sign * self.score:
                self.candidate = score

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The epoch before it is only now done with: schedules come after on_train_epoch_end.
        if self.begins_anew:
            begin_epoch(trainer)  # it was saved here, and need not be again
            self.begins_anew = False
        elif trainer.current_epoch > 0:
            self._agree(trainer, False)
            self._save(trainer, inside_epoch=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, inside_epoch=False)

    def _save_if_asked(self, trainer: pl.Trainer) -> None:
        due = self.steps is not None and trainer.global_step - self.saved_step >= self.steps
        if trainer.world_size == 1 or (trainer.fit_loop.batch_idx + 1) % ASK_EVERY == 0:
            late = trainer.is_global_zero and time.monotonic() - self.saved >= 60 * self.minutes
            due = self._agree(trainer, due or late)
        if due:
            self._save(trainer, inside_epoch=True)

    def _agree(self, trainer: pl.Trainer, due: bool) -> bool:
        """Whether any rank has to save or was told to stop."""
        if trainer.world_size > 1:
            asked = torch.tensor([due, self.signal], device=trainer.strategy.root_device)
            due, self.told = trainer.strategy.reduce(asked, reduce_op="max").tolist()
        else:
            self.told = self.signal
        return bool(due or self.told)

    # ---- being told to stop ----

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        no_signal_handlers(trainer)
        for number in STOPS:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:  # as a shell does in the background
                self.handlers[number] = handler
                signal.signal(number, self._note)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved, self.saved_step = time.monotonic(), trainer.global_step
        if self.position:
            self.earlier = restore_metrics(trainer, self.position)
            self.begins_anew = not self.position["inside_epoch"]
            self.position = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number

    # ---- saving ----

    def _save(self, trainer: pl.Trainer, inside_epoch: bool) -> None:
        better, before = not math.isnan(self.candidate), self.score
        if better:
            self.score, self.candidate = self.candidate, math.nan
        self.inside_epoch = inside_epoch
        new = self.folder / "new.ckpt"
        try:
            trainer.save_checkpoint(new, weights_only=False)
            if better and trainer.is_global_zero:  # first, for the others know of it
                replace_by_copy(new, self.best)
        except BaseException:
            self.score = before  # as that of the file still is
            raise
        finally:
            self.inside_epoch = None
        if trainer.is_global_zero:
            if self.last.exists():
                replace_by_copy(self.last, self.last.with_name("previous.ckpt"))
            new.replace(self.last)
            sync(self.folder)
        self.saved, self.saved_step = time.monotonic(), trainer.global_step
        if self.told:
            raise Stopped(128 + self.told)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.inside_epoch is None:
            return
        if not self.inside_epoch:
            checkpoint["epoch"] = trainer.current_epoch - 1  # as Lightning's own checkpoints say
            end_epoch(checkpoint["loops"]["fit_loop"])
        checkpoint[POSITION] = {
            "inside_epoch": self.inside_epoch,
            "ranks": all_ranks(trainer, metrics_of(trainer) if self.inside_epoch else {}),
            "callback_metrics": {k: v.clone() for k, v in trainer.callback_metrics.items()},
            "should_stop": trainer.should_stop,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "score": self.score}

    # ---- going on ----

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.position = dict(checkpoint.get(POSITION, {}))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the best epoch so far, if its file is here; elsewhere it starts anew."""
        if state_dict["monitor"] == self.monitor and self.best.exists():
            self.score = state_dict["score"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        resumed(trainer)


def best_checkpoint(trainer: pl.Trainer) -> RunCheckpoints | None:
    """The callback that keeps ``best.ckpt``, once it has kept one."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, RunCheckpoints) and not math.isnan(callback.score):
            return callback
    return None


def replace_by_copy(source: Path, target: Path) -> None:
    """Puts the content of a file under another name, in one go; without copying if possible."""
    link = target.with_name(f".{target.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(source, link)
    except OSError:  # not every file system has links
        with source.open("rb") as content, written_whole(target) as file:
            shutil.copyfileobj(content, file)
    else:
        link.replace(target)
        link.unlink(missing_ok=True)  # it stays if it and target were names of the same file


def all_ranks(trainer: pl.Trainer, value: Any) -> list[Any]:
    """The value of each rank."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


# ---- Lightning's inside, for want of hooks; tests/test_resume_inside.py fails when it changes ----


def no_signal_handlers(trainer: pl.Trainer) -> None:
    """Keeps off Lightning's handlers.

    They save inside the handler, where a third of all files are torn, and talk to the other ranks
    there, which may be in the midst of talking about something else.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None


def is_inside_epoch(trainer: pl.Trainer) -> bool:
    """Whether the optimizer has stepped on the batch before, and more batches follow it.

    After the last one the epoch has yet to be ended, which a training that goes on would not do.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    return not (loop._should_accumulate() or loop._is_training_done or trainer.should_stop)


def is_clean(trainer: pl.Trainer) -> bool:
    """Whether an optimizer step was just taken after which the next batch comes."""
    loop: Any = trainer.fit_loop
    return is_inside_epoch(trainer) and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def end_epoch(state: dict[str, Any]) -> None:
    """Changes the state of the fit loop from "an epoch is about to begin" to "one has ended"."""
    for part in ("total", "current"):
        progress = state["epoch_progress"][part]
        state["epoch_progress"][part] = {**progress, "ready": progress["started"]}
    batches = state["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False


def begin_epoch(trainer: pl.Trainer) -> None:
    """Lets an epoch begin that is not the rest of one, whatever Lightning takes it for."""
    loop: Any = trainer.fit_loop
    loop.epoch_loop.restarting = False
    loop._restarting = False


def resumed(trainer: pl.Trainer) -> None:
    """Ends the state of being resumed; else ReduceLROnPlateau would leave this epoch out."""
    loop: Any = trainer.fit_loop
    loop._restarting = False


def metrics_of(trainer: pl.Trainer) -> dict[str, Any]:
    """What this rank has accumulated in the epoch: torchmetrics by name, other means by key."""
    loop: Any = trainer.fit_loop.epoch_loop
    results = {key: result for key, result in loop._results.items() if result.meta.on_epoch}
    logged = {id(result.value) for result in results.values() if not result.is_tensor}
    modules = trainer.lightning_module.named_modules()
    return {
        "metrics": {name: state_of(module) for name, module in modules if id(module) in logged},
        "results": {key: state_of(result) for key, result in results.items() if result.is_tensor},
    }


def state_of(metric: Any) -> dict[str, Any]:
    """What a metric has accumulated."""
    state: dict[str, Any] = metric.metric_state
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else list(value)
        for name, value in state.items()
    }


def restore_metrics(trainer: pl.Trainer, position: dict[str, Any]) -> dict[str, Any]:
    """Takes up what was measured before the checkpoint; returns what can only be added later."""
    connector: Any = trainer._logger_connector
    device = trainer.lightning_module.device
    for name, value in position["callback_metrics"].items():
        connector._callback_metrics[name] = value.to(device)
    trainer.should_stop = position["should_stop"]
    ranks = position["ranks"]
    own = ranks[trainer.global_rank] if trainer.global_rank < len(ranks) else {}
    for name, state in own.get("metrics", {}).items():
        metric: Any = trainer.lightning_module.get_submodule(name)
        for key in set(metric.metric_state) & set(state):
            value = state[key]
            setattr(metric, key, value.to(device) if isinstance(value, torch.Tensor) else value)
    results: dict[str, Any] = own.get("results", {})
    return results


def add_results(trainer: pl.Trainer, earlier: dict[str, Any]) -> None:
    """Adds what was accumulated before the checkpoint, once the first batch has made a start."""
    loop: Any = trainer.fit_loop.epoch_loop
    for key, saved in earlier.items():
        with contextlib.suppress(KeyError):  # logged no more
            result = loop._results[key]
            by_extreme = result.meta.is_max_reduction or result.meta.is_min_reduction
            add = result.meta.reduce_fx if by_extreme else torch.add
            for name, now in result.metric_state.items():
                setattr(result, name, add(now, saved[name].to(now.device)))
