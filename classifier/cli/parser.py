"""The argument parser: readable help, short errors, configs that can be read back."""

import argparse
import ast
import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Literal, NoReturn

import torch
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser
from torchmetrics import Metric

from classifier.anchored_yaml.scalars import document, literal
from classifier.anchored_yaml.text import load
from classifier.checkpoint.trust import import_class
from classifier.cli.errors import Where, explain
from classifier.cli.keys import MODULE, OF_METRICS, close_setting
from classifier.cli.words import options_of
from classifier.internals.jsonargparse import (
    Formatter,
    defaults_of,
    groups_of,
    leave_out,
    names_of,
    shown_groups,
    written_by,
)
from classifier.optimization.schedules import length_setting
from classifier.terminal import truncate
from classifier.weights.pretrained import weights_of

NOT_WRITABLE = "Unable to serialize instance"  # what jsonargparse writes for such a default


OWN_HELP = {
    "ckpt_path": "A checkpoint file, or a run folder: its last one to resume, its best one to "
    "evaluate; of several, their mean.",
    "config": "A YAML file; of several, a later one wins.",
    "data": "ImageFolder, Table, Digits, MNIST, CIFAR10, …; or any LightningDataModule by class "
    "path.",
    "hyperparameters": "Values with a name; --hyperparameters.NAME VALUE changes one wherever "
    "it is used.",
    "print_config": "Show the whole config and run nothing.",
    "seed_everything": "Seed of all random numbers; true draws one. (default: 0)",
    "save_every.minutes": "How often to save inside an epoch. (default: 5)",
    "save_every.steps": "The same, in optimizer steps.",
    "trainer.accelerator": "cpu, gpu, mps or tpu. (default: auto)",
    "trainer.callbacks": "Callbacks, each a class path with init_args; --trainer.callbacks+ CLASS "
    "adds one.",
    "trainer.default_root_dir": "Folder of all runs. (default: runs)",
    "trainer.fast_dev_run": "Try a batch of everything and keep nothing.",
    "trainer.limit_train_batches": "Batches an epoch, a number or a share of all.",
    "trainer.max_epochs": "Epochs to train, of all that are done.",
    "trainer.max_time": "Time to train, as DD:HH:MM:SS.",
    "trainer.precision": "Precision, such as bf16-mixed or 16-mixed. (default: 32-true)",
}
# Of these sections the help of a verb shows no others, and says where all of them stand.
USUAL = {
    "model": "network loss optimizer lr_scheduler monitor",
    "trainer": "max_epochs max_time accelerator devices precision callbacks default_root_dir "
    "limit_train_batches fast_dev_run",
}
TITLES = {
    "model": "Model (--model.help shows all settings)",
    "data": "Data (--data.help ImageFolder shows the settings of one)",
    "trainer": "Trainer (--trainer.help shows all settings)",
    "ckpt_path": "Checkpoint",  # Lightning's is a sentence about its own method
}
OWN_CLASSES = {"model.network": "classifier.networks."}


class HelpFormatter(Formatter):
    """Fits a verb's help on a few screens.

    The Trainer's settings get one sentence each, and of the classes that an argument may name,
    hundreds for a network, only those of this package are listed.
    """

    def text_of(self, name: str, text: Callable[[], str]) -> str:
        """Shortens what jsonargparse says of a setting."""
        if name in OWN_HELP:
            return OWN_HELP[name]
        told = " ".join(text().split())
        said, facts, *_ = [*re.split(r"(?:^| )\((?:required, )?type: ", told), ""]
        if name.startswith("trainer."):
            said = said.partition(". ")[0].rstrip(".") + "."
        if default := re.search(r"default: (.+?)(?:, known subclasses.*)?\)$", facts):
            said += f" (default: {default[1]})" if default[1] != "null" else ""
        prefix = OWN_CLASSES.get(name)
        if prefix and (names := re.findall(rf"{prefix}[\w.]+", facts)):
            said += f" Here: {', '.join(names)}; or any other class path."
        return said


