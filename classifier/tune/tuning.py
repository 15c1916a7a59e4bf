"""The search for the fastest execution plan: what is tried, in which order, and what wins.

One group of settings after the other, each on top of what won before:
reading processes; precision and memory format together; the fused optimizer; torch.compile; reading
processes once more, if what they feed became faster. This misses a plan of which each part alone
loses, and measures a dozen candidates instead of a hundred.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from classifier.cli.command_line import CommandLine
from classifier.cli.errors import message_of
from classifier.data import ImageDataModule
from classifier.tune.candidate import Candidate

PRECISION, LAYOUT = "trainer.precision", "model.channels_last"
FUSED, COMPILE = "model.optimizer.init_args.fused", "model.compile"
WORKERS, BATCH = "data.init_args.num_workers", "data.init_args.batch_size"
GROUPS = ((PRECISION, LAYOUT), (FUSED,), (COMPILE,))
REFERENCE = {PRECISION: "32-true", LAYOUT: False, FUSED: False, COMPILE: False}
ROUNDS = 9
GAIN = 1.03
STEADY = 7
"""A candidate wins if it is 1.03 times as fast by the median of nine rounds, and faster in seven.

By chance the second happens in one of eleven comparisons of a plan with itself.
"""
LOSS_STEPS = 50


@dataclass(frozen=True)
class Row:
    """What is known of a candidate.

    Attributes:
        name: In what it differs from the config.
        ratio: How many times as fast as the config; None if it was not timed.
        loss: Mean of the first steps; None if there is none to compare.
        verdict: What became of it, and why.
    """

    name: str
    ratio: float | None
    loss: float | None
    verdict: str


@dataclass
class Contender:
    """A candidate that trains, with its loss.

    Attributes:
        ratios: How many times as fast as the best so far it was, in each round.
        failed: Whether it failed while it was timed.
    """

    candidate: Candidate
    loss: float | None = None
    ratios: list[float] = field(default_factory=list)
    failed: bool = False


class Tuning:
    """Measures execution plans of a config and keeps the fastest so far.

    Args:
        given: The options of ``fit``. What they set on the command line is not tried otherwise.
        seconds: How long to time each candidate, in all rounds together.
        tolerance: How far the loss of a candidate may be off, as a share of the reference's.
        tell: Called with each new row.
        about: Called with the name of what is measured next.

    Attributes:
        plan: The settings that won, where they differ from the config, by dotted key.
        ratio: How many times as fast they are.
        rate: Images per second of the config as it is; 0 before they are known.
        batch: The batch size that was fastest, and its ratio, if larger ones were.
    """

    def __init__(
        self,
        given: list[str],
        seconds: float,
        tolerance: float,
        tell: Callable[[Row], None],
        about: Callable[[str], None],
    ) -> None:
        self.given = given
        self.seconds = seconds
        self.tolerance = tolerance
        self.tell = tell
        self.about = about
        self.plan: dict[str, Any] = {}
        self.ratio, self.rate = 1.0, 0.0
        self.batch: tuple[int, float] | None = None

    def run(self) -> None:
        """Measures; may be interrupted at any time.

        Raises:
            ValueError: The config itself is wrong, or cannot be trained.
        """
        self._begin()
        self._compare((WORKERS,))
        fed = self.ratio
        for group in GROUPS:
            self._compare(group)
        if self.ratio > fed:
            self._compare((WORKERS,))
        self._enlarge()

    def _begin(self) -> None:
        """Trains the config as it is, for the pace, and in float32, for the loss."""
        self.about("the config as it is")
        self.best = as_is = Candidate(self.given)
        self.data: ImageDataModule = as_is.datamodule
        self.own = current_values(as_is)
        self.values = {k: v for k, v in self.own.items() if not is_given(k, as_is.command_line)}
        plain = {k: v for k, v in REFERENCE.items() if self.own.get(k, v) != v}
        began = time.perf_counter()
        losses = as_is.losses(LOSS_STEPS, self.seconds)
        self.start = time.perf_counter() - began
        self.steps, self.loss = len(losses), fmean(losses)
        self.rate = median(as_is.images_per_second(self.seconds / ROUNDS) for _ in range(ROUNDS))
        self.tell(Row("as it is", 1, self.loss, ""))
        if plain:
            self.about("the reference")
            reference = Candidate(self.given, plain, self.data)
            self.loss = fmean(reference.losses(self.steps))
            self.tell(Row(named(plain), None, self.loss, "the reference of the loss"))

    # ---- one group of settings ----

    def _compare(self, keys: Iterable[str]) -> None:
        """Measures all other values of some settings, and takes the fastest that is in order."""
        tried = [key for key in keys if key in self.values]
        now = {key: self.values[key] for key in tried}
        choices = [choices_of(key, now[key]) for key in tried]
        others = [dict(zip(tried, values, strict=True)) for values in itertools.product(*choices)]
        contenders = [
            one for values in others if values != now for one in self._admit(self._with(values))
        ]
        try:
            self._race(contenders)
        finally:  # after Ctrl-C too
            self._choose(tried, [one for one in contenders if one.ratios and not one.failed])

    def _choose(self, tried: list[str], contenders: list[Contender]) -> None:
        objections = [self._objection(one) for one in contenders]
        sound = [one for one, no in zip(contenders, objections, strict=True) if not no]
        fastest = max((median(one.ratios) for one in sound), default=0)
        # The first of about equals, for it is the simplest.
        winner = next((one for one in sound if median(one.ratios) * GAIN >= fastest), None)
        for one, no in zip(contenders, objections, strict=True):
            verdict = "wins" if one is winner else no or "faster, but others are more so"
            ratio = self.ratio * median(one.ratios)
            self.tell(Row(named(one.candidate.plan), ratio, one.loss, verdict))
        if winner is not None:
            self.best, self.plan = winner.candidate, winner.candidate.plan
            self.ratio *= median(winner.ratios)
            self.values |= {key: self.plan.get(key, self.own[key]) for key in tried}

    def _with(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The best plan so far with other values, where they are not those of the config."""
        return {k: v for k, v in {**self.plan, **values}.items() if v != self.own[k]}

    def _admit(self, plan: Mapping[str, Any]) -> list[Contender]:
        """The candidate, if it trains and its loss is that of the reference."""
        self.about(named(plan))
        began = time.perf_counter()
        try:
            candidate = Candidate(self.given, plan, self.data)
            loss = fmean(candidate.losses(self.steps))
        except Exception as error:
            self.tell(Row(named(plan), None, None, reason(error)))
            return []
        candidate.preparation = max(0.0, time.perf_counter() - began - self.start)
        off = abs(loss - self.loss) / abs(self.loss)
        if not off <= self.tolerance:
            verdict = f"rejected: loss off by {off:.1%}, {self.tolerance:.1%} is allowed"
            self.tell(Row(named(plan), None, loss, verdict))
            return []
        return [Contender(candidate, loss)]

    def _race(self, contenders: list[Contender]) -> None:
        """Times candidates by turns with the best so far, so that all see the same machine."""
        for _ in range(ROUNDS if contenders else 0):
            pace = self._pace(self.best)
            for one in contenders:
                if one.failed:
                    continue
                try:
                    one.ratios.append(self._pace(one.candidate) / pace)
                except Exception as error:
                    one.failed = True
                    self.tell(Row(named(one.candidate.plan), None, one.loss, reason(error)))

    def _pace(self, candidate: Candidate) -> float:
        self.about(named(candidate.plan))
        return candidate.images_per_second(self.seconds / ROUNDS)

    def _objection(self, contender: Contender) -> str:
        """Why a candidate is out; nothing if it is not."""
        candidate, ratios = contender.candidate, contender.ratios
        ratio = median(ratios)
        if ratio < GAIN:
            return "slower" if ratio < 1 / GAIN else "no faster"
        if (faster := sum(ratio > 1 for ratio in ratios)) < STEADY:
            return f"within the noise, faster in {faster} of {len(ratios)} rounds"
        if candidate.plan.get(COMPILE) and not self.best.plan.get(COMPILE):
            # Twice: for training and for evaluation.
            costs = 2 * candidate.preparation
            saved = candidate.images_in_all / (self.rate * self.ratio) * (1 - 1 / ratio)
            if costs > saved:
                return f"compiling takes {costs:.0f} s, and saves {saved:.0f} s of the training"
        return ""

    # ---- the batch ----

    def _enlarge(self) -> None:
        """Doubles the batch: on a GPU until it does not fit, elsewhere until that gains nothing."""
        if BATCH not in self.values:
            return
        size, best = 2 * int(self.values[BATCH]), 1.0
        while size <= len(self.data.train_set):
            plan = {**self.plan, BATCH: size}
            self.about(named(plan))
            if not may_fit():
                self.tell(
                    Row(named(plan), None, None, "not tried: it may need more memory than is free")
                )
                return
            try:
                larger = Contender(Candidate(self.given, plan, self.data))
                larger.candidate.losses(1)
            except Exception as error:
                self.tell(Row(named(plan), None, None, reason(error)))
                return
            self._race([larger])
            if larger.failed:
                return
            ratio = median(larger.ratios)
            self.tell(Row(named(plan), self.ratio * ratio, None, "fits, and learns otherwise"))
            if ratio > GAIN * best:
                best, self.batch = ratio, (size, self.ratio * ratio)
            elif not torch.cuda.is_available():
                return
            size *= 2


