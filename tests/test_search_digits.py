"""The shipped search, whole: every trial is a config that trains the same weights by itself."""

import difflib
import sys
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState
from searches import Search, metrics, trial_folder, trials_of, weights

from classifier.anchored_yaml.text import load

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.slow
def test_every_trial_of_the_shipped_search_trains_alone_to_the_same_bits(own_folder, fit):
    with Search(
        sys.executable,
        "-m",
        "classifier",
        "search",
        "--config",
        str(CONFIGS / "search/digits.yaml"),
    ) as search:
        assert search.end(600) == 0, Path("output.txt").read_text()

    folder = Path("searches/digits")
    base = (CONFIGS / "digits.yaml").read_text().splitlines()
    own = load("\n".join(base))["hyperparameters"]
    trials = trials_of(folder)
    assert len(trials) == yaml.safe_load((folder / "search.yaml").read_text())["n_trials"] == 12
    for trial in trials:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        config = trial_folder(folder, trial.number) / "trial.yaml"
        text = config.read_text()
        changes = [line for line in difflib.ndiff(base, text.splitlines()) if line[0] in "+-"]
        names = {line[2:].split(":")[0].strip() for line in changes}
        assert names == {name for name in trial.params if trial.params[name] != own[name]}
        assert {name: load(text)["hyperparameters"][name] for name in trial.params} == trial.params

        # A pruned trial has had fewer epochs, of the same schedule.
        epochs = len(metrics(folder, trial.number))
        alone = fit("--config", str(config), f"--trainer.max_epochs={epochs}")

        assert weights(alone) == weights(config.parent)
