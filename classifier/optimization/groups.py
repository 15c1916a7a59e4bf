"""Parameters by pattern: which train at another rate, with another decay, later or never."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypedDict

from torch import nn
from torch.optim import Optimizer
from typing_extensions import Required

from classifier.errors import UserError, did_you_mean
from classifier.parts import head_names

REST = "rest"  # what no pattern matches
NUMBERS = {
    "lr_scale": "a number > 0; freeze: true trains nothing",
    "weight_decay": "a number >= 0",
    "freeze_epochs": "a whole number >= 1",
}


class Group(TypedDict, total=False):
    """Parameters and how they are trained; what is left out is as for all others.

    Keys:
        match: ``head``, ``backbone``, or names of parameters or modules of the network, with
            ``*`` for any text; one or a list.
        lr_scale: How large their rate is, that of the schedule being 1.
        weight_decay: Their own.
        freeze: Whether they are not trained at all.
        freeze_epochs: How many epochs they are not trained for.
    """

    match: Required[str | list[str]]
    lr_scale: float
    weight_decay: float
    freeze: bool
    freeze_epochs: int


@dataclass
class ParameterGroup:
    """A group of the optimizer, or of parameters that are in none.

    Attributes:
        name: What it is called, where rates are shown.
        parameters: Names of its parameters.
        lr_scale: How large its rate is, that of the schedule being 1.
        weight_decay: Its own; None for the optimizer's.
        frozen: How many epochs it is not trained for; infinite for good.
    """

    name: str
    parameters: list[str] = field(default_factory=list)
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen: float = 0


def patterns_of(entry: Mapping[str, Any]) -> list[str]:
    """What an entry matches, as a list."""
    match = entry["match"]
    return [match] if isinstance(match, str) else list(match)


def check_entries(entries: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError for entries whose values are off or contradict each other."""
    for entry in entries:
        known = Group.__annotations__
        if unknown := [key for key in entry if key not in known]:
            hint = did_you_mean(unknown[0], known, f"; there are {', '.join(known)}.")
            raise UserError(f"model.groups: no setting '{unknown[0]}'{hint}")
        if not entry.get("match"):
            raise UserError(f"model.groups: {dict(entry)} lacks match, the names that it is for.")
        place = f"model.groups: {', '.join(patterns_of(entry))}: "
        for key, expected in NUMBERS.items():
            if (value := entry.get(key)) is None or (key, value) == ("weight_decay", 0):
                continue
            if not 0 < value < math.inf:
                raise UserError(f"{place}{key} is {value}, expected {expected}.")
        others = [key for key in entry if key not in ("match", "freeze")]
        if entry.get("freeze") and others:
            raise UserError(f"{place}freeze: true and {others[0]} contradict; leave one out.")


