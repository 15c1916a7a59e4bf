"""Keeps off the screen the libraries' notes that nobody can act on in a normal run."""

import logging
import os
import re
import threading
import warnings

NOTES = re.compile(
    r"(\[rank: \d+\] )?"
    r"((GPU|TPU|HPU) available|Seed set to|.*Tip: |`Trainer\.fit` stopped|Restor|Loaded model|"
    r"LOCAL_RANK|Initializing distributed|-{20}|distributed_backend|All distributed processes|"
    r"Detected KeyboardInterrupt|Received SIGTERM|`Trainer\(|Using (.*bit|bfloat16)|"
    r"You are using a CUDA device|No CUDA runtime is found)"
)


def quiet() -> None:
    """Filters by message, so that anything else still appears."""
    # LightningCLI 2.6 calls methods that jsonargparse 5 will remove; both versions are pinned.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for message in (
        ".*LeafSpec.* is deprecated",  # Lightning's use of torch's pytrees
        ".*does not have many workers",  # in-memory data needs none
        ".*is smaller than the logging interval",  # metrics are logged by epoch
        ".*Checkpoint directory .* exists and is not empty",  # a resumed run
        ".*dataloader, .* is not resumable",  # said of each resumed run
        ".*`srun` command is available",  # a machine of a SLURM cluster, one process wanted
        ".*callbacks used to create the checkpoint need to be provided",  # evaluation has none
    ):
        warnings.filterwarnings("ignore", message)
    threading.excepthook = _report_thread
    import pytorch_lightning  # noqa: F401  # makes the handlers

    for name in ("pytorch_lightning", "lightning_fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_news)
    logging.getLogger("torch.utils.cpp_extension").addFilter(_is_news)  # part of torch.compile


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    # TensorBoard's raises what it met, a full disk for example, once more in the main thread.
    if not type(failure.thread).__module__.startswith("tensorboard"):
        threading.__excepthook__(failure)


def _is_news(record: logging.LogRecord) -> bool:
    return not NOTES.match(record.getMessage().strip())
