"""The Optuna study of a search: which trial comes next, and what became of each.

A trial goes WAITING → RUNNING → COMPLETE, PRUNED or FAIL. Every step but the last of a trial
is taken under a file lock of the search folder, so that the budget is met exactly however many
workers there are, and a trial whose worker is gone goes back to WAITING, in place.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from classifier.anchored_yaml.text import setting_in
from classifier.errors import UserError
from classifier.runs import file_lock
from classifier.search import signed
from classifier.search.samplers import make_pruner, make_sampler
from classifier.search.settings import Settings, load
from classifier.search.space import Space
from classifier.search.storage import Outcome, TrialRecord, Worker, open_storage

optuna.logging.set_verbosity(optuna.logging.WARNING)  # the search says itself what happens

ATTEMPTS = 3  # of a trial whose process is killed, by the out-of-memory killer for one
MISSED_BEATS = 4  # heartbeats missed until a worker of another machine is taken for dead


class Study:
    """The trials of a search folder; ``begin`` says whether there may be none yet.

    Raises:
        UserError: If there are none although there should be.
    """

    def __init__(
        self, settings: Settings, storage: BaseStorage | None = None, begin: bool = True
    ) -> None:
        self.folder, self.settings = settings.folder, settings
        self.space = Space(settings.space, settings.repeat)
        self.base = settings.base.read_text(encoding="utf-8")
        # The configurations that are known beforehand; None where they are sampled.
        self.plan = settings.plan
        # That of repeats alone is the base config.
        if self.plan is None and (settings.sampler == "grid" or not self.space.parameters):
            self.plan = self.space.grid()
        self.storage = storage or open_storage(settings.storage, self.folder)
        self.lock = file_lock(self.folder / ".lock")
        self.last_beats: dict[int, tuple[Any, float]] = {}
        known: dict[str, Any] = {"study_name": settings.name, "storage": self.storage}
        known["pruner"] = make_pruner(settings.pruner)
        if begin:
            direction = settings.direction
            self.study = optuna.create_study(**known, direction=direction, load_if_exists=True)
            return
        try:
            self.study = optuna.load_study(**known)
        except KeyError:
            raise UserError(
                f"the storage of '{self.folder}' has no study '{settings.name}'; "
                "'classifier search --config FILE' begins one."
            ) from None

    @classmethod
    def of(cls, folder: Path) -> "Study":
        """The study of a search that has begun."""
        return cls(load(folder), begin=False)

    # ---- where its trials run ----

    def begin_in(self, folder: Path) -> None:
        """Notes the working folder of a new search, to which paths in its base config relate."""
        if "working_folder" not in self.study.user_attrs and not self.trials():
            self.study.set_user_attr("working_folder", str(folder))

    @property
    def working_folder(self) -> Path:
        """Where the search was begun, so that all trials see the same data; else where we are."""
        noted = signed.signed_folder(self.folder)
        if noted is None and signed.is_own():
            noted = Path(self.study.user_attrs.get("working_folder", ""))
        return noted if noted and noted.is_absolute() and noted.is_dir() else Path.cwd()

    # ---- the budget ----

    @property
    def total(self) -> int | None:
        """How many trials there are to be; None if only time sets an end."""
        if self.plan is None:
            return self.settings.n_trials
        whole = len(self.plan) * max(1, len(self.space.repeats))
        return min(self.settings.n_trials or whole, whole)

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def left(self) -> int | None:
        """How many trials somebody runs or has to run; None if only time sets an end."""
        trials = self.trials()[: self.total]
        return self.total and self.total - sum(trial.state.is_finished() for trial in trials)

    def unfinished(self) -> bool:
        return self.left() != 0

    def config_of(self, trial: FrozenTrial | Trial) -> str:
        """The config of a trial: the base config with the searched values changed."""
        return self.space.text(self.base, trial.params, self._repeated(trial.number))

    def values_of(self, trial: FrozenTrial | Trial) -> dict[str, Any]:
        """The searched values of a trial, blocks by their labels."""
        if trial.params.keys() != self.space.parameters.keys():
            return {}  # not sampled yet
        return self.space.labelled(trial.params, self._repeated(trial.number))

    def _repeated(self, number: int) -> Any:
        repeats = self.space.repeats
        return repeats[number % len(repeats)] if repeats else None

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    # ---- from waiting to running, and back ----

    def claim_next(self, worker: Worker | None = None) -> "ClaimedTrial | None":
        """Claims the next trial, if any, for a worker, or for nobody, who wants only its config."""
        with self.lock:
            if worker is not None:
                self._requeue_lost()
            number = self._next()
            if number is None:
                return None
            trial_id = self._id(number)
            record = TrialRecord.of(self.trials()[number])
            if worker is not None:  # first, so that no running trial is ascribed to an earlier one
                attempt = record.attempt + 1
                record = record.changed(self.storage, trial_id, attempt=attempt, worker=worker)
            self.study.sampler = make_sampler(self.settings.sampler, number)
            # It takes the first that waits, which is this one.
            trial = self.study.ask({**self.space.parameters})
            return ClaimedTrial(self, trial, trial_id, record)

    def _next(self) -> int | None:
        trials = self.trials()
        for trial in trials[: self.total]:
            if trial.state == TrialState.WAITING:
                return trial.number
        number = len(trials)
        if self.total is not None and number >= self.total:
            return None
        fixed = self._fixed(number, trials)
        if fixed is None:
            return None
        self.study.enqueue_trial(fixed)
        return number

    def _fixed(self, number: int, trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
        """What is not sampled of a new trial; None while it is not known."""
        configuration, repeat = divmod(number, max(1, len(self.space.repeats)))
        if self.plan is not None:
            return self.plan[configuration]
        if repeat:
            first = trials[number - repeat]
            known = first.params.keys() == self.space.parameters.keys()
            return first.params if known or first.state.is_finished() else None
        return (self.space.point(self.base) or {}) if configuration == 0 else {}

    def _requeue_lost(self) -> None:
        """Requeues trials whose worker is gone, by its lock, or by its silence on our clock."""
        for trial in self.trials():
            if trial.state != TrialState.RUNNING:
                continue
            record = TrialRecord.of(trial)
            if record.worker is None:  # claimed by a program that is not ours
                self.requeue(trial.number, record)
                continue
            was_killed = record.worker.lock_in(self.folder).exists()  # unless the disk was full
            dead = record.worker.is_dead(self.folder)
            if dead or (dead is None and self._is_silent(trial.number, record)):
                self.requeue(trial.number, record, "its worker died" if was_killed else "")

    def _is_silent(self, number: int, record: TrialRecord) -> bool:
        now, beat = time.monotonic(), (record.worker, record.beat)
        if self.last_beats.get(number, (None,))[0] != beat:
            self.last_beats[number] = (beat, now)
        return now - self.last_beats[number][1] > MISSED_BEATS * self.settings.heartbeat

    def requeue(self, number: int, record: TrialRecord, blame: str = "") -> None:
        """Lets a trial wait for another worker, which resumes it from its last checkpoint.

        For what it may itself have caused, ``blame``, it fails the third time without a new epoch.
        """
        trial_id, state = self._id(number), TrialState.WAITING
        if not blame:
            record.changed(self.storage, trial_id, attempt=record.attempt - 1)
        elif record.attempt >= ATTEMPTS:
            state = TrialState.FAIL
            outcome = Outcome(reason=f"{blame}, {record.attempt} times")
            record.changed(self.storage, trial_id, outcome=outcome)
        self.storage.set_trial_state_values(trial_id, state)

    def has_live_worker(self) -> bool:
        """Whether a worker runs a trial, as far as can be known from here."""
        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        workers = [TrialRecord.of(trial).worker for trial in running]
        return any(worker and not worker.is_dead(self.folder) for worker in workers)

    def _id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.settings.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)


class ClaimedTrial:
    """A trial that a worker runs. It may be lost to another one, as when this machine slept."""

    def __init__(self, study: Study, trial: Trial, trial_id: int, record: TrialRecord) -> None:
        self.study, self.trial, self.trial_id = study, trial, trial_id
        self.record = record  # what the storage has of it
        self.number, self.params = trial.number, trial.params
        self.folder = study.trial_folder(trial.number)
        self.config = study.config_of(trial)
        self.values = study.values_of(trial)
        self.last_epoch = setting_in(self.config, ("trainer", "max_epochs"))

    def held(self) -> FrozenTrial | None:
        """The trial as it is now; None if another worker has taken it over."""
        now = self.study.storage.get_trial(self.trial_id)
        held = now.state == TrialState.RUNNING
        return now if held and TrialRecord.of(now).worker == self.record.worker else None

    def beat(self) -> None:
        self._note(beat=self.record.beat + 1)

    def should_stop_early(self, epoch: int, value: float) -> bool:
        """Notes an epoch's value; says whether to stop: it diverged, or the pruner says so."""
        held = self.held()
        if held is None or not math.isfinite(value):
            return held is not None
        if epoch not in held.intermediate_values:  # else repeated after a stop
            self.trial.report(value, epoch)
            # It gets on: machines may be lost any number of times.
            self._note(attempt=min(self.record.attempt, 1))
        if not self.trial.should_prune() or epoch == self.last_epoch:
            return False
        self._note(pruned=True)
        return True

    def requeue(self, blame: str = "") -> None:
        """Lets it wait for another worker, if it is still held."""
        with self.study.lock:
            if self.held():
                self.study.requeue(self.number, self.record, blame)

    def tell(self, outcome: Outcome) -> None:
        # Optuna has a place for the value only, and there the last one of a pruned trial.
        self._note(outcome=outcome)
        ended = TrialState.PRUNED if self.record.pruned else TrialState.COMPLETE
        state = TrialState.FAIL if outcome.value is None else ended
        value = outcome.value if state == TrialState.COMPLETE else None
        self.study.study.tell(self.trial, value, state)

    def _note(self, **changes: Any) -> None:
        self.record = self.record.changed(self.study.storage, self.trial_id, **changes)
