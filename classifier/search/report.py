"""What a person sees of a search: while it runs, at its end, and by the actions on its folder."""

import difflib
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from classifier import platform, terminal
from classifier.anchored_yaml.text import setting_in
from classifier.atomic import atomic_create
from classifier.errors import UserError
from classifier.runs import RunFolder
from classifier.search.engines import Engine
from classifier.search.results import Group, Results, Row
from classifier.search.samplers import without_experimental_warnings
from classifier.search.space import SEED
from classifier.search.study import Study
from classifier.search.worker import Stop

POLL = 0.5  # seconds between looks at the study
LOG_LINES = 3  # of a worker that failed
IDLE_SECONDS = 5  # without a worker, as between two trials, after which none is active
ORDER = ("complete", "pruned", "running", "waiting", "failed")  # of a table


# ---- while it runs ----


def announce(study: Study, workers: str) -> None:
    """Says what is going to happen."""
    settings = study.settings
    total = f"{study.total} trial{'' if study.total == 1 else 's'}"
    if not study.total:
        total = f"trials for {settings.max_seconds:g} s"
    if done := sum(trial.state.is_finished() for trial in study.trials()):
        total += f", {done} of them done"
    terminal.out(f"{terminal.display_path(study.folder)}: {total}; {workers}")
    for entry in study.space.describe():
        terminal.out(f"  {entry}")
    if study.plan is None:
        first = "trial 0 is the base config"
        if study.space.point(study.base) is None:
            first = "no trial is the base config, which lies outside this space"
        pruner = settings.pruner
        early = f"{_class_name(pruner)} stops bad trials" if pruner else "no trial is stopped"
        terminal.out(f"  {_class_name(settings.sampler)} chooses, {early} early; {first}")
    terminal.out(f"  to {settings.direction} {settings.monitor}, the best epoch of each trial")


def _class_name(spec: Mapping[str, Any] | str) -> str:
    return spec if isinstance(spec, str) else str(spec["class_path"]).rpartition(".")[2]


def follow(study: Study, engine: Engine, stop: Stop) -> None:
    """Prints a line for each trial that ends, until the workers are done or it is told to stop."""
    reported = {trial.number for trial in study.trials() if trial.state.is_finished()}
    estimated = bool(reported)
    alive = 1
    while alive:
        # Before the look at the trials, so that what was noted last is not missed.
        alive = engine.alive() if study.unfinished() else 0
        results = Results(study)
        for row in results.rows:
            if row.number in reported or not row.has_ended:
                continue
            reported.add(row.number)
            is_best = bool(results.ranked) and row in results.ranked[0].rows
            terminal.out(f"{format_trial(study, row)}{'  best so far' if is_best else ''}")
            if not estimated and study.unfinished() and study.total and row.state == "complete":
                terminal.out(f"  {time_left(results, alive)}")
                estimated = True
        if alive and stop.wait(POLL):
            terminal.out("stopping; the same command resumes the search")
            return


def conclude(results: Results, incomplete: bool) -> bool:
    """Says what came out, which is incomplete if the workers exited early.

    Returns whether any configuration is complete.
    """
    study, ranked = results.study, results.ranked
    folder = terminal.display_path(study.folder)
    terminal.out(f"{folder}: {count_trials(results)}")
    if incomplete:
        logs = sorted(study.folder.glob("workers/*.log"), key=lambda path: path.stat().st_mtime)
        lines = logs[-1].read_text("utf-8", errors="replace").splitlines() if logs else []
        told = "all workers exited before the search was complete."
        terminal.error("\n".join([told, *lines[-LOG_LINES:], f"See '{folder / 'workers'}'."]))
    if not ranked:
        failed = any(row.state == "failed" for row in results.rows)
        why = "; 'reason' in trials.csv says why trials failed" if failed else " yet"
        terminal.out(f"no configuration is complete{why}")
        return False
    terminal.out(f"best: {format_group(study, ranked[0])}")
    base = next((group for group in ranked if group.rows[0].number == 0), ranked[0])
    if study.plan is None and study.space.point(study.base) is not None and base != ranked[0]:
        terminal.out(f"base: {format_group(study, base)}")
    terminal.out(f"  {terminal.command('fit', '--config', folder / 'best.yaml')}")
    comparable = len(study.space.parameters) > 1
    actions = ["table", *(["importance"] if comparable else []), "refit"]
    for action in ["table"] if study.settings.plan else actions:
        terminal.out(f"  {terminal.command('search', action, folder)}")
    terminal.out(f"  {platform.quoted(['tensorboard', '--logdir', str(folder)])}")
    return True


