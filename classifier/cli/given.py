"""The words of a command line and the configs that they name, before torch is there."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier.anchored_yaml.aliases import Anchor
from classifier.anchored_yaml.names import KEY, apply, split_arguments, values
from classifier.anchored_yaml.text import ConfigSource, KeyPath, dotted, locate, setting_in
from classifier.checkpoint.find import (
    check_is_there,
    complete_trials,
    is_search,
    may_be_checkpoint,
    resolve_checkpoint,
    unsaved_run,
)
from classifier.cli.keys import (
    FILLED_IN,
    MODULE,
    NAME_A_CONFIG,
    OF_MODEL,
    OWNERS,
    RENAMED,
    Keys,
    known_keys,
    no_such_setting,
    used_at,
)
from classifier.cli.places import with_files_found
from classifier.cli.sources import (
    CLASS_KEYS,
    blocks,
    check_sections,
    is_carried,
    is_text,
    note_shipped,
    read_source,
    run_beside,
    untwinned,
)
from classifier.cli.words import (
    ASKING,
    EVALUATING,
    check_values,
    gathered,
    options_of,
    take_option,
)
from classifier.errors import UserError, did_you_mean
from classifier.platform import quoted
from classifier.runs import PREDICTIONS, RunFolder

LAST, BEST = ("last", "hpc"), ("best",)  # Lightning's names for checkpoints of its own choice
SECTIONS = ("hyperparameters", "seed_everything", "trainer", "model", "data", "save_every")
NO_IMAGES = "predict needs --images PATH ..., image files, folders or globs."
REMOVED = {"top_k": "predictions.csv has a column for each class"}  # what predict has no more
TTA = "flip"  # what --tta may be
OF_VERB = {
    "predict": ("images", "output", "tta"),
    **dict.fromkeys(("validate", "test"), ("verbose", "output", "tta")),
}


def known_sections(verb: str) -> tuple[str, ...]:
    """The sections that the parser of a command knows."""
    return (*SECTIONS, *OF_VERB.get(verb, ()), "ckpt_path")


def check_output(path: Path) -> None:
    """Raises an error for an output that is there, or that no folder is there for."""
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"--output '{path}' exists; name another one or remove it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output '{path}': there is no folder '{path.parent}'.")


def cut_aliases(options: Sequence[str], anchors: Sequence[Anchor]) -> list[str]:
    """Sentences about options that change one of the uses of a hyperparameter and no other."""
    given = {name.rstrip("+") for name, _ in options_of(options)}
    notes = []
    for anchor in anchors:
        names = [dotted(place) for place in anchor.places if place[0] == KEY]
        places = [place for place in anchor.places if place[0] != KEY]
        uses = [dotted([part for part in place if part != "init_args"]) for place in places]
        changed = [use for use in uses if use in given]
        left = [use for use in uses if use not in given]
        if names and changed and left:
            notes.append(
                f"--{changed[0]} leaves {' and '.join(left)} as it is; --{names[0]} changes all."
            )
    return notes


class Given:
    """What a command line says before a checkpoint is read.

    Args:
        verb: The command.
        words: The words behind it.
        known: The sections that its parser knows.

    Attributes:
        overrides: The hyperparameters of the command line.
        options: Its other words, without configs, checkpoint and trust.
        given: The configs that it names, read and checked.
        carried: Those that are named by the checkpoint or the run that carries them.
        paths: The checkpoints that it, or a config, names; the last one counts.
        trusted: What it trusts.
        missing: Relative paths of the configs that lead nowhere, from here or from where the
            configs were used before, each with its absolute path there.
        members: The checkpoint files that an evaluation averages, from ``check`` on.
        notes: What there is to say of its configs.
    """

    def __init__(self, verb: str, words: Sequence[str], known: Collection[str]) -> None:
        self.verb, self.words, self.known = verb, list(words), known
        self.missing: dict[str, Path] = {}
        self.members: list[Path] = []
        self.notes: list[str] = []
        self.overrides, rest = split_arguments(words)
        configs, rest = take_option(rest, "--config", "-c")
        self.paths, rest = self.take_checkpoints(rest)
        self.trusted, rest = take_option(gathered(rest, "--images"), "--trust")
        check_values(rest)
        self.options = [_untwinned(word) for word in rest]
        self.carried = [value for value in configs if is_carried(value)]
        self.given = [self._source(value) for value in configs if value not in self.carried]
        if not self.paths:
            named = (setting_in(source.text, ("ckpt_path",)) for source in self.given)
            self.paths = [path for path in named if path]

    @property
    def evaluates(self) -> bool:
        """Whether the command needs a checkpoint and trains nothing."""
        return self.verb in EVALUATING

    @property
    def sections_given(self) -> set[str]:
        """The sections that the command line itself has settings of."""
        return {name.partition(".")[0] for name, _ in options_of(self.options)}

    def check(self) -> None:
        """Raises UserError for what the words and the configs show to be a mistake."""
        self.check_options()
        self.refuse_no_checkpoint()
        self.check_files()
        if self.evaluates:
            self.members = self._members()
        elif self.paths:
            path = self.paths[-1]
            self.refuse_choice(path)
            if not unsaved_run(Path(path)):
                check_is_there(resolve_checkpoint(path, "last"))
        elif not self.carried:
            apply(self.given, self.overrides)
        self.check_keys(known_keys())

    def take_checkpoints(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Splits off the values of ``--ckpt_path``, of which an evaluation takes several."""
        again: list[str] = []
        for before, word in zip(["", *words], words, strict=False):
            follows = again[-2:-1] == ["--ckpt_path"] or before.startswith("--ckpt_path=")
            if self.evaluates and follows and may_be_checkpoint(word):
                again.append("--ckpt_path")
            again.append(word)
        return take_option(again, "--ckpt_path")

    def _members(self) -> list[Path]:
        """The checkpoint files that are evaluated, of which several are averaged.

        Raises:
            UserError: If one is named twice.
            FileNotFoundError: If one is not there.
        """
        members: list[Path] = []
        for path in self.paths:
            self.refuse_choice(path)
            runs = [str(run) for run in complete_trials(Path(path))]
            for run in runs or [path]:  # which may be an address
                found = resolve_checkpoint(run, "best")
                check_is_there(found)
                if found.resolve() in [member.resolve() for member in members]:
                    raise UserError(
                        f"--ckpt_path: '{found}' is named twice, and would count twice."
                    )
                members.append(found)
        return members

    @property
    def averages(self) -> bool:
        """Whether several checkpoints are evaluated, or what is complete of a search."""
        return len(self.members) > 1 or any(is_search(Path(path)) for path in self.paths)

    def check_options(self) -> None:
        """Refuses words without an option, and options that do not exist or have no value."""
        names = values([source.text for source in self.given])
        for name, value in options_of(self.options):
            if not name and value is None:
                raise UserError("'--' stands alone; a setting is --KEY VALUE.")
            if not name:
                raise UserError(f"'{value}' belongs to no option{self._option_for(str(value))}")
            section = name.partition(".")[0]
            if section in ASKING or name.endswith(".help"):
                continue
            if self.verb == "predict" and section in REMOVED:
                raise UserError(f"--{name}: {REMOVED[section]}; leave it out.")
            if section not in self.known:
                raise UserError(f"{name}: no such setting{self._setting_for(section, names)}")
            if value is None:
                raise UserError(f"--{name}: expected a value.")

    def check_keys(self, keys: Keys) -> None:
        """Refuses settings that the class or section which they are of does not have.

        Args:
            keys: The settings of those that are known; of others nothing is said.
        """
        for source in self.given:
            for path, block in blocks(source):
                self._check_names(keys, self._owner(path, source), path, block, source)
        for name, _ in options_of(self.options):
            path = tuple(part for part in name.rstrip("+").split(".") if part != "init_args")
            for end in range(1, len(path) if path[-1] != "help" else 0):
                owner = self._class_at(path[:end])
                inside = () if owner in OWNERS else ("init_args",)
                self._check_names(keys, owner, (*path[:end], *inside), [path[end]])

    def _check_names(
        self,
        keys: Keys,
        owner: str,
        path: KeyPath,
        names: Iterable[Any],
        source: ConfigSource | None = None,
    ) -> None:
        """Refuses names that stand at a place of a config, or of the command line."""
        known = keys.get(used_at(path, owner))
        if not known:
            return
        for name in names:
            if str(name) not in (*known, *CLASS_KEYS, *FILLED_IN):
                place = (*path, name)
                where = f"{source.name}:{locate(source.text, place)}: " if source else ""
                raise UserError(where + no_such_setting(dotted(place), owner, known))

    def _owner(self, path: KeyPath, source: ConfigSource) -> str:
        """The class or section that a block of a config holds the settings of; "" for others."""
        if path[-1:] == ("init_args",):
            return str(setting_in(source.text, (*map(str, path[:-1]), "class_path")))
        owner = self._class_at(path)
        return owner if owner in (*OWNERS, MODULE) else ""

    def _class_at(self, path: Sequence[str | int]) -> str:
        """The class or section whose settings stand at a place; "" where nobody says it here."""
        name = dotted(path)
        if name in OWNERS:
            return name
        given = [setting_in(source.text, [*map(str, path)]) for source in self.given]
        given += [
            v for option, v in options_of(self.options) if option in (name, f"{name}.class_path")
        ]
        classes = [value.get("class_path") if isinstance(value, dict) else value for value in given]
        if named := [value for value in classes if isinstance(value, str)]:
            return named[-1]
        return MODULE if name == "model" and not (self.paths or self.carried) else ""

    def _option_for(self, word: str) -> str:
        path, option = Path(word), ""
        if path.suffix in (".yaml", ".yml"):
            option = "config"
        elif path.suffix == ".ckpt" or RunFolder(path).begun:
            option = "ckpt_path"
        elif path.exists():
            option = "images" if self.verb == "predict" else "data.root"
        if not option:
            return "; a setting is --KEY VALUE."
        return f", did you mean '--{option} {quoted([word])}'?"

    def _setting_for(self, name: str, hyperparameters: Mapping[str, Any]) -> str:
        for known, place in (
            (OF_MODEL, f"model.{name}"),
            (hyperparameters, f"hyperparameters.{name}"),
            (RENAMED, RENAMED.get(name, "")),
        ):
            if name in known:
                return f", did you mean '{place}'?"
        own = [f"hyperparameters.{known}" for known in hyperparameters]
        among = [*self.known, "config", "trust", *own]
        return did_you_mean(name, among, f"; there are {', '.join(self.known)}.")

    def _asks(self, questions: Collection[str] = ASKING) -> bool:
        """Whether the words ask something, so that nothing is run."""
        names = [name for name, _ in options_of(self.options)]
        return any(name in questions or name.endswith(".help") for name in names)

    def refuse_no_checkpoint(self) -> None:
        """Raises UserError where an evaluation has none; one that only asks needs none."""
        if self.evaluates and not self.paths and not self._asks():
            raise UserError(f"{self.verb} needs --ckpt_path PATH, a checkpoint or run folder.")

    def refuse_no_network(self) -> None:
        """Raises UserError where neither words nor configs say what is to be trained."""
        asks = self._asks(("h", "help"))  # a config without a network cannot be printed
        if self.paths or self.carried or asks or "model" in self.sections_given:
            return
        if not any(setting_in(source.text, ("model",)) for source in self.given):
            said = "".join(f"{source.name}: " for source in self.given[-1:])
            raise UserError(f"{said}model.network: not given. {NAME_A_CONFIG}")

    def check_files(self) -> None:
        """Raises an error where images are not there, or where the file for their classes is."""
        if not self.evaluates or self._asks():
            return
        words = [(name, value) for name, value in options_of(self.options) if value]
        if self.verb == "predict":
            self._check_images(words)
        tta = dict(words).get("tta", TTA)
        if tta not in (TTA, "null"):
            raise UserError(f"--tta: '{tta}' is no way to average, expected {TTA}.")
        output = dict(words).get("output", PREDICTIONS if self.verb == "predict" else "")
        if output:
            check_output(Path(output).expanduser())

    def _check_images(self, words: Sequence[tuple[str, str]]) -> None:
        patterns = [value for name, value in words if name == "images"]
        if not patterns and not any(setting_in(s.text, ("images",)) for s in self.given):
            raise UserError(NO_IMAGES)
        for pattern in patterns:
            if not {*"*?["} & {*pattern} and not Path(pattern).expanduser().exists():
                raise FileNotFoundError(f"--images: there is no file, folder or glob '{pattern}'.")

    def refuse_choice(self, path: str) -> None:
        """Raises UserError for Lightning's names for a checkpoint of its choice."""
        if path in (*LAST, *BEST) and not Path(path).exists():
            which = "its best" if self.evaluates else "its last"
            raise UserError(
                f"--ckpt_path {path}: name the run, --ckpt_path runs/NAME/version_N, which means "
                f"{which} checkpoint for {self.verb}, or a file in its folder checkpoints."
            )

    # ---- configs ----

    def _source(self, value: str) -> ConfigSource:
        """A config of the user, checked; one that lies in a run folder was used elsewhere."""
        source = read_source(value, self.verb)
        check_sections(source, self.known)
        if not is_text(value) and source.name != str(Path(value).expanduser()):
            self.notes.append(note_shipped(value, source.name))
        return self.used_before(source)

    def used_before(self, source: ConfigSource) -> ConfigSource:
        """A config, with the files of its data and weights found from here."""
        record = run_beside(Path(source.name)) if Path(source.name).is_file() else {}
        return source._replace(text=self.with_files_found(source.text, record))

    def with_files_found(self, text: str, record: Mapping[str, Any]) -> str:
        """A config text likewise, given the record of the run that it was used in."""
        folder = record.get("working_folder")
        return with_files_found(text, folder, self.missing) if isinstance(folder, str) else text


def _untwinned(word: str) -> str:
    """A word of the command line, whose value may be a class path of ``lightning.pytorch``."""
    name, equals, value = word.partition("=")
    return f"{name}={untwinned(value)}" if equals else untwinned(word)
