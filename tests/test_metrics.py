"""What is measured: the values are torchmetrics', for a quarter of its operations."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCohenKappa,
    MulticlassF1Score,
)

from classifier.metrics import Accuracy, MacroF1, StageMetrics, evaluation_metrics

SYNCHRONISES = ("bincount", "nonzero", "item", "_local_scalar_dense", "unique", "masked_select")


class Operations(TorchDispatchMode):
    """The names of the operations that run within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def batches(classes: int, dtype: torch.dtype) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches in which logits tie, and some classes occur as label only, or not at all."""
    generator = torch.Generator().manual_seed(3)
    for number in (64, 64, 5):
        logits = torch.randn(number, classes, generator=generator).to(dtype).round(decimals=1)
        logits[:, classes // 2] = -9
        yield logits, torch.randint(0, classes - 1, (number,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [3, 10, 200])
def test_all_metrics_have_the_very_bits_of_torchmetrics(classes, dtype):
    ours = StageMetrics("val", evaluation_metrics(classes))
    settings = {"num_classes": classes, "validate_args": False}
    theirs = {
        "accuracy": MulticlassAccuracy(average="micro", **settings),
        "f1": MulticlassF1Score(average="macro", **settings),
    }
    if classes > 5:
        theirs["accuracy_top5"] = MulticlassAccuracy(top_k=5, average="micro", **settings)
    for logits, labels in batches(classes, dtype):
        ours(logits, torch.tensor(1.0), labels)
        for metric in theirs.values():
            metric.update(logits, labels)

    assert ours.keys() - {"loss"} == theirs.keys()
    for name, metric in theirs.items():
        assert ours[name].compute().equal(metric.compute()), name
        assert ours[name].higher_is_better == metric.higher_is_better


def test_what_two_ranks_have_counted_adds_up_to_the_whole():
    for make in (Accuracy, lambda: Accuracy(top_k=5), lambda: MacroF1(10)):
        whole, *ranks = (make() for _ in range(3))
        for number, batch in enumerate(batches(10, torch.float32)):
            whole.add(*batch)
            ranks[number % 2].add(*batch)
        ranks[0].merge_state(ranks[1])

        assert ranks[0].compute().equal(whole.compute())


def test_a_metric_that_is_reset_counts_anew():
    metric = MacroF1(10)
    first, second, _ = batches(10, torch.float32)
    metric.add(*first)
    expected = metric.compute()
    metric.add(*second)
    assert not metric.compute().equal(expected)
    metric.reset()
    metric.add(*first)

    assert metric.compute().equal(expected)


def test_metrics_of_torchmetrics_stand_beside_ours_and_mixed_labels_count_as_their_largest_share():
    metrics = StageMetrics("val", {**evaluation_metrics(3), "kappa": MulticlassCohenKappa(3)})
    logits, labels = torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 1])
    shares = 0.8 * torch.nn.functional.one_hot(labels, 3) + 0.1

    metrics(logits, torch.tensor(1.0), shares)

    assert metrics["accuracy"].compute() == 0.75
    assert metrics["kappa"].compute() == pytest.approx(0.636, abs=1e-3)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_batch_of_an_evaluation_takes_few_operations_and_waits_for_no_device(deterministic):
    metrics = StageMetrics("val", evaluation_metrics(10))
    logits, labels = next(batches(10, torch.float32))
    loss = torch.tensor(1.0)
    metrics(logits, loss, labels)
    torch.use_deterministic_algorithms(deterministic)
    try:
        with Operations() as operations:
            metrics(logits, loss, labels)
    finally:
        torch.use_deterministic_algorithms(False)

    assert len(operations.names) <= 22  # torchmetrics' take 85
    assert not set(SYNCHRONISES) & set(operations.names)
