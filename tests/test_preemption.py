"""A cluster that takes the machine away gives it back later; the training goes on."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import servers
import storms

from classifier import runs

ROOT = Path(__file__).parents[1]
SECONDS = 120


def script():
    """The batch script of the README on runs, with as much as it needs here."""
    blocks = re.findall(
        r"```bash\n(.+?)```", (ROOT / "classifier/callbacks/README.md").read_text(), re.S
    )
    (text,) = [block for block in blocks if "#SBATCH" in block]
    return f"#!/bin/bash\n#SBATCH --output=log.txt\n{text}"


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, Path("log.txt").read_text()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["signal", "requeue"])
def test_a_job_of_slurm_that_has_to_go_is_queued_again_and_ends_with_the_same_bits(
    how, own_folder, monkeypatch
):
    """By SIGUSR1 before the time limit, and by SIGTERM as preemption sends it; 40 s each."""
    monkeypatch.setenv("PATH", f"{own_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("classifier").write_text(f'#!/bin/sh\nexec {sys.executable} -m classifier "$@"\n')
    Path("classifier").chmod(0o755)
    (own_folder / "configs").symlink_to(ROOT / "configs")
    Path("job.sh").write_text(script())
    config = ROOT / "configs" / "digits.yaml"
    storms.calm(own_folder / "calm", config)

    with servers.slurm():
        job = subprocess.check_output(["sbatch", "--parsable", "job.sh"], text=True).strip()
        run = Path(job, "digits", "version_0")
        wait_for(lambda: (run / "metrics.csv").is_file() and len(runs.read_metrics(run)) > 2)
        send = ["scancel", "--signal=USR1"] if how == "signal" else ["scontrol", "requeue"]
        subprocess.run([*send, job], check=True)
        wait_for(lambda: runs.read_record(run)["state"] == "interrupted")
        wait_for(lambda: runs.read_record(run)["state"] == "finished")

    assert [path.name for path in run.parent.iterdir()] == [run.name]
    (own_folder / "runs").symlink_to(Path(job))
    assert storms.differences(storms.facts(own_folder / "calm"), storms.facts(own_folder)) == []
