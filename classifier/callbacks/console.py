"""What a person sees: what is trained on, each epoch, where the run is, what a test gives."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from classifier import platform, runs, terminal
from classifier.callbacks import stop_reasons
from classifier.callbacks.checkpoints import RunCheckpoints, best_checkpoint
from classifier.callbacks.epochs import EpochTracker, is_epoch_incomplete
from classifier.callbacks.predictions import EvaluationWriter
from classifier.callbacks.progress import epoch_of
from classifier.runs import RunFolder
from classifier.splits import PARTS
from classifier.weights.origin import name_and_origin


class Console(EpochTracker):
    """Prints the start, each epoch and the end of a training.

    There is no run where nothing is kept (``fast_dev_run``).
    """

    state_key = "Console"

    def __init__(self, run: RunFolder | None) -> None:
        super().__init__()
        self.run = run
        self.epochs = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        rows = {"run": str(self.run.shown)} if self.run else {}
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        rows |= {"network": _network(trainer), **pl_module.summary()}  # type: ignore[operator]
        rows |= {**data.summary(), "device": _device(trainer)}
        self._print(trainer, terminal.table(rows))
        if trainer.current_epoch:
            self._print(trainer, f"resumed in epoch {trainer.current_epoch + 1}")

    def on_validation_inside(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        self._print_metrics(trainer, f"step {trainer.global_step}", metrics)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.fit_loop.batch_idx < 0:  # stopped before its first batch
            return
        self.epochs += 1
        place = f"epoch {epoch_of(trainer)}"
        if is_epoch_incomplete(trainer):
            place += f", up to step {trainer.global_step}"
        self._print_metrics(trainer, place, self.end_metrics(trainer))

    def _print_metrics(self, trainer: pl.Trainer, place: str, metrics: dict[str, float]) -> None:
        monitor = str(trainer.lightning_module.monitor)
        watched = dict.fromkeys(["train_loss", "val_loss", "val_accuracy", monitor])
        values = "  ".join(f"{name} {metrics[name]:.4f}" for name in watched if name in metrics)
        self._print(trainer, f"{place}  {values}  {self.epoch_seconds():.1f} s")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.run is None:
            return
        why = self._why_it_ended(trainer)
        if self.epochs == 0:
            self._print(trainer, f"nothing to train: {'ended by ' * trainer.should_stop}{why}")
            if not self.run.path.exists():  # removed, for nothing was in it
                return
        elif trainer.should_stop:
            self._print(trainer, f"ended by {why}")
        end = f"{self.seconds():.1f} s; run kept in {self.run.shown}"
        if (checkpoints := best_checkpoint(trainer)) is None:
            self._print(trainer, end)
            self._say_what_is_not_logged(trainer)
        else:
            self._print(trainer, f"{self._best(checkpoints)}; {end}")
            path = terminal.display_path(checkpoints.best_model_path)
            self._print(trainer, "  " + terminal.command("test", "--ckpt_path", path))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                parent = str(terminal.display_path(logger.log_dir).parent)
                self._print(trainer, "  " + platform.quoted(["tensorboard", "--logdir", parent]))

    def _best(self, checkpoints: RunCheckpoints) -> str:
        """What best.ckpt has reached, and in which epoch."""
        monitor, score = str(checkpoints.monitor), checkpoints.best.score
        rows = runs.read_metrics(self.run.path) if self.run else []
        row = next((r for r in rows if r.get(monitor) == repr(score)), None)
        if row is None:  # metrics.csv is missing or was edited
            return f"best {monitor} {score:.4f}"
        names = [name for name in dict.fromkeys([monitor, "val_accuracy"]) if row.get(name)]
        values = ", ".join(f"{name} {float(row[name]):.4f}" for name in names)
        return f"best epoch {int(row['epoch']) + 1}: {values}"

    def _say_what_is_not_logged(self, trainer: pl.Trainer) -> None:
        """Says that no best checkpoint is kept, for nothing logs the metric that chooses it."""
        monitors = {
            c.monitor for c in trainer.checkpoint_callbacks if isinstance(c, RunCheckpoints)
        }
        if self.epochs and (missing := monitors - {None, *trainer.callback_metrics}):
            terminal.warn(
                f"model.monitor: nothing has logged {missing.pop()}, so there is no best.ckpt; "
                f"logged are {', '.join(sorted(trainer.callback_metrics))}."
            )

    def _why_it_ended(self, trainer: pl.Trainer) -> str:
        """What ended the training, and what resumes it."""
        if trainer.should_stop:
            cause = stop_reasons.stop_reason(trainer)
            return stop_reasons.describe(cause, stop_reasons.details(trainer, cause))
        number, unit = trainer.current_epoch, "epoch"
        if 0 <= trainer.max_steps <= trainer.global_step:
            number, unit = trainer.global_step, "step"
        done = f"1 {unit} is done" if number == 1 else f"{number} {unit}s are done"
        return f"{done}; raise trainer.max_{unit}s to continue."

    def on_exception(self, trainer: pl.Trainer, _: Any, exception: BaseException) -> None:
        run = self.run
        if isinstance(exception, Exception) or not (run and run.is_taken):
            return
        hint = f"; resume with\n  {run.resume_command}" if run.last.exists() else ""
        self._print(trainer, f"stopped in epoch {trainer.current_epoch + 1}{hint}")

    def _print(self, trainer: pl.Trainer, text: str) -> None:
        if not trainer.is_global_zero:
            return
        bar = trainer.progress_bar_callback
        if isinstance(bar, RichProgressBar) and bar.progress is not None:
            is_command = "\n  " in f"\n{text}"  # to be copied in one piece
            bar.progress.console.print(text, markup=False, highlight=False, soft_wrap=is_command)
        else:
            terminal.out(text)


class DataNotes(Callback):
    """Prints what the data module notes of its data, and the module of its settings.

    After each epoch, also which damaged images were skipped.
    """

    state_key = "DataNotes"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        if trainer.is_global_zero and data is not None:
            of_module = pl_module.notes() if stage == "fit" else []  # type: ignore[operator]
            for note in [*data.notes(stage), *of_module]:
                terminal.note(note)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._tell_skipped(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._tell_skipped(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._tell_skipped(trainer)

    def _tell_skipped(self, trainer: pl.Trainer) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        for text in data.note_skipped() if data is not None else ():
            terminal.warn(text)


class EvaluationTable(Callback):
    """Shows what ``validate`` and ``test`` have measured, in place of Lightning's table.

    There is a column for each loader, if there are several. ``kept`` says where
    the predictions are, and ``facts`` what else there is to say, by name; None if nothing is shown.
    """

    state_key = "EvaluationTable"

    def __init__(
        self, kept: EvaluationWriter | None = None, facts: Mapping[str, str] | None = None
    ) -> None:
        self.kept, self.facts = kept, facts

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_over(trainer.test_loop)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show(trainer, "test")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._take_over(trainer.validate_loop)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._show(trainer, "val")

    def _take_over(self, loop: Any) -> None:
        self.verbose, loop.verbose = loop.verbose, False

    def _show(self, trainer: pl.Trainer, part: str) -> None:
        if not self.verbose or self.facts is None:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        path = trainer.ckpt_path
        rows = {"checkpoint": str(terminal.display_path(path))} if path else {}
        rows |= self.facts
        if images := getattr(data, "sets", {}).get(part):
            every = len(images.damaged.names if images.damaged else images)
            skipped = len(data.skipped.get(part, ()))
            number = f"{every - skipped:,} of " * bool(skipped) + f"{every:,}"
            rows["data"] = f"{data.title}, {number} {PARTS[part]} images"
        metrics: dict[str, list[str]] = {}
        for name, value in sorted(trainer.callback_metrics.items()):
            metrics.setdefault(name.partition("/dataloader_idx_")[0], []).append(f"{value:.4f}")
        if (columns := max(map(len, metrics.values()), default=1)) > 1:
            rows["loader"] = "  ".join(f"{number:<6}" for number in range(columns)).rstrip()
        rows |= {name: "  ".join(values) for name, values in metrics.items()}
        if self.kept and self.kept.path:
            rows["predictions"] = str(terminal.display_path(self.kept.path))
        terminal.out(terminal.table(rows))


def _network(trainer: pl.Trainer) -> str:
    """The network by its name, its size, and where its weights come from."""
    module = trainer.lightning_module
    settings = module.hparams.get("network")
    name, origin = type(module.network).__name__, ""
    if isinstance(settings, Mapping) and "class_path" in settings:  # from Python it is an object
        name, origin = name_and_origin(settings)
        origin = "" if module.hparams.get("init_from") else origin
    if trainer.ckpt_path:
        origin = f"weights of {terminal.display_path(trainer.ckpt_path)}"
    every = sum(p.numel() for p in module.parameters())
    return ", ".join(filter(None, [name, f"{every:,} parameters{_trained(module, every)}", origin]))


def _trained(module: Any, every: int) -> str:
    """How many of a module's parameters are trained, and from which epoch on more; "" if all."""
    (_, first), *later = module.trained_from()
    if first == every:
        return ""
    more = [
        f"{'all' if count == every else f'{count:,}'} from epoch {epoch + 1} on"
        for epoch, count in later
    ]
    return f" ({', '.join([f'{first:,} of them trained', *more])})"


def _device(trainer: pl.Trainer) -> str:
    """What is computed on, and how exactly if not as usual."""
    kind = trainer.strategy.root_device.type
    place, ranks = kind, trainer.world_size
    if ranks > 1:  # the batch grows with them, and the learning rate stays what it is
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
        size = getattr(data, "batch_size", 0) * ranks
        place = f"{ranks} x {kind}{f', {size:,} images a batch' if size else ''}"
    if kind == "cpu":
        number = torch.get_num_threads()
        place += f", {number} thread{'s' * (number > 1)}"
    precision = str(trainer.precision)
    return place if precision == "32-true" else f"{place}, precision {precision}"
