"""The one LightningModule: any network, loss, optimizer and scheduler; pixels in, logits out.

Shapes: N images, C channels, H rows, W columns, K classes.
"""

import copy
import dataclasses
import math
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from typing_extensions import Self

from classifier import checkpoints
from classifier.archive import FORMAT
from classifier.errors import UserError
from classifier.finite import LossWatch, largest, mean_over_ranks
from classifier.metrics import Mean, Mode, better, mode_of
from classifier.resume import follow_new_settings
from classifier.trust import PACKAGES, Trust, confined

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W); labels (N,), or (N, K) when they are mixed


class ClassificationModule(pl.LightningModule):
    """Trains and evaluates a network that maps images to one of K classes.

    It logs ``{train,val,test}_loss`` and ``…_accuracy`` and, for validation and test,
    ``…_f1`` (mean over the classes) and, with more than five classes, ``…_accuracy_top5``.

    Args:
        network: Maps normalised images (N, C, H, W) to logits (N, K).
        class_names: Names of the K classes, in the order of the logits.
        loss: Maps logits (N, K) and labels, (N,) or mixed (N, K), to a scalar. Cross-entropy if
            not given.
        optimizer: Optimizer class and its settings. Adam with its own defaults if not given.
        lr_scheduler: Learning rate scheduler class and its settings. Constant rate if not given.
        monitor: The metric that chooses the best checkpoint and that ReduceLROnPlateau follows.
        interval: Whether the scheduler steps after each epoch or each optimizer step.
        no_decay_norm_bias: Exempts biases and normalisation layers (all parameters with fewer than
            two dimensions) from weight decay.
        mean: Mean of each channel, in 0..1.
        std: Standard deviation of each channel, in 0..1.
        skip_bad_steps: Whether to skip an optimizer step of which a loss is not finite or has
            exploded, or the gradient is not finite, rather than to stop. Weights and optimizer stay
            as they are, and the bad batch counts in no metric and no running statistics. Each step
            waits for the device.
        channels_last: Whether images and weights lie in memory with the channels innermost, which
            most convolutions prefer. Results change by rounding only.
        compile: Whether torch.compile translates the network, at its first batch of training and
            of evaluation. Needs a C++ compiler on a CPU. Results change by rounding only.
        monitor_mode: Whether a small (min) or a large (max) value of ``monitor`` is good, where the
            metric does not say so itself: one that a callback logs.

    Raises:
        ValueError: If ``monitor_mode`` contradicts the metric.
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        loss: nn.Module | None = None,
        # No default class for these: jsonargparse would carry its defaults over to another class.
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        monitor: str = "val_loss",
        interval: Literal["epoch", "step"] = "epoch",
        no_decay_norm_bias: bool = False,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        skip_bad_steps: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        monitor_mode: Mode | None = None,
    ) -> None:
        super().__init__()
        # From the command line the hyperparameters are plain class_path mappings. Elsewhere they
        # would be objects, which a checkpoint that loads with weights_only=True cannot hold.
        from_cli = _given_hyperparameters.get() is not None
        objects = ("network", "loss", "optimizer", "lr_scheduler")
        self.save_hyperparameters(ignore=() if from_cli else objects)
        self.network = network
        self.channels_last = channels_last
        if channels_last:
            network.to(memory_format=torch.channels_last)
        if compile:
            network.compile()  # in place: a checkpoint has the same names with it and without
        self.compiled = compile
        self.loss = loss or nn.CrossEntropyLoss()
        self.optimizer = optimizer or torch.optim.Adam
        self.lr_scheduler = lr_scheduler
        self.monitor = monitor
        self.monitor_mode = monitor_mode
        self.format = FORMAT  # of the run that it is of
        self.interval = interval
        self.no_decay_norm_bias = no_decay_norm_bias
        self.class_names = list(class_names)
        self.skip_bad_steps = skip_bad_steps
        self.watch = LossWatch()
        self._step_is_bad = False
        self._logged: set[str] = set()
        self.replayed_steps: int | None = None
        self.provenance: dict[str, Any] = {}
        """What a checkpoint says of itself: ``config`` text, ``data`` and ``run`` record."""
        # In pixel units, so that one subtraction and one division turn uint8 into network input.
        # Not among the weights: the hyperparameters have them, and the command line can win there.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        evaluation = evaluation_metrics(len(self.class_names))
        # nn.Module has a method `train`, so the keys carry the underscore of the metric names.
        self.metrics = nn.ModuleDict(
            {
                "train_": nn.ModuleDict({"train_accuracy": Mean(higher_is_better=True)}),
                "val_": evaluation.clone(prefix="val_"),
                "test_": evaluation.clone(prefix="test_"),
            }
        )
        # Lightning's own mean rounds the number of images where ranks have unequally many.
        self.losses = nn.ModuleDict({stage: Mean(higher_is_better=False) for stage in self.metrics})
        own = self.metric_modes().get(monitor)
        if monitor_mode and own not in (None, monitor_mode):
            raise UserError(f"monitor_mode is {monitor_mode}, but {better(monitor, own)}.")

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # no streams, no addresses
        cls, checkpoint_path: str | Path, trust: Sequence[str] = (), **settings: Any
    ) -> Self:
        """Builds the module that a checkpoint describes, with its weights.

        Args:
            checkpoint_path: The file, or its run folder, which means its best checkpoint.
            trust: Packages or modules whose classes the checkpoint may use besides
                ``classifier.trust.PACKAGES``.
            **settings: Arguments of Lightning's method and, instead of those in the checkpoint,
                of the constructor.

        Raises:
            ValueError: If the checkpoint is damaged or names a class that is not trusted.
        """
        path = checkpoints.resolve(str(checkpoint_path), "best")
        saved = checkpoints.read_checkpoint(path).get("hyper_parameters", {})
        taken = {name: value for name, value in saved.items() if name not in settings}
        allowed = Trust([*PACKAGES, *trust])
        allowed.check_config(taken)
        try:
            with confined(allowed):
                return super().load_from_checkpoint(path.absolute(), weights_only=True, **settings)
        except ArgumentError as error:  # jsonargparse's
            raise ValueError(f"'{path}': {error}") from error

    def forward(self, images: Tensor) -> Tensor:
        """Maps pixels ``(N, C, H, W)``, uint8 or floating point in 0..255, to logits ``(N, K)``."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        images = images.to(self.mean.dtype, memory_format=layout)
        images = (images - self.mean).div_(self.std)  # in place: a quarter less time on photos
        if self.compiled:
            self._mark(images)
        logits: Tensor = self.network(images)
        return logits

    def _mark(self, images: Tensor) -> None:
        """Fixes what torch.compile takes for constant; left alone it depends on earlier batches.

        A resumed training, which sees no validation batch first, would compute other bits.
        """
        if self.training:
            torch._dynamo.mark_static(images)
        else:
            # One translation for all sizes, such as that of the last batch.
            torch._dynamo.maybe_mark_dynamic(images, 0)

    def step(self, batch: Batch, stage: Literal["train_", "val_", "test_"]) -> Tensor:
        """Computes the loss of a batch and logs it with the metrics of the stage."""
        logits, loss = self._evaluate(batch)
        self._measure(logits, loss, batch, stage)
        return loss

    def _evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self(images)
        self._check(logits, len(images))
        return logits, self.loss(logits, labels)

    def _measure(self, logits: Tensor, loss: Tensor, batch: Batch, stage: str) -> None:
        images, labels = batch
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        mean_loss: Any = self.losses[stage]  # ModuleDict hides the types
        metrics: Any = self.metrics[stage]
        mean_loss.add(loss.detach() * len(images), len(images))
        if isinstance(metrics, MetricCollection):
            metrics.update(logits, classes)
        else:
            metrics["train_accuracy"].add((logits.argmax(1) == classes).sum(), len(images))
        if stage not in self._logged:  # at the end of the epoch, Lightning asks the metrics
            self._logged.add(stage)
            self.log(f"{stage}loss", mean_loss, prog_bar=True, on_step=False, on_epoch=True)
            self.log_dict(dict(metrics.items()), on_step=False, on_epoch=True)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Returns the ``loss``, and its mean over the ranks as ``step_loss``."""
        skips = self.skip_bad_steps
        statistics = [buffer.clone() for buffer in self.network.buffers()] if skips else []
        logits, loss = self._evaluate(batch)
        mean = mean_over_ranks(loss.detach())
        if skips and not self.watch.allows(mean.item()):
            self._step_is_bad = True
            for buffer, before in zip(self.network.buffers(), statistics, strict=True):
                buffer.copy_(before)
            # Its gradient is zeros rather than none: DDP and a scaler of losses wait for one.
            loss = sum((p.flatten()[:0].sum() for p in self._trained()), torch.zeros_like(mean))
        else:
            self._measure(logits, loss, batch, "train_")
        return {"loss": loss, "step_loss": mean}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Takes the gradient from a bad step: without one, optimizers leave all as it is."""
        if not self.skip_bad_steps:
            return
        skipped = self._step_is_bad or not self._gradient_is_finite()
        if skipped:
            optimizer.zero_grad()
        self._step_is_bad = False
        self.watch.count(skipped)
        self.log("skipped_steps", float(skipped), on_step=False, on_epoch=True, reduce_fx="sum")

    def _gradient_is_finite(self) -> bool:
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return True  # or else the scaler of the losses skips the step, and adapts
        gradients = [p.grad for p in self._trained() if p.grad is not None]
        return math.isfinite(mean_over_ranks(largest(gradients)).item())

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def on_train_epoch_start(self) -> None:
        self._logged.discard("train_")

    def on_validation_epoch_start(self) -> None:
        self._logged.discard("val_")

    def on_test_epoch_start(self) -> None:
        self._logged.discard("test_")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "val_")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "test_")

    def predict_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        """Maps a batch that begins with images ``(N, C, H, W)`` to probabilities ``(N, K)``."""
        images = batch[0]
        if len(images) == 0:  # no readable file among them
            return torch.empty(0, len(self.class_names), device=self.device)
        logits = self(images)
        self._check(logits, len(images))
        probabilities: Tensor = logits.float().softmax(1)
        return probabilities

    def configure_optimizers(self) -> Any:
        optimizer = self._built("optimizer", self.optimizer, self._parameter_groups())
        for group in optimizer.param_groups:
            if not 0 <= group["lr"] < math.inf:  # also false for NaN, which SGD itself accepts
                raise ValueError(f"model.optimizer: lr must be a number >= 0, not {group['lr']}.")
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self._built("lr_scheduler", self.lr_scheduler, optimizer)
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": self.interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            # Lightning's own subclass of it names its metric itself.
            monitor = settings["monitor"] = getattr(scheduler, "monitor", self.monitor)
            mode = self.mode_of(monitor)
            if self.format > 1 and mode not in (None, scheduler.mode):
                raise UserError(
                    f"model.lr_scheduler: {type(scheduler).__name__} has mode={scheduler.mode!r}, "
                    f'but {better(monitor, mode)}; give it mode="{mode}".'
                )
            if self.interval == "epoch" and monitor.startswith("val_"):
                settings["frequency"] = self.trainer.check_val_every_n_epoch or 1
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def _built(self, name: str, build: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return build(argument)
        except (ValueError, TypeError) as error:
            raise ValueError(f"model.{name}: {error}") from error

    def metric_modes(self) -> dict[str, Mode | None]:
        """The metrics that a training logs, each of which can be monitored, and their best value.

        It is the smallest or the largest one, min or max; None if the metric does not say so.
        """
        stages: Any = [self.metrics["train_"], self.metrics["val_"]]  # ModuleDict hides the types
        metrics: dict[str, Any] = {
            f"{stage}loss": self.losses[stage] for stage in ("train_", "val_")
        }
        for stage in stages:
            metrics |= {str(name): metric for name, metric in stage.items()}
        return {name: mode_of(metric) for name, metric in metrics.items()}

    def mode_of(self, metric: str) -> Mode | None:
        """Whether the smallest or the largest value of a metric is the best; None if unknown."""
        own = self.metric_modes().get(metric)
        return own or (self.monitor_mode if metric == self.monitor else None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoints.KEY] = self.provenance
        checkpoint["loss_watch"] = dataclasses.asdict(self.watch)
        network = checkpoint["hyper_parameters"].get("network")
        if network is not None:
            network = copy.deepcopy(network)
            checkpoints.without_pretrained(network)
            hyperparameters = {**checkpoint["hyper_parameters"], "network": network}
            checkpoint["hyper_parameters"] = hyperparameters

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if entry := checkpoint.get(checkpoints.KEY):
            self.format = entry.get("format", 1)
        self.watch = LossWatch(**checkpoint.get("loss_watch", {}))
        self.replayed_steps = follow_new_settings(checkpoint, self.hparams)

    def on_train_start(self) -> None:
        """Plays a changed schedule up to the epoch or step at which training goes on."""
        if self.replayed_steps is None:
            return
        (optimizer,) = self.trainer.optimizers
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"])
        if self.lr_scheduler is None:
            return
        scheduler = self.lr_scheduler(optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*`lr_scheduler.step\\(\\)` before `optimizer.step")
            for _ in range(self.replayed_steps):
                scheduler.step()
        self.trainer.lr_scheduler_configs[0].scheduler = scheduler

    def _parameter_groups(self) -> list[Any]:
        parameters = self._trained()
        if not self.no_decay_norm_bias:
            return parameters
        return [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def _check(self, logits: object, num_images: int) -> None:
        """Cross-entropy would accept 1,000 outputs for 10 classes without a word."""
        expected = (num_images, len(self.class_names))
        if isinstance(logits, Tensor) and logits.shape == expected:
            return
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"model.network: {type(self.network).__name__} returns {got}, expected logits "
            f"{expected} for {expected[1]} classes. Set its number of outputs in init_args, and "
            "no auxiliary outputs."
        )


def evaluation_metrics(num_classes: int) -> MetricCollection:
    """Accuracy, macro F1 and, with more than five classes, top-5 accuracy, from torchmetrics."""
    # Its own checks of every batch would make the device wait; the labels come from our data sets.
    settings: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
    metrics: dict[str, Any] = {
        "accuracy": MulticlassAccuracy(average="micro", **settings),
        "f1": MulticlassF1Score(average="macro", **settings),
    }
    if num_classes > 5:
        metrics["accuracy_top5"] = MulticlassAccuracy(top_k=5, average="micro", **settings)
    # Groups would be formed of metrics that agree on the first batch, and share one state from then
    # on: where its few images are all right, F1 would become that of the top five.
    return MetricCollection(metrics, compute_groups=False)
