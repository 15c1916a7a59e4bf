"""The one LightningModule: any network, loss, optimizer and scheduler; pixels in, logits out.

Shapes: N images, C channels, H rows, W columns, K classes.
"""

import copy
import dataclasses
import inspect
import math
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from textwrap import shorten
from types import FrameType
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.mixins.hparams_mixin import (
    _given_hyperparameters,
    _given_hyperparameters_context,
)
from pytorch_lightning.utilities.parsing import collect_init_args
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from typing_extensions import Self

from classifier.checkpoint.file import FORMAT
from classifier.checkpoint.modules import serve_on
from classifier.checkpoint.overrides import follow_new_settings
from classifier.checkpoint.read import (
    KEY,
    OpenCheckpoint,
    is_plain,
    open_checkpoint,
    resolve_checkpoint,
    without_pretrained,
)
from classifier.checkpoint.trust import PACKAGES, Found, Trust, confined
from classifier.errors import UnfitWeightsError, UserError, did_you_mean
from classifier.finite import LossWatch, largest, mean_over_ranks
from classifier.metrics import Mean, Mode, better, mode_of

OF_TRAINING = {"optimizer", "lr_scheduler"}  # arguments that inference does without
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
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
        # Arguments that are objects, which a checkpoint cannot hold.
        self._objects = self._save_plain_arguments(inspect.currentframe())
        self._missing: set[str] = set()  # of them, after loading
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
        self.run_format = FORMAT  # of the run that it is of
        self.interval = interval
        self.no_decay_norm_bias = no_decay_norm_bias
        self.class_names = list(class_names)
        self.skip_bad_steps = skip_bad_steps
        self.watch = LossWatch()
        self._step_is_bad = False
        self._logged: set[str] = set()
        self.replayed_steps: int | None = None
        self._classes: dict[str, str | None] = {}  # of optimizer and lr_scheduler
        self._trained_by: dict[str, str | None] = {}  # the classes of a training that is to go on
        self.provenance: dict[str, Any] = {"format": FORMAT}
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
                ``classifier.checkpoint.trust.PACKAGES``. One's own checkpoint needs none.
            **settings: Arguments of Lightning's method and, instead of those in the checkpoint,
                of the constructor. A module that was made in Python wants those again that were
                objects: the network and its loss; for training also optimizer and lr_scheduler.

        Raises:
            ValueError: If the checkpoint is damaged or names a class that is not trusted, or if an
                argument is unknown or is not given again.
            RuntimeError: If the weights do not fit the network.
        """
        known = [*inspect.signature(pl.LightningModule.load_from_checkpoint).parameters]
        known += [*cls._arguments(), "trust"]
        if unknown := [name for name in settings if name not in known]:
            hint = did_you_mean(unknown[0], known, f"; there are {', '.join(known)}.")
            raise UserError(f"load_from_checkpoint takes no {unknown[0]}{hint}")
        if not settings.pop("weights_only", True):
            raise UserError("weights_only: a checkpoint is never read in a way that runs code.")
        path = resolve_checkpoint(str(checkpoint_path), "best")
        with open_checkpoint(path) as read:
            module, missing = cls._load(path, read, trust, settings)
        module._missing, module._trained_by = missing, {}
        module._objects |= missing
        return module

    @classmethod
    def _load(
        cls, path: Path, read: OpenCheckpoint, trust: Sequence[str], settings: dict[str, Any]
    ) -> tuple[Self, set[str]]:
        """Builds the module out of a file; also returns which of its objects are missing."""
        saved = read.content.get("hyper_parameters", {})
        taken = {name: value for name, value in saved.items() if name not in settings}
        entry = read.content.get(KEY, {})
        missing = {name for name in entry.get("objects", ()) if name not in settings}
        cls._ask_for(path, [*taken, *settings], missing - OF_TRAINING, "hparams_file" in settings)
        found = Found(f"checkpoint '{path}'", read.origin, entry.get("run", {}))
        allowed = Trust(PACKAGES, trusted=trust, found=found)
        allowed.check_config(taken)
        own = cls._arguments()
        plain = {k: value for k, value in settings.items() if k in own and is_plain(value)}
        # Of the command line: so that a checkpoint of the module can be loaded likewise.
        kept = {**taken, **plain} if "_instantiator" in saved else None
        read.file.seek(0)
        file: Any = read.file  # Lightning takes a file too, and undeclared any that is binary
        try:
            with confined(allowed), _described(kept):
                module = super().load_from_checkpoint(file, weights_only=True, **settings)
        except ArgumentError as error:  # jsonargparse's
            raise UserError(f"'{path}': {error}") from error
        except UnfitWeightsError as error:
            raise UnfitWeightsError(f"'{path}': {error}") from error
        serve_on(allowed.modules)
        return module, missing

    @classmethod
    def _arguments(cls) -> dict[str, inspect.Parameter]:
        """The parameters of the constructor, through ``**kwargs`` also those of its base.

        The latter count as optional, for the class may give them to its base by itself.
        """
        found: dict[str, inspect.Parameter] = {}
        kinds = [kind for kind in cls.__mro__ if "__init__" in vars(kind)]
        for kind in kinds:
            _, *parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
            for parameter in parameters:
                if parameter.kind not in VARIABLE and kind is not kinds[0]:
                    found.setdefault(parameter.name, parameter.replace(default=None))
                elif parameter.kind not in VARIABLE:
                    found[parameter.name] = parameter
            if kind is ClassificationModule or all(p.kind != p.VAR_KEYWORD for p in parameters):
                break
        return found

    @classmethod
    def _ask_for(
        cls, path: Path, there: Collection[str], lost: Collection[str], has_file: bool
    ) -> None:
        """Raises UserError for arguments that must be given again."""
        needed = {
            name: parameter.default is parameter.empty and name not in there and not has_file
            for name, parameter in cls._arguments().items()
        }
        if names := [name for name, is_needed in needed.items() if is_needed or name in lost]:
            again = ", ".join(f"{name}=..." for name in names)
            raise UserError(
                f"'{path}' does not hold {' and '.join(names)}, for a file cannot hold objects; "
                f"give what the module was made with: load_from_checkpoint(path, {again})."
            )

    def _save_plain_arguments(self, frame: FrameType | None) -> set[str]:
        """Saves the arguments of the constructor for ``load_from_checkpoint``.

        From the command line they are plain class_path mappings. Elsewhere some are objects, which
        a checkpoint that loads with ``weights_only=True`` cannot hold; they are returned.
        """
        described = _given_hyperparameters.get()
        assert frame
        collected = collect_init_args(frame, [], classes=(pl.LightningModule,))
        given = collected[-1]  # to the class itself, be it one derived from this
        defaults = {name: p.default for name, p in type(self)._arguments().items()}
        objects = {
            name
            for name, value in given.items()
            if not is_plain(value)
            and value is not defaults.get(name)
            and name not in (described or ())
        }
        names = {name for arguments in collected for name in arguments}
        plain = {name for name in given if name not in objects and is_plain(given[name])}
        ignored = () if described else [*(names - plain)]
        self.save_hyperparameters(ignore=ignored, frame=frame)
        return objects

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loads weights, as every module does.

        Raises:
            UnfitWeightsError: If they are not those of the network.
        """
        try:
            return super().load_state_dict(*args, **kwargs)
        except RuntimeError as error:
            told = shorten(str(error).splitlines()[1], 160, placeholder=" …")
            raise UnfitWeightsError(f"the checkpoint does not fit the network: {told}") from error

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
        self._refuse_lost_objects()
        optimizer = self._built("optimizer", self.optimizer, self._parameter_groups())
        for group in optimizer.param_groups:
            if not 0 <= group["lr"] < math.inf:  # also false for NaN, which SGD itself accepts
                raise UserError(f"model.optimizer: lr must be a number >= 0, not {group['lr']}.")
        scheduler = self.lr_scheduler and self._built("lr_scheduler", self.lr_scheduler, optimizer)
        self._classes = {"optimizer": _class_of(optimizer), "lr_scheduler": _class_of(scheduler)}
        self._refuse_other_classes()
        if scheduler is None:
            return optimizer
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": self.interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            # Lightning's own subclass of it names its metric itself.
            monitor = settings["monitor"] = getattr(scheduler, "monitor", self.monitor)
            mode = self.mode_of(monitor)
            if self.run_format > 1 and mode not in (None, scheduler.mode):
                raise UserError(
                    f"model.lr_scheduler: {type(scheduler).__name__} has mode={scheduler.mode!r}, "
                    f'but {better(monitor, mode)}; give it mode="{mode}".'
                )
            if self.interval == "epoch" and monitor.startswith("val_"):
                settings["frequency"] = self.trainer.check_val_every_n_epoch or 1
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def _refuse_lost_objects(self) -> None:
        if self._missing:
            names = sorted(self._missing)
            raise UserError(
                f"the checkpoint does not hold its {' and '.join(names)}, for a file cannot hold "
                "objects; for training give what it was trained with: load_from_checkpoint(path, "
                f"{', '.join(f'{name}=...' for name in names)})."
            )

    def _refuse_other_classes(self) -> None:
        """Where a training goes on whose settings are objects, which cannot be compared."""
        for name, before in self._trained_by.items():
            if self.trainer.ckpt_path and before not in (None, now := self._classes[name]):
                raise UserError(
                    f"the checkpoint was trained with {before}, but the {name} of this module is "
                    f"{now}. Give it that one, or train without ckpt_path, from the weights of "
                    "load_from_checkpoint."
                )

    def _built(self, name: str, build: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return build(argument)
        except (ValueError, TypeError) as error:
            raise UserError(f"model.{name}: {error}") from error

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
        notes = {"objects": sorted(self._objects), "classes": self._classes}
        checkpoint[KEY] = self.provenance | {k: v for k, v in notes.items() if v}
        checkpoint["loss_watch"] = dataclasses.asdict(self.watch)
        network = checkpoint["hyper_parameters"].get("network")
        if network is not None:
            network = copy.deepcopy(network)
            without_pretrained(network)
            hyperparameters = {**checkpoint["hyper_parameters"], "network": network}
            checkpoint["hyper_parameters"] = hyperparameters

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        entry = checkpoint.get(KEY, {})
        if entry:
            self.run_format = entry.get("format", 1)
        self.watch = LossWatch(**checkpoint.get("loss_watch", {}))
        described = "network" in checkpoint.get("hyper_parameters", {})
        if described and not self._objects:
            self.replayed_steps = follow_new_settings(checkpoint, self.hparams)
        else:
            self._trained_by = dict(entry.get("classes", {}))

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
        raise UserError(
            f"model.network: {type(self.network).__name__} returns {got}, expected logits "
            f"{expected} for {expected[1]} classes. Set its number of outputs in init_args, and "
            "no auxiliary outputs."
        )


def _class_of(value: object) -> str | None:
    return None if value is None else f"{type(value).__module__}.{type(value).__qualname__}"


def _described(settings: dict[str, Any] | None) -> AbstractContextManager[None]:
    """Within, a module takes these for its hyperparameters, as one of the command line does."""
    if settings is None:
        return nullcontext()
    return _given_hyperparameters_context(settings, settings["_instantiator"])


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
