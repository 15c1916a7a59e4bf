"""Shared by all tests: a folder of one's own, a tiny config, a trained run."""

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from classifier.platform import let_threads_sleep

let_threads_sleep()  # before torch is there, as the command does

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from classifier.__main__ import main  # noqa: E402

collect_ignore = ["benchmarks"]  # programs that compare with what only they need
if sys.platform == "win32":  # which lacks what some tests ask of Linux, as soon as they are read
    LINUX = re.compile(r"/proc/|os\.(fork|kill|killpg|mkfifo)\b|signal\.SIG(USR1|KILL)|resource")
    tests = Path(__file__).parent.glob("*.py")
    collect_ignore += [p.name for p in tests if LINUX.search(p.read_text("utf-8"))]

PATH = [*sys.path]
CONFIGURATION = tempfile.TemporaryDirectory()  # removed when the tests end
TINY = """\
hyperparameters:
  epochs: &epochs 2
  lr: &lr 0.01
  batch_size: &batch_size 64
  width: &width 4

trainer:
  max_epochs: *epochs
  limit_train_batches: 4
model:
  network:
    class_path: classifier.networks.MNISTNet
    init_args:
      width: *width
  optimizer:
    class_path: torch.optim.Adam
    init_args:
      lr: *lr
data:
  class_path: classifier.data.Digits
  init_args:
    batch_size: *batch_size
"""


def put(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Changes a config, in place, by dotted key."""
    for key, value in changes.items():
        *path, last = key.split(".")
        section = config
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value


def pytest_configure(config: pytest.Config) -> None:
    """Gives the tests, and what they start, a key and a cache of their own, and no GPU."""
    os.environ["CLASSIFIER_KEY"] = str(Path(CONFIGURATION.name, "key"))
    os.environ["XDG_CACHE_HOME"] = os.environ["LOCALAPPDATA"] = CONFIGURATION.name
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Lightning's loading calls what jsonargparse 5 will remove; Python shows that to tests only.
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where none is seen."""
    needy = [item for item in items if item.get_closest_marker("gpu")]
    if needy and not torch.cuda.is_available():
        for item in needy:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and pytest -m gpu"))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, one thread, and an environment that is put back."""
    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "path", [*PATH])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        yield tmp_path
    # Else the next test would have that of this one. Classes by which jsonargparse looks for what
    # a setting may be name their modules for as long as they live, so that others stay.
    sys.modules.pop("own", None)


@pytest.fixture(autouse=True)
def without_reports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Removes what an evaluation has written into the run that all tests share."""
    yield
    if "trained" in request.fixturenames:
        shutil.rmtree(request.getfixturevalue("trained") / "reports", ignore_errors=True)


@pytest.fixture
def write_config() -> Callable[..., str]:
    """Writes the tiny config, with changes by dotted key, and returns its name."""

    def write(changes: Mapping[str, Any] | None = None, name: str = "tiny.yaml") -> str:
        text = TINY
        if changes:
            config = yaml.safe_load(TINY)
            del config["hyperparameters"]  # the values stand in their places now
            put(config, changes)
            text = yaml.safe_dump(config)
        Path(name).write_text(text, encoding="utf-8")
        return name

    return write


@pytest.fixture
def write_module(own_folder: Path) -> Callable[[str], Any]:
    """Writes ``own.py`` into the working folder."""
    return Path("own.py").write_text


def write_photos(side: int) -> None:
    """Writes 40 noisy photos, half of them dark, half light, of so many pixels a side."""
    random = np.random.default_rng(0)
    for number in range(40):
        path = Path("photos", ("dark", "light")[number % 2], f"{number:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (side, side, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def default_sigterm() -> Iterator[None]:
    """SIGTERM does what it does to a process by itself, whatever has handled it before."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def fit() -> Callable[..., Path]:
    """Trains with the arguments given, in this process, and returns the new run folder."""

    def run(*arguments: str) -> Path:
        before = set(Path("runs").glob("*/*"))
        assert main(["fit", *arguments]) == 0
        (folder,) = set(Path("runs").glob("*/*")) - before
        return folder.resolve()

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on Digits. Only to be read; copy it to change it."""
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)  # a fixture of the session runs before own_folder
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        patch.chdir(folder)
        Path("tiny.yaml").write_text(TINY, encoding="utf-8")
        trainer = ["--hyperparameters.epochs", "3", "--trainer.limit_train_batches", "10"]
        assert main(["fit", "--config", "tiny.yaml", *trainer]) == 0
    return folder / "runs" / "tiny" / "version_0"


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above a search of four trials, trained by two workers after a dry run.

    Only to be read.
    """
    from searches import Search, write_files  # which takes TINY from here

    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_files(TINY.replace("&lr 0.01", "&lr 0.001"))  # so that the base is not the best
        assert main(["search", "--config", "search.yaml", "--dry_run", "4"]) == 0
        with Search() as search:
            assert search.end() == 0, Path("output.txt").read_text()
    return folder


@pytest.fixture
def found(searched: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The search folder, seen from where the search was started."""
    monkeypatch.chdir(searched)
    return searched / "found"


@pytest.fixture
def copied(searched: Path, own_folder: Path) -> Path:
    """A copy of the search folder, in the working folder, to be changed."""
    shutil.copytree(searched, own_folder, dirs_exist_ok=True)
    return own_folder / "found"
