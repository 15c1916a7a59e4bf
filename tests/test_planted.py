"""Nothing that lies in a stranger's folder runs because a command is given there.

Every name that anything imports, found or not, is planted there: Python files that leave a mark
when they run. The commands run in an environment without any extra, as pip would make it, so that
nothing else has the name of what a stranger's config or a library's optional import asks for.
"""

import configparser
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY, put
from packaging.requirements import Requirement
from PIL import Image
from searches import SEARCH, write_files

import classifier
from classifier import environment, runs
from classifier.cli.command_line import STRATEGIES
from classifier.search.settings import parse, save
from classifier.search.signed import LINE, sign
from classifier.search.study import Study

PACKAGE = Path(classifier.__file__).parent
SETUP = configparser.ConfigParser()
SETUP.read(PACKAGE.with_name("setup.cfg"))
PARTS = {path.stem for path in PACKAGE.rglob("*") if path.suffix in ("", ".py")}
OF_SITE = {"sitecustomize", "usercustomize"}
OWN = """\
from classifier.networks import MNISTNet


class Net(MNISTNet):
    pass
"""
PLANT = """\
import sys

with open({marks!r}, "a") as marks:
    marks.write(f"{{__name__}}\\t{{__file__}}\\t{{sys.orig_argv}}\\n")

# In its place comes what is really called so, if anything, so that one plant hides no other.
paths = sys.modules["os"].path
here = paths.dirname(paths.abspath(__file__))
if __file__.endswith("__init__.py"):
    here = paths.dirname(here)
path = sys.path
sys.path = [folder for folder in path if paths.abspath(folder) != here]
found = [spec for finder in sys.meta_path if (spec := finder.find_spec(__name__, None))]
sys.path = path
del sys.modules[__name__]
if not found:
    raise ModuleNotFoundError(name=__name__)
sys.modules["_frozen_importlib"]._load(found[0])
"""
# Notes what is imported and is not there, and what plugins are asked for, in all processes.
RECORDER = """\
import importlib.metadata
import os
import sys


def note(kind, name):
    with open(os.environ["RECORDED"], "a") as file:
        file.write(f"{kind} {name}\\n")


class Missing:
    def find_spec(self, name, path=None, target=None):
        note("name", name)


def entry_points(**chosen):
    note("group", chosen.get("group", ""))
    return original(**chosen)


sys.meta_path.append(Missing())
original, importlib.metadata.entry_points = importlib.metadata.entry_points, entry_points
"""
START = """\
import multiprocessing
import sys

from classifier.__main__ import main

if __name__ == "__main__":
    if {method!r}:
        multiprocessing.set_start_method({method!r})
    sys.exit(main())
"""


# ---- an environment as pip makes it ----


