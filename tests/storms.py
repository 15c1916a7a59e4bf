"""Trainings that are killed again and again, and what has to be left of each."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifier import runs
from classifier.__main__ import main

PATIENCE = 60.0  # seconds after which a process counts as hanging
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}
VARY = ("ModelCheckpoint", "Timer")
# A fit forked from a process that has imported everything costs half a second, not seven.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["classifier.cli.classifier_cli", "torch.utils.tensorboard"])


@dataclass
class Storm:
    """What a storm did.

    Attributes:
        runs: How many trainings came to their end.
        signals: How many signals they got on the way.
        inside: How many starts went on inside an epoch.
        between: How many went on between two epochs.
        different: What differed from the calm training, by run.
    """

    runs: int = 0
    signals: int = 0
    inside: int = 0
    between: int = 0
    different: list[str] = field(default_factory=list)

    def __add__(self, other: "Storm") -> "Storm":
        return Storm(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


def warm_up() -> None:
    """Starts the process that the trainings are forked from, and waits for its imports."""
    process = context.Process(target=int)
    process.start()
    process.join()


def fit_in(folder: Path, arguments: Sequence[str], ranks: int = 1) -> list[Any]:
    """Starts ``classifier fit`` in a folder, in a process of its own for each rank."""
    folder.mkdir(exist_ok=True)
    arguments = list(arguments)
    shared: dict[str, str] = {}
    if ranks > 1:
        arguments += ["--trainer.devices", str(ranks), "--trainer.strategy", "ddp"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    processes = []
    for rank in range(ranks):
        own = {**shared, "NODE_RANK": "0", "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        processes.append(context.Process(target=_fit, args=(folder, arguments, own)))
        processes[-1].start()
    return processes


def _fit(folder: Path, arguments: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    os.environ["XDG_CACHE_HOME"] = str(Path("cache").absolute())  # to be filled while it is killed
    multiprocessing.set_start_method(None, force=True)  # for the workers of data loaders
    # A process has one fork server; that of a search, if it was first, ignores both.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    sys.exit(main(["fit", *arguments]))


def run_folder(folder: Path) -> Path | None:
    """The run folder of a training, once there is something in it."""
    begun = sorted(path.parent for path in folder.glob("runs/*/*/run.json"))
    return begun[-1] if begun else None


def calm(folder: Path, config: Path, ranks: int = 1) -> float:
    """Trains without disturbance; returns the seconds it took."""
    started = time.monotonic()
    processes = fit_in(folder, ["--config", str(config)], ranks)
    assert ended(processes) == [0] * ranks, (folder / "output.txt").read_text()
    return time.monotonic() - started


def ended(processes: Sequence[Any]) -> list[int]:
    """Waits for processes that have to end soon; returns their exit codes.

    As a launcher does, it kills the others when one has died before they found each other.
    """
    wait([process.sentinel for process in processes], PATIENCE)
    for process in processes:
        process.join(PATIENCE / 4)
    if any(process.exitcode for process in processes):
        for process in processes:
            process.kill()
            process.join()
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert None not in codes, "it hangs"
    return codes


def disturb(
    folder: Path,
    config: Path,
    number: signal.Signals,
    seconds: float,
    chance: random.Random,
    ranks: int = 1,
) -> Storm:
    """Trains, with a signal at a random time of each of the first starts, to any of the ranks.

    Args:
        folder: Where to train.
        config: What to train.
        number: The signal.
        seconds: How long the training takes without disturbance.
        chance: Draws the times, and the ranks.
        ranks: How many processes train.
    """
    storm = Storm(runs=1)
    while True:
        begun = run_folder(folder)
        arguments = ["--ckpt_path", str(begun)] if begun else ["--config", str(config)]
        if begun:
            storm += _position(begun)
        processes = fit_in(folder, arguments, ranks)
        if storm.signals < 6:
            processes[0].join(chance.uniform(0.25, 0.95) * seconds)
            for process in chance.sample(processes, chance.randint(1, ranks)):
                if process.is_alive():
                    os.kill(process.pid, number)
                    storm.signals += 1
        codes = ended(processes)
        if codes == [0] * ranks:
            return storm
        # Before the training begins SIGTERM does what it does to any process; a rank fails when
        # another one is gone.
        expected = {CODES[number], -number} | ({0, 1, -9} if ranks > 1 else set())
        told = folder / "output.txt"
        output = told.read_text() if told.exists() else ""  # killed before it began
        assert set(codes) <= expected, f"{codes}\n{output}"
        # A data worker whose trainer is killed may begin to tell of it.
        assert "Traceback" not in output or number == signal.SIGKILL


def _position(folder: Path) -> Storm:
    path = folder / "checkpoints" / "last.ckpt"
    if not path.exists():
        return Storm()
    inside = torch.load(path, weights_only=True)["position"]["inside_epoch"]
    return Storm(inside=int(inside), between=int(not inside))


def facts(folder: Path) -> dict[str, Any]:
    """Everything of a run that has to be the same whatever happened to it."""
    run = run_folder(folder)
    assert run is not None
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    dropped = ("seconds",)
    record = runs.read_record(run)
    return {
        "weights": digest(last["state_dict"]),
        "trained weights": digest(last.get("current_model_state")),
        "optimizer": digest(last["optimizer_states"]),
        "schedule": digest(last["lr_schedulers"]),
        "epoch and step": (last["epoch"], last["global_step"]),
        # Lightning's ModelCheckpoint names its files, with their folder; a Timer counts seconds.
        "callbacks": digest({k: v for k, v in last["callbacks"].items() if not k.startswith(VARY)}),
        "best weights": digest(best["state_dict"]),
        "best": {name: record["best"][name] for name in ("monitor", "value")},
        "metrics": [
            {name: value for name, value in row.items() if name not in dropped}
            for row in runs.read_metrics(run)
            if int(row["epoch"]) < record["epochs"]
        ],
        # A kill right after the last step of an epoch that is broken off leaves none of it.
        "final metrics": None if last["position"]["inside_epoch"] else record["metrics"],
        "state": record["state"],
    }


def digest(value: Any) -> str:
    """Tells values apart that differ in any bit."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), value.cpu().numpy().tobytes().hex()]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, float) else value


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names what differs."""
    return [name for name in expected if expected[name] != found[name]]
