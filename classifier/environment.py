"""What a result depends on besides its config: packages, code and machine."""

import contextlib
import functools
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

from classifier import DISTRIBUTION, __version__
from classifier.platform import processor_name, program

DIFFERENCE = ("diff", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "HEAD")
HARMLESS = re.compile(  # settings of a repository by which a diff runs no program
    rb"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|symlinks"
    rb"|precomposeunicode|autocrlf|eol|safecrlf|quotepath)|remote\..*\.(url|pushurl|fetch|tagopt)"
    rb"|(branch|user|submodule|advice|color|commit|gc|http|init|merge|pull|push|rebase|tag)\..*"
    rb"|lfs\.(repositoryformatversion|.*\.(access|locksverify))",  # others name programs
    re.DOTALL,
)
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "jsonargparse", "numpy")


def describe(modules: Iterable[str] = ()) -> dict[str, Any]:
    """What is recorded of them with each run, also of the packages of some top-level modules."""
    import torch

    return {
        "python": platform.python_version(),
        "packages": _versions(modules),
        "git": git_state(Path.cwd()),
        "host": platform.node(),
        "system": platform.platform(),
        "processor": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def describe_device(device: "torch.device") -> dict[str, Any]:
    """What is recorded of the device that is used; only of a GPU is there much to say.

    Others are not asked for: that alone would take hundreds of megabytes of their memory.
    """
    import torch

    facts: dict[str, Any] = {"gpus": []}
    if device.type == "cuda":
        facts = {
            "gpus": [torch.cuda.get_device_name(device)],
            "cuda": torch.version.cuda or torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # as torch has it
        }
    if (precision := torch.get_float32_matmul_precision()) != "highest":
        facts["float32_matmul_precision"] = precision
    return facts


def git_state(folder: Path) -> dict[str, str | None] | None:
    """Commit of the repository around ``folder`` and a hash of what differs from it, if anything.

    None without git or outside a repository. The hash is missing where finding it could run
    programs, which a repository names in its own settings and a stranger's folder may be one.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    state: dict[str, str | None] = {"commit": commit.decode().strip()}
    names = _git(folder, "config", "--local", "--includes", "--name-only", "--list", "-z")
    if names is not None and all(map(HARMLESS.fullmatch, names.split(b"\0")[:-1])):
        difference = _git(folder, *DIFFERENCE)
        state["dirty_diff_sha256"] = hashlib.sha256(difference).hexdigest() if difference else None
    return state


def _git(folder: Path, *arguments: str) -> bytes | None:
    git = program("git")
    if git is None:
        return None
    command = [git, "--no-optional-locks", "-c", f"core.hooksPath={os.devnull}", *arguments]
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


# The installed distributions that each top-level module belongs to; 0.15 s the first time.
distributions = functools.cache(metadata.packages_distributions)


def _versions(modules: Iterable[str]) -> dict[str, str]:
    owners = distributions()
    named = {owner for module in modules for owner in owners.get(module, [])}
    versions = {"classifier": __version__}
    for name in sorted({*PACKAGES, *named} - {DISTRIBUTION}):
        with contextlib.suppress(metadata.PackageNotFoundError):  # run from a source tree
            versions[name] = metadata.version(name)
    return versions
