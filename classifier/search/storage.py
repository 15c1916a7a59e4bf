"""What the workers of a search tell each other: records in its storage, locks in its folder."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from filelock import Timeout
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from classifier.errors import UserError
from classifier.runs import file_lock
from classifier.search import signed

WORKER_ID = re.compile(r"[^/\\\0]*-\d+-[0-9a-f]{8}")


class Journal(JournalFileBackend):
    """Optuna's journal file, which is not spoilt by a writer that is killed or finds the disk full.

    Optuna's own lock outlives a killed holder for half a minute, or for ever if the folder was
    moved since; and behind half a line it would write on and then never read the file again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = file_lock(path.with_name(f".{path.name}.lock"))
        super().__init__(str(path), self.lock)  # type: ignore[arg-type]  # it has the two methods

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self.lock:
            with self.path.open("rb+") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
                if file.read() not in (b"", b"\n"):  # nobody is writing it: we have the lock
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            super().append_logs(logs)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Opens the database, in whose URL ``$NAME`` is filled in, or the folder's journal file.

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
        address = place.render_as_string(hide_password=False)
        # A connection may be idle for the hours of a trial and be closed by the server meanwhile.
        database = RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
        return optuna.storages.get_storage(database)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
        raise UserError(f"storage: '{shown}' cannot be used: {cause}.") from error


@dataclass(frozen=True)
class Worker:
    """A process that runs trials, and its machine."""

    id: str
    host: str
    pid: int

    @classmethod
    def new(cls) -> "Worker":
        """This process, under an id that no other worker has."""
        host, pid = platform.node(), os.getpid()
        return cls(f"{host}-{pid}-{os.urandom(4).hex()}", host, pid)

    def lock_in(self, folder: Path) -> Path:
        """The lock file of the worker in a search folder; one that ends by itself removes it.

        Raises:
            UserError: If no worker has made the id up: the lock of a dead one is removed.
        """
        if not isinstance(self.id, str) or not WORKER_ID.fullmatch(self.id):
            raise UserError(f"the storage of '{folder}' names {self.id!r}, which is not a worker.")
        return folder / "workers" / f"{self.id}.lock"

    def is_dead(self, folder: Path) -> bool | None:
        """Whether the worker has died; None on another machine, where its lock says nothing."""
        if self.host != platform.node():
            return None
        path = self.lock_in(folder)
        if not path.exists():
            return True
        try:
            with file_lock(path).acquire(timeout=0):
                _remove(path)
        except Timeout:
            return False
        return True


@contextmanager
def active_worker(folder: Path) -> Iterator[Worker]:
    """Within, this process is a worker of a search: it holds a lock, which ends with it."""
    worker = Worker.new()
    path = worker.lock_in(folder)
    with file_lock(path):
        try:
            yield worker
        finally:
            _remove(path)  # before the release: a free lock is a sign of death


def _remove(lock: Path) -> None:
    with suppress(PermissionError):  # Windows does so once it is released
        lock.unlink(missing_ok=True)


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    value: float | None = None  # the best of its epochs; None if it failed
    reason: str = ""  # of a failure
    epochs: int = 0
    seconds: float = 0.0  # of training, over all its starts


@dataclass(frozen=True)
class TrialRecord:
    """What workers note of a trial beside Optuna's own fields: its ``user_attrs``."""

    attempt: int = 0  # how many times it was claimed since its last new epoch
    worker: Worker | None = None  # who claimed it last; None if that was another program
    beat: int = 0  # counts the heartbeats of that worker
    pruned: bool = False  # whether the pruner stopped it
    outcome: Outcome | None = None  # None while it has not ended

    @classmethod
    def of(cls, trial: FrozenTrial) -> "TrialRecord":
        attrs = {name: trial.user_attrs[name] for name in vars(cls()) if name in trial.user_attrs}
        for name, kind in (("worker", Worker), ("outcome", Outcome)):
            if attrs.get(name) is not None:
                attrs[name] = kind(**attrs[name])
        return cls(**attrs)

    def changed(self, storage: BaseStorage, trial_id: int, **changes: Any) -> "TrialRecord":
        """The record with other values, where they differ written to the storage."""
        record = replace(self, **changes)
        for name, value in asdict(record).items():
            if value != asdict(self)[name]:
                storage.set_trial_user_attr(trial_id, name, value)
        return record
