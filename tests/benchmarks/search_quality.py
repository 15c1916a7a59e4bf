"""How soon a search finds good hyperparameters: random search, TPE, and TPE with pruning.

    python tests/benchmarks/search_quality.py --pilot      how the target was chosen
    python tests/benchmarks/search_quality.py --seeds 6

Each search trains the same number of epochs, counted over all its trials with those that were
stopped early. Six hyperparameters of SGD and a small network are searched, over ranges of which
most points are bad; trial 0 is a base config that learns nothing. The searches of one seed begin
with the same random configs.
"""

import argparse
import contextlib
import io
import platform
import tempfile
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from statistics import fmean, stdev

from optuna.storages.journal import JournalFileBackend

from classifier.search.launch import run
from classifier.search.settings import parse

EPOCHS = 8  # of a trial
TRIALS = 40  # of a search that stops none early
BUDGET = EPOCHS * TRIALS  # epochs of a search
TARGET = 0.9  # accuracy on the 863 validation images; see pilot()
PILOT_SEED = 1000
NO_PRUNER = ["--pruner", "null"]
# With a pruner more trials fit into the budget; what goes beyond is not counted.
METHODS = {
    "random search": ["--sampler", "RandomSampler", *NO_PRUNER, "--n_trials", str(TRIALS)],
    "TPE": ["--sampler", "TPESampler", *NO_PRUNER, "--n_trials", str(TRIALS)],
    "TPE, MedianPruner (default)": ["--sampler", "TPESampler", "--n_trials", str(2 * TRIALS)],
}
BASE = f"""\
hyperparameters:
  epochs: &epochs {EPOCHS}
  lr: &lr 0.0001
  momentum: &momentum 0.0
  weight_decay: &weight_decay 0.1
  batch_size: &batch_size 128
  width: &width 4
  dropout: &dropout 0.8
seed_everything: 0
trainer:
  max_epochs: *epochs
  enable_checkpointing: false
model:
  network:
    class_path: classifier.networks.MNISTNet
    init_args:
      width: *width
      dropout: *dropout
  optimizer:
    class_path: torch.optim.SGD
    init_args:
      lr: *lr
      momentum: *momentum
      weight_decay: *weight_decay
  lr_scheduler:
    class_path: torch.optim.lr_scheduler.CosineAnnealingLR
    init_args:
      T_max: *epochs
data:
  class_path: classifier.data.Digits
  init_args:
    batch_size: *batch_size
    val_fraction: 0.6
"""
SEARCH = """\
base: base.yaml
monitor: val_accuracy
space:
  lr: {low: 1.0e-4, high: 1.0, log: true}
  momentum: {low: 0.0, high: 0.99}
  weight_decay: {low: 1.0e-6, high: 0.1, log: true}
  batch_size: [16, 32, 64, 128]
  width: [4, 8, 16]
  dropout: {low: 0.0, high: 0.8}
workers: 2
"""


def main() -> None:
    """Runs the searches seed by seed and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--pilot", action="store_true", help="Only show what random configs reach.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base.yaml").write_text(BASE)
        (folder / "search.yaml").write_text(SEARCH)
        if options.pilot:
            pilot(folder)
            return
        curves: dict[str, list[list[float]]] = {method: [] for method in METHODS}
        for seed in range(options.seeds):
            for method, given in METHODS.items():
                values, trials = search(folder / f"{len(curves[method])}-{method}", given, seed)
                ...


if __name__ == "__main__":
    main()