@dataclass(frozen=True)
class Environment:
    """Python without any extra but the search.

    Attributes:
        folder: The folder of a virtual environment.
    """

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def command(self, launcher: str) -> list[str]:
        """How a user starts a command: by ``-m``, or by a script, whose name is in ``bin``."""
        if launcher == "-m":
            return [self.python, "-m", "classifier"]
        return [self.python, str(self.folder / "bin" / launcher)]

    def run(
        self, *command: str, cwd: Path | None = None, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(
            command,
            cwd=cwd,
            env={**kept, "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for name in sorted(requirements()):
        distribution = metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = site_packages / part
            if not link.is_symlink():  # as several share a namespace
                link.symlink_to(Path(str(distribution.locate_file(part))))
    shutil.copytree(PACKAGE, site_packages / "classifier")
    for method in ("", "spawn", "forkserver"):
        (folder / "bin" / (method or "classifier")).write_text(START.format(method=method))
    return Environment(folder)


def requirements() -> set[str]:
    """The distributions that ``pip install lightning-classifier[search]`` installs."""
    texts = [SETUP["options"]["install_requires"], SETUP["options.extras_require"]["search"]]
    pending = [Requirement(line) for text in texts for line in text.split("\n") if line]
    found: set[str] = set()
    asked: set[tuple[str, str]] = set()
    while pending:
        wanted = pending.pop()
        for extra in ("", *wanted.extras):
            if (wanted.name, extra) in asked:
                continue
            asked.add((wanted.name, extra))
            found.add(wanted.name)
            pending += [
                part
                for part in map(Requirement, metadata.requires(wanted.name) or ())
                if part.marker is None or part.marker.evaluate({"extra": extra})
            ]
    return found


# ---- what is planted ----


@dataclass(frozen=True)
class Plants:
    """What is planted in each folder.

    Attributes:
        names: Of modules and packages.
        groups: Of entry points.
        marks: The file in which all that runs leaves its mark.
    """

    names: frozenset[str]
    groups: frozenset[str]
    marks: Path

    def put(self, folder: Path, without: Iterable[str] = ()) -> None:
        """Plants a folder, leaving what has a name already."""
        plant = self.marks.with_suffix(".py")
        if not plant.exists():
            plant.write_text(PLANT.format(marks=str(self.marks)))
        for name in self.names - {*without}:
            path = folder / f"{name}.py"
            if _is_package(name) and not (folder / name).exists():
                path = folder / name / "__init__.py"
                path.parent.mkdir()
            if not path.exists():
                path.hardlink_to(plant)
        information = folder / "planted-1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1\n")
        points = [f"[{group}]\nplanted = planted_plugin:run\n" for group in self.groups]
        (information / "entry_points.txt").write_text("\n".join(points))

    def taken(self) -> list[list[str]]:
        """The marks that were left: name, file and command line of each."""
        if not self.marks.exists():
            return []
        lines = [line.split("\t") for line in self.marks.read_text().splitlines()]
        self.marks.unlink()
        return lines


def _is_package(name: str) -> bool:
    """Whether it is planted as a package: as it is one really, or as nobody knows what it is."""
    spec = PathFinder.find_spec(name)
    known = spec.submodule_search_locations is not None if spec else name not in PARTS
    return known and name not in sys.builtin_module_names


def known_names() -> set[str]:
    """The names that are known without running anything."""
    distributions = metadata.packages_distributions()
    tops = {name for name in distributions if name.isidentifier()}
    extras = SETUP["options.extras_require"].values()
    wanted = {Requirement(line).name for text in extras for line in text.split("\n") if line}
    guessed = {name.removesuffix("-binary").replace("-", "_") for name in wanted}
    names = {*sys.stdlib_module_names, *tops, *PARTS, *guessed, *OF_SITE, "planted_plugin"}
    return {name for name in names if name.isidentifier()} - {"__init__", "__main__"}


def plants_of(
    environment: Environment, folder: Path, commands: Iterable[Sequence[str]], cwd: Path
) -> Plants:
    """What is known to be planted, and what commands ask for besides, where nothing is planted."""
    (folder / "sitecustomize.py").write_text(RECORDER)
    notes = folder / "notes"
    for command in commands:
        run = environment.run(*command, cwd=cwd, PYTHONPATH=str(folder), RECORDED=str(notes))
        assert run.returncode == 0, f"{command}: {run.stderr}"
    asked = [line.split(" ") for line in notes.read_text().splitlines()]
    names = {name.partition(".")[0] for kind, name in asked if kind == "name"}
    groups = {name for kind, name in asked if kind == "group" and name}
    return Plants(frozenset(names | known_names()), frozenset(groups), folder / "marks")


# ---- where it is planted ----

STRANGE = {
    "": {},
    "timm": {"model.network": {"class_path": "timm.create_model"}},
    "adabelief": {"model.optimizer": {"class_path": "adabelief_pytorch.AdaBelief"}},
    "strategy": {"trainer.strategy": {"class_path": f"{STRATEGIES}.DeepSpeedStrategy"}},
    "own": {"model.network": {"class_path": "own.Net"}},
}
"""What the configs of strangers change: nothing, or to what may be used but is not installed, or to
a class of their own."""
PHOTO = "photos/cats/0.png"
PHOTOS = {
    "class_path": "classifier.data.ImageFolder",
    "init_args": {"root": "photos", "image_size": 12, "num_workers": 1, "batch_size": 8},
}


def write_tiny(path: Path, changes: Mapping[str, Any]) -> str:
    config = yaml.safe_load(TINY)
    del config["hyperparameters"]  # the values stand in their places now
    put(config, changes)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def make_strange(folder: Path, changes: Mapping[str, Any]) -> None:
    """Makes a run one of a stranger, who claims that all is trusted and lies here."""
    here = str(Path.cwd())
    names = ("own", "timm", "adabelief_pytorch", "deepspeed")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    put(config, changes)
    text = yaml.safe_dump(config)
    lies = {
        "trusted": list(names),
        "working_folder": here,
        "code_folders": dict.fromkeys(names, here),
        "code": dict.fromkeys(names, "0" * 64),
        "config_sha256": runs.text_sha256(text),
        "signature": "0" * 64,
    }
    runs.write_record(folder, {**runs.read_record(folder), **lies})
    (folder / "config.yaml").write_text(text)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["classifier"]["config"] = text
        checkpoint["classifier"]["run"] |= lies
        ours = {k.removeprefix("model."): v for k, v in changes.items() if k.startswith("model.")}
        checkpoint["hyper_parameters"] |= ours
        torch.save(checkpoint, path)  # which signs nothing


def only_begun(source: Path, target: Path) -> None:
    """Copies of a run what there is before its first checkpoint."""
    target.mkdir()
    for name in ("run.json", "config.yaml"):
        shutil.copy(source / name, target)


def begin_search() -> None:
    """Begins the search in ``found``, signed, without training anything."""
    write_files(n_trials=1, workers=1)
    settings = parse(["--config", "search.yaml"])
    (settings.folder / "workers").mkdir(parents=True)
    save(settings)
    Study(settings).begin_in(Path.cwd())
    sign(settings.folder, Path.cwd())


@pytest.fixture
def world(own_folder: Path, trained: Path, fit: Callable[..., Path]) -> Iterator[Path]:
    """A working folder with a signed run of a class of its own; nothing is planted yet."""
    folder = own_folder / "world"
    for name in ("configs", "photos/cats", "photos/dogs", "idle"):
        (folder / name).mkdir(parents=True)
    os.chdir(folder)
    for name in ("__init__", "__main__"):
        Path("idle", f"{name}.py").touch()
    for number in range(20):
        for name in ("cats", "dogs"):
            Image.new("L", (12, 12), 12 * number).save(f"photos/{name}/{number}.png")
    write_tiny(Path("configs/tiny.yaml"), {})
    write_tiny(Path("configs/photos.yaml"), {"data": PHOTOS})
    Path("own.py").write_text(OWN)
    own = {"class_path": "own.Net", "init_args": {"width": 2}}
    run = fit("--config", write_tiny(Path("own.yaml"), {"model.network": own}))
    del sys.modules["own"]
    only_begun(run, Path("begun"))
    shutil.copytree(trained, "theirs")
    yield folder
    os.chdir(own_folder)
    shutil.rmtree(folder)  # tens of thousands of plants


def planted(world: Path) -> list[Path]:
    """All folders but those where each folder within is a class, and each file an image."""
    folders = [world, *(path for path in sorted(world.rglob("*")) if path.is_dir())]
    return [folder for folder in folders if not folder.is_relative_to(world / "photos")]


@dataclass(frozen=True)
class Case:
    """A command where everything is planted.

    Attributes:
        arguments: Its command line.
        code: The exit code to come.
        launcher: What it is started by.
        strange: What the config of the stranger's run, or search, changes.
    """

    arguments: str
    code: int = 0
    launcher: str = "classifier"
    strange: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.arguments, self.strange, self.launcher)))


