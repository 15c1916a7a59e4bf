"""What ``classifier test`` and ``validate`` keep in the run folder: a row for each image."""

import csv
import gzip
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import write_photos
from test_ddp import TWO_RANKS, classify
from test_evaluate import printed_values

from classifier.__main__ import main
from classifier.data import Digits
from classifier.module import ClassificationModule

COLUMNS = ["image", "label", "prediction", "probability"]


@pytest.fixture
def run(trained):
    """A copy of a run, to write into."""
    shutil.copytree(trained, "run", ignore=shutil.ignore_patterns("reports"))
    return Path("run")


@pytest.fixture
def photos(write_config, fit):
    """The folder of a run on 40 photos in two folders."""
    write_photos(8)
    data = {"root": "photos", "image_size": 8, "num_workers": 0, "batch_size": 4}
    changes = {
        "data": {"class_path": "ImageFolder", "init_args": {**data, "test_fraction": 0.2}},
        "trainer.max_epochs": 1,
    }
    return fit("--config", write_config(changes))


def rows_of(folder):
    with Path(folder, "predictions.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:4] == COLUMNS
    return rows


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # hidden outside of tests
@pytest.mark.parametrize(("verb", "part"), [("test", "test"), ("validate", "val")])
def test_an_evaluation_keeps_what_a_computation_by_hand_gives(verb, part, run):
    assert main([verb, "--ckpt_path", "run", "--data.eval_batch_size", "50"]) == 0

    data = Digits()
    data.setup("test")
    images = data.sets[part]
    best = run / "checkpoints" / "best.ckpt"
    module = ClassificationModule.load_from_checkpoint(best).eval()
    with torch.no_grad():
        expected = module(images.images).softmax(1)
    rows = rows_of(run / "reports" / f"{verb}_0")
    assert [row[0] for row in rows] == [str(place) for place in range(len(images))]
    assert [int(row[1]) for row in rows] == images.labels.tolist()
    assert [int(row[2]) for row in rows] == expected.argmax(1).tolist()
    numbers = torch.tensor([[float(text) for text in row[3:]] for row in rows])
    torch.testing.assert_close(numbers[:, 1:], expected, atol=2e-6, rtol=0)
    assert torch.equal(numbers[:, 0], numbers[:, 1:].max(1).values)


def test_images_of_files_are_named_by_their_path_below_the_root(photos, capsys):
    assert main(["test", "--ckpt_path", str(photos)]) == 0

    rows = rows_of(photos / "reports" / "test_0")
    parts = [line.split(",") for line in manifest_of(photos)]
    assert [row[:2] for row in rows] == [
        [n, label] for n, label, _, part in parts if part == "test"
    ]
    accuracy = printed_values(capsys.readouterr().out)["test_accuracy"]
    assert sum(row[1] == row[2] for row in rows) / len(rows) == pytest.approx(accuracy, abs=6e-5)


def manifest_of(folder):
    return gzip.decompress((folder / "manifest.csv.gz").read_bytes()).decode().splitlines()


def test_each_evaluation_has_a_folder_of_its_own_and_overwrites_nothing(run, capsys):
    for verb in ("test", "test", "validate", "test"):
        assert main([verb, "--ckpt_path", "run"]) == 0

    assert {path.name for path in (run / "reports").iterdir()} == {
        *("test_0", "test_1", "test_2", "validate_0")
    }
    told = re.findall(r"predictions +(\S+)", capsys.readouterr().out)
    assert told[1] == "run/reports/test_1/predictions.csv"
    assert len({Path(path).read_text() for path in told if "test" in path}) == 1


@pytest.mark.slow
def test_two_ranks_write_every_image_once_in_order(run):
    assert main(["test", "--ckpt_path", "run"]) == 0

    told = classify("test", "--ckpt_path", "run", *TWO_RANKS)

    assert told.returncode == 0, told.stderr
    one, two = (rows_of(run / "reports" / f"test_{number}") for number in range(2))
    assert [row[:3] for row in one] == [row[:3] for row in two]
    assert [path.name for path in (run / "reports" / "test_1").iterdir()] == ["predictions.csv"]


def test_the_tests_of_all_folds_give_each_image_once(photos):
    saved = str(photos / "config.yaml")
    found = []
    for fold in range(3):
        words = ["--data.folds", "3", "--data.fold", str(fold), "--trainer.default_root_dir", "f"]
        assert main(["fit", "--config", saved, *words]) == 0
        (folder,) = Path("f").glob(f"*/version_{fold}")
        assert main(["test", "--ckpt_path", str(folder)]) == 0
        found += [row[0] for row in rows_of(folder / "reports" / "test_0")]

    assert sorted(found) == sorted(str(p.relative_to("photos")) for p in Path("photos").glob("*/*"))


# ---- where it is not kept ----


def test_a_checkpoint_in_no_run_folder_is_tested_and_told_to_keep_nothing(run, capsys):
    shutil.move(run / "checkpoints" / "best.ckpt", "alone.ckpt")

    assert main(["test", "--ckpt_path", "alone.ckpt"]) == 0

    printed = capsys.readouterr()
    assert "test_loss" in printed.out
    assert printed.err == (
        "note: predictions are not kept: 'alone.ckpt' lies in no run folder of its own; "
        "--output FOLDER keeps them.\n"
    )
    assert {path.name for path in Path().iterdir()} == {"run", "alone.ckpt"}


def test_the_output_may_be_named(run, capsys):
    shutil.move(run / "checkpoints" / "best.ckpt", "alone.ckpt")

    assert main(["test", "--ckpt_path", "alone.ckpt", "--output", "kept"]) == 0

    assert len(rows_of("kept")) == 359
    assert capsys.readouterr().err == ""


def test_a_folder_in_which_nothing_can_be_made_fails_no_test(run, capsys):
    (run / "reports").write_text("a file")

    assert main(["test", "--ckpt_path", "run"]) == 0

    printed = capsys.readouterr()
    assert "test_loss" in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("note: predictions are not kept: ")
    assert "reports" in line


def test_a_checkpoint_of_another_run_leaves_the_folder_as_it_is(run, write_config, fit, capsys):
    other = fit("--config", write_config({"trainer.max_epochs": 1}))
    shutil.copy(run / "checkpoints" / "best.ckpt", other / "checkpoints" / "copied.ckpt")

    assert main(["test", "--ckpt_path", str(other / "checkpoints" / "copied.ckpt")]) == 0

    assert not (other / "reports").exists()
    assert "no run folder of its own" in capsys.readouterr().err


OWN = """
import torch
from conftest import write_photos
from torch.utils.data import DataLoader

from classifier.data import Digits
from classifier.module import ClassificationModule


class Shuffled(Digits):
    def test_dataloader(self):
        indices = torch.randperm(len(self.test_set)).split(64)
        return DataLoader(indices, None, collate_fn=lambda i: self.test_set.__getitems__(i))


class Mine(ClassificationModule):
    def test_step(self, batch, batch_idx):
        images, labels = batch
        self.log("test_brightness", images.float().mean())


class Twice(ClassificationModule):
    def test_step(self, batch, batch_idx):
        self.step(batch, "test")
        self.step((batch[0].flip(3), batch[1]), "test")
"""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--data=own.Shuffled"], "Shuffled loads the images itself, in an order not known."),
        (["--model=own.Mine"], "Mine does not measure each image once by step."),
        (["--model=own.Twice"], "Twice does not measure each image once by step."),
    ],
)
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_where_rows_would_be_wrong_there_are_none(words, reason, run, write_module, capsys):
    write_module(OWN)

    assert main(["test", "--ckpt_path", "run", *words]) == 0

    printed = capsys.readouterr()
    assert "test_" in printed.out
    assert printed.err.splitlines()[-1] == f"note: predictions are not kept: {reason}"
    assert not list(run.glob("reports/*"))

    assert main(["test", "--ckpt_path", "run", *words, "--output", "kept"]) == 2
    assert reason in capsys.readouterr().err
    assert not Path("kept").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [("run", "--output 'run' exists"), ("no/where", "there is no folder 'no'")],
)
def test_an_output_that_cannot_be_is_told_before_the_test(output, message, run, capsys):
    assert main(["test", "--ckpt_path", "run", "--output", output]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
