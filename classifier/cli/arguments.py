"""The command line, with every config text read, checked and completed before it is parsed.

Precedence: command line > config files in order > checkpoint > defaults.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from classifier import runs, terminal
from classifier.anchored_yaml import (
    ConfigSource,
    apply,
    check,
    keep_keys,
    load,
    locate,
    set_values,
    setting_in,
    split_arguments,
    unused,
    values,
    written_at,
)
from classifier.anchored_yaml.scalars import MAX_LEVELS
from classifier.anchored_yaml.text import children, compose, dotted, places
from classifier.callbacks.trial import Trial
from classifier.checkpoint.file import FORMAT, POSITION, epochs_done
from classifier.checkpoint.read import (
    KEY,
    folder_name,
    read_with_origin,
    resolve_checkpoint,
    similar_file,
)
from classifier.checkpoint.signature import Origin
from classifier.checkpoint.trust import (
    PACKAGES,
    PATH_SETTINGS,
    Found,
    Trust,
    names_in,
    origin_of_run,
    packages_in,
)
from classifier.cli.harmless import harmless_callbacks
from classifier.cli.places import with_files_found
from classifier.errors import UserError, did_you_mean

SECTIONS = (
    "hyperparameters",
    "seed_everything",
    "save_every",
    "trainer",
    "model",
    "data",
    "ckpt_path",
)
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
PREDICT = ("images", "output", "top_k")
STRATEGIES = "pytorch_lightning.strategies"  # the trainer of a checkpoint may use them


class Arguments:
    """What a command line says, as the parser needs it.

    Attributes:
        given: The command line as it was given.
        verb: The command.
        texts: The config texts in order, hyperparameters applied.
        saved: Which of them this package has written, with all defaults.
        argv: The arguments for the parser: verb, configs, then everything else.
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
        missing: Relative paths of the configs that lead nowhere, from here or from where the
            configs were used before, each with its absolute path there.
        origin: Whose the checkpoint is.
        trust: What class paths may be imported.
    """

    is_exact = True
    global_step = 0
    epochs_done = 0

    def __init__(self, given: Sequence[str]) -> None:
        self.given = list(given)
        self.verb, *rest = given
        self.missing: dict[str, Path] = {}
        overrides, rest = split_arguments(rest)
        configs, rest = take_option(rest, "--config", "-c")
        paths, rest = take_option(rest, "--ckpt_path")
        trusted, rest = take_option(gathered(rest, "--images"), "--trust")
        _check_values(rest)
        carried = [value for value in configs if _is_carried(value)]
        sources = [self._source(value) for value in configs if value not in carried]
        words = names_in([*(source.text for source in sources), *_given_settings(given[1:])])
        if not paths:
            paths = [path for s in sources if (path := (load(s.text) or {}).get("ckpt_path"))]
        asks = any(
            name.partition("=")[0].endswith(("-h", "help", "--print_config")) for name in rest
        )
        if self.verb != "fit" and not paths and not asks:
            raise UserError(f"{self.verb} needs --ckpt_path PATH, a checkpoint or run folder.")
        self.checkpoint_path: Path | None = None
        self.checkpoint: dict[str, Any] = {}
        self.origin: Origin = "unsigned"
        self.unsaved_run = unsaved_run(Path(paths[-1])) if paths and self.verb == "fit" else None
        if not self.unsaved_run:
            rest += self._read_what_is_named(paths, carried)
        files = len(sources)
        folder = self.unsaved_run or next((Path(c) for c in carried if Path(c).is_dir()), None)
        found = self._folder_config(folder) if folder else self._checkpoint_config()
        self.trust = _trust(words, trusted, found and found[1])
        if found:
            self.trust.check_config(load(found[0].text))
            sources.insert(0, found[0])
        self.saved = [source is (found and found[0]) or _is_saved(source) for source in sources]
        self.sources = sources
        self.texts = apply(sources, overrides)
        # Evaluation leaves out the trainer, which may be what uses them.
        self.unused = unused(self.texts[-files:]) if files and self.verb == "fit" else []
        # jsonargparse replaces a mapping at each further config; this one has all names.
        names = yaml.safe_dump({"hyperparameters": values(self.texts)}, sort_keys=False)
        configs = [f"--config={text}" for text in (*self.texts, names)]
        self.argv = [self.verb, *configs, *rest]
        self.options = rest
        self._find_name()
        if carried:
            self._forget_weights()

    @property
    def run(self) -> dict[str, Any]:
        """The record of the run that the checkpoint comes from."""
        record: dict[str, Any] = self.checkpoint.get("run", {})
        return record

    @property
    def format(self) -> int:
        """That of the run that goes on, is evaluated or trained again; else of new ones."""
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

    def _checkpoint_config(self) -> tuple[ConfigSource, Found] | None:
        """The config that the checkpoint carries, without what depends on the machine."""
        if "config" not in self.checkpoint:
            return None
        name = f"checkpoint '{self.checkpoint_path}'"
        check(ConfigSource(name, self.checkpoint["config"]))
        text = self._with_files_found(self.checkpoint["config"], self.run)
        kept = ("hyperparameters", "model", "data")
        text = keep_keys(
            text, (*kept, "seed_everything", "trainer") if self.verb == "fit" else kept
        )
        text = _without_place(text, self.origin)
        # Its comment, which no change of the text keeps, names what was written.
        comments = re.findall("^#.*\n?", self.checkpoint["config"], re.MULTILINE)
        source = ConfigSource(name, text + "".join(comments))
        return source, Found(name, self.origin, self.run)

    def _folder_config(self, folder: Path) -> tuple[ConfigSource, Found]:
        """The config that lies in the folder of a run."""
        source = _read_config(str(folder / "config.yaml"))
        _check_config(source, self.verb)
        record = runs.read_record(folder)
        origin = origin_of_run(record, source.text)
        remedy = ""
        if origin != "own" and runs.is_config_edited(folder):
            remedy = f"It was edited since the run wrote it: by you, then --config '{source.name}'."
        source = self._used_before(source)
        source = source._replace(text=_without_place(source.text, origin))
        return source, Found(f"'{source.name}'", origin, record, remedy)

    def _source(self, value: str) -> ConfigSource:
        """A config of the user, checked; one that lies in a run folder was used elsewhere."""
        source = _read_config(value)
        _check_config(source, self.verb)
        return self._used_before(source)

    def _used_before(self, source: ConfigSource) -> ConfigSource:
        record = _run_beside(Path(source.name)) if Path(source.name).is_file() else {}
        return source._replace(text=self._with_files_found(source.text, record))

    def _with_files_found(self, text: str, record: Mapping[str, Any]) -> str:
        folder = record.get("working_folder")
        return with_files_found(text, folder, self.missing) if isinstance(folder, str) else text

    def _read_what_is_named(self, paths: Sequence[str], configs: Sequence[str]) -> list[str]:
        """Reads the checkpoint to go on from, or the one whose config is trained from scratch.

        Returns:
            What the parser has to know of it.
        """
        if configs and (self.verb != "fit" or paths):
            raise UserError(
                f"--config '{configs[-1]}' trains from scratch what a checkpoint was trained by; "
                "--ckpt_path alone goes on from its weights or evaluates them."
            )
        if len(configs) > 1:
            raise UserError(
                f"--config '{configs[0]}' and '{configs[-1]}': one checkpoint's config is trained."
            )
        if paths:
            # Absolute, for Lightning takes a file called "http…" for an address.
            return ["--ckpt_path", str(self._read_checkpoint(paths[-1]).absolute())]
        if configs and not Path(configs[-1]).is_dir():
            self._read_checkpoint(configs[-1])
            if "config" not in self.checkpoint:
                raise UserError(f"--config '{configs[-1]}': this checkpoint carries no config.")
        return []

    def _find_name(self) -> None:
        files = (source.name for source in self.sources if Path(source.name).is_file())
        file = next(files, None)
        saved = _run_beside(Path(file)) if file else {}
        name = saved.get("name") or (Path(file).stem if file else self.run.get("name"))
        self.name = name and folder_name(name)
        self.before: dict[str, Any] = saved or self.run

    def _forget_weights(self) -> None:
        """Leaves nothing of a checkpoint but its config, which is trained from scratch."""
        self.checkpoint_path, self.checkpoint = None, {}
        self.global_step = self.epochs_done = 0

    def _read_checkpoint(self, path: str) -> Path:
        """Reads a checkpoint; to go on, the one before it if it is damaged. Returns its path."""
        prefer = "last" if self.verb == "fit" else "best"
        found = resolve_checkpoint(path, prefer)
        previous = found.parent / "previous.ckpt"
        try:
            read = read_with_origin(found)
        except ValueError as error:
            if self.verb != "fit" or found.name != "last.ckpt" or not previous.exists():
                raise
            terminal.warn(f"{error} Going on from '{previous}'.")
            found, read = previous, read_with_origin(previous)
        saved, self.origin = read
        self.checkpoint_path = found
        self.checkpoint = saved.get(KEY, {})
        self.global_step = saved.get("global_step", 0)
        self.is_exact = saved.get(POSITION, {}).get("exact", True)
        self.epochs_done = epochs_done(saved)
        return found


def unsaved_run(path: Path) -> Path | None:
    """The folder of a run that has no checkpoint yet, named by itself or by its last.ckpt.

    Raises:
        UserError: If its best checkpoint alone is left, which its training has long left behind.
    """
    folder = path.parent.parent if path.name == "last.ckpt" else path
    begun = (folder / "run.json").is_file() and (folder / "config.yaml").is_file()
    if not begun or resolve_checkpoint(str(folder), "last").is_file():
        return None
    best = folder / "checkpoints" / "best.ckpt"
    if best.exists():
        raise UserError(
            f"'{folder}' has no last.ckpt and no previous.ckpt to go on from. "
            f"--ckpt_path '{best}' goes on from its best weights, in a new run; "
            f"--config '{folder / 'config.yaml'}' trains anew."
        )
    return folder.resolve()


def take_option(arguments: Sequence[str], *names: str) -> tuple[list[str], list[str]]:
    """Splits off the values of an option, ``--name VALUE`` or ``--name=VALUE``, in order."""
    values, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if name not in names:
            rest.append(argument)
        else:
            value = value if equals else next(remaining, "")
            if not value or (value.startswith("--") and not equals):
                raise UserError(f"{name}: a value is missing behind it.")
            values.append(value)
    return values, rest


def gathered(arguments: Sequence[str], name: str) -> list[str]:
    """Gives an option that takes several values once, with those of all the times it was given.

    >>> gathered(["--i", "a", "b", "--k", "5", "--i=c"], "--i")
    ['--k', '5', '--i', 'a', 'b', 'c']
    """
    values: list[str] = []
    rest = list(arguments)
    for start in reversed(range(len(rest))):
        option, equals, value = rest[start].partition("=")
        if option != name:
            continue
        after = range(start + 1, len(rest))
        end = next((index for index in after if rest[index].startswith("--")), len(rest))
        given = [value] * bool(equals) + rest[start + 1 : end]
        if not given or not given[0]:
            raise UserError(f"{name}: a value is missing behind it.")
        values = given + values
        del rest[start:end]
    return [*rest, name, *values] if values else rest


def harmless_packages() -> list[str]:
    """What the config of any training may use, be it a stranger's."""
    return [*PACKAGES, STRATEGIES, *harmless_callbacks()]


