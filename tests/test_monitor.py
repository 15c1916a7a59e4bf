"""What follows a metric: best.ckpt, ReduceLROnPlateau, callbacks; each the way that is better."""

import json
from functools import partial

import pytest
import pytorch_lightning as pl
import yaml
from PIL import Image
from torch.optim.lr_scheduler import ReduceLROnPlateau

from classifier import runs
from classifier.__main__ import main
from classifier.data import Digits
from classifier.metrics import Mean
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet

PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"
OWN = """
import pytorch_lightning as pl


class LogsOwn(pl.Callback):
    def __init__(self, sign: int = 1) -> None:
        self.sign = sign

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val_own", self.sign * float(trainer.current_epoch))


class Stops(pl.callbacks.EarlyStopping):
    def __init__(self) -> None:
        super().__init__("val_f1", mode="min")
"""


@pytest.fixture(autouse=True)
def own(write_module):
    write_module(OWN)


def plateau(**settings):
    return {"class_path": PLATEAU, "init_args": {"patience": 0, **settings}}


def early_stopping(**settings):
    return {"class_path": "EarlyStopping", "init_args": settings}


def saved_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def best_of(folder):
    return json.loads((folder / "run.json").read_text())["best"]


@pytest.mark.parametrize("monitor", ["val_accuracy", "val_f1", "train_accuracy", "val_loss"])
def test_what_follows_a_metric_takes_its_direction(monitor, write_config, fit):
    lightnings = {"class_path": "pytorch_lightning.cli.ReduceLROnPlateau"}
    lightnings["init_args"] = {"monitor": monitor, "patience": 0}
    mode = "min" if monitor == "val_loss" else "max"
    for scheduler in (plateau(), lightnings):
        callbacks = [
            early_stopping(monitor=monitor),
            {"class_path": "ModelCheckpoint", "init_args": {"monitor": monitor}},
            early_stopping(monitor="train_loss", patience=9),
        ]
        changes = {"model.monitor": monitor, "model.lr_scheduler": scheduler}
        changes |= {"trainer.callbacks": callbacks, "trainer.max_epochs": 3}

        folder = fit("--config", write_config(changes))

        config = saved_of(folder)
        assert config["model"]["lr_scheduler"]["init_args"]["mode"] == mode
        modes = [callback["init_args"]["mode"] for callback in config["trainer"]["callbacks"]]
        assert modes == [mode, mode, "min"]
        rows = runs.read_metrics(folder)
        assert {float(row["lr"]) for row in rows} == {0.01}  # it improves in every epoch
        choose = min if mode == "min" else max
        assert best_of(folder)["value"] == choose(float(row[monitor]) for row in rows)


def test_a_change_of_the_monitor_turns_what_nobody_wrote(write_config, fit):
    changes = {"model.monitor": "val_accuracy", "model.lr_scheduler": plateau()}
    changes |= {"trainer.callbacks": [early_stopping(monitor="val_accuracy")]}
    folder = fit("--config", write_config(changes))
    other = ("--model.monitor=val_loss", "--trainer.callbacks.monitor=val_loss")

    anew = fit("--config", f"{folder}/config.yaml", *other)
    assert main(["fit", "--ckpt_path", str(folder), *other, "--trainer.max_epochs=4"]) == 0

    for config in (saved_of(anew), saved_of(folder)):
        assert config["model"]["lr_scheduler"]["init_args"]["mode"] == "min"
        assert config["trainer"]["callbacks"][0]["init_args"]["mode"] == "min"
    # What was the best accuracy so far says nothing of a loss.
    assert {row["lr"] for row in runs.read_metrics(folder)} == {"0.01"}


