"""A trial's process: an ordinary fit, forked from a server that has imported torch beforehand.

A process of its own for each trial, so that a crash, a leak or an exhausted memory is that trial's
alone, at the cost of a fork instead of the seconds of a start. Tried: one process for all trials
saves the last tenth of a second and shares every crash; a new interpreter costs 7 s a trial.
"""

import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from classifier import platform
from classifier.atomic import open_to_append
from classifier.cli.job import Job
from classifier.cli.run import COMMAND

OUTPUT = "output.log"  # what a trial prints, in its folder
START = "started at "  # how the output of each start of a fit begins
GRACE_SECONDS = 20.0  # that a fit gets to stop by itself; SLURM kills everything after 30
SERVER_GONE = 255  # multiprocessing's exit code for that: it never knows that of the process

# Every process is forked from one server, if any; CUDA is not touched before that.
context = platform.fresh_context("classifier.search.preload")
forked = context.get_start_method() == "forkserver"
# multiprocessing reads each exit code from a pipe, once, and whoever starts a process reads all.
reading = threading.Lock()


def warm_up() -> None:
    """Starts the server, if any, and waits until it has imported torch."""
    if not forked:
        return
    with reading:
        process = context.Process(target=int)
        process.start()
    wait([process.sentinel])


@dataclass(frozen=True)
class Trial:
    """What a trial's process has to know."""

    arguments: Sequence[str]  # the options of its fit
    job: Job
    hyperparameters: Mapping[str, Any]  # the searched values by name, for TensorBoard

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Trial":
        arguments, job, hyperparameters = json.loads(text).values()
        for key in ("folder", "code_folder"):
            job[key] = job[key] and Path(job[key])
        return cls(arguments, Job(**job), hyperparameters)


class FitProcess:
    """The fit of a trial in a process of its own, in a working folder, with variables set."""

    def __init__(self, trial: Trial, working_folder: Path, environment: Mapping[str, str]) -> None:
        self.channel, theirs = context.Pipe()
        given = (trial, working_folder, dict(environment), theirs)
        with reading:
            self.process = context.Process(target=_fit, args=given)
            self.process.start()
        theirs.close()

    def next_value(self, timeout: float, *others: Any) -> tuple[int, float] | None:
        """Waits some seconds for the value of an epoch, or until one of ``others`` can be read.

        Returns:
            Epochs done and the value, to be answered; None if anything else came.
        """
        if self.channel not in wait([self.channel, self.process.sentinel, *others], timeout):
            return None
        try:
            measured: tuple[int, float] = self.channel.recv()
        except (EOFError, OSError):
            wait([self.process.sentinel], 1)  # it is dead or about to be
            return None
        return measured

    def answer(self, stop: bool) -> None:
        try:
            self.channel.send(stop)
        except OSError:
            wait([self.process.sentinel], 1)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that killed it."""
        with reading:
            code = self.process.exitcode
        # It may go on, until we stop it.
        return -platform.KILL if code == SERVER_GONE and forked else code

    def stop(self, should_stop: Callable[[int, float], bool] = lambda epoch, value: False) -> int:
        """Lets the fit end after its step, then kills what is left of it; returns its exit code.

        ``should_stop`` answers what the fit reports meanwhile, for which it would wait.
        """
        try:
            if self.exit_code is None:
                platform.tell_to_end(self.process)
            end = time.monotonic() + GRACE_SECONDS
            while self.exit_code is None and (left := end - time.monotonic()) > 0:
                if measured := self.next_value(left):
                    self.answer(should_stop(*measured))
        finally:
            platform.kill_group(self.process)
            wait([self.process.sentinel])
        code = self.exit_code
        assert code is not None
        return code


def reset_inherited_state() -> None:
    """Makes a process that was just forked like one that a person started."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the server ignores both
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # It would also start the workers of data loaders from a server, which imports torch first.
    multiprocessing.set_start_method(None, force=True)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]  # Lightning would take the tasks of a job for ranks of one training


def _fit(
    trial: Trial, working_folder: Path, environment: Mapping[str, str], channel: Connection
) -> None:
    reset_inherited_state()
    platform.lead_group()
    with open_to_append(trial.job.folder / OUTPUT) as file:
        file.write(time.strftime(f"{START}%Y-%m-%d %H:%M:%S\n").encode())
        file.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # as it is read
    os.chdir(working_folder)
    os.environ.update(environment)
    # Lightning starts the ranks of several devices with it.
    sys.argv = [*COMMAND[1:], "search", "trial", trial.to_json()]
    from classifier.search.trial import run

    sys.exit(run(trial, channel))
