"""What people get wrong in a search: at most three lines, exit code 2, no training, no folder."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from searches import SEARCH, write_files

from classifier.__main__ import main

# Changes of the search file, and words that the answer must have.
MISTAKES = {
    "no such hyperparameter": ({"space": {"lrr": [1, 2]}}, ["search.yaml:", "space.lrr", "'lr'"]),
    "empty range": (
        {"space": {"lr": {"low": 1, "high": 0.1}}},
        ["space.lr", "low 1 is above high 0.1", "swap"],
    ),
    "logarithm of zero": (
        {"space": {"lr": {"low": 0, "high": 1.0, "log": True}}},
        ["space.lr", "log", "above 0"],
    ),
    "no base config": ({"base": "tinny.yaml"}, ["base", "tinny.yaml", "'tiny.yaml'"]),
    "no storage": (
        {"storage": "postgresql://nobody:secret@127.0.0.1:1/none"},
        ["storage", "127.0.0.1"],
    ),
    "no such sampler": ({"sampler": "TPESampeler"}, ["sampler", "'TPESampler'"]),
    "endless grid": (
        {"sampler": "grid", "space": {"lr": {"low": 0.1, "high": 1.0}}},
        ["space.lr", "step"],
    ),
}


def refused(capsys, *arguments):
    """The message with which a search is refused before anything is made or trained."""
    assert main(["search", *arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert len(text.splitlines()) <= 3
    assert not Path("found").exists()
    assert not Path("runs").exists()
    return text


@pytest.mark.parametrize(("changes", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_search_file_is_answered(changes, words, own_folder, capsys):
    write_files()
    Path("search.yaml").write_text(yaml.safe_dump({**SEARCH, **changes}), encoding="utf-8")

    text = refused(capsys, "--config", "search.yaml")

    assert [word for word in words if word not in text] == []
    assert "secret" not in text


def test_a_hyperparameter_that_nothing_uses_is_not_searched(own_folder, capsys):
    write_files(TINY.replace("lr: *lr", "lr: 0.01"))

    text = refused(capsys, "--config", "search.yaml")

    assert "space.lr: no alias in tiny.yaml uses it" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"monitor": "val_acuracy"}, ["monitor: no metric 'val_acuracy'", "'val_accuracy'"]),
        (
            {
                "space": {
                    "network": ["classifier.networks.MNISTNet", "classifier.networks.MNISTNett"]
                }
            },
            ["with network classifier.networks.MNISTNett: model.network", "'MNISTNet'"],
        ),
    ],
    ids=["metric that no trial reports", "choice that is no class"],
)
def test_what_only_building_everything_shows_is_found_before_any_training(
    changes, words, own_folder
):
    base = TINY.replace("  lr: &lr", "  network: &network classifier.networks.MNISTNet\n  lr: &lr")
    write_files(base.replace("class_path: classifier.networks.MNISTNet", "class_path: *network"))
    settings = {**SEARCH, "n_trials": 2, **changes}
    Path("search.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    # In a process of its own: the rehearsal starts another one from it.
    command = [sys.executable, "-m", "classifier", "search", "--config", "search.yaml"]
    told = subprocess.run(command, capture_output=True, text=True)

    assert told.returncode == 2
    assert len(told.stderr.splitlines()) <= 3
    assert [word for word in words if word not in told.stderr] == []
    assert not Path("found").exists()


def test_the_search_says_what_to_install(own_folder):
    code = (
        "import sys; sys.modules['optuna'] = None\n"
        "from classifier.__main__ import main; sys.exit(main(['search', '--help']))"
    )

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert told.returncode == 2
    assert told.stderr == "error: search needs Optuna: pip install 'lightning-classifier[search]'\n"
