"""The layers of classifier/README.md: imports point down, neighbours do not import each other."""

import ast
import contextlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "classifier"
LAYERS = [
    {"errors"},
    {"platform"},
    {"atomic", "terminal"},
    {"internals"},
    {"anchored_yaml"},
    {"augment", "class_weights", "metrics", "splits", "seeds", "tensors", "environment"},
    {"images"},
    {"sources"},
    {"runs"},
    {"checkpoint"},
    {"results"},
    {"parts"},
    {"weights"},
    {"networks", "optimization", "divergence"},
    {"loading", "length", "averaging"},
    {"learning"},
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
    return {name.partition(".")[0] for name in names} - {"__version__", "DISTRIBUTION"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_has_a_layer_and_imports_only_from_below(path):
    own = part_of(path)
    assert own in LAYER, f"{own} is in no layer: add it here and to classifier/README.md"

    above_or_beside = {p for p in imported_parts(path) - {own} if LAYER[p] >= LAYER[own]}

    assert not above_or_beside


PLAIN = [path for path in FILES if LAYER[part_of(path)] < LAYER["loading"]]


@pytest.mark.parametrize("path", [p for p in PLAIN if p.name != "lightning.py"], ids=str)
def test_the_plain_layer_works_without_lightning(path):
    assert "pytorch_lightning" not in path.read_text()


def test_the_package_readme_names_every_part():
    readme = (PACKAGE / "README.md").read_text()

    assert [part for part in LAYER if part not in readme] == []


# ---- what other packages keep to themselves ----

PRIVATE = re.compile("_[A-Za-z]\\w*")
DOCUMENTED = {"_current_frames", "_exit", "_replace"}  # of sys, os and named tuples
OUTSIDE = [path for path in FILES if part_of(path) != "internals"]


def defined_names(tree: ast.AST) -> set[str]:
    """The private names that some source defines."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            of_itself = isinstance(node, ast.Name) or ast.unparse(node.value) in ("self", "cls")
            found |= {getattr(node, "id", "") or node.attr} if of_itself else set()
    return set(filter(PRIVATE.fullmatch, found))


def used_names(tree: ast.AST) -> Iterator[str]:
    """The names that some source imports, looks up, or gives to ``getattr`` and its like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            paths = [*(alias.name for alias in node.names), getattr(node, "module", None) or ""]
            yield from (part for path in paths for part in path.split("."))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


OURS = set().union(*(defined_names(ast.parse(path.read_text())) for path in OUTSIDE)) | DOCUMENTED


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_name_of_another_package_is_used_outside_internals(path):
    used = set(filter(PRIVATE.fullmatch, map(str, used_names(ast.parse(path.read_text())))))

    assert not used - OURS


def test_no_class_outside_internals_replaces_a_private_part_of_a_base_elsewhere():
    """Nor by chance, which an update of the other package may bring about."""
    replaced = []
    for path in OUTSIDE:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if path.stem in ("__main__", "preload"):  # programs
            continue
        kinds = [k for k in vars(import_module(name)).values() if inspect.isclass(k)]
        for kind in (kind for kind in kinds if kind.__module__ == name):
            own = defined_names(ast.parse(textwrap.dedent(inspect.getsource(kind))))
            for base in kind.__mro__[1:] if own else ():
                if base.__module__.startswith("classifier"):
                    continue
                parts = {part for part in vars(base) if PRIVATE.fullmatch(part)}
                with contextlib.suppress(TypeError, OSError):  # not written in Python
                    parts |= defined_names(ast.parse(textwrap.dedent(inspect.getsource(base))))
                replaced += [f"{kind.__qualname__}.{part} of {base}" for part in own & parts]

    assert not replaced


# ---- what differs from system to system ----

ASKS = {"platform.py", "internals/python.py"}  # which tests/windows.py has asked as on Windows
QUESTIONS = {
    "os": "fork getegid geteuid getgid getgroups getlogin getpgid getpgrp getuid kill killpg link"
    " mkfifo name nice openpty sched_getaffinity setpgid setsid statvfs sysconf uname wait waitpid",
    "sys": "getwindowsversion platform",
    "signal": "SIGBREAK SIGCHLD SIGHUP SIGKILL SIGPIPE SIGUSR1 SIGUSR2 alarm pause setitimer",
    "multiprocessing": "get_context set_start_method",
    "shutil": "which",
    "shlex": "join quote",
}
MODULES = {"fcntl", "grp", "msvcrt", "pwd", "resource", "select", "termios", "winreg"}
ANYWHERE = {  # what is the same on all systems, where it is used
    "atomic.py": {"os.link"},  # an OSError where there are none
    "callbacks/rank_watch.py": {"os.kill"},  # with platform.KILL
    "search/engines/slurm.py": {"shlex.join", "shlex.quote", "shutil.which"},  # for a Unix shell
    "search/preflight.py": {"multiprocessing.get_context"},  # "spawn"
    "search/process.py": {"multiprocessing.set_start_method"},  # back to the system's own
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_file_asks_the_operating_system_what_differs(path):
    place = path.relative_to(PACKAGE).as_posix()
    asked = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in QUESTIONS.get(node.value.id, "").split():
                asked.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            names &= set(QUESTIONS.get(node.module or "", "").split())
            asked.update(f"{node.module}.{name}" for name in names)
        elif isinstance(node, ast.Import):
            asked.update(alias.name for alias in node.names if alias.name in MODULES)

    assert place in ASKS or asked == ANYWHERE.get(place, set())


def opens_text(node: ast.Call) -> bool:
    """Whether a call opens a file as text in an encoding that differs from system to system."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    given = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
    if any(word.arg == "encoding" for word in node.keywords):
        return False
    if name in ("read_text", "write_text"):
        return len(node.args) < (1 if name == "read_text" else 2)
    if name != "open" or ast.unparse(node.func) in ("os.open", "Image.open"):
        return False
    mode = given[1:2] if isinstance(node.func, ast.Name) else given[:1]  # open(path) or path.open()
    return not any("b" in getattr(word, "value", "b") for word in mode)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_text_is_read_and_written_with_its_encoding(path):
    calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]

    assert not [ast.unparse(call) for call in calls if opens_text(call)]
