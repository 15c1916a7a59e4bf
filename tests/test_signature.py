"""The user's key: where it lies, who may read it, and what a signature with it is good for.

Other users than the one of the tests need root, which alone can become them.
"""

import contextlib
import io
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_ddp import TWO_RANKS

import classifier
from classifier import runs
from classifier.__main__ import main
from classifier.checkpoint import signature
from classifier.checkpoint.read import read_with_origin
from classifier.module import ClassificationModule

SOURCES = Path(classifier.__file__).parents[1]
NOBODY = 12345  # a user whom no machine has
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

OWN = "from classifier.networks import MNISTNet\nclass Own(MNISTNet):\n    pass\n"
SIGN = """
import sys, time
from pathlib import Path
from classifier.checkpoint import signature
while not Path("go").exists():
    time.sleep(0.001)
print(signature.sign("run", "x"), signature.hindrance())
"""


@pytest.fixture
def home(own_folder, tmp_path_factory, monkeypatch):
    """An empty home, and nothing in the environment that names another place for a key."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("CLASSIFIER_KEY", "XDG_CONFIG_HOME", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def key(home):
    """Where the key of that home is to be."""
    return home / ".config" / "classifier" / "key"


@pytest.fixture
def own_config(write_config):
    """A config with a network of one's own, which lies beside it."""
    Path("own.py").write_text(OWN)
    network = {"class_path": "own.Own", "init_args": {"width": 4}}
    return write_config({"model.network": network, "trainer.max_epochs": 1})


