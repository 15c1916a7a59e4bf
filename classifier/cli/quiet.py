"""Keeps off the screen the libraries' notes that nobody can act on in a normal run."""

import contextlib
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator

NOTES = re.compile(
    r"(\[rank: \d+\] )?"
    r"((GPU|TPU|HPU) available|Seed set to|.*Tip: |`Trainer\.fit` stopped|Restor|Loaded model|"
    r"LOCAL_RANK|Initializing distributed|-{20}|distributed_backend|All distributed processes|"
    r"Detected KeyboardInterrupt|Received SIGTERM|`Trainer\(|Using (.*bit|bfloat16)|"
    r"Loading `train_dataloader` to estimate|You are using a CUDA device|No CUDA runtime is found)"
)


WARNINGS = (
    ".*LeafSpec.* is deprecated",  # Lightning's use of torch's pytrees
    ".*does not have many workers",  # in-memory data needs none
    ".*is smaller than the logging interval",  # metrics are logged by epoch
    ".*Checkpoint directory .* exists and is not empty",  # a resumed run
    ".*dataloader, .* is not resumable",  # said of each resumed run
    ".*`srun` command is available",  # a machine of a SLURM cluster, one process wanted
    ".*callbacks used to create the checkpoint need to be provided",  # evaluation has none
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, filters by message, so that anything else still appears; and keeps the environment.

    Lightning leaves its seed in it, which the next command of the process would take for its own.
    """
    import pytorch_lightning  # noqa: F401  # makes the handlers

    compiles = logging.getLogger("torch.utils.cpp_extension")  # part of torch.compile
    lightnings = map(logging.getLogger, ("pytorch_lightning", "lightning_fabric"))
    filtered = [compiles, *(handler for logger in lightnings for handler in logger.handlers)]
    environment, excepthook = dict(os.environ), threading.excepthook
    with warnings.catch_warnings():
        for message in WARNINGS:
            warnings.filterwarnings("ignore", message)
        for part in filtered:
            part.addFilter(_is_news)
        threading.excepthook = _report_thread
        # LightningCLI 2.6 calls methods that jsonargparse 5 will remove; both versions are pinned.
        os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        try:
            yield
        finally:
            for part in filtered:
                part.removeFilter(_is_news)
            threading.excepthook = excepthook
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    # TensorBoard's raises what it met, a full disk for example, once more in the main thread.
    if not type(failure.thread).__module__.startswith("tensorboard"):
        threading.__excepthook__(failure)


def _is_news(record: logging.LogRecord) -> bool:
    return not NOTES.match(record.getMessage().strip())
