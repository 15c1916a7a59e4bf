"""Runs that earlier versions wrote: tested, predicted with, resumed, reproduced as ever.

tests/earlier/README.md says what they are.
"""

import csv
import json
import re
import tarfile
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import Callback

import classifier.cli.classifier_cli
import classifier.tune.candidate  # noqa: F401  # which has a callback, too
from classifier.__main__ import main
from classifier.checkpoint.file import write_checkpoint
from classifier.checkpoint.find import FORMAT

EARLIER = Path(__file__).parent / "earlier"
EXPECTED = json.loads((EARLIER / "format_1.json").read_text())
EPOCHS = {"finished": 5, "plateau": 6, "killed": 12, "photos": 5, "searched": 4}


@pytest.fixture(autouse=True)
def earlier(own_folder):
    with tarfile.open(EARLIER / "format_1.tar.xz") as archive:
        archive.extractall(own_folder, filter="data")


def folder_of(name):
    return Path("searched/trials/0001") if name == "searched" else Path("runs", name, "version_0")


def numbers(text):
    """What the table says of the test, with four digits."""
    return {name: float(value) for name, value in re.findall(r"(test_\w+)\W+([\d.e-]+)", text)}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if v and k != "seconds"} for row in table]


@pytest.mark.parametrize("name", EXPECTED)
def test_an_earlier_run_has_the_same_test_metrics(name, capsys):
    assert main(["test", "--ckpt_path", str(folder_of(name))]) == 0

    captured = capsys.readouterr()
    assert numbers(captured.out) == pytest.approx(EXPECTED[name]["test"], abs=6e-5)
    assert captured.err == ""


@pytest.mark.parametrize("name", EXPECTED)
def test_an_earlier_run_predicts_the_same_labels(name):
    expected = [line.split(",") for line in EXPECTED[name]["predictions"]]
    files = [row[0] for row in expected[1:]]

    assert main(["predict", "--ckpt_path", str(folder_of(name)), "--images", *files]) == 0

    with Path("predictions.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    for row, (image, label, *ranked) in zip(found, expected[1:], strict=True):
        assert (row["image"], row["prediction"]) == (image, label)
        probabilities = dict(zip([label, *ranked[1::2]], map(float, ranked[::2]), strict=True))
        assert {name: float(row[name]) for name in probabilities} == pytest.approx(
            probabilities, abs=1e-5
        )


@pytest.mark.parametrize("name", EPOCHS)
def test_an_earlier_run_goes_on_as_it_would_have(name):
    folder = folder_of(name)

    command = ["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", str(EPOCHS[name])]
    assert main(command) == 0

    found, expected = rows(folder), EXPECTED[name]["resumed"]
    for row, other in zip(found, expected, strict=True):
        # Trained anew, on another processor, sums are added in another order.
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finished", "photos"])
def test_an_earlier_run_is_reproduced(name, capfd):
    assert main(["reproduce", str(folder_of(name))]) == 0

    assert capfd.readouterr().out.splitlines()[-1].startswith(("identical", "within tolerance"))


def test_an_earlier_search_is_read_and_refitted(capsys):
    assert main(["search", "table", "searched"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 4

    assert main(["search", "refit", "searched", "--top_k", "1", "--seeds", "1"]) == 0


def test_an_earlier_run_that_goes_on_stays_of_its_format():
    assert main(["fit", "--ckpt_path", "runs/photos/version_0", "--trainer.max_epochs", "4"]) == 0

    record = json.loads(Path("runs/photos/version_0/run.json").read_text())
    saved = torch.load("runs/photos/version_0/checkpoints/last.ckpt", weights_only=True)
    assert record["format"] == saved["classifier"]["format"] == 1


@pytest.mark.parametrize(
    "option",
    [["--ckpt_path", "runs/photos/version_0"], ["--config", "runs/photos/version_0/config.yaml"]],
    ids=["resumed", "trained anew"],
)
def test_an_earlier_run_finds_its_images_as_it_did(option, capsys):
    expected = json.loads(Path("runs/photos/version_0/run.json").read_text())["data"]

    assert main(["fit", *option, "--trainer.max_epochs", "4"]) == 0

    newest = max(Path("runs/photos").iterdir(), key=lambda folder: folder.name)
    assert json.loads((newest / "run.json").read_text())["data"] == expected
    assert "left out" not in capsys.readouterr().err

    Path("photos/__MACOSX").mkdir()
    assert main(["test", "--ckpt_path", "runs/photos/version_0"]) == 2
    assert "class 0 is '__MACOSX'" in capsys.readouterr().err


def test_an_earlier_run_takes_no_new_way_of_finding_images(capsys):
    exclude = ["--data.exclude", '["1.png"]']

    assert main(["fit", "--ckpt_path", "runs/photos/version_0", *exclude]) == 2

    assert "Train anew to use them" in capsys.readouterr().err


def test_a_run_of_a_later_format_is_refused_with_the_remedy(trained, own_folder, capsys):
    saved = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["classifier"]["format"] == FORMAT
    saved["classifier"]["format"] = FORMAT + 1
    write_checkpoint(saved, own_folder / "later.ckpt")

    assert main(["test", "--ckpt_path", "later.ckpt"]) == 2

    assert "pip install -U lightning-classifier" in capsys.readouterr().err


def callbacks(kind=Callback):
    for subclass in kind.__subclasses__():
        yield from callbacks(subclass)
        if subclass.__module__.startswith("classifier.") and subclass.__name__ != "EpochTracker":
            yield subclass


def test_every_callback_has_a_name_of_its_own_in_checkpoints():
    assert len(list(callbacks())) >= 10
    keys = [callback.__dict__.get("state_key", callback.__name__) for callback in callbacks()]
    missing = [c.__name__ for c in callbacks() if not isinstance(c.__dict__.get("state_key"), str)]
    assert missing == ["RichBar"]  # Lightning's, which keeps no state
    assert len(set(keys)) == len(keys)
