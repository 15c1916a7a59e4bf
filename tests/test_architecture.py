"""The layers of classifier/README.md: imports point down, neighbours do not import each other."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "classifier"
LAYERS = [
    {"errors"},
    {"atomic", "terminal", "platform"},
    {"internals"},
    {"anchored_yaml"},
    {"augment", "metrics", "splits", "environment"},
    {"runs"},
    {"checkpoint"},
    {"networks", "finite"},
    {"module", "data", "callbacks"},
    {"cli"},
    {"search", "reproduce", "tune"},
    {"__main__"},
]
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    """The file or folder directly below the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "classifier":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.removeprefix("classifier."))
            names -= {node.module} if not node.module.startswith("classifier.") else set()
        elif isinstance(node, ast.Import):
            names |= {a.name[11:] for a in node.names if a.name.startswith("classifier.")}
    return {name.partition(".")[0] for name in names} - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_has_a_layer_and_imports_only_from_below(path):
    own = part_of(path)
    assert own in LAYER, f"{own} is in no layer: add it here and to classifier/README.md"

    above_or_beside = {p for p in imported_parts(path) - {own} if LAYER[p] >= LAYER[own]}

    assert not above_or_beside


PLAIN = [path for path in FILES if LAYER[part_of(path)] < LAYER["module"]]


@pytest.mark.parametrize("path", [p for p in PLAIN if p.name != "lightning.py"], ids=str)
def test_the_plain_layer_works_without_lightning(path):
    assert "pytorch_lightning" not in path.read_text()


def test_the_package_readme_names_every_part():
    readme = (PACKAGE / "README.md").read_text()

    assert [part for part in LAYER if part not in readme] == []
