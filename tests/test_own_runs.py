"""One's own runs go on and are evaluated without a flag, wherever one stands; a stranger's do not.

Each command forgets the modules that the one before it imported, as a new process would.
"""

import contextlib
import importlib
import os
import py_compile
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import storms
import torch
from conftest import TINY
from optuna.trial import TrialState
from PIL import Image
from searches import Search, check_whole, trial_folder, trials_of, write_files
from torch.optim.optimizer import register_optimizer_step_post_hook

from classifier import runs
from classifier.__main__ import main
from classifier.checkpoint import signature
from classifier.checkpoint.modules import OwnModules
from classifier.module import ClassificationModule

MODULES = ("own", "beside", "later", "mine")
LIGHTNING = "pytorch_lightning.callbacks"
# Two epochs of six steps.
SMALL = {"trainer.limit_train_batches": 6, "data.init_args.batch_size": 16}
# What a config names, with a module that is imported at the top and one within functions.
OWN = """
{top}
import torch
from torch import nn
from pytorch_lightning.callbacks import Callback
from classifier.data import Digits


class Counts(Callback):
    seen = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        {inside}
        self.seen += one(len(batch[1]))

    def state_dict(self):
        return dict(seen=self.seen)

    def load_state_dict(self, state):
        self.seen = state["seen"]


class Net(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.layer = nn.Linear(64, num_classes)

    def forward(self, images):
        {inside}
        return one(self.layer(images.flatten(1)) * beside.SCALE)


class OwnAdam(torch.optim.Adam):
    pass


class Loss(nn.CrossEntropyLoss):
    def forward(self, found, wanted):
        {inside}
        return one(super().forward(found, wanted))


class Noise(nn.Module):
    def forward(self, images):
        {inside}
        return one(images ^ torch.randint_like(images, 0, 9))


class Numbers(Digits):
    def load(self, train):
        {inside}
        return one(super().load(train))
"""
LATER = "def one(value):\n    return value\n"
IMPORTS = {
    "module": ("import beside", "from later import one"),
    "package": ("from . import beside", "from mine.later import one"),
}


def write_own(layout="module"):
    """Writes what is the user's own into the working folder; returns where its classes are."""
    top, inside = IMPORTS[layout]
    folder = Path("mine" if layout == "package" else ".")
    folder.mkdir(exist_ok=True)
    (folder / "beside.py").write_text("SCALE = 0.5\n")
    (folder / "later.py").write_text(LATER)
    text = OWN.format(top=top, inside=inside)
    if layout == "module":
        Path("own.py").write_text(text)
        return "own"
    (folder / "nets.py").write_text(text)
    (folder / "__init__.py").write_text("from .nets import *\n")
    return "mine.nets"


def parts(place):
    """What may be one's own, by its name, as changes of a config."""
    named = {
        "callback": ("trainer.callbacks", [{"class_path": f"{place}.Counts"}]),
        "network": ("model.network", {"class_path": f"{place}.Net"}),
        "optimizer": ("model.optimizer.class_path", f"{place}.OwnAdam"),
        "loss": ("model.loss", {"class_path": f"{place}.Loss"}),
        "transform": ("data.init_args.augment", [{"class_path": f"{place}.Noise"}]),
        "data": ("data.class_path", f"{place}.Numbers"),
    }
    return {name: {key: value} for name, (key, value) in named.items()}


def everything(place):
    return {key: value for part in parts(place).values() for key, value in part.items()}


CALLBACKS = {
    "EarlyStopping": {"monitor": "val_loss", "patience": 5},
    "LearningRateMonitor": {"logging_interval": "step"},
    "Timer": {"duration": "00:01:00:00"},
    "ModelCheckpoint": {"dirpath": "kept", "every_n_train_steps": 2},
    "EMAWeightAveraging": {"decay": 0.9},
    "GradientAccumulationScheduler": {"scheduling": {0: 2}},
}
PARTS = parts("own") | {
    name: {"trainer.callbacks": [{"class_path": f"{LIGHTNING}.{name}", "init_args": settings}]}
    for name, settings in CALLBACKS.items()
}


