"""Classes with few images: weights of the training loss, and a sampler that draws all alike."""

import json
from collections import Counter
from pathlib import Path

import pytest
import storms
import torch
import yaml
from PIL import Image
from torch import nn

from classifier import runs
from classifier.__main__ import main
from classifier.class_weights import WeightedLoss
from classifier.data import Digits
from classifier.data.sets import EPOCHS, EpochSampler, MemorySet

NAMES = [*"abcd"]
COUNTS = torch.tensor([60, 30, 8, 2])


def labels_of(counts):
    return torch.arange(len(counts)).repeat_interleave(counts)


# ---- the loss ----


def gradient(batches, network, loss, weights, labels, shares=None):
    """That of a step that accumulates batches, on data with unequal classes."""
    images = torch.linspace(-1, 1, 100 * 5, dtype=torch.double).view(100, 5).sin()
    weighted = WeightedLoss("balanced", loss, NAMES)
    network.weight.grad = None
    for batch in batches:
        target = labels[batch] if shares is None else shares[batch]
        value = weighted(loss, weights, network(images[batch]), target)
        (value / len(batches)).backward()
    return network.weight.grad.clone()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_gradient_depends_on_neither_batch_size_nor_accumulation(smoothing, mixed):
    generator = torch.Generator().manual_seed(0)
    network = nn.Linear(5, 4, bias=False).double()
    labels = labels_of(COUNTS)[torch.randperm(100, generator=generator)]
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    weights = WeightedLoss("balanced", loss, NAMES).numbers(COUNTS)
    shares = None
    if mixed:
        one_hot = nn.functional.one_hot(labels, 4).double()
        shares = 0.7 * one_hot + 0.3 * one_hot.roll(1, 0)

    whole, *parts = (
        gradient(torch.arange(100).split(size), network, loss, weights, labels, shares)
        for size in (100, 50, 20, 10, 1)
    )

    for part in parts:
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-15)
    if not (mixed or smoothing):  # as cross-entropy itself weighs the whole set
        logits = network(torch.linspace(-1, 1, 500, dtype=torch.double).view(100, 5).sin())
        own = nn.functional.cross_entropy(logits, labels, weights)
        (expected,) = torch.autograd.grad(own, network.weight)
        torch.testing.assert_close(whole, expected, rtol=1e-12, atol=1e-15)


def test_the_weights_have_the_mean_1_over_the_training_images():
    loss = nn.CrossEntropyLoss()

    balanced = WeightedLoss("balanced", loss, NAMES).numbers(COUNTS)
    given = WeightedLoss({"b": 3, "d": 0}, loss, NAMES).numbers(COUNTS)

    assert (balanced * COUNTS).tolist() == pytest.approx([25, 25, 25, 25])
    assert (given / given[0]).tolist() == pytest.approx([1, 3, 1, 0])
    assert (given * COUNTS).sum().item() == pytest.approx(100)
    absent = WeightedLoss("balanced", loss, NAMES).numbers(torch.tensor([50, 0, 50, 0]))
    assert absent.tolist() == [1, 1, 1, 1]


def test_a_loss_that_takes_no_shares_is_given_classes_and_this_is_said():
    class Focal(nn.Module):
        def __init__(self, weight=None):
            super().__init__()
            self.inner = nn.NLLLoss(weight)

        def forward(self, logits, labels):
            return self.inner(logits.log_softmax(1), labels)

    weighted = WeightedLoss({"a": 2}, Focal(), NAMES)

    assert weighted.place == "inner.weight"
    assert not weighted.takes_shares
    assert any("divides by the weights of each batch" in note for note in weighted.notes())


def test_a_loss_that_sums_divides_by_nothing_and_nothing_is_said():
    weighted = WeightedLoss("balanced", nn.CrossEntropyLoss(reduction="sum"), NAMES)

    assert weighted.notes() == []


