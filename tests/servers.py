"""Real servers on this machine for a test: PostgreSQL, SLURM with one node, Ray with several.

None needs to be configured or running; the test is skipped where the programs are missing.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits this long, at least 5 seconds, before it starts again.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
# No cgroups, no accounting, no MPI: whatever a developer's machine may lack.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=main Nodes=one Default=YES State=UP
"""


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Runs a new PostgreSQL and gives the URL of its empty database."""
    programs = _programs("initdb", "postgres", folders="/usr/lib/postgresql/*/bin")
    user = "postgres" if os.getuid() == 0 else None  # it refuses to be run by root
    port, password = _free_port(), secrets.token_hex(8)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(folder / "password", user)
        make = [programs["initdb"], "--pgdata", folder / "data", "--auth=scram-sha-256"]
        make += ["--username=search", f"--pwfile={folder / 'password'}", "--no-sync"]
        subprocess.run(make, user=user, cwd=folder, check=True, capture_output=True)
        run = [programs["postgres"], "-D", folder / "data", "-p", str(port), "-c", "fsync=off"]
        run += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        with _running(folder / "postgres.log", *run, user=user, end=signal.SIGINT):
            _wait_for(lambda: _answers(port), folder / "postgres.log")
            yield f"postgresql+psycopg2://search:{password}@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def slurm() -> Iterator[None]:
    """Runs a SLURM with four processors, which ``sbatch`` and its like find."""
    programs = _programs("munged", "slurmctld", "slurmd", "sbatch", folders="/usr/sbin")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        config = folder / "slurm.conf"
        config.write_text(
            SLURM_CONF.format(
                host=socket.gethostname().partition(".")[0],
                ports=[_free_port(), _free_port()],
                user=getpass.getuser(),
                folder=folder,
            )
        )
        # --force: the user of a test may be root, and the folder is closed to other users.
        munge = [programs["munged"], "--foreground", "--force", f"--key-file={key}"]
        munge += [f"--socket={folder / 'munge.socket'}", f"--pid-file={folder / 'munged.pid'}"]
        munge += [f"--log-file={folder / 'munge.log'}", f"--seed-file={folder / 'munge.seed'}"]
        manager = [programs["slurmctld"], "-D", "-i", "-f", config]
        node = [programs["slurmd"], "-D", "-N", "one", "-f", config]
        log = folder / "log"
        with pytest.MonkeyPatch.context() as patch, _running(log, *munge):
            patch.setenv("SLURM_CONF", str(config))
            _wait_for((folder / "munge.socket").exists, log)
            with _running(log, *manager), _running(log, *node):
                idle = ["sinfo", "--noheader", "--states=idle", "--format=%N"]
                _wait_for(lambda: "one" in _output(*idle), log)
                try:
                    yield
                finally:
                    _output("scancel", f"--user={getpass.getuser()}")
                    _wait_for(lambda: not _output("squeue", "--noheader"), log)


@contextlib.contextmanager
def ray_cluster(nodes: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Runs a Ray cluster of a head and nodes with one processor each.

    Gives its address, and a function that lets one node die and another one take its place.
    """
    ray = _programs("ray", folders=str(Path(sys.executable).parent))["ray"]
    address = f"127.0.0.1:{_free_port()}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        log = folder / "log"
        (folder / "token").write_text(secrets.token_hex(32))
        common = [ray, "start", "--block", "--disable-usage-stats"]
        common += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        head = [*common, "--head", f"--port={address.partition(':')[2]}", "--num-cpus=0"]
        head += ["--include-dashboard=false", f"--temp-dir={folder / 'ray'}"]
        head += [f"--ray-client-server-port={_free_port()}"]
        node = [*common, f"--address={address}", "--num-cpus=1"]
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as running:
            patch.setenv("RAY_AUTH_MODE", "token")  # the default from 2.61 on
            patch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))

            def start(*command: str) -> subprocess.Popen[bytes]:
                before = log.read_text().count("runtime started") if log.exists() else 0
                process = running.enter_context(_running(log, *command))
                _wait_for(lambda: log.read_text().count("runtime started") > before, log)
                return process

            def replace_a_node() -> None:
                last.kill()  # what it has started dies with it
                start(*node)

            start(*head)
            for _ in range(nodes):
                last = start(*node)
            yield address, replace_a_node


def _programs(*names: str, folders: str) -> dict[str, str]:
    """Paths of programs; the test is skipped if one is missing."""
    places = sorted(str(path) for path in Path("/").glob(folders.lstrip("/")))
    where = os.pathsep.join([*reversed(places), os.environ["PATH"]])
    found = {name: shutil.which(name, path=where) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    return {name: path for name, path in found.items() if path is not None}


@contextlib.contextmanager
def _running(
    log: Path, *command: str | Path, user: str | None = None, end: int = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, user=user, cwd=log.parent, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(end)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(ready: Callable[[], bool], log: Path) -> None:
    for _ in range(300):
        if ready():
            return
        time.sleep(0.1)
    pytest.fail(f"A server does not answer:\n{log.read_text()[-2000:]}")


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
