"""What the operating system is asked, or told; nobody else does.

Where a question has another answer on Windows or macOS, mypy reads each answer with
``--platform``, and tests/windows.py has all commands run with those of Windows.
"""

import contextlib
import ctypes
import multiprocessing
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import IO, TypeAlias

if sys.platform == "linux":
    import resource  # once and now: later Python may look in the working folder first

if sys.platform == "win32":
    STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGBREAK)  # tell a command to end
    TYPED = (signal.SIGINT, signal.SIGBREAK)  # of those, what a terminal sends to all processes
    CHILD_ENDED: tuple[signal.Signals, ...] = ()
    KILL = signal.SIGTERM  # sent to another process, any signal but those two is its end there
else:
    STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    TYPED = (signal.SIGINT,)
    CHILD_ENDED = (signal.SIGCHLD,)
    KILL = signal.SIGKILL

# How a process starts that owes nothing to this one. Libraries of macOS do not bear a fork.
if sys.platform == "linux":
    FreshContext: TypeAlias = context.ForkServerContext
else:
    FreshContext: TypeAlias = context.SpawnContext

BROKEN_PIPE = 141  # exit code of a command whose reader has seen enough: 128 + SIGPIPE
PR_SET_PDEATHSIG = 1  # of prctl(2)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
GLIBC_LARGEST = 2**25  # bytes up to which glibc adapts by itself
SPARE_MEMORY = 2**28  # bytes

THREADS = "OMP_NUM_THREADS"  # of a process, on processors that are its own or others' too
# Whether threads spin while they wait for each other: of all of OpenMP, of LLVM's and Intel's.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


@contextlib.contextmanager
def handled_by(handler: Handler, signals: Iterable[signal.Signals] = STOPS) -> Iterator[None]:
    """Within, a function handles those that are not ignored, as a shell has it in the background.

    A thread that is not the main one gets no signals, so nothing changes there.
    """
    with contextlib.ExitStack() as undo:
        for number in signals if threading.current_thread() is threading.main_thread() else ():
            if signal.getsignal(number) is not signal.SIG_IGN:
                undo.callback(signal.signal, number, signal.signal(number, handler))
        yield


def exit_now(number: int, frame: FrameType | None) -> None:
    """Ends the process at once, with 128 + number.

    An exception would be lost in some places, as in an import that catches any or while a data
    worker starts, and would wait for what those workers are about.
    """
    for clean in reversed(_cleaning):
        with contextlib.suppress(Exception):
            clean()
    os._exit(128 + number)


@contextlib.contextmanager
def cleaning(clean: Callable[[], object]) -> Iterator[None]:
    """Within, ``exit_now`` calls a function before it ends the process."""
    _cleaning.append(clean)
    try:
        yield
    finally:
        _cleaning.remove(clean)


_cleaning: list[Callable[[], object]] = []


