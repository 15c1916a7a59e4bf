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
    """Takes the time of each training epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def before_train(self) -> None:
        """Starts to count."""
        self.started = time.perf_counter()

    def after_train(self) -> None:
        """Notes how long it took."""
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    """Trains and reports the seconds of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    work = WORKS[options.work]
    loaders = array_loaders if work.is_mnist else folder_loaders
    epochs = Epochs()
    learner = vision.Learner(
        loaders(work, options.root, options.steps, options.workers),
        build(work),
        loss_func=vision.CrossEntropyLossFlat(),
        opt_func=vision.Adam,
        lr=RATE,
        metrics=vision.accuracy,
        cbs=epochs,
    )
    learner.fit(options.epochs)
    report(epochs.seconds, f"fastai {fastai.__version__}")


def folder_loaders(work: Work, root: Path, steps: int, workers: int) -> Any:
    """Image files, resized and cropped one by one, normalised by the batch."""
    return vision.ImageDataLoaders.from_folder(
        root,
        train="train",
        valid="val",
        item_tfms=vision.Resize(work.image_size),
        batch_tfms=vision.Normalize.from_stats(work.mean, work.std),
        bs=work.batch_size,
        num_workers=workers,
    )


def array_loaders(work: Work, root: Path, steps: int, workers: int) -> Any:
    """Normalised images in memory, of which ``steps`` batches are an epoch."""
    images, labels = load(work, root, "train")
    inputs = (images.float() / 255 - work.mean[0]) / work.std[0]
    number = steps * work.batch_size
    return vision.DataLoaders.from_dsets(
        TensorDataset(inputs[:number], labels[:number]),
        TensorDataset(inputs[-work.batch_size :], labels[-work.batch_size :]),
        bs=work.batch_size,
        num_workers=workers,
    )


if __name__ == "__main__":
    main()
