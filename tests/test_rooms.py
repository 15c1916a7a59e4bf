"""Each command is a room: taking one out leaves the others as they were."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import classifier

PACKAGE = Path(classifier.__file__).parent
ROOMS = ("search", "tune", "reproduce")
# An editable install would find what is missing in the repository.
ALONE = """
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in str(finder)]
"""


@pytest.fixture
def without_rooms(own_folder):
    """Runs a command of a copy of the package in which the rooms are missing."""
    copy = own_folder / "house" / "classifier"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for room in ROOMS:
        places = [place for place in (copy / room, copy / f"{room}.py") if place.exists()]
        assert places
        for place in places:
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    (copy.parent / "sitecustomize.py").write_text(ALONE)

    def run(*arguments):
        command = [sys.executable, str(copy / "__main__.py"), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(copy.parent)}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


def test_training_and_testing_need_no_other_command(without_rooms, write_config):
    fitted = without_rooms("fit", "--config", write_config({"trainer.max_epochs": 1}))
    tested = without_rooms("test", "--ckpt_path", "runs/tiny/version_0")

    assert (fitted.returncode, tested.returncode) == (0, 0), fitted.stderr + tested.stderr


def test_a_command_that_is_missing_is_not_offered(without_rooms):
    offered = without_rooms("--help").stdout
    refused = without_rooms("search", "--config", "search.yaml")

    assert "  fit " in offered
    assert not [room for room in ROOMS if f"  {room} " in offered]
    assert refused.returncode == 2
    assert "no command 'search'" in refused.stderr
