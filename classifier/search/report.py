"""``classifier search status | table | best | importance``: what a search folder says."""

import difflib
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from optuna.exceptions import ExperimentalWarning
from rich.live import Live
from rich.text import Text

from classifier import terminal
from classifier.anchored_yaml import setting_in
from classifier.atomic import atomic_create
from classifier.errors import UserError
from classifier.search import results
from classifier.search.console import (
    aligned,
    counts,
    number,
    of_group,
    searched,
    time_left,
)
from classifier.search.results import groups, rows
from classifier.search.study import Study

PATIENCE = 5  # seconds without a worker, as between two trials, after which nobody works on it


def status(folder: Path) -> int:
    """Prints how far a search is; on a terminal again and again until it ends."""
    study = Study.of(folder)
    if not sys.stdout.isatty():
        terminal.out(progress(study))
        return 0
    idle = 0
    with Live(Text(progress(study)), auto_refresh=False) as live:
        while study.unfinished() and idle < PATIENCE:
            time.sleep(1)
            live.update(Text(progress(study)), refresh=True)
            idle = 0 if study.is_worked_on() else idle + 1
    return 0


def progress(study: Study) -> str:
    """How far a search is, on a few lines."""
    everything = rows(study)
    running = [row for row in everything if row.state == "running"]
    lines = [f"{terminal.display_path(study.folder)}: {counts(everything, study.total)}"]
    if study.unfinished():
        left = time_left(study, len(running)) if study.is_worked_on() else "nobody works on it"
        lines[0] += f"; {left}"
    for row in running:
        config = row.folder / "trial.yaml"
        text = config.read_text(encoding="utf-8") if config.exists() else ""
        last = setting_in(text, ("trainer", "max_epochs"))
        value = "" if row.value is None else f"  {study.settings.monitor} {row.value:.4f}"
        epoch = f"epoch {row.epochs}/{last or '?'}"
        lines.append(f"  trial {row.number}  {epoch}{value}  {searched(row.searched)}")
    ranked = groups(study)
    return "\n".join([*lines, f"best: {of_group(study, ranked[0])}"] if ranked else lines)


def table(folder: Path) -> int:
    """Prints the trials, best first, and over several seeds the mean of each configuration."""
    study = Study.of(folder)
    monitor, names = study.settings.monitor, study.space.names
    sign = -1 if study.settings.direction == "maximize" else 1
    order = {"complete": 0, "pruned": 1, "running": 2, "waiting": 3, "failed": 4}
    everything = sorted(
        rows(study), key=lambda row: (order[row.state], sign * (row.value or 0), row.number)
    )
    headings = results.columns(study)
    lines = [["trial", "state", monitor, *headings, "epochs", "seconds", ""]]
    for row in everything:
        value = "" if row.value is None else f"{row.value:.4f}"
        own = [number(row.searched.get(name, "")) for name in names]
        numbers = [str(row.epochs), f"{row.seconds:.1f}"]
        lines.append([str(row.number), row.state, value, *own, *numbers, row.reason])
    terminal.out(aligned(lines))
    if study.space.seeds:
        terminal.out(f"\nmean and standard deviation over {len(study.space.seeds)} seeds:")
        for group in groups(study):
            terminal.out(f"  {of_group(study, group)}")
    return 0


def best(folder: Path) -> int:
    """Prints the best configuration, and what it changes in the base config."""
    study = Study.of(folder)
    ranked = groups(study)
    if not ranked:
        raise UserError(f"'{folder}' has no complete trial yet.")
    with study.lock:
        results.write(study)
    terminal.out(of_group(study, ranked[0]))
    name = str(terminal.display_path(study.folder / "best.yaml"))
    text = study.text(study.trials()[ranked[0].rows[0].number])
    changes = difflib.unified_diff(
        study.base.splitlines(), text.splitlines(), "base.yaml", name, lineterm="", n=0
    )
    terminal.out("\n".join(changes) or "the base config itself")
    checkpoint = terminal.display_path(ranked[0].rows[0].folder / "checkpoints" / "best.ckpt")
    terminal.out(f"  {terminal.command('fit', '--config', name)}")
    terminal.out(f"  {terminal.command('test', '--ckpt_path', str(checkpoint))}")
    return 0


def importance(folder: Path, plot: Path | None) -> int:
    """Prints how much of the differences between trials each searched name explains.

    Source: PED-ANOVA, https://arxiv.org/abs/2304.10255, in Optuna.
    """
    study = Study.of(folder)
    complete = [row for row in rows(study) if row.state == "complete"]
    if len({row.value for row in complete}) < 2 or len(study.space.parameters) < 2:
        raise UserError(
            f"'{folder}': importances compare at least two names and two complete trials with "
            f"different values; there are {len(study.space.parameters)} and {len(complete)}."
        )
    from optuna.importance import get_param_importances  # scikit-learn takes a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        shares = get_param_importances(study.study)
    width = max(map(len, shares))
    for name, share in shares.items():
        terminal.out(f"{name.ljust(width)}  {share:4.0%}  {'█' * round(40 * share)}")
    terminal.out(
        f"of the differences in {study.settings.monitor}, over {len(complete)} complete trials"
    )
    if plot is not None:
        draw(shares, study.settings.monitor, plot)
    return 0


def draw(shares: Mapping[str, float], monitor: str, path: Path) -> None:
    """Draws importances into an image file."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("--plot needs matplotlib: pip install matplotlib") from error
    if path.exists():
        raise UserError(f"--plot '{path}' exists; name another file or remove it.")
    figure = Figure(figsize=(6, 1 + 0.3 * len(shares)), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(shares), list(shares.values()))
    axes.invert_yaxis()
    axes.set_xlabel(f"share of the differences in {monitor}")
    with atomic_create(path) as file:
        figure.savefig(file, format=path.suffix[1:] or None)
