"""The hooks of a training are called as Lightning calls them, only faster."""

import dis
import inspect
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loops import training_epoch_loop
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.trainer import call
from pytorch_lightning.trainer.connectors import data_connector
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature

from classifier.__main__ import main
from classifier.internals.lightning import EMPTY, Hooks, without_signal_handlers

OWN = """
from pathlib import Path

from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.trainer import call

CALLS = []
HOOKS = [name for name in dir(Callback) if name.startswith(("on_", "setup", "teardown"))]


def noted(name):
    def hook(self, trainer, pl_module, *args, **kwargs):
        place = (pl_module._current_fx_name, trainer.global_step)
        CALLS.append((type(self).__name__, name, *place, len(args), sorted(kwargs)))
    return hook


class Notes(Callback):
    pass


class LastNotes(Checkpoint):
    "One that Lightning calls after the others."


for kind in (Notes, LastNotes):
    for name in HOOKS:
        setattr(kind, name, noted(name))


class Looks(Callback):
    "Sees which function calls hooks."

    def setup(self, trainer, pl_module, stage):
        CALLS.append((stage, call._call_callback_hooks.__module__))


class Joins(Callback):
    "Adds another callback in the midst of a training."

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            trainer.callbacks.append(Notes())
"""


@pytest.fixture
def calls(write_config, write_module):
    """Trains, and returns the hooks that were called."""

    def run(*callbacks, **changes):
        write_module(OWN)
        listed = [{"class_path": f"own.{name}"} for name in callbacks]
        changes = {"trainer.callbacks": listed, "trainer.val_check_interval": 2, **changes}
        sys.modules.pop("own", None)  # with the calls of another training
        assert main(["fit", "--config", write_config(changes)]) == 0
        import own

        return list(own.CALLS)

    return run


def test_each_hook_is_called_when_lightning_calls_it(calls, monkeypatch):
    ours = calls("Notes", "LastNotes")

    monkeypatch.setattr(Hooks, "of_callbacks", staticmethod(call._call_callback_hooks))
    monkeypatch.setattr(Hooks, "of_module", staticmethod(call._call_lightning_module_hook))
    monkeypatch.setattr(Hooks, "of_strategy", staticmethod(call._call_strategy_hook))
    lightnings = calls("Notes", "LastNotes")

    assert ours == lightnings
    assert len(ours) > 100
    assert {"on_train_batch_end", "on_before_zero_grad"} < {name for _, name, *_ in ours}


def test_training_and_evaluation_call_hooks_the_fast_way(calls):
    calls("Looks")
    (checkpoint,) = Path("runs").rglob("last.ckpt")
    import own

    for verb in ("validate", "test"):
        looks = ["--trainer.callbacks+=own.Looks"]
        assert main([verb, "--ckpt_path", str(checkpoint), *looks]) == 0

    assert dict(own.CALLS) == dict.fromkeys(
        ("fit", "validate", "test"), "classifier.internals.lightning"
    )


def test_a_callback_that_joins_later_is_called_from_then_on(calls):
    steps = [step for _, name, _, step, *_ in calls("Joins") if name == "on_train_batch_start"]

    assert steps == list(range(2, 8))


def test_a_profiler_sees_every_hook(calls):
    settings = {"dirpath": ".", "filename": "profile"}
    calls("Notes", **{"trainer.profiler": {"class_path": "SimpleProfiler", "init_args": settings}})

    (report,) = Path().glob("*profile*")
    assert "[Callback]Notes.on_train_batch_end" in report.read_text()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (
            "_call_callback_hooks",
            ["trainer", "hook_name", "args", "monitoring_callbacks", "kwargs"],
        ),
        ("_call_lightning_module_hook", ["trainer", "hook_name", "args", "pl_module", "kwargs"]),
        ("_call_strategy_hook", ["trainer", "hook_name", "args", "kwargs"]),
    ],
)
def test_lightning_still_calls_hooks_by_these_functions(name, parameters):
    assert list(inspect.signature(getattr(call, name)).parameters) == parameters


def test_the_hooks_that_are_left_out_do_nothing():
    for name in EMPTY:
        assert hasattr(Callback, name)
        for kind in (pl.LightningModule, Strategy):
            if function := getattr(kind, name, None):
                instructions = [step.opname for step in dis.get_instructions(function)]
                assert not {"CALL", "STORE_ATTR", "STORE_FAST"} & set(instructions), name


def test_lightning_still_looks_up_what_a_class_defines_under_these_names():
    assert data_connector.is_overridden is is_overridden
    assert training_epoch_loop.is_param_in_hook_signature is is_param_in_hook_signature


def test_lightning_is_put_back_as_it_was_when_a_command_ends(calls):
    before = {**vars(call), **vars(data_connector), **vars(training_epoch_loop)}

    calls("Notes")

    assert {**vars(call), **vars(data_connector), **vars(training_epoch_loop)} == before


def test_ranks_that_handle_signals_themselves_do_not_wait_at_each_batch_to_hear_of_one(monkeypatch):
    told = []
    monkeypatch.setattr("torch.distributed.broadcast", lambda *_, **__: told.append(1))
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    loop = trainer.fit_loop.epoch_loop
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(type(loop).advance)

    with without_signal_handlers(trainer):
        loop._broadcast_sigterm_tensor()
        assert not told
    loop._broadcast_sigterm_tensor()
    assert told