def test_classes_that_are_called_as_numbers_are_written_keep_their_names(write_config, fit):
    weights = {"1e3": 4, "no": 2, "01": 3, "1": 1}
    for name in weights:
        folder = Path("photos", name)
        folder.mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), 20 * number).save(folder / f"{number}.png")
    settings = {"root": "photos", "image_size": 8, "num_workers": 0, "batch_size": 8}
    data = {"class_path": "classifier.data.ImageFolder", "init_args": settings}

    given = f"--model.class_weights={json.dumps(weights)}"
    folder = fit("--config", write_config({"data": data}), given)

    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["model"]["class_weights"] == weights
    assert fit("--config", str(folder / "config.yaml"))
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs=3"]) == 0
    assert main(["test", "--ckpt_path", str(folder)]) == 0
    assert main(["predict", "--ckpt_path", str(folder), "--images", "photos/no"]) == 0


def test_only_the_loss_of_the_training_is_weighted(write_config, fit, capsys):
    still = {"model.optimizer.init_args.lr": 0.0, "trainer.max_epochs": 1}
    mix = {"class_path": "torchvision.transforms.v2.MixUp"}
    plain = fit("--config", write_config(still))
    capsys.readouterr()
    weighted = fit("--config", write_config({**still, "model.class_weights": {"0": 9, "8": 0}}))
    printed = capsys.readouterr()
    mixed = {**still, "model.class_weights": "balanced", "data.init_args.mix": mix}
    fit("--config", write_config(mixed))

    before, after = (runs.read_metrics(folder)[0] for folder in (plain, weighted))
    assert before["val_loss"] == after["val_loss"]
    assert before["train_loss"] != after["train_loss"]
    assert before["train_accuracy"] == after["train_accuracy"]
    assert "CrossEntropyLoss, in training weighted by class: 0 (5." in printed.out
    assert "names 2 of 10 classes; the weight of the other 8 is 1" in " ".join(printed.err.split())


# ---- the sampler ----


def sampler_of(counts, **settings):
    labels = labels_of(counts)
    images = MemorySet(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)
    return EpochSampler(images, True, seed=3, balanced=True, **settings)


def test_each_class_is_drawn_equally_often_and_all_its_images_before_one_again():
    sampler, number = sampler_of(COUNTS), int(COUNTS.sum())
    labels = labels_of(COUNTS)

    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append(sampler.keys())

    for epoch, keys in enumerate(epochs):
        indices = keys % number
        assert labels[indices].bincount().tolist() == [25, 25, 25, 25]
        for label in range(4):
            drawn = Counter(indices[labels[indices] == label].tolist())
            images = set((labels == label).nonzero()[:, 0].tolist())
            assert max(drawn.values()) - min((drawn[i] for i in images), default=0) <= 1
        assert len(set(keys.tolist())) == number  # so that each comes augmented in another way
        again = (keys - epoch * number) // (EPOCHS * number)
        assert again.max() == 12  # of the rarest class, two images in 25 places
    assert not epochs[0].equal(epochs[1] - number)
    sampler.set_epoch(0)
    assert sampler.keys().equal(epochs[0])
    sampler.start = 40
    assert sampler.keys().equal(epochs[0][40:])


def test_places_that_cannot_be_shared_go_to_other_classes_each_epoch():
    sampler = sampler_of(torch.tensor([7, 2, 0, 2]))
    labels = labels_of(torch.tensor([7, 2, 0, 2]))
    found = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        found.add(tuple(labels[sampler.keys() % 11].bincount(minlength=4).tolist()))

    assert found == {(3, 4, 0, 4), (4, 3, 0, 4), (4, 4, 0, 3)}


def test_two_ranks_share_an_epoch():
    whole = sampler_of(COUNTS).keys()
    ranks = [sampler_of(COUNTS, num_replicas=2, rank=rank).keys() for rank in (0, 1)]

    assert torch.stack(ranks, 1).flatten().equal(whole)


# ---- all together ----

ALL = {
    "model.metrics": {
        "auroc": {"class_path": "torchmetrics.AUROC"},
        "kappa": {"class_path": "torchmetrics.classification.MulticlassCohenKappa"},
    },
    "model.monitor": "val_kappa",
    "model.class_weights": {"1": 3},
    "model.moving_average": 0.9,
    "data.init_args.sampler": "balanced",
    "trainer.val_check_interval": 2,
}


