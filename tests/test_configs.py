"""Every shipped config: its header, and one real batch where its data can be had."""

import re
from pathlib import Path

import pytest
import yaml

from classifier.__main__ import main

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SHARED = Path(__file__).parents[2] / "shared" / "data"


def test_there_is_a_config_for_each_kind_of_data():
    names = {path.stem for path in CONFIGS}

    assert names >= {"digits", "mnist", "fashion_mnist", "cifar10", "photos"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_opens_with_what_it_reaches_and_its_command(path):
    header = path.read_text().partition("\n\n")[0].partition("hyperparameters:")[0]

    assert re.search(r"\d %", header)
    assert re.search(r"\d (s|min)\b", header)
    assert f"classifier fit --config configs/{path.name}" in header


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_complete_and_every_hyperparameter_is_used(path, capsys):
    config = str(path)

    assert main(["fit", "--config", config, "--print_config"]) == 0

    printed = capsys.readouterr().out
    names = yaml.safe_load(printed)["hyperparameters"]
    assert [name for name in names if f"*{name}" not in printed] == []


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs MNIST and photos in ../shared/data")
@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "photos"])
def test_a_config_trains_and_evaluates_a_batch(name):
    config = next(path for path in CONFIGS if path.stem == name)
    roots = {"mnist": SHARED, "fashion_mnist": SHARED, "photos": SHARED / "trashnet-quarter"}
    data = [f"--data.root={roots[name]}"] if name in roots else []

    assert main(["fit", "--config", str(config), "--trainer.fast_dev_run=true", *data]) == 0
