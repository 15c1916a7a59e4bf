"""What the run folder of a trial says: the values of its epochs, and how it ended."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import TrialState

from classifier import runs

START = "started at "  # how the output of each start of a fit begins


class Outcome(NamedTuple):
    """What became of a trial.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        value: The best value of its epochs; None if it failed.
        reason: Why it failed.
        epochs: How many it trained.
        seconds: How long it trained, over all its starts.
    """

    state: TrialState
    value: float | None = None
    reason: str = ""
    epochs: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """As the storage keeps it, beside the state."""
        return {name: value for name, value in self._asdict().items() if name != "state"}


def is_finished(folder: Path) -> bool:
    """Whether the fit came to its end."""
    return _record(folder).get("state") == "finished"


def _record(folder: Path) -> dict[str, Any]:
    """The run's record; empty if there is none that can be read."""
    try:
        return runs.read_record(folder)
    except (FileNotFoundError, ValueError):
        return {}


def epochs(folder: Path) -> int:
    """How many epochs are done."""
    ended = [row for row in runs.read_metrics(folder) if runs.ends_epoch(row)]
    return int(ended[-1]["epoch"]) + 1 if ended else 0


def seconds(folder: Path) -> float:
    """How long the ended starts of a trial trained."""
    record = _record(folder)
    starts = [record, *record.get("resumed", [])]
    return round(sum((float(start.get("seconds", 0)) for start in starts), 0.0), 3)


def outcome(
    folder: Path, code: int, pruned: bool, monitor: str, direction: runs.Direction
) -> Outcome:
    """Says what became of a trial whose process has ended by itself.

    Args:
        folder: The trial's folder.
        code: The exit code of its fit.
        pruned: Whether the pruner ended it.
        monitor: The metric searched for.
        direction: minimize or maximize.
    """
    rows = [row for row in runs.read_metrics(folder) if row.get(monitor)]
    diverged = [row for row in rows if not math.isfinite(float(row[monitor]))]
    value = runs.best_value(folder, monitor, direction)
    if code:
        reason = why_failed(folder, code)
    elif diverged:
        first = diverged[0]
        place = "after" if runs.ends_epoch(first) else "in"
        reason = f"{monitor} is {first[monitor]} {place} epoch {int(first['epoch']) + 1}"
    elif value is None:
        reason = f"no epoch measured {monitor}"
    else:
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        return Outcome(state, value, "", epochs(folder), seconds(folder))
    return Outcome(TrialState.FAIL, None, reason, epochs(folder), seconds(folder))


def why_failed(folder: Path, code: int) -> str:
    """The last error that the fit printed since its newest start, on one line."""
    output = folder / "output.log"
    text = output.read_text(errors="replace") if output.is_file() else ""
    lines = text.rpartition(START)[2].splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else f"exit code {code}; see {output}"
