"""The one LightningModule: any network, loss, optimizer and scheduler; pixels in, logits out.

Shapes: N images, C channels, H rows, W columns, K classes.
"""

import dataclasses
import math
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from classifier import terminal
from classifier.averaging import MovingAverage, check_decay, refuse_another_average
from classifier.class_weights import ClassWeights, WeightedLoss, try_out
from classifier.divergence import DivergenceDetector, max_abs, mean_over_ranks
from classifier.errors import UserError
from classifier.images.read import Raw, stack
from classifier.internals.torch import mark_compile_shapes
from classifier.learning import LearningModule
from classifier.metrics import (
    Mode,
    StageMetrics,
    better,
    check_metric,
    evaluation_metrics,
    is_costly,
    modes_of,
    training_metrics,
)
from classifier.optimization.build import OptimizerBuilder, SchedulerBuilder
from classifier.optimization.groups import Group
from classifier.optimization.rates import Warmup
from classifier.optimization.schedules import Interval
from classifier.results import Prediction
from classifier.sources.parquet import raw_and_name
from classifier.sources.patterns import find_images
from classifier.tensors import changed_tensors, keep_given_tensors, without_given_tensors
from classifier.weights.start import start_from

EARLIER_NAMES = {  # of metrics, in checkpoints that were saved inside an epoch
    "losses.train_": "train_metrics.loss",
    "metrics.train_.train_accuracy": "train_metrics.accuracy",
}
COSTLY = 2e7  # bytes that a metric may keep before it is said: sorting them takes a second
Batch = tuple[Tensor, Tensor]  # images (N, C, H, W); labels (N,), or (N, K) when they are mixed
Stage = Literal["train", "val", "test"]


