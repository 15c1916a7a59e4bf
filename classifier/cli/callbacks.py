"""Which callbacks a command gets, and in which order."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    ProgressBar,
    Timer,
)

from classifier import terminal
from classifier.callbacks.checkpoints import RunCheckpoints, refuse_taken_names
from classifier.callbacks.console import Console, DataNotes, EvaluationTable
from classifier.callbacks.divergence import StopOnDivergence
from classifier.callbacks.ensemble import FlipMean
from classifier.callbacks.logger import RunLogger
from classifier.callbacks.numerics import Numerics
from classifier.callbacks.predictions import EvaluationWriter, PredictionWriter
from classifier.callbacks.progress import RichBar
from classifier.callbacks.rank_watch import RankWatch
from classifier.callbacks.resume import ResumeRun
from classifier.callbacks.run_keeper import RunKeeper
from classifier.callbacks.run_record import RunRecord
from classifier.callbacks.same_conditions import SameConditions
from classifier.callbacks.speed import FreedMemory, LeanHooks
from classifier.callbacks.stop_reasons import StopAtStep
from classifier.callbacks.true_rates import with_true_rates
from classifier.cli.given import check_output
from classifier.cli.monitors import best_of, check_monitors
from classifier.cli.record import facts_of, note_signature
from classifier.cli.run_folder import claim_report, folder_that_is_there
from classifier.data.workers import WorkerErrorReporter
from classifier.errors import UserError
from classifier.runs import RunFolder, claim_folder

REPLACED: dict[type, str] = {
    BaseFinetuning: "freezes again what it had unfrozen when a training resumes; freeze by "
    "model.groups, such as [{match: backbone, freeze_epochs: 3}, {match: head, lr_scale: 10}]",
    LearningRateFinder: "needs a rate in the module; classifier search finds one, with "
    "model.optimizer.lr in its space, and model.warmup makes high rates safe",
    BatchSizeFinder: "needs a batch size in the module; classifier tune finds the fastest",
}

if TYPE_CHECKING:
    from classifier.cli.classifier_cli import ClassifierCLI


def callbacks_for(cli: "ClassifierCLI", config: Namespace) -> tuple[list[Callback], list[Callback]]:
    """The callbacks before those of the user and those behind them.

    ``config`` has the arguments of the trainer, with the user's callbacks in a list. It is
    completed in place: logger, progress bar, devices.
    """
    line, predicts, fits = cli.command_line, cli.verb == "predict", not cli.command_line.evaluates
    if fits:
        _refuse_replaced(config)
        check_monitors(cli, config)
        if cli.model.scales_rates:
            config.callbacks = with_true_rates(config.callbacks)
    else:
        config.logger = False
    _print_notes(cli)
    is_kept = fits and not (config.fast_dev_run or config.barebones)
    run = cli.run = RunFolder() if is_kept else None
    keeper = _keeper(cli, config, run) if run else None
    checkpoints = _checkpoints(cli, config, run) if run else None
    cli.worker_errors, seed = WorkerErrorReporter(), cli.settings.seed_everything
    fingerprint = line.run.get("data", {}).get("fingerprint")
    is_shown = not cli.ensemble or cli.ensemble.is_last
    if cli.ensemble or predicts:
        _use_one_process(config)
    kept = _evaluation_writer(cli, config) if is_shown and not (fits or predicts) else None
    # Who hears of an event first, and why. Lightning moves checkpoint callbacks to the end.
    before = [
        LeanHooks(),
        Numerics.of(config),  # before it is recorded
        keeper,  # the folder, before anybody looks at it
        checkpoints and ResumeRun(checkpoints, cli.config_text),  # before others do anything
        cli.worker_errors,  # completes an exception before others tell of it
    ]
    after = [
        _progress_bar(config),
        None if predicts else SameConditions(line.before, fingerprint),
        FlipMean() if cli.settings.get("tta") else None,
        cli.ensemble,  # of what that gives
        _writer(cli) if predicts and is_shown else None,
        checkpoints,
        None if predicts else DataNotes(),
        StopOnDivergence(run, seed) if fits else None,  # before it is recorded
        _record(cli, run) if run else None,  # before what reads its metrics.csv
        Console(run) if fits else None,
        kept,  # before what names its file
        None if predicts else EvaluationTable(kept, _facts(cli) if is_shown else None),
        _end(cli, config),
        None if predicts else FreedMemory(),
        RankWatch(run),
    ]
    return [c for c in before if c is not None], [c for c in after if c is not None]


def _refuse_replaced(config: Namespace) -> None:
    """Refuses callbacks of Lightning's that fail here, or resume in another way than they began."""
    for callback in config.callbacks:
        told = next((told for kind, told in REPLACED.items() if isinstance(callback, kind)), None)
        if told:
            raise UserError(f"trainer.callbacks: {type(callback).__name__} {told}.")


