"""The Optuna study of a search: which trial comes next, and what became of each.

A trial goes WAITING → RUNNING → COMPLETE, PRUNED or FAIL. Every step but the last of a trial
is taken under a file lock of the search folder, so that the budget is met exactly however many
workers there are, and a trial whose worker is gone goes back to WAITING, in place.
"""

import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from classifier.errors import UserError
from classifier.search import signed
from classifier.search.outcome import Outcome
from classifier.search.settings import Settings, load, make_pruner, make_sampler
from classifier.search.space import Distribution, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)  # the search says itself what happens

ATTEMPTS = 3  # of a trial whose process is killed, by the out-of-memory killer for one
IDENTITY = re.compile(r"[^/\\\0]*-\d+-[0-9a-f]{8}")  # of a worker
SILENT_BEATS = 4  # heartbeats missed until a worker of another machine is taken for dead


class Journal(JournalFileBackend):
    """Optuna's journal file, which is not spoilt by a writer that is killed or finds the disk full.

    Optuna's own lock outlives a killed holder for half a minute, or for ever if the folder was
    moved since; and behind half a line it would write on and then never read the file again.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        self.lock = FileLock(path.with_name(f".{path.name}.lock"))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self.lock, self.path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 1, 0))
            if file.read() not in (b"", b"\n"):  # nobody is writing it: we have the lock
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
                file.seek(0, os.SEEK_END)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Opens the database, or the journal file of the search folder.

    Args:
        url: Of PostgreSQL; variables of the environment, ``$NAME``, are filled in.
        folder: The search folder.

    Raises:
        UserError: If the database cannot be reached.
    """
    if url is None:
        return JournalStorage(Journal(folder / "journal.log"))
    signed.refuse_of_others("a storage", "its database may be anybody's.")
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        place = make_url(os.path.expandvars(url))
        if place.drivername == "postgresql":
            # SQLAlchemy 2.1 took another default; this is the driver of our extra.
            place = place.set(drivername="postgresql+psycopg2")
        # A connection may be idle for the hours of a trial and be closed by the server meanwhile.
        options = {"pool_pre_ping": True}
        address = place.render_as_string(hide_password=False)
        return optuna.storages.get_storage(RDBStorage(address, engine_kwargs=options))
    except (SQLAlchemyError, ImportError, ValueError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
        raise UserError(f"storage: '{shown}' cannot be used: {cause}.") from error


class Worker:
    """Who runs a trial: an identity, and a lock file that the system frees when it dies.

    Args:
        folder: The search folder.
        environment: Variables that are set for the trials.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        host, pid = platform.node(), os.getpid()
        self.identity = {"id": f"{host}-{pid}-{os.urandom(4).hex()}", "host": host, "pid": pid}
        self.environment = environment or {}
        self.path = lock_of(self.identity, folder)
        self.lock = FileLock(self.path)

    def __enter__(self) -> "Worker":
        self.lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)  # first: a lock that nobody holds is a sign of death
        self.lock.release()


def lock_of(identity: dict[str, Any], folder: Path) -> Path:
    """The lock file of a worker. One that ends by itself removes it.

    Raises:
        UserError: If no worker has made that up: the lock of a dead one is removed.
    """
    name = identity.get("id")
    if not isinstance(name, str) or not IDENTITY.fullmatch(name):
        raise UserError(f"the storage of '{folder}' names {name!r} as a worker, which none is.")
    return folder / "workers" / f"{name}.lock"


def is_dead(identity: dict[str, Any], folder: Path) -> bool | None:
    """Whether a worker has died; None for one on another machine, whose lock says nothing."""
    if identity["host"] != platform.node():
        return None
    path = lock_of(identity, folder)
    if not path.exists():
        return True
    try:
        with FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


class Study:
    """The trials of a search folder, which are begun if there are none yet.

    Args:
        folder: The search folder.
        settings: Its settings.
        storage: Where the trials are kept; that of the settings if not given.
        begin: Whether there may be none yet.

    Raises:
        UserError: If there are none although there should be.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        storage: BaseStorage | None = None,
        begin: bool = True,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.space = Space(settings.space)
        self.base = settings.base.read_text(encoding="utf-8")
        # The configurations that are known beforehand; None where they are sampled.
        self.plan = settings.plan
        if self.plan is None and not self.space.parameters:
            self.plan = [{}]  # the base config, with several seeds
        elif self.plan is None and settings.sampler == "grid":
            self.plan = self.space.grid()
        self.storage = storage or open_storage(settings.storage, folder)
        self.lock = FileLock(folder / ".lock")
        self.last_beats: dict[int, tuple[Any, float]] = {}
        pruner = make_pruner(settings)
        if begin:
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=settings.name,
                direction=settings.direction,
                pruner=pruner,
                load_if_exists=True,
            )
            return
        try:
            self.study = optuna.load_study(
                study_name=settings.name, storage=self.storage, pruner=pruner
            )
        except KeyError:
            raise UserError(
                f"the storage of '{folder}' has no study '{settings.name}'; "
                "'classifier search --config FILE' begins one."
            ) from None

    @classmethod
    def of(cls, folder: Path) -> "Study":
        """The study of a search that has begun."""
        settings = load(folder)
        return cls(settings.folder, settings, begin=False)

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
        whole = len(self.plan) * max(1, len(self.space.seeds))
        return min(self.settings.n_trials or whole, whole)

    def trials(self) -> list[FrozenTrial]:
        """All trials by number."""
        return self.study.get_trials(deepcopy=False)

    def unfinished(self) -> bool:
        """Whether there are trials which somebody runs or has to run."""
        trials = self.trials()[: self.total]
        more = self.total is None or len(trials) < self.total
        return more or not all(trial.state.is_finished() for trial in trials)

    def seed(self, number: int) -> int | None:
        """The searched seed of a trial; None if seeds are not searched."""
        seeds = self.space.seeds
        return seeds[number % len(seeds)] if seeds else None

    def text(self, trial: FrozenTrial | Trial) -> str:
        """The config of a trial: the base config with the searched values changed."""
        return self.space.text(self.base, trial.params, self.seed(trial.number))

    def shown(self, trial: FrozenTrial | Trial) -> dict[str, Any]:
        """The searched values of a trial, blocks by their labels."""
        if trial.params.keys() != self.space.parameters.keys():
            return {}  # not sampled yet
        return self.space.as_shown(trial.params, self.seed(trial.number))

    def trial_folder(self, number: int) -> Path:
        """Where a trial's config and run are."""
        return self.folder / "trials" / f"{number:04d}"

    # ---- one trial ----

    def take(self, worker: Worker | None = None) -> Trial | None:
        """Takes the next trial; None if there is none to take now.

        Args:
            worker: Who is going to run it; nobody, if only its config is wanted.
        """
        with self.lock:
            if worker is not None:
                self._put_back_dead()
            number = self._next()
            if number is None:
                return None
            trial_id = self._id(number)
            if worker is not None:  # first, so that no running trial is ascribed to an earlier one
                attempt = self.trials()[number].user_attrs.get("attempt", 0) + 1
                self.storage.set_trial_user_attr(trial_id, "attempt", attempt)
                self.storage.set_trial_user_attr(trial_id, "worker", worker.identity)
            self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            self.study.sampler = make_sampler(self.settings, number)
            trial = Trial(self.study, trial_id)
            for name, distribution in self.space.parameters.items():
                suggest(trial, name, distribution)
            return trial

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
        configuration, repeat = divmod(number, max(1, len(self.space.seeds)))
        if self.plan is not None:
            return self.plan[configuration]
        if repeat:
            first = trials[number - repeat]
            known = first.params.keys() == self.space.parameters.keys()
            return first.params if known or first.state.is_finished() else None
        return (self.space.point(self.base) or {}) if configuration == 0 else {}

    def _put_back_dead(self) -> None:
        """Finds trials whose worker is gone, by its lock, or by its silence on our clock."""
        for trial in self.trials():
            if trial.state != TrialState.RUNNING:
                continue
            identity = trial.user_attrs.get("worker")
            if identity is None:  # taken by a program that is not ours
                self.put_back(trial)
                continue
            was_killed = lock_of(identity, self.folder).exists()  # unless the disk was full, say
            dead = is_dead(identity, self.folder)
            if dead or (dead is None and self._is_silent(trial)):
                self.put_back(trial, "its worker died" if was_killed else "")

    def _is_silent(self, trial: FrozenTrial) -> bool:
        now = time.monotonic()
        beat = trial.user_attrs.get("beat"), trial.user_attrs["worker"]
        if self.last_beats.get(trial.number, (None,))[0] != beat:
            self.last_beats[trial.number] = (beat, now)
        return now - self.last_beats[trial.number][1] > SILENT_BEATS * self.settings.heartbeat

    def put_back(self, trial: FrozenTrial | Trial, blame: str = "") -> None:
        """Lets a trial wait for another worker, which goes on from its last checkpoint.

        Args:
            trial: The trial.
            blame: What it may itself have caused. The third time without a new epoch in between
                it fails for that.
        """
        trial_id = self._id(trial.number)
        attempt = trial.user_attrs.get("attempt", 0)
        if not blame:
            self.storage.set_trial_user_attr(trial_id, "attempt", attempt - 1)
        elif attempt >= ATTEMPTS:
            failed = Outcome(TrialState.FAIL, None, f"{blame}, {attempt} times")
            self.storage.set_trial_user_attr(trial_id, "outcome", failed.as_json())
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
            return
        self.storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def is_worked_on(self) -> bool:
        """Whether a worker runs a trial, as far as can be known from here."""
        running = [t for t in self.trials() if t.state == TrialState.RUNNING]
        return any(not is_dead(trial.user_attrs["worker"], self.folder) for trial in running)

    def is_ours(self, trial: Trial, worker: Worker) -> bool:
        """Whether nobody else took the trial over, after this machine slept for example."""
        now = self.storage.get_trial(self._id(trial.number))
        return now.state == TrialState.RUNNING and now.user_attrs["worker"] == worker.identity

    def report(self, trial: Trial, epoch: int, value: float) -> bool:
        """Notes the value of an epoch; returns whether the trial is not worth going on."""
        if epoch not in self.storage.get_trial(self._id(trial.number)).intermediate_values:
            trial.report(value, epoch)  # else repeated after a stop
            if trial.user_attrs["attempt"] > 1:
                trial.set_user_attr("attempt", 1)  # it gets on: machines may be lost any often
        return trial.should_prune()

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Notes what became of a trial."""
        # Optuna has a place for the value only, and there the last one of a pruned trial.
        trial.set_user_attr("outcome", outcome.as_json())
        complete = outcome.state == TrialState.COMPLETE
        self.study.tell(trial, outcome.value if complete else None, outcome.state)

    def _id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.settings.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)


def suggest(trial: Trial, name: str, distribution: Distribution) -> None:
    """Lets the sampler choose a value, unless the trial has one."""
    if isinstance(distribution, FloatDistribution):
        bounds = distribution.low, distribution.high
        trial.suggest_float(name, *bounds, step=distribution.step, log=distribution.log)
    elif isinstance(distribution, IntDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        trial.suggest_int(name, low, high, step=step, log=distribution.log)
    else:
        trial.suggest_categorical(name, distribution.choices)
