"""Ends a run of several processes of which one hangs, and names it."""

import contextlib
import functools
import itertools
import json
import os
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
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, undeclared

from classifier import platform, terminal
from classifier.runs import RunFolder

HANG_SECONDS = 600  # as long as a data worker may take
BEATS = 20  # in that time


class Heartbeat(NamedTuple):
    """What a rank says of itself."""

    number: int  # how often it has said so
    batches: int  # that it has begun
    place: str  # the line of code that it is at
    waits: bool  # there for other ranks
    host: str
    pid: int

    def __str__(self) -> str:
        return f"(PID {self.pid} on {self.host}, last at {self.place})"


class RankWatch(Callback):
    """Watches, in threads of each rank, whether the run moves; ends it if it does not.

    ``DDPStrategy(timeout=...)``, half an hour by default, names its own connection, leaves the rank
    that hangs alive, and never ends where that is a stopped rank zero; ``monitored_barrier`` waits
    once more a batch, for a rank zero that runs. Time that the machine sleeps does not count.
    """

    state_key = "RankWatch"

    def __init__(self, run: RunFolder | None) -> None:
        self.run = run
        self.batches = 0
        self.heard: list[Heartbeat | None] = []
        self.ended = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            self.ended.clear()
            here = open_store(trainer), threading.get_ident()
            # Two, for talking takes forever when rank zero is stopped.
            threading.Thread(target=self._talk, args=(trainer, *here), daemon=True).start()
            threading.Thread(target=self._watch, args=(trainer,), daemon=True).start()

    def _end_watch(self, *args: Any, **kwargs: Any) -> None:
        self.ended.set()

    def _count(self, *args: Any, **kwargs: Any) -> None:
        self.batches += 1

    teardown = on_exception = _end_watch
    on_train_batch_start = on_validation_batch_start = _count
    on_test_batch_start = on_predict_batch_start = _count

    def _talk(self, trainer: pl.Trainer, store: TCPStore, thread: int) -> None:
        """Says where this rank is, and hears where the others are."""
        here = socket.gethostname(), os.getpid()
        for number in itertools.count():
            beat = Heartbeat(number, self.batches, *place_of(thread), *here)
            with contextlib.suppress(RuntimeError):  # rank zero, which has the store, is gone
                store.set(str(trainer.global_rank), json.dumps(beat))
                names = [str(rank) for rank in range(trainer.world_size)]
                told = [store.get(name) if store.check([name]) else None for name in names]
                self.heard = [Heartbeat(*json.loads(x)) if x else None for x in told]
            if self.ended.wait(HANG_SECONDS / BEATS):
                return

    def _watch(self, trainer: pl.Trainer) -> None:
        """Counts for how long this rank has begun no batch."""
        still = before = 0
        then: list[Heartbeat | None] = []
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

    def _end(self, trainer: pl.Trainer, hung: dict[int, Heartbeat | None]) -> None:
        """Ends this process, and those that it has started; one rank says why."""
        if trainer.global_rank == min(set(range(trainer.world_size)) - set(hung), default=0):
            names = ", ".join(f"rank {rank} {beat or ''}".strip() for rank, beat in hung.items())
            text = f"{names} did not move for {HANG_SECONDS} seconds; the other ranks wait."
            if self.run:
                text += f" Resume with\n  {self.run.resume_command}"
            terminal.error(text)
        else:
            time.sleep(HANG_SECONDS / BEATS)  # until it is said
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(platform.KILL)
        first = hung.get(0)
        if first and (first.host, first.pid) == (socket.gethostname(), os.getppid()):
            time.sleep(3 * HANG_SECONDS / BEATS)  # it may end itself, and this rank with it
            os.kill(first.pid, platform.KILL)
        os._exit(1)  # the main thread waits in a place that no exception reaches


def hanging(
    then: list[Heartbeat | None], now: list[Heartbeat | None]
) -> dict[int, Heartbeat | None]:
    """The ranks that the others wait for: silent ones, or else those behind, or not waiting.

    None if no rank waits: all may have much to do at the same place, such as to compile.

    >>> waits = Heartbeat(7, 3, "c10d.py:9", True, "a", 1)
    >>> works = Heartbeat(7, 3, "own.py:4", False, "a", 2)
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


def open_store(trainer: pl.Trainer) -> TCPStore:
    """Values that the ranks share; on the store of the process group they may be waiting."""
    host, wait = os.environ["MASTER_ADDR"], timedelta(seconds=HANG_SECONDS / BEATS)
    connect = functools.partial(TCPStore, host, timeout=wait, wait_for_workers=False)
    store = connect(port=0, is_master=True) if trainer.is_global_zero else None
    port = trainer.strategy.broadcast(store.port if store else 0)
    return store or connect(port=port)
