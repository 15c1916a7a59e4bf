"""Files that a config names by a relative path, looked for from two folders."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from classifier.anchored_yaml.edit import set_values, written_at
from classifier.anchored_yaml.text import KeyPath, setting_in

DATA = [
    *(("data", "init_args", name) for name in ("root", "path", "data_dir", "exclude", "manifest")),
    *(
        ("data", "init_args", part, "init_args", "root")
        for part in ("train", "val", "test", "data")
    ),
    ("data", "init_args", "data", "init_args", "data_dir"),
]
INIT_FROM = [("model", "init_from"), ("model", "init_args", "init_from")]
WEIGHTS = [
    ("model", "network", section, name)
    for section in ("init_args", "dict_kwargs")
    for name in ("weights", "checkpoint_path")
]


def with_files_found(text: str, folder: str, missing: dict[str, Path]) -> str:
    """A config in which the data and the files of pretrained weights are found from here.

    A relative path that leads nowhere from here, but somewhere from the folder that the config was
    written for, becomes that absolute path.

    Args:
        text: The config.
        folder: The folder that it was written for.
        missing: Gets the paths that lead nowhere at all, each with where it was looked for there.
    """
    found: dict[KeyPath, str] = {}
    for place in (*DATA, *INIT_FROM, *WEIGHTS):
        value = setting_in(text, place)
        # Weights may be the name of some, such as DEFAULT, which has no suffix.
        if not isinstance(value, str) or (place in WEIGHTS and not Path(value).suffix):
            continue
        here = Path(value).expanduser()
        there = Path(folder, here)
        if there.exists() and not here.exists():
            found[written_at(text, place)] = str(there)
        elif not here.exists() and there.parent != here.absolute().parent:
            missing[value] = there
    return set_values(text, found) if found else text


@contextlib.contextmanager
def telling_where(missing: Mapping[str, Path]) -> Iterator[None]:
    """Says of a file that is missing where it was looked for."""
    try:
        yield
    except FileNotFoundError as error:
        for name, there in missing.items():
            if f"'{Path(name)}" in str(error):
                raise FileNotFoundError(
                    f"{error} Looked for here, '{Path(name).absolute()}', and where the config was "
                    f"used before, '{there}'."
                ) from error
        raise