class Grouping:
    """All trained parameters of a module in groups, of which the first that matches takes them.

    Args:
        parameters: Those that are to be trained, by name within the network, or within the module
            if they belong to something else.
        network: The network.
        entries: ``model.groups``.
        layers: How large the rate of parameters is by their layer, by name; none without.
        split: Whether parameters with fewer than two dimensions do not decay, unless their entry
            is for such alone and has a decay.
        outputs: The number of classes.

    Attributes:
        groups: Those of the optimizer, and those that are in none for good; in an order that
            numbers do not change.
        norms: For how many epochs each layer keeps its running statistics: those of batch
            normalisation in a frozen part.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        network: nn.Module,
        entries: Sequence[Mapping[str, Any]],
        layers: Mapping[str, float],
        split: bool,
        outputs: int | None = None,
    ) -> None:
        check_entries(entries)
        self.entries = [*entries, {"match": []}]  # the last takes what no other does
        self._heads = head_names(network, outputs)
        stats = [n for n, m in network.named_modules() if hasattr(m, "track_running_stats")]
        self._own = dict(network.named_parameters()).keys() | {f"{n}.running_mean" for n in stats}
        owners = {name: self._owner(name) for name in parameters}
        self._check_each_has_some(owners, network)
        scales = sorted(set(layers.values()))
        # An entry that is for such parameters alone decays them as it says.
        spare = {owners[name] for name, parameter in parameters.items() if parameter.ndim > 1}
        spare |= {n for n, entry in enumerate(self.entries) if entry.get("weight_decay") is None}
        groups: dict[tuple[int, int, bool], ParameterGroup] = {}
        for name, parameter in parameters.items():
            layer = scales.index(layers[name]) if name in layers else len(scales) - 1
            spared = split and parameter.ndim <= 1 and owners[name] in spare
            key = owners[name], layer, spared
            groups.setdefault(key, self._group(*key, layers.get(name, 1.0))).parameters.append(name)
        self.groups = [groups[key] for key in sorted(groups)]
        held = {name: self._frozen(self._owner(f"{name}.running_mean")) for name in stats}
        self.norms = {name: epochs for name, epochs in held.items() if epochs}

    def _owner(self, name: str) -> int:
        """The number of the first entry that matches; of the last where none does."""
        for number, entry in enumerate(self.entries):
            if any(self._matches(name, pattern) for pattern in patterns_of(entry)):
                return number
        return len(self.entries) - 1

    def _matches(self, name: str, pattern: str) -> bool:
        if pattern in ("head", "backbone"):
            in_head = any(name.startswith(f"{head}.") or not head for head in self._heads)
            return in_head if pattern == "head" else name in self._own and not in_head
        return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")

    def _check_each_has_some(self, owners: Mapping[str, int], network: nn.Module) -> None:
        """Raises UserError for a pattern that matches nothing, or only what others have taken."""
        for number, entry in enumerate(self.entries):
            for pattern in patterns_of(entry):
                found = [name for name in owners if self._matches(name, pattern)]
                if not found:
                    hint = did_you_mean(pattern, _names_and_modules(owners), _begin(owners))
                    raise UserError(
                        f"model.groups: '{pattern}' matches no parameter that is trained of "
                        f"{type(network).__name__}{hint}"
                    )
                if all(owners[name] < number for name in found):
                    first = self.entries[min(owners[name] for name in found)]
                    raise UserError(
                        f"model.groups: all parameters of '{pattern}' are taken by "
                        f"{', '.join(patterns_of(first))}, which stands before it; the first match "
                        "wins, so put it first."
                    )

    def _frozen(self, number: int) -> float:
        """For how many epochs the parameters of an entry are frozen."""
        entry = self.entries[number]
        return math.inf if entry.get("freeze") else entry.get("freeze_epochs") or 0

    def _group(self, number: int, layer: int, spared: bool, scale: float) -> ParameterGroup:
        entry = self.entries[number]
        name = "+".join(patterns_of(entry)) or REST * (len(self.entries) > 1)
        parts = [name, f"layer {layer}" * (layer >= 0), "no decay" * spared]
        decay = 0.0 if spared else entry.get("weight_decay")
        scale *= entry.get("lr_scale") or 1.0
        shown = " ".join(filter(None, parts)) or "decay"
        return ParameterGroup(shown, [], scale, decay, self._frozen(number))

    @property
    def trained(self) -> list[ParameterGroup]:
        """The groups of the optimizer."""
        return [group for group in self.groups if group.frozen < math.inf]

    def frozen_in(self, epoch: int) -> set[str]:
        """The names of the parameters that are not trained in an epoch, counted from 0."""
        return {name for g in self.groups if epoch < g.frozen for name in g.parameters}

    def check_length(self, epochs: int | None, ended_by: str) -> None:
        """Raises UserError where nothing is trained at first, or something not before the end.

        Args:
            epochs: How many there are; None if that is not known.
            ended_by: The setting that says so.
        """
        if all(group.frozen for group in self.groups):
            raise UserError(
                "model.groups freezes all parameters in the first epoch, so that there is nothing "
                "to train; leave out what is to be trained from the start, such as the head."
            )
        for group in self.trained:
            if epochs is not None and group.frozen >= epochs:
                raise UserError(
                    f"model.groups: {group.name}: freeze_epochs is {int(group.frozen)}, but "
                    f"{ended_by} ends the training in epoch {epochs}; fewer, or more "
                    f"{ended_by}, let it be trained, and freeze: true is for good."
                )

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Raises UserError for a decay that the optimizer does not know."""
        named = [group for group in self.trained if group.weight_decay]
        if named and "weight_decay" not in optimizer.defaults:
            raise UserError(
                f"model.groups: {named[0].name}: {type(optimizer).__name__} has no weight_decay."
            )


def _names_and_modules(names: Iterable[str]) -> set[str]:
    """Names of parameters and of all modules around them."""
    parts = [name.split(".") for name in names]
    return {".".join(p[: n + 1]) for p in parts for n in range(len(p))} | {"head", "backbone"}


def _begin(names: Collection[str]) -> str:
    """Ends a sentence with the names of the outermost modules."""
    return f"; there are {', '.join(dict.fromkeys(n.partition('.')[0] for n in names))}."


def plain_groups(parameters: list[nn.Parameter], no_decay_norm_bias: bool) -> list[Any]:
    """Returns what an optimizer is built of; a second group does not decay, if that is asked for.

    It has all parameters with fewer than two dimensions: biases and those of normalisation layers.
    """
    if not no_decay_norm_bias:
        return parameters
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def layer_scales(network: nn.Module, layer_decay: float) -> dict[str, float]:
    """How large the rate of each parameter is by its layer, as timm groups them: 1 for the head.

    Raises:
        UserError: If the network does not say what its layers are.
    """
    if not 0 < layer_decay < 1:
        raise UserError(f"model.layer_decay is {layer_decay}, expected a number between 0 and 1.")
    if not hasattr(network, "group_matcher"):
        raise UserError(
            f"model.layer_decay: {type(network).__name__} does not say what its layers are, as "
            "timm's networks do by group_matcher; give them an lr_scale in model.groups."
        )
    try:
        from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]  # unlisted
    except ImportError as error:
        raise UserError("model.layer_decay needs a package: pip install timm.") from error
    groups = param_groups_layer_decay(network, weight_decay=0.0, layer_decay=layer_decay)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    return {name: scales[id(p)] for name, p in network.named_parameters() if id(p) in scales}