class Parser(LightningArgumentParser):
    """LightningCLI's parser.

    Attributes:
        finish: Applied to every config text that this parser dumps.
        instantiators: What builds objects of a class and of those derived from it.
        link_targets: The settings that are linked, and need not be given.
        link_sources: Those that they are linked from.
        has_optimizer: Whether an optimizer is set beside the module, as LightningCLI's is.
        module: The class of ``model`` where nobody names one; the help lists its settings.
        where: Finds a dotted key in the config files, for error messages.
    """

    finish: Callable[[str], str] | None = None
    instantiators: Sequence[tuple[Callable[..., Any], type, bool]] = ()
    module: type | None = None
    has_optimizer = False
    where: Where = staticmethod(lambda key: "")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, **kwargs})
        self.link_targets: list[str] = []
        self.link_sources: list[str] = []

    def link_arguments(self, source: Any, target: str, *args: Any, **kwargs: Any) -> None:
        self.link_targets.append(target)
        self.link_sources += [source] if isinstance(source, str) else source
        super().link_arguments(source, target, *args, **kwargs)

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Formats the help: of module and trainer the usual settings, of the trainer last."""
        last: list[Any] = []
        groups: list[Any] = []
        hidden: list[str] = []
        for group, names in groups_of(self):
            section = next((name for name in names if name in TITLES), "")
            if self.module and section == "model":  # the settings of the usual class
                usual = LightningArgumentParser(formatter_class=HelpFormatter)
                usual.add_lightning_class_args(self.module, "model")
                group, names = next(g for g in groups_of(usual) if "model" in g[1])
            if section in USUAL:
                shown = [f"{section}.{name}" for name in USUAL[section].split()]
                hidden += [name for name in names if name not in shown]
            if group.title != "Linked arguments":
                group.title = TITLES.get(section, group.title)
                (last if section == "trainer" else groups).append(group)
        with shown_groups(self, [*groups, *last], hidden):
            text: str = super().format_help(*args, **kwargs)
        return text

    def add_optimizer_args(self, *args: Any, **kwargs: Any) -> None:
        self.has_optimizer = True
        super().add_optimizer_args(*args, **kwargs)

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> Any:
        """Adds the settings of a class; what is filled in where no link reaches is optional."""
        added = super().add_class_arguments(theclass, *args, **kwargs)
        if name := length_setting(theclass):
            leave_out(self, name)
        elif issubclass(theclass, Metric):
            leave_out(self, *OF_METRICS)
        return added

    def add_function_arguments(
        self,
        function: Callable[..., Any],
        nested_key: str | None = None,
        *args: Any,
        linked_targets: Any = None,
        **kwargs: Any,
    ) -> Any:
        # jsonargparse 4.53 passes linked_targets on for a function such as
        # torchvision.models.resnet18, but only its counterpart for classes takes it. A default that
        # is a class with arguments of its own, as of its shufflenet, it takes for one that lacks
        # them.
        if not function.__module__.startswith("torchvision.models."):
            return super().add_function_arguments(function, nested_key, *args, **kwargs)
        skipped = {k for k, v in defaults_of(function).items() if isinstance(v, type)}
        weights = weights_of(function)
        if weights:
            skipped.add("weights")
        kwargs["skip"] = {*(kwargs.get("skip") or ()), *skipped}
        added = super().add_function_arguments(function, nested_key, *args, **kwargs)
        if weights:
            # Texts, not members of an enumeration of this network's own, which would be left out
            # where another network takes its place.
            group = (self.groups or {}).get(nested_key or function.__name__, self)
            names: Any = Literal[(*weights,)]
            name = ".".join(filter(None, [nested_key, "weights"]))
            told = f"{', '.join(weights)}, or none."
            group.add_argument(f"--{name}", type=names | None, default=None, help=told)
        return added

    def parse_args(self, args: Any = None, *more: Any, **settings: Any) -> Any:
        # Of --model.network.weights null, jsonargparse hands what YAML has read on to the parser
        # of the network as Python writes it, a word of its own.
        words = [_as_yaml(word) for word in args] if args and len(args) == 1 else args
        return super().parse_args(words, *more, **settings)

    def instantiate_classes(self, cfg: Namespace, **settings: Any) -> Namespace:
        """Builds what a config says; LightningCLI calls it by this former name."""
        built: Namespace = self.instantiate(cfg, instantiators=self.instantiators, **settings)
        return built

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        kwargs = {"skip_validation": True, **kwargs}  # it was parsed, which is to validate
        with warnings.catch_warnings(), written_by(document):
            warnings.filterwarnings("ignore", f"\\s*{NOT_WRITABLE}")
            text: str = super().dump(_with_texts(namespace), *args, **kwargs)
        if NOT_WRITABLE in text:
            # A default such as functools.partial(...): left out, it comes back by itself.
            text = document(_without_unwritable(load(text)))
        if kwargs.get("with_comments"):
            return text  # no change of it would keep them
        text = without_class_path(text)
        return self.finish(text) if self.finish else text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        names = [name for name in names_of(self) if not name.endswith(("help", "print_shtab"))]
        if option := re.search(r"Option '([^']+)' is not accepted$", message):
            # A parser of init_args; the one that reports it does not know these names.
            message += close_setting(option[1].partition(".")[0], names)
        if not self.exit_on_error or os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        told = explain(message, names_of(self), self.where)
        sys.stderr.write(f"error: {truncate(told)}\n")
        self.exit(2)


def own_help(options: Sequence[str], trainer: Any) -> str:
    """What ``--trainer.help`` shows, and ``--KEY.help`` of a function; "" where neither is asked.

    jsonargparse knows the settings of classes that a value names. A function without its package is
    of this one.
    """
    for name, value in options_of(options):
        if name == "trainer.help":
            shown = Parser(usage=argparse.SUPPRESS, description="", add_help=False)
            shown.add_lightning_class_args(trainer, "trainer")
            return LightningArgumentParser.format_help(shown)
        if name.endswith(".help") and value:
            path = value if "." in value else f"{OWN_CLASSES['model.network']}{value}"
            with contextlib.suppress(ImportError, AttributeError, ValueError):
                function = import_class(path)
                if not isinstance(function, type):
                    shown = Parser(usage=argparse.SUPPRESS, description="", add_help=False)
                    shown.add_function_arguments(function, name.removesuffix(".help"))
                    return shown.format_help()
    return ""


def without_class_path(text: str) -> str:
    """A dumped config with the settings of the usual module directly below ``model``."""
    return re.sub(
        rf"^model:\n  class_path: {re.escape(MODULE)}.*\n(?:  init_args:.*\n)?((?:    .*\n|\n)*)",
        lambda found: "model:\n" + re.sub("^  ", "", found[1], flags=re.MULTILINE),
        text,
        flags=re.MULTILINE,
    )


def _as_yaml(word: str) -> str:
    """A word ``--KEY=VALUE`` whose value, in Python, is None, a list or a mapping, in YAML.

    >>> _as_yaml("--weights=None")
    '--weights=null'
    """
    option, equals, value = word.partition("=")
    with contextlib.suppress(ValueError, SyntaxError):
        read = ast.literal_eval(value)
        if read is None or isinstance(read, list | dict):
            return f"{option}{equals}{literal(read)}"
    return word


def _with_texts(value: Any) -> Any:
    """A copy with plain texts for what else is one, such as a member of an Enum.

    torch's layouts and memory formats are written by their names, which jsonargparse leaves out.
    """
    if isinstance(value, Namespace):
        return Namespace({key: _with_texts(part) for key, part in vars(value).items()})  # type: ignore[no-untyped-call]
    if isinstance(value, dict):
        return {key: _with_texts(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_texts(part) for part in value]
    if isinstance(value, torch.layout | torch.memory_format | torch.qscheme):
        return str(value)
    return value.value if isinstance(value, str) and isinstance(value, Enum) else value


def _without_unwritable(data: Any) -> Any:
    if isinstance(data, dict):
        return {
            key: _without_unwritable(value)
            for key, value in data.items()
            if not (isinstance(value, str) and value.startswith(NOT_WRITABLE))
        }
    return [_without_unwritable(value) for value in data] if isinstance(data, list) else data
