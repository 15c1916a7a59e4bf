"""Checkpoint files that are damaged or torn, and disks that are full or read-only."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import storms
import torch
from conftest import TINY
from disks import enlarge, fill, read_only, small_disk

from classifier.__main__ import main
from classifier.checkpoint.read import read_checkpoint

SAVE = ("--save_every.steps", "2")
RUN = Path("runs/tiny/version_0")
CHECKPOINTS = RUN / "checkpoints"


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The folder in which a run of two epochs of four steps, saved at 2, 4, 6, 8, was at peace."""
    root = tmp_path_factory.mktemp("calm")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        Path("tiny.yaml").write_text(TINY)
        assert main(["fit", "--config", "tiny.yaml", *SAVE]) == 0
    return root


@pytest.fixture
def checkpoints(calm, own_folder):
    """The checkpoints of a copy of it, whose last step is to be taken again."""
    shutil.copytree(calm, own_folder, dirs_exist_ok=True)
    return CHECKPOINTS


@pytest.fixture
def same_bits(calm, own_folder):
    """Checks that the run of a folder ended as the calm one."""

    def check(folder=own_folder):
        assert storms.differences(storms.facts(calm), storms.facts(folder)) == []

    return check


def resume(path=RUN):
    return main(["fit", "--ckpt_path", str(path)])


# ---- damage ----


def damages(content, chance):
    """Yields 300 damaged versions of a file, each with what was done to it."""
    size = len(content)
    for place in [*range(size - 120, size), *(chance.randrange(size) for _ in range(60))]:
        bit = 1 << chance.randrange(8)
        damaged = bytearray(content)
        damaged[place] ^= bit
        yield f"bit {bit} of byte {place} flipped", damaged
    ends = [0, 1, size - 1, size - 71, size - 93]  # without comment, without the zip's last record
    for place in [*ends, *(chance.randrange(size) for _ in range(55))]:
        yield f"cut to {place} bytes", content[:place]
    for number in range(60):
        block = (64, 512, 4096)[number % 3]
        place = chance.randrange(size) // block * block
        while not any(content[place : place + block]):
            place = chance.randrange(size) // block * block
        zeros = bytes(len(content[place : place + block]))
        yield f"{block} bytes from {place} zeroed", zeroed(content, place, len(zeros))


def zeroed(content, place, length):
    return content[:place] + bytes(length) + content[place + length :]


def test_none_of_300_damaged_checkpoints_is_read(calm, own_folder):
    content = (calm / CHECKPOINTS / "last.ckpt").read_bytes()
    path = Path("damaged.ckpt")
    cases = list(damages(content, random.Random(0)))
    read, nameless = [], []

    for what, damaged in cases:
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except ValueError as error:
            if not str(error).startswith("'damaged.ckpt' ") or "\n" in str(error):
                nameless.append((what, str(error)))
        else:
            read.append(what)

    assert len(cases) == 300
    assert read == []
    assert nameless == []
    path.write_bytes(content)
    assert read_checkpoint(path)["global_step"] == 8


@pytest.mark.parametrize("verb", ["test", "validate", "fit", "predict"])
@pytest.mark.parametrize("kind", ["flipped", "cut", "zeroed", "empty"])
def test_every_command_refuses_a_damaged_checkpoint_and_names_it(verb, kind, calm, capsys):
    content = (calm / CHECKPOINTS / "best.ckpt").read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
    damaged = {
        "flipped": flipped,
        "cut": content[:middle],
        "zeroed": zeroed(content, 1024, 512),
        "empty": b"",
    }
    Path("net.ckpt").write_bytes(damaged[kind])
    images = ["--images", "net.ckpt"] if verb == "predict" else []

    assert main([verb, "--ckpt_path", "net.ckpt", *images]) == 2

    error = capsys.readouterr().err.strip()
    assert error.startswith("error: 'net.ckpt' ")
    assert "damaged" in error
    assert ".." not in error
    assert len(error.splitlines()) <= 3


