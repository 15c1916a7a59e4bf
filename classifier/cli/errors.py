"""Turns errors of the parser into one to three lines: key, value, expectation, remedy."""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from classifier.checkpoint.trust import PACKAGES, folders_searched
from classifier.cli.keys import NAME_A_CONFIG, OF_MODEL, close_key, without_module
from classifier.errors import did_you_mean

Where = Callable[[str], str]  # maps a dotted key to "file:line: ", or to "" when no file has it

# jsonargparse tries every type of a union and reports each; these lines tell no cause.
NOISE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value|"
    r"Expected a path but|Expected a <class 'NoneType'>|Not a valid subclass of|"
    r"Subclass types expect one of|a class path \(str\)|a dict |Problem with given class_path|$"
)
CALLABLE = re.compile(r"Type collections\.abc\.Callable\[.*?\] expects a .*? callable class: ")
UNKNOWN = re.compile(r"(?:unrecognized arguments:|does not accept option) '?([^\s'=]+)")
NOT_ACCEPTED = re.compile(r"Option '([^']+)' is not accepted(.*?)(?:\. Got value: .*)?$", re.M)
KNOWN = {package.partition(".")[0] for package in PACKAGES}
REPLACE = "Write 'import pytorch_lightning as pl' in place of 'import lightning.pytorch as pl'."
PRECISIONS = {  # as other programs call those of Lightning
    **dict.fromkeys(("fp16", "float16", "half", "amp", "mixed"), "16-mixed"),
    **dict.fromkeys(("bfloat16", "bf16-amp"), "bf16-mixed"),
    **dict.fromkeys(("fp32", "float32", "float", "full"), "32-true"),
    **dict.fromkeys(("fp64", "float64", "double"), "64-true"),
}
# What transformers of a fixed image size say, of torchvision and of timm.
OTHER_SIZE = re.compile(
    r"Wrong image \w+! Expected (?P<wanted>\d+) but got (?P<got>\d+)"
    r"|Input \w+ \((?P<got_>\d+)\) doesn't match model \((?P<wanted_>\d+)\)"
)
OTHER_SCHEDULE = re.compile(r"(timm\.scheduler|transformers)(\.\w+)+")
WARMED_UP = (
    "take one of torch.optim.lr_scheduler, such as CosineAnnealingLR, with a rise in front by "
    "model.warmup, such as {epochs: 1}."
)
TENSOR = "a list of numbers, or of lists of them that are equally long"
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}


def explain(message: str, names: Iterable[str] = (), where: Where = lambda key: "") -> str:
    """Shortens an error of jsonargparse to the key it is about, the cause and a remedy.

    Args:
        message: As jsonargparse writes it, over many lines.
        names: The dotted names that the parser knows.
        where: Finds a key in the config files.
    """
    if missing := re.search(r"following arguments are required: (.*)", message):
        keys = [re.sub(r"^(fit|validate|test|predict)\.", "", n) for n in missing[1].split(", ")]
        key = _key(message)
        if key == "model":
            keys = [f"model.{name}" for name in keys]
        elif key:
            if "schedulers" in keys:  # objects, which no config holds
                return f"{where(key)}{key}: a schedule of several cannot be written; {WARMED_UP}"
            return f"{where(key)}{key}: needs {' and '.join(keys)}, which is not given."
        return f"{' and '.join(keys)}: not given. {NAME_A_CONFIG}"
    if unknown := UNKNOWN.search(message):
        owner = re.search(r"(?:Parser key \"|Group ')([\w.]+)", message)
        key = ".".join([*(owner.groups() if owner else ()), unknown[1].lstrip("-")])
        names = [*names, *(f"model.{name}" for name in OF_MODEL)]
        if key in OF_MODEL:
            return f"{key}: no such setting, did you mean 'model.{key}'?"
        return f"{where(key)}{key}: no such setting{close_key(key, names)}"
    key, cause = _key(message), _cause(message)
    if "${" in cause:
        cause += " A value has a name by an anchor, '&name 3', and is used again by '*name'."
    return f"{where(key)}{key}: {cause}" if key else cause


