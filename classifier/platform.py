"""What the operating system is asked: signals, the end of processes, memory, processors."""

import contextlib
import ctypes
import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType

if sys.platform == "linux":
    import resource  # once and now: later Python may look in the working folder first

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # tell a command to end
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
    if starter is not None and multiprocessing.get_start_method() == "forkserver":
        # The kernel takes the fork server for the parent, which lives as long as this process.
        threading.Thread(target=_exit_after, args=(starter.sentinel,), daemon=True).start()
    elif sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it is dead already
            os._exit(1)


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


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
    if sys.platform != "linux":
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    wanted = pages * resource.getpagesize() + more + SPARE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def memory_may_double() -> bool:
    """Whether as much memory is free as this process has ever used; only Linux can tell."""
    if sys.platform != "linux":
        return True
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0])  # KiB, as the other
    return free > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", "")
    return Path(base) if Path(base).is_absolute() else Path.home() / ".cache"


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def nvidia_cards() -> int:
    """The NVIDIA GPUs that Linux shows this process; none elsewhere."""
    return len([*Path("/dev").glob("nvidia[0-9]*")])
