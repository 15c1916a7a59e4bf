"""What the server of trials imports once, before it forks the first: all that a fit needs."""

import atexit
import gc
import signal

# A terminal and a cluster signal every process of a job; the server goes when its worker does.
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)

import torch.utils.tensorboard  # noqa: E402, F401

import classifier.cli.classifier_cli  # noqa: E402, F401
from classifier import runs  # noqa: E402

runs.distributions()  # reads the metadata of all installed packages, and remembers them
gc.freeze()  # no trial walks through, and thereby copies, what they all share
atexit.register(gc.unfreeze)  # else the end of the server is full of leaks that are none
