"""How fast ``classifier fit`` trains, beside bare PyTorch, plain Lightning and other libraries.

    python tests/benchmarks/training_speed.py --rounds 5 --out results.md
    python tests/benchmarks/training_speed.py --work photos --tasks training prediction

Every way does the same work: data, network, batch size, Adam, number of steps, no augmentation.

    ours               classifier fit, defaults on: metrics, checkpoints, TensorBoard, record
    tuned              the same with a second --config: one of --overlays or, without, a fused
                       optimizer and the precision and memory format that train fastest
    bare               a bare PyTorch loop over uint8 images in memory, float32
    limit              the fastest bare loop: precision, memory format, fused optimizer
    lightning          a plain LightningCLI program: torchvision's data set, Pillow, self.log
    lightning-workers  the same with two workers
    timm, torchvision  their train.py with two workers; need --timm and --torchvision
    fastai, keras      need --peers

The tasks: training (the epochs after the first, without validation), evaluation (on the test split)
and prediction (of a folder of photos) in images a second; help (``fit --help``) and startup (a
training of one step) in seconds; accuracy: on the test images of MNIST after eight epochs, with the
seconds from the start of the command until it was 99 % first, another seed each round.

The ways take turns, each in a new process. Times depend on what else the machine does, so compare
ratios only: they are taken round by round.

In memory are MNIST and CIFAR for ours and fastai's and Keras's arrays, everything for bare and
limit; other ways open the files in each epoch, and all do for prediction. torchvision's train.py
always crops and flips at random.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from machine import machine
from training.layout import link_photos, unpack_cifar
from training.ways import (
    PROGRAMS,
    TITLES,
    WAYS,
    Job,
    Setup,
    SkippedError,
    bare_loop,
    ours,
)
from training.works import WORKS

from classifier.runs import read_metrics

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics")
PRODUCT = Path(__file__).parents[2]
TASKS = ("training", "evaluation", "prediction", "help", "startup", "accuracy")
TIMED = ("help", "startup")
"""Of these the seconds count, of the others the images a second."""
TARGET = 0.99


@dataclass
class Result:
    """What one process of a way took."""

    started: float
    """Time of the clock."""
    wall: float
    """Seconds from the start of the command to its exit."""
    memory: float
    """Resident memory of its largest process, in MiB."""
    said: dict[str, Any]
    """``seconds``, ``note``, ``accuracies`` and ``times``."""

    def figure(self, job: Job) -> float:
        """Images a second; for tasks that have none, the seconds that count."""
        if job.task in TIMED:
            return self.wall
        if job.task == "accuracy":
            return self.seconds_to_target()
        seconds = self.said["seconds"]
        if job.task in ("evaluation", "prediction"):
            return job.work.test_images / seconds[-1]
        return job.steps * job.work.batch_size / median(seconds[1:])

    def seconds_to_target(self) -> float:
        """Seconds from the start to the first epoch of that accuracy, infinite if there is none."""
        epochs = zip(self.said["accuracies"], self.said["times"], strict=True)
        reached = [time for accuracy, time in epochs if accuracy >= TARGET]
        return min(reached, default=math.inf) - self.started


Results = dict[str, list[Result]]


def main() -> None:
    """Runs all ways in turns and prints Markdown tables."""
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        setup = Setup(Path(name), options)
        for work in options.work:
            prepare(setup, work)
        command = shlex.join(["python", *sys.argv])
        tables = [f"{machine(*PACKAGES)}, {options.threads} thread(s) each\n\n    {command}"]
        for task in options.tasks:
            jobs = [Job(task, work) for work in works_of(task, options.work)]
            tables += [measure(setup, job) for job in jobs]
    text = "\n\n".join(tables) + "\n"
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS[:1]))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--base", choices=WAYS, default="bare", help="What ratios refer to. (bare)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="Of each process. (1)")
    parser.add_argument(
        "--data",
        type=Path,
        default=PRODUCT.parent / "shared" / "data",
        help="Folder with MNIST/raw, cifar10-jpg.tar.gz and photos. (../shared/data)",
    )
    photos = "Folder of the photos, in class folders, in --data. (trashnet-quarter)"
    parser.add_argument("--photos", default="trashnet-quarter", help=photos)
    parser.add_argument("--overlays", type=Path, help="Folder with WORK.yaml for the way tuned.")
    parser.add_argument("--timm", type=Path, help="train.py of pytorch-image-models.")
    parser.add_argument("--torchvision", type=Path, help="references/classification/train.py.")
    parser.add_argument("--peers", help="Python of an environment with fastai and keras.")
    parser.add_argument("--out", type=Path, help="Markdown file to write.")
    options = parser.parse_args()
    for name in ("data", "overlays", "timm", "torchvision"):
        if getattr(options, name):
            setattr(options, name, getattr(options, name).absolute())
    return options


def works_of(task: str, works: Sequence[str]) -> Sequence[str]:
    """The works that have a task: prediction is of photos, accuracy and start-up of MNIST."""
    only = {"prediction": "photos", "accuracy": "mnist", "help": "mnist", "startup": "mnist"}
    return [work for work in works if only.get(task, work) == work]


def prepare(setup: Setup, work: str) -> None:
    """Lays out the data of a work, finds its fastest settings, and trains a checkpoint."""
    if work == "cifar":
        unpack_cifar(setup.options.data / "cifar10-jpg.tar.gz", setup.root(work))
    elif work == "photos":
        link_photos(setup.options.data / setup.options.photos, setup.root(work))
    folder = setup.folder / f"prepare-{work}"
    folder.mkdir()
    command = bare_loop(setup, Job("choice", work), [])
    setup.chosen[work] = call(command, folder, setup).said
    print(f"{work}: fastest with {settings(setup.chosen[work])}", flush=True)
    if {"evaluation", "prediction"} & {*setup.options.tasks}:
        call(ours(setup, Job("startup", work)), folder, setup)
        (checkpoint,) = folder.rglob("last.ckpt")
        checkpoint.rename(setup.folder / f"{work}.ckpt")


def settings(chosen: dict[str, Any]) -> str:
    """The fastest settings in words."""
    return chosen["precision"] + (", channels_last" if chosen["channels_last"] else "")


# ---- measuring ----


def measure(setup: Setup, job: Job) -> str:
    """Runs all ways in turns; returns the table."""
    results: Results = defaultdict(list)
    skipped: dict[str, str] = {}
    for number in range(setup.options.rounds):
        for way in turn(setup.options.ways, number):
            if way in skipped:
                continue
            try:
                results[way].append(run(setup, way, job, number))
            except SkippedError as reason:
                skipped[way] = str(reason)
                results.pop(way, None)
                shutil.rmtree(setup.folder / "now", ignore_errors=True)
    ordered = {way: results[way] for way in setup.options.ways if way in results}
    lines = (
        accuracies(ordered)
        if job.task == "accuracy"
        else list(rows(ordered, job, setup.options.base))
    )
    lines += ["", f"Fastest settings of the bare loop: {settings(setup.chosen[job.name])}."]
    lines += [f"Without {TITLES[way]}: {reason}." for way, reason in skipped.items()]
    return "\n".join([f"### {job.task}: {job.work.title}", "", *lines])


def turn(ways: Sequence[str], number: int) -> Sequence[str]:
    """The ways, each round beginning with another one."""
    start = number % len(ways)
    return [*ways[start:], *ways[:start]]


def run(setup: Setup, way: str, job: Job, number: int) -> Result:
    """Runs one way in an empty folder."""
    if job.task == "accuracy":
        job = Job(job.task, job.name, seed=number)
    command = WAYS[way](setup, job)
    folder = setup.folder / "now"
    folder.mkdir()
    load = os.getloadavg()[0]
    result = call(command, folder, setup)
    if way in ("ours", "tuned") and job.task == "training":
        result.said |= read_run(folder)
    shutil.rmtree(folder)
    print(
        f"round {number}  {job.name:6} {job.task:10} {way:17} {result.figure(job):10.2f}  "
        f"{result.wall:5.1f} s  load {load:.1f}",
        flush=True,
    )
    return result


def call(command: Sequence[str], folder: Path, setup: Setup) -> Result:
    """Runs a command in a folder; shows what it printed only if it fails.

    Raises:
        SkippedError: It failed.
    """
    paths = [str(PRODUCT), str(PROGRAMS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment["OMP_NUM_THREADS"] = str(setup.options.threads)
    printed = folder / "printed.txt"
    with printed.open("w") as output:
        started = time.time()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)  # unlike communicate, it tells the memory
        wall = time.time() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(f"{shlex.join(command)}\n{printed.read_text()}", file=sys.stderr)
        raise SkippedError(f"its command failed with exit code {process.returncode}")
    reports = [line for line in printed.read_text().splitlines() if line.startswith('{"seconds"')]
    said = json.loads(reports[-1]) if reports else {}
    return Result(started, wall, usage.ru_maxrss / 1024, said)


def read_run(folder: Path) -> dict[str, Any]:
    """The seconds of the epochs from the run that ``classifier fit`` kept."""
    (metrics,) = folder.rglob("metrics.csv")
    return {"seconds": [float(row["seconds"]) for row in read_metrics(metrics.parent)]}


# ---- printing ----


def rows(results: Results, job: Job, base: str) -> Iterator[str]:
    """The table of figures; ratios to the way ``base`` are taken round by round."""
    unit = "seconds" if job.task in TIMED else "images/s"
    yield (
        f"| way | {unit}, median (min .. max) | as a multiple of {TITLES[base]} | "
        "whole command, s | memory, MiB |"
    )
    yield "|---|---|---|---|---|"
    others = [result.figure(job) for result in results.get(base, [])]
    for way, those in results.items():
        figures = [result.figure(job) for result in those]
        ratios = [own / other for own, other in zip(figures, others, strict=bool(others))]
        version = next((f", {r.said['note']}" for r in those if r.said.get("note")), "")
        yield (
            f"| {TITLES[way]}{version} | {spread(figures)} | {spread(ratios) if ratios else ''} | "
            f"{median(r.wall for r in those):.1f} | {median(r.memory for r in those):.0f} |"
        )


def spread(values: Sequence[float]) -> str:
    """Median and range, with three significant digits."""
    middle, low, high = (rounded(value) for value in (median(values), min(values), max(values)))
    return f"{middle} ({low} .. {high})"


def rounded(value: float) -> str:
    """A number without needless digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def accuracies(results: Results) -> list[str]:
    """The table of final accuracies and of the time to the target."""
    lines = [
        "| way | test accuracy at the end, mean ± sd (seeds) "
        f"| seconds to {TARGET:.0%}, mean (seeds) |",
        "|---|---|---|",
    ]
    for way, those in results.items():
        final = [100 * result.said["accuracies"][-1] for result in those]
        deviation = f" ± {stdev(final):.2f}" if len(final) > 1 else ""
        listed = ", ".join(f"{value:.2f}" for value in final)
        times = [result.seconds_to_target() for result in those]
        seconds = [f"{value:.0f}" if math.isfinite(value) else "never" for value in times]
        average = f"{mean(times):.0f}" if math.isfinite(mean(times)) else "not always"
        lines.append(
            f"| {TITLES[way]} | {mean(final):.2f}{deviation} % ({listed}) "
            f"| {average} ({', '.join(seconds)}) |"
        )
    return lines


if __name__ == "__main__":
    main()
