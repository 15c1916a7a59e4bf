"""A search goes on where its values are the same, wherever it lies and however they are written."""

import os
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from PIL import Image
from searches import (
    COMMAND,
    WORKER,
    Search,
    check_whole,
    trial_folder,
    trials_of,
    write_files,
)

from classifier import runs
from classifier.__main__ import main
from classifier.errors import UserError
from classifier.search.resume import resumed
from classifier.search.settings import parse, save

SPACE = {"lr": {"low": 0.001, "high": 0.1, "log": True}, "width": [2, 4]}
FULL = "{low: 1e-3, high: 1.0e-1, log: true, step: null}"


def again(*arguments, folder="."):
    """The same command once more, in a process of its own, for it handles signals."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = [*COMMAND[:-2], *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


@pytest.fixture
def begun(own_folder):
    """Begins a search without any trial; returns its settings."""

    def begin(**changes):
        folder = write_files(**changes)
        folder.mkdir(exist_ok=True)
        settings = parse(["--config", "search.yaml"])
        save(settings)
        return settings

    return begin


# ---- the base config ----

OTHER_LAYOUT = """\
# The same with other comments, order, quotes, names of anchors, and an entry that nothing uses.
data: {"class_path": 'classifier.data.Digits', init_args: {batch_size: &images 64}}

hyperparameters: {note: "x", width: &breadth 4, 'lr': &rate 1e-2}   # the block moved
trainer:
  limit_train_batches: 0x4
  max_epochs: 2
model:
  optimizer: {init_args: {"lr": *rate}, class_path: torch.optim.Adam}
  network: {init_args: {width: *breadth}, class_path: classifier.networks.MNISTNet}
