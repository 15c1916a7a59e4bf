"""Ends a run of several processes of which one hangs, and names it."""

import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.distributed import distributed_c10d

from classifier import terminal

HANG_SECONDS = 600  # as long as a data worker may take
BEATS = 20  # in that time


class Beat(NamedTuple):
    """What a rank says of itself.

    Attributes:
        number: How often it has said so.
        batches: How many batches it has begun.
        place: Which line of code it is at.
        waits: Whether it waits there for other ranks.
        host: The machine it is on.
        pid: Its process there.
    """

    number: int
    batches: int
    place: str
    waits: bool
    host: str
    pid: int


class RankWatch(Callback):
    """Watches, in threads of each rank, whether the run moves; ends it if it does not.

    Otherwise all ranks wait for the one that hangs, until a time limit of the process group that is
    half an hour by default, and then each reports its own connection. Time that the machine sleeps
    does not count.

    Args:
        folder: The run folder, if a run is kept.
    """

    state_key = "RankWatch"

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.batches = 0
        self.heard: list[Beat | None] = []
        self.ended = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            self.ended.clear()
            own = own_store(stage), trainer.global_rank, trainer.world_size, threading.get_ident()
            # Two, for talking takes forever when rank zero is stopped.
            threading.Thread(target=self._talk, args=own, daemon=True).start()
            threading.Thread(target=self._watch, args=(trainer,), daemon=True).start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.ended.set()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.ended.set()

    def _count(self, *args: Any, **kwargs: Any) -> None:
        self.batches += 1

    on_train_batch_start = on_validation_batch_start = _count
    on_test_batch_start = on_predict_batch_start = _count

    def _talk(self, store: Any, rank: int, ranks: int, thread: int) -> None:
        """Says where this rank is, and hears where the others are."""
        here = socket.gethostname(), os.getpid()
        for number in itertools.count():
            place = place_of(thread)
            with contextlib.suppress(RuntimeError):  # rank zero, which has the store, is gone
                store.set(str(rank), json.dumps(Beat(number, self.batches, *place, *here)))
                self.heard = beats(store, ranks)
            if self.ended.wait(HANG_SECONDS / BEATS):
                return

    def _watch(self, trainer: pl.Trainer) -> None:
        """Counts for how long this rank has begun no batch."""
        still = before = 0
        then: list[Beat | None] = []
        while not self.ended.wait(HANG_SECONDS / BEATS):
            still = still + 1 if self.batches and self.batches == before else 0
            before = self.batches
            if still == BEATS:
                then = self.heard
            elif still == BEATS + 3 and then:
                now, still = self.heard, 0
                answered = now[trainer.global_rank] != then[trainer.global_rank]
                if hung := hanging(then, now) if answered else {0: now[0]}:
                    self._end(trainer, hung)

    def _end(self, trainer: pl.Trainer, hung: dict[int, Beat | None]) -> None:
        """Ends this process, and those that it has started; one rank says why."""
        if trainer.global_rank == min(set(range(trainer.world_size)) - set(hung), default=0):
            names = ", ".join(name_of(rank, beat) for rank, beat in hung.items())
            text = f"{names} did not move for {HANG_SECONDS} seconds; the other ranks wait."
            if self.folder:
                folder = terminal.display_path(self.folder)
                text += f"\n{terminal.command('fit', '--ckpt_path', folder)} goes on."
            terminal.error(text)
        else:
            time.sleep(HANG_SECONDS / BEATS)  # until it is said
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(signal.SIGKILL)
        first = hung.get(0)
        if first and (first.host, first.pid) == (socket.gethostname(), os.getppid()):
            time.sleep(3 * HANG_SECONDS / BEATS)  # it may end itself, and this rank with it
            os.kill(first.pid, signal.SIGKILL)
        os._exit(1)  # the main thread waits in a place that no exception reaches


def name_of(rank: int, beat: Beat | None) -> str:
    """A rank, with where it was when it last said so."""
    if beat is None:
        return f"rank {rank}"
    return f"rank {rank} (PID {beat.pid} on {beat.host}, last at {beat.place})"


def beats(store: Any, ranks: int) -> list[Beat | None]:
    """What each rank has said last; None for one that never did."""
    names = [str(rank) for rank in range(ranks)]
    return [Beat(*json.loads(store.get(n))) if store.check([n]) else None for n in names]


def hanging(then: list[Beat | None], now: list[Beat | None]) -> dict[int, Beat | None]:
    """The ranks that the others wait for: silent ones, or else those behind, or not waiting.

    None if no rank waits: all may have much to do at the same place, such as to compile.

    >>> waits, works = Beat(7, 3, "c10d.py:9", True, "a", 1), Beat(7, 3, "own.py:4", False, "a", 2)
    >>> list(hanging([None, None], [waits, works]))
    [1]
    >>> list(hanging([None, works], [waits, works]))
    [1]
    >>> list(hanging([None, None], [waits._replace(batches=2), waits]))
    [0]
    >>> list(hanging([None, None], [works, works]))
    []
    """
    ranks = range(len(now))
    furthest = max(beat.batches for beat in now if beat)
    silent = [rank for rank in ranks if now[rank] is None or now[rank] == then[rank]]
    behind = [rank for rank, beat in enumerate(now) if beat and beat.batches < furthest]
    working = [rank for rank, beat in enumerate(now) if beat and not beat.waits]
    if len(working) == len(now) and not behind and not silent:
        return {}
    return {rank: now[rank] for rank in silent or behind or working or ranks}


def place_of(thread: int) -> tuple[str, bool]:
    """The line that a thread of this process is at, and whether it waits there for other ranks."""
    frame = sys._current_frames()[thread]
    path = Path(frame.f_code.co_filename)
    waits = "distributed" in path.parts and "torch" in path.parts
    return f"{terminal.display_path(path)}:{frame.f_lineno} ({frame.f_code.co_name})", waits


def own_store(stage: str) -> Any:
    """Values that the ranks share, in the store by which they found each other.

    PyTorch has no public name for it; ``tests/test_ddp.py`` fails when the one it has changes.
    """
    # A connection of its own: the main thread may be waiting on the other one.
    store = distributed_c10d._get_default_store().clone()
    store.set_timeout(timedelta(seconds=HANG_SECONDS / BEATS))
    return distributed_c10d.PrefixStore(f"classifier/{stage}", store)
