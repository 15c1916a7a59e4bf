"""Several checkpoints, evaluated one after the other as a command does one, and averaged."""

import tempfile
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from classifier import terminal
from classifier.callbacks.ensemble import Ensemble
from classifier.checkpoint.find import KEY
from classifier.checkpoint.read import read_checkpoint
from classifier.cli.classifier_cli import ClassifierCLI
from classifier.errors import UserError


def run_ensemble(verb: str, words: Sequence[str], members: Sequence[Path], **settings: Any) -> int:
    """Runs a command with each of several checkpoints; the first one comes last and shows the mean.

    So its settings say what is measured. Each reads the images by its own.

    Args:
        verb: The command.
        words: Its other words, without checkpoints.
        members: The checkpoint files.
        **settings: As ClassifierCLI's.

    Returns:
        The exit code.
    """
    shown = [str(terminal.display_path(path)) for path in members]
    _check_classes(members, shown)
    order = [*members[1:], members[0]]
    code = 0
    with tempfile.TemporaryFile() as sums:  # so that the memory does not grow with the images
        ensemble = Ensemble([*shown[1:], shown[0]], sums)
        for number, path in enumerate(order):
            terminal.say(f"{number + 1} of {len(order)}: {ensemble.members[number]}")
            ensemble.begin()
            given = [verb, *words, "--ckpt_path", str(path)]
            code = ClassifierCLI(args=given, ensemble=ensemble, **settings).exit_code
    return code


def _check_classes(members: Sequence[Path], shown: Sequence[str]) -> None:
    """Raises a UserError for checkpoints of other classes, which names the first difference."""
    read = (read_checkpoint(path).get(KEY, {}).get("data", {}) for path in members)
    known = [data.get("class_names") for data in read]  # None in those of other programs
    for names, name in zip(known, shown, strict=True):
        pairs = enumerate(zip_longest(known[0], names)) if known[0] and names else ()
        for number, (one, other) in pairs:
            if one != other:
                raise UserError(
                    f"'{shown[0]}' and '{name}' do not have the same classes in the same order: "
                    f"class {number} is {one!r} and {other!r}."
                )