def _key(message: str) -> str:
    r"""The dotted key: a parser for the whole config, then parsers for init_args.

    >>> _key('Parser key "data":\n  Problem…\n  Parser key "batch_size":\n  …')
    'data.init_args.batch_size'
    """
    keys = list(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    if option := NOT_ACCEPTED.search(message):
        keys.append(option[1].partition(".")[0])
    key = without_module(".init_args.".join(keys))
    metric = _metric(message) if key.startswith("model.metrics") else ""
    return key.replace("model.metrics", f"model.metrics.{metric}", 1) if metric else key


def _metric(message: str) -> str:
    """The name of the metric that is wrong, which jsonargparse tells by the values alone."""
    blocks = (r"dict\[str, torchmetrics\.metric\.Metric", r"<class 'torchmetrics\.metric\.Metric")
    given = [
        re.search(rf"^( *)Subtypes: \[{kind}.*?^\1Given value: (.*?)$", message, re.M | re.S)
        for kind in blocks
    ]
    if not all(given):
        return ""
    every, one = (found[2] for found in given if found)
    nested = re.match(r"NestedArg\(key='(\w+)", every)
    named = nested or re.search(rf"'(\w+)': '?{re.escape(one)}'?[,}}]", every)
    return named[1] if named else ""


def _cause(message: str) -> str:
    if option := NOT_ACCEPTED.search(message):
        owners = re.findall(r"class_path[=']* ?'([\w.]+)'", message)
        owner = f" of {owners[-1]}" if owners else ""
        return f"no such setting{owner}{option[2]}"
    given = _given(message)
    if "No module named" in message and given.rstrip("'").endswith((".yaml", ".yml", ".json")):
        return f"there is no file {given}."
    expected, told = [], []
    for line in map(_plain, message.splitlines()):
        if types := _expected(line):
            expected += types
        elif not NOISE.match(line):
            told.append(line)
    paths = [line for line in told if line.startswith("Expected a dot import path")]
    others = [line for line in told if line not in paths]
    if others:
        return "; ".join(dict.fromkeys(_translated(line, given) for line in others))
    if expected:  # a class would also have been accepted, but nobody meant one
        return _not_one_of(list(dict.fromkeys(expected)), given)
    return _translated(paths[0], given) if paths else _wanted(message, given)


def _not_one_of(choice: list[str], given: str) -> str:
    """A sentence about a value that is none of those expected."""
    if (meant := PRECISIONS.get(given.strip("'").lower())) in choice:
        return f"{given} is not known, did you mean '{meant}'?"
    choice = [kind for kind in choice if kind != TENSOR] or choice  # a number may be one, too
    listed = " or ".join(choice) if len(choice) < 4 else f"one of {', '.join(choice)}"
    return f"{given} is not {listed}."


def _wanted(message: str, given: str) -> str:
    """The class that was wanted, where the message tells no more."""
    kinds = re.findall(r"Not a valid subclass of (\w+)", message)
    told = f"{given} is not a {kinds[-1]}, named by a class_path." if kinds else message
    return " ".join(told.split())


def _plain(line: str) -> str:
    line = CALLABLE.sub("", line).strip().removeprefix("- ")
    line = re.sub(r'^Parser key "[^"]+":\s*', "", line)
    return re.sub(r"\. Got value:.*$", "", line)


def _expected(line: str) -> list[str]:
    if kind := re.match(r"Expected a <class '(?!NoneType)([\w.]+)'>$", line):
        return [TYPES.get(kind[1], kind[1].rpartition(".")[2])]
    if line.startswith("Not of type Tensor"):
        return [TENSOR]
    if choices := re.match(r"Expected a typing\.Literal\[(.*)\]$", line):
        return [choice.strip("'") for choice in choices[1].split(", ")]
    if members := re.match(r"Expected a member of <enum '\w+'>: \{(.*)\}$", line):
        return members[1].split(",")
    return []


def _translated(line: str, given: str) -> str:
    return _of_learning(line, given) or _of_classes(line, given)


def _of_learning(line: str, given: str) -> str:
    """What is said of schedules, warm-up and groups of parameters; "" for anything else."""
    if other := OTHER_SCHEDULE.search(f"{line} {given}"):
        return f"'{other[0]}' is not a schedule of torch's; {WARMED_UP}"
    if keys := re.match(r"(Unexpected|Missing required) keys: \{'(\w+)'", line):
        if keys[1] != "Unexpected":
            return f"an entry lacks {keys[2]}."
        from classifier.optimization.groups import Group  # with torch, which searches do without
        from classifier.optimization.rates import Warmup

        known = [*Group.__annotations__, *Warmup.__annotations__]
        return f"no setting '{keys[2]}'{did_you_mean(keys[2], known)}"
    return ""


def _of_classes(line: str, given: str) -> str:
    if path := re.match(r"Expected a dot import path string: ?(.*)$", line):
        return f"'{path[1]}' is not a class path{_class_for(path[1])}"
    if other := re.match(r"Import path (\S*) ?does not correspond to a subclass of (\w+)", line):
        name = repr(other[1]) if other[1] else given
        return f"{name} is not a subclass of {other[2]}{_twin(name, other[2])}"
    if base := re.match(r"Expected '(\S+)' to be a subclass of <class '(?:\w+\.)*(\w+)'>", line):
        return f"'{base[1]}' is not a subclass of {base[2]}{_twin(base[1], base[2])}"
    if attribute := re.match(r"module '([\w.]+)' has no attribute '(\w+)'", line):
        found = vars(sys.modules.get(attribute[1], sys)).items()
        hint = did_you_mean(attribute[2], (name for name, value in found if callable(value)))
        return f"'{attribute[1]}' has no '{attribute[2]}'{hint}"
    if module := re.match(r"No module named '([\w.]+)'", line):
        name = module[1].partition(".")[0]
        if name == "lightning":  # another name for a package that is here
            return f"there is no '{module[1]}': the Trainer here is pytorch_lightning's. {REPLACE}"
        if name in KNOWN:  # of any other name nobody knows whose package that is
            package = name.replace("_", "-")
            return f"there is no '{module[1]}': pip install {package}, or correct the class path."
        folders = " or ".join(f"'{folder}'" for folder in folders_searched())
        return (
            f"there is no '{module[1]}', neither installed nor in {folders}: correct the class "
            "path, or start in the folder that it is in."
        )
    return in_other_words(line) or line


def _twin(class_path: str, base: str = "") -> str:
    """Ends a sentence about a class that is of another base than it seems."""
    module = sys.modules.get(class_path.strip("'").rpartition(".")[0])
    found = vars(module).values() if module else ()
    if any(getattr(value, "__name__", "").startswith("lightning.pytorch") for value in found):
        return (
            f": it is built on lightning.pytorch, but the Trainer here is pytorch_lightning's. "
            f"{REPLACE}"
        )
    if base in ("ImageDataModule", "LightningDataModule"):
        another = " or from pytorch_lightning.LightningDataModule" * base.startswith("L")
        return f": let it derive from classifier.data.ImageDataModule{another}."
    return "."


def _given(message: str) -> str:
    patterns = (
        r"NestedArg\(key='[^']*', val='([^']*)'\)",
        r"Got value: ([^(\n]+)$",
        r"Given value: (.*?)(?:\. Got value: .*)?$",
    )
    found = (re.search(pattern, message, re.M) for pattern in patterns)
    return next((f"'{match[1].strip()}'" for match in found if match), "the value")


def _class_names() -> set[str]:
    """Names of all classes that a config may give without their package."""
    from pytorch_lightning import Callback, LightningDataModule
    from torch import nn, optim

    from classifier.images.readers import Reader

    classes: list[type] = [nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler]
    classes += [Callback, LightningDataModule, Reader]
    for kind in classes:  # grows while it is walked: subclasses of subclasses
        classes += type.__subclasses__(kind)
    return {kind.__name__ for kind in classes}


def _class_for(name: str) -> str:
    """Ends a sentence about a class that is not named by its path."""
    from torchvision import models

    if Path(name).is_dir():
        return "; it is a folder: one with images is data.root."
    if name.lower() in models.list_models(models):
        return f", did you mean 'torchvision.models.{name.lower()}'?"
    return did_you_mean(name, _class_names(), ", expected package.module.Class.")


def in_other_words(text: str, size_is_chosen: bool = True) -> str:
    """What the user can do about what a network says of itself; "" for anything else.

    Args:
        text: What it says.
        size_is_chosen: Whether the data has a setting for the size of the images.

    >>> in_other_words("Wrong image height! Expected 224 but got 48!")
    'the network takes 224 pixels, not 48: --data.image_size 224.'
    """
    if size := OTHER_SIZE.search(text):
        wanted, got = size["wanted"] or size["wanted_"], size["got"] or size["got_"]
        remedy = f"--data.image_size {wanted}."
        if not size_is_chosen:
            remedy = "choose another network, for this data has images of one size."
        return f"the network takes {wanted} pixels, not {got}: {remedy}"
    if name := re.match(r"Unknown model \((.+)\)$", text):
        known = sys.modules["timm"].list_models() if "timm" in sys.modules else ()
        return f"model.network: timm has no model '{name[1]}'{did_you_mean(name[1], known)}"
    return ""
