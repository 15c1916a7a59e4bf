"""How fast ``classifier search`` trains many short trials, beside other ways to train them.

    python tests/benchmarks/search_speed.py --rounds 3

The same configs, of about a second of training each, two at a time on one thread each, from the
start of the command to its exit:

    search      classifier search
    xargs       classifier fit for each config, xargs -P2
    ray-reuse   Ray Tune, trials in processes that are used again; needs pip install 'ray[tune]'
    ray         Ray Tune as it comes, a new process for each trial

The ways take turns. Each has to arrive at the same accuracies to the last digit. Times depend on
what else the machine does, so compare ratios only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import median

from machine import machine

from classifier.runs import best_value, read_metrics
from classifier.search.study import Study

PACKAGES = ("torch", "pytorch-lightning", "optuna", "ray")
TRIALS = 8
CLASSIFIER = [sys.executable, "-m", "classifier"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
WAYS = {
    "search": "`classifier search`, 2 workers",
    "xargs": "`xargs -P2 classifier fit`",
    "ray-reuse": "Ray Tune, actors reused",
    "ray": "Ray Tune, default",
}
BASE = """\
hyperparameters:
  lr: &lr 0.003
seed_everything: 0
trainer:
  max_epochs: {epochs}
model:
  network:
    class_path: classifier.networks.MNISTNet
  optimizer:
    class_path: torch.optim.Adam
    init_args:
      lr: *lr
data:
  class_path: classifier.data.Digits
  init_args:
    batch_size: 32
    val_fraction: 0.2
"""
# Neither the sampler nor the pruner looks at results, so that the configs are known beforehand.
SEARCH = f"""\
base: base.yaml
monitor: val_accuracy
n_trials: {TRIALS}
space:
  lr: {{low: 3.0e-4, high: 3.0e-3, log: true}}
sampler: RandomSampler
pruner: null
workers: 2
"""


def main() -> None:
    """Runs all ways in turns and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="Of a trial; 0.3 s each. (3)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    walls: dict[str, list[float]] = {way: [] for way in options.ways}
    before: list[float] = []
    overheads: dict[str, list[float]] = {"first": [], "later": []}
    with tempfile.TemporaryDirectory() as name:
        configs = write_configs(Path(name), options.epochs)
        for number in range(options.rounds):
            turn = number % len(options.ways)
            for way in options.ways[turn:] + options.ways[:turn]:
                folder = Path(name, f"{way}-{number}")
                folder.mkdir()
                load = os.getloadavg()[0]
                started = time.time()
                run(way, configs, folder)
                walls[way].append(time.time() - started)
                check(folder, configs)
                if way == "search":
                    waited, first, later = took(folder / "search", started)
                    before.append(waited)
                    overheads["first"] += first
                    overheads["later"] += later
                print(
                    f"round {number}  {way:9}  {walls[way][-1]:5.1f} s  load {load:.1f}", flush=True
                )
                shutil.rmtree(folder)
    print_results(walls, before, overheads)


def write_configs(folder: Path, epochs: int) -> list[Path]:
    """Writes the search file, and the config of each trial as ``--dry_run`` does."""
    (folder / "base.yaml").write_text(BASE.format(epochs=epochs))
    (folder / "search.yaml").write_text(SEARCH)
    options = ["--config", "search.yaml", "--folder", "dry", "--dry_run", str(TRIALS)]
    call([*CLASSIFIER, "search", *options], folder)
    return sorted((folder / "dry" / "dry_run").glob("*.yaml"))


def run(way: str, configs: Sequence[Path], folder: Path) -> None:
    """Trains all configs, each into a run folder of its own below ``folder``."""
    if way == "search":
        call([*CLASSIFIER, "search", "--config", "../search.yaml", "--folder", "search"], folder)
    elif way == "xargs":
        listed = "\n".join(map(str, configs))
        call(["xargs", "-P2", "-I{}", *CLASSIFIER, "fit", "--config", "{}"], folder, listed)
    else:
        script = str(Path(__file__).with_name("ray_tune.py"))
        reuse = ["--reuse_actors"] if way == "ray-reuse" else []
        call([sys.executable, script, *reuse, "--folder", str(folder), *map(str, configs)], folder)


def call(command: Sequence[str], folder: Path, text: str = "") -> None:
    """Runs a command in a folder; shows what it printed only if it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")


def check(folder: Path, configs: Sequence[Path]) -> None:
    """Makes sure that every config was trained, by each way with the same result."""
    values = {}
    for record in folder.rglob("run.json"):
        number = json.loads(record.read_text())["name"][-4:]
        values[number] = best_value(read_metrics(record.parent), "val_accuracy", "maximize")
    known = configs[0].parent / "values.json"
    if not known.exists():
        known.write_text(json.dumps(values))
    assert len(values) == len(configs), values
    assert values == json.loads(known.read_text()), (values, known.read_text())
    for config in configs:
        trial = folder / "search" / "trials" / config.stem / "trial.yaml"
        assert not trial.exists() or trial.read_text() == config.read_text()


def took(search: Path, started: float) -> tuple[float, list[float], list[float]]:
    """How long a search did anything but train, in seconds.

    Returns:
        From the start of the command to its first trial; the overheads of each worker's first
        trial, which waits for the import of torch; those of its other trials. The overhead is the
        time from taking to noting the trial without that of its epochs.
    """
    study = Study.of(search)
    trials = study.trials()
    begins = [trial.datetime_start or datetime.max for trial in trials]
    overheads: dict[str, list[float]] = {}
    for trial in trials:
        wall = (trial.datetime_complete - trial.datetime_start).total_seconds()
        record = json.loads((study.trial_folder(trial.number) / "run.json").read_text())
        overheads.setdefault(trial.user_attrs["worker"]["id"], []).append(wall - record["seconds"])
    first = [those[0] for those in overheads.values()]
    later = [one for those in overheads.values() for one in those[1:]]
    return min(begins).timestamp() - started, first, later


def print_results(
    walls: dict[str, list[float]], before: list[float], overheads: dict[str, list[float]]
) -> None:
    """Prints medians, and the ratios to ``classifier search`` round by round."""
    searched = walls.get("search", [])
    print(f"\n{machine(*PACKAGES)}\n")
    print("| way | seconds, median | min .. max | times as long as `search`, median (min .. max) |")
    print("|---|---|---|---|")
    for way, seconds in walls.items():
        ratios = [other / own for other, own in zip(seconds, searched, strict=bool(searched))]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})" if ratios else ""
        spread = f"{min(seconds):.1f} .. {max(seconds):.1f}"
        print(f"| {WAYS[way]} | {median(seconds):.1f} | {spread} | {ratio} |")
    if searched:
        print(
            f"\nOf the search: {median(before):.1f} s until the first trial; overhead of a trial "
            f"{median(overheads['later']):.2f} s (median of {len(overheads['later'])}, "
            f"{min(overheads['later']):.2f} .. {max(overheads['later']):.2f}), of each worker's "
            f"first {median(overheads['first']):.1f} s."
        )


if __name__ == "__main__":
    main()
