"""Accuracy on photos over five folds: the recipe of configs/photos.yaml beside other ways.

    python tests/benchmarks/photos.py --ways recipe "frozen backbone" --out photos.md
    python tests/benchmarks/photos.py --ways timm fastai --timm train.py --peers ENVIRONMENT

The photos of each class are shared out over the folds by a hash of their names. Each fold is the
test set once; of the other four, the share of ``data.val_fraction`` chooses the best epoch, and
the rest is trained on. Compare the ways of a table only.
"""

import argparse
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

from machine import machine

from classifier.runs import read_metrics

PRODUCT = Path(__file__).parents[2]
CLASSIFIER = [sys.executable, "-m", "classifier"]
FOLDS = 5
WAYS = {
    "recipe": [],
    "frozen backbone": [
        "--model.groups=[{match: backbone, freeze: true}, {match: head, lr_scale: 10}]"
    ],
    "from scratch": ["--model.network.pretrained", "false", "--model.groups", "null"],
}
PEERS = ("timm", "fastai")  # timm's train.py and fastai's fine_tune, from the same weights


def main() -> None:
    """Trains each way on each fold and prints a Markdown table."""
    options = parse()
    found: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for fold in options.folds:
            link_fold(options.photos, fold, Path(name, str(fold)))
        for fold in options.folds:
            for way in options.ways:
                root = Path(name, str(fold))
                if way in PEERS:
                    result = train_peer(root, way, options)
                else:
                    result = train(root, [*WAYS[way], *options.words])
                found.setdefault(way, []).append(result)
                told = "val {:.4f}  test {:.4f}  {:.0f} CPU s".format(*result)
                print(f"fold {fold}  {way:16} {told}", flush=True)
    packages = machine("torch", "pytorch-lightning", "timm")
    text = "\n".join([f"{packages}\n\n    python {shlex.join(sys.argv)}\n", *table(found)]) + "\n"
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *PEERS], default=list(WAYS))
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    photos = PRODUCT.parent / "shared" / "data" / "trashnet-quarter"
    parser.add_argument("--photos", type=Path, default=photos, help="A folder per class.")
    parser.add_argument("--timm", type=Path, help="train.py of pytorch-image-models.")
    parser.add_argument("--peers", default=sys.executable, help="Python that has fastai.")
    parser.add_argument("--out", type=Path, help="Markdown file to write.")
    parser.add_argument("words", nargs="*", help="Further settings of all ways, behind --.")
    return parser.parse_args()


def link_fold(photos: Path, fold: int, root: Path) -> None:
    """Links the photos of a fold below ``test``, all others below ``train``."""
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        for number, path in enumerate(sorted(folder.iterdir(), key=hash_of)):
            target = root / ("test" if number % FOLDS == fold else "train") / folder.name
            target.mkdir(parents=True, exist_ok=True)
            (target / path.name).symlink_to(path)


def hash_of(path: Path) -> bytes:
    return hashlib.blake2b(f"0/{path.parent.name}/{path.name}".encode()).digest()


def train(root: Path, words: list[str]) -> tuple[float, float, float]:
    """Accuracy of the best epoch on validation and test photos, and the CPU seconds of the fit."""
    config = PRODUCT / "configs" / "photos.yaml"
    with tempfile.TemporaryDirectory() as name:
        before = os.times()
        run(["fit", "--config", str(config), f"--data.root={root}", *words], name)
        after = os.times()
        seconds = sum(after[2:4]) - sum(before[2:4])  # of children
        folder = next(Path(name, "runs").rglob("metrics.csv")).parent
        tested = run(["test", "--ckpt_path", str(folder)], name)
        rows = [row for row in read_metrics(folder) if row.get("val_loss")]
    best = min(rows, key=lambda row: float(row["val_loss"]))
    (accuracy,) = re.findall(r"accuracy\s+([\d.]+)", tested)
    return float(best["val_accuracy"]), float(accuracy), seconds


def train_peer(root: Path, way: str, options: argparse.Namespace) -> tuple[float, float, float]:
    """Likewise by another program."""
    words = [options.peers, str(Path(__file__).with_name(f"photos_{way}.py")), str(root)]
    words += ["--script", str(options.timm)] if way == "timm" else []
    before = os.times()
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": str(PRODUCT)}, capture_output=True, text=True
    )
    after = os.times()
    found = re.search(r"val ([\d.]+) test ([\d.]+)", done.stdout)
    if found is None:
        raise SystemExit(done.stdout + done.stderr)
    return float(found[1]), float(found[2]), sum(after[2:4]) - sum(before[2:4])


def run(words: list[str], folder: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(PRODUCT)}
    done = subprocess.run(
        [*CLASSIFIER, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def table(found: dict[str, list[tuple[float, float, float]]]) -> Iterator[str]:
    """A line for each way: mean and deviation over the folds."""
    yield "| | test accuracy of each fold | mean | CPU s a run |"
    yield "|---|---|---|---|"
    for way, results in found.items():
        tests = [100 * test for _, test, _ in results]
        spread = f" ± {stdev(tests) / len(tests) ** 0.5:.1f}" if len(tests) > 1 else ""
        shown = ", ".join(f"{value:.1f}" for value in tests)
        seconds = mean(result[2] for result in results)
        yield f"| {way} | {shown} | {mean(tests):.1f}{spread} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
