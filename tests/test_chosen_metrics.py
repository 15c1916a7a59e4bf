"""Metrics by class path: logged, followed, and refused before training if they cannot be."""

import json
from pathlib import Path

import pytest
import torch
import torchmetrics
import yaml
from torchmetrics import classification

from classifier import module as module_file
from classifier import runs
from classifier.__main__ import main
from classifier.data import Digits
from classifier.errors import UserError
from classifier.metrics import mode_of
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet
from classifier.search.settings import MODES, TORCHMETRICS, parse

OF = "torchmetrics.classification.Multiclass"
METRICS = {
    "balanced_accuracy": {"class_path": f"{OF}Accuracy", "init_args": {"average": "macro"}},
    "auroc": {"class_path": f"{OF}AUROC"},
    "precision": {"class_path": "torchmetrics.Precision"},
    "specificity": {"class_path": f"{OF}Specificity"},
    "accuracy_top3": {"class_path": "classifier.metrics.Accuracy", "init_args": {"top_k": 3}},
    "f1": {"class_path": f"{OF}F1Score", "init_args": {"average": "micro"}},
    "accuracy_top5": None,
}
STOPS = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_auroc"}}


def test_metrics_are_logged_followed_and_chosen_by(write_config, fit, capsys):
    changes = {
        "model.metrics": METRICS,
        "model.monitor": "val_balanced_accuracy",
        "trainer.callbacks": [STOPS],
    }
    config = write_config(changes)

    folder = fit("--config", config)

    rows = runs.read_metrics(folder)
    logged = {name.removeprefix("val_") for name in rows[0] if name.startswith("val_")}
    assert logged == {*METRICS, "loss", "accuracy"} - {"accuracy_top5"}
    assert all(row["val_f1"] == row["val_accuracy"] == row["val_precision"] for row in rows)
    best = json.loads((folder / "run.json").read_text())["best"]
    assert best["monitor"] == "val_balanced_accuracy"
    assert best["value"] == max(float(row["val_balanced_accuracy"]) for row in rows)
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["trainer"]["callbacks"][0]["init_args"]["mode"] == "max"
    assert "num_classes" not in saved["model"]["metrics"]["auroc"]["init_args"]  # filled in
    capsys.readouterr()
    assert main(["test", "--ckpt_path", str(folder)]) == 0
    assert "test_auroc" in capsys.readouterr().out
    module = ClassificationModule.load_from_checkpoint(folder)
    assert module.val_metrics["auroc"].num_classes == 10
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs=3"]) == 0
    assert len(runs.read_metrics(folder)) == 3


def test_from_python_metrics_are_objects_of_which_each_stage_has_its_own(monkeypatch):
    auroc = classification.MulticlassAUROC(10)
    module = ClassificationModule(MNISTNet(10, 1), [*"0123456789"], metrics={"auroc": auroc})

    assert module.metric_modes()["val_auroc"] == "max"
    objects = {id(m["auroc"]) for m in (module.val_metrics, module.test_metrics)} | {id(auroc)}
    assert len(objects) == 3
    monkeypatch.setattr(module_file, "COSTLY", 1000)
    data = Digits()
    data.setup("fit")
    module._trainer = type("Trainer", (), {"datamodule": data})()
    (note,) = module.notes()
    assert note.startswith("val_auroc keeps the logits of all 143 images")


MISTAKES = {
    "misspelt class": (
        {"x": f"{OF}Accuracy", "y": f"{OF}Acuracy", "z": f"{OF}Accuracy"},
        ["tiny.yaml:", "model.metrics.y: ", "MulticlassAcuracy", "'MulticlassAccuracy'"],
    ),
    "wrong setting": (
        {"x": f"{OF}Accuracy", "y": {"class_path": f"{OF}Recall", "init_args": {"average": "all"}}},
        ["tiny.yaml:", "model.metrics.y.init_args.average: 'all' is not", "macro"],
    ),
    "value that its class refuses": (
        {"x": f"{OF}Accuracy", "y": {"class_path": f"{OF}Recall", "init_args": {"top_k": 30}}},
        ["tiny.yaml:", "model.metrics.y: ", "top_k", "30"],
    ),
    "no metric": ({"x": "torch.nn.ReLU"}, ["metrics", "torch.nn.ReLU", "Metric"]),
    "no number": ({"x": f"{OF}ConfusionMatrix"}, ["model.metrics.x", "shape (10, 10)", "macro"]),
    "another number of classes": (
        {"x": {"class_path": f"{OF}Accuracy", "init_args": {"num_classes": 3}}},
        ["tiny.yaml:", "model.metrics.x", "num_classes is 3", "expected 10"],
    ),
    "no direction": (
        {"x": f"{OF}Specificity"},
        ["model.monitor_mode", "val_x", "min or max"],
    ),
}


