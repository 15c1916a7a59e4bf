"""``classifier search --config FILE``: begins a search, or goes on with it, and watches it."""

import time
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import InMemoryStorage

from classifier import terminal
from classifier.anchored_yaml import load
from classifier.anchored_yaml.text import same
from classifier.atomic import written_new
from classifier.checkpoint.trust import Trust, active
from classifier.errors import UserError
from classifier.search import console, results, watch
from classifier.search.engines import share_cores, start
from classifier.search.rehearsal import rehearse
from classifier.search.same import continued
from classifier.search.settings import BASE, FILE, Settings, save
from classifier.search.signed import is_own, sign
from classifier.search.space import Space
from classifier.search.stop import Stop
from classifier.search.study import Study, open_storage
from classifier.search.tensorboard import write_experiment


def search(settings: Settings) -> int:
    """Begins a search or goes on with it; returns the exit code."""
    begun = (settings.folder / FILE).exists()
    if begun:
        settings = continued(settings)
    if settings.dry_run:
        return write_configs(settings)
    if not begun:
        check_new(settings)
    return run(settings)


def run(settings: Settings, working_folder: Path | None = None) -> int:
    """Runs trials until there are as many as wanted; returns the exit code.

    Args:
        settings: Those of the search.
        working_folder: Where a new search runs its trials; here if not given.

    Returns:
        0; 1 if workers gave up or no trial was completed; 130 or 143 after a signal.
    """
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    save(settings, folder)
    (folder / "workers").mkdir(exist_ok=True)
    study = Study(folder, settings)
    study.begin_in(working_folder or Path.cwd())
    sign(folder, study.working_folder)
    write_experiment(folder, study.space, settings.monitor)
    stop = Stop.on_signals()
    deadline = None if settings.max_seconds is None else time.time() + settings.max_seconds
    gave_up = False
    if study.unfinished():
        trials = study.trials()[: study.total]
        left = study.total and study.total - sum(trial.state.is_finished() for trial in trials)
        workers = min(settings.workers, left or settings.workers)
        engine = start(settings, workers, deadline)
        try:
            watch.announce(study, engine.describe())
            watch.follow(study, engine, stop)
        finally:  # also those that a cluster has not even started
            engine.stop()
        early = deadline is None or time.time() < deadline
        gave_up = study.unfinished() and early and not stop.signal
    with study.lock:
        results.write(study)
    completed = watch.conclude(study, gave_up)
    return stop.exit_code or int(gave_up or not completed)


def check_new(settings: Settings) -> None:
    """Finds out before any training, and before there is a folder, what would go wrong.

    Raises:
        UserError: The folder or the study is taken, or a trial could not be trained.
    """
    folder = settings.folder
    found = folder.glob("[!.]*")  # hidden are our locks, and files that were being written
    if any(path.name not in (BASE, "dry_run") for path in found):
        raise UserError(f"'{folder}' exists and holds no search; name another, --folder DIR.")
    check_name(settings)
    space = Space(settings.space)
    base = settings.base.read_text(encoding="utf-8")
    blocks = _variants(space, base)
    here = settings.engine == "local"
    if here:
        share_cores(settings.workers)
    rehearse(settings.base, blocks, settings.monitor, here)


def check_trusted(folder: Path) -> None:
    """Refuses at once what all trials of a stranger's search would be refused for, and fail.

    Raises:
        ImportDenied: If they name what is not trusted.
    """
    trust = active()
    if trust is None or is_own():
        return
    from classifier.cli.command_line import harmless_packages  # with Lightning

    study = Study.of(folder)
    trials = Trust(harmless_packages(), (), trust.trusted, trust.found)
    for text in (study.base, *_variants(study.space, study.base).values()):
        trials.check_config(load(text))


def _variants(space: Space, base: str) -> dict[str, str]:
    """The base config with each choice that is a text, by what is different."""
    return {
        f"{name} {choice}": space.text(base, {name: choice})
        for name, distribution in space.parameters.items()
        if isinstance(distribution, CategoricalDistribution)
        for choice in distribution.choices
        if isinstance(choice, str)
    }


def check_name(settings: Settings) -> None:
    """Refuses to take over the trials of another search in the same database.

    Raises:
        UserError: There is a study of that name, or the database cannot be reached.
    """
    if settings.storage is None:
        return
    storage = open_storage(settings.storage, settings.folder)
    if settings.name in optuna.get_all_study_names(storage):
        raise UserError(
            f"storage: it has a study '{settings.name}' already; name this one, --name NAME."
        )


def write_configs(settings: Settings) -> int:
    """Writes the configs of the first trials, as far as they do not depend on results.

    Raises:
        UserError: There are others already.
    """
    folder = settings.folder / "dry_run"
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(settings.folder, settings, InMemoryStorage())
    for _ in range(settings.dry_run):
        trial = study.take()
        if trial is None:
            break
        path = folder / f"{trial.number:04d}.yaml"
        text = study.text(trial)
        if not path.exists():
            with written_new(path) as file:
                file.write(text.encode())
        elif not same(load(path.read_text(encoding="utf-8")), load(text)):
            names = terminal.display_path(path), terminal.display_path(folder)
            raise UserError("'{}' is of another search; remove '{}' first.".format(*names))
        terminal.out(f"{terminal.display_path(path)}  {console.searched(study.shown(trial))}")
    return 0
