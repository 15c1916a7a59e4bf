"""Another network, optimizer, loss, mix, callback or precision is a change of a few lines."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY
from torchvision import models

from classifier import runs
from classifier.__main__ import main
from classifier.module import ClassificationModule

OWN_CODE = """
from torch import nn


class Fixed(nn.Module):
    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))

    def forward(self, images):
        return self.layers(images)


class Sized(Fixed):
    def __init__(self, num_classes: int, in_channels: int, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3), nn.Flatten(), nn.Linear(36 * width, num_classes)
        )


class NoLogits(Fixed):
    def forward(self, images):
        return {"logits": self.layers(images)}


class Spread(Fixed):
    def __init__(
        self, width: int | None = None, sizes: dict[str, list[int] | None] | None = None
    ) -> None:
        super().__init__()


def linear(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""

NETWORKS = """
classifier.networks.SmallResNet:
  class_path: classifier.networks.SmallResNet
  init_args: {depth: 8, width: 4}
torchvision.models.resnet18:
  class_path: torchvision.models.resnet18
torchvision.models.mobilenet_v3_small:
  class_path: torchvision.models.mobilenet_v3_small
  init_args: {dropout: 0.1}
torchvision.models.get_model:
  class_path: torchvision.models.get_model
  init_args: {name: shufflenet_v2_x0_5}
timm.create_model:
  class_path: timm.create_model
  init_args: {model_name: resnet10t}
own class with a fixed head:
  class_path: own.Fixed
own class that asks for the numbers of the data:
  class_path: own.Sized
  init_args: {width: 2}
own function:
  class_path: own.linear
"""

# The settings that tell the optimizer from Adam: its own defaults where the config is silent.
OPTIMIZERS = """
adabelief_pytorch.AdaBelief:
  given: {lr: 0.002, print_change_log: false}
  own: {lr: 0.002, eps: 1.0e-16, weight_decay: 0, betas: [0.9, 0.999], weight_decouple: null}
torch.optim.SGD:
  given: {lr: 0.05, momentum: 0.9}
  own: {lr: 0.05, momentum: 0.9, weight_decay: 0, nesterov: false}
torch.optim.AdamW:
  given: {}
  own: {lr: 0.001, eps: 1.0e-8, weight_decay: 0.01}
torch.optim.RMSprop:
  given: {lr: 0.003}
  own: {lr: 0.003, alpha: 0.99, eps: 1.0e-8, momentum: 0}
"""


@pytest.fixture(autouse=True)
def own_module(write_module):
    write_module(OWN_CODE)


def load(checkpoint):
    return torch.load(checkpoint, weights_only=True)


def groups_of(folder):
    return load(folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]


def test_alone(checkpoint, tmp_path, monkeypatch, capsys):
    """Tests a checkpoint from another folder, with nothing but its path."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    capsys.readouterr()
    assert main(["test", "--ckpt_path", str(checkpoint)]) == 0
    return capsys.readouterr().out


test_alone.__test__ = False


@pytest.mark.parametrize("name", yaml.safe_load(NETWORKS))
def test_a_network_trains_and_its_checkpoint_stands_alone(
    name, write_config, fit, tmp_path, monkeypatch, capsys
):
    # Plain SGD has no state, which keeps the checkpoints of the larger ones small.
    changes = {
        "model.network": yaml.safe_load(NETWORKS)[name],
        "model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.001}},
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 1,
    }

    checkpoint = fit("--config", write_config(changes)) / "checkpoints" / "best.ckpt"

    assert "test_accuracy" in test_alone(checkpoint, tmp_path, monkeypatch, capsys)
    module = ClassificationModule.load_from_checkpoint(checkpoint).eval()
    logits = module(torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8))
    assert logits.shape == (2, 10)
    assert module.class_names == list("0123456789")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # hidden outside of tests
def test_the_network_of_a_checkpoint_has_the_trained_weights(trained):
    checkpoint = trained / "checkpoints" / "best.ckpt"

    module = ClassificationModule.load_from_checkpoint(checkpoint)

    saved = load(checkpoint)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


def test_a_network_can_be_swapped_on_the_command_line(write_config, fit):
    folder = fit(
        *("--config", write_config(), "--model.network", "SmallResNet"),
        *("--model.network.depth", "8", "--model.network.width", "2"),
    )

    network = yaml.safe_load((folder / "config.yaml").read_text())["model"]["network"]
    assert network["class_path"] == "classifier.networks.SmallResNet"
    assert network["init_args"]["depth"] == 8


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"class_path": "own.Fixed", "init_args": {"outputs": 7}}, r"Fixed returns .*, 7\)"),
        ({"class_path": "own.NoLogits"}, r"NoLogits returns dict"),
    ],
    ids=["seven outputs", "no tensor"],
)
def test_a_network_that_does_not_fit_the_classes_is_refused(network, message, write_config, capsys):
    config = write_config({"model.network": network})

    assert main(["fit", "--config", config]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) <= 3
    assert "model.network" in error
    assert "10 classes" in error
    assert re.search(message, error)


@pytest.mark.parametrize("name", yaml.safe_load(OPTIMIZERS))
def test_an_optimizer_trains_with_its_own_defaults(
    name, write_config, fit, tmp_path, monkeypatch, capsys
):
    settings = yaml.safe_load(OPTIMIZERS)[name]
    optimizer = {"class_path": name, "init_args": settings["given"]}

    folder = fit("--config", write_config({"model.optimizer": optimizer}))

    (group,) = groups_of(folder)
    for key, value in settings["own"].items():
        if value is not None:
            assert list(group[key]) == value if key == "betas" else group[key] == value
    checkpoint = folder / "checkpoints" / "best.ckpt"
    assert "test_accuracy" in test_alone(checkpoint, tmp_path, monkeypatch, capsys)


def test_without_an_optimizer_it_is_adam_with_its_own_defaults(write_config, fit):
    folder = fit("--config", write_config({"model.optimizer": None}))

    (group,) = groups_of(folder)
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.001, 1e-8, 0)
    assert "betas" in group


@pytest.mark.parametrize("source", ["tiny.yaml", "the saved config"])
def test_settings_of_the_former_optimizer_do_not_leak_into_another(
    source, write_config, fit, trained
):
    config = write_config() if source == "tiny.yaml" else str(trained / "config.yaml")

    folder = fit("--config", config, "--model.optimizer", "torch.optim.AdamW")

    (group,) = groups_of(folder)
    assert group["weight_decay"] == 0.01


EXCHANGED = {
    "short": ["--model.optimizer", "AdamW"],
    "long": ["--model.optimizer=torch.optim.AdamW"],
    "class_path": ["--model.optimizer.class_path", "AdamW"],
    "mapping": ["--model.optimizer", "{class_path: torch.optim.AdamW}"],
    "with a setting": ["--model.optimizer", "AdamW", "--model.optimizer.eps", "1e-7"],
    "config": ["--config", "adamw.yaml"],
    "two configs": ["--config", "sgd.yaml", "--config", "adamw.yaml"],
}


def optimizer_of(capsys, *arguments):
    """That of the config that ``fit`` would train."""
    capsys.readouterr()
    assert main(["fit", *arguments, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)["model"]["optimizer"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A config with Adam's weight_decay written out, and all places that a run keeps it in."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        adam = {"class_path": "Adam", "init_args": {"lr": 0.02, "weight_decay": 0}}
        config = yaml.safe_load(TINY)
        config["model"]["optimizer"] = adam
        (folder / "written.yaml").write_text(yaml.safe_dump(config))
        del adam["init_args"]["weight_decay"]
        (folder / "unwritten.yaml").write_text(yaml.safe_dump(config))
        for name in ("written", "unwritten"):
            assert main(["fit", "--config", f"{name}.yaml"]) == 0
            run = Path("runs", name, "version_0")
            shutil.copy(run / "config.yaml", f"{name}_copy.yaml")
    return folder


PLACES = {
    "config.yaml": ["--config", "runs/NAME/version_0/config.yaml"],
    "a copy of it": ["--config", "NAME_copy.yaml"],
    "its checkpoint": ["--config", "runs/NAME/version_0/checkpoints/best.ckpt"],
    "its run": ["--ckpt_path", "runs/NAME/version_0", "--trainer.max_epochs", "9"],
}


@pytest.mark.parametrize("form", EXCHANGED)
@pytest.mark.parametrize("place", ["as written", *PLACES])
def test_what_was_written_stays_under_another_class_and_a_default_does_not(
    place, form, saved, monkeypatch, capsys
):
    monkeypatch.chdir(saved)
    Path("adamw.yaml").write_text("model: {optimizer: AdamW}")
    Path("sgd.yaml").write_text("model:\n  optimizer:\n    class_path: torch.optim.SGD\n")
    for name, decay in (("written", 0), ("unwritten", 0.01)):
        arguments = PLACES.get(place, ["--config", f"{name}.yaml"])
        arguments = [word.replace("NAME", name) for word in arguments]
        if place == "as written" and name == "unwritten":
            arguments += ["--model.optimizer.lr", "0.02"]

        optimizer = optimizer_of(capsys, *arguments, *EXCHANGED[form])

        assert optimizer["class_path"] == "torch.optim.AdamW"
        assert optimizer["init_args"]["weight_decay"] == decay
        assert optimizer["init_args"]["lr"] == 0.02


def test_what_was_written_is_handed_on_from_run_to_run(saved, monkeypatch, fit, capsys):
    monkeypatch.chdir(saved)
    arguments = ["--config", "runs/written/version_0/config.yaml", "--model.optimizer.eps", "1e-8"]
    folder = fit(*arguments, "--trainer.max_epochs", "1")
    settings = ("--trainer.max_epochs", "2", "--model.optimizer.amsgrad", "false")
    assert main(["fit", "--ckpt_path", str(folder), *settings]) == 0

    record = json.loads((folder / "run.json").read_text())
    written = [name for name in record["written"] if name.startswith("model.optimizer")]
    names = ("amsgrad", "class_path", "eps", "lr", "weight_decay")
    assert written == [f"model.optimizer.{name}" for name in names]
    saved_record = load(folder / "checkpoints" / "last.ckpt")["classifier"]["run"]
    assert saved_record["written"] == record["written"]
    optimizer = optimizer_of(capsys, "--config", f"{folder}/config.yaml", "--model.optimizer=AdamW")
    assert optimizer["init_args"]["weight_decay"] == 0


def test_a_value_edited_in_a_saved_config_is_written(saved, monkeypatch, capsys):
    monkeypatch.chdir(saved)
    text = Path("unwritten_copy.yaml").read_text()
    Path("edited.yaml").write_text(text.replace("weight_decay: 0.0", "weight_decay: 0.5"))

    optimizer = optimizer_of(capsys, "--config", "edited.yaml", "--model.optimizer", "AdamW")

    assert optimizer["init_args"]["weight_decay"] == 0.5


def test_a_printed_config_says_what_was_written(write_config, capsys):
    assert main(["fit", "--config", write_config(), "--print_config"]) == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)

    optimizer = optimizer_of(capsys, "--config", "printed.yaml", "--model.optimizer", "AdamW")

    assert optimizer["init_args"]["weight_decay"] == 0.01


def test_what_another_class_does_not_take_is_named(write_config, capsys):
    settings = {"betas": [0.8, 0.9], "eps": 0.1, "weight_decay": 0.2}
    config = write_config({f"model.optimizer.init_args.{k}": v for k, v in settings.items()})

    assert main(["fit", "--config", config, "--model.optimizer=SGD", "--trainer.max_epochs=1"]) == 0

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: model.optimizer: torch.optim.SGD has no betas, eps;")
    assert main(["fit", "--config", config, "--trainer.max_epochs=1"]) == 0
    assert capsys.readouterr().err == ""


PRETRAINED = {"class_path": "torchvision.models.resnet50", "init_args": {"weights": "DEFAULT"}}


def test_pretrained_weights_stay_under_another_network_that_has_some_of_the_name(
    write_config, capsys
):
    config = write_config({"model.network": PRETRAINED})
    for name in ("resnet18", "shufflenet_v2_x0_5"):
        words = ["--config", config, f"--model.network=torchvision.models.{name}"]

        assert main(["fit", *words, "--print_config"]) == 0

        network = yaml.safe_load(capsys.readouterr().out)["model"]["network"]
        assert network["class_path"] == f"torchvision.models.{name}"
        assert network["init_args"]["weights"] == "DEFAULT"


def test_a_value_that_another_class_does_not_take_is_named(write_config, capsys):
    second = {**PRETRAINED, "init_args": {"weights": "IMAGENET1K_V2"}}
    config = write_config({"model.network": second})
    words = ["--model.network=torchvision.models.resnet18", "--trainer.fast_dev_run=true"]

    assert main(["fit", "--config", config, *words]) == 0

    (line,) = capsys.readouterr().err.splitlines()
    assert "what was written of weights for another class is left out" in line
    assert line.endswith("torchvision.models.resnet18 takes other values.")


@pytest.mark.parametrize(
    ("network", "setting", "value"),
    [
        ("torchvision.models.resnet18", "weights", "DEFAULT"),
        ("own.Spread", "width", "3"),
        ("own.Spread", "sizes", "{a: null, b: [1]}"),
    ],
)
def test_null_takes_an_optional_setting_back(network, setting, value, write_config, capsys):
    words = [f"--model.network.{setting}", value, f"--model.network.{setting}", "null"]
    words = ["--model.network", network, *words, "--print_config"]

    assert main(["fit", "--config", write_config(), *words]) == 0

    found = yaml.safe_load(capsys.readouterr().out)["model"]["network"]["init_args"]
    assert found[setting] is None


def test_what_a_class_in_between_has_cost_is_named(write_config, capsys):
    config = write_config({"model.optimizer.init_args.amsgrad": True})
    words = ["--model.optimizer=SGD", "--model.optimizer=Adam", "--trainer.fast_dev_run=true"]

    assert main(["fit", "--config", config, *words]) == 0

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: model.optimizer: what was written of amsgrad")
    assert line.endswith("is left out: the class was another in between.")


def test_weight_decay_spares_norms_and_biases_on_request(write_config, fit):
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"weight_decay": 0.1}}
    changes = {"model.optimizer": optimizer, "model.no_decay_norm_bias": True}

    folder = fit("--config", write_config(changes))

    decayed, spared = groups_of(folder)
    weights = load(folder / "checkpoints" / "last.ckpt")["state_dict"]
    parameters = [
        value
        for name, value in weights.items()
        if name.startswith("network.") and name.endswith(("weight", "bias"))
    ]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0)
    assert len(decayed["params"]) == sum(value.ndim > 1 for value in parameters)
    assert len(spared["params"]) == sum(value.ndim <= 1 for value in parameters)


def test_another_loss_takes_effect(write_config, fit):
    loss = {"class_path": "torch.nn.CrossEntropyLoss", "init_args": {"label_smoothing": 0.2}}

    folder = fit("--config", write_config({"model.loss": loss}))
    plain = fit("--config", write_config())

    module = ClassificationModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert module.loss.label_smoothing == 0.2
    first, other = (runs.read_metrics(run)[0]["train_loss"] for run in (folder, plain))
    assert first != other


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_mixed_batches_train(name, write_config, fit, tmp_path, monkeypatch, capsys):
    mix = {"class_path": f"torchvision.transforms.v2.{name}", "init_args": {"alpha": 0.5}}

    folder = fit("--config", write_config({"data.init_args.mix": mix}))
    plain = fit("--config", write_config())

    first, other = (load(run / "checkpoints" / "last.ckpt") for run in (folder, plain))
    assert not torch.equal(
        first["state_dict"]["network.head.1.weight"], other["state_dict"]["network.head.1.weight"]
    )
    checkpoint = folder / "checkpoints" / "best.ckpt"
    assert "test_accuracy" in test_alone(checkpoint, tmp_path, monkeypatch, capsys)


def test_augmentation_from_torchvision_and_from_the_package_train(write_config, fit):
    augment = [
        {"class_path": "classifier.augment.RandomShift", "init_args": {"max_shift": 1}},
        {"class_path": "torchvision.transforms.v2.RandomErasing", "init_args": {"p": 0.5}},
    ]

    folder = fit("--config", write_config({"data.init_args.augment": augment}))

    assert (folder / "checkpoints" / "best.ckpt").is_file()


def test_early_stopping_stops(write_config, fit):
    stopping = {
        "class_path": "EarlyStopping",
        "init_args": {"monitor": "val_loss", "patience": 1, "min_delta": 100},
    }

    folder = fit(
        "--config", write_config({"trainer.callbacks": [stopping], "trainer.max_epochs": 9})
    )

    assert (folder / "metrics.csv").read_text().count("\n") == 1 + 2  # header, two epochs


def test_averaged_weights_are_evaluated_and_kept(write_config, fit):
    average = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}

    folder = fit("--config", write_config({"trainer.callbacks": [average]}))
    plain = fit("--config", write_config())

    checkpoint = folder / "checkpoints" / "last.ckpt"
    averaged = ClassificationModule.load_from_checkpoint(checkpoint).state_dict()
    last = load(plain / "checkpoints" / "last.ckpt")["state_dict"]
    assert not torch.equal(averaged["network.head.1.weight"], last["network.head.1.weight"])
    assert main(["test", "--ckpt_path", str(checkpoint)]) == 0


def test_half_precision_trains(write_config, fit, capsys):
    folder = fit("--config", write_config({"trainer.precision": "bf16-mixed"}))

    state = load(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert state["network.head.1.weight"].dtype == torch.float32
    assert main(["test", "--ckpt_path", str(folder)]) == 0


SCHEDULERS = """
torch.optim.lr_scheduler.StepLR:
  settings: {step_size: 1}
  rates: [0.01, 0.001, 0.0001]
torch.optim.lr_scheduler.ReduceLROnPlateau:
  settings: {patience: 0, threshold: 100, threshold_mode: abs}
  rates: [0.01, 0.01, 0.001]
pytorch_lightning.cli.ReduceLROnPlateau:
  settings: {monitor: val_accuracy, mode: max, patience: 0, threshold: 1, threshold_mode: abs}
  rates: [0.01, 0.01, 0.001]
"""


@pytest.mark.parametrize("name", yaml.safe_load(SCHEDULERS))
def test_a_scheduler_sets_the_rate_of_each_epoch(name, write_config, fit):
    expected = yaml.safe_load(SCHEDULERS)[name]
    scheduler = {"class_path": name, "init_args": expected["settings"]}

    folder = fit(
        "--config", write_config({"model.lr_scheduler": scheduler, "trainer.max_epochs": 3})
    )

    rates = [float(row["lr"]) for row in runs.read_metrics(folder)]
    assert rates == pytest.approx(expected["rates"])


def test_a_scheduler_can_step_with_every_batch(write_config, fit):
    scheduler = {
        "class_path": "torch.optim.lr_scheduler.ExponentialLR",
        "init_args": {"gamma": 0.5},
    }

    folder = fit(
        "--config", write_config({"model.lr_scheduler": scheduler, "model.interval": "step"})
    )

    (group,) = groups_of(folder)
    assert group["lr"] == pytest.approx(0.01 * 0.5**8)  # two epochs of four batches


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of torchvision's with made-up weights of resnet18."""
    root = tmp_path_factory.mktemp("cache")
    file = models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    (root / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), root / "hub" / "checkpoints" / file)
    return root


