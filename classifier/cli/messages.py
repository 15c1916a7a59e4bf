"""What an exception says to the user, and whether it is one that he can mend."""

import errno
import re

from classifier.errors import DataWorkerError, UserError

# What a path that somebody gave can be, besides missing.
PATHS = {errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EROFS}


def message_of(error: Exception) -> str:
    """What an exception says, without its traceback."""
    text = str(error).strip()
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which a message does not import
        return out_of_memory(text)
    if "Original Traceback" in text:  # raised in a worker of a DataLoader
        text = text.splitlines()[-1].partition(": ")[2]
    if "Parser key" in text or "Union subtypes" in text:  # a constructor refused its values
        from classifier.cli.errors import explain  # with jsonargparse

        text = explain(text)
    if type(error).__name__ == "MisconfigurationException":
        text = f"trainer: {text}"
        if backend := re.search(r"No supported (\w+) backend found", text):
            text = (
                f"trainer.accelerator: PyTorch finds no {backend[1]} here; name another, or auto."
            )
    if isinstance(error, OSError) and error.filename is not None:
        text = f"'{error.filename}': {error.strerror}."
    speaks = is_users(error) or is_explained(error)
    return text if speaks and text else f"{type(error).__name__}: {text}"


def out_of_memory(text: str) -> str:
    """The 700 characters of PyTorch about a full GPU, in two lines with what can be done."""
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", text)
    there = re.search(r"(GPU \d+) has a total capacity of ([\d.]+ \w+)", text)
    place = f"{there[1]} with {there[2]}" if there else "the GPU"
    more = f" at {wanted[1]} more" if wanted else ""
    return (
        f"{place} ran out of memory{more}.\nA smaller data.batch_size with "
        "trainer.accumulate_grad_batches, a smaller data.eval_batch_size, or trainer.precision "
        "bf16-mixed take less."
    )


def is_explained(error: Exception) -> bool:
    """Whether it is a failure that this package tells of in its own words."""
    full = type(error).__name__ == "OutOfMemoryError"
    return full or isinstance(error, FloatingPointError | DataWorkerError)


def is_users(error: Exception) -> bool:
    """Whether the user can mend it: its class says so, wherever it was raised."""
    if isinstance(error, UserError | FileNotFoundError | FileExistsError):
        return True
    # By name: a command that does without Lightning does not import it for a message.
    trainers = type(error).__name__ == "MisconfigurationException"
    return trainers or (isinstance(error, OSError) and error.errno in PATHS)
