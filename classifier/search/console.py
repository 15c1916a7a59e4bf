"""The words in which a search speaks of trials, values and times."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from classifier.search.results import Group, Row, rows
from classifier.search.space import SEED
from classifier.search.study import Study


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


def counts(everything: Sequence[Row], total: int | None) -> str:
    """How many trials are in which state."""
    states = Counter(row.state for row in everything)
    listed = [f"{states[s]} {s}" for s in ("complete", "pruned", "failed", "running") if states[s]]
    ended = sum(states[s] for s in ("complete", "pruned", "failed"))
    return (
        f"{ended} of {max(total or 0, len(everything))} trials done ({', '.join(listed) or 'none'})"
    )


def time_left(study: Study, workers: int) -> str:
    """Estimates how long the rest of the trials takes."""
    everything = rows(study)[: study.total]
    ended = [row for row in everything if row.state in ("complete", "pruned")]
    if not study.total:
        return "as many as the time allows"
    if not ended:
        return "no estimate before the first trial is complete"
    mean, epochs = fmean(row.seconds for row in ended), fmean(row.epochs for row in ended)
    left = study.total - sum(row.state in ("complete", "pruned", "failed") for row in everything)
    begun = sum(min(1, row.epochs / epochs) for row in everything if row.state == "running")
    trials = "trial" if left == 1 else "trials"
    return f"{left} {trials} left, about {duration((left - begun) * mean / max(1, workers))}"


def duration(seconds: float) -> str:
    """A time in words: ``40 s``, ``3 min 20 s``, ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
