"""From YAML and command line to trainer, module and data."""

from classifier.cli.run import run

__all__ = ["run"]
