"""Subclasses of ClassificationModule, written as Lightning's documentation writes modules."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from torch import nn
from torch.nn import functional
from torchmetrics.classification import MulticlassRecall

from classifier.callbacks.divergence import StopOnDivergence
from classifier.data import Digits, ImageDataModule
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet

NAMES = list("0123456789")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*is smaller than the logging interval",
    "ignore:.*callbacks used to create the checkpoint",
    "ignore:.*training_step. returned .None.",
    "ignore::DeprecationWarning",  # hidden outside of tests
)


class Base(ClassificationModule):
    def __init__(self, width=2, **settings):
        super().__init__(MNISTNet(10, 1, width=width), NAMES, **settings)
        self.save_hyperparameters()


class PlainLoss(Base):
    """Overrides hooks that are empty in Lightning, as one does, without super()."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def setup(self, stage):
        pass

    def on_train_epoch_start(self):
        pass

    def on_validation_epoch_start(self):
        pass


class LossInDict(Base):
    def training_step(self, batch, batch_idx):
        images, labels = batch
        return {"loss": functional.cross_entropy(self(images), labels), "number": len(images)}


class Diverges(LossInDict):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def training_step(self, batch, batch_idx):
        result = super().training_step(batch, batch_idx)
        return {**result, "loss": result["loss"] * (self.factor if batch_idx == 2 else 1)}


class LeavesOut(Base):
    """Every second batch."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if batch_idx % 2 == 0 else None


class TwoOptimizers(Base):
    def __init__(self, width=2):
        super().__init__(width)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.step(batch, "train"))
            optimizer.step()

    def configure_optimizers(self):
        features, head = self.network.features.parameters(), self.network.head.parameters()
        return [torch.optim.SGD(features, lr=0.01, momentum=0.9), torch.optim.Adam(head, lr=0.01)]


class OwnOptimizer(Base):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=100)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class OwnMetric(Base):
    def __init__(self, width=2):
        super().__init__(width, monitor="val_recall", monitor_mode="max")
        self.recall = MulticlassRecall(10)
        self.test_metrics["recall"] = MulticlassRecall(10)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.recall(self(images), labels)
        self.log("val_recall", self.recall, on_epoch=True)


SUBCLASSES = [PlainLoss, LossInDict, LeavesOut, TwoOptimizers, OwnOptimizer, OwnMetric]


def trained(module, epochs=2, ckpt_path=None, **settings):
    """The trainer of a module after so many epochs, of which it may resume the first."""
    pl.seed_everything(3, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=4,
        limit_val_batches=1,
        enable_checkpointing=False,
        callbacks=[StopOnDivergence(None, seed=3)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module, Digits(batch_size=64), ckpt_path=ckpt_path)
    return trainer


def weights(module):
    return nn.utils.parameters_to_vector(module.parameters())


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_subclass_trains_resumes_exactly_and_is_tested(kind, own_folder):
    pl.seed_everything(1, verbose=False)
    whole = kind()
    started = kind()
    started.load_state_dict(whole.state_dict())
    initial = weights(whole).clone()
    trained(started, epochs=1).save_checkpoint("half.ckpt")

    trained(whole)
    resumed = kind()
    trainer = trained(resumed, ckpt_path="half.ckpt")

    assert not torch.equal(weights(whole), initial)
    assert torch.equal(weights(resumed), weights(whole))
    trainer.save_checkpoint("whole.ckpt")
    loaded = kind.load_from_checkpoint("whole.ckpt")
    assert torch.equal(weights(loaded), weights(whole))
    results = [trainer.test(m, Digits(), verbose=False)[0] for m in (resumed, loaded)]
    assert results[0] == results[1]
    assert {"test_loss", "test_accuracy"} < results[0].keys()
    assert ("test_recall" in results[0]) == (kind is OwnMetric)


@pytest.mark.parametrize(
    ("factor", "message"), [(float("nan"), "nan"), (1e6, r"2\.\d\de\+06, over 10,")]
)
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_loss_that_a_training_step_returns_is_watched(factor, message, accumulated):
    with pytest.raises(FloatingPointError, match=f"train_loss is {message}.* in epoch 1, step"):
        trained(Diverges(factor), accumulate_grad_batches=accumulated)


def test_a_bad_gradient_of_a_training_step_of_ones_own_is_skipped():
    module = Diverges(float("nan"))
    module.skip_bad_steps = True

    trained(module)

    assert module.divergence.skipped == 2
    assert weights(module).isfinite().all()


@pytest.mark.parametrize("kind", [TwoOptimizers, PlainLoss])
def test_that_nothing_is_watched_under_manual_optimization_is_said_once(kind, capsys):
    trained(kind())

    told = capsys.readouterr().err.count("automatic_optimization is false")
    assert told == (kind is TwoOptimizers)


def test_a_checkpoint_names_the_objects_that_a_subclass_was_given(own_folder):
    trained(Base(3, loss=nn.CrossEntropyLoss())).save_checkpoint("own.ckpt")

    saved = torch.load("own.ckpt", weights_only=True)
    assert (saved["hyper_parameters"]["width"], saved["classifier"]["objects"]) == (3, ["loss"])
    with pytest.raises(ValueError, match="does not hold loss"):
        Base.load_from_checkpoint("own.ckpt")
    assert Base.load_from_checkpoint("own.ckpt", loss=nn.CrossEntropyLoss()).hparams.width == 3


OWN = """
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet


class Own(ClassificationModule):
    def __init__(self, width: int = 2):
        super().__init__(MNISTNet(10, 1, width=width), list("0123456789"))


class Passes(ClassificationModule):
    def __init__(self, width: int = 2, **settings):
        super().__init__(MNISTNet(10, 1, width=width), list("0123456789"), **settings)
"""


@pytest.mark.parametrize("kind", ["Own", "Passes"])
def test_a_checkpoint_of_a_config_that_names_a_subclass_builds_the_subclass(
    kind, write_module, monkeypatch
):
    write_module(OWN)
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr("sys.argv", ["train.py"])
    args = [f"--model=own.{kind}", "--model.width=3", "--data=classifier.data.Digits"]
    args.append("--seed_everything=1")
    settings = {"subclass_mode_model": True, "subclass_mode_data": True, "run": False}
    cli = LightningCLI(ClassificationModule, ImageDataModule, args=args, **settings)
    trained(cli.model).save_checkpoint("own.ckpt")
    with pytest.raises(ValueError, match=f"names 'own.{kind}'.*--trust own"):
        ClassificationModule.load_from_checkpoint("own.ckpt")

    loaded = ClassificationModule.load_from_checkpoint("own.ckpt", trust=["own"])

    assert type(loaded) is type(cli.model)
    assert torch.equal(weights(loaded), weights(cli.model))
    assert dict(loaded.hparams) == dict(cli.model.hparams)
    assert type(type(loaded).load_from_checkpoint("own.ckpt")) is type(loaded)
    other = torch.load("own.ckpt", weights_only=True)
    other["hyper_parameters"]["_class_path"] = "torch.nn.Linear"
    torch.save(other, "other.ckpt")
    with pytest.raises(ValueError, match="Linear, which is not a ClassificationModule"):
        ClassificationModule.load_from_checkpoint("other.ckpt")