def marks_of(environment: Environment, plants: Plants, case: Case) -> list[list[str]]:
    """Runs a case; returns the marks of all that ran but does not before this package begins."""
    begins: list[str] = []
    if case.launcher == "-m":  # what Python itself imports, whatever it is to start
        environment.run(environment.python, "-m", "idle")
        begins = sorted(name for name, *_ in plants.taken())
    command = [*environment.command(case.launcher), *case.arguments.split()]
    run = environment.run(*command)
    marks = plants.taken()
    print(f"{case}; by Python itself: {begins}\n{run.stdout}{run.stderr}")
    assert run.returncode == case.code
    return [mark for mark in marks if mark[0] not in begins or mark[2] != str(command)]


OWN_RUN = "runs/own/version_0"
TINY_FIT = "fit --config configs/tiny.yaml"
ON_FILES = "fit --config configs/photos.yaml"


# ---- what happens there ----

IMPORTING = """\
import sys
import _imp

before = {name for name in sys.argv[1:] if name in sys.modules or _imp.is_frozen(name)}
del sys.path[1:]
# Those of Python itself are classes; setuptools has one more, for names of its own.
sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, type)]
for name in sys.argv[1:]:
    try:
        __import__(name)
    except ImportError:
        pass  # the plant looks for the real one
print(*before, *sys.builtin_module_names)
"""


