"""Starting from weights that were trained before: what a network takes of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from classifier.checkpoint.read import weights_digest
from classifier.errors import UserError
from classifier.parts import head_layers, head_names, stem_layers
from classifier.weights.file import COUNTERS, Weights, read_weights
from classifier.weights.layers import filters_for

LISTED = 5  # names at most


class Taken(NamedTuple):
    """What a network has taken of a file.

    Attributes:
        path: The file.
        digest: SHA-256 of the weights in it.
        tensors: How many tensors were taken as they are, or but for the rows of a head.
        head: What became of the head, in words.
        left: The parts of the file that the network lacks.
    """

    path: Path
    digest: str
    tensors: int
    head: str
    left: list[str]

    def __str__(self) -> str:
        left = f"; not used: {_listed(self.left)}" if self.left else ""
        return f"{self.tensors} tensors of {self.path}; {self.head}{left}"


def start_from(network: nn.Module, source: str | Path, class_names: Sequence[str]) -> Taken:
    """Gives a network, in place, the weights of a run, a checkpoint or a file.

    All but its head must be there. The rows of the head are those of the classes of the same name,
    where the file names its classes. Where it does not, the head is taken if it has as many rows as
    there are classes. Other rows, and a head of other features, stay as they are. Where the number
    of channels differs, the first filters are summed for grey images and else repeated.

    Args:
        network: Any network, with ``len(class_names)`` outputs.
        source: A run folder, which means its best checkpoint, or a file.
        class_names: The names of the classes, in the order of the outputs.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it cannot be read, or if it holds the weights of another network.
    """
    found = read_weights(source)
    own = network.state_dict()
    state, others = _without_prefix(found.state, own)
    # A head of another number of outputs is none of these classes.
    layers = [
        n
        for n, x in head_layers(network, len(class_names)).items()
        if len(x.weight) == len(class_names)
    ]
    heads = {f"{name}.{part}" for name in layers for part in ("weight", "bias")} & own.keys()
    body = {name: state[name] for name in own if name in state and name not in heads}
    for name in body.keys() & {f"{stem}.weight" for stem in stem_layers(network)}:
        body[name] = _with_channels(body[name], own[name])
    if told := _mismatch(network, state, own, body, heads):
        raise UserError(f"'{found.path}' {told}")
    rows = _rows(found, class_names, [state[n] for n in heads if n in state])
    head = _heads(own, state, heads, rows)
    _refuse_bad_numbers(found.path, {**body, **head}, own)
    own.update({**body, **head})  # which knows the versions of its modules
    network.load_state_dict(own)
    # Own checkpoints hold metrics beside the network.
    others = others if found.class_names is None else []
    left = [*others, *(name for name in state if name not in own)]
    return Taken(
        path=found.path,
        digest=weights_digest(found.state),
        tensors=len(body) + len(head),
        head=_in_words(found, class_names, rows if head else {}),
        left=list(dict.fromkeys(name.partition(".")[0] for name in left)),
    )


def _without_prefix(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by the names that a network has for them, and the names of all others.

    A network in a module, or in DDP, has its names behind a prefix, such as "network.".
    """
    prefixes = Counter(
        name[: len(name) - len(rest)]
        for name in state
        for rest in (name.split(".", level)[-1] for level in range(name.count(".") + 1))
        if rest in own
    )
    # The most of the names; of several such prefixes the shortest.
    prefix = min(prefixes, key=lambda key: (-prefixes[key], len(key)), default="")
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return found, [name for name in state if not name.startswith(prefix)]


def _with_channels(filters: Tensor, wanted: Tensor) -> Tensor:
    """Fits filters to the channels of the images, if nothing else is different."""
    shapes = [(*value.shape[:1], None, *value.shape[2:]) for value in (filters, wanted)]
    return filters_for(filters, wanted.shape[1]) if shapes[0] == shapes[1] else filters


def _mismatch(
    network: nn.Module,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    body: Mapping[str, Tensor],
    heads: set[str],
) -> str:
    """What shows that weights are of another network, as the end of a sentence; "" if nothing."""
    other = f"is not of this network, {type(network).__name__}: it"
    lacking = [n for n in own if n not in state and n not in heads and not n.endswith(COUNTERS)]
    if lacking:
        return f"{other} lacks '{lacking[0]}' ({len(lacking)} of {len(own)} tensors)."
    parts = {name for name, _ in network.named_children()}
    tops = {name.partition(".")[0] for name in (*head_names(network), *heads)}
    more = [n for n in state if n not in own and n.partition(".")[0] in parts - tops]
    if more:
        return f"{other} also has '{more[0]}' ({len(more)} such tensors)."
    for name, value in body.items():
        if value.shape != own[name].shape:
            return (
                f"does not fit: '{name}' is {_shape(value)}, but {_shape(own[name])} in the "
                "network; a network of the same name and arguments, such as its image size, fits."
            )
    return ""


def _refuse_bad_numbers(path: Path, taken: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuses weights of a training that diverged; a mask has infinite numbers on purpose."""
    bad = [
        name
        for name, value in taken.items()
        if not value.isfinite().all() and own[name].isfinite().all()
    ]
    if bad:
        raise UserError(
            f"'{path}' holds NaN or infinite weights, in '{bad[0]}' ({len(bad)} of {len(taken)} "
            "tensors), as of a training that diverged; take an earlier checkpoint of it."
        )


def _rows(found: Weights, class_names: Sequence[str], heads: Sequence[Tensor]) -> dict[int, int]:
    """Which row of the file's head is that of which class, both counted from 0."""
    known = found.class_names or class_names
    if {len(value) for value in heads if value.ndim} != {len(known)}:
        return {}
    places = {name: row for row, name in enumerate(known)}
    return {row: places[name] for row, name in enumerate(class_names) if name in places}


def _heads(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    heads: set[str],
    rows: Mapping[int, int],
) -> dict[str, Tensor]:
    """The tensors of the heads, with the rows of the file where it has some that fit."""
    if not rows or any(n not in state or state[n].shape[1:] != own[n].shape[1:] for n in heads):
        return {}
    found = {}
    for name in heads:
        found[name] = own[name].clone()
        found[name][[*rows]] = state[name][[*rows.values()]].to(own[name])
    return found


def _in_words(found: Weights, class_names: Sequence[str], rows: Mapping[int, int]) -> str:
    fresh = [name for row, name in enumerate(class_names) if row not in rows]
    if not rows:
        return "a fresh head"
    if found.class_names is None:
        return "its head as it is, for it has as many classes"
    return f"a fresh head for {_listed(fresh)} alone" if fresh else "its head for all classes"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} others" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a number"
