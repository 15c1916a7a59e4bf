"""Small data sets that lie in memory as a whole, with a test set of their own."""

from collections.abc import Callable, Sequence

from torch import Tensor

from classifier.sources.source import Index, Source


class Arrays(Source):
    """Images as a function loads them: uint8 ``(N, C, H, W)`` and labels, int64 ``(N,)``.

    They are for training, or for test if it is called with False.
    """

    class_names: Sequence[str] = ()  # in place of the property

    def __init__(
        self, class_names: Sequence[str], load: Callable[[bool], tuple[Tensor, Tensor]]
    ) -> None:
        self.class_names = class_names
        self.load = load

    def index(self) -> dict[str, Index]:
        return {"train": Index(*self.load(True)), "test": Index(*self.load(False))}
