"""PyTorch's loaders: how they notice that a worker died, and how Lightning ends their workers.

tests/test_workers.py fails when these private parts change.
"""

import signal
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling


def watch_workers_again() -> None:
    """Lets the next loader set PyTorch's handler of SIGCHLD, by which it notices a dead worker.

    PyTorch sets it only once, but Lightning takes it away at the end of each run.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL:
        signal_handling._SIGCHLD_handler_set = False


class LoaderProxy:
    """What stands for a ``DataLoader``: Lightning ends its workers, also after a failure.

    Lightning looks for the attribute of a DataLoader that holds them.
    """

    loader: DataLoader[Any]

    @property
    def _iterator(self) -> Any:
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self.loader._iterator = value