def _trust(words: set[str], trusted: Sequence[str], found: Found | None) -> Trust:
    """What may be imported: all that the user's words name, and what is found as far as it may."""
    packages = harmless_packages()
    if trial := Trial.from_environment():  # whose config the search wrote, not the user
        words, trusted = set(trial.words), [*trusted, *trial.trusted]
        found = found or Found("the config of the trial", "unsigned", {})
    return Trust(packages, words if found else None, packages_in(trusted), found)


def _without_place(text: str, origin: Origin) -> str:
    """A config that, if it is a stranger's, does not say where on this machine a run is kept."""
    place = ("trainer", "default_root_dir")
    if origin == "own" or setting_in(text, place) is None:
        return text
    return set_values(text, {written_at(text, place): None})


def _given_settings(options: Sequence[str]) -> Iterator[str]:
    """The values of settings in a command line, which may name classes; others name files."""
    for name, value in _named_values(options):
        key = name.removeprefix("--")
        section, last = key.partition(".")[0], key.rpartition(".")[2]
        if section.rstrip("+") in SECTIONS and last not in PATH_SETTINGS:
            yield value


def _is_carried(config: str) -> bool:
    """Whether a config is named by what carries it: a checkpoint, or the folder of a run."""
    if _is_text(config):
        return False
    return config.endswith(".ckpt") or Path(config, "run.json").is_file()