@pytest.mark.parametrize(("metrics", "words"), MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_a_metric_is_answered_before_training(metrics, words, write_config, capsys):
    config = write_config({"model.metrics": metrics, "model.monitor": "val_x"})

    assert main(["fit", "--config", config]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert [word for word in words if word not in error] == []


def test_a_wrong_metric_of_the_command_line_is_named(write_config, capsys):
    config = write_config({"model.metrics": METRICS})

    for option in ("--model.metrics.auroc.average=all", "--model.metrics.auroc.avrage=macro"):
        assert main(["fit", "--config", config, option]) == 2
        assert "error: model.metrics.auroc.init_args.av" in capsys.readouterr().err


def test_null_leaves_a_metric_out_on_the_command_line_too(write_config, fit):
    folder = fit("--config", write_config(), "--model.metrics.accuracy", "null")

    assert "val_accuracy" not in runs.read_metrics(folder)[0]


def test_a_search_asks_for_the_direction_of_a_metric_that_says_none(write_config, capsys):
    write_config({"model.metrics": METRICS})
    search = "base: tiny.yaml\nn_trials: 2\nspace: {seed_everything: [0, 1]}\n"
    Path("search.yaml").write_text(f"{search}monitor: val_specificity\n")

    assert main(["search", "--config", "search.yaml"]) == 2

    error = capsys.readouterr().err
    assert "search.yaml:4: monitor: " in error
    assert "set direction to minimize or maximize, or model.monitor_mode" in error
    assert parse(["--config", "search.yaml", "--direction=maximize"]).direction == "maximize"


ACCURACY = classification.MulticlassAccuracy(10)


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("acuracy", None, "null leaves .* did you mean 'accuracy'"),
        ("loss", ACCURACY, "val_loss is that of model.loss"),
        ("top-3", ACCURACY, "consists of letters, digits and _"),
        ("keys", ACCURACY, "such as 'my_keys'"),
        ("x", classification.BinaryAUROC(), r"BinaryAUROC does not measure logits \(N, 10\)"),
        ("x", classification.MulticlassRecall(10, average="none"), r"shape \(10,\).* macro"),
        ("x", classification.MulticlassROC(10), "no number but a tuple"),
    ],
)
def test_a_metric_has_a_name_and_gives_a_number(name, metric, message):
    with pytest.raises(UserError, match=f"model.metrics.{name}: .*{message}"):
        ClassificationModule(MNISTNet(10, 1), [*"0123456789"], metrics={name: metric})


def test_a_search_knows_the_direction_of_each_metric_of_torchmetrics(write_config):
    settings = {"beta": 1.0, "num_classes": 3}
    for name in dir(classification):
        kind = getattr(classification, name)
        if name.startswith("Multiclass") and kind.higher_is_better is not None:
            mode = "max" if kind.higher_is_better else "min"
            assert TORCHMETRICS[name.removeprefix("Multiclass")] == MODES[mode], name
    for name, direction in TORCHMETRICS.items():
        if hasattr(torchmetrics, name):
            own = settings if name == "FBetaScore" else {"num_classes": 3}
            assert MODES[mode_of(getattr(torchmetrics, name)("multiclass", **own))] == direction
    write_config({"model.metrics": METRICS})
    search = "base: tiny.yaml\nn_trials: 2\nspace: {seed_everything: [0, 1]}\nmonitor: val_"
    Path("search.yaml").write_text(search + "auroc\n")

    assert parse(["--config", "search.yaml"]).direction == "maximize"


def test_classes_that_are_not_validated_are_named():
    data = Digits()
    data.setup("fit")
    data.val_set.labels[data.val_set.labels == 3] = torch.tensor(4)

    (note,) = data.notes("validate")

    assert "no validation images of '3'; once predicted, such a class counts as 0" in note
