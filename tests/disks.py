"""Disks that are full or read-only, for tests; Linux, and only where mounting is permitted."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path | str, size: str) -> Iterator[None]:
    """Mounts a disk of its own on a folder."""
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield
    finally:
        _unmount(folder)


def enlarge(folder: Path | str, size: str) -> None:
    """Gives a small disk another size."""
    _mount("-o", f"remount,size={size}", str(folder))


@contextmanager
def read_only(folder: Path | str) -> Iterator[None]:
    """Lets nobody write into a folder, not even root."""
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        _unmount(folder)


def fill(folder: Path | str) -> Path:
    """Fills the disk of a folder; returns the file that does."""
    path = Path(folder) / "filler"
    try:
        with path.open("wb", buffering=0) as file:
            while file.write(b"0" * 4096) == 4096:
                pass
    except OSError:
        pass
    return path


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("no permission to mount a disk")


def _unmount(folder: Path | str) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