def message(capsys, *arguments):
    capsys.readouterr()
    assert main(["fit", *arguments]) == 2
    printed = capsys.readouterr()
    assert "epoch 1/" not in printed.out
    assert len(printed.err.splitlines()) == 1
    return printed.err


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (
            {"model.monitor": "val_accuracy", "model.lr_scheduler": plateau(mode="min")},
            [],
            ["tiny.yaml:", "model.lr_scheduler", "mode", "val_accuracy", "max"],
        ),
        (
            {"model.lr_scheduler": plateau(mode="max")},
            [],
            ["tiny.yaml:", "model.lr_scheduler", "mode", "val_loss", "min"],
        ),
        (
            {"model.lr_scheduler": plateau()},
            ["--model.lr_scheduler.mode", "max"],
            ["model.lr_scheduler", "mode", "val_loss", "min"],
        ),
        (
            {"trainer.callbacks": [early_stopping(monitor="val_f1", mode="min")]},
            [],
            ["tiny.yaml:", "callbacks.0", "EarlyStopping", "val_f1", "max"],
        ),
        (
            {},
            [
                *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"),
                *("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val_f1"),
                "--trainer.callbacks.mode=min",
            ],
            ["callbacks.1", "ModelCheckpoint", "val_f1", "max"],
        ),
        ({"model.monitor_mode": "max"}, [], ["model.monitor_mode", "val_loss", "min"]),
        ({"trainer.callbacks": ["own.Stops"]}, [], ["Stops", "val_f1", "min"]),
    ],
)
def test_a_mode_that_contradicts_the_metric_is_refused(
    changes, options, words, write_config, capsys
):
    error = message(capsys, "--config", write_config(changes), *options)

    assert [word for word in words if word not in error] == []


def test_a_mode_that_is_right_may_be_written(write_config, fit):
    callbacks = [early_stopping(monitor="val_f1", mode="max")]
    changes = {"model.lr_scheduler": plateau(mode="min"), "trainer.callbacks": callbacks}

    fit("--config", write_config({**changes, "model.monitor_mode": "min"}))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_of_a_callback_needs_a_mode_and_follows_it(mode, write_config, fit, capsys):
    changes = {"model.monitor": "val_own", "model.lr_scheduler": plateau()}
    callback = {"class_path": "own.LogsOwn"}
    changes["trainer.callbacks"] = [callback, early_stopping(monitor="val_own")]
    config = write_config({**changes, "trainer.max_epochs": 3})
    error = message(capsys, "--config", config)
    assert "model.monitor_mode" in error
    assert "val_own" in error

    folder = fit("--config", config, "--model.monitor_mode", mode)

    assert best_of(folder)["value"] == (0 if mode == "min" else 2)
    rates = [float(row["lr"]) for row in runs.read_metrics(folder)]
    assert (rates[-1] < 0.01) == (mode == "min")
    assert saved_of(folder)["trainer"]["callbacks"][1]["init_args"]["mode"] == mode


def test_a_callback_that_follows_another_unknown_metric_needs_its_own_mode(
    write_config, fit, capsys
):
    callbacks = [{"class_path": "own.LogsOwn"}, early_stopping(monitor="val_own")]
    config = write_config({"trainer.callbacks": callbacks})
    error = message(capsys, "--config", config)
    assert "trainer.callbacks.1.init_args.mode" in error

    fit("--config", config, "--trainer.callbacks.mode=max")


# ---- in Python ----


def module_of(**settings):
    return ClassificationModule(MNISTNet(10, 1, width=2), list("0123456789"), **settings)


def trainer_of(**settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    limits = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
    return pl.Trainer(**{**quiet, **limits, "enable_checkpointing": False, **settings})


def test_a_plateau_with_the_wrong_mode_is_refused_in_python(own_folder):
    scheduler = partial(ReduceLROnPlateau, mode="min")
    module = module_of(monitor="val_accuracy", lr_scheduler=scheduler)

    with pytest.raises(ValueError, match=r'val_accuracy.*mode="max"'):
        trainer_of().fit(module, Digits(batch_size=64))

    right = module_of(monitor="val_accuracy", lr_scheduler=partial(scheduler, mode="max"))
    trainer_of().fit(right, Digits(batch_size=64))


def test_a_mode_that_contradicts_is_refused_in_python():
    with pytest.raises(ValueError, match="monitor_mode is min, but val_f1 is the better the large"):
        module_of(monitor="val_f1", monitor_mode="min")


def test_an_own_metric_of_a_module_says_its_direction():
    module = module_of(monitor="val_own", monitor_mode="max")

    assert module.mode_of("val_own") == "max"
    module.val_metrics["own"] = Mean(higher_is_better=False)
    assert module.mode_of("val_own") == "min"
    assert module.mode_of("val_other") is None


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_run_that_followed_a_callback_s_metric_is_evaluated_without_the_callback(
    verb, write_config, fit
):
    changes = {"trainer.callbacks": [{"class_path": "own.LogsOwn"}], "model.monitor": "val_own"}
    folder = fit("--config", write_config({**changes, "model.monitor_mode": "max"}))
    Image.new("L", (8, 8)).save("a.png")
    images = ["--images", "a.png"] if verb == "predict" else []

    assert main([verb, "--ckpt_path", str(folder), *images]) == 0
