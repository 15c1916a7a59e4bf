"""Several checkpoints, and an image with its mirror image: evaluated by their mean probability."""

import csv
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import write_photos
from PIL import Image
from test_evaluate import printed_values
from torch import nn

from classifier.__main__ import main
from classifier.data import Digits
from classifier.module import ClassificationModule

# Hidden by Python's own filters outside of tests: LightningCLI calls what jsonargparse 5 removes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def pair(trained, write_config, fit):
    """Two runs on Digits, of networks of different sizes."""
    shutil.copytree(trained, "one", ignore=shutil.ignore_patterns("reports"))
    other = fit("--config", write_config({"model.network.init_args.width": 6}))
    other.rename("two")
    return ["one", "two"]


def probabilities_of(run, images):
    path = Path(run, "checkpoints", "best.ckpt")
    module = ClassificationModule.load_from_checkpoint(path).eval()
    with torch.no_grad():
        return module(images).softmax(1)


def test_images():
    data = Digits()
    data.setup("test")
    return data.test_set


test_images.__test__ = False


def rows_of(path):
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))[1:]


def numbers_of(path):
    return torch.tensor([[float(text) for text in row[4:]] for row in rows_of(path)])


def assert_measured(text, mean, labels):
    values = printed_values(text)
    right = (mean.argmax(1) == labels).float().mean().item()
    assert values["test_accuracy"] == pytest.approx(right, abs=6e-5)
    loss = nn.functional.nll_loss(mean.log(), labels).item()
    assert values["test_loss"] == pytest.approx(loss, abs=6e-5)


# ---- an image and its mirror image ----


def test_flip_averages_the_probabilities_with_those_of_the_mirror_image(pair, capsys):
    assert main(["test", "--ckpt_path", "one", "--tta", "flip"]) == 0

    images = test_images()
    both = [probabilities_of("one", x) for x in (images.images, images.images.flip(3))]
    mean = sum(both) / 2
    told = capsys.readouterr().out
    assert_measured(told, mean, images.labels)
    assert re.search("^tta +flip, mean probability with the mirror image$", told, re.M)
    found = numbers_of("one/reports/test_flip_0/predictions.csv")
    torch.testing.assert_close(found, mean, atol=2e-6, rtol=0)


def test_a_prediction_by_flip_is_that_of_the_test_and_says_so(pair, capsys):
    images = test_images()
    for number, image in enumerate(images.images[:3]):
        Image.fromarray(image[0].numpy()).save(f"{number}.png")

    words = ["--images", "0.png", "1.png", "2.png", "--tta=flip"]
    assert main(["predict", "--ckpt_path", "one", *words]) == 0

    both = [probabilities_of("one", x) for x in (images.images[:3], images.images[:3].flip(3))]
    torch.testing.assert_close(numbers_of("predictions.csv"), sum(both) / 2, atol=2e-6, rtol=0)
    assert capsys.readouterr().out == (
        "3 predictions in predictions.csv; tta flip, mean probability with the mirror image\n"
    )


# ---- several checkpoints ----


@pytest.mark.parametrize(
    "words", [["--ckpt_path", "one", "two"], ["--ckpt_path=one", "--ckpt_path", "two"]]
)
def test_the_mean_of_two_runs_is_measured_and_written(words, pair, capsys):
    assert main(["test", *words, "--output", "mean"]) == 0

    images = test_images()
    mean = sum(probabilities_of(run, images.images) for run in pair) / 2
    printed = capsys.readouterr()
    assert_measured(printed.out, mean, images.labels)
    torch.testing.assert_close(numbers_of("mean/predictions.csv"), mean, atol=2e-6, rtol=0)
    assert [int(row[1]) for row in rows_of("mean/predictions.csv")] == images.labels.tolist()
    shown = " ".join(printed.out.split())
    two, one = (f"{run}/checkpoints/best.ckpt" for run in ("two", "one"))
    assert f"mean probability of {two}, {one}" in shown
    assert printed.err.splitlines() == [f"1 of 2: {two}", f"2 of 2: {one}"]
    assert not list(Path().glob("*/reports"))


def test_three_files_and_flips_are_averaged_in_a_prediction(pair, capsys):
    images = test_images().images[:5]
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(f"{number}.png")
    Path("broken.png").write_text("no image")
    names = [f"{number}.png" for number in range(5)]
    files = [f"{run}/checkpoints/best.ckpt" for run in pair]
    shutil.copy("one/checkpoints/previous.ckpt", "third.ckpt")

    words = ["--images", *names[:2], "broken.png", *names[2:], "--tta", "flip"]
    sizes = ["--data.eval_batch_size", "2"]
    assert main(["predict", "--ckpt_path", *files, "third.ckpt", *words, *sizes]) == 1

    shutil.copytree("one", "three")
    shutil.copy("third.ckpt", "three/checkpoints/best.ckpt")
    both = (images, images.flip(3))
    mean = sum(probabilities_of(run, x) for run in [*pair, "three"] for x in both) / 6
    torch.testing.assert_close(numbers_of("predictions.csv"), mean, atol=2e-6, rtol=0)
    assert [row[0] for row in rows_of("predictions.csv")] == names
    assert "unreadable: broken.png" in capsys.readouterr().err


def test_an_average_without_an_output_is_measured_and_kept_nowhere(pair, capsys):
    assert main(["validate", "--ckpt_path", *pair]) == 0

    printed = capsys.readouterr()
    assert "val_loss" in printed.out
    assert printed.err.splitlines()[-1] == (
        "note: predictions are not kept: an average belongs to no single run; "
        "--output FOLDER keeps them."
    )
    assert not list(Path().rglob("predictions.csv"))


