"""The LightningCLI of this package: YAML and command line to trainer, module and data."""

import contextlib
import os
import secrets
import sys
from collections.abc import Collection, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeFloat, PositiveInt
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.utilities.model_helpers import is_overridden
from torchmetrics import Metric

import classifier.augment
import classifier.networks  # noqa: F401  # short class names work for what is imported
from classifier import platform, terminal
from classifier.anchored_yaml.aliases import anchors, with_aliases
from classifier.anchored_yaml.text import load
from classifier.callbacks.checkpoint_io import use_atomic_checkpoints
from classifier.callbacks.ensemble import Ensemble
from classifier.callbacks.predictions import PredictionWriter
from classifier.callbacks.progress import RichBar
from classifier.checkpoint.trust import PACKAGES, confined
from classifier.cli.callbacks import callbacks_for
from classifier.cli.command_line import CommandLine
from classifier.cli.errors import in_other_words
from classifier.cli.fill import (
    fill_metrics,
    fill_modes,
    fill_network,
    fill_preparation,
    preparation_in_words,
    refuse_contradictions,
    refuse_nulls,
    without_links,
)
from classifier.cli.given import NO_IMAGES, cut_aliases
from classifier.cli.job import Job
from classifier.cli.keys import LINKS, MODULE, NETWORK, remember
from classifier.cli.parser import Parser, own_help
from classifier.cli.places import telling_where
from classifier.cli.threads import usual_threads
from classifier.cli.words import EVALUATING, options_of, read_words
from classifier.cli.write_errors import write_error
from classifier.cli.written import Written, comment
from classifier.data import ImageDataModule, LightningData
from classifier.data.workers import WorkerErrorReporter
from classifier.errors import DataWorkerError, UserError
from classifier.internals.lightning import PlainCLI, described, without_signal_handlers
from classifier.metrics import StageMetrics, evaluation_metrics, modes_of, training_metrics
from classifier.module import ClassificationModule
from classifier.optimization.schedules import length_settings
from classifier.platform import THREADS, cleaning, cores
from classifier.runs import PREDICTIONS, RunFolder
from classifier.sources.patterns import find_images
from classifier.tensors import tensors_as_lists
from classifier.weights.origin import refuse_other_ways, switch_off_pretrained

MAX_PROCESSES = max(8, os.cpu_count() or 1)  # of one training on this machine
NOT_CONTIGUOUS = "view size is not compatible"  # how torch refuses to view what lies otherwise
NEEDS_CONTIGUOUS = (
    "model.channels_last: the network, its optimizer or a callback needs weights or images in the "
    "usual memory format: --model.channels_last false."
)
NOT_TAKEN = {"weights_only", "return_predictions"}  # of Lightning's methods: never otherwise here
USAGE = {
    "fit": (
        "--config FILE [--KEY VALUE ...]",
        "Trains a network, or with --ckpt_path alone resumes a training.",
    ),
    "validate": (
        "--ckpt_path FILE ... [--KEY VALUE ...]",
        "Evaluates a checkpoint, or the mean of several, on the validation set.",
    ),
    "test": (
        "--ckpt_path FILE ... [--KEY VALUE ...]",
        "Evaluates a checkpoint, or the mean of several, on the test set.",
    ),
    "predict": (
        "--ckpt_path FILE ... --images PATH ... [--output FILE] [--KEY VALUE ...]",
        "Writes the classes of image files to a CSV file.",
    ),
}
EPILOG = (
    "--KEY.help CLASS shows the settings of a class, such as --model.optimizer.help Adam. "
    "--trust PACKAGE[,PACKAGE] lets the config of somebody else's checkpoint use classes besides "
    f"those of {', '.join(PACKAGES)}."
)