@pytest.fixture
def command(own_folder):
    """Runs a command as a new process would: nothing of the user's is imported yet."""

    def run(*arguments):
        forget()
        try:
            return main([str(argument) for argument in arguments])
        finally:
            forget()

    return run


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] in MODULES]:
        for value in vars(sys.modules.pop(name)).values():
            if isinstance(value, type) and value.__module__ == name:
                # jsonargparse keeps it, and would import the packages in this to list it.
                value.__module__ = name.replace(".", "_")
    sys.meta_path[:] = [found for found in sys.meta_path if not isinstance(found, OwnModules)]
    importlib.invalidate_caches()  # a new process has none


@contextlib.contextmanager
def at_step(number, act):
    """Within, something happens after so many steps of an optimizer."""
    count = 0

    def hook(*_):
        nonlocal count
        count += 1
        if count == number:
            act()

    handle = register_optimizer_step_post_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture
def begin(command, write_config):
    """Trains, in the working folder, up to a step at which a signal comes; returns the folder."""

    def run(changes, step=None):
        config = write_config({**SMALL, **changes})
        before = set(Path("runs").glob("*/*"))
        with at_step(step, lambda: signal.raise_signal(signal.SIGTERM)):
            assert command("fit", "--config", config) == (143 if step else 0)
        (folder,) = set(Path("runs").glob("*/*")) - before
        return folder.resolve()

    return run


