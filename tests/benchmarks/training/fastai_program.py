"""fastai as its users run it: image files through its own loaders, ``Learner.fit``.

    python fastai_program.py --work cifar --root DATA --steps 15 --epochs 2

MNIST comes as arrays, which fastai does not open itself: they go through its ``DataLoader``.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore", category=FutureWarning)

import fastai  # noqa: E402
from fastai.vision import all as vision  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402
from works import RATE, WORKS, Work, build, load, report  # noqa: E402


class Epochs(vision.Callback):  # type: ignore[misc]
    """Takes the time of each training epoch, and notes the accuracy after it."""

    order = vision.Recorder.order + 1

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.accuracies: list[float] = []
        self.times: list[float] = []

    def before_train(self) -> None:
        """Starts to count."""
        self.started = time.perf_counter()

    def after_train(self) -> None:
        """Notes how long it took."""
        self.seconds.append(time.perf_counter() - self.started)

    def after_epoch(self) -> None:
        """Notes the accuracy on the validation images."""
        self.accuracies.append(float(self.recorder.values[-1][-1]))
        self.times.append(time.time())


def main() -> None:
    """Trains and reports the seconds of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", action="store_true", help="After each epoch, of MNIST.")
    options = parser.parse_args()
    vision.set_seed(options.seed)
    work = WORKS[options.work]
    loaders = array_loaders(work, options) if work.is_mnist else folder_loaders(work, options)
    epochs = Epochs()
    learner = vision.Learner(
        loaders,
        build(work),
        loss_func=vision.CrossEntropyLossFlat(),
        opt_func=vision.Adam,
        lr=RATE,
        metrics=vision.accuracy,
        cbs=epochs,
    )
    learner.fit(options.epochs)
    note = f"fastai {fastai.__version__}"
    report(epochs.seconds, note, accuracies=epochs.accuracies, times=epochs.times)


def folder_loaders(work: Work, options: argparse.Namespace) -> Any:
    """Image files, resized and cropped one by one, normalised by the batch."""
    return vision.ImageDataLoaders.from_folder(
        options.root,
        train="train",
        valid="val",
        item_tfms=vision.Resize(work.image_size),
        batch_tfms=vision.Normalize.from_stats(work.mean, work.std),
        bs=work.batch_size,
        num_workers=options.workers,
    )


def array_loaders(work: Work, options: argparse.Namespace) -> Any:
    """Normalised images in memory, of which as many batches as steps are asked for are an epoch."""
    number = options.steps * work.batch_size
    return vision.DataLoaders.from_dsets(
        normalised(work, options.root, "train", number),
        normalised(work, options.root, "test", None if options.test else work.batch_size),
        bs=work.batch_size,
        num_workers=options.workers,
    )


def normalised(work: Work, root: Path, split: str, number: int | None) -> TensorDataset:
    """The first ``number`` images of a split, or all."""
    images, labels = load(work, root, split)
    inputs = (images[:number].float() / 255 - work.mean[0]) / work.std[0]
    return TensorDataset(inputs, labels[:number])


if __name__ == "__main__":
    main()
