"""Learning rates: each step has that of a formula, by schedule, warm-up and group."""

import json
import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import put
from stops import STOPS
from torch import nn
from torch.optim import SGD, lr_scheduler

from classifier import runs
from classifier.__main__ import main
from classifier.data import Digits
from classifier.module import ClassificationModule
from classifier.optimization.groups import Grouping
from classifier.optimization.rates import Rates
from classifier.tune.candidate import Candidate

BASE = """\
trainer:
  max_epochs: 5
  limit_train_batches: 30
  limit_val_batches: 1
  accumulate_grad_batches: 3
  callbacks: [{class_path: own.Records}]
model:
  network: {class_path: classifier.networks.MNISTNet, init_args: {width: 2}}
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9}}
data:
  class_path: classifier.data.Digits
  init_args: {batch_size: 4}
"""
OWN = """
import json


class Records(Stops):
    "Writes the rates of each step, too."

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        name = f"rates_{trainer.global_rank}.jsonl"
        row = [trainer.global_step, [group["lr"] for group in optimizer.param_groups]]
        with open(name, "a") as file:
            file.write(json.dumps(row) + "\\n")
"""
SCHEDULES = "torch.optim.lr_scheduler."
STEPS = 50


@pytest.fixture(autouse=True)
def own_module(write_module, default_sigterm):
    write_module(STOPS + OWN)


def write(changes):
    config = yaml.safe_load(BASE)
    put(config, changes)
    Path("rates.yaml").write_text(yaml.safe_dump(config))
    return ["fit", "--config", "rates.yaml"]


def schedule(name, **settings):
    return {"model.lr_scheduler": {"class_path": SCHEDULES + name, "init_args": settings}}


def recorded(rank=0):
    """The rates of each group, by step; a step that was taken twice has the same ones."""
    rows = [json.loads(line) for line in Path(f"rates_{rank}.jsonl").read_text().splitlines()]
    rates = dict(rows)
    assert all(rates[step] == row for step, row in rows)
    assert list(rates) == list(range(len(rates)))
    return list(rates.values())