@contextlib.contextmanager
def another_key():
    """Within, the user has another key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signature.VARIABLE, f"{os.environ[signature.VARIABLE]}.another")
        yield


@contextlib.contextmanager
def of_a_stranger(how, folder):
    """Within, a run was signed with a key that is not at hand, or not at all."""
    if how == "another key":
        with another_key():
            yield
        return
    for path in (folder / "checkpoints").glob("*.ckpt"):
        torch.save(torch.load(path, weights_only=True), path)
    record = runs.read_record(folder)
    del record["signature"]
    runs.write_record(folder, record)
    yield


def move(folder, monkeypatch):
    """Moves the working folder, and goes there."""
    moved = folder.with_name(f"{folder.name}_moved")
    monkeypatch.chdir(folder.parent)
    folder.rename(moved)
    folder.mkdir()  # so that pytest finds it
    monkeypatch.chdir(moved)
    return moved


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def dies_at_once(command, write_config, changes):
    """Trains up to the first step, at which it fails; returns the folder."""

    def fail():
        raise RuntimeError("a defect")

    with at_step(1, fail):
        assert command("fit", "--config", write_config({**SMALL, **changes})) == 1
    (folder,) = Path("runs").resolve().glob("*/*")
    assert not (folder / "checkpoints").exists()
    return folder


def elsewhere(monkeypatch):
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")


@pytest.fixture
def same_bits(begin, own_folder, monkeypatch):
    """Trains calmly in a folder beside, and checks that the run here ended in the same way."""

    def check(changes):
        calm = own_folder.with_name(f"{own_folder.name}_calm")
        shutil.copytree(own_folder, calm, ignore=shutil.ignore_patterns("runs"))
        with monkeypatch.context() as patch:
            patch.chdir(calm)
            begin(changes)
        assert storms.differences(storms.facts(calm), storms.facts(own_folder)) == []

    return check


@pytest.fixture
def refused(command, capsys):
    """Runs a command that is refused, and returns its message."""

    def run(*arguments):
        capsys.readouterr()
        assert command(*arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert [name for name in MODULES if name in sys.modules] == []
        return told

    return run


# ---- going on ----


@pytest.mark.parametrize(("layout", "place"), [("module", "elsewhere"), ("package", "here")])
def test_a_stopped_run_of_ones_own_goes_on_to_the_same_bits(
    layout, place, command, begin, same_bits, monkeypatch
):
    changes = everything(write_own(layout))
    folder = begin(changes, step=9)

    with monkeypatch.context() as patch:
        if place == "elsewhere":
            elsewhere(patch)
        assert command("fit", "--ckpt_path", folder) == 0

    same_bits(changes)


@pytest.mark.parametrize(
    "name",
    [
        "network",
        "ModelCheckpoint",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *(part for part in parts("own") if part != "network"),
                *("EarlyStopping", "EMAWeightAveraging"),
                *("GradientAccumulationScheduler", "LearningRateMonitor", "Timer"),
            )
        ),
    ],
)
def test_each_part_alone_goes_on_to_the_same_bits(name, command, begin, same_bits):
    write_own()
    folder = begin(PARTS[name], step=4)

    assert command("fit", "--ckpt_path", folder) == 0

    same_bits(PARTS[name])


def test_an_average_of_weights_that_is_not_exact_goes_on_as_well(command, begin, capsys):
    settings = {"swa_lrs": 0.01, "swa_epoch_start": 1}
    average = {"class_path": f"{LIGHTNING}.StochasticWeightAveraging", "init_args": settings}
    folder = begin({"trainer.callbacks": [average]}, step=4)

    assert command("fit", "--ckpt_path", folder) == 0

    assert runs.read_record(folder)["state"] == "finished"


@pytest.mark.parametrize("layout", IMPORTS)
def test_a_run_that_died_before_its_first_checkpoint_begins_again(
    layout, command, write_config, same_bits, refused, monkeypatch
):
    changes = everything(write_own(layout))
    folder = dies_at_once(command, write_config, changes)

    with monkeypatch.context() as patch:
        elsewhere(patch)
        with another_key():
            assert "--trust" in refused("fit", "--ckpt_path", folder)
        assert command("fit", "--ckpt_path", folder) == 0

    same_bits(changes)


# ---- evaluating ----


def evaluate(command, folder, *options):
    """Gives a run to all that evaluates one; returns the exit codes."""
    Image.new("L", (8, 8)).save("image.png")
    codes = [
        command(verb, "--ckpt_path", folder, *options, *more)
        for verb, more in {
            "validate": [],
            "test": [],
            "predict": ["--images", "image.png"],
        }.items()
    ]
    assert Path("predictions.csv").read_text().count("\n") == 2
    return codes


@pytest.mark.parametrize(("layout", "place"), [("module", "elsewhere"), ("package", "here")])
def test_a_run_of_ones_own_is_evaluated_and_exported(
    layout, place, command, begin, own_folder, monkeypatch
):
    folder = begin(everything(write_own(layout)))
    if place == "elsewhere":
        elsewhere(monkeypatch)

    assert evaluate(command, folder) == [0, 0, 0]
    forget()
    module = ClassificationModule.load_from_checkpoint(folder)
    torch.save(module.state_dict(), "weights.pt")

    saved = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    exported = torch.load("weights.pt", weights_only=True)
    assert storms.digest(exported) == storms.digest(saved["state_dict"])
    assert module(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


# ---- what became of the modules ----


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_ones_own_network_may_be_edited_at_home(place, command, begin, monkeypatch, capsys):
    write_own()
    home = Path.cwd()
    folder = begin(PARTS["network"], step=4)
    edit(Path("own.py"), "return one(self.layer", "print('edited'); return one(self.layer")
    if place == "elsewhere":
        elsewhere(monkeypatch)

    for verb in ("test", "fit"):
        capsys.readouterr()
        assert command(verb, "--ckpt_path", folder) == 0
        printed = capsys.readouterr()
        assert "edited" in printed.out
        assert f"'{home / 'own.py'}' was edited since the run was trained with it." in printed.err


def test_a_copy_of_a_project_is_told_from_the_one_that_is_used(
    command, begin, own_folder, monkeypatch, capsys
):
    write_own()
    folder = begin(PARTS["network"]).relative_to(own_folder)
    copy = Path(shutil.copytree(own_folder, own_folder.parent / f"{own_folder.name}_copy"))
    monkeypatch.chdir(copy)
    edit(Path("own.py"), "return one(self.layer", "print('edited'); return one(self.layer")
    capsys.readouterr()

    assert command("test", "--ckpt_path", folder) == 0

    printed = capsys.readouterr()
    assert "edited" not in printed.out
    told = f"'{own_folder / 'own.py'}' is used, as when it was trained; '{copy / 'own.py'}' is"
    assert told in printed.err
    assert command("test", "--ckpt_path", folder, "--trust", "own") == 0
    assert "edited" in capsys.readouterr().out


def test_two_runs_with_modules_of_one_name_are_not_mixed_up(begin, own_folder, monkeypatch):
    """In one process, as in a notebook, where a module is imported once."""
    write_own()
    first = begin(PARTS["network"])
    other = own_folder.parent / f"{own_folder.name}_other"
    other.mkdir()
    monkeypatch.chdir(other)
    write_own()
    edit(Path("later.py"), "return value", "return 2 * value")
    second = begin(PARTS["network"])

    assert ClassificationModule.load_from_checkpoint(first)
    with pytest.raises(ValueError, match=r"of before is not the one .* restart Python"):
        ClassificationModule.load_from_checkpoint(second)
    forget()
    assert ClassificationModule.load_from_checkpoint(second)
    forget()


SCRIPT = """
import sys

