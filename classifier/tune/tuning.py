"""The search for the fastest execution plan: what is tried, in which order, and what wins.

One group of settings after the other, each on top of what won before:
reading processes; threads; precision and memory format together; the fused optimizer;
torch.compile; reading processes once more, if what they feed became faster. This misses a plan
whose parts each lose alone, and measures a dozen candidates instead of a hundred.
"""

import itertools
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import torch
from rich.status import Status

from classifier import terminal
from classifier.cli.messages import message_of
from classifier.platform import THREADS, cores, memory_may_double
from classifier.tune.candidate import Candidate

PRECISION, LAYOUT = "trainer.precision", "model.channels_last"
PRODUCTS = "model.float32_matmul_precision"
FUSED, COMPILE = "model.optimizer.init_args.fused", "model.compile"
WORKERS, BATCH = "data.init_args.num_workers", "data.init_args.batch_size"
GROUPS = ((THREADS,), (PRECISION, LAYOUT), (PRODUCTS,), (FUSED,), (COMPILE,))
REFERENCE = {PRECISION: "32-true", LAYOUT: False, PRODUCTS: "highest", FUSED: False, COMPILE: False}
# A candidate wins if it is 1.03 times as fast by the median of nine rounds, and faster in seven.
# By chance the second happens in one of eleven comparisons of a plan with itself.
ROUNDS, GAIN, STEADY = 9, 1.03, 7
LOSS_STEPS = 50
HEADER = f"{'images/s':>10}  {'ratio':>6}  {'loss':>8}  candidate"


