"""Workers as the tasks of a Ray cluster.

A task whose node is lost is started again on another one, for which Ray may start a machine.
https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html
"""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier.atomic import open_to_append
from classifier.cli.run import COMMAND
from classifier.errors import UserError, pip_install

POLL = 0.5  # seconds between looks at a worker
GRACE_SECONDS = 60.0  # that workers get to requeue their trials


class Tasks:
    """Workers that were handed to Ray, which refers to each; their output is in ``logs``."""

    def __init__(self, ray: Any, tasks: list[Any], logs: Path) -> None:
        self.ray, self.tasks, self.logs = ray, tasks, logs

    def alive(self) -> int:
        """How many run, or wait for a place.

        Raises:
            UserError: If the nodes cannot run them.
        """
        ended, alive = self.ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0)
        try:
            if not alive:  # as long as one works, so does the search
                self.ray.get(ended)
        except self.ray.exceptions.RayError as error:
            cause = str(error).strip().splitlines()[-1]
            raise UserError(
                f"Ray cannot run the workers: {cause}\n"
                "Each node needs this Python environment and the search folder."
            ) from error
        return len(alive)

    def stop(self) -> None:
        """Cancels the tasks and waits for their end: the end of this process would kill them."""
        for task in self.tasks:
            self.ray.cancel(task)
        self.ray.wait(self.tasks, num_returns=len(self.tasks), timeout=GRACE_SECONDS)

    def describe(self) -> str:
        return f"{len(self.tasks)} workers as tasks of Ray, output in '{self.logs}'"


def start(folder: Path, workers: int, options: Mapping[str, Any], until: float | None) -> Tasks:
    """Hands workers to Ray: the cluster at an address, else one of this machine alone.

    ``options`` are those of Ray's tasks, such as ``num_gpus``, and the cluster's ``address``.

    Raises:
        UserError: If there is no Ray, no such option, or no cluster at the address.
    """
    handler, here = signal.getsignal(signal.SIGTERM), Path.cwd()
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(f"The engine ray needs Ray: {pip_install('ray')}.") from error
    address = options.get("address")
    # Endless retries: a node may be lost often. A worker that ends by itself is not run again.
    settings = {"max_retries": -1, **{k: v for k, v in options.items() if k != "address"}}
    try:
        task = ray.remote(run_worker).options(**settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"engine_options: {error}") from error
    try:
        # Ray's processes look for modules first in the folder that this one is in now.
        os.chdir(Path(os.__file__).parent)
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        cause = f"cannot connect to Ray at '{address}': {error}"
        raise UserError(f"engine_options.address: {cause}") from error
    finally:
        os.chdir(here)
        signal.signal(signal.SIGTERM, handler)  # Ray sets one of its own
    arguments = [str(folder), "--attached", *([] if until is None else ["--until", str(until)])]
    logs = folder.absolute() / "workers"
    outputs = [logs / f"ray-{slot}.log" for slot in range(workers)]
    return Tasks(ray, [task.remote(arguments, here, output) for output in outputs], logs)


def run_worker(arguments: Sequence[str], folder: Path, output: Path) -> int:
    """Runs a worker in a process of its own, on a node; returns its exit code."""
    command = [*COMMAND, "search", "worker", *arguments]
    with open_to_append(output) as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            time.sleep(POLL)  # Ray cannot interrupt process.wait()
    finally:
        process.terminate()
        process.wait()
    return process.returncode
