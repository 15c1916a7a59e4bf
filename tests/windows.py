"""``python windows.py VERB … [; VERB …]`` runs commands with the answers that Windows gives.

Processes that it starts import this file, too, since spawned ones import the program they come
from. What stands for Windows: names of ``os`` and ``signal`` that it lacks, where this package asks
for them (it does so in two modules only, see test_architecture.py); processes that are spawned, and
killed by ``taskkill``; files that get no other name and do not go away while they are open; letters
that the standard output lacks. Lightning, PyTorch and the file system stay those of this machine.
"""

import contextlib
import importlib.util
import multiprocessing.context
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

ROOT = str(Path(__file__).parents[1])
LACKS_OS = (
    *("fork", "getegid", "geteuid", "getgid", "getpgid", "getpgrp", "getsid", "getuid", "killpg"),
    *("nice", "sched_getaffinity", "setpgid", "setsid", "wait", "wait4", "O_NOFOLLOW"),
)
LACKS_SIGNALS = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1")
TASKKILL = """\
#!/bin/sh
tree() { for child in $(ps -o pid= --ppid "$1"); do tree "$child"; done; kill -9 "$1"; }
[ "$1 $2 $3" = "/F /T /PID" ] && tree "$4" 2>/dev/null
"""


def without(module, names, **others):
    """A module that lacks some names and has others."""
    kept = {name: value for name, value in vars(module).items() if name not in names}
    return SimpleNamespace(**kept, **others)


def as_on_windows(name):
    """A module of its own, executed with what it would find on Windows."""
    importlib.import_module(name)  # and what it imports, which gets no such answers
    answers = {
        "os": without(os, (*LACKS_OS, "name"), name="nt"),
        "signal": without(signal, LACKS_SIGNALS, SIGBREAK=signal.SIGUSR2),
        "sys": without(sys, ("platform",), platform="win32"),
        "resource": None,
    }
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, answers):
        spec.loader.exec_module(module)
    return module


def ask_as_on_windows():
    """Puts such modules in the places of those that ask the system, before anybody has them."""
    for name in ("classifier.platform", "classifier.internals.python"):
        sys.modules[name] = as_on_windows(name)
        package, _, own = name.rpartition(".")
        setattr(sys.modules[package], own, sys.modules[name])


def spawn_only():
    """Takes away all ways to start a process but one."""
    for method in ("fork", "forkserver"):
        multiprocessing.context._concrete_contexts.pop(method, None)
    default = multiprocessing.context._default_context
    default._default_context = multiprocessing.context._concrete_contexts["spawn"]


def refuse_open_files(name):
    """Lets a function of ``os`` refuse what this process has open below the working folder."""
    original, here = getattr(os, name), Path.cwd().resolve()

    def refuse(path, *others, **settings):
        real = Path(path if isinstance(path, str | Path) else "/").resolve()
        for number in Path("/proc/self/fd").iterdir() if real.is_relative_to(here) else ():
            with contextlib.suppress(FileNotFoundError):
                if number.readlink() == real:
                    raise PermissionError(13, "another process uses the file", str(path))
        return original(path, *others, **settings)

    setattr(os, name, refuse)


def place_taskkill():
    """Puts a program where Windows has the one that kills a process and those it has started."""
    root = Path.cwd() / "windows"
    program = root / "System32" / "taskkill.exe"
    if not program.exists():
        program.parent.mkdir(parents=True)
        program.write_text(TASKKILL, encoding="ascii")
        program.chmod(0o755)
    os.environ["SYSTEMROOT"] = str(root)


def run(words):
    """Runs commands, each until the next semicolon and as long as they end well."""
    commands = [[]]
    for word in words:
        commands[-1:] = [commands[-1], []] if word == ";" else [[*commands[-1], word]]
    return next(filter(None, map(main, filter(None, commands))), 0)


if __name__ in ("__main__", "__mp_main__"):  # of a command, or of a process that it spawns
    sys.path[:1] = [ROOT]
    ask_as_on_windows()
    spawn_only()
    for name in ("rename", "replace", "remove", "unlink"):
        refuse_open_files(name)
    import classifier.cli.run
    from classifier.__main__ import main

    classifier.cli.run.COMMAND = (sys.executable, __file__)

if __name__ == "__main__":
    place_taskkill()
    sys.exit(run(sys.argv[1:]) if ";" in sys.argv else main())
