"""The LightningCLI of this package: YAML and command line to trainer, module and data."""

import argparse
import contextlib
import os
import secrets
import shlex
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeFloat, PositiveInt
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback, ProgressBar, RichProgressBar, Timer
from pytorch_lightning.cli import LightningCLI
from torch.nn import Identity

import classifier.augment
import classifier.networks  # noqa: F401  # short class names work for what is imported
from classifier import runs, terminal
from classifier.anchored_yaml import anchors, load, with_aliases
from classifier.callbacks.checkpoint_io import save_durably
from classifier.callbacks.checkpoints import (
    BetweenEpochs,
    RunCheckpoints,
    refuse_taken_names,
)
from classifier.callbacks.console import Console, RichBar
from classifier.callbacks.data_notes import DataNotes
from classifier.callbacks.finite_loss import FiniteLoss
from classifier.callbacks.freed_memory import FreedMemory
from classifier.callbacks.logger import RunLogger
from classifier.callbacks.predictions import PredictionWriter
from classifier.callbacks.rank_watch import RankWatch
from classifier.callbacks.run_record import RunRecord
from classifier.callbacks.same_conditions import SameConditions
from classifier.callbacks.same_data import SameData
from classifier.callbacks.stop_signals import no_signal_handlers
from classifier.callbacks.stops import EndsAt
from classifier.callbacks.trial import Trial, TrialReport
from classifier.checkpoint import signature
from classifier.checkpoint.modules import code_digests, used_modules
from classifier.checkpoint.provenance import settings_digest
from classifier.checkpoint.read import without_pretrained
from classifier.checkpoint.trust import PACKAGES, class_paths, confined, signed_part
from classifier.cli.arguments import Arguments
from classifier.cli.links import LINKS, Instantiator, fill, refuse_nulls, refuse_other_numbers
from classifier.cli.modes import MODES, fill_modes
from classifier.cli.parser import Parser
from classifier.cli.places import telling_where
from classifier.cli.run_folder import run_folder
from classifier.cli.writing import writing
from classifier.cli.written import Written, comment
from classifier.data import ImageDataModule
from classifier.data.workers import WorkerErrorReporter
from classifier.errors import DataWorkerError, UserError, did_you_mean
from classifier.internals.lightning import lean_hooks
from classifier.metrics import better
from classifier.module import ClassificationModule
from classifier.platform import cleaning
from classifier.sources.finder import find_images

MAX_PROCESSES = max(8, os.cpu_count() or 1)  # of one training on this machine
HIDDEN = argparse.SUPPRESS
NOT_CONTIGUOUS = "view size is not compatible"  # how torch refuses to view what lies otherwise
NEEDS_CONTIGUOUS = (
    "model.channels_last: the network, its optimizer or a callback needs weights or images in the "
    "usual memory format: --model.channels_last false."
)
USAGE = {
    "fit": (
        "--config FILE [--KEY VALUE ...]",
        "Trains a network, or with --ckpt_path alone goes on training one.",
    ),
    "validate": (
        "--ckpt_path FILE [--KEY VALUE ...]",
        "Evaluates a checkpoint on the validation set.",
    ),
    "test": ("--ckpt_path FILE [--KEY VALUE ...]", "Evaluates a checkpoint on the test set."),
    "predict": (
        "--ckpt_path FILE --images PATH ... [--output FILE] [--KEY VALUE ...]",
        "Writes the classes of image files to a CSV file.",
    ),
}
EPILOG = (
    "--KEY.help CLASS shows the settings of a class, such as --model.optimizer.help Adam or "
    "--data.help CIFAR10; --print_config shows the whole config and runs nothing. "
    "--trust PACKAGE[,PACKAGE] lets the config of a checkpoint use other classes than those of "
    f"{', '.join(PACKAGES)}; your own configs and command line may use any."
)


