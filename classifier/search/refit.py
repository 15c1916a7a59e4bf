"""``classifier search refit DIR``: the best configurations once more, with seeds of their own."""

from dataclasses import replace
from pathlib import Path

from classifier import terminal
from classifier.anchored_yaml import setting_in
from classifier.errors import UserError
from classifier.search import console, launch
from classifier.search.results import groups
from classifier.search.resume import differences
from classifier.search.settings import FILE, Settings, load
from classifier.search.space import SEED
from classifier.search.study import Study


def refit(folder: Path, top_k: int, seeds: int, workers: int | None) -> int:
    """Trains the best configurations of a search from scratch with new seeds.

    The best of many trials is in part the luckiest; the mean over seeds that chose nothing is
    what can be expected of it.

    Args:
        folder: The search folder.
        top_k: How many configurations.
        seeds: How many seeds for each.
        workers: How many workers; as many as the search if not given.

    Returns:
        The exit code of a search.
    """
    study = Study.of(folder)
    best = groups(study)[:top_k]
    if not best:
        raise UserError(f"'{folder}' has no complete trial yet; there is nothing to train anew.")
    trials = study.trials()
    used = setting_in(study.base, [SEED])
    last = max([*study.space.seeds, used if isinstance(used, int) else 0])
    settings = replace(
        study.settings,
        space={**study.settings.space, SEED: list(range(last + 1, last + 1 + seeds))},
        plan=[trials[group.rows[0].number].params for group in best],
        pruner=None,
        n_trials=None,
        max_seconds=None,
        workers=workers or study.settings.workers,
    )
    settings = own_folder(settings, study)
    if not (settings.folder / FILE).exists():
        launch.check_name(settings)
    code = launch.run(settings, study.working_folder)
    anew = {group.rows[0].number // seeds: group for group in groups(Study.of(settings.folder))}
    for place, group in enumerate(best):
        if place in anew:
            there, here = console.spread(group), console.spread(anew[place])
            terminal.out(f"trial {group.rows[0].number} of the search: {there} there, {here} anew")
    return code


def own_folder(settings: Settings, study: Study) -> Settings:
    """Finds the folder of the very same refit, or a free one."""
    number = 0
    while True:
        number += 1
        name = f"refit_{number}"
        folder = study.folder / name
        settings = replace(settings, folder=folder, name=f"{study.settings.name}-{name}")
        if not (folder / FILE).exists() or not differences(load(folder), settings):
            return settings