def by_torch(kind, by_step, steps=STEPS, steps_per_epoch=10, **settings):
    """The rates of a schedule alone, as torch computes them."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    schedule = kind(optimizer, **settings)
    rates = []
    for step in range(1, steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if by_step or step % steps_per_epoch == 0:
            schedule.step()
    return rates


def rise(step, warmup):
    return min(1, (step + 1) / warmup)


FORMULAS = {
    "cosine by epoch": (
        schedule("CosineAnnealingLR"),
        lambda: [0.05 * (1 + math.cos(math.pi * (step // 10) / 5)) for step in range(STEPS)],
    ),
    "cosine by step": (
        {**schedule("CosineAnnealingLR"), "model.interval": "step"},
        lambda: [0.05 * (1 + math.cos(math.pi * step / 50)) for step in range(STEPS)],
    ),
    "polynomial": (
        schedule("PolynomialLR"),
        lambda: [0.1 * (1 - step // 10 / 5) for step in range(STEPS)],
    ),
    "one cycle": (
        schedule("OneCycleLR", max_lr=0.2),
        lambda: by_torch(lr_scheduler.OneCycleLR, True, max_lr=0.2, total_steps=50),
    ),
    "cyclic": (
        schedule("CyclicLR", base_lr=0.01, max_lr=0.2, step_size_up=7),
        lambda: by_torch(lr_scheduler.CyclicLR, True, base_lr=0.01, max_lr=0.2, step_size_up=7),
    ),
    "no schedule": ({}, lambda: [0.1] * STEPS),
}


QUICK = ("cosine by epoch", "one cycle")
MARKED = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FORMULAS]


@pytest.mark.parametrize("name", MARKED)
def test_each_step_has_the_rate_of_its_formula_also_after_a_kill_in_the_warm_up(name):
    changes, formula = FORMULAS[name]
    warmup, settings = (15, {"epochs": 1.5}) if "step" not in name else (13, {"steps": 13})
    Path("stop").write_text("6")

    assert main(write({**changes, "model.warmup": settings})) == 143
    assert main(["fit", "--ckpt_path", "runs/rates/version_0"]) == 0

    expected = [rate * rise(step, warmup) for step, rate in enumerate(formula())]
    assert [rate for (rate,) in recorded()] == pytest.approx(expected, rel=1e-9)
    rows = runs.read_metrics(Path("runs/rates/version_0"))
    assert [float(row["lr"]) for row in rows] == pytest.approx(expected[::10])


def test_steps_are_counted_where_the_accumulation_changes_and_where_steps_end_the_training():
    scheduled = {
        "class_path": "GradientAccumulationScheduler",
        "init_args": {"scheduling": {0: 1, 2: 4}},
    }
    changes = {
        **schedule("CosineAnnealingLR"),
        "model.interval": "step",
        "model.warmup": {"epochs": 2.5},
        "trainer.accumulate_grad_batches": 1,
        "trainer.limit_train_batches": 10,
        "trainer.callbacks": [{"class_path": "own.Records"}, scheduled],
    }

    assert main(write(changes)) == 0

    steps = 10 + 10 + 3 + 3 + 3
    expected = [0.05 * (1 + math.cos(math.pi * t / steps)) * rise(t, 22) for t in range(steps)]
    assert [rate for (rate,) in recorded()] == pytest.approx(expected)


ENDS = [
    ({"max_epochs": -1, "max_steps": 25}, 3),
    pytest.param({"max_epochs": 5, "max_steps": 12}, 2, marks=pytest.mark.slow),
    pytest.param({"max_epochs": 2, "max_time": "00:01:00:00"}, 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("trainer", "length"), ENDS)
def test_a_length_in_epochs_respects_what_ends_the_training(trainer, length):
    changes = {f"trainer.{name}": value for name, value in trainer.items()}

    assert main(write({**schedule("CosineAnnealingLR"), **changes})) == 0

    last = torch.load("runs/rates/version_0/checkpoints/last.ckpt", weights_only=True)
    assert last["classifier"]["schedule"] == {"interval": "epoch", "T_max": length}
    assert "T_max" not in Path("runs/rates/version_0/config.yaml").read_text()


def test_more_epochs_play_a_schedule_again_that_they_lengthen():
    long = write({**schedule("CosineAnnealingLR"), "trainer.max_epochs": 4})
    Path("stop").write_text("30")
    assert main(long) == 143
    expected = recorded()
    Path("rates_0.jsonl").unlink()
    assert main([*long, "--trainer.max_epochs", "2"]) == 0
    Path("rates_0.jsonl").unlink()

    resumed = ["fit", "--ckpt_path", "runs/rates/version_1", "--trainer.max_epochs", "4"]
    Path("stop").write_text("30")
    assert main(resumed) == 143

    rows = [json.loads(line) for line in Path("rates_0.jsonl").read_text().splitlines()]
    assert [rate for _, rate in rows] == [pytest.approx(rate) for rate in expected[20:]]


# ---- resumed under other settings ----

WHOLE = {
    "trainer.max_epochs": 3,
    "trainer.limit_train_batches": 1.0,
    "trainer.accumulate_grad_batches": 1,
    "data.init_args.batch_size": 64,  # 20 steps an epoch
}
BY_STEP = {"model.interval": "step"}
LARGE, SMALL = "--data.batch_size=256", "--data.batch_size=32"  # 5 steps and 40
COSINE, POLYNOMIAL = "CosineAnnealingLR", "PolynomialLR"


def resumed(*changes):
    """The rates of the steps since a run was resumed."""
    before = len(recorded())
    assert main(["fit", "--ckpt_path", "runs/rates/version_0", *changes]) == 0
    return [rate for (rate,) in recorded()[before:]]


def ends_at_zero():
    last = torch.load("runs/rates/version_0/checkpoints/last.ckpt", weights_only=True)
    return last["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


# A schedule, what changes, and how many steps an epoch has then.
OTHER_STEPS = {
    "cosine, larger batches": (COSINE, "T_max", LARGE, 5),
    "cosine, accumulated": (COSINE, "T_max", "--trainer.accumulate_grad_batches=4", 5),
    "polynomial, smaller batches": (POLYNOMIAL, "total_iters", SMALL, 40),
}


@pytest.mark.parametrize(
    ("name", "length", "change", "steps"), OTHER_STEPS.values(), ids=OTHER_STEPS
)
def test_a_schedule_by_step_is_where_the_training_is_when_epochs_have_other_steps(
    name, length, change, steps
):
    assert main(write({**WHOLE, **BY_STEP, **schedule(name)})) == 0

    rates = resumed(change, "--trainer.max_epochs=6")

    whole = by_torch(getattr(lr_scheduler, name), True, steps=6 * steps, **{length: 6 * steps})
    assert rates == pytest.approx(whole[3 * steps :])
    assert rates[0] == pytest.approx(0.05)
    assert ends_at_zero()


def test_one_cycle_ends_with_the_training_when_epochs_have_other_steps():
    assert main(write({**WHOLE, **schedule("OneCycleLR", max_lr=0.2)})) == 0

    rates = resumed(LARGE, "--trainer.max_epochs=6")

    cycle = by_torch(lr_scheduler.OneCycleLR, True, steps=30, max_lr=0.2, total_steps=30)
    assert rates == pytest.approx(cycle[15:])


def test_one_cycle_ends_with_the_training_when_an_epoch_begins_again():
    Path("stop").write_text("26")
    assert main(write({**WHOLE, **schedule("OneCycleLR", max_lr=0.2)})) == 143

    rates = resumed("--seed_everything=5")

    cycle = by_torch(lr_scheduler.OneCycleLR, True, steps=60, max_lr=0.2, total_steps=60)
    assert rates == pytest.approx(cycle[20:])


# When a ModelCheckpoint saves the end of an epoch, which Lightning counts in three ways.
SAVED = [
    {"save_on_train_epoch_end": True},
    pytest.param({"save_on_train_epoch_end": False}, marks=pytest.mark.slow),
    pytest.param({"every_n_train_steps": 7, "monitor": None}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("settings", SAVED)
def test_a_schedule_by_step_goes_on_after_any_checkpoint_of_lightnings(settings):
    saved = {"dirpath": "mine", "save_top_k": -1, "monitor": "val_loss", **settings}
    own = [{"class_path": "own.Records"}, {"class_path": "ModelCheckpoint", "init_args": saved}]
    changes = {**WHOLE, **BY_STEP, **schedule(COSINE), "trainer.callbacks": own}
    assert main(write({**changes, "trainer.accumulate_grad_batches": 3})) == 0  # 7 steps
    first, *_ = sorted(Path("mine").iterdir())
    Path("rates_0.jsonl").unlink()

    assert main(["fit", "--ckpt_path", str(first), "--model.optimizer.lr=0.2"]) == 0

    rates = [rate for _, (rate,) in map(json.loads, Path("rates_0.jsonl").read_text().splitlines())]
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * t / 21)) for t in range(7, 21)])


@pytest.mark.parametrize(("interval", "place"), [("step", 20 / 40), ("epoch", 4 / 8)])
def test_a_schedule_ends_with_the_steps_that_end_the_training(interval, place):
    """20 steps of 64 images are left of 40 when batches of 256 have 5 an epoch: 4 epochs of 8."""
    limits = {"trainer.max_epochs": -1, "trainer.max_steps": 20, "model.interval": interval}
    assert main(write({**WHOLE, **schedule(COSINE), **limits})) == 0

    rates = resumed(LARGE, "--trainer.max_steps=40")

    assert rates[0] == pytest.approx(0.05 * (1 + math.cos(math.pi * place)))
    assert ends_at_zero()


@pytest.mark.parametrize("former", [{}, schedule("StepLR", step_size=2)], ids=["none", "other"])
def test_a_schedule_that_is_new_ends_with_the_training(former):
    assert main(write({**WHOLE, **former})) == 0

    rates = resumed("--trainer.max_epochs=6", f"--model.lr_scheduler={SCHEDULES}{COSINE}")

    assert rates[::20] == pytest.approx([0.05 * (1 + math.cos(math.pi * e / 6)) for e in (3, 4, 5)])
    assert ends_at_zero()


def test_a_warm_up_of_epochs_goes_on_where_the_training_is_when_epochs_have_other_steps():
    Path("stop").write_text("40")
    assert main(write({**WHOLE, "model.warmup": {"epochs": 3}})) == 143

    rates = resumed(LARGE)

    assert rates == pytest.approx([0.1 * rise(step, 15) for step in range(10, 15)])
    rows = runs.read_metrics(Path("runs/rates/version_0"))
    expected = [0.1 * rise(step, warmup) for step, warmup in ((0, 60), (20, 60), (10, 15))]
    assert [float(row["lr"]) for row in rows] == pytest.approx(expected)


DERIVED = """
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, OneCycleLR


