"""The metrics that something follows: whether they are logged, and which way they are better."""

from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from classifier.cli.fill import MODES
from classifier.errors import UserError, did_you_mean
from classifier.metrics import better
from classifier.module import ClassificationModule
from classifier.runs import Direction, direction_of

if TYPE_CHECKING:
    from classifier.cli.classifier_cli import ClassifierCLI

OURS = ("pytorch_l", "lightning_", "classifier")  # what code that may log nothing else begins with


def check_monitors(cli: "ClassifierCLI", config: Namespace) -> None:
    """Finds out now, not after the first epoch, that nothing logs a monitored metric."""
    module = cli.model
    named = [(type(c).__name__, getattr(c, "monitor", None)) for c in config.callbacks]
    # A class of the user may log anything.
    if _is_ours(module) and all(map(_is_ours, config.callbacks)):
        for key, monitor in [("model.monitor", module.monitor), *named]:
            check_monitor(module, key, monitor)
            # Without validation the best checkpoint is the last one.
            unvalidated = config.limit_val_batches == 0 and key != "model.monitor"
            if unvalidated and str(monitor).startswith("val_"):
                raise UserError(f"{key}: trainer.limit_val_batches is 0, so there is no {monitor}.")
    if cli.undirected:
        raise UserError(cli.undirected[0])
    for callback in config.callbacks if cli.command_line.format > 1 else ():
        monitor, mode = str(getattr(callback, "monitor", "")), getattr(callback, "mode", None)
        right = module.mode_of(monitor)
        if right and mode in MODES and mode != right:  # one that its class fixes
            told = f"has the mode {mode}, but {better(monitor, right)}"
            raise UserError(f"{type(callback).__name__} {told}: take another callback.")


def check_monitor(module: ClassificationModule, key: str, monitor: str | None) -> None:
    """Refuses a metric that the module does not log.

    Args:
        module: The module.
        key: The setting that names the metric.
        monitor: The metric.
    """
    names = module.metric_modes()
    if monitor is not None and monitor not in names:
        hint = did_you_mean(monitor, names, f"; there are {', '.join(names)}.")
        raise UserError(f"{key}: no metric '{monitor}'{hint}")


def best_of(cli: "ClassifierCLI") -> tuple[str, Direction]:
    """The metric whose best value is ``best.ckpt``, and which way it is better."""
    monitor: str = cli.model.monitor
    if cli.command_line.format == 1:
        return monitor, direction_of(monitor)
    if cli.job and cli.job.monitor:  # so that its best weights are those that the search found
        return cli.job.monitor, cli.job.direction
    return monitor, "maximize" if cli.model.mode_of(monitor) == "max" else "minimize"


def _is_ours(part: Any) -> bool:
    return type(part).__module__.startswith(OURS)
