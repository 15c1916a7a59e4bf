"""A parameter that is a tensor takes a list of numbers, which wins over that of a checkpoint."""

from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse.typing import RegisteredType, registered_type_handlers
from torch import nn

from classifier.__main__ import main
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet
from classifier.tensors import tensors_as_lists

OWN = """
import torch
import pytorch_lightning as pl
from torch import nn
from classifier.module import ClassificationModule


class Scaled(nn.Sequential):
    def __init__(self, num_classes: int, scales: torch.Tensor, in_channels: int = 1) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))
        self.register_buffer("scales", scales)

    def forward(self, images):
        return super().forward(images) * self.scales.sum()


class Mine(ClassificationModule):
    def __init__(self, prior: torch.Tensor, **settings) -> None:
        super().__init__(**settings)
        self.register_buffer("prior", prior)


class Notes(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
        prior = getattr(pl_module, "prior", None)
        torch.save([pl_module.loss.weight, pl_module.network.scales, prior], "trained_with.pt")
"""
WEIGHT = [1, 2, 0.1, 1, 1, 1, 1, 1, 1, 1]


@pytest.fixture
def config(write_module, write_config):
    write_module(OWN)
    return write_config(
        {
            "model.loss": {
                "class_path": "torch.nn.CrossEntropyLoss",
                "init_args": {"weight": WEIGHT},
            },
            "model.network": {
                "class_path": "own.Scaled",
                "init_args": {"scales": [[1, 2], [3, 4]]},
            },
            "trainer.callbacks": [{"class_path": "own.Notes"}],
        }
    )


def trained_with():
    return torch.load("trained_with.pt", weights_only=True)


def test_tensors_are_lists_in_configs_and_win_over_those_of_a_checkpoint(config, fit):
    folder = fit("--config", config)

    saved = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert saved["loss"]["init_args"]["weight"] == WEIGHT
    assert saved["network"]["init_args"]["scales"] == [[1, 2], [3, 4]]
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["loss"]["init_args"]["weight"] == WEIGHT
    assert not {"loss.weight", "network.scales"} & checkpoint["state_dict"].keys()
    module = ClassificationModule.load_from_checkpoint(folder, trust=["own"])
    assert module.loss.weight.equal(torch.tensor(WEIGHT))
    assert module.network.scales.equal(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert torch.Tensor not in registered_type_handlers

    other = [3, *WEIGHT[1:]]
    goes_on = ["fit", "--ckpt_path", str(folder), "--trainer.max_epochs=3"]
    assert main([*goes_on, f"--model.loss.weight={other}", "--model.network.scales=[1]"]) == 0

    assert trained_with()[0].equal(torch.tensor(other))
    assert trained_with()[1].equal(torch.tensor([1.0]))
    none = "{model: {loss: {class_path: torch.nn.CrossEntropyLoss, init_args: {weight: null}}}}"
    Path("none.yaml").write_text(none)
    assert main([*goes_on[:-1], "--trainer.max_epochs=4", "--config=none.yaml"]) == 0
    assert trained_with()[0] is None


def test_those_of_a_module_of_ones_own_win_likewise(config, fit):
    options = ["--model=own.Mine", "--model.prior=[1, 2]", "--model.moving_average=0.9"]
    folder = fit("--config", config, *options)

    goes_on = ["fit", "--ckpt_path", str(folder), "--trainer.max_epochs=3"]
    assert main([*goes_on, "--model.prior=[3]"]) == 0

    assert trained_with()[2].equal(torch.tensor([3.0]))
    module = ClassificationModule.load_from_checkpoint(folder, trust=["own"])
    assert module.prior.numel() in (1, 2)


class Counts(nn.CrossEntropyLoss):
    """Trains one of its arguments, which no checkpoint keeps."""

    def __init__(self, seen: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("seen", seen)


def test_a_setting_that_is_trained_is_named_once(capsys):
    module = ClassificationModule(MNISTNet(10, 1), [*"0123456789"], Counts(torch.zeros(1)))

    module.on_save_checkpoint({})
    assert capsys.readouterr().err == ""
    module.loss.seen += 1
    module.on_save_checkpoint({})
    module.on_save_checkpoint({})

    assert capsys.readouterr().err.count("loss.seen changes while it trains") == 1


def test_a_checkpoint_that_holds_such_tensors_still_loads():
    module = ClassificationModule(
        MNISTNet(10, 1), [*"0123456789"], nn.CrossEntropyLoss(torch.tensor(WEIGHT))
    )
    earlier = {**module.state_dict(), "loss.weight": torch.zeros(10)}
    torch.save({"state_dict": earlier, "pytorch-lightning_version": "2.6.0"}, "earlier.ckpt")
    own = {"network": MNISTNet(10, 1), "class_names": [*"0123456789"]}
    path = Path("earlier.ckpt")

    weighted = ClassificationModule.load_from_checkpoint(path, **own, loss=module.loss)
    plain = ClassificationModule.load_from_checkpoint(path, **own)

    assert weighted.loss.weight.equal(torch.tensor(WEIGHT))
    assert plain.loss.weight is None
    name = "network.head.1.weight"
    assert plain.state_dict()[name].equal(module.state_dict()[name])


MISTAKES = {
    "text in a list": ("[1, a]", ["weight", "a list of numbers", "[1, 'a']"]),
    "lists of different lengths": ("[[1, 2], [1]]", ["weight", "equally long"]),
    "number": ("3", ["weight", "'3' is not a list of numbers"]),
    "too short": ("[1, 2, 3]", ["model.loss", "CrossEntropyLoss", "10 classes"]),
}


@pytest.mark.parametrize(("weight", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_tensor_is_answered_before_training(weight, words, write_config, capsys):
    loss = ["--model.loss=torch.nn.CrossEntropyLoss", f"--model.loss.weight={weight}"]

    assert main(["fit", "--config", write_config(), *loss]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert [word for word in words if word not in error] == []
    assert not Path("runs").exists()
    assert torch.Tensor not in registered_type_handlers


def test_the_registration_of_somebody_else_is_put_back():
    known = RegisteredType(torch.Tensor, list, None, ValueError, isinstance, "somebody")
    registered_type_handlers[torch.Tensor] = known
    try:
        with tensors_as_lists(), tensors_as_lists():
            assert registered_type_handlers[torch.Tensor] is not known
        assert registered_type_handlers[torch.Tensor] is known
    finally:
        del registered_type_handlers[torch.Tensor]
