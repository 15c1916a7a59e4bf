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
from works import RATE, WORKS, load, report


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Takes the time of each training epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts to count."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes how long it took."""
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    """Trains and reports the seconds of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", choices=NETWORKS, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    work = WORKS[options.work]
    images, labels = load(work, options.root, "train")
    number = options.steps * work.batch_size
    pixels = images[:number].permute(0, 2, 3, 1).contiguous().numpy()
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
        pixels,
        labels[:number].numpy(),
        batch_size=work.batch_size,
        epochs=options.epochs,
        callbacks=[epochs],
        verbose=2,
    )
    report(epochs.seconds, f"Keras {keras.__version__}")


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


def small_resnet(images: Any) -> Any:
    """``classifier.networks.SmallResNet`` of 8 layers: one block for each stage."""
    images = layers.Conv2D(16, 3, padding="same", use_bias=False)(images)
    images = layers.ReLU()(layers.BatchNormalization()(images))
    for before, filters in ((16, 16), (16, 32), (32, 64)):
        images = _residual_block(images, before, filters)
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(images))


def _residual_block(images: Any, before: int, filters: int) -> Any:
    """Where the channels grow, the shortcut takes every second pixel and new channels of zeros."""
    stride, padding = (1, 0) if before == filters else (2, (filters - before) // 2)
    settings = {"padding": "same", "use_bias": False}
    residual = layers.Conv2D(filters, 3, strides=stride, **settings)(images)
    residual = layers.ReLU()(layers.BatchNormalization()(residual))
    residual = layers.BatchNormalization()(layers.Conv2D(filters, 3, **settings)(residual))
    if padding:
        images = keras.ops.pad(images[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (padding, padding)))
    return layers.ReLU()(layers.Add()([images, residual]))


NETWORKS = {"mnist": mnist_net, "mlp": tiny_mlp, "cifar": small_resnet}


if __name__ == "__main__":
    main()
