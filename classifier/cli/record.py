"""What is known of a run before it begins, and whether the user's key can say that it is his."""

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier import environment, runs, terminal
from classifier.anchored_yaml.text import load
from classifier.checkpoint import signature
from classifier.checkpoint.modules import code_digests, used_modules
from classifier.checkpoint.provenance import settings_digest
from classifier.checkpoint.trust import class_paths, signed_part
from classifier.runs import RunFolder

if TYPE_CHECKING:
    from classifier.cli.classifier_cli import ClassifierCLI


def facts_of(cli: "ClassifierCLI", run: RunFolder) -> dict[str, Any]:
    """The record of a run, up to what the training itself adds."""
    line = cli.command_line
    trusted = line.trust.for_record()
    modules = {path.partition(".")[0] for path in (*class_paths(cli.settings.as_dict()), *trusted)}
    own = used_modules(modules)
    is_resumed = run.is_taken and run.begun
    folder_name = run.is_taken and run.path.parent.name
    facts = {
        "format": line.format,
        "id": runs.read_record(run.path).get("id") if is_resumed else uuid.uuid4().hex,
        "name": (cli.job and cli.job.name) or folder_name or cli.run_name,
        "working_folder": str(Path.cwd()),
        "command": terminal.command(cli.verb, *line.words),
        "from_python": not cli.runs_verb,
        "seed": cli.settings.seed_everything,
        "settings": _settings_so_far(cli),
        "written": cli.written.keys,
        "trusted": trusted,
        "code": code_digests(own),
        "code_folders": {name: str(path.parent) for name, path in own.items()},
        "environment": environment.describe(modules),
    }
    if taken := cli.model.taken:
        facts["init_from"] = {"path": str(taken.path), "sha256": taken.digest}
    elif line.checkpoint_path and "init_from" in line.run:
        facts["init_from"] = line.run["init_from"]
    facts["signature"] = signature.sign("run", signed_part(facts, cli.config_text))
    return facts


def _settings_so_far(cli: "ClassifierCLI") -> list[str]:
    """Digests of the settings that the weights were trained under, one after the other."""
    line, now = cli.command_line, settings_digest(load(cli.config_text))
    before = line.run.get("settings", ["unknown"])
    return list(dict.fromkeys([*before, now])) if line.checkpoint_path else [now]


def note_signature(cli: "ClassifierCLI", trusted: list[str]) -> None:
    """Says now what resuming and evaluating will ask for later."""
    hindrance = signature.hindrance(make=True)  # else why none could be made stays unsaid
    needed = trusted or (hindrance and signature.VARIABLE in os.environ)
    if hindrance and needed:
        told = f"the run cannot be signed, for {hindrance}"
    elif trusted and signature.ends_with_container():
        told = (
            f"the key that signs the run, '{signature.key_file()}', ends with this container; "
            f"{signature.VARIABLE}=FILE names one that stays."
        )
    else:
        return
    packages = ",".join(cli.command_line.trust.packages_of(trusted))
    later = f" Without it, test and resuming will want --trust {packages}." if trusted else ""
    terminal.note(f"{told}{later}")
