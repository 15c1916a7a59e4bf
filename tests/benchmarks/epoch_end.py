"""Times what a training does between two epochs, besides its steps and validation batches.

ResNet9 with momentum, whose checkpoint has 50 MiB, on Digits, an epoch a step:

    python tests/benchmarks/epoch_end.py
"""

import os
import tempfile
import time
from statistics import median

from machine import machine
from pytorch_lightning.callbacks import Callback

from classifier.cli.classifier_cli import ClassifierCLI
from classifier.cli.quiet import quiet

FIT = (
    "fit --data Digits --data.batch_size 16 --model.network ResNet9 --model.optimizer SGD "
    "--model.optimizer.lr 0.01 --model.optimizer.momentum 0.9 --trainer.max_epochs 20 "
    "--trainer.limit_train_batches 1 --trainer.limit_val_batches 1"
)


class Gap(Callback):
    """Notes the seconds from the last step of an epoch to the first of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.ended = self.validated = self.began = 0.0

    def on_train_batch_start(self, *_) -> None:
        if self.ended:
            self.seconds.append(time.perf_counter() - self.ended - self.validated)

    def on_train_batch_end(self, *_) -> None:
        self.ended = time.perf_counter()

    def on_validation_batch_start(self, *_) -> None:
        self.began = time.perf_counter()

    def on_validation_batch_end(self, *_) -> None:
        self.validated = time.perf_counter() - self.began


def main() -> None:
    gap = Gap()
    with tempfile.TemporaryDirectory() as folder, quiet():
        os.chdir(folder)
        ClassifierCLI(args=FIT.split(), trainer_defaults={"callbacks": [gap]})
        os.chdir("/")
    milliseconds = [1000 * seconds for seconds in gap.seconds]
    print(machine("torch", "pytorch-lightning"))
    print(f"end of an epoch: median {median(milliseconds):.0f} ms, least {min(milliseconds):.0f}")


if __name__ == "__main__":
    main()
