"""A training that another command starts, such as a trial of a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from classifier.runs import Direction


@dataclass(frozen=True)
class Job:
    """What another command decides of a training that it starts.

    Attributes:
        folder: The folder of the run, which is there. A run that was begun in it is resumed.
        name: What the run is called.
        last_step: The optimizer step after which it ends, whatever its config says.
        monitor: The metric that chooses ``best.ckpt``, if the config's does not.
        direction: Which way that is better.
        words: What the user's own words name, class paths among it. None if the config is the
            user's, who gives it by name.
        trusted: Packages that the user trusts.
        code_folder: Where modules may be that the words name, besides the working folder.
    """

    folder: Path
    name: str | None = None
    last_step: int | None = None
    monitor: str | None = None
    direction: Direction = "minimize"
    words: Sequence[str] | None = None
    trusted: Sequence[str] = ()
    code_folder: Path | None = None