class ClassifierCLI(LightningCLI):
    """``classifier fit | validate | test | predict``.

    Args:
        arguments: The command line, read and checked.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.config_text = ""
        self.exit_code = 0
        self.folder: Path | None = None
        self.undirected: list[str] = []
        """What there is to say of metrics of which nothing says which way they are better."""
        with confined(arguments.trust), telling_where(arguments.missing):
            self._run()

    def _run(self) -> None:
        super().__init__(
            ClassificationModule,
            ImageDataModule,
            subclass_mode_data=True,
            save_config_callback=None,  # RunRecord does it, for fit only
            trainer_defaults={"enable_model_summary": False},
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False, "prog": "classifier"},
            auto_configure_optimizers=False,
            args=self.arguments.argv,
        )

    # ---- the parser ----

    def init_parser(self, **kwargs: Any) -> Any:
        # Without header: versions stand in run.json, and a printed config prints itself.
        return super().init_parser(**{**kwargs, "dump_header": None})

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static in Lightning
        """Only the one asked for, which halves the time to build the parser."""
        skip = super().subcommands()[self.arguments.verb] | {"weights_only", "return_predictions"}
        return {self.arguments.verb: skip}

    def add_default_arguments_to_parser(self, parser: Any) -> None:
        # First, so that a dumped config defines its anchors before it uses them.
        parser.add_argument(
            "--hyperparameters",
            type=dict,
            default={},
            help="Values named once by YAML anchors and used anywhere by aliases. "
            "--hyperparameters.NAME VALUE changes every use.",
        )
        super().add_default_arguments_to_parser(parser)

    def add_arguments_to_parser(self, parser: Any) -> None:
        for source, target in LINKS:
            parser.link_arguments(source, target, apply_on="instantiate")
        self._add_save_every(parser)
        if self.arguments.verb == "predict":
            parser.add_argument("--images", nargs="+", help="Image files, folders or globs.")
            parser.add_argument("--output", default="predictions.csv", help="CSV file to write.")
            parser.add_argument("--top_k", type=int, default=5, help="Classes a row, best first.")
        aliases = anchors(self.arguments.texts)
        parser.finish = lambda text: with_aliases(text, aliases) + comment(self.written.keys)
        parser.where = self.arguments.where
        usage, parser.description = USAGE[self.arguments.verb]
        parser.usage = f"classifier {self.arguments.verb} {usage}"
        parser.epilog = EPILOG

    def _add_save_every(self, parser: Any) -> None:
        """For all verbs, because any may be given the config of a training."""
        shown = self.arguments.verb == "fit"
        parser.add_argument(
            "--save_every.minutes",
            type=NonNegativeFloat,
            default=5.0,
            help="How much of an epoch may be lost when a training is killed." if shown else HIDDEN,
        )
        parser.add_argument(
            "--save_every.steps",
            type=PositiveInt | None,
            default=None,
            help="The same, in optimizer steps. The end of an epoch is always saved."
            if shown
            else HIDDEN,
        )

    def parse_arguments(self, parser: Any, args: Any) -> None:
        parser.where = self.arguments.where
        self.written = Written(parser, self.arguments)
        self.config = parser.parse_args(self.written.argv)
        seed = self.settings.seed_everything
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
            where = self.arguments.where("seed_everything")
            raise UserError(
                f"{where}seed_everything: a seed is from 0 to {2**32 - 1:,}, not {seed}."
            )
        if seed is True:  # Lightning would take 0
            drawn = secrets.randbelow(2**32)
            # Ranks that Lightning starts find the seed of rank zero in this variable.
            self.settings.seed_everything = int(os.environ.get("PL_GLOBAL_SEED", drawn))

    def _parse_ckpt_path(self) -> None:
        """Switched off: Lightning's lets the checkpoint win over the command line.

        ``Arguments`` puts the checkpoint's config in front of all others instead.
        """

    # ---- the objects ----

    def _add_instantiators(self) -> None:
        for key, kind in (("model", ClassificationModule), ("data", ImageDataModule)):
            self.parser.add_instantiator(Instantiator(self, key), kind, subclasses=True)

    def before_instantiate_classes(self) -> None:
        with refused_values():
            self._build_data_and_fill()

    def instantiate_classes(self) -> None:
        with refused_values():
            super().instantiate_classes()

    def _build_data_and_fill(self) -> None:
        config, parser = self.settings, self._parser(self.subcommand)
        if self.arguments.verb == "predict" and not config.images:
            raise UserError("predict needs --images PATH ..., image files, folders or globs.")
        used = {key: part for key, part in config.as_dict().items() if key != "hyperparameters"}
        refuse_nulls(used, self.arguments)
        data_only = Namespace(data=config.data.clone())  # type: ignore[no-untyped-call]
        data = parser.instantiate(data_only, instantiate_groups=False)
        self.datamodule: ImageDataModule = data.data
        if self.arguments.verb == "fit" and self.arguments.format > 1:
            # A module without a network has the same metrics.
            metrics = ClassificationModule(Identity(), self.datamodule.class_names).metric_modes()
            where = self.arguments.where
            self.undirected = fill_modes(config, metrics, self.written.keys, where)
        resumable = config.clone()
        resumable.ckpt_path = None  # a config that is run again starts again
        self.config_text = parser.dump(resumable, skip_unset=False)
        refuse_other_numbers(self.arguments, self.datamodule)
        fill(config.model.network, self.datamodule)
        if self.arguments.checkpoint_path:
            without_pretrained(config.model.network)
        # Cached when the data was built; the module's hyperparameters need the filled network.
        del self.config_dump

    @property
    def settings(self) -> Namespace:
        """The config of the command."""
        settings: Namespace = self.config[self.arguments.verb]
        return settings

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        config = self._get(self.config_init, "trainer")
        self.worker_errors = WorkerErrorReporter()
        config.callbacks = [self.worker_errors, *(config.callbacks or [])]
        if self.arguments.verb == "fit":
            self._check_monitors(config.callbacks, validated=config.limit_val_batches != 0)
        self._add_progress_bar(config)
        if fingerprint := self.arguments.run.get("data", {}).get("fingerprint"):
            config.callbacks.append(SameData(fingerprint))
        if self.arguments.verb == "predict":
            self._add_writer(config)
        if self.arguments.verb != "fit":
            config.logger = False
            self._print_notes()
            config.callbacks.append(DataNotes())
        elif config.fast_dev_run or config.barebones:
            self._print_notes()
            checked = FiniteLoss(None, self.settings.seed_everything)
            config.callbacks += [DataNotes(), checked, Console(None)]
        else:
            self.keep_run(config)
        config.callbacks += [FreedMemory(), RankWatch(self.folder)]
        try:
            trainer = super().instantiate_trainer(**kwargs)
            _check_processes(trainer)
            save_durably(trainer)
            self._note_precision(trainer)
            return trainer
        except Exception:
            if self.folder:
                runs.give_back(self.folder)
            raise

    def _note_precision(self, trainer: pl.Trainer) -> None:
        """Says that an evaluation differs from those of the training, and how it would not."""
        here = str(trainer.precision)
        before = terminal.escape(str(self.arguments.run.get("precision", here)))
        if self.arguments.verb in ("validate", "test") and before != here:
            terminal.note(
                f"trained with precision {before}, evaluated with {here}, so the last digits "
                "differ from those of the training; "
                f"--trainer.precision {shlex.quote(before)} gives the same."
            )

    def _add_progress_bar(self, config: Namespace) -> None:
        if any(isinstance(callback, ProgressBar) for callback in config.callbacks):
            return  # the user's, which Lightning takes unless it is told that there is none
        if config.enable_progress_bar is None and not terminal.is_interactive():
            config.enable_progress_bar = False
        if config.enable_progress_bar is not False and not config.barebones:
            config.callbacks.append(RichBar())

    def _check_monitors(self, callbacks: list[Callback], validated: bool) -> None:
        """Finds out now, not after the first epoch, that nothing logs a monitored metric."""
        names = self.model.metric_modes()
        # A callback of the user may log anything.
        own = any(not type(c).__module__.startswith(("pytorch_l", "classifier")) for c in callbacks)
        for key, monitor in self.monitors(callbacks):
            if own or monitor is None:
                continue
            if monitor not in names:
                hint = did_you_mean(monitor, names, f"; there are {', '.join(names)}.")
                raise UserError(f"{key}: no metric '{monitor}'{hint}")
            # Without validation the best checkpoint is the last one.
            if not validated and key != "model.monitor" and monitor.startswith("val_"):
                raise UserError(f"{key}: trainer.limit_val_batches is 0, so there is no {monitor}.")
        if self.undirected:
            raise UserError(self.undirected[0])
        for callback in callbacks if self.arguments.format > 1 else ():
            monitor, mode = str(getattr(callback, "monitor", "")), getattr(callback, "mode", None)
            right = self.model.mode_of(monitor)
            if right and mode in MODES and mode != right:  # one that its class fixes
                told = f"has the mode {mode}, but {better(monitor, right)}"
                raise UserError(f"{type(callback).__name__} {told}: take another callback.")

    def monitors(self, callbacks: list[Callback]) -> list[tuple[str, str | None]]:
        """The metrics that must be logged, each with the setting that names it."""
        own = [
            (type(callback).__name__, getattr(callback, "monitor", None)) for callback in callbacks
        ]
        return [("model.monitor", self.model.monitor), *own]

    def keep_run(self, config: Namespace) -> None:
        """Claims the run folder and adds the logger and the callbacks that fill it."""
        if self.arguments.format > 1:
            refuse_taken_names(config.callbacks)
        self._print_notes()
        root = Path(config.default_root_dir or "runs").resolve()
        name = self.arguments.name or type(self.datamodule).__name__.lower()
        trial = Trial.from_environment()
        with writing(root):
            folder, resumed = run_folder(self.arguments, root, name, trial)
        self.folder = folder
        done = self.arguments.epochs_done
        if resumed and config.max_epochs is not None and 0 <= config.max_epochs < done:
            raise UserError(
                f"trainer.max_epochs is {config.max_epochs}, but {done} epochs are done; "
                "more epochs go on, an earlier checkpoint starts a new run."
            )
        if config.logger in (None, True):
            # What a resumed training repeats is dropped from the earlier curve.
            step = self.arguments.global_step if resumed else None
            config.logger = RunLogger(folder, step)
        if config.enable_checkpointing is not False:
            monitor, direction = self._monitor(trial)
            validated = config.limit_val_batches != 0 or not monitor.startswith("val_")
            save_every = self.settings.save_every
            checkpoints = RunCheckpoints(
                folder,
                monitor if validated else None,
                direction,
                self.config_text,
                save_every.minutes,
                save_every.steps,
            )
            config.callbacks = [
                BetweenEpochs(checkpoints),
                *config.callbacks,
                checkpoints,
            ]
        trusted = self.arguments.trust.for_record()
        paths = [*class_paths(self.settings.as_dict()), *trusted]
        modules = {path.partition(".")[0] for path in paths}
        own = used_modules(modules)
        facts = {
            "format": self.arguments.format,
            "id": runs.read_record(folder).get("id") if resumed else uuid.uuid4().hex,
            "name": trial.name if trial else folder.parent.name,
            "working_folder": str(Path.cwd()),
            "command": terminal.command(*self.arguments.given),
            "seed": self.settings.seed_everything,
            "settings": self._settings_so_far(),
            "written": self.written.keys,
            "trusted": trusted,
            "code": code_digests(own),
            "code_folders": {name: str(path.parent) for name, path in own.items()},
            "environment": runs.environment(modules),
        }
        facts["signature"] = signature.sign("run", signed_part(facts, self.config_text))
        self._note_signature(trusted)
        config.callbacks += [
            DataNotes(),
            SameConditions(self.arguments.before),
            FiniteLoss(folder, facts["seed"]),
            RunRecord(folder, self.config_text, facts, bool(self.arguments.checkpoint_path)),
            Console(folder),
        ]
        if trial:
            config.callbacks.append(TrialReport(trial))
        if last := os.environ.get(runs.LAST_STEP):
            timeless = [c for c in config.callbacks if not isinstance(c, Timer)]
            config.callbacks = [*timeless, EndsAt(int(last))]

    def _note_signature(self, trusted: list[str]) -> None:
        """Says now what going on and evaluating will ask for later."""
        hindrance = signature.hindrance(make=True)  # else why none could be made stays unsaid
        needed = trusted or (hindrance and signature.VARIABLE in os.environ)
        if hindrance and needed:
            told = f"the run cannot be signed, for {hindrance}"
        elif trusted and signature.ends_with_container():
            told = (
                f"the key that signs the run, '{signature.key_file()}', ends with this container; "
                f"{signature.VARIABLE}=FILE names one that stays."
            )
        else:
            return
        packages = ",".join(self.arguments.trust.packages_of(trusted))
        later = f" Without it, test and resuming will want --trust {packages}." if trusted else ""
        terminal.note(f"{told}{later}")

    def _monitor(self, trial: Trial | None) -> tuple[str, runs.Direction]:
        """The metric whose best value is ``best.ckpt``, and which way it is better."""
        monitor: str = self.settings.model.monitor
        if self.arguments.format == 1:
            return monitor, runs.direction_of(monitor)
        if trial:  # so that its best weights are those that the search found
            return trial.monitor, trial.direction
        return monitor, "maximize" if self.model.mode_of(monitor) == "max" else "minimize"

    def _settings_so_far(self) -> list[str]:
        """Digests of the settings that the weights were trained under, one after the other."""
        now = settings_digest(load(self.config_text))
        before = self.arguments.run.get("settings", ["unknown"])
        return list(dict.fromkeys([*before, now])) if self.arguments.checkpoint_path else [now]

    def _print_notes(self) -> None:
        """Says what has no effect, and whose modules are not as they were."""
        unused = (
            f"no alias uses the hyperparameter '{name}', so it has no effect."
            for name in self.arguments.unused
        )
        said = [f"warning: {note}" for note in (*self.written.lost, *unused)]
        said += [f"note: {note}" for note in self.arguments.trust.notes()]
        for line in said:
            rank_zero_only(print)(line, file=sys.stderr)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # Said aloud, it holds whatever the environment says: a checkpoint never runs code.
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def _run_subcommand(self, subcommand: str) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(lean_hooks(self.trainer))
            if subcommand != "fit":
                # There is nothing to save: a signal ends the process at once.
                no_signal_handlers(self.trainer)
                stack.enter_context(cleaning(self._leave_nothing))
            try:
                super()._run_subcommand(subcommand)
            except RuntimeError as error:
                if self.worker_errors.reported:
                    raise DataWorkerError(str(error)) from error
                if self.model.channels_last and str(error).startswith(NOT_CONTIGUOUS):
                    raise UserError(NEEDS_CONTIGUOUS) from error
                raise

    def _leave_nothing(self) -> None:
        """Gives the terminal its cursor back, and ends the other ranks that were started here."""
        bar = self.trainer.progress_bar_callback
        if isinstance(bar, RichProgressBar) and bar.progress is not None:
            bar.progress.stop()
        launcher: Any = self.trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(signal.SIGKILL)

    def fit(self, model: pl.LightningModule, **settings: Any) -> None:
        """Called in place of ``Trainer.fit``: nobody else trains in the run folder meanwhile."""
        with contextlib.ExitStack() as stack:
            if self.folder and self.trainer.is_global_zero:
                stack.enter_context(writing(self.folder))
                # Before Lightning opens the logger, which writes to the folder at once.
                stack.enter_context(runs.locked(self.folder))
            self.trainer.fit(model, **settings)

    # ---- predict ----

    def _add_writer(self, config: Namespace) -> None:
        # One process, for the rows of several would have to be put in order.
        devices = config.devices
        config.devices = devices[:1] if isinstance(devices, list) else 1
        config.strategy, config.num_nodes = "auto", 1
        settings = self.settings
        output = Path(settings.output)
        if output.exists() or output.is_symlink():
            raise FileExistsError(f"--output '{output}' exists; name another file or remove it.")
        if not output.parent.is_dir():
            raise FileNotFoundError(f"--output '{output}': there is no folder '{output.parent}'.")
        if settings.top_k < 1:
            raise UserError(f"--top_k counts classes, so it is at least 1, not {settings.top_k}.")
        self.writer = PredictionWriter(output, self.datamodule.class_names, settings.top_k)
        config.callbacks.append(self.writer)

    def predict(self, model: pl.LightningModule, ckpt_path: str, **_: Any) -> None:
        """Called in place of ``Trainer.predict``: the images are files, not a data set."""
        files = self.datamodule.files_dataloader(find_images(self.settings.images))
        with self.writer.writing():
            self.trainer.predict(
                model, files, ckpt_path=ckpt_path, return_predictions=False, weights_only=True
            )
        self.exit_code = int(bool(self.writer.unreadable))


@contextlib.contextmanager
def refused_values() -> Iterator[None]:
    """Turns what any constructor raises into a mistake of the user, who gave the values."""
    try:
        yield
    except (UserError, OSError, MisconfigurationException):
        raise
    except Exception as error:
        raise UserError(str(error) or type(error).__name__) from error


def _check_processes(trainer: pl.Trainer) -> None:
    """Refuses what would bring the machine down: a process starts for each device of the CPU."""
    if trainer.num_devices > MAX_PROCESSES:
        raise UserError(
            f"trainer.devices: {trainer.num_devices} processes are too many for this machine, at "
            f"most {MAX_PROCESSES}."
        )
