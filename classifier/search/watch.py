"""What a person sees while a search runs."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classifier import terminal
from classifier.search.console import (
    counts,
    line,
    of_group,
    time_left,
)
from classifier.search.engines import Engine
from classifier.search.results import groups, rows
from classifier.search.stop import Stop
from classifier.search.study import Study

POLL = 0.5  # seconds between looks at the study
LOG_LINES = 3  # of a worker that gave up


def announce(study: Study, workers: str) -> None:
    """Says what is going to happen."""
    settings = study.settings
    done = sum(trial.state.is_finished() for trial in study.trials())
    plural = "" if study.total == 1 else "s"
    total = (
        f"{study.total} trial{plural}" if study.total else f"trials for {settings.max_seconds:g} s"
    )
    terminal.out(
        f"{terminal.display_path(study.folder)}: {total}"
        f"{f', {done} of them done' if done else ''}; {workers}"
    )
    for entry in study.space.describe():
        terminal.out(f"  {entry}")
    if study.plan is None:
        inside = study.space.point(study.base) is not None
        first = (
            "trial 0 is the base config"
            if inside
            else "no trial is the base config, which lies outside this space"
        )
        terminal.out(
            f"  {class_name(settings.sampler)} chooses, {pruning(settings.pruner)}; {first}"
        )
    terminal.out(f"  to {settings.direction} {settings.monitor}, the best epoch of each trial")


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
    alive = 1
    while alive:
        # Before the look at the trials, so that what was noted last is not missed.
        alive = engine.alive() if study.unfinished() else 0
        for row in rows(study):
            if row.number in told or row.state not in ("complete", "pruned", "failed"):
                continue
            told.add(row.number)
            ranked = groups(study)
            is_best = bool(ranked) and row in ranked[0].rows
            terminal.out(f"{line(study, row)}{'  best so far' if is_best else ''}")
            if not estimated and study.unfinished() and study.total and row.state == "complete":
                terminal.out(f"  {time_left(study, alive)}")
                estimated = True
        if alive and stop.wait(POLL):
            terminal.out("stopping; the trials go on with the same command")
            return


def conclude(study: Study, gave_up: bool) -> bool:
    """Says what came out; returns whether any trial was completed.

    Args:
        study: The study.
        gave_up: Whether the workers ended by themselves before the trials.
    """
    everything = rows(study)
    folder = terminal.display_path(study.folder)
    terminal.out(f"{folder}: {counts(everything, study.total)}")
    if gave_up:
        terminal.error(f"the workers gave up.\n{last_words(study.folder)}")
    ranked = groups(study)
    if not ranked:
        reason = any(row.state == "failed" for row in everything)
        why = "; 'reason' in trials.csv says why trials failed" if reason else " yet"
        terminal.out(f"no configuration is complete{why}")
        return False
    terminal.out(f"best: {of_group(study, ranked[0])}")
    base = next((group for group in ranked if group.rows[0].number == 0), ranked[0])
    if study.plan is None and study.space.point(study.base) is not None and base != ranked[0]:
        terminal.out(f"base: {of_group(study, base)}")
    terminal.out(f"  {terminal.command('fit', '--config', str(folder / 'best.yaml'))}")
    comparable = len(study.space.parameters) > 1
    actions = ["table", *(["importance"] if comparable else []), "refit"]
    for action in ["table"] if study.settings.plan else actions:
        terminal.out(f"  {terminal.command('search', action, str(folder))}")
    terminal.out(f"  {shlex.join(['tensorboard', '--logdir', str(folder)])}")
    return True


def last_words(folder: Path) -> str:
    """The end of the newest log of a worker."""
    logs = sorted((folder / "workers").glob("*.log"), key=lambda path: path.stat().st_mtime)
    lines = logs[-1].read_text(errors="replace").splitlines() if logs else []
    return "\n".join([*lines[-LOG_LINES:], f"See '{terminal.display_path(folder / 'workers')}'."])