def _is_text(config: str) -> bool:
    """Whether a config is given by its text instead of by the name of a file."""
    return "\n" in config or config.lstrip().startswith("{")


def _named_values(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every value of a command line, with the option that it stands behind."""
    name = ""
    for argument in arguments:
        value = argument
        if argument.startswith("--"):
            name, _, value = argument.partition("=")
        yield name, value


def _check_values(arguments: Sequence[str]) -> None:
    """Refuses what jsonargparse fails at: tags that do not fit, and brackets by the thousand."""
    for name, value in _named_values(arguments):
        if re.search(r"!!\w+ ", value) or value.count("[") + value.count("{") > MAX_LEVELS:
            load(value, name)


def _check_config(source: ConfigSource, verb: str) -> None:
    check(source)
    _check_sections(source, verb)
    _check_classes(source)


def _check_sections(source: ConfigSource, verb: str) -> None:
    """Refuses a section that does not exist, which jsonargparse ignores when it is empty."""
    config = load(source.text, source.name) or {}
    known = (*SECTIONS, *PREDICT) if verb == "predict" else SECTIONS
    for key, value in config.items():
        line = locate(source.text, [key])
        if key not in known:
            hint = did_you_mean(str(key), known, f"; there are {', '.join(known)}.")
            raise UserError(f"{source.name}:{line}: no section '{key}'{hint}")
        if key in ("hyperparameters", "trainer", "model") and not isinstance(value, dict | None):
            raise UserError(f"{source.name}:{line}: {key} has settings of its own, not {value!r}.")


def _check_classes(source: ConfigSource) -> None:
    """Refuses what jsonargparse explains in many lines: other keys beside a class path."""
    for path, node in places(compose(source.text, source.name)):
        keys = {key: value for key, _, value in children(node)}
        if not {"class_path", "init_args"} & keys.keys() or isinstance(node, yaml.SequenceNode):
            continue
        for key, value in keys.items():
            where = f"{source.name}:{locate(source.text, (*path, key))}: {dotted(path)}"
            if key not in CLASS_KEYS:
                named = getattr(keys.get("class_path"), "value", "class_path")
                hint = did_you_mean(str(key), CLASS_KEYS, f"; there are {', '.join(CLASS_KEYS)}.")
                raise UserError(f"{where}: no setting '{key}' beside {named}{hint}")
            if key == "class_path" and value.tag != "tag:yaml.org,2002:str":
                raise UserError(f"{where}: a class_path is a text such as package.module.Class.")


def _read_config(value: str) -> ConfigSource:
    if _is_text(value):
        return ConfigSource("--config", value)
    path = Path(value)
    if path.is_dir():
        raise UserError(f"--config '{path}' is a folder, expected a YAML file.")
    if not path.is_file():
        raise UserError(f"No config file '{path}'{similar_file(path)}")
    try:
        return ConfigSource(value, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not a text file in UTF-8, expected YAML.") from error


def _is_saved(source: ConfigSource) -> bool:
    """Whether it is the config file of a run folder."""
    path = Path(source.name)
    named = re.fullmatch(r"config(_\d+)?\.yaml", path.name)
    return bool(named) and path.with_name("run.json").is_file()


def _run_beside(config: Path) -> dict[str, Any]:
    """The record of the run that a config file was saved in; empty if it was not."""
    folder = config.resolve().parent
    if not (folder / "run.json").is_file():
        return {}
    named = {"name": folder.parent.name}
    try:
        return named | runs.read_record(folder)
    except ValueError:  # damaged, which matters to nobody who only trains anew
        return named
