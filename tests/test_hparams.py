"""TensorBoard's HParams tab over the trials of a search, asked as the browser asks."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from searches import trials_of

from classifier import runs
from classifier.__main__ import main
from classifier.cli.job import Job
from classifier.search.hparams import write_experiment
from classifier.search.process import Trial
from classifier.search.space import Space

pytestmark = pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")  # TensorBoard's

OWN_CODE = """
import signal

from pytorch_lightning.callbacks import Callback


class Stop(Callback):
    def __init__(self, number: int = 0) -> None:
        self.number = number

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 1:
            if not self.number:
                raise RuntimeError("the cable was pulled")
            signal.raise_signal(self.number)
"""
SPACE = {
    "lr": {"low": 1e-4, "high": 0.1, "log": True},
    "width": [4, 8],
    "augment": [True, False],
    "optimizer": ["SGD", "Adam", None],
    "momentum": {"low": 0.0, "high": 0.9},
    "seed_everything": [0, 1],
}
TRIALS = [
    {"lr": 0.01, "width": 4, "augment": True, "optimizer": "Adam", "seed_everything": 0},
    {"lr": 0.02, "width": 8, "augment": False, "optimizer": None, "seed_everything": 1},
    {"lr": 0.03, "width": 4, "augment": True, "optimizer": "SGD", "momentum": 0.5},
]
STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


@pytest.fixture
def train(write_config):
    """Trains a trial and returns its folder."""

    def run(number, values, *arguments, changes=None, code=0):
        folder = Path("searches/tiny/trials").resolve() / f"{number:04}"
        folder.mkdir(parents=True, exist_ok=True)
        config = shutil.move(write_config(changes), folder / "trial.yaml")
        given = ["--config", str(config), *arguments]
        name = f"{folder.parent.parent.name}_{folder.name}"
        job = Job(folder, name, None, "val_accuracy", "maximize", words=["own.Stop"])
        trial = Trial(given, job, values)
        assert main(["search", "trial", trial.to_json()]) == code
        return folder

    return run


class Board:
    """TensorBoard's server over a search folder."""

    def __init__(self, folder):
        from tensorboard.program import TensorBoard

        board = TensorBoard()
        board.configure(["tensorboard", "--logdir", folder, "--port", "0", "--load_fast", "false"])
        self.url = board.launch()

    def experiment(self):
        return self._ask("experiment", {})

    def rows(self, count, columns=()):
        """The session groups by name, once TensorBoard has read ``count`` of them."""
        request = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": STATUSES}
        for _ in range(100):
            answer = self._ask("session_groups", {**request, "colParams": list(columns)})
            if answer["totalSize"] >= count:
                return {group["name"]: group for group in answer["sessionGroups"]}
            time.sleep(0.1)
        raise AssertionError(f"{answer['totalSize']} rows, not {count}")

    def _ask(self, question, content):
        request = urllib.request.Request(
            f"{self.url}data/plugin/hparams/{question}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)


def as_the_browser_asks(column):
    """What the tab asks for before anything is filtered: every value of a column's domain."""
    name = {"hparam": column["name"]}
    if "domainDiscrete" in column:
        return {**name, "filterDiscrete": column["domainDiscrete"]}
    interval = column.get("domainInterval")
    return {**name, "filterInterval": interval} if interval else name


def status(group):
    (session,) = group["sessions"]
    return session["status"]


def test_every_trial_and_every_searched_name_is_shown_and_no_metric_but_the_best(train):
    folders = [train(number, values) for number, values in enumerate(TRIALS)]
    write_experiment(Path("searches/tiny"), Space(SPACE), "val_accuracy")

    board = Board("searches/tiny")

    rows = board.rows(3)
    experiment = board.experiment()
    assert {column["name"] for column in experiment["hparamInfos"]} == set(SPACE)
    assert [metric["name"]["tag"] for metric in experiment["metricInfos"]] == ["best/val_accuracy"]
    asked = board.rows(3, [as_the_browser_asks(column) for column in experiment["hparamInfos"]])
    assert list(rows) == list(asked) == ["tiny_0000", "tiny_0001", "tiny_0002"]
    for row, values, folder in zip(rows.values(), TRIALS, folders, strict=True):
        assert row["hparams"] == {n: "null" if v is None else v for n, v in values.items()}
        (metric,) = row["metricValues"]
        scores = [float(epoch["val_accuracy"]) for epoch in runs.read_metrics(folder)]
        assert metric["value"] == pytest.approx(max(scores))
        assert status(row) == "STATUS_SUCCESS"


def test_a_search_is_compared_out_of_the_box(found):
    trials = trials_of(found)

    board = Board(str(found))

    rows = board.rows(4)
    experiment = board.experiment()
    assert [column["name"] for column in experiment["hparamInfos"]] == ["lr", "width"]
    assert [metric["name"]["tag"] for metric in experiment["metricInfos"]] == ["best/val_accuracy"]
    assert list(rows) == [f"found_{trial.number:04d}" for trial in trials]
    for row, trial in zip(rows.values(), trials, strict=True):
        assert row["hparams"] == trial.params
        assert [metric["value"] for metric in row["metricValues"]] == pytest.approx([trial.value])


def test_no_trial_is_hidden_because_choices_are_of_several_kinds(train):
    choices = [0.5, "auto", None, True, 2]
    for number, value in enumerate(choices):
        train(number, {"clip": value}, "--trainer.max_epochs", "1")
    write_experiment(Path("searches/tiny"), Space({"clip": choices}), "val_accuracy")

    board = Board("searches/tiny")

    board.rows(len(choices))
    columns = [as_the_browser_asks(column) for column in board.experiment()["hparamInfos"]]
    shown = [row["hparams"]["clip"] for row in board.rows(len(choices), columns).values()]
    assert shown == [0.5, "auto", "null", True, 2]


def test_the_best_value_of_a_trial_is_the_lowest_where_that_is_better(train):
    folder = train(0, {"lr": 0.01})

    losses = [float(row["val_loss"]) for row in runs.read_metrics(folder)]
    assert runs.best_value(runs.read_metrics(folder), "val_loss", "minimize") == min(losses)
    assert runs.best_value(runs.read_metrics(folder), "val_loss", "maximize") == max(losses)
    assert runs.best_value(runs.read_metrics(folder), "val_recall", "maximize") is None


def test_a_trial_that_failed_is_shown_as_failed(train, write_module):
    write_module(OWN_CODE)
    train(0, TRIALS[0], changes={"trainer.callbacks": [{"class_path": "own.Stop"}]}, code=1)
    write_experiment(Path("searches/tiny"), Space(SPACE), "val_accuracy")

    (row,) = Board("searches/tiny").rows(1).values()

    assert status(row) == "STATUS_FAILURE"
    assert len(row["metricValues"]) == 1


def test_a_trial_that_was_interrupted_and_went_on_is_shown_as_finished(train, write_module):
    write_module(OWN_CODE)
    stop = {"class_path": "own.Stop", "init_args": {"number": 15}}
    folder = train(0, TRIALS[0], changes={"trainer.callbacks": [stop]}, code=143)
    write_experiment(Path("searches/tiny"), Space(SPACE), "val_accuracy")
    (row,) = Board("searches/tiny").rows(1).values()
    assert status(row) == "STATUS_UNKNOWN"

    go_on = ("--trainer.max_epochs", "3", "--trainer.callbacks", "null")
    train(0, TRIALS[0], "--ckpt_path", str(folder), *go_on)

    (row,) = Board("searches/tiny").rows(1).values()
    scores = [float(epoch["val_accuracy"]) for epoch in runs.read_metrics(folder)]
    assert status(row) == "STATUS_SUCCESS"
    assert len(scores) == 3
    assert row["metricValues"][0]["value"] == pytest.approx(max(scores))


def test_the_columns_are_written_once(own_folder):
    for _ in range(2):
        write_experiment(own_folder, Space(SPACE), "val_accuracy")

    assert len(list(own_folder.glob("events.out.tfevents*"))) == 1


def test_the_columns_are_written_without_torch(own_folder):
    program = "import sys, classifier.search.hparams; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
