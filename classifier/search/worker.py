"""``classifier search worker DIR``: claims a trial, fits its config, notes what became of it.

Workers know nothing of each other and keep nothing: any number of them, started at any time on
any machine that sees the search folder and its storage, work on one search.
"""

import errno
import math
import os
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType

from classifier import runs
from classifier.atomic import write_text
from classifier.checkpoint.trust import active
from classifier.cli.job import Job
from classifier.errors import UserError
from classifier.search import signed
from classifier.search.process import FitProcess, Trial, warm_up
from classifier.search.results import Results, TrialRun, why_failed
from classifier.search.storage import active_worker
from classifier.search.study import ClaimedTrial, Study

POLL = 1.0  # seconds between looks at what the other workers do
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of a fit
PROBE = 1 << 20  # bytes; where these do not fit, no checkpoint does


class Stop:
    """SIGTERM, SIGINT, or the end of whoever holds the other end of standard input.

    A signal only sets a mark and wakes up whoever waits, in any thread, so that nothing is torn.
    One that is ``attached`` ends with the process that started this one.
    """

    def __init__(self, attached: bool = False) -> None:
        self.signal = 0  # the number of one that came
        # A pipe, whose end all who wait see at once when it is time to stop, also on Windows.
        self.pipe, self._open = Pipe(duplex=False)
        if attached:
            threading.Thread(target=self._set_with_input, daemon=True).start()

    @classmethod
    def on_signals(cls, attached: bool = False) -> "Stop":
        """One that this process's signals set."""
        stop = cls(attached)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop.set)
        return stop

    def set(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        if not self.signal:
            self.signal = number
            self._open.close()

    def _set_with_input(self) -> None:
        os.read(0, 1)
        self.set()

    def wait(self, seconds: float) -> bool:
        """Whether to stop; waits for that if not yet."""
        if not self.signal:
            wait([self.pipe], seconds)
        return bool(self.signal)

    @property
    def exit_code(self) -> int:
        """130 or 143; 0 if nothing said to stop."""
        return 128 + self.signal if self.signal else 0


def work(folder: Path, stop: Stop, until: float | None, environment: Mapping[str, str]) -> int:
    """Runs trials until there are no more, until a Unix time, or until told to stop.

    Returns 0, or 130 or 143 after a signal.

    Raises:
        OSError: If the disk is full.
    """
    until = math.inf if until is None else until
    study = Study.of(folder)
    if study.total is None and math.isinf(until):
        raise UserError("this search has no n_trials; say when it ends, --until UNIX_TIME.")
    warm_up()  # before a trial is claimed, whose heartbeat would be missed meanwhile
    with active_worker(folder) as worker:
        while not stop.wait(0) and time.time() < until:
            if trial := study.claim_next(worker):
                run_trial(trial, stop, environment)
            elif study.unfinished():
                stop.wait(POLL)  # others run the rest; if one of them dies, this takes over
            else:
                break
    return stop.exit_code


def run_trial(trial: ClaimedTrial, stop: Stop, environment: Mapping[str, str]) -> None:
    """Runs one trial and notes what became of it.

    Raises:
        OSError: If the disk is full, which is not the trial's fault: it will be run again.
    """
    study, folder = trial.study, trial.folder
    monitor, direction = study.settings.monitor, study.settings.direction
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_trained(folder):
            trial.requeue()
            stop.wait(study.settings.heartbeat)
            return
        write_text(folder / "trial.yaml", trial.config)
        # Else its worker died between the last epoch, or the pruner's word, and the note of it.
        ended = trial.record.pruned or TrialRun(folder, monitor, direction).is_finished
        code = 0 if ended else fit(trial, stop, environment)
        signal_number = -code if code < 0 else code - 128 if code in STOPPED else 0
        # A cluster sends SIGTERM to all processes of a job, and ours may come a moment later.
        stopped = bool(code) and stop.wait(1.0 if signal_number else 0.0)
        full = code > 0 and is_disk_full(folder)
        with study.lock:
            if not trial.held():
                return
            if stopped or full:
                trial.requeue()
            elif signal_number:
                trial.requeue(f"killed by signal {signal_number}")
            else:
                trial.tell(TrialRun(folder, monitor, direction).outcome(code))
            Results(study).write()
    except BaseException:
        trial.requeue()
        raise
    if full and not stopped:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def is_trained(folder: Path) -> bool:
    """Whether a fit that was taken for dead still trains in the folder, on another machine."""
    try:
        with runs.locked(folder):
            return False
    except ValueError:
        return True


def fit(trial: ClaimedTrial, stop: Stop, environment: Mapping[str, str]) -> int:
    """Fits a trial's config, from its last checkpoint on if it has one; returns the exit code."""
    study, heartbeat = trial.study, trial.study.settings.heartbeat
    resumes, trust = runs.RunFolder(trial.folder).last.is_file(), active.get()
    arguments = ["--config", str(trial.folder / "trial.yaml")]
    arguments += ["--ckpt_path", str(trial.folder)] if resumes else []
    job = Job(
        trial.folder,
        name=f"{study.folder.name}_{trial.folder.name}",
        monitor=study.settings.monitor,  # so that its best weights are those that the search found
        direction=study.settings.direction,
        words=signed.words(study.folder) if signed.is_own() else (),
        trusted=trust.trusted if trust else (),
        code_folder=study.settings.code_folder,
    )
    task = Trial(arguments, job, trial.values)
    process = FitProcess(task, study.working_folder, environment)
    alive = time.monotonic()
    try:
        while process.exit_code is None and not stop.signal:
            if measured := process.next_value(heartbeat, stop.pipe):
                process.answer(trial.should_stop_early(*measured))
            late = time.monotonic() - alive >= heartbeat
            if (late or measured) and not trial.held():
                break  # this machine slept, and another took the trial over
            if late:
                alive = time.monotonic()
                trial.beat()
    except BaseException:
        process.stop()
        raise
    return process.stop(trial.should_stop_early)


def is_disk_full(folder: Path) -> bool:
    """Whether a fit failed for a full disk, or quota: of its folder, or of the temporary files."""
    error = why_failed(folder, 1)
    if any(os.strerror(number) in error for number in (errno.ENOSPC, errno.EDQUOT)):
        return True
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE))
    except OSError:
        return True
    return False
