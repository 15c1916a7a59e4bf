"""Random numbers that depend on what they are for, and on nothing that was drawn before."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(*numbers: int) -> int:
    """Hashes numbers into one seed, so that (0, 1) and (1, 0) share nothing."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big")


def seed_generators(seed: int) -> None:
    """Seeds the generators of torch's CPU, of Python and of NumPy, in 10 microseconds."""
    # torch.manual_seed takes 90 of them: it resets the generators of all kinds of devices.
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    # NumPy's old, global generator: it is the one that other people's transforms use.
    np.random.seed(seed % 2**32)  # noqa: NPY002


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block on random numbers of its own: those of ``seed_generators``."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
