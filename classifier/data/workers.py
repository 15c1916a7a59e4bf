"""The processes that read data for a loader: none outlives its trainer, and each has a name.

Left to PyTorch, a worker whose trainer is killed while it starts lives forever, a worker that hangs
hangs the trainer, and one that is killed is known by its PID alone.
"""

import multiprocessing
import os
import re
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from lightning_fabric.utilities.seed import pl_worker_init_function
from pytorch_lightning.callbacks import Callback

from classifier.internals.torch import watch_workers_again
from classifier.platform import CHILD_ENDED, die_with_parent, handled_by, ignore_first_stop

HANG_SECONDS = 600
PATH_BYTES = 4096


class WorkerSlot:
    """What a worker says of itself, in memory shared with the trainer."""

    def __init__(self) -> None:
        self.pid: Any = RawValue("q", 0)  # 0 before it has started
        self.path: Any = RawArray("c", PATH_BYTES)  # the file that it reads, or empty

    def __str__(self) -> str:
        path = os.fsdecode(self.path.value)
        return f"(PID {self.pid.value}{f', reading {path!r}' if path else ''})"


class WorkerPool:
    """So many workers of one loader."""

    known: ClassVar["weakref.WeakSet[WorkerPool]"] = weakref.WeakSet()  # those of this process

    def __init__(self, number: int) -> None:
        self.slots = [WorkerSlot() for _ in range(number)]
        self.trainer = os.getpid()
        self.rank = rank_zero_only.rank  # type: ignore[attr-defined]  # set by Lightning, undeclared
        WorkerPool.known.add(self)


own_slot: WorkerSlot | None = None  # that of this process, if it is a worker


def worker_settings(number: int) -> dict[str, Any]:
    """Returns the arguments of a ``DataLoader`` that reads with so many processes; for 0, none.

    A loader that gets nothing from them for ten minutes raises.
    """
    if number == 0:
        return {}
    watch_workers_again()
    init = partial(init_worker, WorkerPool(number))
    return {"num_workers": number, "worker_init_fn": init, "timeout": HANG_SECONDS}


def init_worker(pool: WorkerPool, number: int) -> None:
    """Binds this process, a worker, to its trainer, and does what Lightning does for one."""
    global own_slot
    die_with_parent(pool.trainer)
    ignore_first_stop()
    own_slot = pool.slots[number]
    own_slot.pid.value = os.getpid()
    pl_worker_init_function(number, pool.rank)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Notes, in a worker, which file is being read meanwhile; 2 microseconds."""
    if own_slot is None:
        yield
        return
    own_slot.path.value = os.fsencode(path)[: PATH_BYTES - 1]
    try:
        yield
    finally:
        own_slot.path.value = b""


class WorkerErrorReporter(Callback):
    """Says which worker failed a loader, and what it was reading; ends those that hang.

    A worker that is killed fails whatever the trainer is about at the time, not only its loader.
    """

    state_key = "WorkerNames"
    reported = False  # whether it said so of the error that ended a run

    def on_exception(self, trainer: pl.Trainer, _: Any, exception: BaseException) -> None:
        if isinstance(exception, RuntimeError):
            # While a batch is awaited, the cause alone tells how a worker ended.
            texts = [explain(str(error)) for error in (exception.__cause__, exception)]
            if text := texts[0] or texts[1]:
                exception.args = (text,)
                self.reported = True


def explain(text: str) -> str | None:
    """Names the worker in what PyTorch says of it; returns None if that is not what it says."""
    if text.startswith("DataLoader timed out"):
        return _kill_stalled_workers()
    found = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) ([^.]+)", text)
    if found is None:
        return None
    lost = [int(pid) for pid in found[1].split(",")]
    names = ", ".join(f"{number} {slot}" for number, slot in _slots() if slot.pid.value in lost)
    if not names:
        return None
    text = f"data worker {names} {found[2].strip()}."
    if "exit code" in text:
        return text
    memory = "shared memory, /dev/shm," if "Bus error" in text else "memory"
    return (
        f"{text}\nMost often {memory} ran out; fewer data.num_workers or a smaller "
        "data.batch_size take less."
    )


def _kill_stalled_workers() -> str | None:
    alive = {child.pid: child for child in multiprocessing.active_children()}
    running = [(number, slot) for number, slot in _slots() if slot.pid.value in alive]
    # Those that read nothing wait for the one that the trainer waits for.
    stalled = [(number, slot) for number, slot in running if slot.path.value] or running
    if not stalled:
        return None
    names = ", ".join(f"{number} {slot}" for number, slot in stalled)
    with handled_by(signal.SIG_DFL, CHILD_ENDED):  # PyTorch's reaction is to raise again
        for _, slot in stalled:
            process = alive[slot.pid.value]
            process.kill()  # stopped or not; otherwise this process could not end
            process.join(5)  # a disk that is gone may hold it even now
    return (
        f"data worker {names} did not deliver for {HANG_SECONDS} seconds.\n"
        "See whether the file can be read, and how its disk or network is."
    )


def _slots() -> list[tuple[int, WorkerSlot]]:
    return [place for pool in WorkerPool.known for place in enumerate(pool.slots)]
