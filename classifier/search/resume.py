"""Whether what is asked for is the search that a folder holds: by its values, not by its text."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from classifier import terminal
from classifier.anchored_yaml.names import KEY
from classifier.anchored_yaml.scalars import literal
from classifier.anchored_yaml.text import MISSING, differing, dotted
from classifier.anchored_yaml.text import load as load_yaml
from classifier.checkpoint.trust import confined
from classifier.errors import UserError
from classifier.search.settings import FREE, Settings, load
from classifier.search.signed import trust_to_resume
from classifier.search.space import Space

LISTED = 3  # differences in a message
WIDTH = 60  # of a value in a message, in characters


def resumed(settings: Settings) -> Settings:
    """The search that the folder holds, with those settings changed that may change.

    All else stays as the folder has it, so that all trials are written from one base config.

    Raises:
        UserError: The folder holds another search; says which values differ.
    """
    # The folder may be somebody else's, and names what is imported when it is read.
    try:
        with confined(trust_to_resume(settings.folder, [settings.sampler, settings.pruner])):
            held = load(settings.folder)
    except UserError as error:
        cause = str(error).partition(" If you trust it:")[0]
        raise UserError(f"{cause} Begin a new search, --folder DIR.") from None
    of_search = differences(held, settings)
    theirs, ours = (one.base.read_text(encoding="utf-8") for one in (held, settings))
    of_base = list(
        _base_differences(theirs, ours, None if of_search else Space(held.space, held.repeat))
    )
    if changed := of_search + of_base:
        kind = "another search" if of_search else "a search of another base config"
        rest = f"; and {len(changed) - LISTED} more" if len(changed) > LISTED else ""
        folder = terminal.display_path(settings.folder)
        raise UserError(
            f"'{folder}' holds {kind}: {'; '.join(changed[:LISTED])}{rest}. "
            "Put that back, or begin a new search, --folder DIR."
        )
    # The same database may have another password by now.
    changeable = (*FREE, "storage", "dry_run")
    return replace(held, **{key: getattr(settings, key) for key in changeable})


def differences(held: Settings, wanted: Settings) -> list[str]:
    """Says of each setting that decides what is searched how it differs, if it does."""
    return _describe_differences(_defining_settings(held), _defining_settings(wanted))


def _defining_settings(settings: Settings) -> dict[str, Any]:
    """What decides what is searched, written in one way."""
    space, storage = Space(settings.space, settings.repeat), settings.storage
    ordered = settings.sampler == "grid"
    found: dict[str, Any] = {"space": space.meaning(ordered)}
    for key in ("name", "monitor", "direction", "sampler", "pruner", "plan"):
        found[key] = getattr(settings, key)
    # A database without who asks for it.
    found["storage"] = storage and re.sub(r"://[^/]*@", "://", os.path.expandvars(storage))
    return found | {"the order of the space": list(space.names)} if ordered else found


def _base_differences(held: str, wanted: str, space: Space | None) -> Iterator[str]:
    """Says how two base configs differ outside their hyperparameters, which are but names.

    Each name of the space has to change the same places in both.
    """
    found = _describe_differences(_without_names(held), _without_names(wanted))
    yield from found
    if found or space is None:
        return
    for name, param in space.probes():
        texts = (space.text(text, {name: param}) for text in (held, wanted))
        for difference in _describe_differences(*map(_without_names, texts)):
            yield f"with {name} {param} {difference}"


def _without_names(text: str) -> dict[str, Any]:
    return {key: value for key, value in load_yaml(text).items() if key != KEY}


def _describe_differences(held: Any, wanted: Any) -> list[str]:
    return [
        f"{dotted(path)} is {_format_value(there)} there, {_format_value(here)} here"
        for path, there, here in differing(held, wanted)
    ]


def _format_value(value: Any) -> str:
    text = "left out" if value is MISSING else literal(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
