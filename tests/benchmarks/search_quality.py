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
import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from machine import machine
from optuna.storages.journal import JournalFileBackend

from classifier.search.launch import run
from classifier.search.settings import parse

PACKAGES = ("torch", "pytorch-lightning", "optuna")
EPOCHS = 8  # of a trial
BUDGET = 320  # epochs of a search: 40 trials of which none is stopped early
TARGET = 0.959  # accuracy on the 863 validation images, which one in twenty random configs reaches
PILOT_SEED = 1000
METHODS = {
    "random search": ["--sampler", "RandomSampler", "--pruner", "null"],
    "TPE": ["--sampler", "TPESampler", "--pruner", "null"],
    "TPE, MedianPruner (default)": ["--sampler", "TPESampler"],
}
BASE = f"""\
hyperparameters:
  epochs: &epochs {EPOCHS}
  lr: &lr 0.0001
  momentum: &momentum 0.0
  weight_decay: &weight_decay 0.1
  batch_size: &batch_size 256
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
  batch_size: [32, 64, 128, 256]
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
        found: dict[str, list[Search]] = {method: [] for method in METHODS}
        for seed in range(options.seeds):
            for number, (method, given) in enumerate(METHODS.items()):
                search = run_search(folder, f"{number}-{seed}", [*given, f"--sampler.seed={seed}"])
                found[method].append(search)
                print(f"seed {seed}  {method:28}  {search}", flush=True)
    print_results(found)


def pilot(folder: Path) -> None:
    """Shows the accuracies of random configs; the target is what one in twenty of them reaches."""
    given = [*METHODS["random search"], f"--sampler.seed={PILOT_SEED}"]
    search = run_search(folder, "pilot", given, 60 * EPOCHS)
    best = sorted(search.trials, reverse=True)
    print("best epochs of random configs:", *(f"{value:.3f}" for value in best))
    print(f"one in twenty reaches {best[len(best) // 20 - 1]:.4f}")


class Search(NamedTuple):
    """A search as it went.

    Attributes:
        epochs: The best accuracy so far after each epoch of any trial.
        trials: The best accuracy of each trial.
    """

    epochs: list[float]
    trials: list[float]

    @property
    def to_target(self) -> int:
        """Epochs until the target is reached; the whole budget if it never is."""
        reached = [done for done, best in enumerate(self.epochs, start=1) if best >= TARGET]
        return min(reached, default=BUDGET)

    def __str__(self) -> str:
        half, end = self.epochs[BUDGET // 2 - 1], self.epochs[-1]
        return (
            f"target after {self.to_target:3} epochs, best {half:.4f} at half the budget, "
            f"{end:.4f} at its end, {len(self.trials)} trials"
        )


def run_search(folder: Path, name: str, given: Sequence[str], budget: int = BUDGET) -> Search:
    """Searches with two workers until all trials together have trained so many epochs."""
    place = folder / name
    options = [f"--config={folder / 'search.yaml'}", f"--folder={place}", f"--n_trials={budget}"]
    settings = parse([*options, *given])
    over = threading.Event()
    watch = threading.Thread(target=stop_at, args=(budget, place, over))
    with contextlib.redirect_stdout(io.StringIO()) as told:
        watch.start()
        code = run(settings)
    over.set()
    watch.join()
    if code != 128 + signal.SIGTERM:
        raise SystemExit(f"{told.getvalue()}\nexit code {code}")
    counted = measured(place)[:budget]
    trials: dict[int, float] = {}
    for trial, value in counted:
        trials[trial] = max(trials.get(trial, 0.0), value)
    epochs = accumulate((value for _, value in counted), max)
    return Search(list(epochs), list(trials.values()))


def stop_at(budget: int, folder: Path, over: threading.Event) -> None:
    """Stops the search of this process, as Ctrl-C would, when it has trained so many epochs."""
    while not over.wait(0.5):
        if (folder / "journal.log").exists() and len(measured(folder)) >= budget:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def measured(folder: Path) -> list[tuple[int, float]]:
    """The epochs of all trials in the order in which they ended: which trial, and its accuracy."""
    notes = JournalFileBackend(str(folder / "journal.log")).read_logs(0)
    name = "intermediate_value"
    return [(note["trial_id"], note[name]) for note in notes if name in note]


def print_results(found: dict[str, list[Search]]) -> None:
    """Prints means and standard deviations over the seeds, and how many seeds each method won."""
    rounds = list(zip(*found.values(), strict=True))
    print(f"\n{machine(*PACKAGES)}; {len(rounds)} seeds, {BUDGET} epochs each, target {TARGET}\n")
    print(
        "| method | epochs to target | reached | soonest | best at half the budget | best | "
        "highest | trials |\n|---|---|---|---|---|---|---|---|"
    )
    for number, (method, searches) in enumerate(found.items()):
        soonest = sum(
            own[number].to_target == min(search.to_target for search in own) for own in rounds
        )
        highest = sum(
            own[number].epochs[-1] == max(search.epochs[-1] for search in own) for own in rounds
        )
        reached = sum(search.epochs[-1] >= TARGET for search in searches)
        columns = [
            method,
            spread([search.to_target for search in searches], ".0f"),
            f"{reached} of {len(searches)}",
            str(soonest),
            spread([search.epochs[BUDGET // 2 - 1] for search in searches], ".4f"),
            spread([search.epochs[-1] for search in searches], ".4f"),
            str(highest),
            f"{fmean(len(search.trials) for search in searches):.0f}",
        ]
        print(f"| {' | '.join(columns)} |")


def spread(values: Sequence[float], form: str) -> str:
    """Mean and sample standard deviation."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{fmean(values):{form}} ± {deviation:{form}}"


if __name__ == "__main__":
    main()
