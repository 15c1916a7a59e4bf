"""Cross-validation by one call: a search that trains each configuration on each fold."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from classifier.__main__ import main
from classifier.search.settings import parse

BASE = """
hyperparameters:
  lr: &lr 0.01
  fold: &fold 0
seed_everything: 0
trainer: {max_epochs: 1, enable_progress_bar: false}
model:
  network: {class_path: MNISTNet, init_args: {width: 4}}
  optimizer: {class_path: torch.optim.Adam, init_args: {lr: *lr}}
data:
  class_path: ImageFolder
  init_args: {root: photos, image_size: 8, num_workers: 0, folds: 3, fold: *fold}
"""


@pytest.fixture
def base(tmp_path):
    """A config with a fold, over 36 photos in two classes."""
    random = np.random.default_rng(0)
    for number in range(36):
        path = tmp_path / "photos" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (8, 8, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    Path("base.yaml").write_text(BASE)


def search(space, **settings):
    words = {"base": "base.yaml", "sampler": "grid", "space": space, **settings}
    Path("search.yaml").write_text(yaml.safe_dump(words))
    return main(["search", "--config", "search.yaml", "--folder", "found"])


def test_each_configuration_is_trained_on_each_fold_and_told_by_its_mean(base, capfd):
    assert search({"lr": [0.1, 0.001], "fold": [0, 1, 2]}, repeat="fold") == 0
    capfd.readouterr()

    assert main(["search", "table", "found"]) == 0

    table = capfd.readouterr().out
    assert "mean and standard deviation over 3 values of fold:" in table
    means = re.findall(r"trials (\d), (\d), (\d), val_loss \d\.\d+ ± \d\.\d+  lr ([\d.]+)", table)
    assert sorted(means) == [("0", "1", "2", "0.1"), ("3", "4", "5", "0.001")]
    configs = sorted(Path("found/trials").glob("*/config.yaml"))
    found = [yaml.safe_load(path.read_text())["data"]["init_args"]["fold"] for path in configs]
    assert found == [0, 1, 2, 0, 1, 2]
    assert all("fold: *fold" in path.read_text() for path in configs)


def test_the_base_config_alone_is_cross_validated(base, capfd):
    assert search({"fold": [0, 1, 2]}, repeat="fold") == 0

    assert main(["search", "table", "found"]) == 0
    assert "trials 0, 1, 2, val_loss" in capfd.readouterr().out


WRONG = {
    "not in the space": ({"lr": [0.1, 0.2]}, {"repeat": "fold"}, "repeat: space has no 'fold'"),
    "misspelt": ({"fold": [0, 1]}, {"repeat": "fodl"}, "did you mean 'fold'?"),
    "seeds too": (
        {"fold": [0, 1], "seed_everything": [0, 1]},
        {"repeat": "fold"},
        "seeds are repeated, not sampled",
    ),
    "no end": (
        {"fold": {"low": 0.0, "high": 1.0}},
        {"repeat": "fold"},
        "what is repeated is a list",
    ),
    "no multiple": (
        {"lr": [0.1, 0.2], "fold": [0, 1, 2]},
        {"repeat": "fold", "n_trials": 4, "sampler": "optuna.samplers.TPESampler"},
        "4 is not a multiple of the 3 values of fold",
    ),
}


@pytest.mark.parametrize(("space", "settings", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_with_what_is_repeated_are_told(space, settings, message, base, capfd):
    assert search(space, **settings) == 2

    error = capfd.readouterr().err
    assert message in error
    assert not Path("found").exists()


def test_with_folds_named_on_the_command_line_no_trial_is_stopped_early(base):
    words = {"base": "base.yaml", "sampler": "grid", "space": {"fold": [0, 1, 2]}}
    Path("search.yaml").write_text(yaml.safe_dump(words))

    settings = parse(["--config", "search.yaml", "--repeat", "fold", "--folder", "found"])

    assert settings.repeat == "fold"
    assert settings.pruner is None
