"""What came out of a search: of each trial, by its run folder, and of all of them together."""

import csv
import io
import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from classifier import runs
from classifier.atomic import write_text
from classifier.search.process import OUTPUT, START
from classifier.search.storage import Outcome, TrialRecord
from classifier.search.study import Study

OWN = ("number", "state", "value", "epochs", "seconds", "folder", "reason")  # of trials.csv


class Row(NamedTuple):
    """A trial."""

    number: int
    state: str  # complete, pruned, failed, running or waiting
    outcome: Outcome  # or what it has reached so far
    values: dict[str, Any]  # the searched ones by name, blocks by their labels
    folder: Path

    @property
    def has_ended(self) -> bool:
        return self.state in ("complete", "pruned", "failed")


class Group(NamedTuple):
    """The trials of one configuration, which differ in what is repeated only."""

    rows: list[Row]
    mean: float
    deviation: float | None  # of a sample; None for a single trial


class Results:
    """The trials of a search as they are at one moment, ``rows`` by number."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.trials = study.trials()
        self.rows = [_row(study, trial) for trial in self.trials]

    @cached_property
    def ranked(self) -> list[Group]:
        """The complete configurations, best first; of repeated ones only if each is complete."""
        repeats = max(1, len(self.study.space.repeats))
        found = []
        for start in range(0, len(self.rows), repeats):
            members = self.rows[start : start + repeats]
            complete = [row.outcome.value for row in members if row.state == "complete"]
            values = [value for value in complete if value is not None]
            if len(values) == repeats:
                deviation = stdev(values) if repeats > 1 else None
                found.append(Group(members, fmean(values), deviation))
        sign = -1 if self.study.settings.direction == "maximize" else 1
        return sorted(found, key=lambda group: (sign * group.mean, group.rows[0].number))

    @property
    def columns(self) -> list[str]:
        """The searched names as headings; one that is also ours is written in full."""
        names = self.study.space.names
        return [f"hyperparameters.{name}" if name in OWN else name for name in names]

    @property
    def best_config(self) -> str:
        """The config of the best trial, of which there is one."""
        return self.study.config_of(self.trials[self.ranked[0].rows[0].number])

    def write(self) -> None:
        """Writes ``trials.csv``, a row a trial, and ``best.yaml``."""
        file = io.StringIO(newline="")
        table = csv.writer(file)
        table.writerow([*OWN[:3], *self.columns, *OWN[3:]])
        for number, state, outcome, values, folder in self.rows:
            value = "" if outcome.value is None else outcome.value
            searched = [values.get(name, "") for name in self.study.space.names]
            place = folder.relative_to(self.study.folder)
            rest = [outcome.epochs, outcome.seconds, place, outcome.reason]
            table.writerow([number, state, value, *searched, *rest])
        write_text(self.study.folder / "trials.csv", file.getvalue())
        if not self.ranked:
            return
        best, settings = self.ranked[0], self.study.settings
        spread = "" if best.deviation is None else f" ± {best.deviation:.3g}"
        header = (
            f"# Trial {best.rows[0].number} of the search '{settings.name}': {settings.monitor} "
            f"{best.mean:.6g}{spread}, the best of {len(self.ranked)}.\n"
        )
        write_text(self.study.folder / "best.yaml", header + self.best_config)


def _row(study: Study, trial: FrozenTrial) -> Row:
    folder = study.trial_folder(trial.number)
    noted = TrialRecord.of(trial).outcome if trial.state.is_finished() else None
    reached = noted or TrialRun(folder, study.settings.monitor, study.settings.direction).reached
    state = "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()
    return Row(trial.number, state, reached, study.values_of(trial), folder)


class TrialRun:
    """What the run folder of a trial says, read once; there need not be a run in it yet.

    Attributes:
        is_finished: Whether the fit came to its end.
        ended: The rows of epochs that have ended.
        reached: The best value so far, the epochs, and how long the ended starts trained.
    """

    def __init__(self, folder: Path, monitor: str, direction: runs.Direction) -> None:
        self.folder = folder
        self.monitor = monitor
        self.rows = runs.read_metrics(folder)
        try:
            record = runs.read_record(folder)
        except (FileNotFoundError, ValueError):  # damaged
            record = {}
        self.is_finished = record.get("state") == "finished"
        self.ended = runs.epoch_rows(self.rows, self.is_finished)
        starts = [record, *record.get("resumed", [])]
        self.reached = Outcome(
            value=runs.best_value(self.rows, monitor, direction),
            epochs=int(self.ended[-1]["epoch"]) + 1 if self.ended else 0,
            seconds=round(sum((float(start.get("seconds", 0)) for start in starts), 0.0), 3),
        )

    def outcome(self, code: int) -> Outcome:
        """What became of the trial, whose process has ended by itself with an exit code."""
        reason = why_failed(self.folder, code) if code else self._why_unusable()
        return replace(self.reached, value=None, reason=reason) if reason else self.reached

    def _why_unusable(self) -> str:
        """Why no value of a fit that succeeded counts; nothing if one does."""
        for row in self.rows:
            text = row.get(self.monitor)
            if text and not math.isfinite(float(text)):
                place = "after" if row in self.ended else "in"
                return f"{self.monitor} is {text} {place} epoch {int(row['epoch']) + 1}"
        return f"no epoch measured {self.monitor}" if self.reached.value is None else ""


def why_failed(folder: Path, code: int) -> str:
    """The last error that the fit printed since its newest start, on one line."""
    output = folder / OUTPUT
    text = output.read_text("utf-8", errors="replace") if output.is_file() else ""
    lines = text.rpartition(START)[2].splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else f"exit code {code}; see {output}"
