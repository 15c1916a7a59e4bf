"""Seconds of an epoch by the number of threads and how they wait, on an idle and a busy machine.

    python tests/benchmarks/threads.py --rounds 3 --out threads.md

The ways take turns, each in a new process of ``classifier fit``:

    ours        nothing is set: the rule of classifier/cli/threads.py
    sleep       all processors, threads sleep while they wait
    spin        all processors, threads spin while they wait: what OpenMP does by itself
    one thread  ``OMP_NUM_THREADS=1``

A busy machine has one more process, which computes all the time. Of the larger works an epoch is
a part of the set. Compare the ways of a line only.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from machine import machine
from training.layout import link_photos, unpack_cifar
from training.ways import CLASSIFIER, PROGRAMS, Job, Setup, ours
from training.works import WORKS

from classifier.runs import read_metrics

PRODUCT = Path(__file__).parents[2]
ALL = {"OMP_NUM_THREADS": str(os.cpu_count())}
WAYS = {
    "ours": {},
    "sleep": {**ALL, "OMP_WAIT_POLICY": "PASSIVE"},
    "spin": {**ALL, "GOMP_SPINCOUNT": "300000"},  # libgomp's own, where nothing is set
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LOADS = {"idle": 0, "busy": 1}  # processes beside
SHARES = {"mnist": 0.3, "mlp": 0.5, "cifar": 0.2, "photos": 0.25}  # of an epoch
DIGITS = ["fit", "--config", str(PRODUCT / "configs" / "digits.yaml"), "--trainer.max_epochs", "4"]


def main() -> None:
    """Runs all ways by turns and prints a Markdown table."""
    options = parse()
    seconds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        setup = Setup(Path(name), options)
        commands = {work: command(setup, work) for work in options.work}
        for number in range(options.rounds):
            for work in options.work:
                for load in LOADS:
                    first = number % len(WAYS)
                    for way in [*WAYS][first:] + [*WAYS][:first]:
                        took = run(commands[work], WAYS[way], LOADS[load])
                        seconds[work, load, way].append(took)
                        print(f"round {number}  {work:7} {load}  {way:10} {took:.2f} s", flush=True)
    packages = machine("torch", "pytorch-lightning")
    lines = [
        f"{packages}, n = {options.rounds}\n\n    python {shlex.join(sys.argv)}\n",
        *table(seconds),
    ]
    text = "\n".join(lines) + "\n"
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    works = ["digits", *WORKS]
    parser.add_argument("--work", nargs="+", choices=works, default=works)
    parser.add_argument("--rounds", type=int, default=3)
    data = PRODUCT.parent / "shared" / "data"
    help_text = "Folder with MNIST/raw, cifar10-jpg.tar.gz and trashnet-quarter. (../shared/data)"
    parser.add_argument("--data", type=Path, default=data, help=help_text)
    parser.add_argument("--out", type=Path, help="Markdown file to write.")
    return parser.parse_args()


def command(setup: Setup, work: str) -> list[str]:
    """The training of a work, whose data is laid out."""
    if work == "digits":
        return [*CLASSIFIER, *DIGITS]
    if work == "cifar":
        unpack_cifar(setup.options.data / "cifar10-jpg.tar.gz", setup.root(work))
    elif work == "photos":
        link_photos(setup.options.data / "trashnet-quarter", setup.root(work))
    share = ["--trainer.limit_train_batches", str(SHARES[work])]
    return [*ours(setup, Job("training", work)), "--trainer.max_epochs", "4", *share]


def run(words: list[str], way: dict[str, str], load: int) -> float:
    """The median seconds of the epochs after the first."""
    paths = os.pathsep.join(map(str, (PRODUCT, PROGRAMS)))
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "KMP_", "GOMP_"))
    }
    environment |= {**way, "PYTHONPATH": paths}
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
        finally:
            for process in beside:
                process.kill()
                process.wait()
        (metrics,) = Path(folder).rglob("metrics.csv")
        rows = read_metrics(metrics.parent)
    return median([float(row["seconds"]) for row in rows if row.get("seconds")][1:])


def table(seconds: dict[tuple[str, str, str], list[float]]) -> list[str]:
    """A line for each work and load: medians, and how many times the best of the line."""
    lines = [f"| | {' | '.join(WAYS)} |", f"|---{'|---' * len(WAYS)}|"]
    for work, load in dict.fromkeys((work, load) for work, load, _ in seconds):
        medians = [median(seconds[work, load, way]) for way in WAYS]
        cells = [f"{value:.2f} s ({value / min(medians):.2f})" for value in medians]
        lines.append(f"| {work}, {load} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