class Tuning:
    """Measures execution plans of a config and keeps the fastest so far.

    Args:
        given: The options of ``fit``. What they set is not tried otherwise.
        seconds: How long to time a candidate, in all rounds together.
        tolerance: How far the loss of a candidate may be off, as a share of that in float32.
        status: What a terminal shows meanwhile.

    Attributes:
        table: All lines that were printed: a candidate each, as soon as it was measured.
        best: The candidate that won; its plan has the settings that differ from the config.
        ratio: How many times as fast they are.
        batch: The batch size that was fastest, and its ratio, if larger ones were.

    Raises:
        ValueError: The config itself is wrong.
    """

    def __init__(
        self, given: Sequence[str], seconds: float, tolerance: float, status: Status
    ) -> None:
        self.given = given
        self.seconds = seconds
        self.tolerance = tolerance
        self.status = status
        self.table: list[str] = []
        self._announce({})
        self.best = self.as_is = Candidate(given)
        self.on_gpu = self.as_is.device.type == "cuda"
        self.own = current_values(self.as_is)
        words = self.as_is.command_line.options
        fixed = {word.partition("=")[0].lstrip("-").replace(".init_args", "") for word in words}
        free = [key for key in self.own if key.replace(".init_args", "") not in fixed]
        self.values = {key: self.own[key] for key in free}
        self.ratio = 1.0
        self.batch: tuple[int, float] | None = None

    def measure_baseline(self) -> None:
        """Trains the config as it is, for the pace, and in float32, for the loss.

        Sets ``steps``, ``rate``, ``loss`` and ``preparation``, to which variants are compared.
        """
        began = time.perf_counter()
        losses = self.as_is.losses(LOSS_STEPS, self.seconds)
        self.preparation = time.perf_counter() - began
        self.steps, self.loss = len(losses), fmean(losses)
        self.rate = median(self._pace(self.as_is) for _ in range(ROUNDS))
        self._show({}, 1, self.loss, "")
        plain = {k: v for k, v in REFERENCE.items() if self.own.get(k, v) != v}
        if plain:
            self._announce(plain)
            self.loss = fmean(self._under(plain).losses(self.steps))
            self._show(plain, None, self.loss, "the reference of the loss")

    def _under(self, plan: Mapping[str, Any]) -> Candidate:
        """The config under a plan, with the same images."""
        return Candidate(self.given, plan, self.as_is.datamodule)

    def run(self) -> None:
        """Measures; may be interrupted at any time."""
        self._compare((WORKERS,))
        fed = self.ratio
        for group in GROUPS:
            self._compare(group)
        if self.ratio > fed:
            self._compare((WORKERS,))
        self._enlarge()

    def _announce(self, plan: Mapping[str, Any]) -> None:
        self.status.update(f"measuring: {named(plan)}")

    def _show(
        self, plan: Mapping[str, Any], ratio: float | None, loss: float | None, verdict: str
    ) -> None:
        """Prints a row, without a ratio if it was not timed."""
        # All rates are at the pace that the machine had for the first one.
        timed = ("", "") if ratio is None else (f"{self.rate * ratio:,.0f}", f"{ratio:.2f}")
        numbers = "{:>10}  {:>6}  {:>8}".format(*timed, "" if loss is None else f"{loss:.4f}")
        row = f"{numbers}  {named(plan)}{verdict and f': {verdict}'}"
        lines = [row] if self.table else [HEADER, row]
        self.table += lines
        terminal.out("\n".join(lines))

    # ---- one group of settings ----

    def _compare(self, keys: Iterable[str]) -> None:
        """Measures all other values of some settings, and takes the fastest that is in order."""
        tried = [key for key in keys if key in self.values]
        now = {key: self.values[key] for key in tried}
        choices = [choices_of(key, now[key], self.on_gpu) for key in tried]
        others = [dict(zip(tried, values, strict=True)) for values in itertools.product(*choices)]
        contenders = [
            one for values in others if values != now for one in self._admit(self._with(values))
        ]
        try:
            self._race(contenders)
        finally:  # after Ctrl-C too
            self._choose(tried, [one for one in contenders if one.ratios])

    def _choose(self, tried: list[str], contenders: list[Candidate]) -> None:
        objections = {one: self._objection(one) for one in contenders}
        sound = [one for one, no in objections.items() if not no]
        fastest = max((median(one.ratios) for one in sound), default=0)
        # The first of about equals, for it is the simplest.
        winner = next((one for one in sound if median(one.ratios) * GAIN >= fastest), None)
        for one, no in objections.items():
            verdict = "wins" if one is winner else no or "faster, but others are more so"
            ratio = self.ratio * median(one.ratios)
            self._show(one.plan, ratio, one.loss, verdict)
        if winner is not None:
            self.best = winner
            self.ratio *= median(winner.ratios)
            self.values |= {key: self.best.plan.get(key, self.own[key]) for key in tried}

    def _with(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The best plan so far with other values, where they are not those of the config."""
        return {k: v for k, v in {**self.best.plan, **values}.items() if v != self.own[k]}

    def _admit(self, plan: Mapping[str, Any]) -> list[Candidate]:
        """The candidate, if it trains and its loss is that of the reference."""
        self._announce(plan)
        began = time.perf_counter()
        try:
            candidate = self._under(plan)
            candidate.loss = fmean(candidate.losses(self.steps))
        except Exception as error:
            self._show(plan, None, None, reason(error))
            return []
        candidate.preparation = max(0.0, time.perf_counter() - began - self.preparation)
        off = abs(candidate.loss - self.loss) / abs(self.loss)
        if not off <= self.tolerance:
            verdict = f"rejected: loss off by {off:.1%}, {self.tolerance:.1%} is allowed"
            self._show(plan, None, candidate.loss, verdict)
            return []
        return [candidate]

    def _race(self, contenders: list[Candidate]) -> None:
        """Times candidates by turns with the best so far, so that all see the same machine.

        Those that fail meanwhile are taken out.
        """
        for _ in range(ROUNDS if contenders else 0):
            pace = self._pace(self.best)
            for one in [*contenders]:
                try:
                    one.ratios.append(self._pace(one) / pace)
                except Exception as error:
                    contenders.remove(one)
                    self._show(one.plan, None, one.loss, reason(error))

    def _pace(self, candidate: Candidate) -> float:
        self._announce(candidate.plan)
        return candidate.images_per_second(self.seconds / ROUNDS)

    def _objection(self, candidate: Candidate) -> str:
        """Why a candidate is out; nothing if it is not."""
        ratios = candidate.ratios
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
        """Doubles the batch until that gains nothing: on a GPU, which it has to fill, twice."""
        if BATCH not in self.values or not hasattr(self.as_is.datamodule, "train_set"):
            return
        misses = 1 + self.on_gpu
        size, best = 2 * int(self.values[BATCH]), 1.0
        while size <= len(self.as_is.datamodule.train_set):
            plan = {**self.best.plan, BATCH: size}
            self._announce(plan)
            # Linux would kill the process, which at most doubles. A GPU says no without harm.
            if not (self.on_gpu or memory_may_double()):
                self._show(plan, None, None, "not tried: it may need more memory than is free")
                return
            try:
                larger = self._under(plan)
                larger.losses(1)
            except Exception as error:
                self._show(plan, None, None, reason(error))
                return
            self._race(racing := [larger])
            if not racing:
                return
            ratio = median(larger.ratios)
            self._show(plan, self.ratio * ratio, None, "fits, but trains differently")
            if ratio > GAIN * best:
                best, self.batch, misses = ratio, (size, self.ratio * ratio), 1 + self.on_gpu
            elif (misses := misses - 1) == 0:
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
    if candidate.device.type == "cuda":  # elsewhere it is slower, or does nothing
        values[PRODUCTS] = model.float32_matmul_precision or "highest"
    elif THREADS not in os.environ:
        values[THREADS] = candidate.threads
    optimizer = (model.optimizer or {}).get("init_args") or {}
    if "fused" in optimizer:
        values[FUSED] = bool(optimizer["fused"])
    data = config.data.get("init_args") or {}
    if "num_workers" in data and not data.get("in_memory"):
        values[WORKERS] = candidate.datamodule.num_workers
    if "batch_size" in data:
        values[BATCH] = candidate.datamodule.batch_size
    return values


def choices_of(key: str, now: Any, on_gpu: bool = False) -> list[Any]:
    """The values to try of a setting, and the one that it has.

    ``trainer.benchmark`` and ``deterministic`` are none: they would give up exact resuming.
    """
    if key == PRECISION:
        half = ("16-mixed",) if on_gpu else ()
        return list(dict.fromkeys((now, "32-true", "bf16-mixed", *half)))
    if key == PRODUCTS:
        return list(dict.fromkeys((now, "highest", "high")))
    if key in (WORKERS, THREADS):
        doubled = (2**power for power in range(int(math.log2(cores())) + 1))
        return sorted({now, *doubled, *([0] if key == WORKERS else [])})
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
        elif key == THREADS:
            words.append(f"{value} thread{'s' * (value > 1)}")
        elif isinstance(value, bool):
            words.append(name if value else f"no {name}")
        elif isinstance(value, str):
            words.append(f"{name} {value}")
        else:
            words.append(f"{name} {value:,}")
    return ", ".join(words) or "as it is"


def reason(error: Exception) -> str:
    """Why a candidate failed, on one line."""
    text = message_of(error)
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or "allocate memory" in text:
        torch.cuda.empty_cache()  # does nothing without a GPU
        return "out of memory"
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"failed: {line if len(line) <= 100 else f'{line[:99]}…'}"