@pytest.fixture
def pretrained(cache, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(cache))
    (file,) = (cache / "hub" / "checkpoints").iterdir()
    return load(file)


RESNET = {
    "class path": {"class_path": "torchvision.models.resnet18"},
    "by name": {"class_path": "torchvision.models.get_model", "init_args": {"name": "resnet18"}},
    "of the package": {
        "class_path": "classifier.networks.torchvision_model",
        "init_args": {"name": "resnet18"},
    },
}


def pretrained_config(network, weights):
    place = "dict_kwargs" if "get_model" in network["class_path"] else "init_args"
    network = {**network, place: {**network.get(place, {}), "weights": weights}}
    # A rate of zero leaves the weights as they were loaded.
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    trainer = {"trainer.max_epochs": 1, "trainer.limit_train_batches": 1}
    return {"model.network": network, "model.optimizer": optimizer, **trainer}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # hidden outside of tests
@pytest.mark.parametrize(
    ("kind", "weights"),
    [(kind, "DEFAULT") for kind in RESNET] + [("class path", "IMAGENET1K_V1")],
)
def test_a_pretrained_network_trains_and_its_checkpoint_needs_no_download(
    kind, weights, pretrained, write_config, fit, tmp_path, monkeypatch, capsys
):
    folder = fit("--config", write_config(pretrained_config(RESNET[kind], weights)))

    checkpoint = folder / "checkpoints" / "best.ckpt"
    state = load(checkpoint)["state_dict"]
    name = "layer1.0.conv1.weight"
    assert torch.equal(state[f"network.{name}"], pretrained[name])
    assert state["network.fc.weight"].shape == (10, 512)
    saved = yaml.safe_load((folder / "config.yaml").read_text())["model"]["network"]
    settings = {**(saved.get("init_args") or {}), **(saved.get("dict_kwargs") or {})}
    assert settings["weights"] in ("DEFAULT", "IMAGENET1K_V1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no cache"))
    assert "test_accuracy" in test_alone(checkpoint, tmp_path, monkeypatch, capsys)
    module = ClassificationModule.load_from_checkpoint(checkpoint)
    assert torch.equal(module.state_dict()[f"network.{name}"], pretrained[name])
    assert not (tmp_path / "no cache").exists()


def test_a_pretrained_run_resumes_without_the_download(
    pretrained, write_config, fit, tmp_path, monkeypatch
):
    changes = pretrained_config(RESNET["class path"], "DEFAULT")
    folder = fit("--config", write_config({**changes, "trainer.limit_val_batches": 0}))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no cache"))

    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "2"]) == 0

    assert not (tmp_path / "no cache").exists()
    assert load(folder / "checkpoints" / "last.ckpt")["epoch"] == 1
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["network"]["class_path"] == "torchvision.models.resnet18"
    assert config["model"]["network"]["init_args"]["weights"] in ("DEFAULT", "IMAGENET1K_V1")
