"""A module whose optimizer, schedule, rates and frozen parts are those of its settings.

What is filled in, what is multiplied and what is frozen is computed from the settings and the
place in the training; none of it stands in a state, so that a resumed training has it by itself.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from classifier.checkpoint.find import KEY
from classifier.errors import UserError
from classifier.length import TrainingLength
from classifier.loading import FROM_CONFIG, LoadableModule
from classifier.metrics import Mode, better
from classifier.optimization.build import (
    OptimizerBuilder,
    SchedulerBuilder,
    build,
    class_and_settings,
    refuse_other_classes,
    try_schedule,
)
from classifier.optimization.groups import Group, Grouping, layer_scales, plain_groups
from classifier.optimization.rates import Rates, Warmup, check_warmup
from classifier.optimization.resumed import follow_new_settings, replay_schedule
from classifier.optimization.schedules import (
    Interval,
    interval_of,
    missing_length,
    refuse_rates_by_group,
    refuse_short_cycle,
)


class LearningModule(LoadableModule):
    """A LightningModule that its settings optimize; its arguments are ClassificationModule's.

    Attributes:
        grouping: The groups of parameters, once a training is set up; None without patterns.
        rates: What multiplies the schedule's rate in each step; None where nothing does.
        replays: Whether a resumed schedule was changed, and is played again when training begins;
            None where that is not for the settings to say.
    """

    class_names: list[str]
    network: nn.Module
    optimizer: OptimizerBuilder
    lr_scheduler: SchedulerBuilder | None
    monitor: str
    interval: Interval | None
    no_decay_norm_bias: bool
    warmup: Warmup | None
    groups: Sequence[Group] | None
    layer_decay: float | None

    def __init__(self) -> None:
        super().__init__()
        self.grouping: Grouping | None = None
        self.rates: Rates | None = None
        self.replays: bool | None = None
        self._is_fitted = False  # set up for that
        self._schedule: dict[str, Any] = {}  # what is filled in, and when it moves on
        self._held: set[str] = set()  # layers whose running statistics are kept

    def mode_of(self, metric: str) -> Mode | None:
        """Whether the smallest or the largest value of a metric is the best; None if unknown."""
        raise NotImplementedError

    def metric_modes(self) -> dict[str, Mode | None]:
        """The metrics that a training logs after its epochs, each with its best value."""
        raise NotImplementedError

    # ---- what is optimized ----

    def setup(self, stage: str) -> None:
        """Freezes what the first epoch does not train, before DDP sees what is trained."""
        self._is_fitted = stage == "fit"
        if not self._is_fitted:
            return
        self.rates, self.replays, self._schedule = None, None, {}
        if self.warmup is not None:
            check_warmup(self.warmup)
        if self.groups or self.layer_decay is not None:
            self.grouping = self.grouping or self._grouped()
            self._freeze(0)
            # Those of a training before are let go: Lightning warns of them as it begins.
            self._hold_statistics(math.inf)

    @property
    def scales_rates(self) -> bool:
        """Whether a step has other rates than the schedule says."""
        return bool(self.groups) or self.layer_decay is not None or self.warmup is not None

    @property
    def _length(self) -> TrainingLength:
        return TrainingLength(self.trainer)

    def _trained(self) -> list[nn.Parameter]:
        """The parameters that have a gradient now."""
        return [p for p in self.parameters() if p.requires_grad]

    def _by_name(self) -> dict[str, nn.Parameter]:
        """All parameters; those of the network by their names within it."""
        return {n.removeprefix("network."): p for n, p in self.named_parameters()}

    def _grouped(self) -> Grouping:
        layers = {}
        if self.layer_decay is not None:
            layers = layer_scales(self.network, self.layer_decay)
        trained = {name: p for name, p in self._by_name().items() if p.requires_grad}
        split = self.no_decay_norm_bias
        classes = len(self.class_names)
        return Grouping(trained, self.network, self.groups or (), layers, split, classes)

    def _optimizer_groups(self) -> list[Any]:
        if self.grouping is None:
            return plain_groups(self._trained(), self.no_decay_norm_bias)
        parameters = self._by_name()
        return [
            {"params": [parameters[name] for name in group.parameters], "name": group.name}
            | ({} if group.weight_decay is None else {"weight_decay": group.weight_decay})
            for group in self.grouping.trained
        ]

    def configure_optimizers(self) -> Any:
        self.require_objects()
        if self.grouping is not None:
            self._check_grouping(self.grouping)
        optimizer = build("optimizer", self.optimizer, self._optimizer_groups())
        if self.grouping is not None:
            self.grouping.check_optimizer(optimizer)
        if self.scales_rates:
            self.rates = self._rates_of(optimizer)
        self._schedule = self._schedule or self._filled_in()
        builder = self._schedule_builder()
        if builder and not is_overridden("lr_scheduler_step", self):
            try_schedule(builder, optimizer)
        scheduler = builder and build("lr_scheduler", builder, optimizer)
        self._classes = {"optimizer": _class_of(optimizer), "lr_scheduler": _class_of(scheduler)}
        if self.trainer.ckpt_path:
            refuse_other_classes(self._trained_by, self._classes)
        if scheduler is None:
            return optimizer
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": self._schedule["interval"]}
        if isinstance(scheduler, ReduceLROnPlateau):
            settings |= self._settings_of_plateau(scheduler)
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def _check_grouping(self, grouping: Grouping) -> None:
        refuse_rates_by_group(self.lr_scheduler)
        unfreezes = any(group.frozen for group in grouping.trained)
        known = unfreezes and not self._length.is_trial
        grouping.check_length(self._length.epochs() if known else None, self._length.ended_by())
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, DDPStrategy):
            raise UserError(
                f"model.groups: {type(self.trainer.strategy).__name__} does not tell parameters "
                "apart; on several devices use --trainer.strategy ddp."
            )

    def _rates_of(self, optimizer: Optimizer) -> Rates:
        trained = self.grouping.trained if self.grouping else []
        scales = [group.lr_scale for group in trained] or [1.0] * len(optimizer.param_groups)
        return Rates(optimizer, scales, self._warmup_steps(), lambda: self.trainer.global_step)

    def _warmup_steps(self) -> int:
        if self.warmup is None:
            return 0
        length = self._length
        epochs, steps = self.warmup.get("epochs"), self.warmup.get("steps")
        warmup = int(steps) if steps else max(1, length.steps_before(epochs or 0))
        every = length.steps()
        if every is not None and warmup > every and not length.is_trial:
            raise UserError(
                f"model.warmup takes {warmup:,} steps, but the training has {every:,}; it is part "
                "of the training, so make it shorter."
            )
        return warmup

    # ---- the schedule ----

    def _filled_in(self) -> dict[str, Any]:
        """What the schedule takes from the trainer: its length, if not given, and its interval."""
        if self.lr_scheduler is None:
            return {}
        interval = interval_of(self.lr_scheduler, self.interval)
        refuse_short_cycle(self.lr_scheduler, interval, lambda: self._length_by(interval))
        name = missing_length(self.lr_scheduler)
        if name is None:
            return {"interval": interval}
        number = self._length_by(interval)
        if number is None:
            kind, _ = class_and_settings(self.lr_scheduler)
            raise UserError(
                f"model.lr_scheduler: {kind.__name__ if kind else ''} has to know how long the "
                "training is, but only trainer.max_time ends it; set trainer.max_epochs or "
                f"trainer.max_steps, or {name} in init_args."
            )
        return {"interval": interval, name: number}

    def _length_by(self, interval: Interval, *place: int) -> int | None:
        """How often a schedule goes on in the training, or from a place on."""
        length = self._length
        return length.epochs(*place) if interval == "epoch" else length.steps(*place)

    @property
    def _filled_length(self) -> int | None:
        """The length that is filled into the schedule; None where none is."""
        return next((n for name, n in self._schedule.items() if name != "interval"), None)

    def _schedule_builder(self) -> SchedulerBuilder | None:
        filled = {key: value for key, value in self._schedule.items() if key != "interval"}
        builder = self.lr_scheduler
        return partial(builder, **filled) if builder and filled else builder

    def _settings_of_plateau(self, scheduler: ReduceLROnPlateau) -> dict[str, Any]:
        # Lightning's own subclass of it names its metric itself.
        monitor = getattr(scheduler, "monitor", self.monitor)
        if self._schedule["interval"] == "step":
            self._check_measured_by_step(type(scheduler).__name__, monitor)
        mode = self.mode_of(monitor)
        if self.run_format > 1 and mode not in (None, scheduler.mode):
            raise UserError(
                f"model.lr_scheduler: {type(scheduler).__name__} has mode={scheduler.mode!r}, "
                f'but {better(monitor, mode)}; give it mode="{mode}".'
            )
        if self._schedule["interval"] == "epoch" and monitor.startswith("val_"):
            return {"monitor": monitor, "frequency": self.trainer.check_val_every_n_epoch or 1}
        return {"monitor": monitor}

    def _check_measured_by_step(self, schedule: str, monitor: str) -> None:
        """Raises UserError if a step would look for a metric that only epochs have."""
        every = self.trainer.val_check_interval
        validated = isinstance(every, int) and every <= self._length.window(0)
        if monitor in self.metric_modes() and not (validated and monitor.startswith("val_")):
            raise UserError(
                f"model.interval is step, but {schedule} follows {monitor}, which the first step "
                "does not have yet; leave model.interval out, and it goes on after each epoch."
            )

    # ---- a training ----

    def on_fit_start(self) -> None:
        """Refuses settings that optimizers of another making do not follow."""
        if self.scales_rates and (self.rates is None or not self.automatic_optimization):
            raise UserError(
                f"model.warmup, groups and layer_decay: {type(self).__name__} optimizes in a way "
                "of its own, which does not follow them; leave them out."
            )

    def on_train_start(self) -> None:
        """Plays a changed schedule up to where training goes on; trains what is trained there."""
        if self.replays is not None:
            self._resume_schedule(self._position())
        # Lightning does not begin an epoch that is resumed inside.
        _, steps_done, _ = self._length.place()
        self.begin_epoch(steps_done)

    def _position(self) -> int:
        """How often the schedule has gone on, had all been as now: the length less what is left."""
        interval = self._schedule.get("interval", "epoch")
        epoch, done, taken = self._length.place()
        length, left = self._length_by(interval), self._length_by(interval, epoch, done, taken)
        if length is None or left is None:
            return epoch if interval == "epoch" else taken
        return length - left

    def _resume_schedule(self, position: int) -> None:
        """Plays the schedule up to its position if it was changed, or is not there.

        As where an epoch begins again, whose first steps are taken twice.
        """
        configs = self.trainer.lr_scheduler_configs
        by_step = self._filled_length is not None and self._schedule["interval"] == "step"
        follows = by_step and self.automatic_optimization
        if not (self.replays or (follows and configs[0].scheduler.last_epoch != position)):
            return
        (optimizer,) = self.trainer.optimizers
        if scheduler := replay_schedule(optimizer, self._schedule_builder(), position):
            configs[0].scheduler = scheduler

    def on_train_epoch_start(self) -> None:
        """Trains what is trained from this epoch on."""
        self.begin_epoch()

    def begin_epoch(self, steps_done: int = 0) -> None:
        """Sets what is trained in this epoch, so many steps after its start, and since which."""
        if self.rates is None:
            return
        if self.grouping is not None:
            epoch = self.trainer.current_epoch
            self._hold_statistics(epoch)
            if self._freeze(epoch) and isinstance(self.trainer.strategy, DDPStrategy):
                # Its reducer knows only what had a gradient when it was made: ranks would drift.
                self.trainer.strategy.model = self
                self.trainer.strategy.configure_ddp()
        trained = self.grouping.trained if self.grouping else []
        frozen = [group.frozen for group in trained] or [0] * len(self.rates.begins)
        self.rates.begins = [self._begin(epochs, steps_done) for epochs in frozen]

    def _begin(self, frozen: float, steps_done: int) -> float:
        """The step at which a group that is frozen for some epochs begins to warm up.

        It is counted back from here, for epochs may have had other lengths before a resume.
        """
        epoch, length = self.trainer.current_epoch, self._length
        if frozen > epoch:
            return math.inf
        if self.warmup is None or not (frozen or self.warmup.get("epochs")):
            return 0
        start = self.trainer.global_step - steps_done
        return start - length.steps_before(epoch) + length.steps_before(frozen)

    def _freeze(self, epoch: int) -> bool:
        """Lets exactly what an epoch trains have a gradient; returns whether anything changed."""
        assert self.grouping
        frozen, parameters = self.grouping.frozen_in(epoch), self._by_name()
        names = [name for group in self.grouping.groups for name in group.parameters]
        changed = [parameters[n] for n in names if parameters[n].requires_grad == (n in frozen)]
        for parameter in changed:
            parameter.requires_grad_(not parameter.requires_grad)
            parameter.grad = None
        return bool(changed)

    def _hold_statistics(self, epoch: float) -> None:
        """Lets batch normalisation in a part that is frozen keep its running statistics."""
        assert self.grouping
        for name, epochs in self.grouping.norms.items():
            layer = self.network.get_submodule(name)  # which sync_batchnorm may have replaced
            if epoch < epochs and layer.training:
                layer.eval()
                self._held.add(name)
            elif epoch >= epochs and name in self._held:
                layer.train()
                self._held.discard(name)

    # ---- what is shown ----

    def trained_from(self) -> list[tuple[int, int]]:
        """How many parameters are trained, by the epoch, counted from 0, from which on they are."""
        parameters = self._by_name()
        if self.grouping is None:
            return [(0, sum(p.numel() for p in self._trained()))]
        groups = self.grouping.trained
        every = {n for group in groups for n in group.parameters}
        return [
            (epoch, sum(parameters[n].numel() for n in every - self.grouping.frozen_in(epoch)))
            for epoch in sorted({0, *(int(group.frozen) for group in groups)})
        ]

    def learning_rate(self) -> float:
        """The rate of the next step, of parameters whose ``lr_scale`` is 1."""
        if not self.trainer.optimizers:
            return 0.0
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        if self.rates is None:
            return rate
        return rate * self.rates.rise(self.trainer.global_step - min(self.rates.begins))

    # ---- its checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._schedule:
            checkpoint[KEY] = {**checkpoint[KEY], "schedule": self._schedule}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        described: tuple[Mapping[str, Any], ...]
        described = (checkpoint.get("hyper_parameters", {}), self.hparams)
        if all(FROM_CONFIG in settings for settings in described) and not self._objects:
            self._trained_by = {}
            # Not if a subclass, or LightningCLI's add_optimizer_args, has a way of its own.
            function = getattr(self.configure_optimizers, "__func__", None)
            if function is LearningModule.configure_optimizers:
                self._schedule = self._filled_in() if self._is_fitted else {}
                decays = [g.weight_decay for g in self.grouping.trained] if self.grouping else []
                self.replays = follow_new_settings(checkpoint, self.hparams, self._schedule, decays)


def _class_of(value: object) -> str | None:
    return None if value is None else f"{type(value).__module__}.{type(value).__qualname__}"
