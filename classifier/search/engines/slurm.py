"""Workers as the tasks of a SLURM job array.

SLURM queues a task again whose node failed or that had to make room. A task that nears its time
limit requeues its trial and itself, so that a search may last longer than a job.
"""

import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classifier.cli.run import COMMAND
from classifier.errors import UserError

INTERVAL = 10.0  # seconds between questions: all users of the cluster ask the same server

SCRIPT = """\
#!/bin/bash
{options}

export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-$SLURM_CPUS_ON_NODE}}
{worker} &
end() {{ kill -TERM $! 2>/dev/null; wait $!; }}
trap end TERM
# The job id of one of the tasks is that of the whole array: it has to be array and task.
trap 'end; scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"' USR1
wait $!
"""


class JobArray:
    """Workers that were queued as the tasks of one job, whose output is in the folder ``logs``."""

    def __init__(self, job: str, workers: int, logs: Path) -> None:
        self.job, self.workers, self.logs = job, workers, logs
        self.known_alive = workers
        self.asked = time.monotonic()

    def alive(self) -> int:
        """How many tasks are queued or running; the last number known if SLURM does not answer."""
        if time.monotonic() - self.asked < INTERVAL:
            return self.known_alive
        self.asked = time.monotonic()
        answer = _run("squeue", "--noheader", "--array", "--format=%i", f"--jobs={self.job}")
        if answer.returncode == 0:
            self.known_alive = len(answer.stdout.split())
        elif "Invalid job id" in answer.stderr:  # ended so long ago that SLURM forgot it
            self.known_alive = 0
        return self.known_alive

    def stop(self) -> None:
        """Cancels the tasks: SLURM sends SIGTERM, and SIGKILL after its KillWait, mostly 30 s."""
        _run("scancel", self.job)

    def describe(self) -> str:
        return f"{self.workers} workers in SLURM job {self.job}, output in '{self.logs}'"


def start(folder: Path, workers: int, options: Mapping[str, Any], until: float | None) -> JobArray:
    """Writes ``worker.sbatch`` into the search folder and submits it.

    Raises:
        UserError: If there is no SLURM, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "The engine slurm needs the command sbatch, which is not on this machine. "
            "Start the search on a login node of the cluster, or with --engine local."
        )
    path = folder / "worker.sbatch"
    path.write_text(script(folder, options, until), encoding="utf-8")
    answer = _run("sbatch", "--parsable", f"--array=0-{workers - 1}", str(path))
    if answer.returncode:
        causes = [line.removeprefix("sbatch: error: ") for line in answer.stderr.splitlines()]
        raise UserError(
            f"sbatch refuses '{path}', whose options are those of engine_options:\n"
            f"{'; '.join(causes)}"
        )
    return JobArray(answer.stdout.strip().partition(";")[0], workers, folder / "workers")


def script(folder: Path, options: Mapping[str, Any], until: float | None) -> str:
    """The batch script of a task.

    ``options`` are those of ``sbatch``, such as ``partition``; true sets one that has no value.

    Raises:
        UserError: If a time limit was written without quotes.
    """
    if isinstance(options.get("time"), int):
        raise UserError(
            f"engine_options.time: {options['time']} is ambiguous, as YAML reads 4:00:00 as 14400. "
            f"Write it in quotes: '4:00:00', or '240' for minutes."
        )
    pattern = str(folder / "workers").replace("%", "%%")
    settings: dict[str, Any] = {
        "job-name": folder.name,
        "chdir": Path.cwd(),
        "output": f"{pattern}/slurm-%A_%a.log",
        "open-mode": "append",
        "requeue": True,
        "signal": "B:USR1@60",
    }
    settings |= {name.replace("_", "-"): value for name, value in options.items()}
    lines = [
        f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"
        for name, value in settings.items()
    ]
    worker = [*COMMAND, "search", "worker", str(folder)]
    worker += [] if until is None else ["--until", str(until)]
    return SCRIPT.format(options="\n".join(lines), worker=shlex.join(worker))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)
