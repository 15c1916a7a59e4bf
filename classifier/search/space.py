"""The space of a search: which hyperparameters are searched, and over which values.

Each name of the base config's ``hyperparameters:`` block has a range, ``{low: 1e-4, high: 0.1,
log: true}``, or a list of choices: numbers, texts or whole blocks. One setting is never sampled:
every configuration is trained with each of its values, seeds or folds.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from classifier.anchored_yaml.edit import set_values
from classifier.anchored_yaml.names import KEY, check_names, paths, values
from classifier.anchored_yaml.scalars import literal
from classifier.anchored_yaml.text import KeyPath, compose, load, places
from classifier.cli.errors import Where
from classifier.errors import UserError, did_you_mean
from classifier.search.entries import Choices, Range, read

Distribution: TypeAlias = FloatDistribution | IntDistribution | CategoricalDistribution

SEED = "seed_everything"
MAX_SIZE = 10**6  # more configurations would fill the memory and never be trained
MAX_SEED = 2**32 - 1  # NumPy takes no larger one


@contextmanager
def about(key: str, where: Where) -> Iterator[None]:
    """Says in messages which setting they are about, and where it stands."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where(key)}{key}: {error}") from None


class Space:
    """What is searched.

    A configuration, ``params``, is a value for each name but the repeated one, as Optuna keeps it:
    of a choice that is a list or a block it keeps a short label, such as ``AdamW``.

    Args:
        entries: The ranges and choices by name; a dotted name is a part of a block.
        repeat: The setting with whose values every configuration is trained: ``seed_everything``,
            or a name that is searched.
        where: Finds a dotted key, such as ``space.lr``, in the search file, for messages.

    Attributes:
        names: All searched names, in order.
        parameters: What Optuna samples: everything but what is repeated.
        repeats: The values of what is repeated, for every configuration; empty without any.

    Raises:
        UserError: An entry is neither a range nor a list, or does not make sense.
    """

    def __init__(
        self, entries: Mapping[str, Any], repeat: str = SEED, where: Where = lambda key: ""
    ) -> None:
        self.where = where
        self.repeat = repeat
        if not entries:
            raise UserError(
                f"{where('space')}space: nothing is searched; name a hyperparameter of the base "
                "config, as in 'lr: {low: 0.001, high: 0.1, log: true}'."
            )
        self._entries: dict[str, Choices | Range] = {}
        self.repeats: tuple[Any, ...] = ()
        for name, entry in entries.items():
            with about(f"space.{name}", self.where):
                if not isinstance(name, str):
                    raise UserError("YAML does not read this name as text; put it in quotes.")
                if name in (SEED, repeat):
                    self.repeats = _repeats(name, repeat, read(entry))
                else:
                    self._entries[name] = read(entry)
        if repeat not in (SEED, *entries):
            hint = did_you_mean(repeat, entries, "; it is one of those in space.")
            raise UserError(f"{where('repeat')}repeat: space has no '{repeat}'{hint}")
        self.names = tuple(entries)
        self.parameters: dict[str, Distribution] = {
            name: entry.distribution for name, entry in self._entries.items()
        }

    # ---- one configuration ----

    def text(
        self, base: str, params: Mapping[str, Any], repeated: Any = None, name: str = "config"
    ) -> str:
        """The text of the base config with exactly the values of a configuration changed.

        Names that ``params`` leaves out keep the base config's value, and so does what is repeated
        for None. Messages call the base config by ``name``.
        """
        changes: dict[KeyPath, Any] = {
            _path(name): self._entries[name].value(param) for name, param in params.items()
        }
        if repeated is not None:
            changes[_path(self.repeat)] = repeated
            if self.repeat == SEED and SEED not in load(base, name):
                base = _with_seed(base, repeated)
        return set_values(base, changes, name)

    def point(self, base: str) -> dict[str, Any] | None:
        """The configuration of the base config itself; None if it lies outside the space."""
        found = dict(paths(load(base)))
        try:
            return {name: entry.param(found[_path(name)]) for name, entry in self._entries.items()}
        except (LookupError, ValueError):
            return None

    def labelled(self, params: Mapping[str, Any], repeated: Any = None) -> dict[str, Any]:
        """A configuration and what is repeated, in the order of the names; blocks by labels."""
        labels = {} if repeated is None else {self.repeat: repeated}
        for name, param in params.items():
            entry = self._entries[name]
            labels[name] = entry.value(param) if isinstance(entry, Range) else param
        return {name: labels[name] for name in self.names if name in labels}

    # ---- all configurations ----

    @property
    def size(self) -> int | None:
        """How many configurations there are, each counted once; None for over a million."""
        size = math.prod(entry.size or MAX_SIZE + 1 for entry in self._entries.values())
        return size if size <= MAX_SIZE else None

    def grid(self) -> list[dict[str, Any]]:
        """All configurations; the last name changes fastest.

        Raises:
            UserError: There is no end of them, or there are more than a million.
        """
        for name, entry in self._entries.items():
            if entry.size is None:
                with about(f"space.{name}", self.where):
                    raise UserError(
                        "a grid takes every value, and this range has no end of them; give it a "
                        "step, or list the values."
                    )
        if self.size is None:
            raise UserError(
                f"{self.where('space')}space: a grid of more than {MAX_SIZE} configurations; make "
                "the steps larger, or take another sampler than grid."
            )
        points = itertools.product(*(entry.members for entry in self._entries.values()))
        return [dict(zip(self._entries, point, strict=True)) for point in points]

    def describe(self) -> list[str]:
        """One line a name for the screen, as in ``lr 0.0001 .. 0.1 (log)``."""
        lines = {name: str(entry) for name, entry in self._entries.items()}
        what = "seed" if self.repeat == SEED else "one"
        values = ", ".join(map(str, self.repeats))
        lines[self.repeat] = f"{values} (each configuration with every {what})"
        return [f"{name} {lines[name]}" for name in self.names]

    def meaning(self, ordered: bool) -> dict[str, Any]:
        """What is searched, by name, written in one way, unless the order of choices counts."""
        found = {name: entry.meaning for name, entry in self._entries.items()}
        found |= {self.repeat: list(self.repeats)} if self.repeats else {}
        return {
            name: entry if ordered or isinstance(entry, dict) else sorted(entry, key=literal)
            for name, entry in found.items()
        }

    def probes(self) -> list[tuple[str, Any]]:
        """Each name with enough params to find out whether they can be used."""
        return [(name, param) for name, entry in self._entries.items() for param in entry.probes]

    # ---- the space and the base config ----

    def check(self, base: str, name: str = "base config") -> None:
        """Refuses names which the base config lacks, or where a value would have no effect.

        Raises:
            UserError: A name is unknown, an alias of another one, or used by no alias; or no
                longer used when a certain block is chosen for another name.
        """
        known = values([base])
        for searched in (name for name in self.names if name != SEED):
            with about(f"space.{searched}", self.where):
                try:
                    check_names(known, {_path(searched)[1:]: None})
                except UserError as error:
                    raise UserError(f"in {name} there is {error}") from None
        self._check_used(base, f"no alias in {name} uses it, so that it would have no effect.")
        parts = dict(paths(load(base)))
        for searched, param in self.probes():
            with about(f"space.{searched}", self.where):
                text = self.text(base, {searched: param}, name=name)
            if isinstance(parts[_path(searched)], dict | list):  # which may hold aliases
                self._check_used(
                    text,
                    f"nothing uses it where {searched} is {param}; leave one of them out, or "
                    f"search a part such as {searched}.class_path.",
                )
        for value in self.repeats[:2]:  # one of the two is not the base config's own
            with about(f"space.{self.repeat}", self.where):
                self.text(base, {}, value, name)

    def _check_used(self, text: str, problem: str) -> None:
        used = _used(text)
        for name in (name for name in self.names if name != SEED):
            path = _path(name)
            if not any(place[: len(path)] == path for place in used):
                with about(f"space.{name}", self.where):
                    raise UserError(problem)


