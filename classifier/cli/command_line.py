"""The command line, with every config text read, checked and completed before it is parsed.

Precedence: command line > config files in order > checkpoint > defaults.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from classifier import runs, terminal
from classifier.anchored_yaml.edit import keep_keys, set_values, written_at
from classifier.anchored_yaml.names import apply, unused, values
from classifier.anchored_yaml.scalars import document
from classifier.anchored_yaml.text import ConfigSource, check, load, locate, setting_in
from classifier.checkpoint.find import (
    FORMAT,
    KEY,
    POSITION,
    epochs_done,
    folder_name,
    resolve_checkpoint,
    unsaved_run,
)
from classifier.checkpoint.read import read_with_origin
from classifier.checkpoint.signature import Origin
from classifier.checkpoint.trust import (
    PACKAGES,
    Found,
    Trust,
    names_in,
    origin_of_run,
    packages_in,
)
from classifier.cli.given import Given
from classifier.cli.job import Job
from classifier.cli.sources import (
    check_sections,
    is_saved,
    read_source,
    run_beside,
)
from classifier.cli.words import given_settings, take_option
from classifier.errors import UserError
from classifier.runs import RunFolder

OF_TRAINING = ("trainer", "seed_everything", "save_every")  # sections that evaluation leaves out
STRATEGIES = "pytorch_lightning.strategies"  # the trainer of a checkpoint may use them
CALLBACKS = {
    "DeviceStatsMonitor": "device_stats_monitor",
    "EMAWeightAveraging": "weight_averaging",
    "EarlyStopping": "early_stopping",
    "GradientAccumulationScheduler": "gradient_accumulation_scheduler",
    "LearningRateMonitor": "lr_monitor",
    "ModelSummary": "model_summary",
    "RichModelSummary": "rich_model_summary",
    "RichProgressBar": "progress.rich_progress",
    "TQDMProgressBar": "progress.tqdm_progress",
    "Timer": "timer",
    "WeightAveraging": "weight_averaging",
}
"""Lightning's callbacks that take no path and no callable and touch no file, and where they are."""


