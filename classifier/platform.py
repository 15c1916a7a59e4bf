"""What a command asks the system: the signals that tell it to end, the processors it may use."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@contextlib.contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, a function handles those that are not ignored, as a shell has it in the background.

    A thread that is not the main one gets no signals, so nothing changes there.
    """
    before = {number: signal.getsignal(number) for number in STOPS}
    replaced = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    if threading.current_thread() is not threading.main_thread():
        replaced = {}
    for number in replaced:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in replaced.items():
            signal.signal(number, old)


def exit_now(number: int, frame: FrameType | None) -> None:
    """Ends the process at once, with 128 + number.

    An exception would be lost in some places, as in an import that catches any or while a data
    worker starts, and would wait for what those workers are about.
    """
    for clean in reversed(_cleaning):
        with contextlib.suppress(Exception):
            clean()
    os._exit(128 + number)


@contextlib.contextmanager
def cleaning(clean: Callable[[], object]) -> Iterator[None]:
    """Within, ``exit_now`` calls a function before it ends the process."""
    _cleaning.append(clean)
    try:
        yield
    finally:
        _cleaning.remove(clean)


_cleaning: list[Callable[[], object]] = []


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
