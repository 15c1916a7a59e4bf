"""``classifier tune``: the fastest way to train a config on this machine, found by measuring."""

from classifier.tune.command import run

__all__ = ["run"]
