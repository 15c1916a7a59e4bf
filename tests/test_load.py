"""load_from_checkpoint: arguments are known, given again where a file cannot hold them, or kept."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from classifier.data import Digits
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet

NAMES = list("0123456789")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*is smaller than the logging interval",
    "ignore:.*callbacks used to create the checkpoint",
    "ignore::DeprecationWarning",  # hidden outside of tests
)


class OwnLoss(nn.CrossEntropyLoss):
    pass


class Own(ClassificationModule):
    """With arguments of its own."""

    def __init__(self, width, activation=nn.ReLU, teacher=None, **settings):
        super().__init__(MNISTNet(10, 1, width=width), NAMES, **settings)
        self.width, self.activation, self.teacher = width, activation, teacher


def network(width=2):
    return MNISTNet(num_classes=10, in_channels=1, width=width)


SGD = partial(torch.optim.SGD, lr=0.02)
STEPS = partial(torch.optim.lr_scheduler.StepLR, step_size=1)


def trainer_of(epochs=1):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    limits = {"limit_train_batches": 2, "limit_val_batches": 1}
    return pl.Trainer(
        accelerator="cpu", max_epochs=epochs, enable_checkpointing=False, **quiet, **limits
    )


def trained_as(module, path="own.ckpt"):
    trainer = trainer_of()
    trainer.fit(module, Digits(batch_size=64))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def path(own_folder):
    """Of a module made in Python with an own loss, optimizer and schedule."""
    return trained_as(
        ClassificationModule(
            network(), NAMES, loss=OwnLoss(), optimizer=SGD, lr_scheduler=STEPS, mean=(0.3,)
        )
    )


load = ClassificationModule.load_from_checkpoint


@pytest.mark.parametrize("name", ["channels_lasst", "lss", "map_locatoin", "truts"])
def test_a_misspelt_argument_is_refused(name, trained):
    with pytest.raises(ValueError, match=f"{name}, did you mean '"):
        load(trained, **{name: None})


def test_the_arguments_of_lightning_and_of_the_constructor_are_taken(trained):
    settings = {"map_location": "cpu", "strict": True, "weights_only": True}

    module = load(trained, **settings, channels_last=True, trust=["own"])

    assert module.channels_last
    assert module.hparams["channels_last"]


def test_a_checkpoint_never_runs_code_whatever_is_asked(trained):
    with pytest.raises(ValueError, match="weights_only"):
        load(trained, weights_only=False)


@pytest.mark.parametrize(
    ("given", "names"),
    [({}, "network and loss"), ({"network": network()}, "loss"), ({"loss": OwnLoss()}, "network")],
)
def test_what_the_file_cannot_hold_must_be_given_again(given, names, path):
    with pytest.raises(ValueError, match=f"does not hold {names}, .*{names.split()[-1]}=..."):
        load(path, **given)


def test_inference_does_without_optimizer_and_schedule(path):
    module = load(path, network=network(), loss=OwnLoss()).eval()

    assert type(module.loss) is OwnLoss
    assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert module.mean.item() == pytest.approx(0.3 * 255)
    trainer_of().test(module, Digits(), verbose=False)


def test_training_wants_optimizer_and_schedule_again(path):
    objects = {"network": network(), "loss": OwnLoss()}
    module = load(path, **objects)
    with pytest.raises(ValueError, match=r"lr_scheduler and optimizer.*optimizer=..."):
        trainer_of(2).fit(module, Digits(batch_size=64))

    module = load(path, **objects, optimizer=SGD, lr_scheduler=None)
    trainer_of(2).fit(module, Digits(batch_size=64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scheduler": STEPS}, "trained with torch.optim.*SGD, but the optimizer .*Adam"),
        ({"optimizer": torch.optim.RMSprop, "lr_scheduler": STEPS}, "SGD, .*RMSprop"),
        ({"optimizer": SGD}, "StepLR, but the lr_scheduler of this module is None"),
    ],
)
def test_another_optimizer_or_schedule_cannot_go_on(settings, message, path):
    module = ClassificationModule(network(), NAMES, loss=OwnLoss(), **settings)

    with pytest.raises(ValueError, match=message):
        trainer_of(2).fit(module, Digits(batch_size=64), ckpt_path=path)


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_training_goes_on_with_the_same_objects(is_loaded, path):
    settings = {"loss": OwnLoss(), "optimizer": SGD, "lr_scheduler": STEPS}
    if is_loaded:
        module = load(path, network=network(), **settings)
    else:
        module = ClassificationModule(network(), NAMES, mean=(0.3,), **settings)
    trainer = trainer_of(2)

    trainer.fit(module, Digits(batch_size=64), ckpt_path=path)

    assert trainer.global_step == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.02 * 0.01)
    trainer.save_checkpoint("again.ckpt")
    with pytest.raises(ValueError, match="network and loss"):
        load("again.ckpt")


def test_a_module_of_ones_own_keeps_its_arguments(own_folder):
    path = trained_as(Own(width=3, monitor="val_f1", no_decay_norm_bias=True))

    module = Own.load_from_checkpoint(path)

    assert (module.width, module.activation, module.monitor) == (3, nn.ReLU, "val_f1")
    assert module.no_decay_norm_bias
    with pytest.raises(ValueError, match="wdith, did you mean 'width'"):
        Own.load_from_checkpoint(path, wdith=3)


def test_objects_for_a_module_of_ones_own_must_be_given_again(own_folder):
    path = trained_as(Own(3, nn.GELU, teacher=network(), loss=OwnLoss(), optimizer=SGD))
    with pytest.raises(ValueError, match="does not hold activation and teacher and loss"):
        Own.load_from_checkpoint(path)

    again = {"activation": nn.GELU, "teacher": network(), "loss": OwnLoss()}
    module = Own.load_from_checkpoint(path, **again)

    assert module.activation is nn.GELU
    assert torch.load(path, weights_only=True)["hyper_parameters"]["width"] == 3


# ---- checkpoints of the command line ----


def test_a_network_that_is_given_replaces_that_of_the_checkpoint(trained):
    other = network(width=4)

    module = load(trained, network=other)

    assert module.network is other
    assert torch.equal(module.network.head[1].weight, load(trained).network.head[1].weight)
    path = trained_as(module)
    with pytest.raises(ValueError, match="does not hold network"):
        load(path)
    assert isinstance(load(path, network=network(width=4)).network, MNISTNet)


@pytest.mark.parametrize(
    "other", [network(width=5), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))]
)
def test_a_network_that_does_not_fit_the_weights_is_refused_shortly(other, trained):
    with pytest.raises(RuntimeError, match="does not fit the network") as refused:
        load(trained, network=other)

    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)


def test_a_training_of_the_command_line_goes_on_in_python_with_its_optimizer(trained):
    last = trained / "checkpoints" / "last.ckpt"
    module = load(last)
    trainer = trainer_of(4)

    trainer.fit(module, Digits(batch_size=64), ckpt_path=last)

    (state,) = {int(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert state == trainer.global_step == 32
    trainer.save_checkpoint("more.ckpt")
    assert load("more.ckpt").hparams["network"]["class_path"] == "classifier.networks.MNISTNet"


def test_a_module_made_in_python_goes_on_from_the_command_line(trained):
    last = trained / "checkpoints" / "last.ckpt"
    settings = {"optimizer": partial(torch.optim.Adam, lr=0.01)}
    trainer = trainer_of(4)

    trainer.fit(
        ClassificationModule(network(width=4), NAMES, **settings),
        Digits(batch_size=64),
        ckpt_path=last,
    )

    assert {int(state["step"]) for state in trainer.optimizers[0].state.values()} == {32}
    other = ClassificationModule(network(width=4), NAMES, optimizer=SGD)
    with pytest.raises(ValueError, match=r"Adam, but the optimizer of this module is .*SGD"):
        trainer_of(4).fit(other, Digits(batch_size=64), ckpt_path=last)
