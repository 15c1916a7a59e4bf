"""How an epoch is resumed at an image."""

from typing import Any

import pytorch_lightning as pl


def go_on_at_image(
    trainer: pl.Trainer, images_per_batch: int, window: int, same_windows: bool
) -> bool:
    """Lets an epoch go on at the image where it was left, in batches of another size too.

    Args:
        trainer: The trainer that goes on.
        images_per_batch: How many a batch had, over all ranks.
        window: How many batches a step accumulates now.
        same_windows: Whether gradients are accumulated as before.

    Returns:
        False if it cannot: a batch or a window of accumulation would begin elsewhere.
    """
    loader: Any = trainer.train_dataloader
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    number = progress.current.ready
    total = int(trainer.num_training_batches)
    same_batches = loader.images_per_batch == images_per_batch
    if same_batches and number >= total:
        return False  # with fewer batches an epoch than before
    if not same_batches:
        seen = number * images_per_batch
        limited = total < len(loader)
        images = total * loader.images_per_batch if limited else len(loader.loader.dataset)
        left = (images - seen) // loader.images_per_batch
        if left < 1:
            return False
        loader.seen = seen
        number = total - left
    if not (same_batches and same_windows) and number % window:
        loader.seen = None
        return False
    late = progress.total.processed - progress.total.completed  # saved while a batch ended
    for name in ("ready", "started", "processed"):
        setattr(progress.current, name, number)
    progress.current.completed = number - late
    return True