def _repeats(name: str, repeat: str, entry: Choices | Range) -> tuple[Any, ...]:
    """The values with which each configuration is trained."""
    if name != repeat:
        raise UserError(
            f"seeds are repeated, not sampled, and repeat says so of {repeat}; leave out one."
        )
    if entry.size is None or entry.size > MAX_SIZE:
        what = "the seeds are" if name == SEED else "what is repeated is"
        raise UserError(f"{what} a list, [0, 1, 2], or a range of whole numbers.")
    values = [entry.value(member) for member in entry.members]
    for seed in values if name == SEED else ():
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise UserError(f"a seed is a whole number from 0 to {MAX_SEED}, not {literal(seed)}.")
    return tuple(values)


def _path(name: str) -> tuple[str, ...]:
    return (SEED,) if name == SEED else (KEY, *name.split("."))


def _used(text: str) -> set[tuple[str, ...]]:
    """Places in the block ``hyperparameters:`` whose values stand elsewhere in the config too."""
    everything = list(places(compose(text)))
    elsewhere = {id(node) for path, node in everything if path[:1] != (KEY,)}
    return {
        tuple(map(str, path))
        for path, node in everything
        if path[:1] == (KEY,) and id(node) in elsewhere
    }


def _with_seed(base: str, seed: int) -> str:
    """Adds the seed as the first of the config's keys."""
    root = compose(base)
    if not root.value:
        return f"{SEED}: {seed}\n{base}"
    mark = root.value[0][0].start_mark
    end = ", " if root.flow_style else "\n" + " " * mark.column
    return f"{base[: mark.index]}{SEED}: {seed}{end}{base[mark.index :]}"
