"""Signals that tell a training to stop: noted, and obeyed when it has saved itself."""

import contextlib
import signal
from types import FrameType

import pytorch_lightning as pl
import torch

from classifier.internals.lightning import without_signal_handlers
from classifier.platform import handled_by


class StopOnSignal:
    """Notes what tells a command to end, as SIGTERM does; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0  # the one that this process got
        self.signal_on_any_rank = 0  # as far as the ranks have agreed
        self.listening = contextlib.ExitStack()  # which puts the handlers of before back

    def listen(self, trainer: pl.Trainer) -> None:
        """Takes the place of the handlers of before, and of Lightning's."""
        self.listening.enter_context(without_signal_handlers(trainer))
        self.listening.enter_context(handled_by(self._note))

    def agree(self, trainer: pl.Trainer, due: bool) -> bool:
        """Whether any rank has something due or was told to stop."""
        if trainer.world_size > 1:
            asked = torch.tensor([due, self.signal], device=trainer.strategy.root_device)
            due, self.signal_on_any_rank = trainer.strategy.reduce(asked, reduce_op="max").tolist()
        else:
            self.signal_on_any_rank = self.signal
        return bool(due or self.signal_on_any_rank)

    def obey(self) -> None:
        """Raises SystemExit, with 128 + its number, if any rank was told to stop."""
        if self.signal_on_any_rank:
            raise SystemExit(128 + self.signal_on_any_rank)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
