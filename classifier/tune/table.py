"""The table that ``tune`` shows: a line for each candidate, as soon as it is measured."""

from rich.status import Status

from classifier import terminal

HEADER = f"{'images/s':>10}  {'ratio':>6}  {'loss':>8}  candidate"


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

    def add(self, text: str, rate: float | None, ratio: float | None, loss: float | None) -> None:
        """Shows a row.

        Args:
            text: In what the candidate differs from the config, and what became of it.
            rate: Images per second; None if it was not timed.
            ratio: How many times as fast as the config; None if it was not timed.
            loss: Mean of the first steps; None if there is none to compare.
        """
        shown = ["" if rate is None else f"{rate:,.0f}", "" if ratio is None else f"{ratio:.2f}"]
        shown.append("" if loss is None else f"{loss:.4f}")
        lines = ["{:>10}  {:>6}  {:>8}  {}".format(*shown, text)]
        for line in lines if self.lines else [HEADER, *lines]:
            self.lines.append(line)
            terminal.out(line)

    def announce(self, name: str) -> None:
        """Says what is measured now."""
        self.status.update(f"measuring: {name}")
