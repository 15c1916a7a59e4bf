"""Takes the time of training epochs, evaluation and prediction from inside a Lightning trainer."""

import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from works import report


class Stopwatch(Callback):
    """Reports the seconds of what the trainer did; it has no hook that is called every step."""

    def __init__(self) -> None:
        self.started = 0.0
        self.seconds: list[float] = []
        self.accuracies: list[float] = []
        self.times: list[float] = []

    def start(self) -> None:
        """Starts to count."""
        self.started = time.perf_counter()

    def stop(self) -> None:
        """Notes how long it took."""
        self.seconds.append(time.perf_counter() - self.started)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.accuracies.append(float(trainer.callback_metrics["val_accuracy"]))
            self.times.append(time.time())

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop()

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start()

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        report(self.seconds, accuracies=self.accuracies, times=self.times)
