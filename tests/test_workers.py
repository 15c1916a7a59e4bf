"""The processes that read data: a failed one is named, and none outlives its trainer."""

import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import classifier
from classifier import runs
from classifier.__main__ import main
from classifier.data import ImageFolder, workers

OWN = """
import os
import signal
import time

from torch import nn
from torch.utils.data import get_worker_info


class Does(nn.Module):
    '''Does something to itself, as a worker, at the third image that it reads.'''

    def __init__(self, what: str, worker: int = 1) -> None:
        super().__init__()
        self.what, self.worker, self.seen = what, worker, 0

    def forward(self, image):
        self.seen += 1
        info = get_worker_info()
        if info and info.id == self.worker and self.seen == 3:
            if self.what == "sleeps":
                time.sleep(600)
            if self.what == "exits":
                os._exit(int(os.environ.get("CODE", 3)))
            os.kill(os.getpid(), getattr(signal, self.what))
        return image
"""


@pytest.fixture(autouse=True)
def photos(write_module):
    write_module(OWN)
    for name in ("cats", "dogs"):
        Path("photos", name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (12, 12), (9 * index, 80, 10)).save(f"photos/{name}/{index}.png")
    before = multiprocessing.active_children()  # of other tests
    yield
    assert [child for child in multiprocessing.active_children() if child not in before] == []


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("classifier.data.workers.HANG_SECONDS", 1)


def fit(**transforms):
    data = {"class_path": "classifier.data.ImageFolder"}
    data["init_args"] = {"root": "photos", "image_size": 12, "num_workers": 2, "batch_size": 4}
    for name, (what, more) in transforms.items():
        arguments = {"what": what, **more}
        data["init_args"][name] = [{"class_path": "own.Does", "init_args": arguments}]
    return data


def children():
    """PIDs of the living processes that this one has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has just ended
        if int(parent) == os.getpid() and state != "Z":
            found.append(int(status.parent.name))
    return found


def answer(write_config, capsys, **transforms):
    """The lines that a run answers with which fails by its worker."""
    before = children()
    started = time.monotonic()
    config = write_config({"data": fit(**transforms)})

    assert main(["fit", "--config", config]) == 1

    assert time.monotonic() - started < 200  # one that sleeps does so for 600
    assert set(children()) <= set(before)
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("what", ["sleeps", "SIGSTOP"])
@pytest.mark.parametrize("transform", ["train_transform", "eval_transform"])
def test_a_worker_that_hangs_is_named_with_its_image(
    write_config, capsys, impatient, what, transform
):
    # The single batch of the validation set is that of the first worker.
    number = 1 if transform == "train_transform" else 0

    lines = answer(write_config, capsys, **{transform: (what, {"worker": number})})

    assert len(lines) == 2
    assert lines[0].startswith(f"error: data worker {number} (PID ")
    assert lines[0].endswith(".png') did not deliver for 1 seconds.")
    assert ", reading 'photos/" in lines[0]
    assert "disk or network" in lines[1]
    record = runs.read_record(Path("runs/tiny/version_0"))
    assert record["state"] == "failed"
    assert record["error"].startswith(f"RuntimeError: data worker {number} (PID ")


def test_a_worker_that_is_killed_is_named_with_its_image(write_config, capsys):
    lines = answer(write_config, capsys, train_transform=("SIGKILL", {"worker": 0}))

    assert len(lines) == 2
    assert lines[0].startswith("error: data worker 0 (PID ")
    assert ", reading 'photos/" in lines[0]
    assert re.search(r"\.png'\) (is killed by signal: Killed|exited unexpectedly)\.$", lines[0])
    assert lines[1].startswith("Most often memory ran out; ")


def test_a_worker_that_exits_is_named_with_its_image(write_config, capsys):
    line = answer(write_config, capsys, train_transform=("exits", {}))[0]

    assert re.search(r"\.png'\) exited unexpectedly( with exit code 3)?\.$", line)


def test_a_worker_that_exits_as_if_all_were_well_is_noticed(
    write_config, capsys, impatient, monkeypatch
):
    monkeypatch.setenv("CODE", "0")

    line = answer(write_config, capsys, train_transform=("exits", {}))[0]

    assert line.startswith("error: data worker 1 (PID ")
    assert line.endswith(".png') exited unexpectedly.")


def test_workers_that_decode_into_memory_are_named_too(write_config, capsys, impatient):
    data = fit(eval_transform=("SIGSTOP", {"worker": 0}))
    data["init_args"]["in_memory"] = True

    assert main(["fit", "--config", write_config({"data": data})]) == 1

    error = capsys.readouterr().err
    assert error.startswith("error: data worker 0 (PID ")
    assert "reading 'photos/" in error


def test_a_worker_of_predict_is_named_too(write_config, capsys, impatient):
    config = write_config({"data": fit(eval_transform=("SIGSTOP", {"worker": 0}))})
    assert main(["fit", "--config", config, "--trainer.limit_val_batches", "0"]) == 0

    arguments = ["--ckpt_path", "runs/tiny/version_0", "--images", "photos"]
    assert main(["predict", *arguments, "--data.eval_batch_size", "8"]) == 1

    assert list(Path().glob("*predictions*")) == []
    assert capsys.readouterr().err.startswith("error: data worker 0 (PID ")


def test_a_worker_between_two_images_is_not_said_to_read(photos):
    data = ImageFolder("photos", image_size=12, num_workers=1, batch_size=4)
    data.setup("fit")
    loader = data.train_dataloader()

    next(iter(loader))

    (slot,) = loader.worker_init_fn.args[0].slots
    assert slot.pid.value != os.getpid()
    deadline = time.monotonic() + 60  # for the batches that it reads ahead
    while slot.path.value and time.monotonic() < deadline:
        time.sleep(0.05)
    assert slot.path.value == b""
    assert workers.own_slot is None


def test_what_pytorch_says_of_the_workers_of_others_is_left_alone():
    text = "DataLoader worker (pid 1) is killed by signal: Killed. "

    assert workers.explain(text) is None
    assert workers.explain("DataLoader timed out after 600 seconds") is None
    assert workers.explain("CUDA out of memory") is None


SCRIPT = """
import multiprocessing, sys, time
import torch
from torch import nn
from classifier.data import ImageFolder


