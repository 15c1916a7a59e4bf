"""A loss that is not finite or explodes: the run stops, or skips the step if it is asked to."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_ddp import TWO_RANKS, classify

from classifier import runs
from classifier.__main__ import main
from classifier.callbacks.divergence import Step
from classifier.divergence import DivergenceDetector, max_abs
from classifier.module import ClassificationModule

OWN = """
import os

import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.nn import functional

from classifier.networks import MNISTNet


class Loss(nn.CrossEntropyLoss):
    '''Multiplied by `factor` in the training steps `steps`, counted from 1, of one rank.'''

    def __init__(self, steps: list[int], factor: float = float("nan"), rank: int = 0) -> None:
        super().__init__()
        self.steps, self.factor, self.rank = steps, factor, rank
        self.seen = 0

    def forward(self, logits, labels):
        loss = super().forward(logits, labels)
        if not logits.requires_grad:
            return loss
        self.seen += 1
        other = int(os.environ.get("LOCAL_RANK", 0)) != self.rank
        return loss if self.seen not in self.steps or other else loss * self.factor


class NormalisedNet(nn.Sequential):
    '''Gives NaN, also to its running statistics, for the training batches `batches`.'''

    def __init__(self, batches: list[int], num_classes: int = 10) -> None:
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
        super().__init__(*layers, nn.Linear(144, num_classes))
        self.batches, self.seen = batches, 0

    def forward(self, images):
        self.seen += self.training
        poisoned = self.training and self.seen in self.batches
        return super().forward(images * float("nan") if poisoned else images)


class Root(MNISTNet):
    '''Its gradient is infinite, though its output is not, in the training batches `batches`.'''

    def __init__(self, batches: list[int], num_classes: int = 10) -> None:
        super().__init__(num_classes, width=4, dropout=0)
        self.scale = nn.Parameter(torch.zeros(()))
        self.batches, self.seen = batches, 0

    def forward(self, images):
        self.seen += self.training
        logits = super().forward(images)
        infinite = self.training and self.seen in self.batches
        return logits + self.scale.sqrt() if infinite else logits


class Watch(Callback):
    '''Notes the weights and the optimizer's state after every step.'''

    def on_train_start(self, trainer, pl_module) -> None:
        self.notes = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        weights = pl_module.state_dict().items()
        state = trainer.optimizers[0].state_dict()["state"]
        moments = {f"{i}.{k}": v.clone() for i, s in state.items() for k, v in s.items()}
        self.notes.append({**{k: v.clone() for k, v in weights}, **moments})

    def on_train_end(self, trainer, pl_module) -> None:
        torch.save(self.notes, f"notes_{trainer.global_rank}.pt")


class NoteBatches(Callback):
    def on_train_start(self, trainer, pl_module) -> None:
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.batches.append(batch)
        torch.save(self.batches, "batches.pt")


