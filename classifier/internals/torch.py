"""PyTorch: how loaders notice that a worker died and Lightning ends them; what compile fixes.

PyTorch's own documentation calls the functions of ``_dynamo`` by that private module; there are no
others. tests/test_workers.py and tests/test_fit.py fail when these private parts change.
"""

import signal
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from classifier.platform import CHILD_ENDED


def watch_workers_again() -> None:
    """Lets the next loader set PyTorch's handler of SIGCHLD, by which it notices a dead worker.

    PyTorch sets it only once, but Lightning takes it away at the end of each run.
    """
    if any(signal.getsignal(number) is signal.SIG_DFL for number in CHILD_ENDED):
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


def mark_compile_shapes(images: Tensor, training: bool) -> None:
    """Fixes what torch.compile takes for constant; left alone it depends on earlier batches.

    A resumed training, which sees no validation batch first, would compute other bits.
    """
    if training:
        torch._dynamo.mark_static(images)
    else:
        # One translation for all sizes, such as that of the last batch.
        torch._dynamo.maybe_mark_dynamic(images, 0)
