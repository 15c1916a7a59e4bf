"""The argument parser: readable help, short errors, configs that can be read back."""

import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import yaml
from jsonargparse import DefaultHelpFormatter, Namespace
from pytorch_lightning.cli import LightningArgumentParser

from classifier.cli.errors import Where, did_you_mean, explain

NOT_WRITABLE = "Unable to serialize instance"  # what jsonargparse writes for such a default


class HelpFormatter(DefaultHelpFormatter):
    """Shows this package's classes and counts the rest: ``nn.Module`` alone has hundreds."""

    def _expand_help(self, action: Any) -> str:
        def shorten(match: re.Match[str]) -> str:
            names = match[2].split(", ")
            if len(names) <= 8:
                return match[0]
            own = [name for name in names if name.startswith("classifier.")]
            return match[1] + ", ".join([*own, f"and {len(names) - len(own)} more"])

        text = super()._expand_help(action)
        return re.sub(r"(known subclasses: )([\w.]+(?:, [\w.]+)*)", shorten, text)


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

    def add_function_arguments(
        self, function: Callable[..., Any], *args: Any, linked_targets: Any = None, **kwargs: Any
    ) -> Any:
        # jsonargparse 4.53 passes linked_targets on for a function such as
        # torchvision.models.resnet18, but only its counterpart for classes takes it.
        return super().add_function_arguments(function, *args, **kwargs)

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", f"\\s*{NOT_WRITABLE}")
            text: str = super().dump(namespace, *args, **kwargs)
        if NOT_WRITABLE in text:
            # A default such as functools.partial(...): left out, it comes back by itself.
            text = yaml.safe_dump(_without_unwritable(yaml.safe_load(text)), sort_keys=False)
        return self.finish(text) if self.finish else text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        names = [action.dest for action in self._actions if not action.dest.endswith("help")]
        if option := re.search(r"Option '([^']+)' is not accepted$", message):
            # A parser of init_args; the one that reports it does not know these names.
            message += did_you_mean(option[1], names) or f"; it has {', '.join(names)}."
        if not self.exit_on_error or os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        sys.stderr.write(f"error: {explain(message, self.known_names(), self.where)}\n")
        self.exit(2)

    def known_names(self) -> list[str]:
        """The dotted names of all settings; of the verb, if this is the parser above it."""
        parsers = self._subcommands_action.choices.values() if self._subcommands_action else [self]
        return [a.dest for parser in parsers for a in parser._actions if a.option_strings]


def _without_unwritable(data: Any) -> Any:
    if isinstance(data, dict):
        return {
            key: _without_unwritable(value)
            for key, value in data.items()
            if not (isinstance(value, str) and value.startswith(NOT_WRITABLE))
        }
    return [_without_unwritable(value) for value in data] if isinstance(data, list) else data
