"""Every command also goes with the answers of Windows; what is stored is the same everywhere.

Neither Windows nor macOS is at hand: what tests/windows.py says of itself holds here.
"""

import io
import ntpath
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from searches import Search, check_whole, write_files
from windows import as_on_windows

from classifier import runs, terminal
from classifier.sources.finder import Finder, key

WINDOWS = str(Path(__file__).with_name("windows.py"))
FIT = ("fit", "--config", "tiny.yaml")


def on_windows(*commands):
    """Runs some commands in one process; returns what it printed, in the letters of Windows."""
    words = [word for command in commands for word in (*command, ";")]
    answer = subprocess.run(
        [sys.executable, WINDOWS, *words],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        encoding="cp1252",
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def write_photos(name="1"):
    for label in ("cat", "dog"):
        Path("photos", label).mkdir(parents=True)
        for index in range(20):
            image = Image.new("RGB", (12, 12), (9 * index, 80, 10))
            image.save(f"photos/{label}/{name}{index}.png")


def test_a_training_is_resumed_and_tested_with_the_answers_of_windows(write_config):
    write_config()
    run = "runs/tiny/version_0"

    told = on_windows(
        FIT,
        ("fit", "--ckpt_path", run, "--hyperparameters.epochs", "3"),
        ("validate", "--ckpt_path", run),
        ("test", "--ckpt_path", run),
    )

    record = runs.read_record(Path(run))
    assert (record["state"], record["epochs"]) == ("finished", 3)
    assert "test_accuracy" in told
    left = {path.name for path in Path(run, "checkpoints").iterdir()}
    assert left == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert not list(Path().rglob("*.part"))


@pytest.mark.slow
def test_photos_are_read_by_spawned_workers_and_predicted_with_the_answers_of_windows(write_config):
    """Names have letters that the output lacks; 30 s."""
    write_photos("写真")
    settings = {"root": "photos", "image_size": 12, "num_workers": 1, "batch_size": 4}
    write_config(
        {
            "data.class_path": "classifier.data.ImageFolder",
            "data.init_args": settings,
            "trainer.max_epochs": 1,
        }
    )

    run = ("--ckpt_path", "runs/tiny/version_0")
    images = ("--images", "photos", "--output", "classes.csv")
    told = on_windows(FIT, ("predict", *run, *images))

    assert "\n40 predictions in classes.csv\n" in told
    rows = Path("classes.csv").read_bytes().decode().split("\r\n")
    assert rows[1].startswith("photos/cat/写真0.png,")
    assert len(rows) == 42


@pytest.mark.slow
def test_a_run_is_reproduced_and_tuned_with_the_answers_of_windows(write_config):
    """Each a process more; 60 s."""
    write_config()
    options = ("--seconds", "0.1", "--model.compile", "false", "--output", "fast.yaml")

    told = on_windows(
        FIT,
        ("reproduce", "runs/tiny/version_0"),
        ("tune", "--config", "tiny.yaml", *options),
    )

    assert "\nidentical\n" in told
    assert Path("fast.yaml").is_file()


@pytest.mark.slow
def test_a_search_spawns_and_kills_its_trials_with_the_answers_of_windows():
    """Stopped in the midst of a trial, and resumed; 100 s."""
    base = write_files(n_trials=3) and Path("tiny.yaml").read_text("utf-8")
    write_files(base.replace("epochs 2", "epochs 20"), n_trials=3)
    command = (sys.executable, WINDOWS, "search", "--config", "search.yaml")
    with Search(*command) as search:
        search.wait_for(lambda: search.running(0) or search.running(1), 300)
        search.process.send_signal(signal.SIGINT)
        assert search.end() == 130
    with Search(*command) as search:
        assert search.end(300) == 0
    check_whole(search.folder, 3)


@pytest.mark.slow
def test_two_ranks_train_and_end_with_the_answers_of_windows(write_config):
    write_config({"trainer.accelerator": "cpu", "trainer.devices": 2})

    answer = subprocess.run([sys.executable, WINDOWS, *FIT], capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr
    assert runs.read_record(Path("runs/tiny/version_0"))["devices"] == 2


# ---- what Windows is asked ----


@pytest.fixture
def windows():
    return as_on_windows("classifier.platform")


def test_a_program_in_the_working_folder_is_not_taken_for_that_of_the_system(
    windows, tmp_path, monkeypatch
):
    Path("git.exe").touch()
    monkeypatch.setenv("PATH", os.pathsep.join([".", "", str(tmp_path / "bin")]))
    assert windows.program("git") is None

    Path("bin").mkdir()
    Path("bin/git.exe").touch()

    assert windows.program("git") == str(tmp_path / "bin" / "git.exe")


def test_windows_keeps_settings_and_quotes_words_in_its_own_way(windows, tmp_path, monkeypatch):
    monkeypatch.setenv("APPDATA", str(tmp_path))

    assert windows.settings_folder() == tmp_path
    assert windows.quoted(["fit", "my photos"]) == 'fit "my photos"'


def test_a_key_is_the_users_own_where_nobody_can_tell_whose_it_is(windows):
    Path("key").touch(mode=0o666)
    known = Path("key").stat()

    assert windows.is_own(known)
    assert windows.access_of_others(known) == 0


# ---- what is stored and shown ----


@pytest.fixture
def ntpaths(monkeypatch):
    """Has the paths of images joined and split as on Windows."""
    system = SimpleNamespace(sep=ntpath.sep, path=ntpath)
    monkeypatch.setattr("classifier.sources.finder.os", system)


def test_an_image_has_the_same_name_and_so_the_same_split_on_every_system(ntpaths):
    assert key("C:\\photos\\cat\\1.png", "C:\\photos") == "cat/1.png"
    assert key("C:\\1.png", "C:\\") == "1.png"


def test_classes_have_the_same_numbers_where_file_names_ignore_case(monkeypatch):
    for name in ("Zebra", "ant"):
        Path("photos", name).mkdir(parents=True)
    # As on Windows, all paths compare by their lower case.
    monkeypatch.setattr(Path, "__lt__", lambda one, other: str(one).lower() < str(other).lower())

    assert [path.name for path in Finder().subfolders(Path("photos"))] == ["Zebra", "ant"]


def test_a_letter_that_the_output_lacks_is_written_out(monkeypatch):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, "cp1252")
    monkeypatch.setattr(sys, "stdout", stream)

    terminal.write_out_what_stdout_lacks()
    terminal.out("5 ± 1 … 写")

    assert written.getvalue().decode("cp1252") == "5 ± 1 … \\u5199\n"