@pytest.fixture
def shared_folder(trained):
    """A folder that all users see and write to. A training has imported all that one needs.

    For Python itself may lie in a folder that other users do not see.
    """
    folder = Path(tempfile.mkdtemp(prefix="classifier-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def as_user(user, group, action, folder, **environment):
    """Does something in a copy of this process that another user has; returns what it printed.

    The user knows nothing of our environment.
    """
    output = folder / f"output-{secrets.token_hex(4)}"
    with output.open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of pytest may be alive
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.setgroups([])
                os.setgid(group)
                os.setuid(user)
                os.umask(0o002)
                os.chdir(folder)
                os.environ.clear()
                os.environ.update({"PATH": os.defpath, **environment})
                sys.stdout = sys.stderr = io.TextIOWrapper(file, write_through=True)
                traced(action)
            os._exit(0)
    os.waitpid(child, 0)
    return output.read_text()


def traced(action):
    try:
        print(action(), flush=True)
    except BaseException:
        print(traceback.format_exc(), flush=True)


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def hindrance_with(path, monkeypatch):
    """Why the key in a file that the user names cannot be used, or made."""
    monkeypatch.setenv("CLASSIFIER_KEY", str(path))
    return signature.hindrance(make=True)


# ---- where the key is ----


def test_the_first_signature_makes_a_key_that_only_the_user_can_read(key):
    first = signature.sign("run", "x")

    assert signature.sign("run", "x") == first
    assert len(key.read_bytes()) == 32
    assert mode(key) == 0o600
    assert mode(key.parent) == 0o700
    assert names_in(key.parent) == ["key"]


def test_the_key_lies_in_the_configuration_folder_if_one_is_named(home, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "settings"))

    assert signature.sign("run", "x")

    assert (home / "settings/classifier/key").is_file()
    assert not (home / ".config").exists()


@pytest.mark.parametrize("named", ["", "settings"])
def test_a_configuration_folder_that_is_no_absolute_path_does_not_count(named, key, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", named)

    assert signature.sign("run", "x")

    assert key.is_file()
    assert names_in(Path()) == []


def test_a_file_that_the_user_names_is_made_with_its_folders(home, monkeypatch):
    monkeypatch.setenv("CLASSIFIER_KEY", "~/of/the/lab")

    assert signature.sign("run", "x")

    assert mode(home / "of/the/lab") == 0o600
    assert names_in(home) == ["of"]


def test_eight_processes_that_begin_at_once_make_one_key(key):
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    processes = [
        subprocess.Popen([sys.executable, "-c", SIGN], env=environment, stdout=subprocess.PIPE)
        for _ in range(8)
    ]
    Path("go").touch()

    told = {process.communicate()[0] for process in processes}

    assert told == {f"{signature.sign('run', 'x')} \n".encode()}
    assert names_in(key.parent) == ["key"]


def test_on_a_file_system_without_links_a_key_is_made_too(key, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)

    assert signature.sign("run", "x") == signature.sign("run", "x") is not None
    assert mode(key) == 0o600
    assert names_in(key.parent) == ["key"]


def test_a_key_that_another_process_is_writing_is_waited_for(key, monkeypatch):
    """As on file systems without links, where it is made in place."""
    key.parent.mkdir(parents=True)
    key.touch(mode=0o600)
    with ThreadPoolExecutor(1) as pool:
        signing = pool.submit(signature.sign, "run", "x")
        time.sleep(0.05)  # meanwhile it finds the file empty
        key.write_bytes(bytes(32))

        assert signing.result() == signature.sign("run", "x")


# ---- keys that are not used ----


@pytest.mark.parametrize("others", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_reach_is_not_used(others, key):
    before = signature.sign("run", "x")
    key.chmod(others)

    assert signature.sign("run", "x") is None
    assert signature.origin("run", "x", before) == "another key"
    assert signature.hindrance() == f"'{key}' can be read by others: chmod 600 '{key}'."


@pytest.mark.parametrize(("others", "is_used"), [(0o640, True), (0o660, True), (0o604, False)])
def test_a_group_may_share_the_key_that_is_named_but_not_all(others, is_used, home, monkeypatch):
    path = home / "lab"
    assert hindrance_with(path, monkeypatch) == ""
    path.chmod(others)

    assert bool(signature.sign("run", "x")) == is_used
    told = "" if is_used else f"'{path}' can be read by others: chmod o= '{path}'."
    assert signature.hindrance() == told


@as_root
def test_a_key_of_another_user_is_not_used_unless_it_is_named(key, monkeypatch):
    assert signature.sign("run", "x")
    os.chown(key, NOBODY, NOBODY)

    assert signature.sign("run", "x") is None
    assert signature.hindrance().startswith(f"'{key}' belongs to another user")
    assert hindrance_with(key, monkeypatch) == ""


def empty(path):
    path.touch(mode=0o600)
    os.utime(path, (0, 0))  # else somebody might be writing it


def short(path):
    path.write_bytes(bytes(31))
    path.chmod(0o600)
    os.utime(path, (0, 0))


def endless(path):
    path.write_bytes(bytes(5000))
    path.chmod(0o600)


def dangling(path):
    path.symlink_to("nowhere/at/all")


def below_a_file(path):
    path.parent.rmdir()
    path.parent.touch()


FAULTS = {
    "empty": (empty, "is not a key, which has 32 bytes"),
    "short": (short, "is not a key, which has 32 bytes"),
    "endless": (endless, "is not a key, which has 32 bytes"),
    "folder": (Path.mkdir, "is not a regular file"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "dangling link": (dangling, "is a link that leads nowhere"),
    "link to itself": (lambda path: path.symlink_to(path.name), "cannot be read"),
    "file as folder": (below_a_file, "cannot be read"),
}


@pytest.mark.parametrize("named", [False, True], ids=["default", "named"])
@pytest.mark.parametrize(("fault", "told"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_key_is_said_and_nothing_is_signed(fault, told, named, key, monkeypatch):
    if named:
        monkeypatch.setenv("CLASSIFIER_KEY", str(key))
    key.parent.mkdir(parents=True)
    fault(key)

    assert signature.sign("run", "x") is None
    assert told in signature.hindrance(make=True)
    assert f"'{key}'" in signature.hindrance(make=True)
    assert signature.origin("run", "x", "0" * 64) == "another key"


@pytest.mark.parametrize("place", ["key", "deep/key", "runs/tiny/version_0/key"])
def test_no_key_is_made_where_it_would_be_handed_on(place, home, monkeypatch, own_folder):
    """In the working folder, wherever it is seen from, and in the folder of a run."""
    Path("runs/tiny/version_0").mkdir(parents=True)
    Path("runs/tiny/version_0/run.json").write_text("{}")
    before = sorted(Path().rglob("*"))
    assert "handed on with the folder" in hindrance_with(own_folder / place, monkeypatch)
    Path("link").symlink_to(".")
    assert "handed on with the folder" in hindrance_with(own_folder / "link" / place, monkeypatch)
    Path("link").unlink()
    if place.startswith("runs"):
        monkeypatch.chdir(home)
        assert "handed on with the folder" in hindrance_with(own_folder / place, monkeypatch)

    assert sorted(own_folder.rglob("*")) == [own_folder / path for path in before]


def test_the_home_may_be_the_working_folder(key, home, monkeypatch):
    for folder in (home, home.parent):
        monkeypatch.chdir(folder)
        key.unlink(missing_ok=True)

        assert signature.sign("run", "x")


def test_a_key_in_the_working_folder_that_is_there_already_is_used(own_folder, home, monkeypatch):
    Path("key").write_bytes(bytes(32))
    Path("key").chmod(0o600)

    assert hindrance_with(own_folder / "key", monkeypatch) == ""


def test_a_key_is_named_from_the_root_on(monkeypatch):
    """Processes that are started in another folder would take another for it."""
    assert "needs the whole path" in hindrance_with("key", monkeypatch)


# ---- as other users ----


def told():
    """Whether something can be signed, and what hinders it."""
    return bool(signature.sign("run", "x")), signature.hindrance(make=True)


@as_root
@pytest.mark.parametrize("home", ["", "home", "/nowhere"])
def test_without_a_home_that_can_be_written_nothing_is_signed(home, shared_folder):
    (shared_folder / "home").mkdir(mode=0o755)  # of root
    environment = {"HOME": str(shared_folder / home)} if home else {}

    answer = as_user(NOBODY, NOBODY, told, shared_folder, **environment)

    why = "cannot be made: " if home else "this user has no home for a key; CLASSIFIER_KEY=FILE"
    assert answer.startswith("(False, ")
    assert why in answer


# ---- what a training says, and what a later one can do ----


def notes_in(text):
    """What was printed, but for what these tests are told where they run in a container."""
    return [line for line in text.splitlines() if "ends with this container" not in line]


def lines_of(capsys):
    return notes_in(capsys.readouterr().err)


def test_a_run_with_a_network_of_ones_own_goes_on_and_is_tested_without_a_flag(
    key, own_config, fit, capsys
):
    folder = fit("--config", own_config)

    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "2"]) == 0
    assert main(["test", "--ckpt_path", str(folder)]) == 0
    assert type(ClassificationModule.load_from_checkpoint(folder).network).__name__ == "Own"
    assert lines_of(capsys) == []
    assert key.is_file()


UNSIGNED = {
    "read by others": (lambda key: (signature.sign("run", ""), key.chmod(0o644)), "chmod 600"),
    "no folder": (below_a_file, "cannot be read: Not a directory"),
    "no key": (short, "is not a key"),
}


@pytest.mark.parametrize(("fault", "told"), UNSIGNED.values(), ids=UNSIGNED)
def test_a_training_that_cannot_be_signed_says_so_once_and_goes_on(
    fault, told, key, own_config, fit, capsys
):
    key.parent.mkdir(parents=True)
    fault(key)

    folder = fit("--config", own_config)

    (line,) = lines_of(capsys)
    assert line.startswith("note: the run cannot be signed, for ")
    assert told in line
    assert line.endswith(" Without it, test and resuming will want --trust own.")
    assert runs.read_record(folder)["signature"] is None
    assert read_with_origin(folder / "checkpoints/last.ckpt")[1] == "unsigned"
    assert main(["test", "--ckpt_path", str(folder)]) == 2
    assert "--trust own" in capsys.readouterr().err
    assert main(["test", "--ckpt_path", str(folder), "--trust", "own"]) == 0


@pytest.mark.parametrize("named", [False, True], ids=["default", "named"])
def test_a_training_that_needs_no_signature_says_nothing_unless_a_key_was_named(
    named, key, write_config, fit, capsys, monkeypatch
):
    below_a_file_there = key.parent.parent
    below_a_file_there.touch()
    if named:
        monkeypatch.setenv("CLASSIFIER_KEY", str(key))

    folder = fit("--config", write_config({"trainer.max_epochs": 1}))

    told = lines_of(capsys)
    assert len(told) == named
    assert all(line.startswith("note: the run cannot be signed, for ") for line in told)
    assert "--trust" not in "".join(told)
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "2"]) == 0


def test_a_key_in_a_container_is_told_of_before_it_is_lost(
    key, own_config, write_config, fit, capsys, monkeypatch
):
    """The variable stands in every notebook of Colab; the key is on the file system of all else."""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    device = Path("/").stat().st_dev
    if key.parents[2].stat().st_dev != device:
        pytest.skip("temporary files are on another disk than /, which may stay")

    fit("--config", own_config)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: the key that signs the run, '{key}', ends with this container")
    assert "CLASSIFIER_KEY=FILE" in line

    monkeypatch.setenv("CLASSIFIER_KEY", str(key))
    fit("--config", own_config)
    monkeypatch.delenv("CLASSIFIER_KEY")
    fit("--config", write_config({"trainer.max_epochs": 1}, "plain.yaml"))
    assert capsys.readouterr().err == ""


def test_the_key_stands_in_no_file_and_in_no_output(key, own_config, fit, capsys, monkeypatch):
    monkeypatch.setenv("CLASSIFIER_DEBUG", "1")
    folder = fit("--config", own_config)
    content = key.read_bytes()
    main(["test", "--ckpt_path", str(folder)])
    for name in ("config.yaml", "checkpoints/last.ckpt"):  # what fails with a traceback
        with (folder / name).open("ab") as file:
            file.write(b"\nx: [")
    with pytest.raises(ValueError, match=r"config\.yaml|damaged"):
        main(["fit", "--config", str(folder / "config.yaml")])
    with pytest.raises(ValueError, match=r"damaged") as failure:
        main(["test", "--ckpt_path", str(folder / "checkpoints/last.ckpt")])

    printed = "".join(capsys.readouterr()) + "".join(traceback.format_exception(failure.value))
    found = [path.read_bytes() for path in Path().rglob("*") if path.is_file()]
    assert len(found) > 5
    for text in (content, content.hex().encode(), repr(content).encode()):
        assert not [part for part in (*found, printed.encode()) if text in part]


# ---- several users, machines and processes ----


def train():
    """Trains with the network of one's own; returns the exit code."""
    return main(["fit", "--config", "tiny.yaml"])


def evaluate():
    return main(["test", "--ckpt_path", "runs/tiny/version_0"])


@pytest.fixture
def shared_project(shared_folder, own_config, monkeypatch):
    """A folder of a group with a config and a network of its own."""
    folder = shared_folder / "project"
    folder.mkdir()
    folder.chmod(0o777)
    for name in ("own.py", own_config):
        shutil.copy(name, folder)
        (folder / name).chmod(0o644)
    return folder


@as_root
def test_two_users_with_one_key_share_their_runs(shared_project):
    key = shared_project.parent / "key"
    lab = {"CLASSIFIER_KEY": str(key), "HOME": "/nowhere"}
    trained = as_user(NOBODY, NOBODY, train, shared_project, **lab)
    key.chmod(0o640)  # as the first user lets the group read it

    tested = as_user(NOBODY + 1, NOBODY, evaluate, shared_project, **lab)
    strange = as_user(NOBODY + 1, NOBODY + 1, evaluate, shared_project, **lab)

    assert trained.endswith("\n0\n"), trained
    assert tested.endswith("\n0\n"), tested
    assert strange.endswith("\n2\n"), strange
    assert "Here" in strange
    assert "Permission denied" in strange


@as_root
def test_two_users_with_keys_of_their_own_are_told_of_a_common_one(shared_project):
    homes = [shared_project.parent / name for name in "ab"]
    for number, home in enumerate(homes):
        home.mkdir()
        os.chown(home, NOBODY + number, NOBODY)
    trained = as_user(NOBODY, NOBODY, train, shared_project, HOME=str(homes[0]))

    tested = as_user(NOBODY + 1, NOBODY, evaluate, shared_project, HOME=str(homes[1]))

    assert trained.endswith("\n0\n"), trained
    assert tested.endswith("\n2\n"), tested
    assert "It is signed with a key that is not at hand." in tested
    assert "CLASSIFIER_KEY=FILE names one for both." in tested


CLASSIFIER = (sys.executable, str(Path(classifier.__file__).with_name("__main__.py")))


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*CLASSIFIER, *arguments], env=environment, **output)


@pytest.mark.slow
def test_two_machines_with_one_home_make_one_key(key, own_config):
    first, second = (start("fit", "--config", own_config) for _ in range(2))
    errors = [notes_in(process.communicate()[1]) for process in (first, second)]
    assert errors == [[], []]

    for number in range(2):
        tested = start("test", "--ckpt_path", f"runs/tiny/version_{number}")
        assert tested.communicate()[1] == ""
        assert tested.returncode == 0
    assert names_in(key.parent) == ["key"]


@pytest.mark.slow
def test_two_ranks_with_a_network_of_ones_own_go_on_without_a_flag(key, own_config):
    began = start("fit", "--config", own_config, *TWO_RANKS)
    assert notes_in(began.communicate()[1]) == []
    again = start("fit", "--ckpt_path", "runs/tiny/version_0", "--trainer.max_epochs", "2")

    assert notes_in(again.communicate()[1]) == []
    assert (began.returncode, again.returncode) == (0, 0)
    assert [row["epoch"] for row in runs.read_metrics(Path("runs/tiny/version_0"))] == ["0", "1"]
