"""Starts workers: here as processes, elsewhere through the scheduler of a cluster."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

RESTARTS = 3  # of one worker, in a search


class Engine(Protocol):
    """Workers that were started."""

    def alive(self) -> int:
        """How many are running, or waiting to."""

    def stop(self) -> None:
        """Lets them put back their trials and end."""

    def describe(self) -> str:
        """Says what was started, on one line."""


def start(
    name: str, folder: Path, workers: int, options: Mapping[str, Any], until: float | None
) -> Engine:
    """Starts workers.

    Args:
        name: ``local``, ``slurm`` or ``ray``.
        folder: The search folder.
        workers: How many.
        options: Options of the engine.
        until: Unix time after which they begin no trial.
    """
    if name == "slurm":
        from classifier.search import slurm

        return slurm.start(folder, workers, options, until)
    if name == "ray":
        from classifier.search import cluster_ray

        return cluster_ray.start(folder, workers, options, until)
    return Local(folder, workers, until)


class Local:
    """Workers on this machine, with its processors and GPUs shared out among them.

    One that dies is started again. All end with this process, however it ends.

    Args:
        folder: The search folder.
        workers: How many.
        until: Unix time after which they begin no trial.
    """

    def __init__(self, folder: Path, workers: int, until: float | None) -> None:
        self.folder = folder
        self.until = until
        self.shares = shares(workers)
        self.restarts = [0] * workers
        self.processes = [self._start(slot) for slot in range(workers)]

    def _start(self, slot: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "classifier", "search", "worker", str(self.folder)]
        command += ["--attached"]
        if self.until is not None:
            command += ["--until", str(self.until)]
        with (self.folder / "workers" / f"local-{slot}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # held open: its end tells the worker that we are gone
                stdout=log,
                stderr=log,
                env={**os.environ, **self.shares[slot]},
                start_new_session=True,  # Ctrl-C is for us alone
            )

    def alive(self) -> int:
        """How many run; those that died are started again."""
        for slot, process in enumerate(self.processes):
            if process.poll() and self.restarts[slot] < RESTARTS:
                self.restarts[slot] += 1
                self.processes[slot] = self._start(slot)
        return sum(process.poll() is None for process in self.processes)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            process.wait()

    def describe(self) -> str:
        workers, threads = len(self.processes), self.shares[0]["OMP_NUM_THREADS"]
        gpus = [share["CUDA_VISIBLE_DEVICES"] for share in self.shares if len(share) > 1]
        listed = f", GPUs {' | '.join(gpus)}" if gpus else ""
        return (
            f"{workers} worker{'s' if workers > 1 else ''} on this machine, "
            f"{threads} thread{'s' if threads != '1' else ''} each{listed}"
        )


def shares(workers: int) -> list[dict[str, str]]:
    """The environment of each worker: its threads, and its GPUs if there are any.

    With more workers than GPUs several share one; with more GPUs each gets several, and trains
    with all of them unless the config says otherwise.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // workers)))
    found = gpus()
    result = []
    for slot in range(workers):
        share = {"OMP_NUM_THREADS": threads}
        if found:
            many = len(found) // workers
            own = found[slot * many : (slot + 1) * many] or [found[slot % len(found)]]
            share["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        result.append(share)
    return result


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
