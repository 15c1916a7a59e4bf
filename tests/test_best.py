"""best.ckpt holds the very weights whose score it bears, and all that says the score agrees."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
import yaml

from classifier import runs
from classifier.__main__ import main

OWN = """
import torch
from pytorch_lightning.callbacks import Callback


class Shrinks(Callback):
    "Changes the weights in a hook."

    def __init__(self, hook: str):
        self.hook = hook

    def _shrink(self, module, hook):
        if hook == self.hook:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(0.9)

    def on_validation_end(self, trainer, module):
        self._shrink(module, "on_validation_end")

    def on_train_epoch_end(self, trainer, module):
        self._shrink(module, "on_train_epoch_end")

    def on_train_epoch_start(self, trainer, module):
        self._shrink(module, "on_train_epoch_start")

    def on_train_end(self, trainer, module):
        self._shrink(module, "on_train_end")
"""
LIGHTNING = "pytorch_lightning.callbacks"
SWA = {
    "class_path": f"{LIGHTNING}.StochasticWeightAveraging",
    "init_args": {"swa_lrs": 0.01, "swa_epoch_start": 1},
}
EMA = {"class_path": f"{LIGHTNING}.EMAWeightAveraging", "init_args": {"decay": 0.9}}
EMA_BY_EPOCH = {
    "class_path": f"{LIGHTNING}.EMAWeightAveraging",
    "init_args": {"decay": 0.5, "update_every_n_steps": 0, "update_starting_at_epoch": 0},
}
PRUNING = {
    "class_path": f"{LIGHTNING}.ModelPruning",
    "init_args": {"pruning_fn": "l1_unstructured", "amount": 0.3},
}
EARLY = {
    "class_path": f"{LIGHTNING}.EarlyStopping",
    "init_args": {"monitor": "val_loss", "patience": 1, "min_delta": 0.3},
}


def shrinks(hook):
    return {"class_path": "own.Shrinks", "init_args": {"hook": hook}}


def validated(capsys, folder, *arguments):
    """What ``validate`` prints, by metric."""
    capsys.readouterr()
    assert main(["validate", "--ckpt_path", str(folder), *arguments]) == 0
    text = capsys.readouterr().out
    return {name: float(value) for name, value in re.findall(r"^(\w+_\w+) +([\d.]+)$", text, re.M)}


def check(folder, capsys, *arguments):
    """The record, the table of metrics, the screen and ``validate`` say the same number."""
    screen = capsys.readouterr().out
    best = runs.read_record(folder)["best"]
    assert re.search(rf"best epoch \d+: {best['monitor']} {best['value']:.4f}[,;]", screen)
    values = [float(row[best["monitor"]] or "nan") for row in runs.read_metrics(folder)]
    assert best["value"] in values
    direction = runs.direction_of(best["monitor"])
    assert best["value"] == runs.best_value(runs.read_metrics(folder), best["monitor"], direction)
    assert validated(capsys, folder, *arguments)[best["monitor"]] == round(best["value"], 4)


@pytest.mark.parametrize("interval", ["0.4", "10"])
def test_best_is_saved_with_the_weights_of_a_validation_inside_an_epoch(
    interval, fit, write_config, capsys
):
    changes = {"trainer.limit_train_batches": 35, "data.init_args.batch_size": 32}

    folder = fit("--config", write_config(changes), "--trainer.val_check_interval", interval)

    check(folder, capsys)
    steps = [int(row["step"]) for row in runs.read_metrics(folder)]
    assert steps == (
        [14, 28, 35, 49, 63, 70] if interval == "0.4" else [10, 20, 30, 35, 45, 55, 65, 70]
    )


CHANGED = {
    "a callback when a validation ends": {"trainer.callbacks": [shrinks("on_validation_end")]},
    "a callback when an epoch ends": {"trainer.callbacks": [shrinks("on_train_epoch_end")]},
    "a callback when an epoch starts": {"trainer.callbacks": [shrinks("on_train_epoch_start")]},
    "a callback when the training ends": {"trainer.callbacks": [shrinks("on_train_end")]},
    "stochastic weight averaging": {"trainer.callbacks": [SWA], "trainer.max_epochs": 4},
    "a moving average": {"trainer.callbacks": [EMA]},
    "a moving average by epochs": {"trainer.callbacks": [EMA_BY_EPOCH]},
    "a step within a window": {
        "trainer.accumulate_grad_batches": 3,
        "trainer.val_check_interval": 4,
        "trainer.limit_train_batches": 8,
    },
}


@pytest.mark.parametrize("changes", CHANGED.values(), ids=CHANGED)
def test_best_keeps_the_validated_weights_whatever_changes_them_afterwards(
    changes, fit, write_config, write_module, capsys
):
    write_module(OWN)

    folder = fit("--config", write_config({"trainer.max_epochs": 3, **changes}))

    check(folder, capsys)


def test_going_on_from_weights_that_no_step_followed_says_that_it_is_not_exact(
    fit, write_config, capsys
):
    changes = {
        "trainer.accumulate_grad_batches": 3,
        "trainer.val_check_interval": 4,
        "trainer.limit_train_batches": 9,
    }
    folder = fit("--config", write_config(changes))
    best = folder / "checkpoints" / "best.ckpt"
    saved = torch.load(best, weights_only=True)
    assert saved["position"]["exact"] is False
    capsys.readouterr()

    assert main(["fit", "--ckpt_path", str(best), "--trainer.max_epochs", "3"]) == 0

    captured = capsys.readouterr()
    assert "saved for evaluation" in captured.err
    assert "runs/tiny/version_1" in captured.out


def test_the_validation_that_an_end_causes_counts_for_best_but_not_for_going_on(
    fit, write_config, capsys
):
    whole = fit("--config", write_config({"trainer.limit_train_batches": 12}))
    write_config({"trainer.limit_train_batches": 12, "trainer.max_time": {"milliseconds": 1}})
    ended = fit("--config", "tiny.yaml")
    check(ended, capsys)
    assert runs.read_metrics(ended)[0]["step"] == "1"

    assert main(["fit", "--ckpt_path", str(ended), "--trainer.max_time", "null"]) == 0

    rows = [[r["step"], r["val_loss"]] for r in runs.read_metrics(ended)]
    assert rows == [[r["step"], r["val_loss"]] for r in runs.read_metrics(whole)]
    check(ended, capsys)


LOOKS = """
from pytorch_lightning.callbacks import Callback

