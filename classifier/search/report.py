"""What a person sees of a search."""

import difflib
import shlex
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.exceptions import ExperimentalWarning
from rich.live import Live
from rich.text import Text

from classifier.hyperparameters import ConfigError, setting_in
from classifier.search.engines import Engine
from classifier.search.results import Group, Row, groups, rows
from classifier.search.space import SEED
from classifier.search.stop import Stop
from classifier.search.study import Study

POLL = 0.5  # seconds between looks at the study
LOG_LINES = 3  # of a worker that gave up


def shown(path: Path) -> Path:
    """The path as seen from here, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def say(text: str) -> None:
    """Prints."""
    print(text, flush=True)  # noqa: T201  # this is the console


# ---- while the search runs ----


def announce(study: Study, workers: str) -> None:
    """Says what is going to happen."""
    settings = study.settings
    done = sum(trial.state.is_finished() for trial in study.trials())
    total = f"{study.total} trials" if study.total else f"trials for {settings.max_seconds:g} s"
    say(f"{shown(study.folder)}: {total}{f', {done} of them done' if done else ''}; {workers}")
    for line in study.space.describe():
        say(f"  {line}")
    if study.plan is None:
        first = (
            "trial 0 is the base config"
            if study.space.point(study.base)
            else ("no trial is the base config, which lies outside this space")
        )
        say(f"  {class_name(settings.sampler)} chooses, {pruning(settings.pruner)}; {first}")
    say(f"  to {settings.direction} {settings.monitor}, the best epoch of each trial")


def pruning(pruner: Mapping[str, Any] | None) -> str:
    """Says what stops trials."""
    return f"{class_name(pruner)} stops bad trials early" if pruner else "no trial is stopped early"


def class_name(spec: Mapping[str, Any] | str) -> str:
    """The name of a class that a setting names."""
    return spec if isinstance(spec, str) else str(spec["class_path"]).rpartition(".")[2]


def follow(study: Study, engine: Engine, stop: Stop) -> None:
    """Prints a line for each trial that ends, until the workers are done or it is told to stop."""
    told = {trial.number for trial in study.trials() if trial.state.is_finished()}
    estimated = bool(told)
    while True:
        alive = engine.alive()  # before the look: what the last worker noted is not missed
        for row in rows(study):
            if row.number in told or row.state not in ("complete", "pruned", "failed"):
                continue
            told.add(row.number)
            ranked = groups(study)
            is_best = bool(ranked) and row in ranked[0].rows
            say(f"{line(study, row)}{'  best so far' if is_best else ''}")
            if not estimated and study.total and row.state == "complete":
                say(f"  {time_left(study, alive)}")
                estimated = True
        if not alive:
            return
        if not study.unfinished():
            engine.stop()  # those that the cluster has not even started
            return
        if stop.wait(POLL):
            say("stopping; the trials go on with the same command")
            engine.stop()
            return


def line(study: Study, row: Row) -> str:
    """A trial on one line."""
    value = "" if row.value is None else f"{study.settings.monitor} {row.value:.4f}  "
    end = row.reason or f"{row.epochs} epochs, {row.seconds:.1f} s"
    return f"trial {row.number:<3} {row.state:8}  {value}{searched(row.searched)}  {end}"


def searched(values: Mapping[str, Any]) -> str:
    """The searched values on one line."""
    return "  ".join(f"{name} {number(value)}" for name, value in values.items())


def number(value: Any) -> str:
    """A value with four digits, if it is a fraction."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def time_left(study: Study, workers: int) -> str:
    """Estimates how long the rest of the trials takes."""
    everything = rows(study)[: study.total]
    ended = [row for row in everything if row.state in ("complete", "pruned")]
    if not ended or not study.total:
        return "no estimate before the first trial is complete"
    mean, epochs = fmean(row.seconds for row in ended), fmean(row.epochs for row in ended)
    left = study.total - sum(row.state in ("complete", "pruned", "failed") for row in everything)
    begun = sum(min(1, row.epochs / epochs) for row in everything if row.state == "running")
    return f"{left} trials left, about {duration((left - begun) * mean / max(1, workers))}"


