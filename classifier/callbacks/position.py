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
