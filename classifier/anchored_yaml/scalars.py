"""How YAML scalars are read, as jsonargparse does, and written, so that every reader agrees."""

import re
from collections.abc import Callable
from math import inf
from typing import Any

import yaml

MAX_LEVELS = 100
FLOAT = "tag:yaml.org,2002:float"
TIMESTAMP = "tag:yaml.org,2002:timestamp"
LINE_BREAK = re.compile("[\n\r\x85\u2028\u2029]")


class Loader(yaml.SafeLoader):
    """Reads scalars as jsonargparse does: 1e-4 is a number and 2026-01-31 is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own class attribute)
        first: [(tag, form) for tag, form in resolvers if tag not in (FLOAT, TIMESTAMP)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 (PyYAML's name)
        if self.flow_level >= MAX_LEVELS:  # the scanner itself takes minutes for 50,000 brackets
            raise yaml.scanner.ScannerError(
                problem=f"more than {MAX_LEVELS} levels of nesting", problem_mark=self.get_mark()
            )
        super().fetch_flow_collection_start(TokenClass)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            # What PyYAML lets through for values such as `!!float x` and `!!timestamp x`.
            problem = f"{node.value!r} is not of the kind {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(
                problem=problem, problem_mark=node.start_mark
            ) from error


Loader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"""[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?$
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$
        |\.[0-9_]+(?:[eE][-+][0-9]+)?$
        |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*$
        |[-+]?\.(?:inf|Inf|INF)$
        |\.(?:nan|NaN|NAN)$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


class Dumper(yaml.SafeDumper):
    """Quotes text which a reader of YAML 1.1, YAML 1.2 or jsonargparse takes for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        # Several lines would have to be indented to fit; in double quotes they are one line.
        style = '"' if LINE_BREAK.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, Dumper.represent_text)
Dumper.add_implicit_resolver(
    FLOAT,
    re.compile(r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+)$"),
    list("-+.0123456789"),
)
Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]$"), list("yYnN"))


def literal(value: Any) -> str:
    """Writes a value on one line, fit for any position in a YAML text.

    >>> literal([1e-05, "1e-05", "on", None, {"momentum": 0.9}])
    "[1.0e-05, '1e-05', 'on', null, {momentum: 0.9}]"
    """
    style: dict[str, Any] = {"allow_unicode": True, "sort_keys": False, "width": inf}
    text: str = yaml.dump([value], Dumper=Dumper, default_flow_style=True, **style)
    return text.strip()[1:-1]


def document(value: Any) -> str:
    r"""Writes a value over as many lines as it takes, as a config.

    >>> document({"1e3": {"no": 1}})
    "'1e3':\n  'no': 1\n"
    """
    text: str = yaml.dump(value, Dumper=Dumper, allow_unicode=True, sort_keys=False)
    return text


def serialized(root: yaml.Node, name_of: Callable[[yaml.Node], str | None]) -> str:
    """Writes a tree; a node that is in it several times gets an anchor of that name, if any."""

    class Named(Dumper):
        def generate_anchor(self, node: yaml.Node) -> Any:
            return name_of(node) or super().generate_anchor(node)

    return str(yaml.serialize(root, Dumper=Named, allow_unicode=True, width=inf))
