"""How many threads a training has, and how they wait for each other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from classifier import runs
from classifier.__main__ import main
from classifier.platform import THREADS, WAITING, cores, let_threads_sleep

RESUME = ["--ckpt_path", "runs/tiny/version_0", "--trainer.max_epochs", "3"]


def test_threads_sleep_while_they_wait_unless_the_user_decides(monkeypatch):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    let_threads_sleep()
    assert {name: os.environ[name] for name in WAITING} == WAITING

    for name in WAITING:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "KMP_BLOCKTIME" not in os.environ


def test_only_a_command_in_a_process_of_its_own_sets_it(monkeypatch):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    assert main(["--version"]) == 0
    assert "OMP_WAIT_POLICY" not in os.environ
    code = (
        "import os, sys; from classifier.__main__ import main; sys.argv[1:] = ['--version']; "
        "main(); print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert told.splitlines()[-1] == "False PASSIVE"


def test_a_resumed_training_has_as_many_threads_as_before(write_config, fit, monkeypatch, capsys):
    monkeypatch.delenv(THREADS, raising=False)
    torch.set_num_threads(2)
    folder = fit("--config", write_config())
    torch.set_num_threads(1)
    capsys.readouterr()

    assert main(["fit", *RESUME]) == 0

    assert runs.read_record(folder)["environment"]["threads"] == 2
    assert capsys.readouterr().err == ""
    assert torch.get_num_threads() == 1


def test_the_user_may_resume_with_another_number_of_threads(write_config, fit, monkeypatch, capsys):
    torch.set_num_threads(2)
    folder = fit("--config", write_config())
    torch.set_num_threads(1)
    monkeypatch.setenv(THREADS, "1")

    assert main(["fit", *RESUME]) == 0

    assert runs.read_record(folder)["environment"]["threads"] == 1
    assert "threads 1, not 2. OMP_NUM_THREADS=2 sets the threads." in capsys.readouterr().err


def test_more_threads_than_there_are_processors_are_not_kept(write_config, fit, monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)
    torch.set_num_threads(cores() + 1)
    folder = fit("--config", write_config())
    torch.set_num_threads(1)

    assert main(["fit", *RESUME]) == 0

    assert runs.read_record(folder)["environment"]["threads"] == 1


@pytest.mark.slow
def test_how_threads_wait_changes_no_bit(write_config):
    """20 s: two whole processes, one of which spins and one of which sleeps."""
    command = [sys.executable, "-m", "classifier", "fit", "--config", write_config()]
    found = []
    for policy in ("ACTIVE", "PASSIVE"):
        environment = {**os.environ, "OMP_WAIT_POLICY": policy, THREADS: "2"}
        subprocess.run(
            [*command, "--trainer.default_root_dir", policy], env=environment, check=True
        )
        (path,) = Path(policy).rglob("last.ckpt")
        found.append(torch.load(path, weights_only=True)["state_dict"])
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name