class Cosine(CosineAnnealingLR):
    def __init__(self, optimizer, T_max: int, floor: float = 0.01):
        super().__init__(optimizer, T_max, floor)


class Cycle(OneCycleLR):
    def __init__(self, optimizer, **settings):
        super().__init__(optimizer, max_lr=0.2, **settings)


class Waves(CyclicLR):
    def __init__(self, optimizer):
        super().__init__(optimizer, 0.01, 0.2, step_size_up=7)


class Fixed(CosineAnnealingLR):
    def __init__(self, optimizer, half: int = 10):
        super().__init__(optimizer, 2 * half)
"""
OF_DERIVED = {
    "Cosine": (lr_scheduler.CosineAnnealingLR, False, {"T_max": 5, "eta_min": 0.01}),
    "Cycle": (lr_scheduler.OneCycleLR, True, {"max_lr": 0.2, "total_steps": 50}),
    "Waves": (lr_scheduler.CyclicLR, True, {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 7}),
    "Fixed": (lr_scheduler.CosineAnnealingLR, False, {"T_max": 20}),
}


@pytest.mark.parametrize("name", OF_DERIVED)
def test_a_schedule_of_ones_own_goes_on_and_has_its_length_as_what_it_is_derived_from(name):
    Path("own.py").write_text(STOPS + OWN + DERIVED)
    kind, by_step, settings = OF_DERIVED[name]

    assert main(write({"model.lr_scheduler": {"class_path": f"own.{name}"}})) == 0

    expected = by_torch(kind, by_step, **settings)
    assert [rate for (rate,) in recorded()] == pytest.approx(expected)
    assert "T_max" not in Path("runs/rates/version_0/config.yaml").read_text()
    ClassificationModule.load_from_checkpoint("runs/rates/version_0")


def test_what_nobody_wrote_is_not_filled_into_a_run_of_before():
    """Saved configs of earlier versions hold PolynomialLR's own default."""
    assert main(write(schedule("PolynomialLR", total_iters=5, power=2.0))) == 0

    last = torch.load("runs/rates/version_0/checkpoints/last.ckpt", weights_only=True)
    assert last["classifier"]["schedule"] == {"interval": "epoch"}


