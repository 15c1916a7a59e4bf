"""Where in a training a checkpoint lies, and how one goes on from there.

All of it is Lightning's inside, for want of hooks; tests/test_resume_inside.py watches it.
"""

import contextlib
from typing import Any

import pytorch_lightning as pl
import torch


def is_inside_epoch(trainer: pl.Trainer) -> bool:
    """Whether the optimizer has stepped on the batch before, and more batches follow it.

    After the last one the epoch has yet to be ended, which a training that goes on would not do.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    return not (loop._should_accumulate() or loop._num_ready_batches_reached())


def is_broken_off(trainer: pl.Trainer) -> bool:
    """Whether the training has left its epoch before the last batch, perhaps before the first."""
    loop: Any = trainer.fit_loop.epoch_loop
    return not loop._num_ready_batches_reached()


def is_ending(trainer: pl.Trainer) -> bool:
    """Whether no further batch of the epoch will be trained on."""
    loop: Any = trainer.fit_loop
    return bool(loop.epoch_loop._is_training_done or (trainer.should_stop and loop._can_stop_early))


def is_validation_due(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the batch, and not only because the training ends."""
    loop: Any = trainer.fit_loop
    stop, trainer.should_stop = trainer.should_stop, False
    due: bool = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    trainer.should_stop = stop
    return due


def is_measured(trainer: pl.Trainer, name: str | None) -> bool:
    """Whether the validation that ends has measured a metric."""
    results: Any = trainer.fit_loop.epoch_loop.val_loop._results
    return any(result.meta.name == name for result in results.values())


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


def restore_metrics(
    trainer: pl.Trainer, position: dict[str, Any], whole: bool
) -> list[dict[str, Any]]:
    """Takes up what was measured before the checkpoint.

    Args:
        trainer: The trainer that goes on.
        position: What the checkpoint says of its position.
        whole: Whether the epoch begins anew, so that what it has measured so far does not count.

    Returns:
        What can only be added later: the other means, of each rank whose part this one takes over.
    """
    connector: Any = trainer._logger_connector
    device = trainer.lightning_module.device
    for name, value in position["callback_metrics"].items():
        connector._callback_metrics[name] = value.to(device)
    # Of several, if there were more ranks than now.
    parts = [] if whole else position["ranks"][trainer.global_rank :: trainer.world_size]
    taken: set[str] = set()
    for part in parts:
        for name, state in part.get("metrics", {}).items():
            metric: Any = trainer.lightning_module.get_submodule(name)
            for key in set(metric.metric_state) & set(state):
                value = state[key]
                value = value.to(device) if isinstance(value, torch.Tensor) else value
                setattr(metric, key, getattr(metric, key) + value if name in taken else value)
            taken.add(name)
    return [part["results"] for part in parts if part.get("results")]


def add_results(trainer: pl.Trainer, earlier: list[dict[str, Any]]) -> None:
    """Adds what was accumulated before the checkpoint, once the first batch has made a start."""
    loop: Any = trainer.fit_loop.epoch_loop
    for key, saved in ((key, saved) for part in earlier for key, saved in part.items()):
        with contextlib.suppress(KeyError):  # logged no more
            result = loop._results[key]
            by_extreme = result.meta.is_max_reduction or result.meta.is_min_reduction
            add = result.meta.reduce_fx if by_extreme else torch.add
            for name, now in result.metric_state.items():
                setattr(result, name, add(now, saved[name].to(now.device)))


def go_on_at_image(
    trainer: pl.Trainer, images_per_batch: int, window: int, same_windows: bool
) -> bool:
    """Lets an epoch go on at the image where it was left, in batches of another size too.

    Args:
        trainer: The trainer that goes on.
        images_per_batch: How many a batch had, over all ranks.
        window: How many batches a step accumulates now.
        same_windows: Whether gradients are accumulated as before.

    Returns:
        False if it cannot: a batch or a window of accumulation would begin elsewhere.
    """
    loader: Any = trainer.train_dataloader
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    number = progress.current.ready
    total = int(trainer.num_training_batches)
    same_batches = loader.images_per_batch == images_per_batch
    if same_batches and number >= total:
        return False  # with fewer batches an epoch than before
    if not same_batches:
        seen = number * images_per_batch
        limited = total < len(loader)
        images = total * loader.images_per_batch if limited else len(loader.loader.dataset)
        left = (images - seen) // loader.images_per_batch
        if left < 1:
            return False
        loader.seen = seen
        number = total - left
    if not (same_batches and same_windows) and number % window:
        loader.seen = None
        return False
    late = progress.total.processed - progress.total.completed  # saved while a batch ended
    for name in ("ready", "started", "processed"):
        setattr(progress.current, name, number)
    progress.current.completed = number - late
    return True


def begin_epoch_anew(trainer: pl.Trainer) -> None:
    """Takes the rest of an epoch back to where the whole epoch is about to begin."""
    loop: Any = trainer.fit_loop
    for progress in (loop.epoch_progress.total, loop.epoch_progress.current):
        progress.ready -= 1
        progress.started -= 1
    loop.reset_restart_stage()
    loop.epoch_loop.reset_restart_stage()
    begin_epoch(trainer)