class ClassificationModule(LearningModule):
    """Trains and evaluates a network that maps images to one of K classes.

    It logs ``{train,val,test}_loss`` and ``…_accuracy`` and, for validation and test,
    ``…_f1`` (mean over the classes) and, with more than five classes, ``…_accuracy_top5``.

    A subclass may have steps, metrics and optimizers of its own, as any LightningModule; where it
    overrides ``setup``, ``configure_callbacks``, ``on_fit_start``, ``on_train_start``,
    ``on_train_epoch_start``, ``on_before_optimizer_step`` or a hook of checkpoints, it calls that
    of this class too. With a ``training_step`` of its own, ``class_weights`` count in what ``step``
    returns, and ``skip_bad_steps`` goes by the gradient alone; with ``configure_optimizers`` of its
    own, a resumed training takes the state of
    optimizers and schedules from its checkpoint, whatever the settings.

    Args:
        network: Maps normalised images (N, C, H, W) to logits (N, K).
        class_names: Names of the K classes, in the order of the logits.
        loss: Maps logits (N, K) and labels, (N,) or mixed (N, K), to a scalar. Cross-entropy if
            not given.
        optimizer: Optimizer class and its settings. Adam with its own defaults if not given.
        lr_scheduler: Learning rate scheduler class and its settings. Constant rate if not given.
        monitor: The metric that chooses the best checkpoint and that ReduceLROnPlateau follows.
        interval: Whether the scheduler steps after each epoch or each optimizer step. If not given,
            after each epoch, but OneCycleLR and CyclicLR after each step.
        no_decay_norm_bias: Exempts biases and normalisation layers (all parameters with fewer than
            two dimensions) from weight decay.
        mean: Mean of each channel, in 0..1.
        std: Standard deviation of each channel, in 0..1.
        skip_bad_steps: Whether to skip a step whose loss is not finite or has exploded, or whose
            gradient is not finite, rather than to stop. Weights and optimizer stay as they are,
            and the bad batch counts in no metric and no running statistics. Each step waits for
            the device.
        channels_last: Whether images and weights lie in memory with the channels innermost, which
            most convolutions prefer. Results change by rounding only.
        compile: Whether torch.compile translates the network, at its first batch of training and
            of evaluation. Needs a C++ compiler on a CPU. Results change by rounding only.
        monitor_mode: Whether a small (min) or a large (max) value of ``monitor`` is good, where the
            metric does not say so itself: one that a callback logs.
        init_from: Where training starts from: a run, which means its best checkpoint, a checkpoint
            or a file of weights; of another program too. All but the head must fit, whose rows are
            kept for classes of the same name. A checkpoint of this module needs it no more.
        float32_matmul_precision: How exactly float32 matrices are multiplied, while a trainer runs:
            with "high" GPUs round to TF32, with "medium" to bfloat16, which is faster. As torch has
            it, "highest", if not given; convolutions use TF32 in any case.
        warmup: How long the learning rate rises to what the schedule says: ``{epochs: 1}``, also
            parts of one, or ``{steps: 500}`` of the optimizer.
        groups: Parameters that are trained at another rate, with another weight decay, later or not
            at all; the first that matches counts. ``classifier/optimization/README.md`` shows how.
        layer_decay: How large the rate of each layer is, that of the layer behind it being 1: for
            networks that say what their layers are, as timm's do.
        metrics: What else is measured in validation and test, by name: any class of torchmetrics
            that turns logits (N, K) and classes (N,) into a number. One of the name accuracy, f1 or
            accuracy_top5 takes the place of that; null leaves it out.
        class_weights: How much the images of each class count in the training loss: numbers by
            class name, of which a class that is left out has 1, or "balanced", which lets all
            classes count alike: N / (K n) with n images of N in a class. They are divided by their
            mean over the training images. ``val_loss`` and ``test_loss`` are not weighted.
        moving_average: Validates and keeps a moving average of the weights instead of the weights:
            the share of it that a step leaves, such as 0.99. The first steps leave less.

    Raises:
        ValueError: If ``monitor_mode`` contradicts the metric, or if a metric, a weight or the
            average cannot be as given.
    """

    mean: Tensor
    std: Tensor
    class_weights: Tensor  # (K,), with the argument only

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        loss: nn.Module | None = None,
        # No default class for these: jsonargparse would carry its defaults over to another class.
        optimizer: OptimizerBuilder | None = None,
        lr_scheduler: SchedulerBuilder | None = None,
        monitor: str = "val_loss",
        interval: Interval | None = None,
        no_decay_norm_bias: bool = False,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        skip_bad_steps: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        monitor_mode: Mode | None = None,
        float32_matmul_precision: Literal["highest", "high", "medium"] | None = None,
        warmup: Warmup | None = None,
        groups: list[Group] | None = None,
        layer_decay: float | None = None,
        metrics: dict[str, Metric | None] | None = None,
        class_weights: ClassWeights | None = None,
        moving_average: float | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = network
        self.class_names = list(class_names)
        self.loss = loss or nn.CrossEntropyLoss()
        self.optimizer = optimizer or torch.optim.Adam
        self.lr_scheduler = lr_scheduler
        self.interval = interval
        self.no_decay_norm_bias = no_decay_norm_bias
        self.warmup, self.groups, self.layer_decay = warmup, groups, layer_decay
        self.skip_bad_steps = skip_bad_steps
        self._step_is_bad = False
        self.divergence = DivergenceDetector()
        self.channels_last, self.compiled = channels_last, compile
        self.float32_matmul_precision = float32_matmul_precision
        # What was taken of the weights that training starts from.
        self.taken = None if init_from is None else start_from(network, init_from, self.class_names)
        if channels_last:
            network.to(memory_format=torch.channels_last)
        if compile:
            network.compile()  # in place: a checkpoint has the same names with it and without
        self._register_normalisation(mean, std)
        self._settle_loss(class_weights)
        self.moving_average = None if moving_average is None else check_decay(moving_average)
        self._add_metrics(metrics)
        self.monitor, self.monitor_mode = monitor, monitor_mode
        self._check_monitor_mode()

    def _register_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keeps mean and deviation in pixel units, so that one subtraction and division do."""
        # Not among the weights: the hyperparameters have them, and the command line can win there.
        for name, values in (("mean", mean), ("std", std)):
            buffer = 255 * torch.tensor(values).view(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def _settle_loss(self, class_weights: ClassWeights | None) -> None:
        """Finds out whether the loss fits the classes, and takes their weights, where given."""
        num_classes = len(self.class_names)
        self._given = keep_given_tensors(self)
        steps = (ClassificationModule.step, ClassificationModule.validation_step)
        is_usual = (type(self).step, type(self).validation_step) == steps  # others may use it else
        of_torch = type(self.loss).__module__.startswith("torch.nn.")
        if (of_torch and is_usual) or any(name.startswith("loss.") for name in self._given):
            try_out(self.loss, num_classes)
        self.weighted_loss: WeightedLoss | None = None
        if class_weights is not None:
            self.weighted_loss = WeightedLoss(class_weights, self.loss, self.class_names)
            # Not among the weights: they follow from the data.
            self.register_buffer("class_weights", torch.ones(num_classes), persistent=False)

    def _keep_given(self) -> None:
        """Keeps tensors that are settings out of checkpoints, also those of a subclass."""
        self._given = {**keep_given_tensors(self), **self._given}

    def _add_metrics(self, chosen: dict[str, Metric | None] | None) -> None:
        self.train_metrics = training_metrics()
        evaluated = evaluation_metrics(len(self.class_names), chosen)
        for name in (name for name in chosen or {} if name in evaluated):
            check_metric(name, evaluated[name], len(self.class_names))
        self.val_metrics = StageMetrics("val", evaluated)
        self.test_metrics = StageMetrics("test", {k: m.clone() for k, m in evaluated.items()})

    def _check_monitor_mode(self) -> None:
        own = self.metric_modes().get(self.monitor)
        if self.monitor_mode and own not in (None, self.monitor_mode):
            raise UserError(
                f"monitor_mode is {self.monitor_mode}, but {better(self.monitor, own)}."
            )

    # ---- a step ----

    def forward(self, images: Tensor) -> Tensor:
        """Maps pixels ``(N, C, H, W)``, uint8 or floating point in 0..255, to logits ``(N, K)``."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        images = images.to(self.mean.dtype, memory_format=layout)
        images = (images - self.mean).div_(self.std)  # in place: a quarter less time on photos
        if self.compiled:
            mark_compile_shapes(images, self.training)
        logits: Tensor = self.network(images)
        return logits

    def step(self, batch: Batch, stage: Stage) -> Tensor:
        """Computes the loss of a batch and logs it with the metrics of the stage."""
        logits, loss = self._logits_and_loss(batch, stage)
        self._measure(logits, loss, batch, stage)
        return loss

    def _logits_and_loss(self, batch: Batch, stage: Stage) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self._checked(self(images), len(images))
        if stage == "train" and self.weighted_loss:
            return logits, self.weighted_loss(self.loss, self.class_weights, logits, labels)
        return logits, self.loss(logits, labels)

    def _measure(self, logits: Tensor, loss: Tensor, batch: Batch, stage: Stage) -> None:
        metrics: StageMetrics = getattr(self, f"{stage}_metrics")
        is_first = not metrics.loss.update_called  # since Lightning has reset it
        metrics(logits, loss, batch[1])
        if is_first:  # at the end of the epoch, Lightning asks the metrics
            for name, metric in metrics.by_logged_name().items():
                bar = metric is metrics.loss
                self.log(name, metric, prog_bar=bar, on_step=False, on_epoch=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss, whose gradient is zero if the step is to be skipped."""
        if not self.skip_bad_steps:
            return self.step(batch, "train")
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        logits, loss = self._logits_and_loss(batch, "train")
        if self.divergence.allows(mean_over_ranks(loss.detach()).item()):
            self._measure(logits, loss, batch, "train")
            return loss
        self._step_is_bad = True
        for buffer, before in zip(self.network.buffers(), statistics, strict=True):
            buffer.copy_(before)
        # Its gradient is zeros rather than none: DDP and a scaler of losses wait for one.
        return sum((p.flatten()[:0].sum() for p in self._trained()), loss.detach())

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Takes the gradient from a bad step: without one, optimizers leave all as it is.

        Raises:
            UserError: ``training_step`` of a subclass has left out ``class_weights``.
        """
        if self.weighted_loss and not self.weighted_loss.is_used:
            raise UserError(
                f"model.class_weights: the loss of {type(self).__name__}.training_step is without "
                'them; let it return self.step(batch, "train"), or leave them out.'
            )
        if not (self.skip_bad_steps and self.automatic_optimization):
            return
        skipped = self._step_is_bad or not self._gradient_is_finite()
        if skipped:
            optimizer.zero_grad()
        self._step_is_bad = False
        self.divergence.count(skipped)
        self.log("skipped_steps", float(skipped), on_step=False, on_epoch=True, reduce_fx="sum")

    def _gradient_is_finite(self) -> bool:
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return True  # or else the scaler of the losses skips the step, and adapts
        gradients = [p.grad for p in self._trained() if p.grad is not None]
        return math.isfinite(mean_over_ranks(max_abs(gradients)).item())

    def on_validation_epoch_start(self) -> None:
        """Gives all ranks the running statistics of the first, as a checkpoint has them.

        DDP does so before a step, but not inside a window of accumulated gradients.
        """
        if self.trainer.world_size > 1 and torch.distributed.is_initialized():
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = -1) -> None:
        self._evaluate(batch, "val", dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = -1) -> None:
        self._evaluate(batch, "test", dataloader_idx)

    def _evaluate(self, batch: Batch, stage: Stage, dataloader_idx: int) -> None:
        _refuse_several_loaders(stage, dataloader_idx)
        *_, last = batch if isinstance(batch, list | tuple) else [batch]
        if not (isinstance(last, Tensor) and len(last) == 0):  # all its images are damaged
            self.step(batch, stage)

    def predict_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        """Maps a batch that begins with images ``(N, C, H, W)`` to probabilities ``(N, K)``."""
        images = batch[0]
        if len(images) == 0:  # no readable file among them
            return torch.empty(0, len(self.class_names), device=self.device)
        return self._checked(self(images), len(images)).float().softmax(1)

    @torch.inference_mode()
    def predict(self, images: Sequence[str | Raw]) -> list[Prediction]:
        """Says what images show, as ``classifier predict`` does, on the module's device.

        Args:
            images: Image files, folders and globs, as texts or paths; or images themselves: of
                Pillow, pixels (H, W) or (H, W, C) in 0..255, or the bytes of a file.

        Raises:
            UserError: The module was not loaded from the checkpoint of a config, or an image
                cannot be read.
        """
        data = self.data_of_training()
        read, found = data.reader(), list[tuple[Raw, object]]()
        for place, image in enumerate(images):
            if isinstance(image, str | Path):
                found += map(raw_and_name, find_images([str(image)], data.suffixes))
            else:
                found.append((image, place))
        was_training = self.training
        self.eval()
        try:
            predicted: list[Prediction] = []
            for begin in range(0, len(found), data.eval_batch_size):
                batch = found[begin : begin + data.eval_batch_size]
                pixels = stack([read(raw, name) for raw, name in batch]).to(self.device)
                rows = self.predict_step((pixels,), 0).cpu()
                names = [name for _, name in batch]
                predicted += map(Prediction.of, names, rows, repeat(self.class_names))
            return predicted
        finally:
            self.train(was_training)

    def _checked(self, logits: object, num_images: int) -> Tensor:
        """Cross-entropy would accept 1,000 outputs for 10 classes without a word."""
        expected = (num_images, len(self.class_names))
        if isinstance(logits, Tensor) and logits.shape == expected:
            return logits
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"model.network: {type(self.network).__name__} returns {got}, expected logits "
            f"{expected} for {expected[1]} classes. Set its number of outputs in init_args, and "
            "no auxiliary outputs."
        )

    # ---- a training ----

    def setup(self, stage: str) -> None:
        """Forgets what a run that was broken off has measured; counts the classes to train on."""
        super().setup(stage)
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()
        if stage == "fit" and self.weighted_loss:
            counts = getattr(self._data, "class_counts", lambda: None)()
            if counts is None:
                raise UserError(
                    "model.class_weights: how many images of each class there are to train on is "
                    "not known; a data module says it by class_counts, as those of classifier.data."
                )
            self.class_weights.copy_(self.weighted_loss.numbers(counts))

    def configure_callbacks(self) -> list[pl.Callback]:
        """What belongs to the module: in a training, its moving average."""
        self._keep_given()
        if self.moving_average is None or self.trainer.state.fn != "fit":
            return []
        refuse_another_average(self.trainer)
        average = MovingAverage(self.moving_average)
        # Lightning warns of one that replaces that of an earlier fit by the same trainer.
        same = [c for c in self.trainer.callbacks if average.is_like(c)]  # type: ignore[attr-defined]  # undeclared
        return same or [average]

    @property
    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)  # undeclared by Lightning

    def summary(self) -> dict[str, str]:
        """Says what a training does that its data and network do not show, after ``setup``."""
        rows = {"weights": str(self.taken)} if self.taken else {}
        if self.weighted_loss:
            weights = self.weighted_loss.describe(self.class_weights)
            rows["loss"] = f"{type(self.loss).__name__}, in training weighted by class: {weights}"
        return rows

    def notes(self) -> list[str]:
        """Says, in sentences, what a person should know of the settings before a training."""
        notes = self.weighted_loss.notes() if self.weighted_loss else []
        if self.weighted_loss and getattr(self._data, "sampler", None):
            notes.append(
                "model.class_weights and data.sampler both make up for classes with few images, "
                "which then count more than the others; one of them is usually meant."
            )
        images = getattr(self._data, "sets", {}).get("val", ())
        size = 4 * len(images) * len(self.class_names)
        for name, metric in self.val_metrics.by_logged_name().items():
            if is_costly(metric) and size > COSTLY:
                notes.append(
                    f"{name} keeps the logits of all {len(images):,} images, {size / 1e6:,.0f} MB, "
                    "and sorts them class by class after each validation; with thresholds: 50 it "
                    "keeps counts instead."
                )
        return notes

    def metric_modes(self) -> dict[str, Mode | None]:
        """The metrics that a training logs, each of which can be monitored, and their best value.

        It is the smallest or the largest one, min or max; None if the metric does not say so.
        """
        return modes_of(self.train_metrics, self.val_metrics)

    def mode_of(self, metric: str) -> Mode | None:
        """Whether the smallest or the largest value of a metric is the best; None if unknown."""
        own = self.metric_modes().get(metric)
        return own or (self.monitor_mode if metric == self.monitor else None)

    # ---- its checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["loss_watch"] = dataclasses.asdict(self.divergence)
        for name in changed_tensors(self, self._given):
            del self._given[name]  # it is said once
            terminal.warn(
                f"{name} changes while it trains, but, as an argument of its class, is a setting, "
                "which no checkpoint keeps: keep what is trained in a buffer of another name, or "
                "else a training that is resumed begins anew with it."
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.divergence = DivergenceDetector(**checkpoint.get("loss_watch", {}))
        self._keep_given()
        for key in {"state_dict", "current_model_state"} & checkpoint.keys():
            checkpoint[key] = without_given_tensors(self, checkpoint[key])

    def get_submodule(self, target: str) -> nn.Module:
        """Finds a part by its name, also a metric by the one in earlier checkpoints."""
        return super().get_submodule(EARLIER_NAMES.get(target, target))


def _refuse_several_loaders(stage: Stage, number: int) -> None:
    """Lightning gives the number of a loader only where there are several, and logs each apart."""
    if number >= 0:
        raise UserError(
            f"{stage}_dataloader returns several loaders, expected one: give it all images, "
            "as by torch.utils.data.ConcatDataset."
        )
