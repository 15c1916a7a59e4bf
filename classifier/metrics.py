"""What is measured in training and evaluation, and which way each metric is better."""

import warnings
from collections.abc import Iterable, Mapping
from textwrap import shorten
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from classifier.errors import UserError, did_you_mean

DEFAULTS = ("accuracy", "f1", "accuracy_top5")
TRIED = 100  # images at most that a metric is tried out on: some take seconds for 1,000 classes
Mode = Literal["min", "max"]  # as torch and Lightning write which value of a metric is the best


class CheapMetric(Metric):
    """A metric that takes few operations a batch, and for none of which the host waits.

    torchmetrics' own accuracy, top-5 accuracy and F1 take 81 operations on each batch, those here
    18. Theirs wait for the device to count, or build N x K x K numbers where PyTorch is told to be
    deterministic.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__(compute_with_cache=False)  # it would have to be told of what `add` adds

    def add(self, *batch: Any) -> None:
        """Is ``update`` in a fifth of the time: torchmetrics needs its own only once."""
        if self.update_called:
            type(self).update(self, *batch)
        else:
            self.update(*batch)


class Mean(CheapMetric):
    """The mean of a value over the images of all batches and ranks.

    Args:
        higher_is_better: Whether a large mean is good.
    """

    total: Tensor
    count: Tensor

    def __init__(self, higher_is_better: bool) -> None:
        # Of the object, where torchmetrics has one for the class, and lets nobody set it.
        self.__dict__["higher_is_better"] = higher_is_better
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int) -> None:
        """Adds the values of ``count`` images, by their sum."""
        self.total.add_(total)
        self.count.add_(count)

    def compute(self) -> Tensor:
        """The mean, NaN if a value was, or if there was none."""
        return self.total / self.count


class Accuracy(Mean):
    """The share of the images whose class is among the ``top_k`` largest logits."""

    def __init__(self, top_k: int = 1) -> None:
        super().__init__(higher_is_better=True)
        self.top_k = top_k

    def update(self, logits: Tensor, classes: Tensor) -> None:  # type: ignore[override]  # a batch
        """Adds a batch: logits ``(N, K)``, classes ``(N,)``."""
        if self.top_k == 1:
            right = logits.argmax(1) == classes
        else:
            right = logits.topk(self.top_k).indices == classes[:, None]
        super().update(right.sum(), len(classes))


class MacroF1(CheapMetric):
    """The F1 of each of K classes, averaged over those that occur, as label or as prediction."""

    higher_is_better = True
    hits: Tensor  # int64 (K,): how often a class was predicted and right
    predicted: Tensor  # likewise, how often it was predicted
    actual: Tensor  # likewise, how often it was right

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("hits", "predicted", "actual"):
            zeros = torch.zeros(num_classes, dtype=torch.long)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, classes: Tensor) -> None:
        """Adds a batch: logits ``(N, K)``, classes ``(N,)``."""
        predicted, ones = logits.argmax(1), torch.ones_like(classes)
        self.hits.index_add_(0, classes, (predicted == classes).to(classes.dtype))
        self.predicted.index_add_(0, predicted, ones)
        self.actual.index_add_(0, classes, ones)

    def compute(self) -> Tensor:
        """The mean of the F1 of the classes; 0 if there was no image."""
        number = self.predicted + self.actual
        scores = 2.0 * self.hits / number.clamp(min=1)
        # Divided one by one, as torchmetrics does: else the last bit is not that of earlier runs.
        return (scores / (number > 0).sum().clamp(min=1)).sum()


class StageMetrics(nn.ModuleDict):
    """The metrics of a stage, by name: its ``loss``, and what compares logits with labels.

    Each is logged with the stage before its name, such as ``val_loss``. All but the loss are
    updated with logits ``(N, K)`` and classes ``(N,)``, so that those of torchmetrics fit, too.
    """

    loss: Mean

    def __init__(self, stage: str, metrics: Mapping[str, Metric]) -> None:
        super().__init__({"loss": Mean(higher_is_better=False), **metrics})
        self.stage = stage

    def forward(self, logits: Tensor, loss: Tensor, labels: Tensor) -> None:
        """Adds a batch: logits ``(N, K)``, their mean loss, labels ``(N,)`` or mixed ``(N, K)``."""
        number = len(logits)
        self.loss.add(loss.detach() * number, number)
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        for name, metric in self._metrics():
            if name != "loss":
                add = metric.add if isinstance(metric, CheapMetric) else metric.update
                add(logits, classes)

    def by_logged_name(self) -> dict[str, Metric]:
        """The metrics by the names under which they are logged."""
        return {f"{self.stage}_{name}": metric for name, metric in self._metrics()}

    def _metrics(self) -> Iterable[tuple[str, Metric]]:
        return cast(Iterable[tuple[str, Metric]], self.items())  # ModuleDict hides the types


def evaluation_metrics(
    num_classes: int, chosen: Mapping[str, Metric | None] | None = None
) -> dict[str, Metric]:
    """Accuracy, macro F1 and, with more than five classes, top-5 accuracy; and those chosen.

    Args:
        num_classes: K.
        chosen: More metrics by name, of which copies are returned. One that has the name of
            another takes its place; None leaves that out.

    Raises:
        UserError: If a name cannot be one.
    """
    metrics: dict[str, Metric | None] = {"accuracy": Accuracy(), "f1": MacroF1(num_classes)}
    if num_classes > 5:
        metrics["accuracy_top5"] = Accuracy(top_k=5)
    for name, metric in (chosen or {}).items():
        _check_name(name, metric)
        metrics[name] = None if metric is None else metric.clone()
    return {name: metric for name, metric in metrics.items() if metric is not None}


def _check_name(name: str, metric: Metric | None) -> None:
    place = f"model.metrics.{name}"
    if metric is None and name not in DEFAULTS:
        hint = did_you_mean(name, DEFAULTS, f"; there are {', '.join(DEFAULTS)}.")
        raise UserError(f"{place}: null leaves a metric out, but there is none of this name{hint}")
    if not str(name).isidentifier() or hasattr(nn.ModuleDict(), name):
        raise UserError(
            f"{place}: a metric is logged as val_NAME; its name consists of letters, digits and _, "
            f"and is none that torch.nn.ModuleDict has itself; such as 'my_{name}'."
        )
    if name == "loss":
        raise UserError(f"{place}: val_loss is that of model.loss; give the metric another name.")


def training_metrics() -> StageMetrics:
    """What is measured in training: accuracy alone, beside the loss."""
    return StageMetrics("train", {"accuracy": Accuracy()})


def check_metric(name: str, metric: Metric, num_classes: int) -> None:
    """Measures images that are made up, for after the first epoch it is too late.

    Raises:
        UserError: If a metric does not turn logits ``(N, K)`` and classes ``(N,)`` into a number.
    """
    kind, number = type(metric).__name__, min(num_classes, TRIED)
    trial = metric.clone()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that do not occur
            trial.update(torch.eye(num_classes)[:number], torch.arange(number))
            value = trial.compute()
    except Exception as error:  # of any library
        told = shorten(str(error) or type(error).__name__, 300, placeholder=" …")
        raise UserError(
            f"model.metrics.{name}: {kind} does not measure logits (N, {num_classes}) against "
            f"classes (N,): {told}"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(
            f"model.metrics.{name}: {kind} gives no number but a {shape}; a mean over the classes "
            "is one (average: macro), and what is no number cannot be logged."
        )


def is_costly(metric: Metric) -> bool:
    """Whether a metric keeps the logits of all images, and sorts them when the epoch ends."""
    return any(isinstance(state, list) for state in metric.metric_state.values())


def modes_of(*stages: StageMetrics) -> dict[str, Mode | None]:
    """Which way each metric of some stages is better, by the name under which it is logged."""
    return {name: mode_of(m) for stage in stages for name, m in stage.by_logged_name().items()}


def mode_of(metric: Metric) -> Mode | None:
    """Which way a metric is better, as it says itself; None if it does not."""
    if metric.higher_is_better is None:
        return None
    return "max" if metric.higher_is_better else "min"


def better(name: str, mode: Mode | None) -> str:
    """What a contradiction is told by: which value of a metric is the better one."""
    return f"{name} is the better the {'larger' if mode == 'max' else 'smaller'} it is"