def test_plants_run_where_python_looks_for_them(bare, tmp_path):
    (tmp_path / "here").mkdir()
    plants = Plants(frozenset(known_names()), frozenset(), tmp_path / "marks")
    plants.put(tmp_path / "here")

    run = bare.run(bare.python, "-c", IMPORTING, *plants.names, cwd=tmp_path / "here")

    assert run.returncode == 0, run.stderr
    known = set(run.stdout.split())  # which Python has without looking for them
    marks = {name for name, *_ in plants.taken()}
    print(f"{len(plants.names)} planted, {len(marks)} ran")
    assert plants.names - known <= marks
    assert len(marks) > len(known)


def test_nothing_planted_runs(bare, world, tmp_path):
    """In three commands, which start all kinds of processes; below in every one."""
    first = [*bare.command("classifier"), "test", "--ckpt_path", OWN_RUN]
    plants = plants_of(bare, tmp_path, [first], world)
    make_strange(Path("theirs"), STRANGE["timm"])
    for folder in (world, world / "theirs"):
        plants.put(folder, {"own", "classifier"})
    print(f"{len(plants.names)} names in 2 folders")

    for case in (
        Case(ON_FILES, launcher="forkserver"),
        Case("reproduce theirs", 2, "-m"),
        Case("test --ckpt_path theirs", 2),
    ):
        assert marks_of(bare, plants, case) == [], case


TWO_RANKS = "--trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp"
RUN = [
    "test --ckpt_path RUN",
    "validate --ckpt_path RUN/checkpoints/last.ckpt",
    f"predict --ckpt_path RUN --images {PHOTO}",
    "fit --ckpt_path RUN --trainer.max_epochs 4",
    "fit --ckpt_path BEGUN",
    "fit --config RUN",
    "fit --config RUN/checkpoints/last.ckpt",
    "reproduce RUN",
    "reproduce RUN/checkpoints/last.ckpt",
]


def on(command: str, run: str, begun: str) -> str:
    return command.replace("RUN", run).replace("BEGUN", begun)


CASES = [
    *(Case(TINY_FIT, launcher=launcher) for launcher in ("classifier", "-m")),
    *(Case(ON_FILES, launcher=how) for how in ("classifier", "-m", "spawn", "forkserver")),
    *(Case(f"{TINY_FIT} {TWO_RANKS}", launcher=launcher) for launcher in ("classifier", "-m")),
    Case("tune --config configs/tiny.yaml --seconds 0.1"),
    *(Case(on(command, OWN_RUN, "begun")) for command in RUN),
    *(Case(on(command, OWN_RUN, "begun"), launcher="-m") for command in (RUN[0], RUN[7])),
    *(Case(on(command, "theirs", "theirs_begun")) for command in RUN),
    *(
        Case(on(command, "theirs", "theirs_begun"), 2, strange=strange)
        for command in RUN
        for strange in ("timm", "own")
    ),
    Case("test --ckpt_path theirs", 2, strange="adabelief"),
    Case("fit --ckpt_path theirs_begun", 2, strange="strategy"),
    Case("search --config search.yaml --folder new"),
    *(Case("search worker found", launcher=launcher) for launcher in ("classifier", "-m")),
    Case("search refit found --seeds 1 --top_k 1"),
    *(Case("search worker theirs_found", strange=strange) for strange in ("", "timm")),
    Case("search worker theirs_found", 2, strange="own"),
    Case("search refit theirs_found --seeds 1 --top_k 1"),
    Case("search worker theirs_found", 2, strange="sampler"),
]