def test_a_training_that_is_stopped_inside_an_epoch_ends_with_the_same_bits(
    write_config, own_folder, monkeypatch, capsys
):
    for name, words in (("calm", []), ("stopped", ["--trainer.max_steps=5"])):
        (own_folder / name).mkdir()
        monkeypatch.chdir(own_folder / name)
        assert main(["fit", "--config", write_config(ALL), *words]) == 0
    assert "both make up for classes with few images" in " ".join(capsys.readouterr().err.split())
    goes_on = ["fit", "--ckpt_path", "runs/tiny/version_0", "--trainer.max_steps=-1"]
    assert main(goes_on) == 0

    calm, stopped = (storms.facts(own_folder / name) for name in ("calm", "stopped"))
    assert storms.differences(calm, stopped) == []


MISTAKES = {
    "unknown class": (["--model.class_weights={0: 2, 1: 3, x1: 2}"], ["no class 'x1'", "'1'"]),
    "no class": (["--model.class_weights={}"], ["class_weights", "no class", "leave it out"]),
    "name of a number": (["--model.class_weights={01: 3}"], ["name 01 as 1", "quotes, '01'"]),
    "name of a truth value": (["--model.class_weights={no: 3}"], ["name no as False", "'no'"]),
    "negative weight": (["--model.class_weights={'0': -1}"], ["class_weights", "'0'", "-1"]),
    "not balanced": (["--model.class_weights=balance"], ["model.class_weights", "balanced"]),
    "no image counts": (
        [f"--model.class_weights={ {str(k): 0 for k in range(10)} }"],
        ["class_weights", "no training image"],
    ),
    "loss without weights": (
        ["--model.class_weights=balanced", "--model.loss=timm.loss.SoftTargetCrossEntropy"],
        ["class_weights", "SoftTargetCrossEntropy", "no argument 'weight'", "data.sampler"],
    ),
    "loss with its own": (
        [
            *("--model.class_weights=balanced", "--model.loss=torch.nn.CrossEntropyLoss"),
            f"--model.loss.weight={[1] * 10}",
        ],
        ["class_weights", "model.loss", "leave one out"],
    ),
    "another sampler": (["--data.sampler=weighted"], ["data.init_args.sampler", "balanced"]),
    "sampler on the same images": (
        ["--data.sampler=balanced", "--trainer.overfit_batches=2"],
        ["data.sampler", "overfit_batches"],
    ),
}


@pytest.mark.parametrize(("options", "words"), MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_balanced_is_answered_before_training(options, words, write_config, capsys):
    assert main(["fit", "--config", write_config(), *options]) == 2

    printed = capsys.readouterr()
    assert "epoch 1/" not in printed.out
    errors = [line for line in printed.err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1
    assert [word for word in words if word not in errors[0]] == []


UNWEIGHTED = """
from classifier.module import ClassificationModule


class Unweighted(ClassificationModule):
    def training_step(self, batch, batch_idx):
        images, labels = batch
        return self.loss(self(images), labels)


class Weighted(Unweighted):
    def training_step(self, batch, batch_idx):
        return 2 * self.step(batch, "train")
"""


def test_a_training_step_that_leaves_the_weights_out_is_refused(write_module, write_config, capsys):
    write_module(UNWEIGHTED)
    words = ["fit", "--config", write_config(), "--model.class_weights", "balanced"]

    assert main([*words, "--model", "own.Weighted"]) == 0
    assert main([*words, "--model", "own.Unweighted"]) == 2

    told = capsys.readouterr().err
    assert "the loss of Unweighted.training_step is without them" in told


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("BCEWithLogitsLoss", "BCEWithLogitsLoss does not take logits and classes, as of 10"),
        ("CrossEntropyLoss(reduction=none)", "gives a number for each image, expected their mean"),
    ],
)
def test_a_loss_that_cannot_be_validated_is_refused_before_training(
    loss, message, write_config, capsys
):
    name, _, reduction = loss.rstrip(")").partition("(reduction=")
    spec = {"class_path": f"torch.nn.{name}"}
    spec |= {"init_args": {"reduction": reduction}} if reduction else {}

    assert main(["fit", "--config", write_config({"model.loss": spec})]) == 2

    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_data_module_of_ones_own_can_count_its_classes():
    data = Digits()

    assert data.class_counts() is None
    data.setup("fit")
    assert data.class_counts().sum() == len(data.train_set)