@pytest.fixture
def photos():
    write_photos(12)


def settings(**data):
    given = {"root": "photos", "image_size": 8, "num_workers": 0, "batch_size": 4, **data}
    changes = {"class_path": "ImageFolder", "init_args": given}
    return {"data": changes, "trainer.max_epochs": 1}


def test_each_checkpoint_reads_the_images_in_its_own_way(photos, write_config, fit):
    small = fit("--config", write_config(settings()))
    large = fit("--config", write_config(settings(image_size=12, in_channels=1)))
    for name, run in ("small", small), ("large", large):
        assert main(["test", "--ckpt_path", str(run), "--output", name]) == 0

    assert main(["test", "--ckpt_path", str(small), str(large), "--output", "mean"]) == 0

    one, two, mean = (numbers_of(f"{name}/predictions.csv") for name in ("small", "large", "mean"))
    torch.testing.assert_close(mean, (one + two) / 2, atol=2e-6, rtol=0)
    assert not torch.equal(one, two)
    assert [r[0] for r in rows_of("mean/predictions.csv")] == [
        r[0] for r in rows_of("small/predictions.csv")
    ]


def test_runs_of_other_folds_are_refused_but_predict_together(photos, write_config, fit, capsys):
    runs = [str(fit("--config", write_config(settings(folds=2, fold=fold)))) for fold in range(2)]
    capsys.readouterr()

    assert main(["test", "--ckpt_path", *runs, "--output", "mean"]) == 2

    error = capsys.readouterr().err.splitlines()[-1]
    assert "have other images" in error
    assert "data.fold" in error
    assert all("version_" + run[-1] in error for run in runs)
    assert not Path("mean").exists()
    assert main(["predict", "--ckpt_path", *runs, "--images", "photos"]) == 0
    assert len(rows_of("predictions.csv")) == 40


def test_a_fold_that_is_forced_on_a_run_is_warned_of(photos, write_config, fit, capsys):
    runs = [str(fit("--config", write_config(settings(folds=2, fold=fold)))) for fold in range(2)]
    capsys.readouterr()

    assert main(["test", "--ckpt_path", *runs, "--data.fold", "0"]) == 0

    assert "training images may be among them" in capsys.readouterr().err


def test_a_search_stands_for_its_complete_trials(pair, capsys):
    Path("found").mkdir()
    Path("found/search.yaml").touch()
    for run in pair:
        shutil.move(run, f"found/{run}")
    trials = "number,state,folder\n0,complete,one\n1,failed,none\n2,complete,two\n"
    Path("found/trials.csv").write_text(trials)

    assert main(["test", "--ckpt_path", "found"]) == 0

    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "1 of 2: found/two/checkpoints/best.ckpt",
        "2 of 2: found/one/checkpoints/best.ckpt",
    ]


@pytest.mark.parametrize("table", [None, "number,state,folder\n0,failed,0000\n"])
def test_a_search_without_a_complete_trial_is_refused(table, capsys):
    Path("found").mkdir()
    Path("found/search.yaml").touch()
    if table:
        Path("found/trials.csv").write_text(table)

    assert main(["test", "--ckpt_path", "found"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "'found' is a search without a complete trial" in line


def test_checkpoints_of_other_classes_are_refused_before_any_image(
    pair, photos, write_config, fit, capsys
):
    other = fit("--config", write_config(settings()))
    capsys.readouterr()

    assert main(["test", "--ckpt_path", "one", str(other)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "'one/checkpoints/best.ckpt'" in line
    assert "version_0/checkpoints/best.ckpt'" in line
    assert "class 0 is '0' and 'dark'" in line


WRONG = {
    "twice": (["--ckpt_path", "one", "one/checkpoints/best.ckpt"], "is named twice"),
    "no word": (["--ckpt_path", "one", "--ckpt_path"], "--ckpt_path: expected a value"),
    "one missing": (["--ckpt_path", "one", "three.ckpt"], "No checkpoint 'three.ckpt'"),
    "no checkpoint": (["--ckpt_path", "one", "tiny.yaml"], "did you mean '--config tiny.yaml'"),
    "a word of Lightning's": (["--ckpt_path", "one", "--ckpt_path", "best"], "name the run"),
    "tta unknown": (["--ckpt_path", "one", "--tta", "ten-crop"], "expected flip"),
    "tta without": (["--ckpt_path", "one", "--tta"], "--tta: expected a value"),
    "output there": (["--ckpt_path", "one", "--output", "one"], "--output 'one' exists"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_are_told_before_anything_is_computed(words, message, trained, capsys):
    shutil.copytree(trained, "one", ignore=shutil.ignore_patterns("reports"))
    Path("tiny.yaml").touch()

    assert main(["test", *words]) == 2

    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) <= 3
    assert printed.out == ""


OWN = """
from classifier.data import Digits


class Own(Digits):
    def test_dataloader(self):
        return super().test_dataloader()
"""


def test_images_that_a_class_loads_itself_are_not_averaged(pair, write_module, capsys):
    write_module(OWN)

    assert main(["test", "--ckpt_path", *pair, "--data", "own.Own"]) == 2

    assert "Own loads the test images itself" in capsys.readouterr().err


def test_training_takes_one_checkpoint(pair, capsys):
    assert main(["fit", "--ckpt_path", "one", "two"]) == 2

    assert "'two' belongs to no option" in capsys.readouterr().err