FOUND = []


class Looks(Callback):
    "Keeps the trainer, and what its checkpoint callback says at each start of an epoch."

    def on_train_epoch_start(self, trainer, module):
        found = trainer.checkpoint_callback
        FOUND.append((trainer, found.best_model_path, found.last_model_path))
"""


def test_the_checkpoint_callback_is_lightnings_and_best_and_last_mean_those_of_the_run(
    fit, write_config, write_module
):
    write_module(LOOKS)
    looks = {"trainer.callbacks": [{"class_path": "own.Looks"}], "trainer.log_every_n_steps": 1}
    folder = fit("--config", write_config(looks))
    import own

    best, last = (folder.resolve() / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    trainer = own.FOUND[0][0]
    assert [paths for _, *paths in own.FOUND] == [["", ""], [str(best), str(last)]]
    keeper = trainer.checkpoint_callback
    assert (keeper.monitor, keeper.mode, keeper.dirpath) == ("val_loss", "min", str(best.parent))
    assert float(keeper.best_model_score) == runs.read_record(folder)["best"]["value"]
    (scores,) = trainer.validate(
        trainer.lightning_module, datamodule=trainer.datamodule, ckpt_path="best"
    )
    assert scores["val_loss"] == float(keeper.best_model_score)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, datamodule=trainer.datamodule, ckpt_path="last")
    assert [row["step"] for row in runs.read_metrics(folder)] == ["4", "8", "12"]


MONITORS = ("val_loss", "val_accuracy", "val_f1", "val_accuracy_top5")
SETTINGS = {
    "trainer.val_check_interval": (1.0, 0.5, 0.3, 3, 5, 12),
    "trainer.check_val_every_n_epoch": (1, 1, 1, 2),
    "trainer.accumulate_grad_batches": (1, 1, 2, 3, 5),
    "trainer.limit_val_batches": (1.0, 1.0, 2),
    "trainer.max_steps": (-1, -1, -1, 17, 26),
    "trainer.max_time": (None, None, None, {"milliseconds": 200}),
    "save_every.steps": (None, 1, 2, 5),
    "model.monitor": MONITORS,
    "model.channels_last": (False, True),
    "data.init_args.eval_batch_size": (64, 50),
}
CALLBACKS = (
    *([], [], [EMA], [EMA_BY_EPOCH], [SWA], [PRUNING], [EARLY], [EMA, EARLY]),
    *([shrinks("on_validation_end")], [shrinks("on_train_epoch_end")]),
    *([shrinks("on_train_epoch_start"), EMA], [shrinks("on_train_end")]),
)


@pytest.mark.slow
def test_validate_gives_the_score_of_best_to_the_last_digit_for_drawn_settings(
    fit, write_config, write_module, capsys
):
    write_module(OWN)
    chance = random.Random(0)
    drawn = 0
    while drawn < 40:
        changes = {name: chance.choice(values) for name, values in SETTINGS.items()}
        changes["trainer.callbacks"] = chance.choice(CALLBACKS)
        changes |= {"trainer.max_epochs": 4, "trainer.limit_train_batches": 12}
        changes["data.init_args.batch_size"] = 16
        folder = fit("--config", write_config(changes))
        print(json.dumps(changes))
        if "best" not in runs.read_record(folder):  # ended before the first validation
            assert not (folder / "checkpoints" / "best.ckpt").exists()
            continue
        drawn += 1
        limit = str(changes["trainer.limit_val_batches"])
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["model"]["monitor"] == changes["model.monitor"]
        check(folder, capsys, "--trainer.limit_val_batches", limit)
        assert Path(folder, "checkpoints", "best.ckpt").exists()
