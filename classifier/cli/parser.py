"""The argument parser: readable help, short errors, configs that can be read back."""

import os
import re
import sys
import warnings
from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import DefaultHelpFormatter, Namespace
from pytorch_lightning.cli import LightningArgumentParser

from classifier.cli.errors import Where, explain
from classifier.errors import did_you_mean
from classifier.terminal import truncate

NOT_WRITABLE = "Unable to serialize instance"  # what jsonargparse writes for such a default


OWN_HELP = {
    "ckpt_path": "A checkpoint file, or a run folder, which means its last checkpoint to resume "
    "and its best one to evaluate.",
    "data": "Class path of a data module and its init_args. Here: classifier.data.Digits, MNIST, "
    "FashionMNIST, CIFAR10, CIFAR100, ImageFolder; or a subclass of ImageDataModule.",
    "seed_everything": "Seed of all random numbers; true draws one. (default: 0)",
    "trainer.default_root_dir": "Folder of all runs. (default: runs)",
}
OWN_CLASSES = {"model.network": "classifier.networks."}


class HelpFormatter(DefaultHelpFormatter):
    """Fits a verb's help on a few screens.

    The Trainer's settings get one sentence each, and of the classes that an argument may name,
    hundreds for a network, only those of this package are listed.
    """

    def add_argument(self, action: Any) -> None:
        if not action.dest.endswith(".help"):  # the epilog explains them once
            super().add_argument(action)

    def _expand_help(self, action: Any) -> str:
        if action.dest in OWN_HELP:
            return OWN_HELP[action.dest]
        text: str = " ".join(super()._expand_help(action).split())
        text, facts, *_ = [*re.split(r" \((?:required, )?type: ", text), ""]
        if action.dest.startswith("trainer."):
            text = text.partition(". ")[0].rstrip(".") + "."
        if default := re.search(r"default: (.+?)(?:, known subclasses.*)?\)$", facts):
            text += f" (default: {default[1]})" if default[1] != "null" else ""
        if prefix := OWN_CLASSES.get(action.dest):
            names = re.findall(rf"{prefix}[\w.]+", facts)
            text += f" Here: {', '.join(names)}; or any other class path."
        return text


class Parser(LightningArgumentParser):
    """LightningCLI's parser.

    Attributes:
        finish: Applied to every config text that this parser dumps.
        where: Finds a dotted key in the config files, for error messages.
    """

    finish: Callable[[str], str] | None = None
    where: Where = staticmethod(lambda key: "")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, **kwargs})

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Formats the help: the Trainer's forty settings last, what is linked not at all."""
        groups = self._action_groups
        for group in groups:
            if any(action.dest == "ckpt_path" for action in group._group_actions):
                group.title = "Checkpoint"  # Lightning's is a sentence about its own method
        shown = [group for group in groups if group.title != "Linked arguments"]
        self._action_groups = sorted(shown, key=lambda group: "via flags" in (group.title or ""))
        try:
            text: str = super().format_help(*args, **kwargs)
            return text
        finally:
            self._action_groups = groups

    def add_function_arguments(
        self, function: Callable[..., Any], *args: Any, linked_targets: Any = None, **kwargs: Any
    ) -> Any:
        # jsonargparse 4.53 passes linked_targets on for a function such as
        # torchvision.models.resnet18, but only its counterpart for classes takes it.
        return super().add_function_arguments(function, *args, **kwargs)

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", f"\\s*{NOT_WRITABLE}")
            text: str = super().dump(_with_texts(namespace), *args, **kwargs)
        if NOT_WRITABLE in text:
            # A default such as functools.partial(...): left out, it comes back by itself.
            text = yaml.safe_dump(_without_unwritable(yaml.safe_load(text)), sort_keys=False)
        return self.finish(text) if self.finish else text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        names = [action.dest for action in self._actions if not action.dest.endswith("help")]
        if option := re.search(r"Option '([^']+)' is not accepted$", message):
            # A parser of init_args; the one that reports it does not know these names.
            message += did_you_mean(option[1], names, f"; it has {', '.join(names)}.")
        if not self.exit_on_error or os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        told = explain(message, self.known_names(), self.where)
        sys.stderr.write(f"error: {truncate(told)}\n")
        self.exit(2)

    def known_names(self) -> list[str]:
        """The dotted names of all settings; of the verb, if this is the parser above it."""
        parsers = self._subcommands_action.choices.values() if self._subcommands_action else [self]
        return [a.dest for parser in parsers for a in parser._actions if a.option_strings]


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
