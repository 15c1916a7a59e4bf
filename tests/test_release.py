"""What is published: its name, its files, and the configs that come with it."""

import configparser
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from classifier import DISTRIBUTION, __version__, runs
from classifier.__main__ import main

ROOT = Path(__file__).parents[1]
STEP = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1"]


def test_one_name_is_installed_and_told():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert setup["metadata"]["name"] == DISTRIBUTION

    texts = [*ROOT.glob("*.md"), *(ROOT / "classifier").rglob("*.md")]
    texts += [*(ROOT / "classifier").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
    for path in texts:
        strangers = re.findall(
            r"pip install[^&`\n]* '?classifier\b", path.read_text(encoding="utf-8")
        )
        assert not strangers, path


def test_a_config_that_comes_with_the_package_is_taken_and_told_where_none_is_here(fit, capsys):
    folder = fit("--config", "digits.yaml", *STEP)
    assert folder.parent.name == "digits"
    path = ROOT / "configs" / "digits.yaml"
    told = (
        f"note: there is no 'digits.yaml' here: '{path}', which comes with classifier, is used.\n"
    )
    assert told in capsys.readouterr().err

    fit("--config", "configs/digits.yaml", *STEP)  # as in the README
    assert "there is no 'configs/digits.yaml' here" in capsys.readouterr().err


def test_a_config_that_is_here_comes_before_that_of_the_package(write_config, fit, capsys):
    fit("--config", write_config(name="digits.yaml"))
    assert "here" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["digit.yaml", "../digits.yaml", "/digits.yaml", "search"])
def test_no_other_name_means_a_config_of_the_package(name, capsys):
    assert main(["fit", "--config", name]) == 2
    assert f"No config file '{name}'" in capsys.readouterr().err


def test_a_search_of_the_package_is_taken_and_told(capsys):
    assert main(["search", "--config", "search/digits.yaml", "--dry_run", "1"]) == 0
    printed = capsys.readouterr()
    assert "there is no 'search/digits.yaml' here" in printed.err
    assert "searches/digits/dry_run/0000.yaml" in printed.out


def call(*words, cwd):
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_what_is_published_trains_in_an_empty_environment(own_folder):
    """50 s: a source distribution, a wheel of it, and an environment with that and its needs."""
    source = own_folder / "source"
    tracked = call("git", "ls-files", cwd=ROOT).split()
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    call(sys.executable, "-c", build, cwd=source)
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        assert {name.partition("/")[2] for name in opened.getnames()} >= {
            *("README.md", "LICENSE", "setup.py", "configs/digits.yaml"),
            *("configs/search/digits.yaml", "classifier/data/digits.npz"),
        }
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    call(*build, "-w", own_folder, archive, cwd=own_folder)
    (wheel,) = own_folder.glob("*.whl")
    assert wheel.name == f"{DISTRIBUTION.replace('-', '_')}-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    assert {f"classifier/{path}" for path in tracked if path.endswith(".yaml")} & names
    assert "classifier/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "configs"))]

    venv.create("empty", with_pip=True)
    python = next(Path("empty").glob("[bS]*/python*")).absolute()
    call(python, "-m", "pip", "install", "--no-deps", wheel, cwd=own_folder)
    (site,) = Path("empty").glob("lib/*/site-packages")
    (site / "needs.pth").write_text(sysconfig.get_path("purelib"))  # torch and all others

    command = [python.with_name("classifier"), "fit", "--config", "digits.yaml", *STEP]
    told = call(*command, cwd=own_folder)

    assert f"'{own_folder / site / 'classifier' / 'configs' / 'digits.yaml'}', which comes" in told
    record = runs.read_record(Path("runs/digits/version_0"))
    assert record["environment"]["packages"]["classifier"] == __version__
