"""Searches over real servers, all on this machine: PostgreSQL, SLURM and Ray."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import servers
import yaml
from conftest import TINY
from optuna.trial import TrialState
from searches import Search, check_whole, metrics, state, trial_folder, trials_of, write_files

from classifier import runs
from classifier.errors import UserError
from classifier.search.engines import ray as ray_engine
from classifier.search.engines import slurm

ELSEWHERE = [
    *("unshare", "--user", "--map-root-user", "--uts"),
    *("sh", "-c", 'hostname elsewhere && exec "$@"', "sh"),
]


def write_search(epochs=60, **changes):
    """Writes a search whose trials take some four seconds."""
    base = TINY.replace("&epochs 2", f"&epochs {epochs}")
    return write_files(base, **{"n_trials": 6, "heartbeat": 1, **changes})


def resumed(folder, number):
    """How often a trial went on from its checkpoint."""
    return len(runs.read_record(trial_folder(folder, number)).get("resumed", []))


def host(trial):
    return trial.user_attrs.get("worker", {}).get("host")


# ---- PostgreSQL ----


@pytest.mark.slow
def test_a_worker_of_another_machine_that_dies_is_known_by_its_silence():
    if not shutil.which("unshare") or subprocess.run([*ELSEWHERE, "true"]).returncode:
        pytest.skip("a process cannot be given another host name here")
    with servers.postgresql() as url:
        folder = write_search(storage=url, workers=1)
        join = [*ELSEWHERE, sys.executable, "-m", "classifier", "search", "worker", str(folder)]

        with Search() as here:
            here.wait_for(lambda: metrics(folder, 0))
            with Search(*join) as there:
                trial = there.wait_for(
                    lambda: next((t for t in trials_of(folder) if host(t) == "elsewhere"), None)
                )
                there.wait_for(lambda: metrics(folder, trial.number))
            lost = trials_of(folder)[trial.number]
            assert (lost.state, host(lost)) == (TrialState.RUNNING, "elsewhere")
            assert here.end() == 0

        check_whole(folder, 6)
        assert host(trials_of(folder)[trial.number]) != "elsewhere"
        assert [resumed(folder, n) for n in range(6)] == [int(n == trial.number) for n in range(6)]


# ---- SLURM ----


def job_of(search):
    """The number of the job array, as the search prints it."""
    words = search.wait_for(lambda: Path("output.txt").read_text().partition("SLURM job ")[2])
    return words.split(",")[0]


def running_in(folder, task):
    """The trial that a task is in the midst of; None while there is none."""
    for trial in trials_of(folder) if (folder / "journal.log").exists() else []:
        pid = trial.user_attrs.get("worker", {}).get("pid")
        if trial.state == TrialState.RUNNING and metrics(folder, trial.number):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"SLURM_ARRAY_TASK_ID={task}".encode() in environment:
                return trial
    return None


@pytest.mark.slow
def test_a_task_that_slurm_queues_again_puts_its_trial_back():
    with servers.slurm():
        folder = write_search(engine="slurm")

        with Search() as search:
            job = job_of(search)
            trial = search.wait_for(lambda: running_in(folder, task=1))
            subprocess.run(["scontrol", "requeue", f"{job}_1"], check=True)
            search.wait_for(lambda: state(folder, trial.number) != TrialState.RUNNING)
            code = search.end()

        assert code == 0
        check_whole(folder, 6)
        assert [resumed(folder, n) for n in range(6)] == [int(n == trial.number) for n in range(6)]
        assert trials_of(folder)[trial.number].user_attrs["attempt"] == 1  # it is not blamed


@pytest.mark.slow
def test_a_task_of_slurm_goes_on_after_its_time_limit():
    with servers.slurm():
        options = {"time": "1", "signal": "B:USR1@20"}  # SLURM may send it up to a minute early
        folder = write_search(800, engine="slurm", engine_options=options, n_trials=2)

        with Search() as search:
            job = job_of(search)
            search.wait_for(lambda: restarts(f"{job}_0") or restarts(f"{job}_1"), 150)
            code = search.end(600)

        assert code == 0
        check_whole(folder, 2)
        assert sum(resumed(folder, number) for number in range(2)) > 0
        assert all(trial.user_attrs["attempt"] == 1 for trial in trials_of(folder))


def restarts(task):
    """How often SLURM started a task again."""
    answer = subprocess.run(["scontrol", "show", "job", task], capture_output=True, text=True)
    return int(re.search(r"Restarts=(\d+)", answer.stdout)[1])


@pytest.mark.slow
def test_a_search_on_slurm_that_is_stopped_leaves_no_task_and_goes_on_later():
    with servers.slurm():
        folder = write_search(engine="slurm")
        with Search() as search:
            search.wait_for(lambda: metrics(folder, 0) and metrics(folder, 1))
            search.process.send_signal(signal.SIGINT)
            assert search.end() == 130
            search.wait_for(lambda: not squeue())
        states = [trial.state for trial in trials_of(folder)]
        assert states == [TrialState.WAITING] * 2

        with Search() as search:
            code = search.end()

        assert code == 0
        check_whole(folder, 6)
        assert [resumed(folder, number) for number in range(6)] == [1, 1, 0, 0, 0, 0]


def squeue():
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout


@pytest.mark.slow
def test_what_slurm_refuses_is_told(own_folder):
    with servers.slurm(), pytest.raises(UserError, match=r"invalid partition.*: nowhere"):
        slurm.start(own_folder, 2, {"partition": "nowhere"}, None)


def test_without_slurm_the_engine_says_where_to_go(own_folder, monkeypatch):
    monkeypatch.setenv("PATH", str(own_folder))

    with pytest.raises(UserError, match="sbatch, which is not on this machine"):
        slurm.start(own_folder, 2, {}, None)


def test_options_of_the_engine_are_options_of_the_batch_job(own_folder):
    options = {"partition": "gpu", "cpus_per_task": 4, "exclusive": True, "comment": "two words"}

    lines = slurm.script(own_folder, options, until=None).splitlines()

    assert "#SBATCH --partition=gpu" in lines
    assert "#SBATCH --cpus-per-task=4" in lines
    assert "#SBATCH --exclusive" in lines
    assert "#SBATCH --comment='two words'" in lines
    assert "#SBATCH --requeue" in lines


def test_options_of_the_user_replace_those_of_the_engine(own_folder):
    text = slurm.script(own_folder, {"signal": "B:USR1@600", "job-name": "mine"}, until=12.5)

    assert re.findall(r"#SBATCH --(?:signal|job-name)=(.*)", text) == ["mine", "B:USR1@600"]
    assert "--until 12.5" in text


def test_a_time_limit_that_yaml_turned_into_a_number_is_refused(own_folder):
    options = yaml.safe_load("time: 4:00:00")

    with pytest.raises(UserError, match="14400 is ambiguous"):
        slurm.script(own_folder, options, until=None)


# ---- Ray ----


@pytest.mark.slow
def test_a_trial_of_a_lost_node_of_ray_is_taken_over(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(ray_engine.__file__).parents[3]))
    with servers.ray_cluster(nodes=2) as (address, replace_a_node):
        options = {"address": address}
        folder = write_search(engine="ray", engine_options=options, n_trials=10)

        with Search() as search:
            search.wait_for(lambda: metrics(folder, 0) and metrics(folder, 1))
            first = workers_of(folder)
            replace_a_node()
            code = search.end()

        assert code == 0
        check_whole(folder, 10)
        assert sum(resumed(folder, number) for number in range(10)) == 1
        assert workers_of(folder) - first  # on the new node


def workers_of(folder):
    return {trial.user_attrs["worker"]["id"] for trial in trials_of(folder)}


@pytest.mark.slow
def test_a_search_on_ray_that_is_stopped_puts_its_trials_back(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(ray_engine.__file__).parents[3]))
    with servers.ray_cluster(nodes=2) as (address, _):
        folder = write_search(engine="ray", engine_options={"address": address})

        with Search() as search:
            search.wait_for(lambda: metrics(folder, 0) and metrics(folder, 1))
            search.process.send_signal(signal.SIGTERM)
            code = search.end()

        assert code == 143
        assert [trial.state for trial in trials_of(folder)] == [TrialState.WAITING] * 2


def test_without_ray_the_engine_says_how_to_get_it(own_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(UserError, match=r"pip install 'lightning-classifier\[ray\]'"):
        ray_engine.start(own_folder, 2, {}, None)


def test_an_option_that_ray_does_not_have_is_refused(own_folder):
    pytest.importorskip("ray")

    with pytest.raises(UserError, match="num_gpu for"):
        ray_engine.start(own_folder, 2, {"num_gpu": 1}, None)
