"""The settings of a search: its file, its command line, and the copy in its folder."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from classifier import runs, terminal
from classifier.anchored_yaml.scalars import Dumper
from classifier.anchored_yaml.text import ConfigSource, check, locate, setting_in
from classifier.anchored_yaml.text import load as load_yaml
from classifier.atomic import write_text
from classifier.cli.errors import Where
from classifier.cli.given import SECTIONS
from classifier.cli.sources import note_shipped, shipped_config
from classifier.cli.words import take_option
from classifier.errors import UserError, did_you_mean
from classifier.search import parser, samplers
from classifier.search.entries import RANGE
from classifier.search.space import SEED, Space, about

FILE = "search.yaml"
BASE = "base.yaml"
DEFAULT_MONITOR = "val_loss"  # of ClassificationModule
# Its metrics, behind train_ and val_, as torchmetrics has them, which a search does without.
DIRECTIONS: dict[str, runs.Direction] = {
    "loss": "minimize",
    "accuracy": "maximize",
    "accuracy_top5": "maximize",
    "f1": "maximize",
}
# Those of torchmetrics by class, without "Multiclass"; the others do not say it themselves.
TORCHMETRICS: dict[str, runs.Direction] = {
    **dict.fromkeys(("CalibrationError", "HammingDistance", "HingeLoss"), "minimize"),
    **dict.fromkeys(("Accuracy", "AUROC", "AveragePrecision", "CohenKappa"), "maximize"),
    **dict.fromkeys(("ExactMatch", "F1Score", "FBetaScore", "JaccardIndex"), "maximize"),
    **dict.fromkeys(("LogAUC", "MatthewsCorrCoef", "Precision", "Recall"), "maximize"),
}
MODES: dict[str, runs.Direction] = {"min": "minimize", "max": "maximize"}  # of the base config
# What may be changed when a search is resumed; everything else would mix two searches.
FREE = ("n_trials", "max_seconds", "workers", "engine", "engine_options", "heartbeat")


@dataclass(frozen=True)
class Settings:
    """What a search file and the command line say.

    Args:
        base: The config whose hyperparameters are searched; relative to the search file, else to
            the working folder.
        code_folder: Where the base config's own modules are, besides the working folder. (default:
            the folder of the base config)
        space: What is searched, by name in the base config's hyperparameters: a range {low: 1e-4,
            high: 0.1, log: true, step: null}, a list of choices, or a class of
            optuna.distributions.
        repeat: The name in space with all of whose values each configuration is trained.
        name: Name of the study. (default: name of the folder)
        folder: Folder of the search. (default: searches/NAME_OF_THE_SEARCH_FILE)
        monitor: The metric whose best epoch counts. (default: the base config's model.monitor)
        direction: Whether a small or a large value is good. (default: as the metric says, or the
            base config's model.monitor_mode)
        n_trials: How many trials there are in all, over all calls. With "sampler: grid" all points
            of the grid if left out.
        max_seconds: No trial is begun later than this after the workers are started.
        workers: How many trials are trained at the same time.
        engine: What starts the workers.
        engine_options: Options of sbatch for slurm; for ray those of its tasks, and address.
        storage: URL of a database, postgresql://...; $NAME in it comes from the environment. The
            folder has to be on a file system of all workers. (default: a file in the folder)
        heartbeat: Seconds between signs of life; a worker on another machine that is silent for
            four of them is given up, and its trial is resumed elsewhere.
        dry_run: Writes the configs of this many trials and trains none.
        sampler: What chooses the next configuration.
        pruner: What stops bad trials early.
        plan: The configurations of a search that chooses none.
    """

    base: Path = Path()
    code_folder: Path | None = None
    space: dict[str, Any] = field(default_factory=dict)
    repeat: str = SEED
    name: str = ""
    folder: Path = Path()
    monitor: str = ""
    direction: Literal["minimize", "maximize"] = "minimize"
    n_trials: int | None = None
    max_seconds: float | None = None
    workers: int = 1
    engine: Literal["local", "slurm", "ray"] = "local"
    engine_options: dict[str, Any] = field(default_factory=dict)
    storage: str | None = None
    heartbeat: float = 30
    dry_run: int = 0
    sampler: samplers.Spec | Literal["grid"] = field(
        default_factory=lambda: samplers.DEFAULT_SAMPLER
    )
    pruner: samplers.Spec | None = field(default_factory=lambda: samplers.DEFAULT_PRUNER)
    plan: list[dict[str, Any]] | None = None


KEYS = [part.name for part in fields(Settings) if part.name not in ("dry_run", "plan")]


def parse(arguments: Sequence[str]) -> Settings:
    """Reads the command line and the search file that it names.

    Raises:
        UserError: A setting is missing, unknown or wrong.
    """
    values, rest = take_option(arguments, "--config", "-c")
    files = [_found(Path(value)) for value in values]
    sources = [_read(file) for file in files]
    given = {k: v for source in sources for k, v in load_yaml(source.text, source.name).items()}
    options = dict.fromkeys(word.partition("=")[0] for word in rest)
    of_space = [option for option in options if option.partition(".")[0] == "--space"]
    for option in sorted(of_space, key="--space".__ne__):  # the whole, then its parts in order
        values, rest = take_option(rest, option)
        _, _, entry = option.partition(".")
        value = load_yaml(values[-1], option)
        given["space"] = _with_entry(given.get("space"), entry, value) if entry else value
    by_hand = any(argument.startswith("--pruner") for argument in arguments)
    where = _finder(sources, arguments)
    found = parser.parse(Settings, given, rest, where)
    repeated = found.get("repeat", SEED) in (found.get("space") or {})
    if repeated and "pruner" not in given and not by_hand:
        found["pruner"] = None  # a configuration counts only if all its repeats are complete
    return _completed(found, files, where)


def save(settings: Settings) -> None:
    """Writes ``search.yaml``, the complete settings, and ``base.yaml`` into the search folder."""
    write_text(settings.folder / BASE, settings.base.read_text(encoding="utf-8"))
    aside = ("base", "folder", "dry_run", *(["plan"] if settings.plan is None else []))
    data = {"base": BASE} | {k: v for k, v in vars(settings).items() if k not in aside}
    data["code_folder"] = settings.code_folder and str(settings.code_folder)
    text: str = yaml.dump(
        data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    note = f"# The complete settings of this search. Only {', '.join(FREE)} may change.\n"
    write_text(settings.folder / FILE, note + text)


def load(folder: Path) -> Settings:
    """Reads the settings that a search folder was made with.

    Raises:
        UserError: The folder is not that of a search, or its settings are damaged.
    """
    path = folder / FILE
    if not path.is_file():
        others = [str(file.parent) for file in folder.parent.glob(f"*/{FILE}")]
        hint = did_you_mean(str(folder), others, "; 'classifier search --config FILE' makes one.")
        raise UserError(f"'{folder}' is not the folder of a search, without {FILE}{hint}")
    source = ConfigSource(str(path), path.read_text(encoding="utf-8"))
    given = load_yaml(source.text, source.name)
    plan = given.pop("plan", None)
    found = parser.parse(Settings, given, [], _finder([source], []))
    folder = folder.resolve()
    return Settings(**{**found, "base": folder / BASE, "folder": folder, "plan": plan})


# ---- the command line and the search file ----


def _found(path: Path) -> Path:
    """The file that is meant: where there is none, the one that comes with this package."""
    shipped = shipped_config(path)
    if shipped:
        terminal.note(note_shipped(path, shipped))
    return shipped or path


def _read(path: Path) -> ConfigSource:
    if not path.is_file():
        raise UserError(f"--config: {_no_file(path, [path])}")
    source = ConfigSource(str(path), _text(path, str(path)))
    for key in load_yaml(source.text, source.name):
        if key not in KEYS:
            line = locate(source.text, [key])
            of_fit = "; it is a config of fit, which a search file names: 'base: FILE'."
            listed = f"; there are {', '.join(KEYS)}."
            hint = did_you_mean(str(key), KEYS, of_fit if key in SECTIONS else listed)
            raise UserError(f"{source.name}:{line}: no setting '{key}'{hint}")
    return source


def _no_file(wanted: Path, tried: Sequence[Path]) -> str:
    if any(path.is_dir() for path in tried):
        return f"'{wanted}' is a folder, expected a YAML file."
    near = [file.name for path in tried for file in path.parent.glob("*.y*ml")]
    folders = " or ".join(dict.fromkeys(f"'{os.path.normpath(path.parent)}'" for path in tried))
    return f"no file '{wanted.name}' in {folders}{did_you_mean(wanted.name, near)}"


def _with_entry(space: Any, key: str, value: Any) -> dict[str, Any]:
    """A space with another entry, ``lr``, or with another part of a range, ``lr.high``."""
    known = space if isinstance(space, dict) else {}
    name, _, part = key.rpartition(".")
    if part not in RANGE or key in known:
        return {**known, key: value}
    entry = known.get(name)
    return {**known, name: {**(entry if isinstance(entry, dict) else {}), part: value}}


def _finder(sources: Sequence[ConfigSource], arguments: Sequence[str]) -> Where:
    options = [f"{a.partition('=')[0][2:]}." for a in arguments if a.startswith("--")]

    def where(key: str) -> str:
        plain = f"{key.replace('.init_args', '')}."
        if any(plain.startswith(option) or option.startswith(plain) for option in options):
            return ""
        section, _, name = key.partition(".")
        path = [section, name] if section == "space" and name else key.split(".")
        lines = ((source.name, locate(source.text, path)) for source in reversed(sources))
        return next((f"{name}:{line}: " for name, line in lines if line), "")

    return where


# ---- what depends on other settings ----


def _completed(found: dict[str, Any], files: Sequence[Path], where: Where) -> Settings:
    """Finds the base config, fills in what follows from it, and checks everything."""
    base = _base(found["base"], files, where)
    name = os.path.relpath(base)
    text = _text(base, name)
    folder, file = found["folder"], [*files, base][0]
    if folder == Path():
        saved = file.name == FILE and (file.parent / BASE).is_file()  # the settings of a search
        folder = file.parent if saved else Path("searches", file.stem)
    folder = folder.resolve()
    monitor = found["monitor"] or setting_in(text, ("model", "monitor")) or DEFAULT_MONITOR
    # The folder may be somebody else's: nothing in it is imported here. It may have been moved.
    begun = _text(folder / FILE, str(folder / FILE)) if (folder / FILE).is_file() else ""
    found |= {
        "base": base,
        "code_folder": (found["code_folder"] or base.parent).resolve(),
        "folder": folder,
        "name": found["name"] or str(setting_in(begun, ["name"]) or folder.name),
        "monitor": monitor,
        "direction": _direction(monitor, found["direction"], begun, text, where),
    }
    settings = Settings(**found)
    _check(settings, where)
    space = Space(settings.space, settings.repeat, where)
    space.check(text, name)
    if settings.sampler == "grid":
        space.grid()
    with about("n_trials", where):
        _check_budget(settings.n_trials, space)
    return settings


def _direction(
    monitor: str, given: runs.Direction | None, begun: str, base: str, where: Where
) -> runs.Direction:
    """Which way the metric is better; a search that has begun keeps its own.

    Raises:
        UserError: It contradicts the metric, or nothing says it.
    """
    held = setting_in(begun, ["direction"])
    same = setting_in(begun, ["monitor"]) == monitor
    if same and held in MODES.values() and given in (None, held):
        return cast(runs.Direction, held)
    stage, _, name = monitor.partition("_")
    right = None
    if stage in ("train", "val"):
        right = _by_class(name, base) if stage == "val" else None
        right = right or DIRECTIONS.get(name)
    if right is None and monitor == setting_in(base, ("model", "monitor")):
        right = MODES.get(setting_in(base, ("model", "monitor_mode")))
    if right is None and given is None and stage == "val" and _class_of(name, base):
        raise UserError(
            f"{where('monitor')}monitor: nothing says whether a small or a large {monitor} is "
            "good; set direction to minimize or maximize, or model.monitor_mode beside "
            f"model.monitor: {monitor} in the base config."
        )
    if right is None and given is None:
        names = [f"{stage}_{name}" for stage in ("train", "val") for name in DIRECTIONS]
        raise UserError(
            f"{where('monitor')}monitor: no metric '{monitor}'{did_you_mean(monitor, names)} One "
            "that a callback or a class of your own measures needs a direction, minimize or "
            "maximize."
        )
    if given and right not in (None, given):
        raise UserError(
            f"{where('direction')}direction: {given} contradicts {monitor}, to {right}; leave it "
            "out."
        )
    return cast(runs.Direction, given or right)


def _by_class(name: str, base: str) -> runs.Direction | None:
    """Which way a metric of the base config's model.metrics is better, if it is torchmetrics'."""
    path = _class_of(name, base)
    if path.startswith("torchmetrics."):
        return TORCHMETRICS.get(path.rpartition(".")[2].removeprefix("Multiclass"))
    return None


def _class_of(name: str, base: str) -> str:
    """The class path of a metric of the base config's model.metrics; "" if there is none."""
    spec = setting_in(base, ("model", "metrics", name))
    return str((spec.get("class_path") if isinstance(spec, dict) else spec) or "")


def _check_budget(n_trials: int | None, space: Space) -> None:
    """Refuses trials that could not count, or would only repeat others."""
    repeats = max(1, len(space.repeats))
    if n_trials and n_trials % repeats:
        more = n_trials + repeats - n_trials % repeats
        what = "seeds" if space.repeat == SEED else f"values of {space.repeat}"
        raise UserError(
            f"{n_trials} is not a multiple of the {repeats} {what} with which each configuration "
            f"is trained; take {more}."
        )
    if n_trials and space.size is not None and n_trials > space.size * repeats:
        raise UserError(
            f"{n_trials}, but the space has only {space.size * repeats} different trials; leave it "
            "out and take 'sampler: grid'."
        )


def _base(wanted: Path, files: Sequence[Path], where: Where) -> Path:
    if wanted == Path():
        raise UserError("base: not given. Name a search file, --config FILE, with 'base: FILE'.")
    tried = [*(file.parent / wanted for file in reversed(files)), wanted]
    found = next((path for path in tried if path.is_file()), None) or _found(wanted)
    if not found.is_file():
        raise UserError(f"{where('base')}base: {_no_file(wanted, tried)}")
    return found.resolve()


def _text(path: Path, name: str) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"'{name}' is not a text file in UTF-8, expected YAML.") from None
    check(ConfigSource(name, text))
    return text


def _check(settings: Settings, where: Where) -> None:
    for key, least in (("n_trials", 1), ("workers", 1), ("dry_run", 0)):
        if (number := getattr(settings, key)) is not None and number < least:
            raise UserError(f"{where(key)}{key}: at least {least} is needed, not {number}.")
    for key in ("max_seconds", "heartbeat"):
        if (number := getattr(settings, key)) is not None and not 0 < number < math.inf:
            raise UserError(f"{where(key)}{key}: a time above 0 is needed, not {number}.")
    endless = settings.sampler != "grid" and set(settings.space) != {settings.repeat}
    if endless and settings.n_trials is None and settings.max_seconds is None:
        raise UserError(
            "n_trials: not given. Say how many trials to train, --n_trials 20, or for how long, "
            "--max_seconds 3600."
        )
    url = os.path.expandvars(settings.storage or "")
    if url.startswith("sqlite"):
        raise UserError(
            f"{where('storage')}storage: SQLite's locks fail between machines; leave storage out, "
            "or use PostgreSQL, postgresql://USER@HOST/NAME."
        )
    if settings.storage is not None and "://" not in url:
        raise UserError(
            f"{where('storage')}storage: '{settings.storage}' is not the URL of a database, "
            "expected postgresql://USER@HOST/NAME, or null for a file in the search folder."
        )
    with about("sampler", where):
        samplers.make_sampler(settings.sampler, 0)
    with about("pruner", where):
        samplers.make_pruner(settings.pruner)
