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