# Lightning's own loading calls what jsonargparse 5 will remove; Python shows that to tests only.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "length"), [("CosineAnnealingLR", "T_max"), ("PolynomialLR", "total_iters")]
)
def test_a_loaded_module_has_a_schedule_of_the_length_of_its_next_training(name, length):
    assert main(write({**schedule(name), "trainer.max_epochs": 1})) == 0

    module = ClassificationModule.load_from_checkpoint("runs/rates/version_0")
    trainer = pl.Trainer(
        max_epochs=3,
        limit_train_batches=1,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, Digits())

    assert getattr(module.lr_schedulers(), length) == 3
    assert length not in module.hparams.lr_scheduler["init_args"]


def test_tune_and_a_try_of_a_batch_take_settings_that_are_longer_than_they_are(capsys):
    long = {"model.warmup": {"epochs": 2}, "trainer.callbacks": []}
    frozen = {"model.groups": [{"match": "backbone", "freeze_epochs": 2}]}
    words = write({**schedule("CosineAnnealingLR"), **long, **frozen})

    assert len(Candidate(words[1:]).losses(2)) == 2
    assert main([*words, "--trainer.fast_dev_run=true"]) == 0


# ---- groups ----

GROUPED = {"model.groups": [{"match": "head", "lr_scale": 10}, {"match": "features.0"}]}


