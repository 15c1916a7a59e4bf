"""Keeps off the screen the libraries' notes that nobody can act on in a normal run."""

import logging
import os
import warnings


def quiet() -> None:
    """Filters by message, so that any other warning still appears."""
    # LightningCLI 2.6 calls methods that jsonargparse 5 will remove; both versions are pinned.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for message in (
        ".*LeafSpec.* is deprecated",  # Lightning's use of torch's pytrees
        ".*does not have many workers",  # in-memory data needs none
        ".*is smaller than the logging interval",  # metrics are logged by epoch
        ".*Checkpoint directory .* exists and is not empty",  # a resumed run
        ".*The dirpath has changed",  # a checkpoint that was moved, or only tested
        ".*the dataloader, .* is not resumable",  # said of each resumed run
        ".*callbacks used to create the checkpoint need to be provided",  # evaluation has none
    ):
        warnings.filterwarnings("ignore", message)
    import pytorch_lightning  # noqa: F401  # sets the level of its loggers

    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