@pytest.fixture(scope="session")
def all_plants(bare, trained, tmp_path_factory) -> Plants:
    """All that our commands ask for."""
    folder = tmp_path_factory.mktemp("recorder")
    cwd = folder / "cwd"
    cwd.mkdir()
    (cwd / "tiny.yaml").write_text(TINY)
    search = {**SEARCH, "n_trials": 1, "workers": 1}
    (cwd / "search.yaml").write_text(yaml.safe_dump(search))
    Image.new("L", (8, 8)).save(cwd / "image.png")
    commands = (
        f"fit --config tiny.yaml {TWO_RANKS}",
        f"test --ckpt_path {trained}",
        f"predict --ckpt_path {trained} --images image.png",
        f"reproduce {trained}",
        "tune --config tiny.yaml --seconds 0.1",
        "search --config search.yaml",
        "search refit found --seeds 1 --top_k 1",
    )
    lines = [[*bare.command("classifier"), *command.split()] for command in commands]
    return plants_of(bare, folder, lines, cwd)


def make_strange_search(strange: str) -> None:
    """Makes the search one of a stranger, who claims that it is signed here."""
    shutil.copytree("found", "theirs_found")
    path = Path("theirs_found/search.yaml")
    text = LINE.sub("", path.read_text())
    if strange == "sampler":
        config = yaml.safe_load(text)
        config["sampler"] = {"class_path": "own.Sampler"}
        text = yaml.safe_dump(config)
    elif strange:
        network = {"timm": "timm.create_model"}.get(strange, "own.Net")
        base = TINY.replace("classifier.networks.MNISTNet", network)
        Path("theirs_found/base.yaml").write_text(base)
    path.write_text(f"{text}# signed in {json.dumps(str(Path.cwd()))}: {'0' * 64}\n")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_planted_runs_anywhere(case, bare, world, all_plants):
    begin_search()
    if "refit" in case.arguments:
        worker = bare.run(*bare.command("classifier"), "search", "worker", "found")
        assert worker.returncode == 0, worker.stderr
    make_strange_search(case.strange)
    make_strange(Path("theirs"), STRANGE.get(case.strange, {}))
    only_begun(Path("theirs"), Path("theirs_begun"))
    # Python itself looks there for what it is to start.
    without = {"own", "classifier"} if case.launcher == "-m" else {"own"}
    folders = planted(world)
    for folder in folders:
        all_plants.put(folder, without)
    print(f"{len(all_plants.names)} names in {len(folders)} folders")

    assert marks_of(bare, all_plants, case) == []


LOADING = """\
import os
import sys

from classifier.module import ClassificationModule

before = os.getcwd()
os.chdir(sys.argv[1])
try:
    print(type(ClassificationModule.load_from_checkpoint(sys.argv[2]).network).__name__)
except ValueError as error:
    print(error)
os.chdir(before)  # what torch does at the end is none of ours
"""


