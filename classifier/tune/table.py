"""The table that ``tune`` shows: a line for each candidate, as soon as it is measured."""

from dataclasses import dataclass

from rich.status import Status

from classifier import terminal

HEADER = f"{'images/s':>10}  {'ratio':>6}  {'loss':>8}  candidate"


@dataclass(frozen=True)
class Row:
    """What is known of a candidate.

    Attributes:
        name: In what it differs from the config.
        rate: Images per second; None if it was not timed.
        ratio: How many times as fast as the config; None if it was not timed.
        loss: Mean of the first steps; None if there is none to compare.
        verdict: What became of it, and why.
    """

    name: str
    rate: float | None
    ratio: float | None
    loss: float | None
    verdict: str


class Table:
    """Shows rows as they come, and meanwhile, on a terminal, what is being measured.

    Args:
        status: What a terminal shows below the rows.

    Attributes:
        lines: All lines so far.
    """

    def __init__(self, status: Status) -> None:
        self.status = status
        self.lines: list[str] = []

    def add(self, row: Row) -> None:
        """Shows a row."""
        rate = "" if row.rate is None else f"{row.rate:,.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        loss = "" if row.loss is None else f"{row.loss:.4f}"
        verdict = f": {row.verdict}" if row.verdict else ""
        lines = [f"{rate:>10}  {ratio:>6}  {loss:>8}  {row.name}{verdict}"]
        for line in lines if self.lines else [HEADER, *lines]:
            self.lines.append(line)
            terminal.out(line)

    def announce(self, name: str) -> None:
        """Says what is measured now."""
        self.status.update(f"measuring: {name}")
