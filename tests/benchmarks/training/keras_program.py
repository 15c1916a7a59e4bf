"""Keras 3 on PyTorch: arrays in memory, ``Model.fit``; its own layers, equal to those of the work.

KERAS_BACKEND=torch python keras_program.py --work mnist --root DATA --steps 100 --epochs 2
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import layers
from works import RATE, WORKS, Work, load, report


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Takes the time of each training epoch, and notes the accuracy after it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.accuracies: list[float] = []
        self.times: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts to count."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes how long it took."""
        self.seconds.append(time.perf_counter() - self.started)
        if logs and "val_accuracy" in logs:
            self.accuracies.append(logs["val_accuracy"])
            self.times.append(time.time())


def main() -> None:
    """Trains and reports the seconds of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", choices=NETWORKS, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", action="store_true", help="After each epoch.")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    work = WORKS[options.work]
    number = options.steps * work.batch_size
    pixels, labels = arrays(work, options.root, "train")
    size = (work.image_size, work.image_size, work.channels)
    inputs = keras.Input(size, dtype="uint8")
    normalised = layers.Rescaling(
        [1 / (255 * std) for std in work.std],
        [-mean / std for mean, std in zip(work.mean, work.std, strict=True)],
    )(inputs)
    model = keras.Model(inputs, NETWORKS[options.work](normalised))
    model.compile(
        optimizer=keras.optimizers.Adam(RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    epochs = Epochs()
    model.fit(
        pixels[:number],
        labels[:number],
        validation_data=arrays(work, options.root, "test") if options.test else None,
        batch_size=work.batch_size,
        epochs=options.epochs,
        callbacks=[epochs],
        verbose=2,
    )
    note = f"Keras {keras.__version__}"
    report(epochs.seconds, note, accuracies=epochs.accuracies, times=epochs.times)


def arrays(work: Work, root: Path, split: str) -> tuple[Any, Any]:
    """Images, uint8 ``(N, H, W, C)``, and labels ``(N,)``."""
    images, labels = load(work, root, split)
    return images.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy()


def mnist_net(images: Any) -> Any:
    """``classifier.networks.MNISTNet``."""
    work = WORKS["mnist"]
    width, dropout = work.arguments["width"], work.arguments["dropout"]
    for factor in (1, 2, 4):
        images = layers.Conv2D(factor * width, 3, padding="same", use_bias=False)(images)
        if factor < 4:
            images = layers.MaxPooling2D()(images)
        images = layers.ReLU()(layers.BatchNormalization()(images))
    features = layers.Dropout(dropout / 2)(layers.GlobalMaxPooling2D()(images))
    hidden = layers.Dropout(dropout)(layers.Dense(128, activation="relu")(features))
    return layers.Dense(work.num_classes)(hidden)


def tiny_mlp(images: Any) -> Any:
    """``tiny_mlp.TinyMLP``."""
    hidden = layers.Dense(64, activation="relu")(layers.Flatten()(images))
    return layers.Dense(10)(hidden)


def resnet9(images: Any) -> Any:
    """``classifier.networks.ResNet9``."""
    images = layers.MaxPooling2D()(_normalised(_normalised(images, 64), 128))
    images = layers.Add()([images, _normalised(_normalised(images, 128), 128)])
    images = layers.MaxPooling2D()(_normalised(images, 256))
    images = layers.MaxPooling2D()(_normalised(images, 512))
    images = layers.Add()([images, _normalised(_normalised(images, 512), 512)])
    logits = layers.Dense(10, use_bias=False)(layers.GlobalMaxPooling2D()(images))
    return layers.Rescaling(1 / 8)(logits)


def _normalised(images: Any, filters: int) -> Any:
    images = layers.Conv2D(filters, 3, padding="same", use_bias=False)(images)
    return layers.ReLU()(layers.BatchNormalization()(images))


NETWORKS = {"mnist": mnist_net, "mlp": tiny_mlp, "cifar": resnet9}


if __name__ == "__main__":
    main()
