"""What is measured in training and evaluation, and which way each metric is better."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

Mode = Literal["min", "max"]  # as torch and Lightning write which value of a metric is the best


class Mean(Metric):
    """The mean of a value over the images of all batches and ranks.

    torchmetrics' own mean and accuracy take 80 microseconds a batch, as long as the forward pass of
    a small network; those here take 15.

    Args:
        higher_is_better: Whether a large mean is good.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, higher_is_better: bool) -> None:
        # Of the object, where torchmetrics has one for the class, and lets nobody set it.
        self.__dict__["higher_is_better"] = higher_is_better
        # The cache would have to be told of what `add` adds.
        super().__init__(compute_with_cache=False)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int) -> None:
        """Adds the values of ``count`` images, by their sum."""
        self.total.add_(total)
        self.count.add_(count)

    def add(self, total: Tensor, count: int) -> None:
        """The same in a fifth of the time: torchmetrics needs its own ``update`` only once."""
        if self.update_called:
            Mean.update(self, total, count)
        else:
            self.update(total, count)

    def compute(self) -> Tensor:
        """The mean, NaN if a value was, or if there was none."""
        return self.total / self.count


class StageMetrics(nn.ModuleDict):
    """The metrics of a stage, by name: its ``loss``, and what compares logits with labels.

    Each is logged with the stage before its name, such as ``val_loss``. It is given logits
    ``(N, K)`` and labels ``(N,)``; a ``Mean`` is given the number of images that are right.
    """

    loss: Mean

    def __init__(self, stage: str, metrics: Mapping[str, Metric]) -> None:
        super().__init__({"loss": Mean(higher_is_better=False), **metrics})
        self.stage = stage

    def measure(self, logits: Tensor, loss: Tensor, labels: Tensor) -> None:
        """Adds a batch: logits ``(N, K)``, their mean loss, labels ``(N,)`` or mixed ``(N, K)``."""
        number = len(logits)
        self.loss.add(loss.detach() * number, number)
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        for name, metric in self._metrics():
            if isinstance(metric, Mean) and name != "loss":
                metric.add((logits.argmax(1) == classes).sum(), number)
            elif name != "loss":
                metric.update(logits, classes)

    def by_logged_name(self) -> dict[str, Metric]:
        """The metrics by the names under which they are logged."""
        return {f"{self.stage}_{name}": metric for name, metric in self._metrics()}

    def _metrics(self) -> Iterable[tuple[str, Metric]]:
        return cast(Iterable[tuple[str, Metric]], self.items())  # ModuleDict hides the types


def evaluation_metrics(num_classes: int) -> dict[str, Metric]:
    """Accuracy, macro F1 and, with more than five classes, top-5 accuracy, from torchmetrics."""
    # Its own checks of every batch would make the device wait; the labels come from our data sets.
    settings: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
    metrics: dict[str, Metric] = {
        "accuracy": MulticlassAccuracy(average="micro", **settings),
        "f1": MulticlassF1Score(average="macro", **settings),
    }
    if num_classes > 5:
        metrics["accuracy_top5"] = MulticlassAccuracy(top_k=5, average="micro", **settings)
    return metrics


def mode_of(metric: Metric) -> Mode | None:
    """Which way a metric is better, as it says itself; None if it does not."""
    if metric.higher_is_better is None:
        return None
    return "max" if metric.higher_is_better else "min"


def better(name: str, mode: Mode | None) -> str:
    """What a contradiction is told by: which value of a metric is the better one."""
    return f"{name} is the better the {'larger' if mode == 'max' else 'smaller'} it is"