# ---- actions that look at a search ----


def status(folder: Path) -> int:
    """Prints how far a search is; on a terminal again and again until it ends."""
    study = Study.of(folder)
    if not sys.stdout.isatty():
        terminal.out(progress(study))
        return 0
    idle = 0
    with Live(Text(progress(study)), auto_refresh=False) as live:
        while study.unfinished() and idle < IDLE_SECONDS:
            time.sleep(1)
            live.update(Text(progress(study)), refresh=True)
            idle = 0 if study.has_live_worker() else idle + 1
    return 0


def progress(study: Study) -> str:
    """How far a search is, on a few lines."""
    results = Results(study)
    running = [row for row in results.rows if row.state == "running"]
    lines = [f"{terminal.display_path(study.folder)}: {count_trials(results)}"]
    if study.unfinished():
        active = study.has_live_worker()
        lines[0] += f"; {time_left(results, len(running)) if active else 'no active worker'}"
    for row in running:
        config = study.config_of(results.trials[row.number])
        last = setting_in(config, ("trainer", "max_epochs"))
        reached = row.outcome
        value = "" if reached.value is None else f"  {study.settings.monitor} {reached.value:.4f}"
        epoch = f"epoch {reached.epochs}/{last or '?'}"
        lines.append(f"  trial {row.number}  {epoch}{value}  {format_values(row.values)}")
    best = [f"best: {format_group(study, group)}" for group in results.ranked[:1]]
    return "\n".join(lines + best)


def table(folder: Path) -> int:
    """Prints the trials, best first, and over what is repeated the mean of each configuration."""
    study = Study.of(folder)
    results, names = Results(study), study.space.names
    sign = -1 if study.settings.direction == "maximize" else 1
    ordered = sorted(
        results.rows,
        key=lambda row: (ORDER.index(row.state), sign * (row.outcome.value or 0), row.number),
    )
    grid = Table(box=None, pad_edge=False, header_style="")
    headings = ["trial", "state", study.settings.monitor, *results.columns, "epochs", "seconds", ""]
    for heading in headings:
        grid.add_column(heading, no_wrap=bool(heading))
    for number, state, outcome, values, _ in ordered:
        value = "" if outcome.value is None else f"{outcome.value:.4f}"
        searched = [format_number(values.get(name, "")) for name in names]
        reached = [str(outcome.epochs), f"{outcome.seconds:.1f}"]
        grid.add_row(str(number), state, value, *searched, *reached, outcome.reason)
    width = None if terminal.is_interactive() else 10_000
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    with console.capture() as text:
        console.print(grid)
    terminal.out(text.get().rstrip())
    if number := len(study.space.repeats):
        what = "seeds" if study.space.repeat == SEED else f"values of {study.space.repeat}"
        terminal.out(f"\nmean and standard deviation over {number} {what}:")
        for group in results.ranked:
            terminal.out(f"  {format_group(study, group)}")
    return 0


def best(folder: Path) -> int:
    """Prints the best configuration, and what it changes in the base config."""
    study = Study.of(folder)
    with study.lock:
        results = complete(study)
        results.write()
    winner = results.ranked[0]
    terminal.out(format_group(study, winner))
    name = str(terminal.display_path(study.folder / "best.yaml"))
    texts = study.base.splitlines(), results.best_config.splitlines()
    changes = difflib.unified_diff(*texts, "base.yaml", name, lineterm="", n=0)
    terminal.out("\n".join(changes) or "the base config itself")
    checkpoint = terminal.display_path(RunFolder(winner.rows[0].folder).best)
    terminal.out(f"  {terminal.command('fit', '--config', name)}")
    terminal.out(f"  {terminal.command('test', '--ckpt_path', checkpoint)}")
    return 0


