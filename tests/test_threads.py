"""How many threads a training has, and how they wait for each other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from classifier import runs
from classifier.__main__ import main
from classifier.cli.threads import usual_threads
from classifier.data import Digits
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


def on_threads(number, fit, config, monkeypatch):
    """The folder of a run on as many threads as its user said."""
    monkeypatch.setenv(THREADS, str(number))
    torch.set_num_threads(number)
    folder = fit("--config", config)
    torch.set_num_threads(1)
    monkeypatch.delenv(THREADS)
    return folder


def test_a_training_of_small_steps_has_one_thread_and_any_other_has_all(
    write_config, fit, monkeypatch, capsys
):
    monkeypatch.delenv(THREADS, raising=False)
    torch.set_num_threads(2)
    config = write_config({"trainer.max_epochs": 1, "trainer.limit_train_batches": 1})

    small = fit("--config", config)
    few = capsys.readouterr().out
    large = fit("--config", config, "--model.network.width=64", "--data.batch_size=256")

    assert runs.read_record(small)["environment"]["threads"] == 1
    assert "cpu, 1 thread\n" in few
    assert runs.read_record(large)["environment"]["threads"] == 2
    assert torch.get_num_threads() == 2


def test_where_the_operations_are_not_known_or_done_elsewhere_there_are_all_threads():
    torch.set_num_threads(2)
    cpu, small = torch.device("cpu"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for network in (nn.LazyLinear(10), nn.Linear(3, 10)):  # of no size yet, and of another
        assert usual_threads(network, Digits(), cpu) == 2
    assert usual_threads(small, Digits(), torch.device("cuda")) == 2
    assert usual_threads(small, Digits(), cpu) == 1


def test_a_resumed_training_has_as_many_threads_as_before(write_config, fit, monkeypatch, capsys):
    folder = on_threads(2, fit, write_config(), monkeypatch)
    capsys.readouterr()

    assert main(["fit", *RESUME]) == 0

    assert runs.read_record(folder)["environment"]["threads"] == 2
    assert capsys.readouterr().err == ""
    assert torch.get_num_threads() == 1


def test_the_user_may_resume_with_another_number_of_threads(write_config, fit, monkeypatch, capsys):
    folder = on_threads(2, fit, write_config(), monkeypatch)
    monkeypatch.setenv(THREADS, "1")

    assert main(["fit", *RESUME]) == 0

    assert runs.read_record(folder)["environment"]["threads"] == 1
    assert "threads 1, not 2. OMP_NUM_THREADS=2 sets the threads." in capsys.readouterr().err


def test_more_threads_than_there_are_processors_are_not_kept(write_config, fit, monkeypatch):
    folder = on_threads(cores() + 1, fit, write_config(), monkeypatch)

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