class Slow(nn.Module):
    def forward(self, image):
        time.sleep(0.02)
        return image


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    data = ImageFolder("photos", 12, num_workers=2, batch_size=2, train_transform=[Slow()])
    data.setup("fit")
    for images, labels in data.train_dataloader():
        print("read", flush=True)
    print("end", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_start_and_die_with_their_trainer_however_they_are_started(method):
    """Newer versions of Python start them by a fork server; 11 to 38 s on two busy cores."""
    Path("script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(classifier.__file__).parents[1])}

    def start():
        command = [sys.executable, "script.py", method]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    with start() as trainer:
        assert trainer.communicate()[0].splitlines()[-2:] == ["read", "end"]
    with start() as trainer:
        assert trainer.stdout.readline() == "read\n"
        trainer.kill()

    assert wait_for_none([trainer.pid]) == []


def members(sessions):
    """PIDs of the living processes of some sessions."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) in sessions and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def wait_for_none(sessions, seconds=30):
    deadline = time.monotonic() + seconds
    while (left := members(sessions)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


STORM = """
import os, random, signal, sys, time
import torch
from torch.utils.data import DataLoader
from classifier.data.sets import FileSet, identity_collate
from classifier.data.workers import worker_settings
from classifier.images.read import ImageReader
from pathlib import Path

torch.set_num_threads(1)
paths = sorted(Path("photos").glob("*/*.png"))
images = FileSet(paths, torch.zeros(len(paths)), [], ImageReader(3, torch.nn.Identity()), 0)
drawn = random.Random(0)
for _ in range(40):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        while True:
            settings = worker_settings(4) if sys.argv[1] == "ours" else {"num_workers": 4}
            for _ in DataLoader(images, 2, collate_fn=identity_collate, **settings):
                pass
    time.sleep(drawn.uniform(0, 0.12))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(pid, flush=True)
"""


@pytest.mark.slow
def test_no_worker_outlives_a_trainer_that_is_killed_while_they_start():
    """40 times kill -9 at random moments of the start; 10 s."""
    assert storm("ours") == []


def storm(loader):
    environment = {**os.environ, "PYTHONPATH": str(Path(classifier.__file__).parents[1])}
    # Not a pipe, which the orphans that are looked for would hold open.
    with Path("pids.txt").open("w") as file:
        command = [sys.executable, "-c", STORM, loader]
        subprocess.run(command, env=environment, stdout=file, check=True)
    sessions = [int(line) for line in Path("pids.txt").read_text().split()]
    assert len(sessions) == 40
    return wait_for_none(sessions)