@pytest.mark.parametrize("named", [RUN, CHECKPOINTS / "last.ckpt"], ids=["run", "file"])
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(
    named, checkpoints, same_bits, capsys
):
    last = checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])

    assert resume(named) == 0

    warning = capsys.readouterr().err.strip()
    assert warning.startswith(f"warning: '{last}' ")
    assert warning.endswith(f"Resuming from '{checkpoints / 'previous.ckpt'}'.")
    assert len(warning.splitlines()) == 1
    same_bits()


def test_a_run_of_which_both_checkpoints_are_damaged_is_refused_and_stays(checkpoints, capsys):
    for name in ("last", "previous"):
        (checkpoints / f"{name}.ckpt").write_bytes(b"PK")
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}

    assert resume() == 2

    error = capsys.readouterr().err
    assert f"error: '{checkpoints / 'previous.ckpt'}' is not a checkpoint" in error
    assert len(error.splitlines()) <= 3
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before


# ---- torn: a kill between two changes of the folder ----


def half_written(folder):
    """The newest checkpoint is being written."""
    whole = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").unlink()
    (folder / "previous.ckpt").rename(folder / "last.ckpt")
    (folder / ".new.ckpt.part").write_bytes(whole[: len(whole) // 2])


def best_is_newer(folder):
    """It has become the best one, but not the last one."""
    (folder / "last.ckpt").rename(folder / "new.ckpt")
    (folder / "previous.ckpt").rename(folder / "last.ckpt")
    os.link(folder / "new.ckpt", folder / ".best.ckpt.link")


def last_is_previous(folder):
    """The last one has become the one before it, and not yet the new one the last."""
    (folder / "last.ckpt").rename(folder / "new.ckpt")
    os.link(folder / "previous.ckpt", folder / "last.ckpt")
    os.link(folder / "previous.ckpt", folder / ".previous.ckpt.link")


def last_is_missing(folder):
    """As some file systems leave it that have no renaming in one go."""
    (folder / "last.ckpt").rename(folder / "new.ckpt")


@pytest.mark.parametrize("state", [half_written, best_is_newer, last_is_previous, last_is_missing])
def test_whatever_a_kill_leaves_of_a_save_goes_on_to_the_same_bits(state, checkpoints, same_bits):
    state(checkpoints)

    assert resume() == 0

    same_bits()
    assert {path.name for path in checkpoints.iterdir()} == {
        *("best.ckpt", "last.ckpt", "previous.ckpt")
    }


# ---- full disks ----

SIZES = ["4k", "8k", "12k", "16k", "40k", "100k", "104k", "120k", "180k", "196k", "200k", "264k"]
TALKS = """
from pathlib import Path

from disks import fill
from pytorch_lightning.callbacks import Callback


class Talks(Callback):
    "Writes many events, on a disk that was filled at a step if the file 'full' says so."

    def on_train_batch_end(self, trainer, *_):
        step = trainer.global_step
        if Path("full").exists() and Path("full").read_text() == str(step):
            fill("runs")
        for number in range(100):
            trainer.logger.log_metrics({f"number_{number}": number}, step)
        trainer.logger.experiment.flush()
"""


@pytest.fixture(scope="session")
def warm():
    """A process that has imported everything, from which trainings are forked."""
    storms.warm_up()


@pytest.fixture
def fit(warm, own_folder):
    """Trains in the folder in a process of its own; returns exit code and output."""

    def run(*arguments):
        Path("output.txt").unlink(missing_ok=True)
        (process,) = storms.fit_in(own_folder, [*arguments, *SAVE])
        process.join()
        return process.exitcode, Path("output.txt").read_text()

    return run


def check_stopped(code, output):
    """Checks that a full disk was reported in a line that tells what to do."""
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert output.endswith(line + "\n")
    assert line.startswith("error: 'runs")
    assert "': No space left on device. Free some space; then " in line
    assert "Traceback" not in output
    assert "Exception ignored" not in output
    assert not list(Path("runs").rglob(".*.part"))
    for path in Path("runs").rglob("*.ckpt"):
        assert read_checkpoint(path)["state_dict"]
    return line


def check_goes_on(fit, line, same_bits):
    """Checks that what the line tells to do leads to the calm run's end."""
    if "the same command again" in line:
        assert storms.run_folder(Path()) is None
        code, output = fit("--config", "tiny.yaml")
    else:
        assert f"then classifier fit --ckpt_path {RUN} resumes it." in line
        code, output = fit("--ckpt_path", str(RUN))
    assert code == 0, output
    same_bits()


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_costs_nothing_but_time(size, calm, fit, same_bits):
    """Measured: refused at the config, the record, a checkpoint, metrics.csv; 2 s each."""
    Path("tiny.yaml").write_text(TINY)
    Path("runs").mkdir()
    with small_disk("runs", size):
        line = check_stopped(*fit("--config", "tiny.yaml"))

        enlarge("runs", "10m")
        check_goes_on(fit, line, same_bits)


@pytest.fixture
def talking(calm, own_folder):
    """The config of the same run, with a callback that logs; it draws no random numbers."""
    Path("own.py").write_text(TALKS)
    callbacks = "trainer:\n  callbacks: [{class_path: own.Talks}]\n"
    Path("tiny.yaml").write_text(TINY.replace("trainer:\n", callbacks))
    return "tiny.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_disk_that_fills_up_during_a_training_costs_nothing_but_time(
    step, talking, fit, same_bits
):
    """Its events grow by 5 kB a step, so that TensorBoard's thread is the first to notice."""
    Path("full").write_text(str(step))
    Path("runs").mkdir()
    with small_disk("runs", "2m"):
        line = check_stopped(*fit("--config", talking))

        Path("full").unlink()
        Path("runs/filler").unlink()
        check_goes_on(fit, line, same_bits)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["full", "elsewhere"])
