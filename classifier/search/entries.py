"""The entries of a search space: ranges and choices, and what Optuna keeps of their values.

A *param* is what Optuna keeps: a number, or a scalar or label that stands for a choice.
"""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from classifier.anchored_yaml.scalars import literal
from classifier.anchored_yaml.text import same
from classifier.errors import UserError, did_you_mean

RANGE = ("low", "high", "log", "step")
KINDS = ("FloatDistribution", "IntDistribution", "CategoricalDistribution")


class Choices:
    """A list of choices: scalars stand for themselves, lists and blocks have labels.

    A block's label is the name of its class, ``AdamW``, or its whole YAML where two blocks have
    the same class.

    Attributes:
        size: How many params there are; None for no end of them.
        members: All params, in order.
        probes: Enough params to find out whether they can be used.
        meaning: What counts when two searches are compared.
    """

    def __init__(self, values: list[Any]) -> None:
        if not values:
            raise UserError("the list of choices is empty.")
        names = [_name(value) for value in values]
        labels = [
            literal(value) if isinstance(value, dict | list) and names.count(name) > 1 else name
            for value, name in zip(values, names, strict=True)
        ]
        labelled = zip(values, labels, strict=True)
        for (one, label), (other, twin) in itertools.combinations(labelled, 2):
            if same(one, other) or label == twin:  # Optuna takes true for 1
                raise UserError(f"{literal(one)} and {literal(other)} are the same choice.")
        self.distribution = CategoricalDistribution(labels)
        self.values = self.meaning = values
        self.size = len(values)
        self.members: Sequence[Any] = self.distribution.choices
        self.probes = self.members

    def value(self, param: Any) -> Any:
        return self.values[int(self.distribution.to_internal_repr(param))]

    def param(self, value: Any) -> Any:
        """What stands for a value; a LookupError if it is no choice."""
        index = [same(value, choice) for choice in self.values].index(True)
        return self.members[index]

    def __str__(self) -> str:
        return " | ".join(
            label if isinstance(value, dict | list) else literal(value)
            for label, value in zip(self.members, self.values, strict=True)
        )


