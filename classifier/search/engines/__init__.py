"""Starts workers: here as threads, elsewhere through the scheduler of a cluster."""

import os
import shutil
import subprocess
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import Protocol

from classifier import platform
from classifier.atomic import open_to_append
from classifier.cli.errors import is_users, message_of
from classifier.search.settings import Settings
from classifier.search.signed import refuse_of_others
from classifier.search.worker import Stop, work

RESTARTS = 3  # of one worker, in a search


class Engine(Protocol):
    """Workers that were started."""

    def alive(self) -> int:
        """How many are running, or waiting to."""

    def stop(self) -> None:
        """Lets them requeue their trials and end."""

    def describe(self) -> str:
        """Says what was started, on one line."""


def start(settings: Settings, workers: int, until: float | None) -> Engine:
    """Starts workers, which begin no trial after the Unix time ``until``."""
    if settings.engine != "local":
        remedy = "'classifier search --config FILE' begins one of your own."
        refuse_of_others(f"engine {settings.engine}", remedy)
        engine = import_module(f"{__name__}.{settings.engine}")
        started: Engine = engine.start(settings.folder, workers, settings.engine_options, until)
        return started
    share_cores(settings.workers)
    return Local(settings.folder, shares(settings.workers)[:workers], until)


class Local:
    """Workers on this machine, with its processors and GPUs shared out among them.

    They are threads: all that takes time happens in the trials, which are processes, forked from
    one server. All end with this process, however it ends. ``shares`` has for each worker the
    variables that give its trials their GPUs.
    """

    def __init__(self, folder: Path, shares: list[dict[str, str]], until: float | None) -> None:
        self.folder, self.shares, self.until = folder, shares, until
        self.stopping = Stop()
        self.restarts = [0] * len(shares)
        self.pool = ThreadPoolExecutor(len(shares), "worker")
        self.workers = [self._start(slot) for slot in range(len(shares))]

    def _start(self, slot: int) -> Future[None]:
        # With what is trusted, which a thread would not know of.
        return self.pool.submit(copy_context().run, self._work, slot)

    def _work(self, slot: int) -> None:
        try:
            work(self.folder, self.stopping, self.until, self.shares[slot])
        except Exception as error:
            trace = "" if is_users(error) else traceback.format_exc()
            with open_to_append(self.folder / "workers" / f"local-{slot}.log") as log:
                log.write(f"{trace}error: {message_of(error)}\n".encode())
            raise

    def alive(self) -> int:
        """How many run; those that failed are started again."""
        for slot, worker in enumerate(self.workers):
            if worker.done() and worker.exception() and self.restarts[slot] < RESTARTS:
                self.restarts[slot] += 1
                self.workers[slot] = self._start(slot)
        return sum(not worker.done() for worker in self.workers)

    def stop(self) -> None:
        self.stopping.set()
        self.pool.shutdown()

    def describe(self) -> str:
        workers, threads = len(self.workers), os.environ["OMP_NUM_THREADS"]
        gpus = [share["CUDA_VISIBLE_DEVICES"] for share in self.shares if share]
        listed = f", GPUs {' | '.join(gpus)}" if gpus else ""
        return (
            f"{workers} worker{'s' if workers > 1 else ''} on this machine, "
            f"{threads} thread{'s' if threads != '1' else ''} each{listed}"
        )


def share_cores(workers: int) -> None:
    """Gives each worker's trials as many threads, unless the user did.

    Here and now, because the server of trials reads it when it starts.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, platform.cores() // workers)))


def shares(workers: int) -> list[dict[str, str]]:
    """The environment of each worker: its GPUs, if there are any.

    With more workers than GPUs several share one; with more GPUs each gets several, and trains
    with all of them unless the config says otherwise.
    """
    found = gpus()
    result: list[dict[str, str]] = []
    for slot in range(workers):
        many = len(found) // workers
        own = found[slot * many : (slot + 1) * many] or found[slot % max(1, len(found)) :][:1]
        result.append({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {})
    return result


def gpus() -> list[str]:
    """The GPUs that this process may use, without torch, whose import takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return answer.stdout.split() if answer.returncode == 0 else []