def current_values(candidate: Candidate) -> dict[str, Any]:
    """The settings that can be tried, with the values that they have."""
    config = candidate.settings
    model = config.model.init_args
    values = {
        PRECISION: candidate.trainer.precision,
        LAYOUT: model.channels_last,
        COMPILE: model.compile,
    }
    optimizer = (model.optimizer or {}).get("init_args") or {}
    if "fused" in optimizer:
        values[FUSED] = bool(optimizer["fused"])
    data = config.data.get("init_args") or {}
    if "num_workers" in data and not data.get("in_memory"):
        values[WORKERS] = candidate.datamodule.num_workers
    if "batch_size" in data:
        values[BATCH] = candidate.datamodule.batch_size
    return values


def is_given(key: str, line: CommandLine) -> bool:
    """Whether a setting stands on the command line."""
    given = {option.partition("=")[0].lstrip("-") for option in line.options}
    return bool({key, key.replace(".init_args", "")} & given)


def choices_of(key: str, now: Any) -> list[Any]:
    """The values to try of a setting, and the one that it has."""
    if key == PRECISION:
        return list(dict.fromkeys((now, "32-true", "bf16-mixed")))
    if key == WORKERS:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        doubled = (2**power for power in range(int(math.log2(cores or 1)) + 1))
        return sorted({now, 0, *doubled})
    return [False, True]


def named(plan: Mapping[str, Any]) -> str:
    """A plan in words.

    >>> named({"trainer.precision": "bf16-mixed", "model.channels_last": True})
    'bf16-mixed, channels_last'
    """
    words = []
    for key, value in plan.items():
        name = key.rpartition(".")[2]
        if key == PRECISION:
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(name if value else f"no {name}")
        else:
            words.append(f"{name} {value:,}")
    return ", ".join(words)


def reason(error: Exception) -> str:
    """Why a candidate failed, on one line."""
    text = message_of(error)
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or "allocate memory" in text:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return "out of memory"
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"failed: {line if len(line) <= 100 else f'{line[:99]}…'}"


def may_fit() -> bool:
    """Whether a batch of twice the size fits in the memory of the CPU, if it is used there.

    Linux would kill the process, which at most doubles. A GPU says no without harm.
    """
    facts = Path("/proc/meminfo")
    if torch.cuda.is_available() or not facts.exists():
        return True
    import resource

    lines = dict(line.split(":") for line in facts.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0])  # KiB, as the other
    return free > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