def _name(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        return value["class_path"].rpartition(".")[2]
    return literal(value) if isinstance(value, dict | list) else value


class Range:
    """Numbers from low to high, both included; has the attributes of `Choices`.

    With a ``step`` the highest may not be reached; with ``log`` as many numbers are drawn between 1
    and 10 as between 10 and 100. All are whole if these are, unless ``whole`` says otherwise.
    """

    def __init__(
        self,
        low: float,
        high: float,
        log: bool | None = None,
        step: float | None = None,
        *,
        whole: bool | None = None,
    ) -> None:
        numbers = {"low": low, "high": high} | ({} if step is None else {"step": step})
        for key, number in numbers.items():
            _check_number(key, number)
        if not isinstance(log, bool | None):
            raise UserError(f"log is true or false, not {literal(log)}.")
        _check_extent(low, high, bool(log), step)
        all_whole = all(isinstance(number, int) for number in numbers.values())
        if whole and not all_whole:
            raise UserError("IntDistribution has whole numbers; FloatDistribution has others.")
        self.distribution: IntDistribution | FloatDistribution
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna tells that it lowers high to the last step
            if all_whole and whole is not False:
                self.distribution = IntDistribution(int(low), int(high), bool(log), int(step or 1))
            else:
                self.distribution = FloatDistribution(low, high, bool(log), step)
        found = self.distribution
        self.probes = found.low, found.high
        self.meaning = {key: getattr(found, key) for key in RANGE}
        self._low = Decimal(repr(found.low))
        self._step = None if found.step is None else Decimal(repr(found.step))
        length = Decimal(repr(found.high)) - self._low
        self.size = None if self._step is None else int(length / self._step) + 1

    @property
    def members(self) -> Sequence[Any]:
        """All numbers, in order; of a range with steps only."""
        low, step = self.distribution.low, self.distribution.step or 0
        return [self.value(low + index * step) for index in range(self.size or 0)]

    def value(self, param: Any) -> Any:
        """The number, with a step written as people do: 0.3 and not 0.1 + 0.1 + 0.1."""
        kind = type(self.distribution.low)
        if self._step is None:
            return kind(param)
        steps = round((Decimal(param) - self._low) / self._step)
        return kind(self._low + steps * self._step)

    def param(self, value: Any) -> Any:
        """The number as Optuna has it; a LookupError if it lies outside the range."""
        whole = isinstance(self.distribution, IntDistribution)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise LookupError
        low, high = self.distribution.low, self.distribution.high
        number = type(low)(value)
        if not low <= number <= high or self.value(number) != number:
            raise LookupError
        return number

    def __str__(self) -> str:
        notes = ["log"] if self.distribution.log else []
        if isinstance(self.distribution, IntDistribution) and self.distribution.step == 1:
            notes.append("whole numbers")
        elif self.distribution.step is not None:
            notes.append(f"in steps of {self.distribution.step}")
        extent = f"{self.distribution.low!r} .. {self.distribution.high!r}"
        return f"{extent} ({', '.join(notes)})" if notes else extent


def _check_number(key: str, number: Any) -> None:
    if isinstance(number, str):
        raise UserError(f"{key} is the text {literal(number)}, expected a number without quotes.")
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise UserError(f"{key} is {literal(number)}, expected a finite number.")


def _check_extent(low: float, high: float, log: bool, step: float | None) -> None:
    if low > high:
        raise UserError(f"low {literal(low)} is above high {literal(high)}; swap them.")
    if low == high:
        raise UserError(f"low and high are both {literal(low)}, so that nothing varies.")
    if log and low <= 0:
        raise UserError(f"a range with log: true starts above 0, not at {literal(low)}.")
    if log and step is not None:
        raise UserError("a range has log or step, not both; leave one out.")
    if step is not None and step <= 0:
        raise UserError(f"step is above 0, not {literal(step)}.")
    if step is not None and step > high - low:
        raise UserError(f"step {literal(step)} is wider than the range, so that nothing varies.")


def read(entry: Any) -> Choices | Range:
    """Reads an entry of the search file: a range, a list, or a class of ``optuna.distributions``.

    Raises:
        UserError: It is none of these, or does not make sense.
    """
    if isinstance(entry, dict) and "class_path" in entry:
        return _of_class(entry)
    if isinstance(entry, list):
        return Choices(entry)
    if isinstance(entry, dict):
        return _range(entry)
    raise UserError(
        f"{literal(entry)} is neither a range, {{low: 0.001, high: 0.1}}, nor a list of choices, "
        f"[{literal(entry)}]."
    )


def _range(entry: Mapping[str, Any], whole: bool | None = None) -> Range:
    for key in entry:
        if key not in RANGE:
            hint = did_you_mean(str(key), RANGE, f"; it has {', '.join(RANGE)}.")
            raise UserError(f"a range has no '{key}'{hint}")
    if "low" not in entry or "high" not in entry:
        raise UserError("a range needs low and high, as in {low: 0.001, high: 0.1}.")
    return Range(**entry, whole=whole)


def _of_class(entry: Mapping[str, Any]) -> Choices | Range:
    name = str(entry["class_path"]).removeprefix("optuna.distributions.")
    if name not in KINDS:
        hint = did_you_mean(name, KINDS, f"; there are {', '.join(KINDS)}.")
        raise UserError(f"'{name}' is not a distribution{hint}")
    arguments = entry.get("init_args")
    if entry.keys() != {"class_path", "init_args"} or not isinstance(arguments, dict):
        raise UserError(f"{name} has class_path and init_args, nothing else.")
    if name != "CategoricalDistribution":
        return _range(arguments, whole=name == "IntDistribution")
    if arguments.keys() != {"choices"} or not isinstance(arguments["choices"], list):
        raise UserError(f"{name} takes a list, init_args: {{choices: [1, 2]}}.")
    return Choices(arguments["choices"])
