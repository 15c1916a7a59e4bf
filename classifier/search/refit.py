"""``classifier search refit DIR``: the best configurations once more, with seeds of their own."""

from dataclasses import replace
from pathlib import Path

from classifier.hyperparameters import ConfigError, setting_in
from classifier.search import launch, report
from classifier.search.results import groups
from classifier.search.settings import FILE, Settings, differences, load
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
    best = [group.rows[0] for group in groups(study)[:top_k]]
    if not best:
        raise ConfigError(f"'{folder}' has no complete trial yet; there is nothing to train anew.")
    trials = study.trials()
    used = setting_in(study.base, [SEED])
    last = max([*study.space.seeds, used if isinstance(used, int) else 0])
    settings = replace(
        study.settings,
        space={**study.settings.space, SEED: list(range(last + 1, last + 1 + seeds))},
        plan=[trials[row.number].params for row in best],
        pruner=None,
        n_trials=None,
        max_seconds=None,
        workers=workers or study.settings.workers,
    )
    settings = own_folder(settings, folder.resolve())
    code = launch.run(settings)
    anew = {group.rows[0].number // seeds: group for group in groups(Study.of(settings.folder))}
    for place, row in enumerate(best):
        if place in anew:
            name = f"trial {row.number} of the search"
            report.say(f"{name}: {row.value:.4f} there, {report.spread(anew[place])} anew")
    return code


def own_folder(settings: Settings, search: Path) -> Settings:
    """Finds the folder of the very same refit, or a free one."""
    number = 0
    while True:
        number += 1
        name = f"refit_{number}"
        folder = search / name
        settings = replace(settings, folder=folder, name=f"{load(search).name}-{name}")
        if not (folder / FILE).exists() or not differences(load(folder), settings):
            return settings
