"""Whose a search folder is, and what its trials may import.

``search.yaml`` ends in a signature on itself, on the base config and on the folder that the trials
run in. With it, what they name is the user's own word.
"""

import json
import re
from pathlib import Path

from classifier import runs
from classifier.anchored_yaml.text import load
from classifier.atomic import write_text
from classifier.checkpoint import signature
from classifier.checkpoint.trust import Found, Trust, active, names_in, strings
from classifier.errors import UserError
from classifier.search.settings import BASE, FILE

LINE = re.compile(r'^# signed in ("(?:[^"\\\n]|\\.)*"): (\w+)\n', re.M)


def sign(folder: Path, working_folder: Path) -> None:
    """Signs the settings and the base config of a search, if they are the user's."""
    path = folder / FILE
    text = LINE.sub("", path.read_text(encoding="utf-8"))
    found = signature.sign("search", _content(folder, text, str(working_folder)))
    if found and is_own():
        write_text(path, f"{text}# signed in {json.dumps(str(working_folder))}: {found}\n")


def signed_folder(folder: Path) -> Path | None:
    """Where the trials of a search run that is the user's own; None if that is not known."""
    origin, working_folder = _origin(folder)
    return working_folder if origin == "own" else None


def trust_in(folder: Path, trusted: list[str]) -> Trust:
    """What a search folder may import that the user names, but whose files need not be his."""
    origin, working_folder = _origin(folder)
    if origin == "own" and working_folder and working_folder.is_dir():
        return Trust(["optuna"], words(folder), trusted, here=working_folder)
    runs.refuse_links(folder)
    remedy = ""
    if origin == "own":
        origin = "unsigned"
        remedy = (
            f"It is yours, but '{working_folder}', where it was begun, is gone: 'classifier search "
            "--config FILE' resumes it from where you are, and signs it again."
        )
    return Trust(["optuna"], (), trusted, Found(f"'{folder / FILE}'", origin, {}, remedy))


def trust_to_resume(folder: Path, named: object) -> Trust:
    """What a search may import where the user's own search file, which has names, resumes it."""
    origin, _ = _origin(folder)
    if origin == "own":
        return Trust(words=None)
    return Trust(["optuna"], strings(named), (), Found(f"'{folder / FILE}'", origin, {}))


def words(folder: Path) -> list[str]:
    """What the files of a search name, but not the plan of a refit.

    That is out of the storage, which no signature is on.
    """
    settings = load((folder / FILE).read_text(encoding="utf-8")) | {"plan": None}
    base = (folder / BASE).read_text(encoding="utf-8")
    return sorted(names_in([json.dumps(settings, default=str), base]))


def is_own() -> bool:
    """Whether the search that is at work is by the user's own words."""
    trust = active.get()
    return trust is None or trust.found is None


def refuse_of_others(setting: str, remedy: str) -> None:
    """Refuses a setting of a stranger's search that reaches beyond this machine.

    Raises:
        UserError: If the search is not the user's.
    """
    trust = active.get()
    if trust and trust.found:  # as is_own, but names it
        raise UserError(
            f"{trust.found.name} has {setting} and is not signed with your key; {remedy}"
        )


def _origin(folder: Path) -> tuple[signature.Origin, Path | None]:
    path = folder / FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    line = LINE.search(text)
    if line is None:
        return "unsigned", None
    working_folder = json.loads(line[1])
    content = _content(folder, LINE.sub("", text), working_folder)
    return signature.origin("search", content, line[2]), Path(working_folder)


def _content(folder: Path, text: str, working_folder: str) -> str:
    base = (folder / BASE).read_text(encoding="utf-8")
    return json.dumps([text, base, working_folder])