from torch import nn

from classifier.__main__ import main


class Net(nn.Sequential):
    def __init__(self, num_classes: int):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_class_of_a_script_is_told_to_go_into_a_file_of_its_own(write_config, own_folder, capsys):
    Path("train.py").write_text(SCRIPT)
    config = write_config({**SMALL, **parts("__main__")["network"]})
    code, told = in_process("train.py", "fit", "--config", config)
    assert code == 0, told

    capsys.readouterr()

    assert main(["test", "--ckpt_path", "runs/tiny/version_0"]) == 2

    told = capsys.readouterr().err
    assert f"'__main__' was a script in '{own_folder}', which nothing else can import: " in told
    assert "put the class into a file of its own. --trust" in told


@pytest.mark.parametrize("layout", IMPORTS)
def test_the_folder_of_a_project_may_move(layout, command, begin, own_folder, monkeypatch):
    folder = begin(everything(write_own(layout)), step=9)
    moved = move(own_folder, monkeypatch)

    assert evaluate(command, moved / folder.relative_to(own_folder)) == [0, 0, 0]
    assert command("fit", "--ckpt_path", moved / folder.relative_to(own_folder)) == 0
    assert ClassificationModule.load_from_checkpoint(moved / folder.relative_to(own_folder))


@pytest.mark.parametrize("name", ["own", "beside", "later"])
def test_a_project_that_moved_and_was_edited_wants_the_flag(
    name, command, begin, refused, own_folder, monkeypatch
):
    write_own()
    folder = begin(PARTS["network"], step=4).relative_to(own_folder)
    moved = move(own_folder, monkeypatch)
    Path(f"{name}.py").write_text(f"{Path(f'{name}.py').read_text()}# edited\n")

    for verb in ("fit", "test"):
        told = refused(verb, "--ckpt_path", folder)
        assert f"'{moved / name}.py' is not the one that it was trained with" in told
        assert "--trust own" in told
    with pytest.raises(ValueError, match=rf"{name}\.py' is not the one"):
        ClassificationModule.load_from_checkpoint(folder)

    assert command("fit", "--ckpt_path", folder, "--trust", "own") == 0
    assert command("test", "--ckpt_path", folder) == 0


def test_a_package_that_moved_and_was_edited_wants_the_flag(
    command, begin, refused, own_folder, monkeypatch
):
    folder = begin(everything(write_own("package"))).relative_to(own_folder)
    moved = move(own_folder, monkeypatch)
    Path("mine/later.py").write_text(f"{LATER}print('edited')\n")

    told = refused("test", "--ckpt_path", folder)

    assert f"'{moved / 'mine'}' is not the one that it was trained with" in told
    assert command("test", "--ckpt_path", folder, "--trust", "mine") == 0


