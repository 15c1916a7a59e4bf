"""Frozen parts stay bit for bit as they were, and are trained from their epoch on, also resumed."""

from collections import OrderedDict
from pathlib import Path

import pytest
import pytorch_lightning as pl
import storms
import torch
import yaml
from conftest import put
from pytorch_lightning.callbacks import Callback
from stops import STOPS
from torch import nn

from classifier.__main__ import main
from classifier.data import Digits
from classifier.module import ClassificationModule
from classifier.optimization.groups import Grouping, layer_scales
from classifier.parts import head_names

BASE = """\
save_every: {steps: 1}
trainer:
  max_epochs: 4
  limit_train_batches: 4
  limit_val_batches: 1
  callbacks: [{class_path: own.Looks}]
model:
  network: {class_path: classifier.networks.MNISTNet, init_args: {width: 2}}
  optimizer:
    class_path: torch.optim.SGD
    init_args: {lr: 0.1, momentum: 0.9, weight_decay: 0.1}
  groups:
    - {match: [features.0, features.2], freeze_epochs: 2}
    - {match: features.4, freeze: true}
data:
  class_path: classifier.data.Digits
  init_args: {batch_size: 16}
"""
OWN = """
import torch

from classifier.module import ClassificationModule


class Looks(Stops):
    "Keeps the tensors of each epoch's end, too."

    def on_train_start(self, trainer, pl_module):
        self.keep(trainer, pl_module, trainer.current_epoch)

    def on_train_epoch_end(self, trainer, pl_module):
        self.keep(trainer, pl_module, trainer.current_epoch + 1)

    def keep(self, trainer, pl_module, epoch):
        state = {name: value.clone() for name, value in pl_module.network.state_dict().items()}
        torch.save(state, f"epoch_{epoch}_{trainer.global_rank}.pt")


class ByHand(ClassificationModule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False


class OwnOptimizer(ClassificationModule):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""
RUN = "runs/frozen/version_0"


@pytest.fixture(autouse=True)
def own_module(write_module, default_sigterm):
    write_module(STOPS + OWN)


def write(**changes):
    config = yaml.safe_load(BASE)
    put(config, {key.replace("__", "."): value for key, value in changes.items()})
    Path("frozen.yaml").write_text(yaml.safe_dump(config))
    return ["fit", "--config", "frozen.yaml"]


def states(number=5):
    """All tensors of the network, at the start and after each epoch."""
    return [torch.load(f"epoch_{epoch}_0.pt", weights_only=True) for epoch in range(number)]


def same(before, after, prefix):
    """Whether the tensors whose names begin so have the same bits, which means that none moved."""
    found = {torch.equal(v, after[n]) for n, v in before.items() if n.startswith(prefix)}
    assert len(found) == 1, "some moved"
    return found.pop()


def last(name=RUN):
    return torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)


def stopped_and_resumed(step, *changes):
    Path("stop").write_text(str(step))
    assert main(["fit", "--config", "frozen.yaml"]) == 143
    assert main(["fit", "--ckpt_path", RUN, *changes]) == 0


def test_a_frozen_part_stays_bit_for_bit_until_its_epoch(capsys):
    """Neither decay nor momentum nor running statistics move it; nothing is left out afterwards."""
    assert main(write()) == 0

    start, first, second, third, end = states()
    for prefix in ("features.0.", "features.2."):
        assert same(start, second, prefix)
        assert not same(second, third, prefix)
        assert not same(third, end, prefix)
    assert same(start, end, "features.4.")
    assert not same(start, first, "features.6.weight")
    groups = last()["optimizer_states"][0]["param_groups"]
    assert [group["name"] for group in groups] == ["features.0+features.2", "rest"]
    state = last()["optimizer_states"][0]["state"]
    assert len(state) == sum(len(group["params"]) for group in groups)
    told = capsys.readouterr().out
    assert "parameters (2,754 of them trained, 2,776 from epoch 3 on)" in " ".join(told.split())


# A step in a frozen epoch, in the one that unfreezes, between the two, and after them.
KILLED = [3, 9, *(pytest.param(step, marks=pytest.mark.slow) for step in (8, 14))]


@pytest.mark.parametrize("step", KILLED)
def test_a_training_that_is_killed_goes_on_to_the_same_bits(step):
    calm = Path("calm")
    calm.mkdir()
    words = write()
    code = Path("own.py").read_text()
    (calm / "own.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(calm)
        assert main([*words[:2], "../frozen.yaml"]) == 0

    stopped_and_resumed(step)

    assert storms.differences(storms.facts(calm), storms.facts(Path())) == []


def test_what_was_unfrozen_is_trained_on_when_a_training_that_was_over_goes_on():
    """Where other programs freeze it again, or have it in no optimizer."""
    assert main(write(trainer__max_epochs=3)) == 0

    assert main(["fit", "--ckpt_path", RUN, "--trainer.max_epochs", "4"]) == 0

    *_, third, end = states()
    assert not same(third, end, "features.0.")
    assert not same(third, end, "features.2.")
    assert same(third, end, "features.4.")
    optimizer = last()["optimizer_states"][0]
    assert {*optimizer["state"]} == {n for g in optimizer["param_groups"] for n in g["params"]}


def test_new_numbers_keep_the_state_and_other_patterns_begin_with_a_fresh_one():
    write()
    Path("stop").write_text("9")
    assert main(["fit", "--config", "frozen.yaml"]) == 143
    before = last()["optimizer_states"][0]["state"]
    entries = yaml.safe_load(BASE)["model"]["groups"]
    entries[0] |= {"weight_decay": 0.25, "freeze_epochs": 3}

    Path("stop").write_text("10")
    assert main(["fit", "--ckpt_path", RUN, f"--model.groups={entries}"]) == 143

    groups = last()["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.25, 0.1]
    frozen = groups[0]["params"]
    for number, state in last()["optimizer_states"][0]["state"].items():
        same_momentum = torch.equal(state["momentum_buffer"], before[number]["momentum_buffer"])
        assert same_momentum == (number in frozen)  # frozen again, until epoch 4

    entries[0] = {"match": "features.0", "freeze_epochs": 3}
    Path("stop").write_text("11")
    assert main(["fit", "--ckpt_path", RUN, f"--model.groups={entries}"]) == 143

    optimizer = last()["optimizer_states"][0]
    assert [group["name"] for group in optimizer["param_groups"]] == ["features.0", "rest"]
    assert not set(optimizer["state"]) & set(optimizer["param_groups"][0]["params"])


# What the optimizer is given by its constructor, what a step does besides, and how it is computed.
WITH = {
    "adagrad": {
        "model__optimizer": {
            "class_path": "torch.optim.Adagrad",
            "init_args": {"lr": 0.01, "initial_accumulator_value": 0.7},
        }
    },
    "skipping, accumulation, bf16": {
        "model__skip_bad_steps": True,
        "model__channels_last": True,
        "trainer__accumulate_grad_batches": 2,
        "trainer__precision": "bf16-mixed",
        "trainer__max_epochs": 4,
    },
    "moving average": {
        "trainer__callbacks": [
            {"class_path": "own.Looks"},
            {
                "class_path": "pytorch_lightning.callbacks.EMAWeightAveraging",
                "init_args": {"decay": 0.5},
            },
        ],
    },
    "compiled": {"model__compile": True},
    "clipping, validation inside epochs": {
        "trainer__gradient_clip_val": 0.5,
        "trainer__val_check_interval": 2,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*TF32")
def test_freezing_is_the_same_whatever_else_a_step_does(name):
    assert main(write(**WITH[name])) == 0

    start, _, second, third, _ = states()
    assert same(start, second, "features.0.")
    assert not same(second, third, "features.0.")
    assert same(start, third, "features.4.")
    if name == "adagrad":
        sums = [s["sum"] for s in last()["optimizer_states"][0]["state"].values()]
        assert all(bool((value >= 0.7).all()) for value in sums)


@pytest.mark.parametrize("kind", ["ByHand", "OwnOptimizer"])
def test_a_module_that_optimizes_in_its_own_way_is_refused(kind, capsys):
    words = write()

    assert main([*words, f"--model=own.{kind}"]) == 2

    assert "does not follow them" in capsys.readouterr().err
    assert "epoch 1/" not in capsys.readouterr().out


class Seen(Callback):
    """Notes what is trained, and which layers are in training mode, in each epoch."""

    def on_train_start(self, trainer, pl_module):
        self.trained, self.modes = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        network = pl_module.network
        self.trained.append({n for n, p in network.named_parameters() if p.requires_grad})
        self.modes.append({n for n, m in network.named_children() if m.training})


@pytest.mark.filterwarnings("ignore:.*in eval mode")
def test_each_training_of_a_module_freezes_and_leaves_what_the_network_itself_has_set():
    layers = {
        "stem": nn.Conv2d(1, 2, 3),
        "norm": nn.BatchNorm2d(2),
        "own": nn.BatchNorm2d(2).eval().requires_grad_(False),
        "without": nn.BatchNorm2d(2, track_running_stats=False),
        "dropout": nn.Dropout(),
        "flat": nn.Flatten(),
    }
    network = nn.Sequential(OrderedDict(layers, head=nn.Linear(72, 10)))
    groups = [{"match": "backbone", "freeze_epochs": 1}]
    module = ClassificationModule(network, list("0123456789"), groups=groups)
    seen = Seen()
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")

    for _ in range(2):
        limits = {"max_epochs": 2, "limit_train_batches": 1, "limit_val_batches": 1}
        settings = {**limits, **dict.fromkeys(quiet, False), "accelerator": "cpu"}
        trainer = pl.Trainer(callbacks=[seen], **settings)
        trainer.fit(module, datamodule=Digits(batch_size=16))

        head, every = {"head.weight", "head.bias"}, {n for n, _ in network.named_parameters()}
        assert seen.trained == [head, every - {"own.weight", "own.bias"}]
        tracked = {"norm", "own", "without"}
        assert seen.modes == [{*layers, "head"} - tracked, {*layers, "head"} - {"own"}]

    assert module.trained_from() == [(0, 730), (1, 758)]


# ---- which parameters ----


class Body(nn.Module):
    def __init__(self, **layers):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3)
        for name, layer in layers.items():
            setattr(self, name, layer)


def test_the_head_is_what_the_network_says_it_is():
    linear = nn.Linear(2, 2)

    assert head_names(Body(head=linear)) == ("head",)
    assert head_names(Body(fc=linear)) == ("fc",)
    assert head_names(Body(heads=nn.Sequential(nn.ReLU(), linear))) == ("heads.1",)
    assert head_names(nn.Linear(2, 2)) == ("",)
    told = Body(out=linear, other=nn.Linear(2, 2))
    told.pretrained_cfg = {"classifier": ("out", "other")}
    assert head_names(told) == ("out", "other")
    told = Body(head=nn.Conv2d(2, 2, 1), fc=linear)  # selecsls
    told.pretrained_cfg = {"classifier": "fc"}
    assert head_names(told) == ("fc",)


def test_the_head_of_an_unknown_network_has_an_output_for_each_class():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits, self.stem = nn.Linear(8, 10), nn.Conv2d(1, 8, 3)

    assert head_names(Backwards(), 10) == ("logits",)
    assert head_names(Backwards()) == ("stem",)


def test_a_decay_for_norms_alone_is_kept_where_others_do_not_decay():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    entries = [{"match": "1", "weight_decay": 0.3}, {"match": "3", "weight_decay": 0.5}]

    grouping = Grouping(dict(network.named_parameters()), network, entries, {}, True)

    decays = {name: g.weight_decay for g in grouping.groups for name in g.parameters}
    norms = {"1.weight": 0.3, "1.bias": 0.3}
    assert decays == {"0.weight": None, "0.bias": 0.0, **norms, "3.weight": 0.5, "3.bias": 0.0}


def test_a_parameter_of_the_network_itself_is_of_its_backbone_and_one_of_the_loss_is_not():
    network = Body(head=nn.Linear(2, 2))
    network.token = nn.Parameter(torch.zeros(2))
    parameters = {**dict(network.named_parameters()), "loss.scale": nn.Parameter(torch.ones(1))}
    entries = [{"match": "backbone", "freeze_epochs": 1}]

    backbone, rest = Grouping(parameters, network, entries, {}, False).groups

    assert backbone.parameters == ["token", "stem.weight", "stem.bias"]
    assert rest.parameters == ["head.weight", "head.bias", "loss.scale"]


def test_the_first_that_matches_takes_a_parameter_and_spares_its_one_dimension():
    network = Body(head=nn.Linear(2, 2), norm=nn.BatchNorm2d(2))
    entries = [
        {"match": "*.bias", "lr_scale": 2.0},
        {"match": ["stem", "norm"], "weight_decay": 0.3, "freeze_epochs": 2},
        {"match": "head", "freeze": True},
    ]

    grouping = Grouping(dict(network.named_parameters()), network, entries, {}, True)

    facts = [(g.name, g.parameters, g.lr_scale, g.weight_decay) for g in grouping.groups]
    assert facts == [
        ("*.bias no decay", ["stem.bias", "head.bias", "norm.bias"], 2.0, 0.0),
        ("stem+norm", ["stem.weight"], 1.0, 0.3),
        ("stem+norm no decay", ["norm.weight"], 1.0, 0.0),
        ("head", ["head.weight"], 1.0, None),
    ]
    assert grouping.norms == {"norm": 2}


def test_layers_of_a_network_of_timm_learn_ever_more_slowly():
    words = write(
        model__network={
            "class_path": "timm.create_model",
            "init_args": {"model_name": "test_vit"},
            "dict_kwargs": {"img_size": 8, "patch_size": 4},
        },
        model__layer_decay=0.5,
        model__no_decay_norm_bias=True,
        model__groups=[{"match": "head", "lr_scale": 4}],
        trainer__max_epochs=1,
    )

    assert main(words) == 0

    groups = last()["optimizer_states"][0]["param_groups"]
    blocks = 6
    assert [group["name"] for group in groups if "decay" not in group["name"]] == [
        f"head layer {blocks + 1}",
        *(f"rest layer {number}" for number in range(blocks + 1)),
    ]


def test_the_rate_of_a_layer_is_a_part_of_that_behind_it():
    import timm

    network = timm.create_model("test_vit", img_size=8, patch_size=4, num_classes=10)
    scales = layer_scales(network, 0.5)
    parameters = dict(network.named_parameters())
    entries = [{"match": "head", "lr_scale": 4.0}]

    groups = Grouping(parameters, network, entries, scales, False).groups

    layers = {name.partition(".norm1")[0]: scales[name] for name in scales if "norm1.bias" in name}
    assert list(layers.values()) == [0.5 ** (len(layers) - n) for n in range(len(layers))]
    assert (scales["head.weight"], groups[0].lr_scale) == (1.0, 4.0)
    assert {g.lr_scale for g in groups[1:]} == {*scales.values()} - {1.0}