def half(initial_scale: float = 1024.0) -> MixedPrecision:
    '''Lightning refuses precision 16-mixed on CPUs, where it is slow but works.'''
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", initial_scale))
"""
SKIP = {"model.skip_bad_steps": True, "trainer.callbacks": [{"class_path": "own.Watch"}]}
RUN = Path("runs/tiny/version_0")
GO_ON = ["fit", "--ckpt_path", str(RUN)]


@pytest.fixture(autouse=True)
def own_module(write_module):
    write_module(OWN)


def bad_loss(*steps, **settings):
    return {"model.loss": {"class_path": "own.Loss", "init_args": {"steps": [*steps], **settings}}}


def network(name, *batches):
    return {
        "model.network": {"class_path": f"own.{name}", "init_args": {"batches": [*batches]}},
        "trainer.logger": False,
    }


def last():
    return torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)


def notes(rank=0):
    return torch.load(f"notes_{rank}.pt", weights_only=True)


def equal(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in after)


def moved(steps):
    """Which steps changed weights or optimizer; the first one always does."""
    return [True, *(not equal(old, new) for old, new in pairwise(steps))]


def without_statistics(steps):
    """Those of a good batch count, though another one or its gradient spoils the step."""
    names = "running_mean", "running_var", "num_batches_tracked"
    return [{k: v for k, v in step.items() if not k.endswith(names)} for step in steps]


def values(name):
    return [float(row[name]) for row in runs.read_metrics(RUN)]


# ---- stop ----


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(write_config, capsys, factor):
    config = write_config({"trainer.max_epochs": 3, **bad_loss(7, factor=factor)})

    assert main(["fit", "--config", config]) == 1

    assert capsys.readouterr().err.splitlines() == [
        f"error: train_loss is {factor} in epoch 2, step 7",
        "The batch is kept in runs/tiny/version_0/bad_batch.pt; from step 4 it is resumed with: "
        "classifier fit --ckpt_path runs/tiny/version_0",
        "A lower learning rate, trainer.gradient_clip_val or another trainer.precision may help; "
        "model.skip_bad_steps leaves such steps out.",
    ]
    record = runs.read_record(RUN)
    assert record["state"] == "failed"
    assert record["error"].startswith("FloatingPointError: train_loss is")


def test_best_and_last_are_those_of_before(write_config):
    assert main(["fit", "--config", write_config({"trainer.max_epochs": 1})]) == 0
    earlier = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    config = write_config(bad_loss(8), "again.yaml")  # the last step of the second epoch

    assert main(["fit", "--config", config]) == 1

    folder = Path("runs/again/version_0")
    for name in ("best", "last"):
        kept = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert kept["global_step"] == 4
        assert equal(kept["state_dict"], earlier["state_dict"])
    assert [row["epoch"] for row in runs.read_metrics(folder)] == ["0"]
    assert runs.read_record(folder)["best"]["checkpoint"] == "checkpoints/best.ckpt"


def test_a_run_without_a_checkpoint_says_so(write_config, capsys):
    assert main(["fit", "--config", write_config(bad_loss(1))]) == 1

    assert "bad_batch.pt; there is no checkpoint yet." in capsys.readouterr().err
    assert not (RUN / "checkpoints").exists()


def test_the_batch_is_kept_as_the_module_saw_it(write_config):
    augment = [{"class_path": "classifier.augment.RandomFlip"}]
    mix = {"class_path": "torchvision.transforms.v2.MixUp", "init_args": {"alpha": 0.5}}
    changes = {
        "data.init_args.augment": augment,
        "data.init_args.mix": mix,
        "seed_everything": 5,
        "trainer.callbacks": [{"class_path": "own.NoteBatches"}],
    }

    assert main(["fit", "--config", write_config({**bad_loss(6), **changes})]) == 1

    bad = torch.load(RUN / "bad_batch.pt", weights_only=True)
    images, labels = torch.load("batches.pt", weights_only=True)[5]
    assert torch.equal(bad["images"], images)
    assert torch.equal(bad["labels"], labels)
    assert bad["labels"].shape == (64, 10)
    assert torch.tensor(bad.pop("loss")).isnan()
    coordinates = {name: bad[name] for name in bad if name not in ("images", "labels")}
    assert coordinates == {"seed": 5, "epoch": 1, "batch": 1, "step": 6, "rank": 0}


def test_the_batch_can_be_replayed_as_the_readme_says(write_config):
    changes = {"data.init_args.mean": [0.3], "trainer.max_epochs": 3, **network("NormalisedNet", 7)}
    assert main(["fit", "--config", write_config(changes)]) == 1

    bad = torch.load(RUN / "bad_batch.pt", weights_only=True)
    last = RUN / "checkpoints" / "last.ckpt"
    module = ClassificationModule.load_from_checkpoint(last, trust=["own"]).train()
    loss = module.loss(module(bad["images"]), bad["labels"])

    assert loss.isfinite()  # the network was to blame
    module.network.batches = [module.network.seen + 1]
    assert module.loss(module(bad["images"]), bad["labels"]).isnan()


def test_a_loss_that_explodes_stops_the_run(write_config, capsys):
    assert main(["fit", "--config", write_config(bad_loss(3, factor=1e5))]) == 1

    assert "over 10,000 times the first, 2." in capsys.readouterr().err.splitlines()[0]


def test_a_loss_that_only_spikes_does_not(write_config, fit):
    fit("--config", write_config(bad_loss(3, factor=1e3)))

    assert not (RUN / "bad_batch.pt").exists()


def test_a_resumed_run_knows_its_first_loss(write_config, capsys):
    changes = {"trainer.max_epochs": 1, **bad_loss(1, factor=1e3)}
    assert main(["fit", "--config", write_config(changes)]) == 0

    first = last()["loss_watch"]["first_loss"]
    limits = [1e4 * value for value in (first, first / 1e3)]
    arguments = ["--trainer.max_epochs", "2", "--model.loss.init_args.factor", "1e6"]
    assert main(["fit", "--ckpt_path", str(RUN), *arguments]) == 0  # 2e6 is below 2e7

    assert limits[0] > 2e6 > limits[1]
    assert last()["loss_watch"]["first_loss"] == first


def test_every_loss_of_a_usual_training_is_allowed():
    watch = DivergenceDetector()

    assert all(watch.allows(loss) for loss in (0.0, 2.3, 9_999, -50, 1e-9))
    assert not any(watch.allows(loss) for loss in (10_001, float("nan"), float("inf")))


def test_a_gradient_that_overflows_in_the_last_step_spoils_no_checkpoint(write_config, capsys):
    changes = {"trainer.max_epochs": 3, **network("Root", 8)}
    # Without validation, whose loss would be NaN, and with every epoch the best.
    changes |= {"trainer.limit_val_batches": 0, "model.monitor": "train_accuracy"}

    assert main(["fit", "--config", write_config(changes)]) == 1

    printed = capsys.readouterr().err
    assert printed.startswith("error: the weights are no longer finite in epoch 2, step 8\n")
    assert all(value.isfinite().all() for value in last()["state_dict"].values())
    assert last()["global_step"] == 4


def test_a_checkpoint_within_an_epoch_is_not_spoilt_either(write_config):
    every = {
        "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
        "init_args": {"every_n_train_steps": 1, "dirpath": "own", "save_top_k": -1},
    }
    changes = {"trainer.callbacks": [every], **network("Root", 3)}

    assert main(["fit", "--config", write_config(changes)]) == 1

    assert sorted(path.name for path in Path("own").iterdir()) == [
        *("epoch=0-step=1.ckpt", "epoch=0-step=2.ckpt")
    ]


class Arrives:
    def synchronize(self):
        pass


@pytest.mark.parametrize(("bad", "steps"), [(6, 7), (8, 8)])
def test_a_loss_that_arrives_a_step_late_harms_no_checkpoint(
    write_config, capsys, monkeypatch, bad, steps
):
    # As on a GPU, where the loss of a step is looked at during the next one.
    monkeypatch.setattr(Step, "__post_init__", lambda step: setattr(step, "arrived", Arrives()))
    changes = {"trainer.callbacks": [{"class_path": "own.NoteBatches"}], **bad_loss(bad)}

    assert main(["fit", "--config", write_config(changes)]) == 1

    assert f"train_loss is nan in epoch 2, step {bad}\n" in capsys.readouterr().err
    assert last()["global_step"] == 4
    batches = torch.load("batches.pt", weights_only=True)
    assert len(batches) == steps
    kept = torch.load(RUN / "bad_batch.pt", weights_only=True)["images"]
    assert torch.equal(kept, batches[bad - 1][0])


@pytest.mark.gpu
@pytest.mark.parametrize("bad", [6, 8])
def test_a_gpu_stops_too(write_config, capsys, bad):
    config = write_config(bad_loss(bad))

    assert main(["fit", "--config", config, "--trainer.accelerator", "gpu"]) == 1

    assert f"train_loss is nan in epoch 2, step {bad}\n" in capsys.readouterr().err
    assert last()["global_step"] == 4


def test_fast_dev_run_stops_too_and_keeps_nothing(write_config, capsys):
    config = write_config(bad_loss(1))

    assert main(["fit", "--config", config, "--trainer.fast_dev_run", "true"]) == 1

    assert "train_loss is nan in epoch 1, step 1" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_with_accumulation_the_step_is_named_to_which_the_batch_belongs(write_config, capsys):
    changes = {"trainer.accumulate_grad_batches": 2, **bad_loss(3)}

    assert main(["fit", "--config", write_config(changes)]) == 1

    assert "in epoch 1, step 2\n" in capsys.readouterr().err
    assert torch.load(RUN / "bad_batch.pt", weights_only=True)["batch"] == 2


# ---- skip ----


def test_a_skipped_step_leaves_weights_statistics_and_optimizer_as_they_were(write_config, fit):
    changes = {"trainer.max_epochs": 2, **network("NormalisedNet", 2, 7)}

    fit("--config", write_config({**SKIP, **changes}))

    steps = notes()
    assert moved(steps) == [True, False, True, True, True, True, False, True]
    assert all(value.isfinite().all() for step in steps for value in step.values())


def test_a_run_that_skips_is_one_that_never_saw_the_batch(write_config, fit):
    momentum = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    plain = {"model.optimizer": momentum, "trainer.max_epochs": 1}
    fit("--config", write_config({**SKIP, **plain, **bad_loss(4)}))
    skipped = notes()

    fit("--config", write_config({**SKIP, **plain, **bad_loss()}))

    assert equal(skipped[2], notes()[2])
    assert equal(skipped[3], notes()[2])


def test_skipped_steps_are_counted_and_reported(write_config, fit, capsys):
    fit("--config", write_config({**SKIP, **bad_loss(2, 3, 7)}))

    assert values("skipped_steps") == [2, 1]
    assert "warning: 3 of 8 steps were skipped" in capsys.readouterr().err
    assert torch.load(RUN / "bad_batch.pt", weights_only=True)["step"] == 7
    record = json.loads((RUN / "run.json").read_text())
    assert (record["state"], record["metrics"]["skipped_steps"]) == ("finished", 1)
    assert last()["loss_watch"]["skipped"] == 3


def test_the_training_metrics_are_those_of_the_other_steps(write_config, fit):
    fit("--config", write_config({**SKIP, **bad_loss(4), "trainer.max_epochs": 1}))
    three = {"trainer.limit_train_batches": 3, "trainer.max_epochs": 1}

    fit("--config", write_config({**SKIP, **bad_loss(), **three}, "three.yaml"))

    (expected,) = runs.read_metrics(Path("runs/three/version_0"))
    for name in ("train_loss", "train_accuracy", "val_loss"):
        assert values(name) == [float(expected[name])]


def test_a_loss_that_explodes_is_skipped_too(write_config, fit):
    fit("--config", write_config({**SKIP, **bad_loss(3, factor=1e6)}))

    assert moved(notes()) == [True, True, False, *[True] * 5]


def test_a_gradient_that_is_not_finite_is_skipped_too(write_config, fit):
    fit("--config", write_config({**SKIP, **network("Root", 3)}))

    assert moved(without_statistics(notes())) == [True, True, False, *[True] * 5]
    assert values("skipped_steps") == [1, 0]


@pytest.mark.parametrize("bad", [3, 4])
def test_with_accumulation_the_whole_step_is_skipped(write_config, fit, bad):
    changes = {"trainer.accumulate_grad_batches": 2, **bad_loss(bad)}

    fit("--config", write_config({**SKIP, **changes}))

    steps = without_statistics(notes())[1::2]
    assert moved(steps) == [True, False, True, True]
    assert values("skipped_steps") == [1, 0]


def test_bfloat16_skips(write_config, fit):
    fit("--config", write_config({**SKIP, **bad_loss(3), "trainer.precision": "bf16-mixed"}))

    assert moved(notes()) == [True, True, False, *[True] * 5]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_half_precision_with_its_scaler_skips(write_config, fit, accumulated):
    changes = {
        "trainer.plugins": [{"class_path": "own.half"}],
        "trainer.accumulate_grad_batches": accumulated,
        "trainer.limit_train_batches": 4 * accumulated,
    }

    fit("--config", write_config({**SKIP, **bad_loss(3 * accumulated), **changes}))

    steps = without_statistics(notes())[accumulated - 1 :: accumulated]
    assert moved(steps) == [True, True, False, *[True] * 5]


def test_what_the_scaler_of_half_precision_skips_is_its_own_affair(write_config, fit):
    plugin = {"class_path": "own.half", "init_args": {"initial_scale": 1e30}}

    fit("--config", write_config({**SKIP, **bad_loss(), "trainer.plugins": [plugin]}))

    assert values("skipped_steps") == [0, 0]


@pytest.mark.parametrize(("bad", "batches", "limit"), [(range(3, 99), 16, 10), (range(5, 9), 4, 4)])
def test_a_run_that_only_skips_stops(write_config, capsys, bad, batches, limit):
    changes = {"trainer.limit_train_batches": batches, **SKIP, **bad_loss(*bad)}

    assert main(["fit", "--config", write_config(changes)]) == 1

    assert f"error: {limit} steps in a row were skipped, the last in" in capsys.readouterr().err
    assert runs.read_record(RUN)["state"] == "failed"


def test_a_resumed_run_goes_on_counting(write_config, capsys):
    changes = {"trainer.max_epochs": 1, **SKIP, **bad_loss(2)}
    assert main(["fit", "--config", write_config(changes)]) == 0

    assert main([*GO_ON, "--trainer.max_epochs", "2"]) == 0

    assert "warning: 2 of 8 steps were skipped" in capsys.readouterr().err


# ---- several processes ----


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_bad_loss_of_one_rank_stops_all_and_is_told_once(write_config, rank):
    """7 s a rank on two cores."""
    run = classify("fit", "--config", write_config(bad_loss(6, rank=rank)), *TWO_RANKS)

    assert run.returncode == 1
    assert run.stderr.splitlines()[0] == "error: train_loss is nan in epoch 2, step 6"
    assert len(run.stderr.splitlines()) == 3
    assert runs.read_record(RUN)["state"] == "failed"
    kept = [torch.load(RUN / f"bad_batch{n}.pt", weights_only=True) for n in ("", "_rank_1")]
    assert [batch["rank"] for batch in kept] == [0, 1]
    assert not torch.equal(kept[0]["images"], kept[1]["images"])


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
def test_all_ranks_skip_the_step_of_which_one_has_a_bad_loss(write_config, accumulated):
    """7 s each on two cores."""
    changes = {"trainer.accumulate_grad_batches": accumulated}
    config = write_config({**SKIP, **bad_loss(4, rank=1), **changes})

    run = classify("fit", "--config", config, *TWO_RANKS)

    assert run.returncode == 0, run.stderr
    ranks = [without_statistics(notes(rank))[accumulated - 1 :: accumulated] for rank in range(2)]
    assert (
        moved(ranks[0])
        == {1: [True] * 3 + [False] + [True] * 4, 2: [True, False, True, True]}[accumulated]
    )
    assert all(equal(*steps) for steps in zip(*ranks, strict=True))
    assert values("skipped_steps") == [1, 0]


@pytest.mark.parametrize("extreme", [3.0, -7.0, float("inf"), -float("inf"), float("nan")])
def test_the_largest_value_is_found_whatever_its_sign_and_kind(extreme):
    tensors = [torch.randn(4, 3).clamp(-2, 2).to(torch.bfloat16), torch.zeros(2), torch.ones(())]
    tensors[1][1] = extreme

    assert str(float(max_abs(tensors))) == str(abs(extreme))