def complete(study: Study) -> Results:
    """The results of a search; a UserError if no configuration is complete."""
    results = Results(study)
    if not results.ranked:
        raise UserError(f"'{study.folder}' has no complete trial yet.")
    return results


def importance(folder: Path, plot: Path | None) -> int:
    """Prints how much of the differences between trials each searched name explains.

    Source: PED-ANOVA, https://arxiv.org/abs/2304.10255, in Optuna.
    """
    study = Study.of(folder)
    values = [row.outcome.value for row in Results(study).rows if row.state == "complete"]
    if len(set(values)) < 2 or len(study.space.parameters) < 2:
        raise UserError(
            f"'{folder}': importances compare at least two names and two complete trials with "
            f"different values; there are {len(study.space.parameters)} and {len(values)}."
        )
    from optuna.importance import get_param_importances  # scikit-learn takes a second

    with without_experimental_warnings():
        shares = get_param_importances(study.study)
    width = max(map(len, shares))
    for name, share in shares.items():
        terminal.out(f"{name.ljust(width)}  {share:4.0%}  {'█' * round(40 * share)}")
    terminal.out(
        f"of the differences in {study.settings.monitor}, over {len(values)} complete trials"
    )
    if plot is not None:
        _draw(shares, study.settings.monitor, plot)
    return 0


def _draw(shares: Mapping[str, float], monitor: str, path: Path) -> None:
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


# ---- the words of all of them ----


def format_trial(study: Study, row: Row) -> str:
    """A trial on one line."""
    outcome = row.outcome
    value = "" if outcome.value is None else f"{study.settings.monitor} {outcome.value:.4f}  "
    end = outcome.reason or f"{outcome.epochs} epochs, {outcome.seconds:.1f} s"
    return f"trial {row.number:<3} {row.state:8}  {value}{format_values(row.values)}  {end}"


def format_values(values: Mapping[str, Any]) -> str:
    """The searched values on one line."""
    return "  ".join(f"{name} {format_number(value)}" for name, value in values.items())


def format_number(value: Any) -> str:
    """A value with four digits, if it is a fraction."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_group(study: Study, group: Group) -> str:
    """A configuration on one line."""
    first = group.rows[0]
    values = {
        n: v for n, v in first.values.items() if len(group.rows) == 1 or n != study.space.repeat
    }
    numbers = ", ".join(str(row.number) for row in group.rows)
    trials = f"trial{'s' if len(group.rows) > 1 else ''} {numbers}"
    return f"{trials}, {study.settings.monitor} {format_mean(group)}  {format_values(values)}"


def format_mean(group: Group) -> str:
    """The mean, and the standard deviation of several trials."""
    deviation = "" if group.deviation is None else f" ± {group.deviation:.4f}"
    return f"{group.mean:.4f}{deviation}"


def count_trials(results: Results) -> str:
    """How many trials are in which state."""
    states = Counter(row.state for row in results.rows)
    listed = [f"{states[s]} {s}" for s in ("complete", "pruned", "failed", "running") if states[s]]
    ended = sum(row.has_ended for row in results.rows)
    total = max(results.study.total or 0, len(results.rows))
    return f"{ended} of {total} trials done ({', '.join(listed) or 'none'})"


def time_left(results: Results, workers: int) -> str:
    """Estimates how long the rest of the trials takes."""
    total = results.study.total
    if not total:
        return "until the time limit"
    rows = results.rows[:total]
    ended = [row.outcome for row in rows if row.state in ("complete", "pruned")]
    if not ended:
        return "no estimate before the first trial is complete"
    seconds, epochs = fmean(one.seconds for one in ended), fmean(one.epochs for one in ended)
    left = total - sum(row.has_ended for row in rows)
    begun = sum(min(1, row.outcome.epochs / epochs) for row in rows if row.state == "running")
    trials = "trial" if left == 1 else "trials"
    return f"{left} {trials} left, about {duration((left - begun) * seconds / max(1, workers))}"


def duration(seconds: float) -> str:
    """A time in words: ``40 s``, ``3 min 20 s``, ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
