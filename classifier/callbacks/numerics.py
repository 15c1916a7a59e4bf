"""How exactly a device computes, for as long as a trainer runs."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # read by cuBLAS; without it matrix products differ


class Numerics(Callback):
    """Lets a GPU compute the same bits each time, and products of float32 as the module says.

    By itself an H100 trains in float32 to other weights each time, so that what is resumed could
    not end with those of a training that was left alone. What has no deterministic kernel runs all
    the same, with a warning of PyTorch's.

    Args:
        repeatable: Whether to ask for the same bits: not where the trainer was told otherwise.
    """

    state_key = "Numerics"

    def __init__(self, repeatable: bool) -> None:
        self.repeatable = repeatable
        self.within = contextlib.ExitStack()

    @classmethod
    def of(cls, config: Any) -> "Numerics":
        """That of a trainer, by its settings."""
        return cls(config.deterministic is None and not config.benchmark)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.repeatable and trainer.strategy.root_device.type == "cuda":
            self.within.enter_context(same_bits())
        if precision := getattr(pl_module, "float32_matmul_precision", None):
            self.within.callback(
                torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()
            )
            torch.set_float32_matmul_precision(precision)

    def _end(self, *args: Any, **kwargs: Any) -> None:
        self.within.close()

    teardown = on_exception = _end


@contextlib.contextmanager
def same_bits() -> Iterator[None]:
    """Within, PyTorch chooses deterministic kernels where there are any."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module with a property
    fills = memory.fill_uninitialized_memory
    workspace = os.environ.get(WORKSPACE)
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # it would cost a kernel a tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        memory.fill_uninitialized_memory = fills
        if workspace is None:
            del os.environ[WORKSPACE]