def duration(seconds: float) -> str:
    """A time in words: ``40 s``, ``3 min 20 s``, ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def conclude(study: Study, gave_up: bool) -> bool:
    """Says what came out; returns whether any trial was completed.

    Args:
        study: The study.
        gave_up: Whether the workers ended by themselves before the trials.
    """
    everything = rows(study)
    folder = shown(study.folder)
    say(f"{folder}: {counts(everything, study.total)}")
    if gave_up:
        print(f"error: the workers gave up.\n{last_words(study.folder)}", file=sys.stderr)  # noqa: T201
    ranked = groups(study)
    if not ranked:
        return False
    say(f"best: {of_group(study, ranked[0])}")
    if study.plan is None and everything[0].state == "complete" and ranked[0].rows[0].number:
        say(f"base: {of_group(study, next(g for g in ranked if g.rows[0].number == 0))}")
    say(f"  {command('fit', '--config', str(folder / 'best.yaml'))}")
    for action in ("table",) if study.settings.plan else ("table", "importance", "refit"):
        say(f"  {command('search', action, str(folder))}")
    say(f"  {shlex.join(['tensorboard', '--logdir', str(folder)])}")
    return True


def command(*arguments: str) -> str:
    """A command to copy."""
    return shlex.join(["classifier", *arguments])


def counts(everything: Sequence[Row], total: int | None) -> str:
    """How many trials are in which state."""
    states = Counter(row.state for row in everything)
    listed = [f"{states[s]} {s}" for s in ("complete", "pruned", "failed", "running") if states[s]]
    ended = sum(states[s] for s in ("complete", "pruned", "failed"))
    return f"{ended} of {total or len(everything)} trials done ({', '.join(listed) or 'none'})"


def of_group(study: Study, group: Group) -> str:
    """A configuration on one line."""
    first = group.rows[0]
    values = {n: v for n, v in first.searched.items() if len(group.rows) == 1 or n != SEED}
    numbers = ", ".join(str(row.number) for row in group.rows)
    trials = f"trial{'s' if len(group.rows) > 1 else ''} {numbers}"
    return f"{trials}, {study.settings.monitor} {spread(group)}  {searched(values)}"


def spread(group: Group) -> str:
    """The mean, and the standard deviation of several seeds."""
    deviation = "" if group.deviation is None else f" ± {group.deviation:.4f}"
    return f"{group.mean:.4f}{deviation}"


def last_words(folder: Path) -> str:
    """The end of the newest log of a worker."""
    logs = sorted((folder / "workers").glob("*.log"), key=lambda path: path.stat().st_mtime)
    lines = logs[-1].read_text(errors="replace").splitlines() if logs else []
    return "\n".join([*lines[-LOG_LINES:], f"See '{shown(folder / 'workers')}'."])


# ---- afterwards, or from another terminal ----


def status(folder: Path) -> int:
    """Prints how far a search is; on a terminal again and again until it ends."""
    study = Study.of(folder)
    if not sys.stdout.isatty():
        say(progress(study))
        return 0
    with Live(Text(progress(study)), auto_refresh=False) as live:
        while any(row.state == "running" for row in rows(study)):
            time.sleep(1)
            live.update(Text(progress(study)), refresh=True)
    return 0


def progress(study: Study) -> str:
    """How far a search is, on a few lines."""
    everything = rows(study)
    running = [row for row in everything if row.state == "running"]
    lines = [f"{shown(study.folder)}: {counts(everything, study.total)}"]
    if study.unfinished():
        lines[0] += f"; {time_left(study, len(running))}" if running else "; nobody works on it"
    last = setting_in(study.base, ("trainer", "max_epochs"))
    for row in running:
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
    lines = [["trial", "state", monitor, *names, "epochs", "seconds", ""]]
    for row in everything:
        value = "" if row.value is None else f"{row.value:.4f}"
        own = [number(row.searched.get(name, "")) for name in names]
        numbers = [str(row.epochs), f"{row.seconds:.1f}"]
        lines.append([str(row.number), row.state, value, *own, *numbers, row.reason])
    say(aligned(lines))
    if study.space.seeds:
        say(f"\nmean and standard deviation over {len(study.space.seeds)} seeds:")
        for group in groups(study):
            say(f"  {of_group(study, group)}")
    return 0


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def best(folder: Path) -> int:
    """Prints the best configuration, and what it changes in the base config."""
    study = Study.of(folder)
    ranked = groups(study)
    if not ranked:
        raise ConfigError(f"'{folder}' has no complete trial yet.")
    say(of_group(study, ranked[0]))
    name = str(shown(study.folder / "best.yaml"))
    text = study.text(study.trials()[ranked[0].rows[0].number])
    changes = difflib.unified_diff(
        study.base.splitlines(), text.splitlines(), "base.yaml", name, lineterm="", n=0
    )
    say("\n".join(changes))
    checkpoint = shown(ranked[0].rows[0].folder / "checkpoints" / "best.ckpt")
    say(f"  {command('fit', '--config', name)}")
    say(f"  {command('test', '--ckpt_path', str(checkpoint))}")
    return 0


def importance(folder: Path, plot: Path | None) -> int:
    """Prints how much of the differences between trials each searched name explains.

    Source: PED-ANOVA, https://arxiv.org/abs/2304.10255, in Optuna.
    """
    study = Study.of(folder)
    complete = [row for row in rows(study) if row.state == "complete"]
    if len({row.value for row in complete}) < 2 or len(study.space.parameters) < 2:
        raise ConfigError(
            f"'{folder}': importances compare at least two names and two complete trials with "
            f"different values; there are {len(study.space.parameters)} and {len(complete)}."
        )
    from optuna.importance import get_param_importances  # scikit-learn takes a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        shares = get_param_importances(study.study)
    width = max(map(len, shares))
    for name, share in shares.items():
        say(f"{name.ljust(width)}  {share:4.0%}  {'█' * round(40 * share)}")
    say(f"of the differences in {study.settings.monitor}, over {len(complete)} complete trials")
    if plot is not None:
        draw(shares, study.settings.monitor, plot)
    return 0


def draw(shares: Mapping[str, float], monitor: str, path: Path) -> None:
    """Draws importances into an image file."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError("--plot needs matplotlib: pip install matplotlib") from error
    if path.exists():
        raise ConfigError(f"--plot '{path}' exists; name another file or remove it.")
    figure = Figure(figsize=(6, 1 + 0.3 * len(shares)), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(shares), list(shares.values()))
    axes.invert_yaxis()
    axes.set_xlabel(f"share of the differences in {monitor}")
    figure.savefig(path)
