"""``classifier validate`` and ``test``, and a checkpoint's use from Python."""

import re
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from torch import nn

from classifier import runs
from classifier.__main__ import main
from classifier.data import Digits
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet, torchvision_model

# Hidden by Python's own filters outside of tests: LightningCLI calls what jsonargparse 5 removes.
in_a_notebook = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def best(trained):
    return trained / "checkpoints" / "best.ckpt"


def printed_values(text):
    """The metrics in the table, with four digits."""
    return {name: float(value) for name, value in re.findall(r"^(\w+_\w+) +([\d.]+)$", text, re.M)}


def sets_of_digits():
    data = Digits()
    data.setup("fit")
    return {"validate": data.val_set, "test": data.test_set}


@in_a_notebook
@pytest.mark.parametrize(("verb", "stage"), [("validate", "val"), ("test", "test")])
def test_a_checkpoint_alone_gives_the_metrics_that_a_computation_by_hand_gives(
    verb, stage, best, capsys
):
    assert main([verb, "--ckpt_path", str(best)]) == 0

    values = printed_values(capsys.readouterr().out)
    images = sets_of_digits()[verb]
    module = ClassificationModule.load_from_checkpoint(best).eval()
    with torch.no_grad():
        logits = module(images.images)
    right = logits.argmax(1) == images.labels
    in_five = (logits.topk(5).indices == images.labels[:, None]).any(1)
    assert values.keys() == {
        f"{stage}_{name}" for name in ("accuracy", "accuracy_top5", "f1", "loss")
    }
    assert values[f"{stage}_accuracy"] == pytest.approx(right.float().mean().item(), abs=6e-5)
    assert values[f"{stage}_accuracy_top5"] == pytest.approx(
        in_five.float().mean().item(), abs=6e-5
    )
    loss = nn.functional.cross_entropy(logits, images.labels).item()
    assert values[f"{stage}_loss"] == pytest.approx(loss, abs=6e-5)


def test_validation_of_the_best_checkpoint_gives_the_value_of_the_record(trained, capsys):
    assert main(["validate", "--ckpt_path", str(trained)]) == 0

    values = printed_values(capsys.readouterr().out)
    assert values["val_loss"] == round(runs.read_record(trained)["best"]["value"], 4)


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_evaluation_writes_a_report_and_nothing_else(verb, trained, capsys):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}

    assert main([verb, "--ckpt_path", str(trained)]) == 0

    assert list(Path().iterdir()) == []
    report = trained / "reports" / f"{verb}_0" / "predictions.csv"
    before[report] = report.read_bytes()
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().err == ""


def test_the_batch_size_does_not_change_the_metrics(best, capsys):
    assert main(["test", "--ckpt_path", str(best)]) == 0
    expected = printed_values(capsys.readouterr().out)

    arguments = ["--data.init_args.eval_batch_size", "7"]
    assert main(["test", "--ckpt_path", str(best), *arguments]) == 0

    assert printed_values(capsys.readouterr().out) == pytest.approx(expected, abs=1.1e-4)


def test_the_trainer_settings_of_the_training_do_not_limit_the_evaluation(
    write_config, fit, capsys
):
    limits = {"trainer.limit_val_batches": 1, "data.init_args.eval_batch_size": 8}
    folder = fit("--config", write_config(limits))
    capsys.readouterr()

    assert main(["validate", "--ckpt_path", str(folder)]) == 0

    accuracy = printed_values(capsys.readouterr().out)["val_accuracy"]
    assert accuracy * 143 == pytest.approx(round(accuracy * 143), abs=1e-2)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_evaluation_without_a_checkpoint_is_refused(verb, write_config, capsys):
    images = ["--images", "."] if verb == "predict" else []

    assert main([verb, "--config", write_config(), *images]) == 2

    error = capsys.readouterr().err
    assert "--ckpt_path" in error
    assert len(error.splitlines()) <= 3


@in_a_notebook
def test_a_config_beside_the_checkpoint_wins_over_it(best, write_config, capsys):
    config = write_config({"model.loss": {"class_path": "torch.nn.MultiMarginLoss"}})

    assert main(["test", "--ckpt_path", str(best), "--config", config]) == 0

    module = ClassificationModule.load_from_checkpoint(best).eval()
    images = sets_of_digits()["test"]
    with torch.no_grad():
        expected = nn.functional.multi_margin_loss(module(images.images), images.labels).item()
    values = printed_values(capsys.readouterr().out)
    assert values["test_loss"] == pytest.approx(expected, abs=6e-5)


