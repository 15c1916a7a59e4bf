"""What came out of a search: a row a trial, ``trials.csv`` and ``best.yaml``."""

import csv
import io
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from classifier import runs
from classifier.atomic import write_text
from classifier.search.outcome import epochs, seconds
from classifier.search.study import Study

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


OWN = ("number", "state", "value", "epochs", "seconds", "folder", "reason")  # of trials.csv


def columns(study: Study) -> list[str]:
    """The searched names as headings; one that is also ours is written in full."""
    return [f"hyperparameters.{name}" if name in OWN else name for name in study.space.names]


class Row(NamedTuple):
    """A trial.

    Attributes:
        number: Its number.
        state: complete, pruned, failed, running or waiting.
        value: The best value of the monitor so far; None if there is none.
        searched: The searched values by name, blocks by their labels.
        folder: Its run folder.
        epochs: How many are done.
        seconds: How long it trained, over all its ended starts.
        reason: Why it failed.
    """

    number: int
    state: str
    value: float | None
    searched: dict[str, Any]
    folder: Path
    epochs: int
    seconds: float
    reason: str


class Group(NamedTuple):
    """The trials of one configuration, which differ in their seeds only."""

    rows: list[Row]
    mean: float
    deviation: float | None
    """Sample standard deviation; None for a single trial."""


def rows(study: Study) -> list[Row]:
    """All trials by number."""
    return [_row(study, trial) for trial in study.trials()]


def _row(study: Study, trial: FrozenTrial) -> Row:
    folder = study.trial_folder(trial.number)
    told = trial.user_attrs.get("outcome") if trial.state.is_finished() else None
    if told is None:
        monitor, direction = study.settings.monitor, study.settings.direction
        told = {
            "value": runs.best_value(folder, monitor, direction),
            "epochs": epochs(folder),
            "seconds": seconds(folder),
            "reason": "",
        }
    return Row(
        trial.number,
        STATES[trial.state],
        told["value"],
        study.shown(trial),
        folder,
        told["epochs"],
        told["seconds"],
        told["reason"],
    )


def groups(study: Study) -> list[Group]:
    """The complete configurations, best first; of several seeds only if each is complete."""
    repeats = max(1, len(study.space.seeds))
    everything = rows(study)
    found = []
    for start in range(0, len(everything), repeats):
        members = everything[start : start + repeats]
        values = [row.value for row in members if row.state == "complete" and row.value is not None]
        if len(values) == repeats:
            found.append(Group(members, fmean(values), stdev(values) if len(values) > 1 else None))
    sign = -1 if study.settings.direction == "maximize" else 1
    return sorted(found, key=lambda group: (sign * group.mean, group.rows[0].number))


def write(study: Study) -> None:
    """Writes ``trials.csv`` and ``best.yaml``."""
    write_table(study)
    ranked = groups(study)
    if not ranked:
        return
    top = ranked[0].rows[0]
    spread = f" ± {ranked[0].deviation:.3g}" if ranked[0].deviation is not None else ""
    header = (
        f"# Trial {top.number} of the search '{study.settings.name}': {study.settings.monitor} "
        f"{ranked[0].mean:.6g}{spread}, the best of {len(ranked)}.\n"
    )
    text = study.text(study.trials()[top.number])
    write_text(study.folder / "best.yaml", header + text)


def write_table(study: Study) -> None:
    """Writes ``trials.csv``: a row a trial."""
    file = io.StringIO(newline="")
    table = csv.writer(file)
    names = study.space.names
    table.writerow([*OWN[:3], *columns(study), *OWN[3:]])
    for row in rows(study):
        value = "" if row.value is None else row.value
        searched = [row.searched.get(name, "") for name in names]
        place = row.folder.relative_to(study.folder)
        table.writerow(
            [row.number, row.state, value, *searched, row.epochs, row.seconds, place, row.reason]
        )
    write_text(study.folder / "trials.csv", file.getvalue())