def test_a_module_that_is_gone_is_named(begin, refused, own_folder):
    write_own()
    folder = begin(PARTS["network"])
    Path("own.py").unlink()

    told = refused("test", "--ckpt_path", folder)

    assert f"'own' is not in '{own_folder}' any more" in told


@pytest.mark.parametrize("name", ["own", "beside", "later"])
def test_a_signed_run_runs_no_code_that_is_planted_beside_it(
    name, begin, refused, own_folder, monkeypatch
):
    """A stranger who was given a run and its modules hands them back with one of them changed."""
    write_own()
    folder = begin(PARTS["network"], step=4).relative_to(own_folder)
    theirs = move(own_folder, monkeypatch)
    path = Path(f"{name}.py")
    path.write_text(f"open({str(own_folder / 'ran')!r}, 'w')\n{path.read_text()}")

    for verb in ("fit", "test"):
        refused(verb, "--ckpt_path", folder)
    elsewhere(monkeypatch)
    for verb in ("fit", "test"):
        assert "not in" in refused(verb, "--ckpt_path", theirs / folder)
    with pytest.raises(ValueError, match=r"is not in .* any more"):
        ClassificationModule.load_from_checkpoint(theirs / folder)

    assert not (own_folder / "ran").exists()


def test_what_was_compiled_beside_the_same_source_is_not_run(
    command, begin, own_folder, monkeypatch
):
    write_own()
    folder = begin(PARTS["network"]).relative_to(own_folder)
    move(own_folder, monkeypatch)
    shutil.rmtree("__pycache__", ignore_errors=True)
    for name in ("own", "beside", "later"):
        Path("planted.py").write_text(f"open('ran', 'w')\n{Path(f'{name}.py').read_text()}")
        target = importlib.util.cache_from_source(f"{name}.py")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile("planted.py", target, doraise=True, invalidation_mode=mode)

    assert command("test", "--ckpt_path", folder) == 0

    assert not Path("ran").exists()


# ---- strangers ----


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, "another key") for name in [*parts("own"), "ModelCheckpoint", "EarlyStopping"]),
        *((name, "unsigned") for name in ("network", "ModelCheckpoint", "EMAWeightAveraging")),
    ],
)
def test_a_strangers_run_is_refused_for_classes_of_its_own(
    name, how, command, begin, refused, own_folder
):
    write_own()
    folder = begin(PARTS[name], step=4)
    harmless = name in CALLBACKS and name != "ModelCheckpoint"
    trust = f"--trust {'own' if name in parts('own') else 'pytorch_lightning.callbacks'}"
    with of_a_stranger(how, folder):
        if harmless:
            assert command("fit", "--ckpt_path", folder) == 0
            return
        told = refused("fit", "--ckpt_path", folder)
        assert f"checkpoint '{folder / 'checkpoints' / 'last.ckpt'}' names '" in told
        assert trust in told
        assert ("CLASSIFIER_KEY=FILE" in told) == (how == "another key")

        assert command("fit", "--ckpt_path", folder, *trust.split()) == 0

        assert runs.read_record(folder)["epochs"] == 2
        assert command("test", "--ckpt_path", folder) == 0  # it is one's own now


def test_a_strangers_run_is_evaluated_with_the_flag_alone(command, begin, refused):
    write_own()
    folder = begin(everything("own"))

    with another_key():
        for verb in ("validate", "test", "predict"):
            images = ["--images", "."] if verb == "predict" else []
            assert "--trust own" in refused(verb, "--ckpt_path", folder, *images)
        assert evaluate(command, folder, "--trust", "own") == [0, 0, 0]
        with pytest.raises(ValueError, match=r"'own\.\w+'.*trust="):
            ClassificationModule.load_from_checkpoint(folder)