def _keeper(cli: "ClassifierCLI", config: Namespace, run: RunFolder) -> RunKeeper:
    """Finds the folder of the run, or how it is made, and lets the logger write into it."""
    line = cli.command_line
    if line.format > 1:
        refuse_taken_names(config.callbacks)
    cli.root = Path(config.default_root_dir or "runs").expanduser().resolve()
    there = folder_that_is_there(line)
    if there:
        run.take(there)
    done, is_resumed = line.epochs_done, there is not None and run.begun
    if is_resumed and config.max_epochs is not None and 0 <= config.max_epochs < done:
        raise UserError(
            f"trainer.max_epochs is {config.max_epochs}, but {done} of them "
            "are done; raise it to continue. An earlier checkpoint starts a new run."
        )
    keeper = RunKeeper(run, lambda: claim_folder(cli.root / cli.run_name, "version"))
    if config.logger in (None, True):
        # What a resumed training repeats is dropped from the earlier curve.
        config.logger = RunLogger(keeper, line.global_step if is_resumed else None)
    return keeper


def _checkpoints(cli: "ClassifierCLI", config: Namespace, run: RunFolder) -> RunCheckpoints | None:
    if config.enable_checkpointing is False:
        return None
    monitor, direction = best_of(cli)
    validated = config.limit_val_batches != 0 or not monitor.startswith("val_")
    every = cli.settings.save_every
    return RunCheckpoints(
        run, monitor if validated else None, direction, every.minutes, every.steps
    )


def _record(cli: "ClassifierCLI", run: RunFolder) -> RunRecord:
    facts = facts_of(cli, run)
    note_signature(cli, facts["trusted"])
    return RunRecord(run, cli.config_text, facts, bool(cli.command_line.checkpoint_path))


def _end(cli: "ClassifierCLI", config: Namespace) -> StopAtStep | None:
    """What ends the training where its job says, and no clock earlier."""
    job = cli.command_line.job
    if job is None or job.last_step is None:
        return None
    config.callbacks = [c for c in config.callbacks if not isinstance(c, Timer)]
    return StopAtStep(job.last_step)


def _progress_bar(config: Namespace) -> Callback | None:
    """A bar, unless the user has one, wants none or does not watch."""
    if any(isinstance(callback, ProgressBar) for callback in config.callbacks):
        return None  # which Lightning takes unless it is told that there is none
    if config.enable_progress_bar is None and not terminal.is_interactive():
        config.enable_progress_bar = False
    return None if config.enable_progress_bar is False or config.barebones else RichBar()


def _use_one_process(config: Namespace) -> None:
    """Evaluates on one device, for what several write would have to be put in order."""
    config.devices = config.devices[:1] if isinstance(config.devices, list) else 1
    config.strategy, config.num_nodes = "auto", 1


def _facts(cli: "ClassifierCLI") -> dict[str, str]:
    """How a prediction comes about that is not that of one network of the image as it is."""
    facts = {}
    if cli.ensemble:
        facts["checkpoint"] = f"mean probability of {', '.join(cli.ensemble.members)}"
    if tta := cli.settings.get("tta"):
        facts["tta"] = f"{tta}, mean probability with the mirror image"
    return facts


def _writer(cli: "ClassifierCLI") -> PredictionWriter:
    output = Path(cli.settings.output).expanduser()
    check_output(output)
    cli.writer = PredictionWriter(output, cli.datamodule.class_names, _facts(cli))
    return cli.writer


def _evaluation_writer(cli: "ClassifierCLI", config: Namespace) -> EvaluationWriter | None:
    line, output, tta = cli.command_line, cli.settings.output, cli.settings.tta
    name = f"{cli.verb}_{tta}" if tta else cli.verb
    if config.fast_dev_run or config.barebones:
        if output:
            raise UserError("--output: with trainer.fast_dev_run or barebones nothing is kept.")
        return None
    if output:
        check_output(Path(output).expanduser())
    return EvaluationWriter(
        lambda: claim_report(line, name, output, bool(cli.ensemble)),
        cli.datamodule.class_names,
        is_asked=bool(output),
    )


def _print_notes(cli: "ClassifierCLI") -> None:
    """Says what has no effect, and whose modules are not as they were."""
    for note in cli.written.lost:
        terminal.warn(note)
    for name in cli.command_line.unused:
        terminal.warn(f"no alias uses the hyperparameter '{name}', so it has no effect.")
    for note in [*cli.notes, *cli.command_line.trust.modules.notes()]:
        terminal.note(note)