def test_data_with_other_classes_than_the_checkpoint_is_refused(best, capsys):
    for name in ("cat", "dog"):
        Path("animals", name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), 20 * number).save(Path("animals", name, f"{number}.png"))
    data = ["--data", "ImageFolder", "--data.init_args.root", "animals"]

    assert main(["test", "--ckpt_path", str(best), *data]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) <= 3
    assert re.search(r"classes are not those of the checkpoint.*'cat'", error, re.DOTALL)


@pytest.fixture
def animals(write_config, fit):
    """The folder of a run on photos in ``animals/``, which its config names so."""
    for name in ("cat", "dog"):
        Path("animals", name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), 20 * number).save(Path("animals", name, f"{number}.png"))
    arguments = {"root": "animals", "image_size": 8, "num_workers": 0, "batch_size": 4}
    data = {"class_path": "ImageFolder", "init_args": arguments}
    return fit("--config", write_config({"data": data, "trainer.max_epochs": 1}))


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_photos_that_came_after_the_training_are_warned_of(verb, animals, capsys):
    assert main([verb, "--ckpt_path", str(animals)]) == 0
    unchanged = capsys.readouterr().err
    shutil.copy("animals/cat/0.png", "animals/cat/new.png")

    assert main([verb, "--ckpt_path", str(animals)]) == 0

    assert unchanged == ""
    error = capsys.readouterr().err
    assert error.startswith("warning: ")
    assert "not those of the training" in error
    assert len(error.splitlines()) <= 3


def test_a_relative_root_of_the_data_is_found_from_another_folder(
    animals, tmp_path, monkeypatch, capsys
):
    assert main(["test", "--ckpt_path", str(animals)]) == 0
    expected = printed_values(capsys.readouterr().out)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    assert main(["test", "--ckpt_path", str(animals)]) == 0

    printed = capsys.readouterr()
    assert printed_values(printed.out) == expected
    assert "test_loss" in expected
    assert printed.err == ""


@pytest.mark.parametrize("how", ["plain", "alias", "no checkpoint"])
def test_a_saved_config_is_trained_again_from_another_folder(
    how, animals, own_folder, monkeypatch, fit
):
    torch.save(torchvision_model("squeezenet1_0", 2).state_dict(), "weights.pt")
    config = yaml.safe_load(Path("tiny.yaml").read_text())
    config["model"]["network"] = {"class_path": "torchvision.models.squeezenet1_0"}
    config["model"]["init_from"] = "weights.pt"
    config["data"]["init_args"]["image_size"] = 32
    text = yaml.safe_dump(config)
    if how == "alias":
        text = text.replace("root: animals", "root: *root")
        text = f"hyperparameters: {{root: &root animals}}\n{text}"
    Path("tiny.yaml").write_text(text)
    folder = fit("--config", "tiny.yaml")
    (own_folder / "elsewhere").mkdir()
    monkeypatch.chdir(own_folder / "elsewhere")

    if how == "no checkpoint":
        shutil.rmtree(folder / "checkpoints")
        assert main(["fit", "--ckpt_path", str(folder)]) == 0
        again = folder
    else:
        again = fit("--config", str(folder / "config.yaml"))

    saved = yaml.safe_load((again / "config.yaml").read_text())
    assert saved["data"]["init_args"]["root"] == str(own_folder / "animals")
    assert saved["model"]["init_from"] == str(own_folder / "weights.pt")


@pytest.mark.parametrize("how", ["config", "checkpoint"])
def test_data_that_is_gone_is_said_to_be_looked_for_in_both_folders(
    how, animals, own_folder, monkeypatch, capsys
):
    Path("animals").rename("animals of before")
    (own_folder / "elsewhere").mkdir()
    monkeypatch.chdir(own_folder / "elsewhere")
    command = {
        "config": ["fit", "--config", str(animals / "config.yaml")],
        "checkpoint": ["test", "--ckpt_path", str(animals)],
    }

    assert main(command[how]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: No folder 'animals'")
    assert f"'{own_folder}/animals'" in line
    assert f"'{own_folder}/elsewhere/animals'" in line
    assert not Path("runs").exists()


def test_a_root_on_the_command_line_beats_that_of_the_training(animals, capsys):
    shutil.copytree("animals", "zoo")
    shutil.copy("zoo/dog/0.png", "zoo/dog/new.png")

    assert main(["test", "--ckpt_path", str(animals), "--data.init_args.root", "zoo"]) == 0

    assert "not those of the training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "did you mean '.*best.ckpt'"),
        (b"hello", "is not a checkpoint"),
        (b"", "is not a checkpoint"),
    ],
    ids=["misspelt", "text", "empty"],
)
def test_what_is_no_checkpoint_is_refused(content, message, best, capsys):
    shutil.copy(best, "best.ckpt")
    if content is not None:
        Path("bset.ckpt").write_bytes(content)

    assert main(["test", "--ckpt_path", "bset.ckpt"]) == 2

    error = capsys.readouterr().err
    assert "bset.ckpt" in error
    assert re.search(message, error)
    assert len(error.splitlines()) <= 3


