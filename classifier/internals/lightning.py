"""Lightning's calls of hooks, without the cost of those that do nothing.

The functions that it replaces are private; tests/test_hooks.py fails when they change.
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
def lean_hooks(trainer: Any) -> Iterator[None]:
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
    before = [(module, name, getattr(module, name)) for module, name, _ in lean]
    asked = os.environ.get(ASK_NVML, "0")
    if not torch.cuda.device_count():
        os.environ[ASK_NVML] = "0"
    for module, name, function in lean:
        setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)
        os.environ[ASK_NVML] = asked


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
        functions = self.functions.get(key)
        if functions is None:
            functions = self.functions[key] = self._functions(*key)
        if not functions:
            return
        module = trainer.lightning_module
        with NamedHook(module, hook_name):
            for function in functions:
                function(trainer, module, *args, **kwargs)

    def _functions(self, name: str, monitoring: bool | None) -> list[Callable[..., None]]:
        callbacks = [
            callback
            for callback in self.callbacks
            if monitoring is None or isinstance(callback, EarlyStopping | Checkpoint) == monitoring
        ]
        functions = [getattr(callback, name) for callback in callbacks]
        empty = getattr(Callback, name)
        return [f for f in functions if callable(f) and getattr(f, "__func__", f) is not empty]

    def of_module(
        self, trainer: Any, hook_name: str, *args: Any, pl_module: Any = None, **kwargs: Any
    ) -> Any:
        """Calls the hook of the module, if it has one."""
        module = pl_module or trainer.lightning_module
        function = getattr(module, hook_name)
        if hook_name in EMPTY and function.__func__ is getattr(pl.LightningModule, hook_name):
            return None
        with NamedHook(module, hook_name):
            return function(*args, **kwargs) if callable(function) else None

    def of_strategy(self, trainer: Any, hook_name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls the hook of the strategy, if it has one."""
        function = getattr(trainer.strategy, hook_name)
        if hook_name in EMPTY and function.__func__ is getattr(Strategy, hook_name):
            return None
        with NamedHook(trainer.lightning_module, hook_name):
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
