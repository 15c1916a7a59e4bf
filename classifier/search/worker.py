"""``classifier search worker DIR``: takes a trial, writes its config, fits it, notes the result.

Workers know nothing of each other and keep nothing: any number of them, started at any time on
any machine that sees the search folder and its storage, work on one search.
"""

import errno
import math
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from optuna.trial import Trial

from classifier import runs
from classifier.anchored_yaml import setting_in
from classifier.atomic import write_text
from classifier.errors import UserError
from classifier.search import results, signed
from classifier.search.outcome import Outcome, is_finished, outcome, why_failed
from classifier.search.process import FitProcess, warm_up
from classifier.search.stop import Stop
from classifier.search.study import Study, Worker

POLL = 1.0  # seconds between looks at what the other workers do
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of a fit
PROBE = 1 << 20  # bytes; where these do not fit, no checkpoint does


def work(
    folder: Path,
    stop: Stop,
    until: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Runs trials until there are no more, until a time, or until told to stop.

    Args:
        folder: The search folder.
        stop: What says to stop.
        until: Unix time after which no trial is begun.
        environment: Variables that are set for the trials.

    Returns:
        The exit code: 0; 130 or 143 after a signal.

    Raises:
        OSError: If the disk is full.
    """
    until = math.inf if until is None else until
    study = Study.of(folder)
    if study.total is None and math.isinf(until):
        raise UserError("this search has no n_trials; say when it ends, --until UNIX_TIME.")
    warm_up()  # before a trial is taken, whose heartbeat would be missed meanwhile
    with Worker(folder, environment) as worker:
        while not stop.wait(0) and time.time() < until:
            trial = study.take(worker)
            if trial is not None:
                run_trial(study, trial, worker, stop)
            elif study.unfinished():
                stop.wait(POLL)  # others run the rest; if one of them dies, this takes over
            else:
                break
    return stop.exit_code


def run_trial(study: Study, trial: Trial, worker: Worker, stop: Stop) -> None:
    """Runs one trial and notes what became of it.

    Raises:
        OSError: If the disk is full, which is not the trial's fault: it will be run again.
    """
    folder = study.trial_folder(trial.number)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_trained(folder):
            with study.lock:
                study.put_back(trial)
            stop.wait(study.settings.heartbeat)
            return
        write_text(folder / "trial.yaml", study.text(trial))
        # Else its worker died between the last epoch, or the pruner's word, and the note of it.
        ended = is_finished(folder) or "pruned" in trial.user_attrs
        code = 0 if ended else fit(study, trial, worker, stop)
        signal_number = -code if code < 0 else code - 128 if code in STOPPED else 0
        # A cluster sends SIGTERM to all processes of a job, and ours may come a moment later.
        stopped = bool(code) and stop.wait(1.0 if signal_number else 0.0)
        full = code > 0 and (says_full(folder) or not has_space(folder))
        with study.lock:
            if not study.is_ours(trial, worker):
                return
            if stopped or full:
                study.put_back(trial)
            elif signal_number:
                study.put_back(trial, f"killed by signal {signal_number}")
            else:
                study.tell(trial, outcome_of(study, trial, code))
            results.write(study)
    except BaseException:
        with study.lock:
            if study.is_ours(trial, worker):
                study.put_back(trial)
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


def outcome_of(study: Study, trial: Trial, code: int) -> Outcome:
    """What became of a trial whose fit has ended with an exit code."""
    settings = study.settings
    pruned = "pruned" in trial.user_attrs
    folder = study.trial_folder(trial.number)
    return outcome(folder, code, pruned, settings.monitor, settings.direction)


def says_full(folder: Path) -> bool:
    """Whether a fit failed for a full disk, be it that of the temporary files."""
    said = why_failed(folder, 1)
    return any(os.strerror(number) in said for number in (errno.ENOSPC, errno.EDQUOT))


def has_space(folder: Path) -> bool:
    """Whether a file can be written, within the user's quota too."""
    probe = folder / ".probe"
    try:
        probe.unlink(missing_ok=True)
        with probe.open("xb") as file:  # not where a link of that name leads
            file.write(bytes(PROBE))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def fit(study: Study, trial: Trial, worker: Worker, stop: Stop) -> int:
    """Fits a trial's config, from its last checkpoint on if it has one; returns the exit code."""
    folder = study.trial_folder(trial.number)
    arguments = ["--config", str(folder / "trial.yaml")]
    if (folder / "checkpoints" / "last.ckpt").is_file():
        arguments += ["--ckpt_path", str(folder)]
    facts = {
        "folder": str(folder),
        "monitor": study.settings.monitor,
        "direction": study.settings.direction,
        "hyperparameters": study.shown(trial),
        **signed.for_trials(study.folder),
    }
    last_epoch = setting_in((folder / "trial.yaml").read_text(), ("trainer", "max_epochs"))

    def is_to_end(epoch: int, value: float) -> bool:
        ours = study.is_ours(trial, worker)
        return ours and is_hopeless(study, trial, epoch, value, last_epoch)

    output = folder / "output.log"
    process = FitProcess(arguments, facts, output, study.working_folder, worker.environment)
    beats = 0
    alive = time.monotonic()
    try:
        while process.exit_code is None and not stop.signal:
            measured = process.next_value(study.settings.heartbeat, *stop.descriptors)
            if measured is not None:
                process.answer(is_to_end(*measured))
            stop.wait(0)
            late = time.monotonic() - alive >= study.settings.heartbeat
            if (late or measured is not None) and not study.is_ours(trial, worker):
                break  # this machine slept, and another took the trial over
            if late:
                beats, alive = beats + 1, time.monotonic()
                trial.set_user_attr("beat", beats)
    except BaseException:
        process.stop()
        raise
    process.stop(is_to_end)
    code = process.exit_code
    assert code is not None
    return code


def is_hopeless(study: Study, trial: Trial, epoch: int, value: float, last_epoch: object) -> bool:
    """Notes an epoch's value; returns whether to stop: it diverged, or the pruner says so."""
    if not math.isfinite(value):
        return True
    if not study.report(trial, epoch, value) or epoch == last_epoch:
        return False
    trial.set_user_attr("pruned", True)
    return True
