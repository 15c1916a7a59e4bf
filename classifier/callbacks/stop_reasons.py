"""What ended a training, and whether that still holds when it is resumed.

A checkpoint keeps who stopped the training: the time, early stopping, the search or another
callback. The cause holds as long as its settings are the same.
"""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping, Timer
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

Settings = Mapping[str, Any]

ANOTHER = "another callback"
SEARCH = "the search"
REPRODUCE = "reproduce"


class StopAtStep(Callback):
    """Ends a training after so many optimizer steps, which is none of its settings."""

    state_key = "StopAtStep"

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        # After its max_steps a training ends by itself, and without a further validation.
        if trainer.global_step >= self.step and trainer.max_steps != self.step:
            trainer.should_stop = True


def stop_reason(trainer: Any) -> str:
    """The name of what told a training to stop: a callback's class, the search or reproduce."""
    for callback in trainer.callbacks:
        if isinstance(callback, StopAtStep) and callback.step == trainer.global_step:
            return REPRODUCE
        if isinstance(callback, Timer):
            remaining = callback.time_remaining()  # None without a limit
            if remaining is not None and remaining <= 0:
                return type(callback).__name__
        elif isinstance(callback, EarlyStopping):
            if callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
                return type(callback).__name__
        elif getattr(callback, "is_pruned", False):
            return SEARCH
    return ANOTHER


def details(trainer: Any, cause: str) -> str:
    """What a callback that stopped a training says of it, in brackets; "" if nothing."""
    said = (
        callback.stopping_reason_message
        for callback in trainer.callbacks
        if isinstance(callback, EarlyStopping) and type(callback).__name__ == cause
    )
    message = next(filter(None, said), "").partition(" Signaling Trainer")[0]
    told = message.removeprefix("Monitored metric ").rstrip(".").replace(". Best", ", best")
    told = told.replace("last 1 records", "last record")
    return f" ({told})" if told else ""


def describe(cause: str, details: str = "") -> str:
    """Names what stopped a training, and what resumes it."""
    if cause == "Timer":
        return "the time; raise or drop trainer.max_time or a Timer's duration to continue."
    if cause == REPRODUCE:
        return f"{cause}, where the run before had ended."
    if cause == ANOTHER:
        return f"{cause}; change trainer.callbacks, or set it to null, to continue."
    return f"{cause}{details}; change its arguments, or pass --trainer.callbacks null, to continue."


def still_holds(cause: str, then: Settings, now: Settings) -> bool:
    """Whether a cause would stop a training again: by the trainer's settings then and now."""
    return cause != SEARCH and _settings_of(cause, then) == _settings_of(cause, now)


def _settings_of(cause: str, trainer: Settings) -> list[Any]:
    callbacks = _callbacks(trainer) if cause == ANOTHER else named(trainer, cause)
    # Lightning makes a Timer of it.
    return [trainer.get("max_time") if cause in (ANOTHER, "Timer") else None, *callbacks]


def named(trainer: Settings, name: str) -> list[Settings]:
    """The callbacks of a class in the settings of a trainer."""
    paths = ((str(spec["class_path"]), spec) for spec in _callbacks(trainer))
    return [spec for path, spec in paths if path.rpartition(".")[2] == name]


def forget(trainer: Any, states: dict[str, Any]) -> None:
    """Removes from the saved states of callbacks that they had stopped the training."""
    fresh = {
        "stopped_epoch": 0,
        "stopping_reason": EarlyStoppingReason.NOT_STOPPED.value,
        "stopping_reason_message": None,
    }
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.state_key in states:
            states[callback.state_key] = {**states[callback.state_key], **fresh}


def spare_early_stopping(trainer: Any) -> None:
    """Lets a training end within its first epoch, before the metric that is watched is there."""
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.monitor not in trainer.callback_metrics:
            callback.strict = False


def follow_new_arguments(
    trainer: Any, states: dict[str, Any], then: Settings, now: Settings
) -> None:
    """Edits the saved states of callbacks so that changed arguments take effect.

    EarlyStopping, for example, has its ``patience`` in its state.
    """
    for kind in {type(callback) for callback in trainer.callbacks}:
        callbacks = [callback for callback in trainer.callbacks if type(callback) is kind]
        before, after = (
            [spec.get("init_args") or {} for spec in named(settings, kind.__name__)]
            for settings in (then, now)
        )
        if issubclass(kind, Checkpoint) or not len(before) == len(after) == len(callbacks):
            continue
        for callback, old, new in zip(callbacks, before, after, strict=True):
            state = states.get(callback.state_key, {})
            changed = {key for key in new if key in state and new[key] != old.get(key)}
            if changed:
                fresh = {key: getattr(callback, key) for key in changed}
                states[callback.state_key] = {**state, **fresh}


def _callbacks(trainer: Settings) -> list[Settings]:
    """The callbacks in the settings of a trainer, each with its class_path."""
    callbacks = trainer.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return [spec if isinstance(spec, Mapping) else {"class_path": str(spec)} for spec in callbacks]