def test_the_config_of_a_strangers_run_is_trained_with_the_flag_alone(command, begin, refused):
    write_own()
    folder = begin(everything("own"))

    assert command("fit", "--config", folder) == 0
    with another_key():
        assert "--trust own" in refused("fit", "--config", folder)
        best = folder / "checkpoints" / "best.ckpt"
        assert "--trust own" in refused("fit", "--config", best)
        assert command("fit", "--config", best, "--trust", "own") == 0


# ---- processes ----


def in_process(*arguments):
    """Runs a command in a process of its own; returns exit code and what it printed."""
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


CLASSIFIER = ("-m", "classifier")


@pytest.mark.slow
@pytest.mark.parametrize("layout", IMPORTS)
@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_bits(
    layout, callback, write_config, own_folder
):
    """6 to 19 s each: every training but the last is killed with SIGKILL."""
    changes = everything(write_own(layout))
    changes["trainer.callbacks"] += PARTS[callback]["trainer.callbacks"]
    config = write_config({**SMALL, **changes, "trainer.max_epochs": 6})
    for name in ("calm", "storm"):
        shutil.copytree(own_folder, name, ignore=shutil.ignore_patterns("calm", "storm"))
    storms.warm_up()
    seconds = storms.calm(own_folder / "calm", Path(config))

    chance = random.Random(f"{layout} {callback}")
    storm = storms.disturb(own_folder / "storm", Path(config), signal.SIGKILL, seconds, chance)

    assert storm.signals
    facts = [storms.facts(own_folder / name) for name in ("calm", "storm")]
    assert storms.differences(*facts) == []


KILLS = """
import os
import signal
from pathlib import Path
from pytorch_lightning.callbacks import Callback


class Kills(Callback):
    def on_train_batch_end(self, *_):
        if not Path("spare").exists():
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_at_its_first_step_begins_again(command, write_config, own_folder):
    """3 s, and the imports of the first."""
    Path("own.py").write_text(KILLS)
    callbacks = {"trainer.callbacks": [{"class_path": "own.Kills"}]}
    storms.warm_up()
    (process,) = storms.fit_in(own_folder, ["--config", write_config({**SMALL, **callbacks})])
    process.join()
    assert process.exitcode == -signal.SIGKILL
    folder = storms.run_folder(own_folder)
    assert not (folder / "checkpoints").exists()
    Path("spare").touch()

    assert command("fit", "--ckpt_path", folder) == 0

    assert runs.read_record(folder)["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("layout", IMPORTS)
@pytest.mark.parametrize("what", [".", "checkpoints/best.ckpt"])
def test_a_run_of_ones_own_is_reproduced_from_anywhere(
    layout, what, begin, own_folder, monkeypatch
):
    """13 to 15 s each."""
    folder = begin(everything(write_own(layout)))
    elsewhere(monkeypatch)

    code, told = in_process(*CLASSIFIER, "reproduce", folder / what)

    assert code == 0, told
    assert told.splitlines()[-1] == "identical"


@pytest.mark.slow
def test_a_strangers_run_is_reproduced_with_the_flag_alone(begin):
    """24 s."""
    write_own()
    folder = begin(everything("own"))

    with another_key():
        code, told = in_process(*CLASSIFIER, "reproduce", folder)
        assert code == 2
        assert "--trust own" in told
        code, told = in_process(*CLASSIFIER, "reproduce", folder, "--trust", "own")
        assert code == 0, told
        assert told.splitlines()[-1] == "identical"


DARKER = """
from torch import nn


