"""Being told to stop."""

import os
import select
import signal
from types import FrameType


class Stop:
    """SIGTERM, SIGINT, or the end of whoever holds the other end of standard input.

    A signal only sets a mark and wakes up whoever waits, in any thread, so that nothing is torn.

    Args:
        attached: Whether to end with the process that started this one.

    Attributes:
        signal: The number of the signal; 0 while there is none.
        descriptors: File descriptors that become readable when it is time to stop.
    """

    def __init__(self, attached: bool = False) -> None:
        self.signal = 0
        readable, self._writable = os.pipe()
        self.descriptors = [readable, 0] if attached else [readable]

    @classmethod
    def on_signals(cls, attached: bool = False) -> "Stop":
        """One that this process's signals set."""
        stop = cls(attached)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop.set)
        return stop

    def set(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Says to stop."""
        self.signal = number
        os.write(self._writable, b"!")

    def wait(self, seconds: float) -> bool:
        """Whether to stop; waits for that if not yet."""
        if not self.signal and select.select(self.descriptors, [], [], seconds)[0]:
            self.signal = self.signal or signal.SIGTERM  # whoever started this is gone
        return bool(self.signal)

    @property
    def exit_code(self) -> int:
        """130 or 143; 0 if nothing said to stop."""
        return 128 + self.signal if self.signal else 0
