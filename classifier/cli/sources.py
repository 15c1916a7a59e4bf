"""Config texts: read, checked, and brought into the one form that everything else knows."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

import classifier
from classifier import runs
from classifier.anchored_yaml.edit import keep_keys, part_of, set_values, written_at
from classifier.anchored_yaml.text import (
    ConfigSource,
    KeyPath,
    check,
    children,
    compose,
    dotted,
    load,
    locate,
    missing_blank,
    places,
    setting_in,
)
from classifier.checkpoint.find import similar_file
from classifier.cli.words import VERBS
from classifier.errors import UserError, did_you_mean
from classifier.runs import RunFolder

BLOCKS = ("hyperparameters", "trainer", "model")  # sections that have settings of their own
SETTINGS_ONLY = ("trainer", "model", "data", "save_every")  # sections of which null means nothing
OF_FIT = ("weights_only", "return_predictions")  # of Lightning's methods; ours never change them
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
FILES: list[tuple[str, ...]] = [
    ("trainer",),
    ("model",),
    ("data",),
]  # what may be the name of a file with its settings
FILES += [("model", name) for name in ("network", "loss", "optimizer", "lr_scheduler")]
TWIN = re.compile(r"^lightning\.(pytorch|fabric)(?=\.)")  # the same package under another name
TWINS = {"pytorch": "pytorch_lightning", "fabric": "lightning_fabric"}


def shipped_config(path: Path) -> Path | None:
    """The config that comes with this package, where there is no file of that name.

    ``digits.yaml`` and, as in the README, ``configs/digits.yaml`` mean the same.
    """
    if path.exists() or path.is_absolute() or ".." in path.parts:
        return None
    folder = _shipped()
    name = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    return folder / name if (folder / name).is_file() else None


def _shipped() -> Path:
    """The folder of the configs that come with this package."""
    own = Path(classifier.__file__).parent / "configs"  # in a wheel
    return own if own.is_dir() else own.parents[1] / "configs"  # in a clone


def note_shipped(wanted: Path | str, path: Path | str) -> str:
    """What is said where a config is taken that comes with this package."""
    return f"there is no '{wanted}' here: '{path}', which comes with classifier, is used."


def is_text(config: str) -> bool:
    """Whether a config is given by its text instead of by the name of a file."""
    return "\n" in config or config.lstrip().startswith("{")


def is_carried(config: str) -> bool:
    """Whether a config is named by what carries it: a checkpoint, or the folder of a run."""
    if is_text(config):
        return False
    return config.endswith(".ckpt") or RunFolder(Path(config)).begun


def read_source(value: str, verb: str) -> ConfigSource:
    """Reads and checks a config of the user.

    Raises:
        UserError: If it is not there or not a config.
    """
    shipped = None if is_text(value) else shipped_config(Path(value))
    source = _read(str(shipped or value))
    check(source)
    source = _without_empty(_with_files_read(_of_verb(source, verb)))
    source = source._replace(text=_without_twins(source.text))
    _check_classes(source)
    return source


def _read(value: str) -> ConfigSource:
    if is_text(value):
        return ConfigSource("--config", value)
    path = Path(value).expanduser()
    if path.is_dir():
        raise UserError(f"--config '{path}' is a folder, expected a YAML file.")
    if not path.exists():
        shipped = [Path(config.name) for config in _shipped().glob("*.yaml")]
        raise UserError(f"No config file '{path}'{similar_file(path, shipped)}")
    try:
        return ConfigSource(str(path), path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not a text file in UTF-8, expected YAML.") from error


def _of_verb(source: ConfigSource, verb: str) -> ConfigSource:
    """Takes the section of a verb, where a file has one for each as plain LightningCLI's may."""
    config = load(source.text, source.name)
    for key in OF_FIT:
        if config.get(key) not in (None, True):
            line = locate(source.text, [key])
            raise UserError(f"{source.name}:{line}: {key} is always true here; leave it out.")
    verbs = {*VERBS, verb}
    rest = [key for key in config if key not in (*verbs, *OF_FIT)]
    if len(rest) == len(config):
        return source
    if not config.keys() & verbs:
        return source._replace(text=keep_keys(source.text, rest))
    if rest:
        line = locate(source.text, [rest[0]])
        raise UserError(f"{source.name}:{line}: '{rest[0]}' stands beside sections of commands.")
    return _of_verb(source._replace(text=part_of(source.text, verb)), verb)