def test_groups_keep_their_ratio_and_warm_up_again_when_they_are_unfrozen():
    groups = [{"match": "head", "lr_scale": 10}, {"match": "features.0", "freeze_epochs": 2}]
    warmup = {"model.warmup": {"epochs": 1}, "model.groups": groups}
    Path("stop").write_text("24")  # in the second warm-up

    assert main(write({**schedule("CosineAnnealingLR"), **warmup})) == 143
    assert main(["fit", "--ckpt_path", "runs/rates/version_0"]) == 0

    cosine = [0.05 * (1 + math.cos(math.pi * (step // 10) / 5)) for step in range(STEPS)]
    for step, (head, frozen, rest) in enumerate(recorded()):
        assert rest == pytest.approx(cosine[step] * rise(step, 10))
        assert head == pytest.approx(10 * rest)
        later = cosine[step] * rise(step - 20, 10) if step >= 20 else 0
        assert frozen == pytest.approx(later)


def test_monitors_show_true_rates_under_names(fit):
    changes = {
        "model.groups": [{"match": "head", "lr_scale": 10}, {"match": "*", "freeze_epochs": 1}],
        "model.warmup": {"steps": 4},
        "model.no_decay_norm_bias": True,
        "trainer.callbacks": [{"class_path": "LearningRateMonitor"}],
        "trainer.logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}},
        "trainer.log_every_n_steps": 1,
        "trainer.max_epochs": 2,
    }

    fit(*write(changes)[1:])

    (log,) = Path("logs").rglob("metrics.csv")
    names, *rows = [line.split(",") for line in log.read_text().splitlines()]
    columns = {name: [row[names.index(name)] for row in rows] for name in names}
    head = [float(rate) for rate in columns["lr-SGD/head no decay"] if rate]
    later = [float(rate) for rate in columns["lr-SGD/*"] if rate]
    first = [0, *(batch // 3 for batch in range(30))]  # when the epoch and each batch begins
    times = [*first, *(10 + step for step in first)]
    assert head == pytest.approx([rise(step, 4) for step in times])
    assert later == pytest.approx([0.0] * 31 + [0.1 * rise(step, 4) for step in first])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)


SETTINGS = {
    "ConstantLR": {},
    "CosineAnnealingLR": {"T_max": 9, "eta_min": 0.01},
    "CosineAnnealingWarmRestarts": {"T_0": 4, "eta_min": 0.01},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.3, "step_size_up": 5},
    "ExponentialLR": {"gamma": 0.9},
    "LambdaLR": {"lr_lambda": lambda epoch: 0.9**epoch},
    "LinearLR": {},
    "MultiStepLR": {"milestones": [2, 5]},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 0.95},
    "OneCycleLR": {"max_lr": 0.3, "total_steps": 40},
    "PolynomialLR": {"total_iters": 20},
    "ReduceLROnPlateau": {"patience": 1, "min_lr": 0.02},
    "StepLR": {"step_size": 3},
    "SWALR": {"swa_lr": 0.05},
}
OF_SEVERAL = {"ChainedScheduler", "SequentialLR", "LRScheduler"}


def test_all_schedules_of_torch_are_tried():
    kinds = {name for name in dir(lr_scheduler) if name.endswith(("LR", "Restarts", "Scheduler"))}
    found = {name for name in kinds if isinstance(getattr(lr_scheduler, name), type)}

    assert {*found, "ReduceLROnPlateau"} - {"_LRScheduler"} - OF_SEVERAL == {*SETTINGS} - {"SWALR"}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_ratio_between_groups_holds_at_every_step_of_a_schedule(name):
    network = Net()
    entries = [{"match": "head", "lr_scale": 10.0}]
    parameters = dict(network.named_parameters())
    grouping = Grouping(parameters, network, entries, {}, False)
    groups = [{"params": [parameters[n] for n in g.parameters]} for g in grouping.trained]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    steps = iter(range(40))
    rates = Rates(optimizer, [g.lr_scale for g in grouping.trained], 5, lambda: next(steps))
    seen = []
    optimizer.register_step_pre_hook(
        lambda *_: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    kind = torch.optim.swa_utils.SWALR if name == "SWALR" else getattr(lr_scheduler, name)
    schedule = kind(optimizer, **SETTINGS[name])
    alone = SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    other = kind(alone, **SETTINGS[name])

    for step in range(40):
        expected = alone.param_groups[0]["lr"] * rise(step, 5)
        alone.step()
        optimizer.step()
        assert seen[-1] == pytest.approx([10 * expected, expected])
        for part in (schedule, other):
            part.step(1.0) if name == "ReduceLROnPlateau" else part.step()
    assert rates.begins == [0.0, 0.0]
