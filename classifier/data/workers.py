"""The processes that read data for a loader: none outlives its trainer, and each has a name.

Left to PyTorch, a worker whose trainer is killed while it starts lives forever, a worker that hangs
hangs the trainer, and one that is killed is known by its PID alone.
"""

import ctypes
import multiprocessing
import os
import re
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from lightning_fabric.utilities.seed import pl_worker_init_function
from pytorch_lightning.callbacks import Callback
from torch.utils.data._utils import signal_handling

from classifier.platform import STOPS

HANG_SECONDS = 600
PATH_BYTES = 4096
PR_SET_PDEATHSIG = 1  # of prctl(2)


def workers(number: int) -> dict[str, Any]:
    """Arguments of a ``DataLoader`` that reads with so many processes; with none, none.

    A loader that gets nothing from them for ten minutes raises.
    """
    if number == 0:
        return {}
    return {"num_workers": number, "worker_init_fn": Crew(number), "timeout": HANG_SECONDS}


class Desk(ctypes.Structure):
    """Where a worker lays, in memory shared with the trainer, what it is about."""

    _fields_: ClassVar = [("pid", ctypes.c_int64), ("path", ctypes.c_char * PATH_BYTES)]


class Crew:
    """The workers of one loader; each calls it, with its number, when it starts.

    Args:
        number: How many workers.
    """

    known: ClassVar["weakref.WeakSet[Crew]"] = weakref.WeakSet()
    """Those of this process."""
    desk: ClassVar[Desk | None] = None
    """That of this process, if it is a worker."""

    def __init__(self, number: int) -> None:
        self.desks = multiprocessing.RawArray(Desk, number)
        self.trainer = os.getpid()
        self.rank = rank_zero_only.rank  # type: ignore[attr-defined]  # set by Lightning, undeclared
        Crew.known.add(self)
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL:
            # PyTorch notices at once that a worker died, by a handler that it sets only once; but
            # Lightning takes it away at the end of each run. So it is told to set it again.
            signal_handling._SIGCHLD_handler_set = False

    def __call__(self, number: int) -> None:
        """Binds this process to its trainer, and does what Lightning does for a worker."""
        die_with(self.trainer)
        for stop in STOPS:
            signal.signal(stop, _leave_to_trainer)
        Crew.desk = self.desks[number]
        Crew.desk.pid = os.getpid()
        pl_worker_init_function(number, self.rank)


def die_with(trainer: int) -> None:
    """Ends this process when the one that started it dies, however it dies."""
    parent = multiprocessing.parent_process()
    if parent is not None and multiprocessing.get_start_method() == "forkserver":
        # The kernel takes the fork server for the parent, which lives as long as this process.
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    elif sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != trainer:  # it is dead already
            os._exit(1)


def _leave_to_trainer(number: int, frame: FrameType | None) -> None:
    """Ignores the first signal, as those that a cluster or a terminal sends to all processes."""
    signal.signal(number, signal.SIG_DFL)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Notes, in a worker, which file is being read meanwhile; 2 microseconds."""
    desk = Crew.desk
    if desk is None:
        yield
        return
    desk.path = os.fsencode(path)[: PATH_BYTES - 1]
    try:
        yield
    finally:
        desk.path = b""


class WorkerNames(Callback):
    """Says which worker failed a loader, and what it was reading; ends those that hang.

    Attributes:
        named: Whether it said so of the error that ended a run.
    """

    state_key = "WorkerNames"
    named = False

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if not isinstance(exception, RuntimeError):
            return
        # While a batch is awaited, the cause alone tells how a worker ended.
        texts = [named(str(error)) for error in (exception.__cause__, exception)]
        if text := texts[0] or texts[1]:
            exception.args = (text,)
            self.named = True


def named(text: str) -> str | None:
    """What PyTorch says of a worker, with its name; None if that is not what it says."""
    if text.startswith("DataLoader timed out"):
        return _hung()
    told = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) ([^.]+)", text)
    if told is None:
        return None
    lost = [int(pid) for pid in told[1].split(",")]
    names = [_name(desk, number) for desk, number in _desks() if desk.pid in lost]
    if not names:
        return None
    text = f"data worker {', '.join(names)} {told[2].strip()}."
    if "exit code" in text:
        return text
    memory = "shared memory, /dev/shm," if "Bus error" in text else "memory"
    return (
        f"{text}\nMost often {memory} ran out; fewer data.num_workers or a smaller "
        "data.batch_size take less."
    )


def _hung() -> str | None:
    alive = {child.pid: child for child in multiprocessing.active_children()}
    desks = [(desk, number) for desk, number in _desks() if desk.pid in alive]
    # Those that are about nothing wait for the one that the trainer waits for.
    hung = [(desk, number) for desk, number in desks if desk.path] or desks
    if not hung:
        return None
    names = ", ".join(_name(desk, number) for desk, number in hung)
    react = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's reaction is to raise again
    for desk, _ in hung:
        alive[desk.pid].kill()  # stopped or not; otherwise this process could not end
        alive[desk.pid].join(5)  # a disk that is gone may hold it even now
    signal.signal(signal.SIGCHLD, react)
    return (
        f"data worker {names} did not deliver for {HANG_SECONDS} seconds.\n"
        "See whether the file can be read, and how its disk or network is."
    )


def _desks() -> list[tuple[Desk, int]]:
    return [(desk, number) for crew in Crew.known for number, desk in enumerate(crew.desks)]


def _name(desk: Desk, number: int) -> str:
    path = os.fsdecode(desk.path)
    return f"{number} (PID {desk.pid}{f', reading {path!r}' if path else ''})"
