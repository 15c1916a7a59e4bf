"""Runs a mutated case, and says what it did that it must not do."""

import contextlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mutations import CONFIG, SEARCH, Case
from PIL import Image
from storms import context

from classifier.__main__ import main
from classifier.platform import cache_folder

SECONDS = 20  # after which a case that does not train counts as hanging
MEMORY = 4 << 30  # bytes of addresses that a case may take besides those of the libraries
SOCKETS = tempfile.gettempdir()
PROCESSES = 40  # that a case may start


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        case: The case.
        code: Its exit code.
        wrong: What it did that it must not do.
        output: What it printed on standard error.
    """

    case: Case
    code: int | None
    wrong: list[str]
    output: str


def surroundings(folder: Path, trained: Path) -> None:
    """Fills a folder with what every case finds."""
    shutil.copytree(trained, folder / "runs" / "tiny" / "version_0")
    (folder / "tiny.yaml").write_text(CONFIG)
    (folder / "search.yaml").write_text(SEARCH)
    (folder / "empty.yaml").touch()
    (folder / "binary.yaml").write_bytes(b"\x80\x81\xff\x00" * 9)
    (folder / "predictions.csv").write_text("kept\n")
    (folder / "images").mkdir()
    Image.new("L", (8, 8), 90).save(folder / "images" / "0.png")
    for number in range(16):
        path = folder / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16 + number), (15 * number, 80, 10)).save(path)


# ---- running one ----


def run(case: Case, prepared: Path, folder: Path) -> Outcome:
    """Runs a case in a new folder, and removes that unless something is wrong."""
    work = folder / "work"
    shutil.copytree(prepared, work)
    for name, data in case.files.items():
        (work / name).write_bytes(data)
    before = contents(work)
    process = context.Process(target=_run, args=(work, case.arguments))
    process.start()
    process.join(SECONDS)
    hung = process.is_alive()
    if hung and "epoch " in (folder / "stdout").read_text(errors="replace"):  # as it was told to
        os.kill(process.pid, signal.SIGTERM)
        process.join(SECONDS)
        hung = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also what it may have left behind
    process.join()
    code = process.exitcode
    if code == 255:  # what multiprocessing says where two threads ask it at once
        code = int((folder / "code").read_text())
    outputs = [
        (folder / name).read_text(errors="replace") for name in ("stdout", "stderr", "outside")
    ]
    wrong = ["it hung"] if hung else judge(code, *outputs)
    wrong += differences(case, code, before, contents(work))
    if not wrong:
        shutil.rmtree(folder)
    return Outcome(case, code, wrong, outputs[1])


def _run(work: Path, arguments: list[str]) -> None:
    os.setsid()
    os.chdir(work)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(work.parent / name, os.O_WRONLY | os.O_CREAT), number)
    temporary = work.parent / "temporary"
    temporary.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    os.environ.pop("CLASSIFIER_RUN_FOLDER", None)
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        limit = int(statm.read().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch(work.parent)
    code = main(arguments)
    (work.parent / "code").write_text(str(code))
    sys.exit(code)


def watch(folder: Path) -> None:
    """Notes every change that Python makes to the file system outside a folder."""
    note = os.open(folder / "outside", os.O_WRONLY | os.O_CREAT)
    changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    paths = (
        "os.mkdir",
        "os.remove",
        "os.rmdir",
        "os.rename",
        "os.link",
        "os.symlink",
        "os.truncate",
    )
    paths += ("os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile")
    # The second is what multiprocessing keeps its sockets in, chosen before the fork.
    cache = f"{cache_folder()}/classifier"  # with the list of settings
    allowed = (f"{folder}/", f"{SOCKETS}/pymp-", "/dev/", "/proc/", cache)
    started = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.fork", "subprocess.Popen", "os.posix_spawn"):
            started[0] += 1
            if started[0] > PROCESSES:
                os.write(note, b"more and more processes\n")
                os.killpg(0, signal.SIGKILL)
        elif event in paths or (event == "open" and (arguments[2] or 0) & changing):
            # The second of two paths is the one that is written.
            double = event in (
                "os.rename",
                "os.link",
                "os.symlink",
                "shutil.move",
                "shutil.copyfile",
            )
            path = arguments[1 if double else 0]
            if isinstance(path, int) or path is None:
                return
            full = os.path.normpath(os.path.join(folder, "work", os.fsdecode(path)))  # noqa: PTH118
            if not full.startswith(allowed):
                os.write(note, f"{event} {full}\n".encode(errors="replace"))

    sys.addaudithook(hook)


# ---- judging it ----


def contents(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below a folder."""
    paths = folder.rglob("*")
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


def judge(code: int | None, printed: str, said: str, outside: str) -> list[str]:
    """Says what is wrong with the exit code, the messages and the places that were written to."""
    wrong = [f"outside: {line}" for line in outside.splitlines()]
    if code not in (0, 1, 2, 143):
        wrong.append(f"exit code {code}")
    wrong += ["a traceback"] * ("Traceback" in printed + said)
    lines = messages(said)
    if code in (1, 2):
        if not lines:
            wrong.append(f"no message, exit code {code}")
        elif code == 2 and not lines[0].startswith("error: "):
            wrong.append("the message does not begin with 'error: '")
        if len(lines) > 3 or max(map(len, lines), default=0) > 1500:
            wrong.append(f"{len(lines)} lines of message, {len(said)} characters")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said):
        wrong.append("a control character in the message")
    return wrong


def messages(said: str) -> list[str]:
    """Standard error without warnings and notes, which may stand in front of a message."""
    said = re.sub(r"(?m)^(warning|note): .*\n", "", said)
    said = re.sub(r"(?m)^\S+:\d+: \w*Warning: .*\n(  .*\n)?|^.*Warning: .*\n", "", said)
    return said.strip().splitlines()


def differences(
    case: Case,
    code: int | None,
    before: Mapping[str, bytes | None],
    after: Mapping[str, bytes | None],
) -> list[str]:
    """Says which files changed that must not.

    A refusal leaves everything as it was, unless it comes of the first images, when the run has
    begun: that is kept as a failed one. Otherwise new files are fine, but none is overwritten,
    except in the folder of a run that goes on.
    """
    goes_on = case.arguments[0] == "fit" and "ckpt_path" in "".join(case.arguments)
    changed = [name for name in before if before[name] != after.get(name, "gone")]
    if goes_on and code != 2:
        changed = [name for name in changed if not name.startswith("runs/tiny/version_0/")]
    wrong = [f"changed: {name}" for name in changed]
    if code == 2 and b'"state": "failed"' not in (after.get("runs/tiny/version_1/run.json") or b""):
        wrong += [f"left behind: {name}" for name in after if name not in before]
    return wrong
