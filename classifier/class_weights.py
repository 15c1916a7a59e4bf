"""How much the images of each class count in the loss of a training.

Shapes: N images, K classes.
"""

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from classifier.errors import UserError, did_you_mean

ClassWeights = Literal["balanced"] | dict[str, float]
LISTED = 12  # classes at most
TRIED = 100  # images at most that a loss is tried out on: a square of 20,000 classes takes 2 GB


class WeightedLoss:
    """A loss in which images count by their class, besides the same loss in which they do not.

    torch's cross-entropy divides by the sum of a batch's weights, which cancels a part of them in
    small batches. It does not with labels as shares, which therefore any loss gets that takes
    them: the gradient is then that of the whole set, whatever the batch, accumulation and ranks.

    Args:
        given: "balanced", or numbers by class name; a class without one has 1.
        loss: The loss, which has an argument ``weight`` of K numbers, or consists of one that has.
        class_names: The names of the K classes.

    Raises:
        UserError: If a class or number cannot be, or if the loss takes no weights.
    """

    def __init__(self, given: ClassWeights, loss: nn.Module, class_names: Sequence[str]) -> None:
        # In YAML a class that is called 0 is a number.
        self.given = None if given == "balanced" else {str(k): v for k, v in given.items()}
        self.class_names = class_names
        self._check()
        self.place = _place_of_weights(loss)  # of the tensor in the loss, dotted
        self.takes_shares = False
        self.divides_by_weights = False
        self._try_out(loss)
        self.is_used = False  # in a training

    def numbers(self, counts: Tensor) -> Tensor:
        """The weights, double ``(K,)``, whose mean over the training images is 1.

        Args:
            counts: How many training images each class has, int64 ``(K,)``. Without any it has 1.

        Raises:
            UserError: If no image would count.
        """
        known = counts.double()
        if self.given is None:
            weights = 1 / known.clamp(min=1)
        else:
            given = [self.given.get(name, 1.0) for name in self.class_names]
            weights = torch.tensor(given).double()
        mean = (weights * known).sum() / known.sum()
        if not mean > 0:
            raise UserError("model.class_weights: no training image has a weight above 0.")
        return torch.where(counts > 0, weights / mean, 1.0)

    def __call__(self, loss: nn.Module, weights: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The weighted loss of a batch: logits ``(N, K)``, labels ``(N,)`` or mixed ``(N, K)``."""
        self.is_used = True
        # As cross-entropy computes under autocast: weights of 8 bits would be off by 0.4 %.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.takes_shares:
            labels = _shares(labels, logits)
        value: Tensor = functional_call(
            loss, {self.place: weights.to(logits.dtype)}, (logits, labels)
        )
        return value

    def describe(self, weights: Tensor) -> str:
        """Names the weights of the classes; of many, the ends."""
        pairs = [*zip(weights.tolist(), self.class_names, strict=True)]
        if len(pairs) > LISTED:
            (least, few), (most, many) = min(pairs), max(pairs)
            return f"{least:.3g} ({few}) to {most:.3g} ({many})"
        return ", ".join(f"{name} ({weight:.3g})" for weight, name in pairs)

    def notes(self) -> list[str]:
        """What there is to say of the weights before a training, in sentences."""
        notes = []
        if self.given is not None and (rest := len(self.class_names) - len(self.given)):
            notes.append(
                f"model.class_weights names {len(self.given)} of {len(self.class_names)} classes; "
                f"the weight of the other {rest} is 1, before all are divided by their mean over "
                "the training images."
            )
        if self.divides_by_weights:
            notes.append(
                "model.class_weights: model.loss divides by the weights of each batch, so that in "
                "small batches they count less; one that takes shares of the classes as labels "
                "need not."
            )
        return notes

    def _check(self) -> None:
        if self.given == {}:
            raise UserError(
                "model.class_weights: {} names no class, expected balanced or numbers by class, "
                "such as {cat: 2}; leave it out to let all images count alike."
            )
        for name, weight in (self.given or {}).items():
            if name not in self.class_names:
                among = f"; there are {', '.join(self.class_names[:LISTED])}."
                hint = did_you_mean(name, self.class_names, among)
                raise UserError(f"model.class_weights: no class '{name}'{hint}")
            if not 0 <= weight < math.inf:
                raise UserError(
                    f"model.class_weights: the weight of '{name}' is a number >= 0, not {weight}."
                )

    def _try_out(self, loss: nn.Module) -> None:
        """Finds out on made-up images which labels the loss takes, and that the weights count."""
        logits, labels = _made_up(len(self.class_names))
        loss = copy.deepcopy(loss)  # it may have a state
        weights = torch.linspace(0.5, 1.5, len(self.class_names))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for self.takes_shares in (True, False):
                try:
                    whole = self(loss, weights, logits, labels)
                    plain = self(loss, torch.ones_like(weights), logits, labels)
                    parts = [self(loss, weights, logits[k, None], labels[k, None]) for k in (0, 1)]
                    both = self(loss, weights, logits[:2], labels[:2])
                    share = weights[:2] / weights[:2].sum()
                    break
                except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
                    failure = error
            else:
                raise UserError(f"{_of(loss)} takes no weights of classes: {failure}") from failure
        if torch.equal(whole, plain):
            raise UserError(f"{_of(loss)} has a 'weight', but it changes nothing.")
        self.divides_by_weights = torch.allclose(both, (torch.stack(parts) * share).sum())


def try_out(loss: nn.Module, num_classes: int) -> None:
    """Raises UserError if a loss does not make one number of logits and classes.

    For those of torch, and those that tensors were given, whose length can be wrong; others may
    want images that are not made up.
    """
    logits, labels = _made_up(num_classes)
    loss = copy.deepcopy(loss)  # it may have a state
    name = f"model.loss: {type(loss).__name__}"
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            value = loss(logits, labels)
        except Exception as error:  # of any library
            told = str(error).splitlines()[0]
            raise UserError(
                f"{name} does not take logits and classes, as of {num_classes}: {told}"
            ) from error
    if value.ndim:
        raise UserError(
            f"{name} gives a number for each image, expected their mean: reduction: mean does."
        )


def _made_up(num_classes: int) -> tuple[Tensor, Tensor]:
    """Logits ``(N, K)`` of some images, and their classes ``(N,)``; all losses differ."""
    number = min(num_classes, TRIED)
    logits = torch.linspace(-1, 1, number * num_classes).view(number, num_classes)
    return logits, torch.arange(number)


def _shares(labels: Tensor, logits: Tensor) -> Tensor:
    shares = nn.functional.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
    return shares.to(logits.dtype)


def _place_of_weights(loss: nn.Module) -> str:
    """Where in a loss the weights of the classes are, which it must not have been given."""
    for name, part in loss.named_modules():
        takes = "weight" in inspect.signature(type(part)).parameters and hasattr(part, "weight")
        if takes and not isinstance(part.weight, nn.Parameter):
            if part.weight is not None:
                raise UserError(
                    "model.class_weights and the weight of model.loss say the same; leave one out "
                    "(that of the loss counts in val_loss, too)."
                )
            return f"{name}.weight".lstrip(".")
    raise UserError(
        f"{_of(loss)} has no argument 'weight', by which classes count: "
        "torch.nn.CrossEntropyLoss has, and data.sampler: balanced needs none."
    )


def _of(loss: nn.Module) -> str:
    return f"model.class_weights: {type(loss).__name__}"