class Darker(nn.Module):
    def forward(self, image):
        from later import one
        return one(image // 2)
"""
SPAWNS = """
import multiprocessing
import sys

from classifier.__main__ import main

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("moved", [False, True], ids=["elsewhere", "moved"])
def test_workers_find_ones_own_transforms_however_they_are_started(
    method, moved, begin, own_folder, monkeypatch
):
    """10 to 25 s each."""
    beside = own_folder.with_name(f"{own_folder.name}_beside")
    for name in ("cat", "dog"):
        (beside / "photos" / name).mkdir(parents=True)
        for index in range(12):
            Image.new("L", (8, 8), 9 * index).save(beside / "photos" / name / f"{index}.png")
    (beside / "start.py").write_text(SPAWNS)
    Path("own.py").write_text(DARKER)
    Path("later.py").write_text(LATER)
    transforms = {f"{kind}_transform": [{"class_path": "own.Darker"}] for kind in ("train", "eval")}
    size = {"image_size": 8, "in_channels": 1, "batch_size": 4, "num_workers": 1}
    data = {"root": str(beside / "photos"), **size, **transforms}
    changes = {"data.class_path": "classifier.data.ImageFolder", "data.init_args": data}
    folder = begin(changes).relative_to(own_folder)
    if moved:
        folder = move(own_folder, monkeypatch) / folder
    else:
        folder = own_folder / folder
        elsewhere(monkeypatch)

    code, told = in_process(beside / "start.py", method, "test", "--ckpt_path", folder)

    assert code == 0, told
    assert "test_accuracy" in told


# ---- modules beside the config ----


@pytest.fixture
def project(own_folder, write_config):
    """A folder below the working one, with a config and the modules that it names."""
    write_own()
    write_config({**SMALL, **everything("own")}, "own.yaml")
    Path("project").mkdir()
    for name in ("own.py", "beside.py", "later.py", "own.yaml"):
        Path(name).rename(Path("project", name))
    return own_folder / "project"


def test_modules_beside_a_config_are_found_from_anywhere(project, command, monkeypatch):
    assert command("fit", "--config", "project/own.yaml") == 0
    run = Path("runs/own/version_0").resolve()
    elsewhere(monkeypatch)
    assert runs.read_record(run)["code_folders"]["own"] == str(project)
    for words in (
        ["test", "--ckpt_path", run],
        ["fit", "--ckpt_path", run, "--trainer.max_epochs", "3"],
        ["fit", "--config", run / "config.yaml", "--config", project / "own.yaml"],
    ):
        assert command(*words) == 0, words


def test_two_modules_of_one_name_are_refused_and_both_shown(project, refused):
    Path("own.py").write_text("raise RuntimeError\n")
    told = refused("fit", "--config", "project/own.yaml")
    here = project.parent
    assert f"'own' may be '{here / 'own.py'}' or '{project / 'own.py'}': rename one" in told
    assert not Path("runs").exists()


def test_a_folder_of_that_name_with_no_module_in_it_is_passed_over(project, command):
    Path("own").mkdir()
    Path("own", "photo.jpg").touch()
    assert command("fit", "--config", "project/own.yaml") == 0


def test_nothing_beside_the_config_of_a_run_is_imported(begin, refused, write_config, monkeypatch):
    folder = begin({})
    (folder / "own.py").write_text("raise RuntimeError\n")
    edit(folder / "config.yaml", "classifier.networks.MNISTNet", "own.Net")
    told = refused("fit", "--config", folder / "config.yaml")
    assert f"there is no 'own', neither installed nor in '{Path.cwd()}'" in told


def test_a_module_that_is_nowhere_is_looked_for_in_both_folders(project, refused):
    (project / "own.py").unlink()
    told = refused("fit", "--config", "project/own.yaml")
    assert f"neither installed nor in '{project.parent}' or '{project}'" in told


# ---- searches ----


def search_of_ones_own(**changes):
    """Writes the files of a search whose network and optimizer are the user's."""
    write_own()
    base = TINY.replace("classifier.networks.MNISTNet", "own.Net")
    base = base.replace("    init_args:\n      width: *width\n", "").replace(
        "  width: &width 4\n", ""
    )
    base = base.replace("torch.optim.Adam", "own.OwnAdam")
    return write_files(base, space={"lr": {"low": 0.001, "high": 0.1, "log": True}}, **changes)


@pytest.mark.slow
def test_the_trials_of_ones_own_search_are_ones_own(command, own_folder, monkeypatch):
    """36 s: two workers train four trials, one of which is trained anew."""
    folder = search_of_ones_own()
    with Search() as search:
        assert search.end() == 0, Path("output.txt").read_text()
    check_whole(folder, 4)
    trial = trial_folder(folder, 3)

    elsewhere(monkeypatch)
    for verb in ("test", "validate"):
        assert command(verb, "--ckpt_path", trial) == 0
    assert ClassificationModule.load_from_checkpoint(trial)
    with another_key():
        assert command("test", "--ckpt_path", trial) == 2
        assert command("test", "--ckpt_path", trial, "--trust", "own") == 2  # which is not here
    refit = ("search", "refit", folder, "--top_k", "1", "--seeds", "1", "--workers", "1")
    worker = ("search", "worker", folder)
    with another_key():
        for action in (refit, worker):
            code, told = in_process(*CLASSIFIER, *action)
            assert code == 2
            assert f"'{folder / 'search.yaml'}' names 'own.Net'" in told
            assert "--trust own" in told
    assert not (folder / "refit_1").exists()

    code, told = in_process(*CLASSIFIER, *refit)
    assert code == 0, told
    code, told = in_process(*CLASSIFIER, *worker)  # there is nothing left to do
    assert code == 0, told

    monkeypatch.chdir(own_folder)
    with another_key():
        code, told = in_process(*CLASSIFIER, *refit, "--seeds", "2", "--trust", "own")
    assert code == 0, told
    states = [trial.state for trial in trials_of(folder / "refit_2")]
    assert states == [TrialState.COMPLETE] * 2


OTHERS = "class Second(torch.optim.Adam):\n    pass\n\n\nclass OwnAdam(torch.optim.Adam)"


@pytest.mark.slow
def test_the_trials_of_a_search_find_the_modules_beside_its_base_config(own_folder, monkeypatch):
    """30 s: two trials with a choice between classes, a refit, and one of them reproduced."""
    Path("project").mkdir()
    monkeypatch.chdir("project")
    search_of_ones_own(n_trials=2, workers=1)
    edit(Path("own.py"), "class OwnAdam(torch.optim.Adam)", OTHERS)
    edit(Path("tiny.yaml"), "  lr: &lr", "  optimizer: &optimizer own.OwnAdam\n  lr: &lr")
    edit(Path("tiny.yaml"), "class_path: own.OwnAdam", "class_path: *optimizer")
    edit(Path("search.yaml"), "  lr:", "  optimizer: [own.OwnAdam, own.Second]\n  lr:")
    monkeypatch.chdir(own_folder)
    folder = own_folder / "found"
    code, told = in_process(*CLASSIFIER, "search", "--config", "project/search.yaml")
    assert code == 0, told
    check_whole(folder, 2)
    Path("project", "search.yaml").unlink()
    refit = ("search", "refit", folder, "--top_k", "1", "--seeds", "1", "--workers", "1")
    code, told = in_process(*CLASSIFIER, *refit)
    assert code == 0, told
    code, told = in_process(*CLASSIFIER, "reproduce", trial_folder(folder, 0))
    assert (code, "identical" in told) == (0, True), told


@pytest.mark.slow
def test_a_worker_with_another_key_takes_no_trial_of_which_it_may_import_nothing(own_folder):
    """19 s."""
    folder = search_of_ones_own(n_trials=2, workers=1, heartbeat=1)
    edit(Path("tiny.yaml"), "&epochs 2", "&epochs 60")
    with Search() as search:
        search.wait_for(lambda: search.running(0))  # then all are killed

    with another_key():
        code, told = in_process(*CLASSIFIER, "search", "worker", folder)

    assert code == 2
    assert "--trust own" in told
    assert [trial.state for trial in trials_of(folder)] == [TrialState.RUNNING]
    assert in_process(*CLASSIFIER, "search", "worker", folder)[0] == 0
    check_whole(folder, 2)
