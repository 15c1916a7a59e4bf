"""Begins and resumes searches: ``classifier search --config FILE`` and ``search refit DIR``."""

import itertools
import time
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.storages import InMemoryStorage

from classifier import terminal
from classifier.anchored_yaml.text import load as load_yaml
from classifier.anchored_yaml.text import same, setting_in
from classifier.atomic import atomic_create
from classifier.checkpoint.trust import Trust, active
from classifier.cli.job import Job
from classifier.errors import UserError
from classifier.search import report
from classifier.search.engines import share_cores, start
from classifier.search.hparams import write_experiment
from classifier.search.preflight import rehearse
from classifier.search.results import Results
from classifier.search.resume import differences, resumed
from classifier.search.settings import BASE, FILE, Settings, load, save
from classifier.search.signed import is_own, sign
from classifier.search.space import SEED, Space
from classifier.search.storage import open_storage
from classifier.search.study import Study
from classifier.search.worker import Stop


def search(settings: Settings) -> int:
    """Begins or resumes a search; returns the exit code."""
    begun = (settings.folder / FILE).exists()
    if begun:
        settings = resumed(settings)
    if settings.dry_run:
        return write_configs(settings)
    if not begun:
        check_new(settings)
    return run(settings)


def run(settings: Settings, working_folder: Path | None = None) -> int:
    """Runs trials until there are as many as wanted, those of a new search in a working folder.

    Returns:
        0; 1 if the workers exited early or no configuration is complete; 130 or 143 after a signal.
    """
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    save(settings)
    (folder / "workers").mkdir(exist_ok=True)
    study = Study(settings)
    study.begin_in(working_folder or Path.cwd())
    sign(folder, study.working_folder)
    write_experiment(folder, study.space, settings.monitor)
    stop = Stop.on_signals()
    deadline = None if settings.max_seconds is None else time.time() + settings.max_seconds
    incomplete = False
    if study.unfinished():
        workers = min(settings.workers, study.left() or settings.workers)
        engine = start(settings, workers, deadline)
        try:
            report.announce(study, engine.describe())
            report.follow(study, engine, stop)
        finally:  # also those that a cluster has not even started
            engine.stop()
        early = deadline is None or time.time() < deadline
        incomplete = study.unfinished() and early and not stop.signal
    with study.lock:
        results = Results(study)
        results.write()
    completed = report.conclude(results, incomplete)
    return stop.exit_code or int(incomplete or not completed)


def check_new(settings: Settings) -> None:
    """Finds out before any training, and before there is a folder, what would go wrong.

    Raises:
        UserError: The folder or the study is taken, or a trial could not be trained.
    """
    folder = settings.folder
    found = folder.glob("[!.]*")  # hidden are our locks, and files that were being written
    if any(path.name not in (BASE, "dry_run") for path in found):
        raise UserError(
            f"'{folder}' exists and is not a search folder; name another, --folder DIR."
        )
    check_name(settings)
    here = settings.engine == "local"
    if here:
        share_cores(settings.workers)
    variants = _variants(
        Space(settings.space, settings.repeat), settings.base.read_text(encoding="utf-8")
    )
    job = Job(
        folder,
        monitor=settings.monitor,
        direction=settings.direction,
        code_folder=settings.code_folder,
    )
    rehearse(settings.base, variants, job, here)


def check_trusted(folder: Path) -> None:
    """Refuses at once what all trials of a stranger's search would be refused for, and fail.

    Raises:
        ImportDenied: If they name what is not trusted.
    """
    trust = active.get()
    if trust is None or is_own():
        return
    from classifier.cli.command_line import harmless_packages  # with Lightning

    study = Study.of(folder)
    trials = Trust(harmless_packages(), (), trust.trusted, trust.found)
    for text in (study.base, *_variants(study.space, study.base).values()):
        trials.check_config(load_yaml(text))


def _variants(space: Space, base: str) -> dict[str, str]:
    """The base config with each choice that is a text, by what is different."""
    return {
        f"{name} {param}": space.text(base, {name: param})
        for name, param in space.probes()
        if isinstance(param, str)
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
    study = Study(settings, InMemoryStorage())
    for _ in range(settings.dry_run):
        trial = study.claim_next()
        if trial is None:
            break
        path = folder / f"{trial.number:04d}.yaml"
        if not path.exists():
            with atomic_create(path) as file:
                file.write(trial.config.encode())
        elif not same(load_yaml(path.read_text(encoding="utf-8")), load_yaml(trial.config)):
            names = terminal.display_path(path), terminal.display_path(folder)
            raise UserError("'{}' is of another search; remove '{}' first.".format(*names))
        terminal.out(f"{terminal.display_path(path)}  {report.format_values(trial.values)}")
    return 0


def refit(folder: Path, top_k: int, seeds: int, workers: int | None) -> int:
    """Trains the best configurations of a search from scratch with new seeds.

    The best of many trials is in part the luckiest; the mean over seeds that chose nothing is
    what can be expected of it. Returns the exit code of a search.
    """
    study = Study.of(folder)
    results = report.complete(study)
    best = results.ranked[:top_k]
    used = setting_in(study.base, [SEED])
    own = study.space.repeats if study.space.repeat == SEED else ()
    last = max([*own, used if isinstance(used, int) else 0])
    sampled = {n: entry for n, entry in study.settings.space.items() if n != study.space.repeat}
    settings = replace(
        study.settings,
        space={**sampled, SEED: list(range(last + 1, last + 1 + seeds))},
        repeat=SEED,
        plan=[results.trials[group.rows[0].number].params for group in best],
        pruner=None,
        n_trials=None,
        max_seconds=None,
        workers=workers or study.settings.workers,
    )
    settings = _in_own_folder(settings, study)
    if not (settings.folder / FILE).exists():
        check_name(settings)
    code = run(settings, study.working_folder)
    refitted = Results(Study.of(settings.folder)).ranked
    again = {group.rows[0].number // seeds: group for group in refitted}
    for place, group in enumerate(best):
        if place in again:
            there, here = report.format_mean(group), report.format_mean(again[place])
            number = group.rows[0].number
            terminal.out(f"trial {number} of the search: {there} there, {here} here")
    return code


def _in_own_folder(settings: Settings, study: Study) -> Settings:
    """Names the folder of the very same refit, or a free one."""
    for number in itertools.count(1):
        name = f"refit_{number}"
        folder = study.folder / name
        settings = replace(settings, folder=folder, name=f"{study.settings.name}-{name}")
        if not (folder / FILE).exists() or not differences(load(folder), settings):
            break
    return settings