def test_temporary_files_do_not_matter(state, calm, fit, same_bits, monkeypatch):
    Path("tiny.yaml").write_text(TINY)
    Path("tmp").mkdir()
    with small_disk("tmp", "16k"):
        if state == "full":
            fill("tmp")
        monkeypatch.setenv("TMPDIR", str(Path("tmp").resolve()))
        command = [sys.executable, "-m", "classifier", "fit", "--config", "tiny.yaml", *SAVE]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        left = [path.name for path in Path("tmp").iterdir() if path.name != "filler"]

    assert (done.returncode, done.stderr) == (0, "")
    assert left == []
    same_bits()


# ---- what may not be written ----


def test_runs_that_cannot_be_kept_where_they_should_are_refused(capsys):
    Path("tiny.yaml").write_text(TINY)
    Path("runs").write_text("a file")

    assert main(["fit", "--config", "tiny.yaml"]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) <= 3
    assert error.startswith("error: 'runs")
    assert "--trainer.default_root_dir FOLDER" in error
    assert Path("runs").read_text() == "a file"


@pytest.mark.parametrize("folder", [".", "runs", "runs/tiny"])
def test_a_read_only_folder_of_runs_is_named_with_the_remedy(folder, capsys):
    Path("tiny.yaml").write_text(TINY)
    Path("runs/tiny").mkdir(parents=True)
    if folder == ".":
        Path("runs/tiny").rmdir()
        Path("runs").rmdir()

    with read_only(Path(folder).resolve()):
        os.chdir(Path.cwd())  # into the one that was mounted
        code = main(["fit", "--config", "tiny.yaml"])

    error = capsys.readouterr().err
    assert code == 2
    assert len(error.splitlines()) <= 3
    assert error.startswith("error: 'runs")
    assert "Read-only file system" in error
    assert "--trainer.default_root_dir FOLDER" in error


@pytest.mark.parametrize("folder", [RUN, CHECKPOINTS], ids=["run", "checkpoints"])
def test_a_run_folder_that_became_read_only_is_named_and_goes_on_later(
    folder, checkpoints, same_bits, capsys
):
    best_is_newer(checkpoints)
    before = {path: path.read_bytes() for path in checkpoints.iterdir()}

    with read_only(folder):
        code = resume()

    error = capsys.readouterr().err
    assert code == 2
    assert len(error.splitlines()) <= 3
    assert f"error: '{folder}" in error
    assert f"Make it writable; then classifier fit --ckpt_path {RUN} resumes it." in error
    assert {path: path.read_bytes() for path in checkpoints.iterdir()} == before
    assert resume() == 0
    same_bits()
