"""What class weights and the balanced sampler give where some classes have few images.

Fashion-MNIST, its training images thinned geometrically from 2,000 to 100 a class, 20:1; with each
seed other classes are rare. The test set has 1,000 images of each. `MNISTNet` of width 8, 6 epochs
of Adam on a cosine, batches of 64; a tenth of the thinned images validates.

    python tests/benchmarks/imbalance.py DATA      # the folder that has FashionMNIST/raw

Mean ± standard deviation over 5 seeds, in %, on the test set:

| | best epoch by | accuracy | macro F1 | worst recall |
|---|---|---|---|---|
| plain | val_loss | 68.6 ± 6.4 | 64.9 ± 7.4 | 2.2 ± 5.0 |
| plain | balanced accuracy | 69.0 ± 6.1 | 65.6 ± 6.8 | 2.5 ± 5.6 |
| model.class_weights: balanced | val_loss | 77.3 ± 1.2 | 76.2 ± 1.4 | 18.7 ± 5.8 |
| model.class_weights: balanced | balanced accuracy | 76.9 ± 1.5 | 75.8 ± 1.7 | 18.7 ± 6.1 |
| data.sampler: balanced | val_loss | 79.7 ± 0.7 | 78.9 ± 0.9 | 28.6 ± 5.4 |
| data.sampler: balanced | balanced accuracy | 79.5 ± 0.8 | 78.8 ± 1.1 | 28.6 ± 6.7 |

Which metric chooses the epoch makes no difference beyond the deviation; 10 images of the rarest
class validate. A run took 71 to 107 s on a machine with other work.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from machine import machine
from torch import Tensor
from torchmetrics.classification import MulticlassRecall

from classifier.cli.classifier_cli import ClassifierCLI
from classifier.cli.quiet import quiet
from classifier.data import FashionMNIST

SEEDS = range(5)
MOST, RATIO = 2000, 20
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "model.class_weights: balanced": ({"class_weights": "balanced"}, {}),
    "data.sampler: balanced": ({}, {"sampler": "balanced"}),
}
RECALL = "torchmetrics.classification.MulticlassRecall"


class Thinned(FashionMNIST):
    """Has fewer images of each class than of the one before; the first one is ``first``."""

    def __init__(self, first: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.first = first

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = super().load(train)
        if not train:
            return images, labels
        kept = []
        for place in range(10):
            label = (self.first + place) % 10
            number = round(MOST * RATIO ** (-place / 9))
            kept.append((labels == label).nonzero()[:number, 0])
        chosen = torch.cat(kept).sort().values
        return images[chosen], labels[chosen]


class WorstRecall(MulticlassRecall):
    """The recall of the class that has the least."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none")

    def compute(self) -> Tensor:
        return super().compute().min()


def config_of(way: str, seed: int, root: str) -> dict[str, Any]:
    model, data = WAYS[way]
    by_recall = {"monitor": "val_recall", "mode": "max", "dirpath": "by_recall"}
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.003}}
    cosine = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 6}}
    return {
        "seed_everything": seed,
        "trainer": {
            "max_epochs": 6,
            "callbacks": [{"class_path": "ModelCheckpoint", "init_args": by_recall}],
        },
        "model": {
            "network": {"class_path": "MNISTNet", "init_args": {"width": 8}},
            "optimizer": adam,
            "lr_scheduler": cosine,
            "metrics": {
                "recall": {"class_path": RECALL, "init_args": {"average": "macro"}},
                "worst_recall": {"class_path": "imbalance.WorstRecall"},
            },
            **model,
        },
        "data": {
            "class_path": "imbalance.Thinned",
            "init_args": {
                "root": root,
                "download": False,
                "batch_size": 64,
                "first": 3 * seed % 10,
                **data,
            },
        },
    }


def tested(way: str, seed: int, root: str) -> list[dict[str, float]]:
    """What the best epoch by val_loss, and that by the mean recall, measure on the test set."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        os.chdir(folder)
        cli = ClassifierCLI(args={"fit": config_of(way, seed, root)})
        (by_recall,) = Path("by_recall").glob("*.ckpt")
        found = []
        for path in (cli.run.best, by_recall):
            (metrics,) = cli.trainer.test(
                cli.model, datamodule=cli.datamodule, ckpt_path=str(path), verbose=False
            )
            found.append(dict(metrics))
        os.chdir("/")
    return found


def main() -> None:
    root = str(Path(sys.argv[1]).resolve())
    print(machine("torch", "pytorch-lightning"))
    print("| | best epoch by | accuracy | macro F1 | worst recall | seconds |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        began = time.perf_counter()
        runs = [tested(way, seed, root) for seed in SEEDS]
        seconds = (time.perf_counter() - began) / len(runs)
        for number, name in enumerate(("val_loss", "balanced accuracy")):
            cells = []
            for metric in ("test_accuracy", "test_f1", "test_worst_recall"):
                values = [100 * run[number][metric] for run in runs]
                cells.append(f"{mean(values):.1f} ± {stdev(values):.1f}")
            print(f"| {way} | {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