LOADED = {
    **dict.fromkeys(("", "strategy"), "MNISTNet"),
    "timm": "'timm.create_model' needs a package: pip install timm.\n",
    "adabelief": "'adabelief_pytorch.AdaBelief' needs a package: pip install adabelief-pytorch.\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("strange", STRANGE)
def test_nothing_planted_runs_where_a_checkpoint_is_loaded(
    strange, bare, world, all_plants, own_folder
):
    make_strange(Path("theirs"), STRANGE[strange])
    for folder in planted(world):
        all_plants.put(folder, {"own"})

    for run, name in ((OWN_RUN, "Net"), ("theirs", "MNISTNet")):
        path = f"{run}/checkpoints/last.ckpt"
        loaded = bare.run(bare.python, "-c", LOADING, str(world), path, cwd=own_folder)
        assert all_plants.taken() == []
        assert loaded.returncode == 0, loaded.stderr
        told = LOADED.get(strange, "--trust") if run == "theirs" else name
        assert told in loaded.stdout


# ---- a repository that names programs ----

GIT = ("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
HOSTILE = {
    "a monitor of files": {"core.fsmonitor": "PROGRAM"},
    "a filter": {"filter.x.clean": "PROGRAM"},
    "a filter that stays": {"filter.x.process": "PROGRAM"},
    "a diff": {"diff.external": "PROGRAM"},
    "a diff for some files": {"diff.x.command": "PROGRAM"},
    "a conversion to text": {"diff.x.textconv": "PROGRAM"},
    "hooks": {},
    "hooks elsewhere": {"core.hooksPath": "HERE/hooks"},
    "another file of settings": {"include.path": "HERE/more"},
    "… on a condition": {"includeIf.gitdir:/.path": "HERE/more"},
    "settings of the work tree": {"extensions.worktreeConfig": "true"},
    "another work tree": {"core.worktree": "HERE", "core.fsmonitor": "PROGRAM"},
    "a remote that has what is missing": {
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": "ext::PROGRAM",
        "protocol.ext.allow": "always",
    },
}


@pytest.fixture
def repository(own_folder: Path) -> Callable[[Mapping[str, str]], Path]:
    """A repository whose settings name a program, which leaves the file ``ran`` outside of it."""

    def make(settings: Mapping[str, str]) -> Path:
        folder = own_folder / "repository"
        folder.mkdir()
        program = own_folder / "program"
        program.write_text(f"#!/bin/sh\ntouch {own_folder}/ran\n")
        program.chmod(0o755)
        os.chdir(folder)
        Path("text").write_text("one\n")
        for command in (("init", "-q"), ("add", "text"), ("commit", "-qm", "First")):
            subprocess.run([*GIT, *command], check=True)
        Path("text").write_text("two\n")
        for path in ("hooks",) if settings else (".git/hooks",):
            Path(path).mkdir(exist_ok=True)
            Path(path, "post-index-change").symlink_to(program)
        Path(".gitattributes").write_text("* filter=x diff=x\n")
        for path in ("more", ".git/config.worktree"):
            Path(path).write_text(f"[core]\n\tfsmonitor = {program}\n")
        if "extensions.partialClone" in settings:
            blob = subprocess.check_output(["git", "rev-parse", "HEAD:text"], text=True).strip()
            Path(".git/objects", blob[:2], blob[2:]).unlink()
        for name, value in settings.items():
            value = value.replace("PROGRAM", str(program)).replace("HERE", str(folder))
            subprocess.run(["git", "config", name, value], check=True)
        (own_folder / "ran").unlink(missing_ok=True)
        return folder

    return make


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=HOSTILE)
def test_no_program_that_a_repository_names_runs(settings, repository, own_folder):
    folder = repository(settings)

    state = environment.git_state(folder)

    assert state is not None
    assert len(state["commit"]) == 40
    assert not (own_folder / "ran").exists()
    for command in (("status",), ("diff", "HEAD")):  # which do run it
        subprocess.run(["git", *command], capture_output=True)
    assert (own_folder / "ran").exists()


def test_the_extensions_of_git_lfs_are_no_harmless_settings(repository):
    """The user may have it in his own settings; it runs what those of a repository name."""
    usual = {"lfs.repositoryformatversion": "0", "lfs.https://x/y.git/info/lfs.access": "basic"}
    folder = repository(usual)
    usual_state = environment.git_state(folder)

    subprocess.run(["git", "config", "lfs.extension.x.clean", "program"], check=True)

    assert usual_state.keys() == {"commit", "dirty_diff_sha256"}
    assert environment.git_state(folder).keys() == {"commit"}


def test_a_training_in_such_a_repository_runs_no_program(repository, fit, own_folder, write_config):
    settings = {"core.fsmonitor": "PROGRAM", "filter.x.clean": "PROGRAM"}
    repository({**settings, "diff.external": "PROGRAM"})

    record = runs.read_record(fit("--config", write_config()))

    assert record["environment"]["git"].keys() == {"commit"}
    assert not (own_folder / "ran").exists()