def _without_empty(source: ConfigSource) -> ConfigSource:
    """Leaves out sections of which nothing is written: all of their lines may be comments."""
    config = load(source.text, source.name)
    kept = [key for key, value in config.items() if value is not None or key not in SETTINGS_ONLY]
    if len(kept) < len(config):
        source = source._replace(text=keep_keys(source.text, kept))
    return source if config else source._replace(text="{}\n")


def _with_files_read(source: ConfigSource) -> ConfigSource:
    """Puts in the settings that a file of their own holds, ``model: model.yaml``."""
    folder = Path(source.name).parent if Path(source.name).is_file() else Path()
    found: dict[KeyPath, Any] = {}
    for place in FILES:
        value = setting_in(source.text, place)
        if isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")):
            file = _read(str(folder / value))
            found[written_at(source.text, place)] = load(file.text, file.name)
    return source._replace(text=set_values(source.text, found)) if found else source


def _without_twins(text: str) -> str:
    """Names classes of Lightning by the package whose Trainer trains here."""
    if "lightning." not in text:
        return text
    found = {}
    for path, node in places(compose(text)):
        if isinstance(node, yaml.ScalarNode) and TWIN.match(node.value):
            found[written_at(text, path)] = untwinned(node.value)
    return set_values(text, found) if found else text


def untwinned(class_path: str) -> str:
    """A class path of ``lightning.pytorch`` as one of ``pytorch_lightning``.

    >>> untwinned("lightning.pytorch.callbacks.Timer")
    'pytorch_lightning.callbacks.Timer'
    """
    return TWIN.sub(lambda found: TWINS[found[1]], class_path)


def check_sections(source: ConfigSource, known: Collection[str], remedy: str = "") -> None:
    """Refuses a section that does not exist, which jsonargparse ignores when it is empty.

    The ``remedy`` ends the sentence, in place of what the section may have been meant to be.
    """
    config = load(source.text, source.name) or {}
    for key, value in config.items():
        line = locate(source.text, [key])
        if key not in known:
            hint = remedy or did_you_mean(str(key), known, f"; there are {', '.join(known)}.")
            raise UserError(f"{source.name}:{line}: no section '{key}'{hint}")
        is_class = key == "model" and isinstance(value, str)
        if key in BLOCKS and not isinstance(value, dict | None) and not is_class:
            told = _not_settings(value) if isinstance(value, str) else f"{value!r} is no setting."
            raise UserError(f"{source.name}:{line}: {key}: {told}")


def _check_classes(source: ConfigSource) -> None:
    """Refuses what jsonargparse explains in many lines: other keys beside a class path."""
    for path, keys in blocks(source):
        if not {"class_path", "init_args"} & keys.keys():
            continue
        for key, value in keys.items():
            where = f"{source.name}:{locate(source.text, (*path, key))}: {dotted(path)}"
            if key not in CLASS_KEYS:
                named = getattr(keys.get("class_path"), "value", "class_path")
                hint = did_you_mean(str(key), CLASS_KEYS, f"; there are {', '.join(CLASS_KEYS)}.")
                raise UserError(f"{where}: no setting '{key}' beside {named}{hint}")
            if key == "class_path" and value.tag != "tag:yaml.org,2002:str":
                raise UserError(f"{where}: a class_path is a text such as package.module.Class.")
            if key != "class_path" and isinstance(value, yaml.ScalarNode) and value.value:
                raise UserError(f"{where}.{key}: {_not_settings(value.value)}")


def _not_settings(text: str) -> str:
    """Says what is wrong with a text in the place of settings, each with a name."""
    return missing_blank(text) or f"'{text}' is no setting, expected NAME: VALUE."


def blocks(source: ConfigSource) -> Iterator[tuple[KeyPath, dict[Any, yaml.Node]]]:
    """The mappings of a config, each with its place."""
    for path, node in places(compose(source.text, source.name)):
        if isinstance(node, yaml.MappingNode):
            yield path, {key: value for key, _, value in children(node)}


def is_saved(source: ConfigSource) -> bool:
    """Whether it is the config file of a run folder."""
    path = Path(source.name)
    named = re.fullmatch(r"config(_\d+)?\.yaml", path.name)
    return bool(named) and RunFolder(path.parent).begun


def run_beside(config: Path) -> dict[str, Any]:
    """The record of the run that a config file was saved in; empty if it was not."""
    folder = config.resolve().parent
    if not RunFolder(folder).begun:
        return {}
    named = {"name": folder.parent.name}
    try:
        return named | runs.read_record(folder)
    except ValueError:  # damaged, which matters to nobody who only trains anew
        return named