def ignore_first_stop() -> None:
    """Ignores the first of each signal, as those that a cluster or terminal sends to all processes.

    For a process that another one ends when its own time has come.
    """
    for stop in STOPS:
        signal.signal(stop, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def die_with_parent(parent: int) -> None:
    """Ends this process when the one that started it, whose PID it is given, dies."""
    starter = multiprocessing.parent_process()
    # The kernel takes a fork server for the parent, which lives as long as this process.
    if sys.platform == "linux" and multiprocessing.get_start_method() != "forkserver":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it is dead already
            os._exit(1)
    elif starter is not None:
        threading.Thread(target=_exit_after, args=(starter.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def fresh_context(preload: str) -> FreshContext:
    """Starts processes that share nothing with this one, by a fork from a server if possible.

    The server has imported the module ``preload``, which takes seconds.
    """
    if sys.platform == "linux":
        found = multiprocessing.get_context("forkserver")
        found.set_forkserver_preload([preload])
    else:
        found = multiprocessing.get_context("spawn")
    return found


def lead_group() -> None:
    """Makes this process the first of a group, which can be killed as a whole.

    Ctrl-C does not reach it any more. Windows has no such groups.
    """
    if sys.platform != "win32":
        os.setsid()


def tell_to_end(process: BaseProcess) -> None:
    """Tells a process to end; Windows can only kill it, with all that it has started."""
    if sys.platform == "win32":
        kill_group(process)
    else:
        process.terminate()


def kill_group(leader: BaseProcess) -> None:
    """Kills what is left of a process that leads a group, and of what it has started."""
    if sys.platform == "win32":
        program = Path(os.environ["SYSTEMROOT"], "System32", "taskkill.exe")
        subprocess.run([program, "/F", "/T", "/PID", str(leader.pid)], capture_output=True)
    elif leader.pid is not None:
        # On macOS a group of which nobody is alive is a matter of permission.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader.pid, signal.SIGKILL)


def die() -> None:
    """Kills this process at once, with its group if it leads one; nothing more is written."""
    if sys.platform == "win32":
        os._exit(1)
    else:
        os.kill(0 if os.getpgrp() == os.getpid() else os.getpid(), signal.SIGKILL)


def program(name: str) -> str | None:
    """The program that PATH leads to; Windows itself would look in the working folder first."""
    if sys.platform == "win32":
        folders = (folder for folder in map(Path, os.get_exec_path()) if folder.is_absolute())
        paths = (folder / f"{name}.exe" for folder in folders)
        found = next((str(path) for path in paths if path.is_file()), None)
    else:
        found = shutil.which(name)
    return found


def quoted(words: Sequence[str]) -> str:
    """Words of a command line as they are typed."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def settings_folder() -> Path:
    """Where the user's settings are; raises RuntimeError if there is no home."""
    return _folder_of_user("APPDATA", "XDG_CONFIG_HOME", ".config")


def _folder_of_user(windows: str, others: str, below_home: str) -> Path:
    base = os.environ.get(windows if sys.platform == "win32" else others, "")
    return Path(base) if Path(base).is_absolute() else Path.home() / below_home


def is_own(known: os.stat_result) -> bool:
    """Whether a file belongs to this user; on Windows, whose homes are closed, it is taken to."""
    return sys.platform == "win32" or known.st_uid == os.geteuid()


def access_of_others(known: os.stat_result) -> int:
    """What a file's group (0o070) and all others (0o007) may do; on Windows, nothing."""
    return 0 if sys.platform == "win32" else known.st_mode & 0o077


def fsync_directory(folder: Path) -> None:
    """Makes sure that the names of new files survive a loss of power; Windows opens no folders."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def name_of_open(file: IO[bytes]) -> Path | None:
    """A name that leads to an open file whatever becomes of its own, if there is one."""
    path = Path(f"/dev/fd/{file.fileno()}")
    return path if sys.platform != "win32" and path.exists() else None


def keep_freed_memory(largest: int = GLIBC_LARGEST) -> None:
    """Lets glibc keep freed blocks of up to ``largest`` bytes for later; else does nothing.

    By itself it keeps those of up to 32 MiB.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, largest)
        mallopt(M_TRIM_THRESHOLD, 2 * largest - 1)


@contextlib.contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Lets the process allocate so many bytes more, and some to spare; then a MemoryError comes.

    Only Linux can tell what a process has allocated; elsewhere nothing is limited.
    """
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
        wanted = pages * resource.getpagesize() + more + SPARE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *limits]), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    else:
        yield


def memory_may_double() -> bool:
    """Whether as much memory is free as this process has ever used; only Linux can tell."""
    free = free_memory()
    if sys.platform == "win32" or free is None:
        return True
    return free > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB


def free_memory() -> int | None:
    """How many bytes of memory are free; only Linux can tell."""
    if sys.platform != "linux":
        return None
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    return int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0]) * 1024


def let_threads_sleep() -> None:
    """Lets threads of this process sleep while they wait for each other, unless the user decides.

    By themselves they spin, which takes the processor from whoever would let them go on. OpenMP
    reads it once, when torch is imported.
    """
    if not WAITING.keys() & os.environ.keys():
        os.environ.update(WAITING)


def cache_folder() -> Path:
    """The user's folder for what can be made again.

    Raises:
        RuntimeError: If this user has no home.
    """
    return _folder_of_user("LOCALAPPDATA", "XDG_CACHE_HOME", ".cache")


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def nvidia_cards() -> int:
    """The NVIDIA GPUs that Linux shows this process; none elsewhere."""
    return len([*Path("/dev").glob("nvidia[0-9]*")])


def processor_name() -> str:
    """What the processor is called."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