def test_a_damaged_checkpoint_is_refused(best, capsys):
    content = best.read_bytes()
    Path("cut.ckpt").write_bytes(content[: len(content) // 2])

    assert main(["test", "--ckpt_path", "cut.ckpt"]) == 2

    assert "cut.ckpt" in capsys.readouterr().err


# ---- from Python ----


@in_a_notebook
def test_a_checkpoint_loads_in_a_notebook(best):
    module = ClassificationModule.load_from_checkpoint(best).eval()

    images = sets_of_digits()["test"].images[:16]
    assert module.class_names == list("0123456789")
    assert isinstance(module.network, MNISTNet)
    assert module(images).shape == (16, 10)
    assert torch.equal(module(images), module(images.float()))  # the same 0..255 scale


def module_made_in_python():
    return ClassificationModule(
        MNISTNet(num_classes=10, in_channels=1, width=4),
        class_names=list("0123456789"),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
        mean=[0.3],
        std=[0.4],
    )


@pytest.fixture
def made_in_python(tmp_path):
    """Checkpoint of a module that was trained with Lightning alone, in one file."""
    module = module_made_in_python()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Digits(batch_size=64))
    trainer.save_checkpoint(tmp_path / "python.ckpt")
    return module, tmp_path / "python.ckpt"


quiet_lightning = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*is smaller than the logging interval"
)


@quiet_lightning
def test_a_module_made_in_python_trains_and_its_checkpoint_holds_plain_values(made_in_python):
    module, path = made_in_python

    saved = torch.load(path, weights_only=True)

    assert saved["hyper_parameters"]["class_names"] == list("0123456789")
    assert saved["state_dict"].keys() == module.state_dict().keys()


@quiet_lightning
def test_a_checkpoint_made_in_python_loads_with_its_network_given(made_in_python):
    trained, path = made_in_python
    network = MNISTNet(num_classes=10, in_channels=1, width=4)

    module = ClassificationModule.load_from_checkpoint(path, network=network)

    state = module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())
    assert torch.equal(module.mean, torch.tensor(255 * 0.3).view(1, 1, 1))


@quiet_lightning
def test_a_checkpoint_made_in_python_needs_a_config_on_the_command_line(made_in_python, capsys):
    _, path = made_in_python

    assert main(["test", "--ckpt_path", str(path)]) == 2

    error = capsys.readouterr().err
    assert "--config" in error
    assert len(error.splitlines()) <= 3


@quiet_lightning
def test_a_checkpoint_made_in_python_is_tested_with_a_config(made_in_python, write_config, capsys):
    _, path = made_in_python

    assert main(["test", "--ckpt_path", str(path), "--config", write_config()]) == 0

    assert "test_accuracy" in capsys.readouterr().out


def notebook_trainer(epochs):
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@quiet_lightning
def test_a_module_and_digits_learn_in_a_notebook():
    pl.seed_everything(0, verbose=False)
    data = Digits(batch_size=64)
    module = ClassificationModule(
        MNISTNet(width=4, dropout=0.0), data.class_names, mean=data.mean, std=data.std
    )
    trainer = notebook_trainer(6)

    trainer.fit(module, data)

    (metrics,) = trainer.test(module, data, verbose=False)
    assert metrics["test_accuracy"] > 0.8  # 0.1 by chance


@quiet_lightning
@in_a_notebook
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
def test_a_checkpoint_of_the_command_line_trains_on_in_a_notebook(trained):
    last = trained / "checkpoints" / "last.ckpt"
    module = ClassificationModule.load_from_checkpoint(last)
    trainer = notebook_trainer(4)

    trainer.fit(module, Digits(batch_size=64), ckpt_path=last)

    assert (trainer.current_epoch, trainer.global_step) == (4, 30 + 20)
    (metrics,) = trainer.test(module, Digits(), verbose=False)
    assert metrics["test_accuracy"] > 0.2
