"""What the figures of a benchmark depend on."""

import platform
from datetime import datetime
from importlib import metadata
from pathlib import Path


def machine(*packages: str) -> str:
    """The day, the processor and the versions of Python and of packages; Linux."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return (
        f"{datetime.now():%Y-%m-%d}, {len(model)} cores of {model[0]}, "
        f"Python {platform.python_version()}, {versions}"
    )
