"""Lightning: its calls of hooks, its signal handlers, and where in its loops a training is.

No public hook skips empty hooks, tells how ranks are started, keeps off the handlers, or tells and
sets the place within an epoch. tests/test_hooks.py, test_ddp.py and test_resume_inside.py fail when
upstream changes.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.core.mixins.hparams_mixin import _given_hyperparameters_context
from pytorch_lightning.loops import training_epoch_loop
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.trainer import call
from pytorch_lightning.trainer.connectors import data_connector
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature

EMPTY = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step", "on_validation_batch_start"),
    *("on_validation_batch_end", "on_test_batch_start", "on_test_batch_end"),
    *("on_predict_batch_start", "on_predict_batch_end"),
)

# Optimizers ask in each step for a GPU. Lightning has that answered by NVML, which is looked for on
# the disk each time where there is none: 40 microseconds.
ASK_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


@contextlib.contextmanager
def skip_empty_hooks(trainer: Any) -> Iterator[None]:
    """Lets a trainer call the same hooks in the same order for a tenth of the cost.

    Lightning asks all callbacks at each of the dozen hooks of a step, inside a profiler, and notes
    the hook's name as an attribute of the module, which PyTorch makes slow: half a millisecond a
    step. A profiler that the user has chosen gets to see everything, as ever.
    """
    if type(trainer.profiler) is not PassThroughProfiler:
        yield
        return
    hooks = Hooks()
    lean: list[tuple[ModuleType, str, Callable[..., Any]]] = [
        (call, "_call_callback_hooks", hooks.of_callbacks),
        (call, "_call_lightning_module_hook", hooks.of_module),
        (call, "_call_strategy_hook", hooks.of_strategy),
        # What a class defines is looked up once, not ten times a step: 50 microseconds.
        (data_connector, "is_overridden", cache(is_overridden)),
        (training_epoch_loop, "is_param_in_hook_signature", cache(is_param_in_hook_signature)),
    ]
    with contextlib.ExitStack() as undo:
        undo.callback(os.environ.update, {ASK_NVML: os.environ.get(ASK_NVML, "0")})
        if not torch.cuda.device_count():
            os.environ[ASK_NVML] = "0"
        for module, name, function in lean:
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, function)
        yield


class Hooks:
    """Lightning's functions that call hooks; which callbacks have a hook is remembered."""

    def __init__(self) -> None:
        self.callbacks: list[Callback] = []
        self.functions: dict[tuple[str, bool | None], list[Callable[..., None]]] = {}

    def of_callbacks(
        self,
        trainer: Any,
        hook_name: str,
        *args: Any,
        monitoring_callbacks: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Calls the hook of each callback that has one."""
        if self.callbacks != trainer.callbacks:
            self.callbacks = list(trainer.callbacks)
            self.functions = {}
        key = hook_name, monitoring_callbacks
        if key not in self.functions:
            self.functions[key] = self._functions(*key)
        if functions := self.functions[key]:
            module = trainer.lightning_module
            with NamedHook(module, hook_name):
                for function in functions:
                    function(trainer, module, *args, **kwargs)

    def _functions(self, name: str, monitoring: bool | None) -> list[Callable[..., None]]:
        functions = [
            getattr(callback, name)
            for callback in self.callbacks
            if monitoring is None or isinstance(callback, EarlyStopping | Checkpoint) == monitoring
        ]
        empty = getattr(Callback, name)
        return [f for f in functions if callable(f) and getattr(f, "__func__", f) is not empty]

    def of_module(
        self, trainer: Any, hook_name: str, *args: Any, pl_module: Any = None, **kwargs: Any
    ) -> Any:
        """Calls the hook of the module, if it has one."""
        module = pl_module or trainer.lightning_module
        return self._call(module, module, pl.LightningModule, hook_name, *args, **kwargs)

    def of_strategy(self, trainer: Any, hook_name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls the hook of the strategy, if it has one."""
        module = trainer.lightning_module
        return self._call(module, trainer.strategy, Strategy, hook_name, *args, **kwargs)

    def _call(
        self, module: Any, owner: Any, base: type, name: str, *args: Any, **kwargs: Any
    ) -> Any:
        function = getattr(owner, name)
        if name in EMPTY and function.__func__ is getattr(base, name):
            return None
        with NamedHook(module, name):
            return function(*args, **kwargs) if callable(function) else None


class NamedHook:
    """Notes on a module which hook runs, as ``self.log`` has to know."""

    __slots__ = ("before", "module", "name")

    def __init__(self, module: Any, name: str) -> None:
        self.module, self.name = module, name

    def __enter__(self) -> None:
        if self.module is not None:
            # Not as an attribute: PyTorch looks at each for parameters, which takes 2 microseconds.
            self.before = self.module._current_fx_name
            self.module.__dict__["_current_fx_name"] = self.name

    def __exit__(self, *_: object) -> None:
        if self.module is not None:
            self.module.__dict__["_current_fx_name"] = self.before


@contextlib.contextmanager
def described(hyperparameters: Mapping[str, Any]) -> Iterator[None]:
    """Within, a module that is built takes these for its hyperparameters, not its arguments.

    Those of the command line are objects, which ``save_hyperparameters`` cannot write as texts.
    ``load_from_checkpoint`` builds them again by what ``_instantiator`` names.
    """
    builder = "pytorch_lightning.cli.instantiate_module"
    with _given_hyperparameters_context(dict(hyperparameters), builder):
        yield


class PlainCLI(LightningCLI):
    """LightningCLI that leaves to others what a checkpoint says of the config.

    Its own way lets the checkpoint win over the command line, and no setting turns it off.
    """

    def _parse_ckpt_path(self) -> None:
        pass


# ---- processes and signals ----


def starts_by_command(strategy: Strategy) -> bool:
    """Whether other ranks are started by the same command line, not copied from this process."""
    return isinstance(strategy.launcher, _SubprocessScriptLauncher | None)


@contextlib.contextmanager
def without_signal_handlers(trainer: pl.Trainer) -> Iterator[None]:
    """Within, a trainer does not register its signal handlers.

    They save inside the handler, where a third of all files are torn, and talk to the other ranks
    there, which may be in the midst of talking about something else. A callback could replace them
    from its first hook on, but the data loaders start between the two, and a SIGTERM meanwhile
    leaves ``received_sigterm`` set, which ends the training before it can save. Nor do the ranks
    tell each other at each batch whether that is set, for which all would wait for their devices.
    """
    replaced: tuple[tuple[Any, str], ...] = (
        (trainer._signal_connector, "register_signal_handlers"),
        (trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"),
    )
    for owner, name in replaced:
        setattr(owner, name, lambda: None)
    try:
        yield
    finally:
        for owner, name in replaced:
            delattr(owner, name)


# ---- where in the loops a training is, and how one is resumed there ----

# Public are the counters of batches, steps and epochs. Missing are: whether a validation follows,
# which metrics it has measured, whether a stop is obeyed, and ways to end the state of being
# restarted and to set the metrics that were logged in the first part of an epoch.


def can_stop_early(trainer: Any) -> bool:
    """Whether a training may be stopped: the least numbers of epochs and steps are done."""
    return bool(trainer.fit_loop._can_stop_early)


def is_validation_due(trainer: Any) -> bool:
    """Whether a validation follows the batch, and not only because the training ends."""
    stop, trainer.should_stop = trainer.should_stop, False
    due = trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
    trainer.should_stop = stop
    return bool(due)


def measured_by_validation(trainer: Any) -> set[str]:
    """The names of the metrics that the validation which ends has measured."""
    results = trainer.fit_loop.epoch_loop.val_loop._results
    return {result.meta.name for result in results.values()}


def mark_epoch_ended(state: dict[str, Any]) -> None:
    """Changes the state of the fit loop from "an epoch is about to begin" to "one has ended"."""
    for part in ("total", "current"):
        progress = state["epoch_progress"][part]
        state["epoch_progress"][part] = {**progress, "ready": progress["started"]}
    batches = state["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False


def begin_whole_epoch(trainer: Any) -> None:
    """Lets an epoch begin that is not the rest of one, whatever Lightning takes it for."""
    trainer.fit_loop.epoch_loop.restarting = False
    end_restart(trainer)


def end_restart(trainer: Any) -> None:
    """Ends the state of being resumed; else ReduceLROnPlateau would leave this epoch out."""
    trainer.fit_loop._restarting = False


def metric_states(trainer: Any) -> dict[str, Any]:
    """What this rank has accumulated in the epoch: torchmetrics by name, other means by key."""

    def state(metric: Any) -> dict[str, Any]:
        values = metric.metric_state.items()
        return {k: v.clone() if isinstance(v, torch.Tensor) else list(v) for k, v in values}

    every = trainer.fit_loop.epoch_loop._results
    results = {key: result for key, result in every.items() if result.meta.on_epoch}
    logged = {id(result.value) for result in results.values() if not result.is_tensor}
    modules = trainer.lightning_module.named_modules()
    return {
        "metrics": {name: state(module) for name, module in modules if id(module) in logged},
        "results": {key: state(result) for key, result in results.items() if result.is_tensor},
    }


def restore_metrics(
    trainer: pl.Trainer, position: dict[str, Any], whole: bool
) -> list[dict[str, Any]]:
    """Takes up what was measured before the checkpoint, by what it says of its position.

    Where the whole epoch begins again, what it has measured so far does not count.

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
            try:
                metric: Any = trainer.lightning_module.get_submodule(name)
            except AttributeError:  # measured no more
                continue
            for key in set(metric.metric_state) & set(state):
                value = state[key]
                value = value.to(device) if isinstance(value, torch.Tensor) else value
                setattr(metric, key, getattr(metric, key) + value if name in taken else value)
            taken.add(name)
    return [part["results"] for part in parts if part.get("results")]


def add_pending_results(trainer: pl.Trainer, earlier: list[dict[str, Any]]) -> None:
    """Adds what was accumulated before the checkpoint, once the first batch has made a start."""
    loop: Any = trainer.fit_loop.epoch_loop
    for key, saved in ((key, saved) for part in earlier for key, saved in part.items()):
        with contextlib.suppress(KeyError):  # logged no more
            result = loop._results[key]
            by_extreme = result.meta.is_max_reduction or result.meta.is_min_reduction
            add = result.meta.reduce_fx if by_extreme else torch.add
            for name, now in result.metric_state.items():
                setattr(result, name, add(now, saved[name].to(now.device)))


def restart_epoch(trainer: Any) -> None:
    """Takes the rest of an epoch back to where the whole epoch is about to begin."""
    loop = trainer.fit_loop
    for progress in (loop.epoch_progress.total, loop.epoch_progress.current):
        progress.ready -= 1
        progress.started -= 1
    loop.reset_restart_stage()
    loop.epoch_loop.reset_restart_stage()
    begin_whole_epoch(trainer)