class CommandLine(Given):
    """What a command line says, as the parser needs it.

    Args:
        verb: The command.
        words: The words behind it.
        known: The sections that its parser knows.
        job: What another command decides of the training, if one has started it.

    Attributes:
        texts: The config texts in order, hyperparameters applied.
        saved: Which of them this package has written, with all defaults.
        argv: The words for the parser: configs, then everything else.
        name: What the run is called: the first config file, or the run that it was saved in, or
            the checkpoint's run.
        before: The record of the run that the first config file was saved in, or of the checkpoint.
        checkpoint_path: The file that ``--ckpt_path`` means, if given.
        checkpoint: What the checkpoint says of itself: config, data description, run record.
        unsaved_run: The run folder that ``--ckpt_path`` means, if the run died before its first
            checkpoint: it begins again there, with its own config.
        unused: Hyperparameters of the config files that no alias refers to.
        global_step: How many optimizer steps the checkpoint has seen.
        epochs_done: How many epochs it has seen.
        is_exact: Whether it is a state of the training, not one saved for evaluation.
        origin: Whose the checkpoint is.
        trust: What class paths may be imported.
    """

    checkpoint_path: Path | None = None
    origin: Origin = "unsigned"
    is_exact = True
    global_step = 0
    epochs_done = 0

    def __init__(
        self, verb: str, words: Sequence[str], known: Collection[str], job: Job | None = None
    ) -> None:
        super().__init__(verb, words, known)
        self.job = job
        self.checkpoint: dict[str, Any] = {}
        self.refuse_no_checkpoint()
        given, paths, carried = self.given, self.paths, self.carried
        self.unsaved_run: Path | None = None
        found = self._find(paths, carried)
        if paths and not found and not given and "model" not in self.sections_given:
            raise UserError(
                f"'{self.checkpoint_path}' carries no config, as checkpoints of other programs: "
                "name the one of its training too, --config FILE."
            )
        self._decide_trust(given, self.trusted, found and found[1])
        sources = given
        if found:
            self.trust.check_config(load(found[0].text))
            sources = [found[0], *given]
        self.saved = [source is (found and found[0]) or is_saved(source) for source in sources]
        self.sources = sources
        self.texts = apply(sources, self.overrides)
        # Evaluation leaves out the trainer, which may be what uses them.
        files = self.texts[len(sources) - len(given) :]
        self.unused = unused(files) if given and not self.evaluates else []
        # jsonargparse replaces a mapping at each further config; this one has all names.
        names = document({"hyperparameters": values(self.texts)})
        self.argv = [*(f"--config={text}" for text in (*self.texts, names)), *self.options]
        if paths and self.checkpoint_path:
            # Absolute, for Lightning takes a file called "http…" for an address.
            self.argv += ["--ckpt_path", str(self.checkpoint_path.absolute())]
        self._find_name()
        if carried:  # nothing of a checkpoint but its config, which is trained from scratch
            self.checkpoint_path, self.checkpoint = None, {}
            self.global_step = self.epochs_done = 0

    @property
    def run(self) -> dict[str, Any]:
        """The record of the run that the checkpoint comes from."""
        record: dict[str, Any] = self.checkpoint.get("run", {})
        return record

    @property
    def format(self) -> int:
        """That of the run that is resumed, evaluated or trained again; else of new ones."""
        return int(self.before.get("format", 1)) if self.before else FORMAT

    def value(self, path: tuple[str, ...]) -> Any:
        """What the command line or the last config says of a key; None if nothing."""
        name = ".".join(path)
        options, _ = take_option(self.options, f"--{name}", f"--{name}".replace(".init_args", ""))
        if options:
            return load(options[-1])
        found = (setting_in(text, path) for text in reversed(self.texts))
        return next((value for value in found if value is not None), None)

    def where(self, key: str) -> str:
        """``file:line: `` of a dotted key, in the last config that has it.

        Empty if none has it, or if the command line gives it.
        """
        given = {option.partition("=")[0].strip("-+") for option in self.options}
        if {key, key.replace(".init_args", "")} & given:
            return ""
        for source in reversed(self.sources):
            if line := locate(source.text, key.split(".")):
                return f"{source.name}:{line}: "
        return ""

    # ---- configs ----

    def _find(
        self, paths: Sequence[str], carried: Sequence[str]
    ) -> tuple[ConfigSource, Found] | None:
        """The config that nobody names as a file: a checkpoint's, or that of a run's folder."""
        self.unsaved_run = unsaved_run(Path(paths[-1])) if paths and not self.evaluates else None
        if not self.unsaved_run:
            self._read_what_is_named(paths, carried)
        folder = self.unsaved_run or next((Path(c) for c in carried if Path(c).is_dir()), None)
        return self._folder_config(folder) if folder else self._checkpoint_config()

    def _checkpoint_config(self) -> tuple[ConfigSource, Found] | None:
        """The config that the checkpoint carries, without what depends on the machine."""
        if "config" not in self.checkpoint:
            return None
        name = f"checkpoint '{self.checkpoint_path}'"
        saved = ConfigSource(name, self.checkpoint["config"])
        check(saved)
        if not self.evaluates:  # evaluation leaves out what another program has added
            remedy = ", which another program has added: go on with that one."
            check_sections(saved, self.known, remedy)
        text = self.with_files_found(self.checkpoint["config"], self.run)
        left_out = {"ckpt_path", *(OF_TRAINING if self.evaluates else ())}
        text = keep_keys(text, [key for key in self.known if key not in left_out])
        text = _without_place(text, self.origin)
        # Its comment, which no change of the text keeps, names what was written.
        comments = re.findall("^#.*\n?", self.checkpoint["config"], re.MULTILINE)
        source = ConfigSource(name, text + "".join(comments))
        return source, Found(name, self.origin, self.run)

    def _folder_config(self, folder: Path) -> tuple[ConfigSource, Found]:
        """The config that lies in the folder of a run."""
        source = read_source(str(RunFolder(folder).config), self.verb)
        check_sections(source, self.known)
        record = runs.read_record(folder)
        origin = origin_of_run(record, source.text)
        remedy = ""
        if origin != "own" and runs.is_config_edited(folder):
            remedy = f"It was edited since the run wrote it: by you, then --config '{source.name}'."
        source = self.used_before(source)
        source = source._replace(text=_without_place(source.text, origin))
        return source, Found(f"'{source.name}'", origin, record, remedy)

    def _find_name(self) -> None:
        files = (source.name for source in self.sources if Path(source.name).is_file())
        file = next(files, None)
        saved = run_beside(Path(file)) if file else {}
        name = saved.get("name") or (Path(file).stem if file else self.run.get("name"))
        self.name = name and folder_name(name)
        self.before: dict[str, Any] = saved or self.run

    def _decide_trust(
        self, given: Sequence[ConfigSource], trusted: Sequence[str], found: Found | None
    ) -> None:
        """What may be imported: all that the user's words name, and what is found as far as."""
        words = names_in([*(s.text for s in given), *given_settings(self.words)])
        beside = [Path(s.name).parent for s in given if Path(s.name).is_file() and not is_saved(s)]
        if self.job and self.job.code_folder:
            beside = [self.job.code_folder]
        if self.job and self.job.words is not None:  # whose config the search wrote, not the user
            words, trusted = set(self.job.words), [*trusted, *self.job.trusted]
            found = found or Found("the config of the trial", "unsigned", {})
        allowed = words if found else None
        self.trust = Trust(harmless_packages(), allowed, packages_in(trusted), found, beside=beside)

    # ---- the checkpoint ----

    def _read_what_is_named(self, paths: Sequence[str], configs: Sequence[str]) -> None:
        """Reads the checkpoint to resume from, or the one whose config is trained from scratch."""
        if configs and (self.evaluates or paths):
            raise UserError(
                f"--config '{configs[-1]}' trains from scratch what a checkpoint was trained by; "
                "--ckpt_path alone resumes from its weights or evaluates them."
            )
        if self.evaluates and len(paths) > 1:
            raise UserError(
                f"--ckpt_path '{paths[0]}' and '{paths[-1]}': the command classifier {self.verb} "
                "averages several; from Python, name one."
            )
        if len(configs) > 1:
            raise UserError(
                f"--config '{configs[0]}' and '{configs[-1]}': one checkpoint's config is trained."
            )
        if paths:
            self._read_checkpoint(paths[-1])
        elif configs and not Path(configs[-1]).is_dir():
            self._read_checkpoint(configs[-1])
            if "config" not in self.checkpoint:
                raise UserError(f"--config '{configs[-1]}': this checkpoint carries no config.")

    def _read_checkpoint(self, path: str) -> None:
        """Reads a checkpoint; to resume, the one before it if it is damaged."""
        self.refuse_choice(path)
        found = resolve_checkpoint(path, "best" if self.evaluates else "last")
        previous = found.parent / "previous.ckpt"
        try:
            read = read_with_origin(found)
        except ValueError as error:
            if self.evaluates or found.name != "last.ckpt" or not previous.exists():
                raise
            terminal.warn(f"{error} Resuming from '{previous}'.")
            found, read = previous, read_with_origin(previous)
        saved, self.origin = read
        self.checkpoint_path = found
        self.checkpoint = saved.get(KEY, {})
        self.global_step = saved.get("global_step", 0)
        self.is_exact = saved.get(POSITION, {}).get("exact", True)
        self.epochs_done = epochs_done(saved)


def harmless_packages() -> list[str]:
    """What the config of any training may use, be it a stranger's."""
    names = [(name, f"{module}.{name}") for name, module in CALLBACKS.items()]
    paths = [f"pytorch_lightning.callbacks.{path}" for pair in names for path in pair]
    return [*PACKAGES, STRATEGIES, *paths]


def _without_place(text: str, origin: Origin) -> str:
    """A config that, if it is a stranger's, does not say where on this machine a run is kept."""
    place = ("trainer", "default_root_dir")
    if origin == "own" or setting_in(text, place) is None:
        return text
    return set_values(text, {written_at(text, place): None})