"""


@pytest.mark.parametrize(
    "text",
    [TINY + "# a comment\n", "\n\n" + TINY.replace("    ", "        "), OTHER_LAYOUT],
    ids=["comment", "indentation", "everything"],
)
def test_a_base_config_that_only_looks_different_goes_on_from_the_first_text(begun, text):
    begun()
    Path("tiny.yaml").write_text(text)

    settings = resumed(parse(["--config", "search.yaml"]))

    assert settings.base == Path("found/base.yaml").resolve()
    assert settings.base.read_text() == TINY


LR = "model.optimizer.init_args.lr"
BASES = {
    "value": ("&lr 0.01", "&lr 0.02", f"{LR} is 0.01 there, 0.02 here"),
    "not searched": ("_size 64", "_size 32", "data.init_args.batch_size is 64 there, 32 here"),
    "one batch or all": ("batches: 4", "batches: 4.0", "limit_train_batches is 4 there, 4.0 here"),
    "new setting": (
        "trainer:",
        "trainer:\n  precision: 64",
        "precision is left out there, 64 here",
    ),
    "setting gone": ("  limit_train_batches: 4\n", "", "limit_train_batches is 4 there, left out"),
    "name of a class": ("Adam", "SGD", "class_path is torch.optim.Adam there, torch.optim.SGD"),
    "other use": (
        "      lr: *lr\n",
        "      lr: *lr\n      weight_decay: *lr\n",
        "weight_decay is left out there, 0.01 here",
    ),
}


@pytest.mark.parametrize(("old", "new", "words"), BASES.values(), ids=BASES)
def test_another_value_of_the_base_config_is_refused_by_name(begun, capsys, old, new, words):
    begun()
    Path("tiny.yaml").write_text(TINY.replace(old, new))

    assert main(["search", "--config", "search.yaml"]) == 2

    told = capsys.readouterr().err
    assert told.startswith("error: 'found' holds a search of another base config: ")
    assert words in told
    assert told.endswith("Put that back, or begin a new search, --folder DIR.\n")


def test_a_name_that_no_longer_stands_for_the_same_places_is_another_base_config(begun, capsys):
    decay = "      lr: *lr\n      weight_decay: "
    begun(base=TINY.replace("      lr: *lr\n", f"{decay}*lr\n"))
    Path("tiny.yaml").write_text(TINY.replace("      lr: *lr\n", f"{decay}0.01\n"))

    assert main(["search", "--config", "search.yaml"]) == 2

    words = "with lr 0.001 model.optimizer.init_args.weight_decay is 0.001 there, 0.01 here"
    assert words in capsys.readouterr().err


def test_three_differences_are_listed_and_the_others_counted(begun, capsys):
    begun()
    other = TINY.replace("64", "32").replace("&lr 0.01", "&lr 1").replace("epochs 2", "epochs 3")
    Path("tiny.yaml").write_text(other.replace("&width 4", "&width 8").replace("Adam", "SGD"))

    assert main(["search", "--config", "search.yaml"]) == 2

    told = capsys.readouterr().err
    assert told.count(" here") == 3
    assert "; and 2 more." in told


def test_a_dry_run_may_be_repeated_with_another_comment_but_not_with_another_value(own_folder):
    write_files()
    dry_run = ["search", "--config", "search.yaml", "--dry_run", "2"]
    assert main(dry_run) == 0

    Path("tiny.yaml").write_text(f"# a comment\n{TINY}")
    assert main(dry_run) == 0
    Path("tiny.yaml").write_text(TINY.replace("64", "32"))
    assert main(dry_run) == 2

    assert Path("found/dry_run/0000.yaml").read_text() == TINY


# ---- the search file ----

EQUAL = {
    "other numbers": {
        "space": {"lr": yaml.safe_load(FULL.replace("1e-3", "0.001")), "width": [2, 4]}
    },
    "no step": {"space": {**SPACE, "lr": {**SPACE["lr"], "step": None}}},
    "order of names": {"space": {"width": [2, 4], "lr": SPACE["lr"]}},
    "order of choices": {"space": {**SPACE, "width": [4, 2]}},
    "classes of Optuna": {
        "space": {
            "lr": {"class_path": "FloatDistribution", "init_args": SPACE["lr"]},
            "width": {
                "class_path": "optuna.distributions.CategoricalDistribution",
                "init_args": {"choices": [2, 4]},
            },
        }
    },
    "sampler by name": {"sampler": "TPESampler"},
    "sampler in full": {
        "sampler": {"class_path": "optuna.samplers.TPESampler", "init_args": {"seed": 0}}
    },
    "default direction": {"direction": "maximize"},
    "no storage": {"storage": None},
    "name of the folder": {"name": "found"},
    "free settings": {"n_trials": 9, "workers": 1, "max_seconds": 60, "heartbeat": 5},
    "engine": {"engine": "slurm", "engine_options": {"partition": "gpu"}},
}


@pytest.mark.parametrize("changes", EQUAL.values(), ids=EQUAL)
def test_a_search_that_is_only_written_otherwise_goes_on(begun, changes):
    held = begun()
    write_files(**changes)

    settings = resumed(parse(["--config", "search.yaml"]))

    assert settings.space == held.space  # as the folder has it, in its order


OTHER = {
    "bound": (
        {"space": {**SPACE, "lr": {**SPACE["lr"], "high": 0.2}}},
        "space.lr.high is 0.1 there",
    ),
    "log": ({"space": {**SPACE, "lr": {"low": 0.001, "high": 0.1}}}, "space.lr.log is true there"),
    "choice": ({"space": {**SPACE, "width": [2, 4, 8]}}, "space.width is [2, 4] there, [2, 4, 8]"),
    "fraction": ({"space": {**SPACE, "width": [2.0, 4.0]}}, "[2, 4] there, [2.0, 4.0] here"),
    "range": ({"space": {**SPACE, "width": {"low": 2, "high": 4}}}, "space.width is [2, 4] there"),
    "name": ({"space": {"lr": SPACE["lr"]}}, "space.width is [2, 4] there, left out here"),
    "seeds": ({"space": {**SPACE, "seed_everything": [0, 1]}}, "seed_everything is left out there"),
    "monitor": ({"monitor": "val_loss"}, "monitor is val_accuracy there, val_loss here"),
    "sampler": ({"sampler": "RandomSampler"}, "sampler.class_path is optuna.samplers.TPESampler"),
    "seed": (
        {"sampler": {"class_path": "TPESampler", "init_args": {"seed": 1}}},
        "sampler.init_args.seed is 0 there, 1 here",
    ),
    "pruner": ({"pruner": "MedianPruner"}, "pruner is null there, {class_path: optuna.pruners"),
    "study": ({"name": "other"}, "name is found there, other here"),
    "database": (
        {"storage": "postgresql://me:secret@host/name"},
        "storage is null there, 'postgresql://host/name' here",
    ),
}


@pytest.mark.parametrize(("changes", "words"), OTHER.values(), ids=OTHER)
def test_another_search_is_refused_by_what_is_different(begun, capsys, changes, words):
    begun()
    write_files(**changes)

    assert main(["search", "--config", "search.yaml"]) == 2

    told = capsys.readouterr().err
    assert told.startswith("error: 'found' holds another search: ")
    assert words in told


GRID = {"sampler": "grid", "n_trials": None}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"width": [2, 4], "lr": [0.1, 0.2]}, "the order of the space is [lr, width] there"),
        ({"lr": [0.2, 0.1], "width": [2, 4]}, "space.lr is [0.1, 0.2] there, [0.2, 0.1] here"),
    ],
    ids=["names", "choices"],
)
def test_the_order_of_a_grid_counts_for_it_says_which_trials_come_first(begun, space, words):
    begun(**GRID, space={"lr": [0.1, 0.2], "width": [2, 4]})
    write_files(**GRID, space=space)

    with pytest.raises(UserError) as error:
        resumed(parse(["--config", "search.yaml"]))

    assert words in str(error.value)


def test_a_pruner_that_is_the_default_may_be_written_or_left_out(begun):
    default = {"class_path": "MedianPruner", "init_args": {"n_startup_trials": 5}}
    begun(pruner=default)
    text = "".join(
        line
        for line in Path("search.yaml").read_text().splitlines(keepends=True)
        if not line.startswith(("pruner", "  class_path: Median", "  init_args", "    n_startup"))
    )
    Path("search.yaml").write_text(text)

    assert "pruner" not in text
    assert resumed(parse(["--config", "search.yaml"])).n_trials == 4


def test_the_same_database_may_be_asked_by_another_user_with_another_password(begun, monkeypatch):
    monkeypatch.setenv("SEARCH_DATABASE", "postgresql://you:new@host/name")
    begun(storage="postgresql://me:old@host/name")
    write_files(storage="$SEARCH_DATABASE")

    assert resumed(parse(["--config", "search.yaml"])).storage == "$SEARCH_DATABASE"


# ---- the folder ----


@pytest.mark.slow
def test_a_search_goes_on_wherever_it_lies_and_whoever_calls_it(copied):
    shutil.move(copied, "a folder, moved")
    Path("link").symlink_to("a folder, moved")
    Path("elsewhere").mkdir()
    comment = "# another comment\n"
    Path("elsewhere/copy.yaml").write_text(comment + Path("tiny.yaml").read_text())

    told = [
        again("--config", "search.yaml", "--folder", "a folder, moved", "--n_trials", "5"),
        again(
            *("--config", str(Path("search.yaml").resolve()), "--base", "copy.yaml"),
            *("--folder", "../link", "--n_trials", "6"),
            folder="elsewhere",
        ),
        again("--config", "link/search.yaml"),
    ]

    assert [one.returncode for one in told] == [0, 0, 0], [one.stderr for one in told]
    assert "6 of 6 trials done" in told[2].stdout
    check_whole(Path("a folder, moved"), 6)
    assert comment not in (trial_folder(Path("link"), 5) / "trial.yaml").read_text()


@pytest.mark.parametrize("action", ["status", pytest.param("worker", marks=pytest.mark.slow)])
def test_a_search_that_was_moved_is_looked_at_under_its_new_name(copied, action):
    shutil.move(copied, "moved")

    told = again(action, "moved")

    assert told.returncode == 0, told.stderr


def test_a_name_that_was_given_to_a_search_that_was_moved_has_to_be_its_own(copied, capsys):
    shutil.move(copied, "moved")
    command = ["search", "--config", "search.yaml", "--folder", "moved"]

    assert main([*command, "--name", "moved"]) == 2
    assert "'moved' holds another search: name is found there" in capsys.readouterr().err
    assert parse([*command[1:], "--name", "found"]).name == parse(command[1:]).name == "found"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")
def test_a_trial_that_was_killed_goes_on_in_the_folder_that_was_moved(own_folder):
    longer = TINY.replace("&epochs 2", "&epochs 30")
    write_files(longer, n_trials=2, workers=1)
    with Search() as search:
        search.wait_for(lambda: search.running(0, 3))
    shutil.move("found", "moved")

    with Search(*WORKER[:-1], "moved") as search:
        search.folder = Path("moved").resolve()
        assert search.end() == 0, Path("output.txt").read_text()

    check_whole(Path("moved"), 2)
    assert "resumed in epoch" in Path("moved/trials/0000/output.log").read_text()
    assert not Path("found").exists()


@pytest.mark.slow
def test_a_search_that_goes_on_elsewhere_finds_the_data_where_it_was_begun(own_folder):
    for kind in "ab":
        Path("photos", kind).mkdir(parents=True)
        for shade in range(8):
            Image.new("RGB", (8, 8), (shade, 0, 0)).save(Path("photos", kind, f"{shade}.png"))
    data = "  class_path: classifier.data.Digits\n  init_args:\n"
    photos = "  class_path: classifier.data.ImageFolder\n  init_args:\n    root: photos\n"
    write_files(TINY.replace(data, f"{photos}    image_size: 8\n"), n_trials=2, workers=1)
    Path("away").mkdir()

    told = [
        again("--config", "search.yaml", "--n_trials", "1"),
        again("--config", "../search.yaml", "--folder", "../found", folder="away"),
    ]

    assert [one.returncode for one in told] == [0, 0], [one.stdout for one in told]
    check_whole(Path("found"), 2)


# ---- several validations in an epoch ----


@pytest.mark.slow
def test_the_best_of_all_validations_counts_once_an_epoch(own_folder):
    base = TINY.replace("trainer:\n", "trainer:\n  val_check_interval: 0.5\n")
    folder = write_files(base, n_trials=2, workers=1)

    told = again("--config", "search.yaml")

    assert told.returncode == 0, told.stderr
    check_whole(folder, 2)
    assert told.stdout.count("  2 epochs, ") == 2
    for trial in trials_of(folder):
        own = trial_folder(folder, trial.number)
        assert list(trial.intermediate_values) == [1, 2]
        assert trial.value == runs.best_value(runs.read_metrics(own), "val_accuracy", "maximize")


QUIET = """
from classifier.module import ClassificationModule


class Quiet(ClassificationModule):
    def training_step(self, batch, batch_idx):
        images, labels = batch
        return self.loss(self(images), labels)
"""


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1.0, 0.5], ids=["one", "two"])
def test_the_epochs_of_a_module_that_logs_nothing_in_training_are_counted(write_module, interval):
    write_module(QUIET)
    trainer = TINY.replace("trainer:\n", f"trainer:\n  val_check_interval: {interval}\n")
    before, own, rest = trainer.partition("model:\n")
    settings, data, after = rest.partition("data:\n")
    module = f"  class_path: own.Quiet\n  init_args:\n{textwrap.indent(settings, '  ')}"
    folder = write_files(f"{before}{own}{module}{data}{after}", n_trials=2, workers=1)

    told = again("--config", "search.yaml")
    refitted = again("refit", "found", "--top_k", "1", "--seeds", "2")

    assert (told.returncode, refitted.returncode) == (0, 0), told.stderr + refitted.stderr
    assert told.stdout.count("  2 epochs, ") == 2
    assert refitted.stdout.count("  2 epochs, ") == 2
    assert len(runs.read_metrics(trial_folder(folder, 0))) == 2 / interval
