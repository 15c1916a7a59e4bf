"""A training of a config under some execution plan, begun again and again to be timed.

It is that of ``classifier fit`` (its parser, data, augmentation, loop and optimizer) on one device,
without validation, run folder, checkpoints, logger and progress bar.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import yaml

from classifier.callbacks.divergence import StopOnDivergence
from classifier.callbacks.numerics import Numerics
from classifier.callbacks.speed import LeanHooks
from classifier.checkpoint.trust import import_class
from classifier.cli.classifier_cli import ClassifierCLI
from classifier.cli.threads import usual_threads
from classifier.data import ImageDataModule
from classifier.errors import UserError
from classifier.optimization.schedules import length_setting
from classifier.platform import THREADS

# They need a validation, a logger or a run folder.
NOT_TIMED = (
    *(pl.callbacks.Checkpoint, pl.callbacks.EarlyStopping),
    *(pl.callbacks.DeviceStatsMonitor, pl.callbacks.LearningRateMonitor),
)
TRAINER = {
    "fast_dev_run": False,
    "barebones": False,
    "profiler": None,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "max_epochs": -1,
    "max_steps": -1,
    "max_time": None,
    "min_epochs": None,
    "min_steps": None,
    "num_nodes": 1,
    "strategy": "auto",
}
ENDLESS = 10**6  # epochs or steps of a schedule: more than are timed
WARM_UP = 1  # steps, for the first allocates memory


class Meter(pl.Callback):
    """Ends a training after so many steps, or seconds, and knows its losses and its pace.

    Args:
        epochs: Epochs in the whole training, infinite without an end.
        max_steps: Steps in the whole training, likewise. A schedule may be made for no more.
    """

    state_key = "Meter"

    def __init__(self, epochs: float, max_steps: float) -> None:
        self.epochs = epochs
        self.max_steps = max_steps
        self.steps = self.seconds = math.inf  # when it ends; seconds count after the warm-up
        self.whole = math.inf  # steps in the whole training, known from its start on
        self.warm_up = WARM_UP  # steps that are not timed
        self.pace = 0.0  # steps in a second

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.losses: list[torch.Tensor] = []  # of all steps
        self.device = trainer.strategy.root_device
        self.begun = self._now()
        self.whole = min(self.max_steps, self.epochs * trainer.num_training_batches)
        self.steps = min(self.steps, self.whole)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        if not isinstance(outputs, Mapping) or "loss" not in outputs:
            raise UserError(
                "tune compares the losses of the steps, but the training_step of "
                f"{type(pl_module).__name__} returns none."
            )
        self.losses.append(outputs["loss"] * trainer.accumulate_grad_batches)
        done = len(self.losses)
        timed = done - min(self.warm_up, self.steps - 1)
        if timed == 0:
            self.begun = self._now()
        elif timed > 0 and (done >= self.steps or time.perf_counter() - self.begun >= self.seconds):
            self.pace = timed / (self._now() - self.begun)
            trainer.should_stop = True

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()
        return time.perf_counter()


class Candidate(ClassifierCLI):
    """A config, ``given`` by the options of ``fit``, under an execution plan.

    That is settings by dotted key, which win, and the number of threads as ``OMP_NUM_THREADS``. The
    module of data may have the images already.
    """

    def __init__(
        self,
        given: Sequence[str],
        plan: Mapping[str, Any] | None = None,
        data: ImageDataModule | None = None,
    ) -> None:
        self.plan = plan or {}
        self.loaded = data
        self.loss: float | None = None  # the mean of its first steps, once it is measured
        self.preparation = 0.0  # seconds until its first step, beyond those of the config as it is
        self.ratios: list[float] = []  # to the pace of the best so far, in each round
        settings = {key: value for key, value in self.plan.items() if key != THREADS}.items()
        options = (f"--{key}={yaml.safe_dump(value).split()[0]}" for key, value in settings)
        super().__init__(args=[*given, *options], run=False)
        device = self.trainer.strategy.root_device
        usual = usual_threads(self.model.network, self.datamodule, device)
        self.threads = int(self.plan.get(THREADS, usual))

    def before_instantiate_classes(self) -> None:
        model, trainer = self.settings.model.init_args, self.settings.trainer
        limits = trainer.max_epochs, trainer.max_steps
        self.meter = Meter(*(math.inf if limit in (None, -1) else limit for limit in limits))
        # Nothing is validated, so that a scheduler follows what there is.
        model.monitor, model.monitor_mode = "train_loss", None
        settings = (model.lr_scheduler or {}).get("init_args") or {}
        if "monitor" in settings:
            settings["monitor"] = "train_loss"
        if settings.get("mode") == "max":
            settings["mode"] = "min"
        scheduled = model.lr_scheduler and import_class(model.lr_scheduler.class_path)
        length = length_setting(scheduled)
        if length and not settings.get(length):
            settings[length] = ENDLESS  # there is no last epoch to take it from

    def _built_data(
        self,
        kind: type[pl.LightningDataModule],
        *args: Any,
        applied_instantiation_links: Any,  # jsonargparse looks for the name
        **given: Any,
    ) -> ImageDataModule:
        """Builds the data with the images that are there, before it is asked what they are."""
        built = super()._built_data(
            kind, *args, applied_instantiation_links=applied_instantiation_links, **given
        )
        if self.loaded is not None:
            built.reuse_sets_of(self.loaded)
        return built

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Builds a trainer that trains and does nothing else."""
        config = self.config_init.trainer
        callbacks = [c for c in config.callbacks or [] if not isinstance(c, NOT_TIMED)]
        diverging = StopOnDivergence(None, self.settings.seed_everything)
        callbacks += [LeanHooks(), Numerics.of(config), diverging, self.meter]
        devices = config.devices[:1] if isinstance(config.devices, list) else 1
        return pl.Trainer(
            **{**vars(config), **TRAINER, "devices": devices, "callbacks": callbacks, **kwargs}
        )

    @property
    def device(self) -> torch.device:
        """The one that it trains on."""
        return self.trainer.strategy.root_device

    @property
    def images_in_all(self) -> float:
        """How many images the whole training sees; known after the first call of ``losses``."""
        return float(self.datamodule.batch_size * self.meter.whole)

    def losses(self, steps: float, seconds: float = math.inf) -> list[float]:
        """Trains for so many steps, or seconds, from the weights that it has."""
        self._train(steps, seconds)
        losses: list[float] = torch.stack(self.meter.losses).tolist()
        return losses

    def images_per_second(self, seconds: float) -> float:
        self._train(math.inf, seconds)
        return float(self.meter.pace * self.datamodule.batch_size)

    def _train(self, steps: float, seconds: float) -> None:
        loop = self.trainer.fit_loop
        loop.epoch_progress.reset()
        loop.epoch_loop.batch_progress.reset()
        self.meter.steps, self.meter.seconds = steps, seconds
        # What workers had read in advance is used up by then.
        self.meter.warm_up = WARM_UP + 2 * self.datamodule.num_workers
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            self.trainer.fit(self.model, datamodule=self.datamodule)
        finally:
            torch.set_num_threads(before)