class ClassifierCLI(PlainCLI):
    """LightningCLI for image classifiers: ``classifier fit | validate | test | predict``.

    It is called, configured and subclassed as Lightning's documentation says; what differs stands
    in ``classifier/cli/README.md``.

    Args:
        model_class: ``ClassificationModule``, as without it, or a class derived from it that is
            the default.
        datamodule_class: ``LightningDataModule``, likewise; of ``ImageDataModule`` and those
            derived from it, data of no other base.
        save_config_callback: One that saves the config elsewhere too; the run folder has it.
        save_config_kwargs: As LightningCLI's, as the next two.
        trainer_class: Builds the trainer.
        trainer_defaults: Other defaults of the trainer; callbacks among them come last.
        args: Words in a list; a mapping of settings; None for the words of this process.
        run: Whether a verb comes first and is run. Otherwise trainer, module and data are built
            and nothing is written.
        job: What another command decides of the training that it starts.
        ensemble: What averages this evaluation with those of other checkpoints.
        **settings: As LightningCLI's.

    Attributes:
        command_line: What was given, with the configs read.
        config_text: The whole config, as it is saved.
        run: The run folder; None if no run is kept.
        root: The folder of all runs.
        notes: What there is to say of the command line before it is run.
        undirected: What there is to say of metrics of which nothing says which way they are better.
    """

    def __init__(
        self,
        model_class: type[ClassificationModule] | None = None,
        datamodule_class: type[pl.LightningDataModule] | None = None,
        save_config_callback: type[SaveConfigCallback] | None = None,
        save_config_kwargs: dict[str, Any] | None = None,
        trainer_class: Any = pl.Trainer,
        trainer_defaults: dict[str, Any] | None = None,
        *,
        args: Any = None,
        run: bool = True,
        job: Job | None = None,
        ensemble: Ensemble | None = None,
        **settings: Any,
    ) -> None:
        model_class = model_class or ClassificationModule
        datamodule_class = datamodule_class or pl.LightningDataModule
        _check_base(model_class, ClassificationModule)
        _check_base(datamodule_class, pl.LightningDataModule)
        self.default_data = datamodule_class
        is_plain = isinstance(datamodule_class, type) and not issubclass(
            datamodule_class, ImageDataModule
        )
        args = without_links(args) if isinstance(args, Namespace) else args
        self.job, self.ensemble, self.runs_verb = job, ensemble, run
        self.verb, self.words = read_words(args, run, self.subcommands())
        self.config_text = ""
        self.run: RunFolder | None = None
        self._data: ImageDataModule | None = None
        self.root = Path("runs")
        self.worker_errors: WorkerErrorReporter | None = None
        self.writer: PredictionWriter | None = None
        self.undirected: list[str] = []
        self.notes: list[str] = []
        with contextlib.ExitStack() as self._during, self._failures_explained():
            self._during.enter_context(tensors_as_lists())
            super().__init__(
                model_class,
                pl.LightningDataModule if is_plain else datamodule_class,  # for LightningData, too
                _saving_elsewhere(save_config_callback),
                save_config_kwargs,
                trainer_class,
                {"enable_model_summary": False, **(trainer_defaults or {})},
                args=self.words,
                run=run,
                **_lightning_settings(**settings),
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> "ClassifierCLI":
        """Itself: an optimizer holds what builds it, and a moving average copies modules."""
        return self

    # ---- the parser ----

    def init_parser(self, **kwargs: Any) -> Any:
        # Without header: versions stand in run.json, and a printed config prints itself.
        parser: Any = super().init_parser(**{**kwargs, "dump_header": None})
        parser.instantiators = [
            (self._built_model, ClassificationModule, True),
            (self._built_data, pl.LightningDataModule, True),
        ]
        return parser

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        verbs = self.subcommands()
        if add_subcommands and self.verb in verbs:
            # Only the one asked for, which halves the time to build the parser.
            asked = {self.verb: verbs[self.verb] | NOT_TAKEN}
            self.subcommands = lambda: asked  # type: ignore[method-assign]
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        usage, self.command_parser.description = USAGE.get(self.verb, ("[--KEY VALUE ...]", ""))
        self.command_parser.usage = f"{self.parser.prog} {self.verb} {usage}"
        self.command_parser.epilog = EPILOG

    def add_default_arguments_to_parser(self, parser: Any) -> None:
        self.command_parser: Parser = parser
        # First, so that a dumped config defines its anchors before it uses them.
        parser.add_argument(
            "--hyperparameters",
            type=dict,
            default={},
            help="Values named once by YAML anchors and used anywhere by aliases. "
            "--hyperparameters.NAME VALUE changes every use.",
        )
        super().add_default_arguments_to_parser(parser)

    def add_core_arguments_to_parser(self, parser: Any) -> None:
        super().add_core_arguments_to_parser(parser)
        parser.set_defaults({"model": {"class_path": _path_of(self.model_class)}})
        parser.module = self.model_class
        if self.default_data not in (pl.LightningDataModule, ImageDataModule):
            parser.set_defaults({"data": {"class_path": _path_of(self.default_data)}})
        for source, target in LINKS:
            parser.link_arguments(source, target, apply_on="instantiate")
        # For all verbs, because any may be given the config of a training.
        parser.add_argument(
            "--save_every.minutes",
            type=NonNegativeFloat,
            default=5.0,
            help="How much of an epoch may be lost when a training is killed.",
        )
        parser.add_argument(
            "--save_every.steps",
            type=PositiveInt | None,
            default=None,
            help="The same, in optimizer steps. The end of an epoch is always saved.",
        )
        if self.verb == "predict":
            parser.add_argument("--images", nargs="+", help="Image files, folders or globs.")
            parser.add_argument("--output", default=PREDICTIONS, help="CSV file to write.")
        elif self.verb in EVALUATING:
            told = "Folder to write; one in the run folder."
            parser.add_argument("--output", default=None, type=str | None, help=told)
        if self.verb in EVALUATING:
            told = "flip: the mean with the mirror image."
            parser.add_argument("--tta", default=None, type=Literal["flip"] | None, help=told)
        if not self.runs_verb:
            parser.add_argument("--ckpt_path", default=None)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        if self.runs_verb and self.verb not in self.subcommands():
            parser.parse_args([self.verb])  # shows the help, or that there is no such command
        defaults = self.command_parser.get_defaults(skip_validation=True).as_dict()
        known = [*(name for name in defaults if name != "config"), "ckpt_path"]
        line = CommandLine(self.verb, self.words, list(dict.fromkeys(known)), self.job)
        self.command_line = line
        if not self.runs_verb and (line.checkpoint_path or line.unsaved_run):
            raise UserError(
                "ckpt_path: with run=False nothing is resumed; give it to cli.trainer.fit or "
                "cli.trainer.test, and the config of its run as --config RUN_FOLDER."
            )
        self._during.enter_context(confined(line.trust))
        self._during.enter_context(telling_where(line.missing))
        parser.where = self.command_parser.where = line.where
        if shown := own_help(line.options, self.trainer_class):
            sys.stdout.write(shown)
            parser.exit()
        aliases = anchors(line.texts)
        self.notes = [*line.notes, *cut_aliases(line.options, aliases)]
        self._note_what_is_printed()
        module = _path_of(self.model_class)
        self.written: Written = Written(self.command_parser, line, module, defaults)
        self.command_parser.finish = lambda text: (
            with_aliases(text, aliases) + comment(self.written.keys, self.written.prepared)
        )
        words = self.written.argv
        self.config = parser.parse_args([self.verb, *words] if self.runs_verb else words)
        if self.runs_verb and self.trainer_class is pl.Trainer:
            remember(_path_of(type(self)), self.settings.as_dict(), length_settings())
        seed = self.settings.seed_everything
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
            where = line.where("seed_everything")
            raise UserError(
                f"{where}seed_everything: a seed is from 0 to {2**32 - 1:,}, not {seed}."
            )
        if seed is True:  # Lightning would take 0
            seed = secrets.randbelow(2**32)
            if "LOCAL_RANK" in os.environ:  # of a rank that Lightning has started: as rank zero's
                seed = int(os.environ.get("PL_GLOBAL_SEED", seed))
            self.settings.seed_everything = seed

    def _note_what_is_printed(self) -> None:
        """Says what there is to say where the config is printed and nothing else is done."""
        if any(name == "print_config" for name, _ in options_of(self.command_line.options)):
            for note in self.notes:
                terminal.note(note)

    @property
    def run_name(self) -> str:
        """What a new run is called: by its config, else by its data."""
        return self.command_line.name or self.datamodule.kind.lower()

    @property
    def settings(self) -> Namespace:
        """The config of the command."""
        settings: Namespace = self.config[self.verb] if self.runs_verb else self.config
        return settings

    # ---- the objects ----

    def instantiate_classes(self) -> None:
        with refused_values():
            self._build_data()
            self._fill()
            # Else LightningCLI would leave out what a subclass has added by add_optimizer_args.
            self.auto_configure_optimizers |= self.command_parser.has_optimizer
            super().instantiate_classes()

    def _build_data(self) -> None:
        """Builds the data first, of which the rest is filled in."""
        config = self.settings
        if self.verb == "predict" and not config.images:
            raise UserError(NO_IMAGES)
        used = {key: part for key, part in config.as_dict().items() if key != "hyperparameters"}
        refuse_nulls(used, self.command_line, self.command_parser.link_targets)
        self._prepare_for_weights()
        data_only = Namespace(data=config.data.clone())  # type: ignore[no-untyped-call]
        built = self.command_parser.instantiate_classes(data_only, instantiate_groups=False)
        data: ImageDataModule = built.data
        seed = config.seed_everything
        data.training_seed = None if seed is False else seed
        self._data = data
        if self.verb == "predict":
            data.files = find_images(config.images, data.suffixes)
            data.reader()  # before anything is loaded

    def _prepare_for_weights(self) -> None:
        """Decides how images are prepared, and by which weights a new training starts."""
        config, line = self.settings, self.command_line
        if line.checkpoint_path:  # which has all of it
            if {"model.init_from", "model.init_args.init_from"} & dict(
                options_of(line.options)
            ).keys():
                raise UserError(
                    "model.init_from: --ckpt_path has weights already; leave out one of the two."
                )
            return
        network = config.model.get("init_args.network")
        if network and not line.before:  # earlier runs may name a file in other ways
            refuse_other_ways(network.as_dict(), config.model.get("init_args.init_from"))
        written = self.written
        if filled := fill_preparation(config, {*written.keys, *written.prepared}):
            written.prepared |= filled
            self.notes.append(preparation_in_words(written.prepared))

    def _fill(self) -> None:
        """Completes the config by what the data says, and keeps it as it is to be saved."""
        config, line, data = self.settings, self.command_line, self._data
        assert data is not None
        chosen = self._built_metrics(data)
        if not line.evaluates and line.format > 1:
            evaluated = StageMetrics("val", evaluation_metrics(len(data.class_names), chosen))
            modes = modes_of(training_metrics(), evaluated)
            self.undirected = fill_modes(config, modes, self.written.keys, line.where)
        resumable = config.clone()
        if "ckpt_path" in resumable:  # a config that is run again starts again
            resumable.ckpt_path = None
        self.config_text = self.command_parser.dump(resumable, skip_unset=False)
        refuse_contradictions(line, data)
        fill_metrics(config.model, data, line.where)
        if network := config.model.get("init_args.network"):
            if line.checkpoint_path:
                switch_off_pretrained(network)
            fill_network(network, data)
        if line.checkpoint_path and "init_args.init_from" in config.model:
            config.model.init_args.init_from = None

    def _built_metrics(self, data: ImageDataModule) -> dict[str, Metric | None]:
        """Builds the metrics of the config, for they say which way they are better."""
        metrics = fill_metrics(deepcopy(self.settings.model), data, self.command_line.where)
        parser = Parser()
        parser.add_argument("--metric", type=Metric)
        built: dict[str, Metric | None] = dict.fromkeys(metrics)
        for name, metric in metrics.items():
            if metric is None:
                continue
            try:
                built[name] = parser.instantiate(Namespace(metric=metric)).metric  # type: ignore[no-untyped-call]
            except Exception as error:  # of any library
                key = f"model.metrics.{name}"
                told = str(error) or type(error).__name__
                raise UserError(f"{self.command_line.where(key)}{key}: {told}") from error
        return built

    def _built_data(
        self,
        kind: type[pl.LightningDataModule],
        *args: Any,
        applied_instantiation_links: Any,
        **given: Any,
    ) -> ImageDataModule:
        """Builds the data once, though it is asked for twice."""
        if self._data is not None:
            return self._data
        built = kind(*args, **given)
        if not isinstance(built, ImageDataModule):
            built = LightningData(built)
        built.format = self.command_line.format
        if "data" in self.command_line.checkpoint:
            # Before the links ask it: what the checkpoint knows need not be on this machine.
            built.restore(self.command_line.checkpoint["data"])
        return built

    def _built_model(
        self,
        kind: type[ClassificationModule],
        *args: Any,
        applied_instantiation_links: Any,
        **given: Any,
    ) -> ClassificationModule:
        """Builds the module with its settings as texts, for ``load_from_checkpoint``."""
        with described(self._hyperparameters(given, applied_instantiation_links)):
            built = kind(*args, **given)
        built.run_format = self.command_line.format
        return built

    def _hyperparameters(self, given: Collection[str], links: dict[str, Any]) -> dict[str, Any]:
        """The settings of the module as texts, with what the data has filled in.

        Args:
            given: The arguments that the module takes.
            links: What jsonargparse has filled in, by its place; a network need not take it.
        """
        model = Namespace(model=self.settings.model)  # type: ignore[no-untyped-call]
        text = self.command_parser.dump(model, skip_link_targets=False, skip_unset=False)
        described: dict[str, Any] = load(text)["model"]
        if "class_path" in described:  # as Lightning's ``instantiate_module`` reads it
            described = {
                "_class_path": described["class_path"],
                **described.get("init_args", {}),
                **described.get("dict_kwargs", {}),
            }
        network = self.settings.model.get("init_args.network.init_args") or {}
        for place, value in links.items():
            name = place.rpartition(".")[2]
            if not place.startswith(NETWORK):
                described |= {name: value} if name in given else {}
            elif name in network:
                described["network"].setdefault("init_args", {})[name] = value
        return described

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Builds a trainer with the callbacks and the logger of the command.

        Args:
            **kwargs: Arguments of the trainer, which win over the config.
        """
        built = self.config_init[self.verb] if self.runs_verb else self.config_init
        config = Namespace({**built.trainer, **kwargs})  # type: ignore[no-untyped-call]
        config.callbacks = _as_list(config.callbacks)
        before, after = callbacks_for(self, config)
        theirs = self.trainer_defaults
        self.trainer_defaults = {
            **theirs,
            "callbacks": [*after, *_as_list(theirs.get("callbacks"))],
        }
        try:
            trainer: pl.Trainer = super().instantiate_trainer(**{**kwargs, **vars(config)})
            trainer.callbacks[:0] = before  # type: ignore[attr-defined]  # undeclared
            _check_processes(trainer)
            use_atomic_checkpoints(trainer)
            if self.command_line.evaluates:
                # There is nothing to save: a signal ends the process at once.
                self._during.enter_context(without_signal_handlers(trainer))
                self._note_precision(trainer)
            else:
                self._set_threads(trainer)
            return trainer
        finally:
            self.trainer_defaults = theirs

    def _note_precision(self, trainer: pl.Trainer) -> None:
        """Says that an evaluation differs from those of the training, and how it would not."""
        here = str(trainer.precision)
        before = terminal.escape(str(self.command_line.run.get("precision", here)))
        if self.verb in ("validate", "test") and before != here:
            terminal.note(
                f"trained with precision {before}, evaluated with {here}, so the last digits "
                "differ from those of the training; "
                f"--trainer.precision {platform.quoted([before])} gives the same."
            )

    def _set_threads(self, trainer: pl.Trainer) -> None:
        """Resumes with as many threads as before, for the last bits depend on it.

        A new training has as many as its work is worth. Not where the user says how many, and not
        with more than there are processors.
        """
        if THREADS in os.environ:
            return
        if self.command_line.checkpoint_path:
            threads = self.command_line.run.get("environment", {}).get("threads")
        else:
            device = trainer.strategy.root_device
            threads = usual_threads(self.model.network, self.datamodule, device)
        if isinstance(threads, int) and 0 < threads <= cores():
            self._during.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)

    # ---- what goes wrong ----

    @contextlib.contextmanager
    def _failures_explained(self) -> Iterator[None]:
        """Turns what libraries raise while a command runs into what the user can do about it.

        Also within a signal: what evaluates is ended at once.
        """
        try:
            with cleaning(self._leave_nothing):
                yield
        except AssertionError as error:
            if told := in_other_words(str(error), hasattr(self._data, "image_size")):
                raise UserError(told) from error
            raise
        except RuntimeError as error:
            if self.worker_errors and self.worker_errors.reported:
                raise DataWorkerError(str(error)) from error
            if str(error).startswith(NOT_CONTIGUOUS) and self.model.channels_last:
                raise UserError(NEEDS_CONTIGUOUS) from error
            raise
        except OSError as error:
            explained = write_error(error, self.run, self.root) if self.run else error
            raise explained from (None if explained is error else error)

    def _leave_nothing(self) -> None:
        """Gives the terminal its cursor back, and ends the other ranks that were started here."""
        trainer = getattr(self, "trainer", None)
        if trainer is None:
            return
        bar = trainer.progress_bar_callback
        if isinstance(bar, RichBar):
            bar.close()
        elif isinstance(bar, RichProgressBar) and bar.progress is not None:
            bar.progress.stop()
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(platform.KILL)

    @property
    def exit_code(self) -> int:
        """That of the command, which has come to its end."""
        return int(bool(self.writer and self.writer.unreadable))


def _lightning_settings(parser_kwargs: Any = None, **settings: Any) -> dict[str, Any]:
    """Other arguments of LightningCLI: our defaults, the user's, and what is always so here."""
    return {
        "parser_class": Parser,
        "seed_everything_default": 0,
        "auto_configure_optimizers": False,
        **settings,
        "parser_kwargs": {"allow_abbrev": False, **(parser_kwargs or {})},
        "subclass_mode_model": True,  # settings of the module may stand without its class
        "subclass_mode_data": True,
        "load_from_checkpoint_support": False,  # ``_built_model`` does it
    }


@contextlib.contextmanager
def refused_values() -> Iterator[None]:
    """Turns what any constructor raises into a mistake of the user, who gave the values."""
    try:
        yield
    except (UserError, OSError, MisconfigurationException):
        raise
    except Exception as error:
        raise UserError(str(error) or type(error).__name__) from error


def _saving_elsewhere(kind: type[SaveConfigCallback] | None) -> Any:
    """Builds a callback that saves the config elsewhere; the run folder has it in any case."""
    if kind is None or not is_overridden("save_config", kind, SaveConfigCallback):
        return None

    def build(*args: Any, **settings: Any) -> SaveConfigCallback:
        callback = kind(*args, **settings)
        callback.save_to_log_dir = False
        return callback

    return build


def _check_base(kind: Any, base: type) -> None:
    if isinstance(kind, type) and not issubclass(kind, base):
        raise UserError(f"{kind.__name__} is not a subclass of {base.__name__}.")


def _path_of(kind: Any) -> str:
    """The class path of a module."""
    return MODULE if kind is ClassificationModule else f"{kind.__module__}.{kind.__qualname__}"


def _as_list(callbacks: Any) -> list[Callback]:
    """A copy of the callbacks of a config, which may be one or none."""
    return list(callbacks) if isinstance(callbacks, list) else [callbacks] * (callbacks is not None)


def _check_processes(trainer: pl.Trainer) -> None:
    """Refuses what would bring the machine down: a process starts for each device of the CPU."""
    if trainer.num_devices > MAX_PROCESSES:
        raise UserError(
            f"trainer.devices: {trainer.num_devices} processes are too many for this machine, at "
            f"most {MAX_PROCESSES}."
        )
