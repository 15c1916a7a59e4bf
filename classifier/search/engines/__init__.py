"""Starts workers: here as threads, elsewhere through the scheduler of a cluster."""

import os
import subprocess
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import Protocol

from classifier import platform
from classifier.atomic import open_to_append
from classifier.cli.messages import is_users, message_of
from classifier.search.settings import Settings
from classifier.search.signed import refuse_of_others
from classifier.search.worker import Stop, work

RESTARTS = 3  # of one worker, in a search
SMI_SECONDS = 60  # until nvidia-smi is given up, as with a driver that hangs


class Engine(Protocol):
    """Workers that were started."""

    def alive(self) -> int:
        """How many are running, or waiting to."""

    def stop(self) -> None:
        """Lets them requeue their trials and end."""

    def describe(self) -> str:
        """Says what was started, on one line."""


def start(settings: Settings, workers: int, until: float | None) -> Engine:
    """Starts workers, which begin no trial after the Unix time ``until``.

    An engine's module has such a function, too; all nodes see the search folder that it is given.
    """
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

    They are threads: all that takes time happens in the trials, which are processes. All end with
    this process, however it ends. ``shares`` has for each worker the variables that give its trials
    their GPUs.
    """

    def __init__(self, folder: Path, shares: list[dict[str, str]], until: float | None) -> None:
        self.folder, self.shares, self.until = folder, shares, until
        self.stopping = Stop()
        self.pool = ThreadPoolExecutor(len(shares), "worker")
        # With what is trusted, which a thread would not know of.
        self.workers = [
            self.pool.submit(copy_context().run, self._work, slot) for slot in range(len(shares))
        ]

    def _work(self, slot: int) -> None:
        """Works, and after a failure again."""
        for _ in range(1 + RESTARTS):
            try:
                work(self.folder, self.stopping, self.until, self.shares[slot])
                return
            except Exception as error:
                trace = "" if is_users(error) else traceback.format_exc()
                path = self.folder / "workers" / f"local-{slot}.log"
                with suppress(OSError), open_to_append(path) as log:  # the disk may be full
                    log.write(f"{trace}error: {message_of(error)}\n".encode())

    def alive(self) -> int:
        return sum(not worker.done() for worker in self.workers)

    def stop(self) -> None:
        self.stopping.set()
        self.pool.shutdown()

    def describe(self) -> str:
        workers, threads = len(self.workers), os.environ[platform.THREADS]
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
    os.environ.setdefault(platform.THREADS, str(max(1, platform.cores() // workers)))


def shares(workers: int) -> list[dict[str, str]]:
    """The environment of each worker: its GPUs, if there are any.

    With more workers than GPUs several share one; with more GPUs each gets several, and trains
    with all of them unless the config says otherwise.
    """
    found = gpus()
    if not found:
        return [{}] * workers
    many = len(found) // workers
    own = [found[slot * many :][:many] or [found[slot % len(found)]] for slot in range(workers)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in own]


def gpus() -> list[str]:
    """The GPUs that this process may use, without torch, whose import takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu not in ("", "-1")]
    cards = [str(number) for number in range(platform.nvidia_cards())]
    program = platform.program("nvidia-smi")
    if program is None:  # as in many containers
        return cards
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return cards
    return answer.stdout.split() if answer.returncode == 0 else []
