"""From YAML and command line to trainer, module and data."""

from typing import TYPE_CHECKING, Any

from classifier.cli.run import run

if TYPE_CHECKING:
    from classifier.cli.classifier_cli import ClassifierCLI

__all__ = ["ClassifierCLI", "run"]


def __getattr__(name: str) -> Any:
    """Imports ``ClassifierCLI`` when it is asked for: it brings torch."""
    if name != "ClassifierCLI":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from classifier.cli.classifier_cli import ClassifierCLI

    return ClassifierCLI
