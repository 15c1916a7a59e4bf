"""``classifier fit``: the run folder, its record, what is printed, and that runs repeat exactly."""

import csv
import hashlib
import json
import multiprocessing
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import classifier
from classifier.__main__ import main
from classifier.data import Digits

OWN_CODE = """
import signal

from pytorch_lightning.callbacks import Callback


class Stop(Callback):
    def __init__(self, number: int = 0) -> None:
        self.number = number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == 1 and batch_idx == 0:
            if not self.number:
                raise RuntimeError("the cable was pulled")
            signal.raise_signal(self.number)
"""


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights_of(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def equal(weights, others):
    return weights.keys() == others.keys() and all(
        torch.equal(weights[name], others[name]) for name in weights
    )


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_run_folder_holds_what_the_design_says_and_nothing_else(trained):
    names = {re.sub(r"(tfevents).*", r"\1", name) for name in contents(trained)}

    assert names == {
        ".lock",
        "config.yaml",
        "run.json",
        "metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "events.out.tfevents",
    }


def test_the_saved_config_is_complete_and_keeps_the_aliases(trained):
    text = (trained / "config.yaml").read_text()

    config = yaml.safe_load(text)
    assert "epochs: &epochs 3" in text
    assert "max_epochs: *epochs" in text
    assert "lr: *lr" in text
    assert config["seed_everything"] == 0
    assert config["trainer"]["limit_train_batches"] == 10
    assert config["model"]["optimizer"]["init_args"]["betas"] == [0.9, 0.999]
    assert config["data"]["init_args"]["val_fraction"] == 0.1
    assert config.get("ckpt_path") is None


def test_the_record_says_what_was_run_where_and_on_what(trained):
    record = record_of(trained)

    data = Digits()
    data.setup("fit")
    assert record["name"] == "tiny"
    assert shlex.split(record["command"])[:4] == ["classifier", "fit", "--config", "tiny.yaml"]
    assert record["seed"] == 0
    environment = record["environment"]
    assert environment["python"] == platform.python_version()
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["threads"] == 1
    assert {"git", "host", "processor", "cores", "gpus"} <= environment.keys()
    assert record["data"] == {**data.describe(), "fingerprint": data.fingerprint()}
    assert record["parameters"] == 4998


def test_the_record_says_which_code_it_was(write_config, fit):
    config = write_config()
    Path(".gitignore").write_text("/runs/")
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "First")):
        subprocess.run(["git", *command], check=True)

    clean = record_of(fit("--config", config))["environment"]["git"]
    write_config({"trainer.max_epochs": 1})
    changed = record_of(fit("--config", config))["environment"]["git"]

    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert clean == {"commit": commit, "dirty_diff_sha256": None}
    assert changed["commit"] == commit
    assert re.fullmatch("[0-9a-f]{64}", changed["dirty_diff_sha256"])


def test_the_record_says_how_it_went(trained):
    record, rows = record_of(trained), rows_of(trained)

    assert record["state"] == "finished"
    assert "error" not in record
    assert (record["epochs"], record["steps"]) == (3, 30)
    assert record["seconds"] >= 0
    started, ended = (datetime.fromisoformat(record[name]) for name in ("started", "ended"))
    assert started <= ended
    final = {name: float(value) for name, value in rows[-1].items()}
    assert record["metrics"] == {name: final[name] for name in record["metrics"]}
    assert {"train_loss", "train_accuracy", "val_loss", "val_accuracy"} <= record["metrics"].keys()


def test_the_record_names_the_best_checkpoint_and_its_hash(trained):
    best = record_of(trained)["best"]

    losses = [float(row["val_loss"]) for row in rows_of(trained)]
    content = (trained / best["checkpoint"]).read_bytes()
    saved = torch.load(trained / best["checkpoint"], weights_only=True)
    assert best["monitor"] == "val_loss"
    assert best["value"] == pytest.approx(min(losses))
    assert saved["epoch"] == losses.index(min(losses))
    assert best["sha256"] == hashlib.sha256(content).hexdigest()


def test_metrics_csv_has_one_row_for_each_epoch(trained):
    rows = rows_of(trained)

    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert [float(row["lr"]) for row in rows] == [0.01] * 3
    for row in rows:
        assert None not in row.values()
        assert all(0 <= float(row[f"{stage}_accuracy"]) <= 1 for stage in ("train", "val"))
        assert float(row["val_accuracy"]) <= float(row["val_accuracy_top5"]) <= 1


def test_tensorboard_reads_every_epoch(trained):
    events = EventAccumulator(str(trained)).Reload()

    losses = [float(row["val_loss"]) for row in rows_of(trained)]
    assert [event.value for event in events.Scalars("val_loss")] == pytest.approx(losses)
    assert [event.step for event in events.Scalars("val_loss")] == [9, 19, 29]
    assert len(events.Scalars("train_loss")) == 3
    assert [event.value for event in events.Scalars("lr")] == pytest.approx([0.01] * 3)


def test_a_checkpoint_carries_config_classes_and_record(trained):
    saved = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)["classifier"]

    record = record_of(trained)
    assert saved["config"] == (trained / "config.yaml").read_text()
    assert saved["data"]["class_names"] == list("0123456789")
    assert saved["data"].keys() == {"class_names", "in_channels", "mean", "std"}
    assert saved["run"]["id"] == record["id"]
    assert saved["run"]["environment"] == record["environment"]


def test_a_second_fit_gets_a_folder_of_its_own_and_leaves_the_first(write_config, fit):
    config = write_config()
    first = fit("--config", config)
    before = contents(first)

    second = fit("--config", config)

    assert (first.name, second.name) == ("version_0", "version_1")
    assert contents(first) == before
    assert record_of(first)["id"] != record_of(second)["id"]


def test_a_run_is_called_like_its_first_config_file(write_config, fit):
    Path("experiments").mkdir()
    first = write_config(name="experiments/a.b.yaml")
    second = write_config({"trainer.max_epochs": 1}, "other.yaml")

    folder = fit("--config", first, "--config", second)

    assert folder == Path("runs/a.b/version_0").resolve()
    assert record_of(folder)["epochs"] == 1


def test_a_run_from_a_saved_config_is_called_like_the_run(trained, fit):
    folder = fit("--config", str(trained / "config.yaml"))

    assert folder == Path("runs/tiny/version_0").resolve()


def test_a_run_without_config_file_is_called_like_its_data(fit):
    folder = fit(
        *("--model.network", "MNISTNet", "--data", "Digits"),
        *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"),
    )

    assert folder == Path("runs/digits/version_0").resolve()


def test_the_root_of_the_runs_can_be_chosen(write_config):
    config = write_config({"trainer.default_root_dir": "elsewhere/results"})

    assert main(["fit", "--config", config]) == 0

    assert Path("elsewhere/results/tiny/version_0/checkpoints/best.ckpt").is_file()
    assert {path.name for path in Path().iterdir()} == {"tiny.yaml", "elsewhere"}


def test_fast_dev_run_keeps_nothing(write_config):
    config = write_config()

    assert main(["fit", "--config", config, "--trainer.fast_dev_run", "true"]) == 0

    assert {path.name for path in Path().iterdir()} == {"tiny.yaml"}


def test_a_section_of_which_all_is_a_comment_has_its_defaults(write_config):
    config = Path(write_config())
    text = config.read_text().replace("trainer:\n", "save_every:\n  # minutes: 1\ntrainer:\n")
    text = text.replace("  max_epochs: *epochs\n", "").replace("  limit_train_batches: 4\n", "")
    config.write_text(text)

    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    assert main(["fit", "--config", str(config), *short]) == 0


def test_print_config_runs_and_keeps_nothing(write_config, capsys):
    config = write_config()

    assert main(["fit", "--config", config, "--print_config"]) == 0

    assert {path.name for path in Path().iterdir()} == {"tiny.yaml"}
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_epochs"] == 2


def test_a_normal_run_prints_its_start_its_epochs_and_what_comes_next(write_config):
    config = write_config()

    run = subprocess.run(
        [sys.executable, "-m", "classifier", "fit", "--config", config],
        env={**os.environ, "PYTHONPATH": str(Path(classifier.__file__).parents[1])},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0
    assert run.stderr == ""
    epoch = r"train_loss \d\.\d{4}  val_loss \d\.\d{4}  val_accuracy 0\.\d{4}  \d+\.\d s"
    expected = [
        r"run      runs/tiny/version_0",
        r"network  MNISTNet, 4,998 parameters",
        r"data     Digits, 1,295 / 143 / 359 images to train / validate / test",
        r"classes  10, each with 125 to 131 images to train",
        r"images   8 x 8, grey; no augmentation",
        r"device   cpu, \d+ threads?",
        rf"epoch 1/2  {epoch}",
        rf"epoch 2/2  {epoch}",
        r"best epoch [12]: val_loss \d\.\d{4}, val_accuracy 0\.\d{4}; \d+\.\d s; "
        r"run kept in runs/tiny/version_0",
        r"  classifier test --ckpt_path runs/tiny/version_0/checkpoints/best.ckpt",
        r"  tensorboard --logdir runs/tiny",
    ]
    lines = run.stdout.splitlines()
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)


def test_the_printed_numbers_are_those_of_the_run(write_config, fit, capsys):
    folder = fit("--config", write_config())

    printed = capsys.readouterr().out
    losses = [float(row["val_loss"]) for row in rows_of(folder)]
    assert re.findall(r"  val_loss ([\d.]+)", printed) == [f"{loss:.4f}" for loss in losses]
    best = losses.index(min(losses)) + 1
    assert f"best epoch {best}: val_loss {min(losses):.4f}, " in printed


def test_another_monitor_is_watched_shown_and_decides(write_config, fit, capsys):
    folder = fit("--config", write_config({"model.monitor": "val_f1"}))

    scores = [float(row["val_f1"]) for row in rows_of(folder)]
    printed = capsys.readouterr().out
    assert record_of(folder)["best"]["monitor"] == "val_f1"
    assert record_of(folder)["best"]["value"] == pytest.approx(max(scores))
    assert re.findall(r"  val_f1 ([\d.]+)", printed) == [f"{score:.4f}" for score in scores]


def test_a_checkpoint_callback_of_the_user_does_not_become_the_best(write_config, fit, capsys):
    often = {"monitor": "train_loss", "save_top_k": -1}
    callbacks = [{"class_path": "ModelCheckpoint", "init_args": often}]

    folder = fit("--config", write_config({"trainer.callbacks": callbacks}))

    best = record_of(folder)["best"]
    assert (best["monitor"], best["checkpoint"]) == ("val_loss", "checkpoints/best.ckpt")
    assert "/checkpoints/best.ckpt\n" in capsys.readouterr().out
    assert len(list((folder / "checkpoints").iterdir())) == 3 + 2  # and one of each epoch


def test_a_run_without_validation_still_says_where_it_is(write_config, fit, capsys):
    folder = fit("--config", write_config({"trainer.limit_val_batches": 0}))

    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert "run kept in runs/tiny/version_0" in capsys.readouterr().out


@pytest.mark.parametrize("root", ["runs", "a folder/of mine"], ids=["here", "elsewhere"])
def test_the_printed_test_command_works(root, write_config, tmp_path, monkeypatch, capsys):
    place = tmp_path / "work"
    place.mkdir()
    root = str(tmp_path / root) if root != "runs" else root
    monkeypatch.chdir(place)
    assert main(["fit", "--config", write_config({"trainer.default_root_dir": root})]) == 0
    (command,) = re.findall(r"classifier test .*", capsys.readouterr().out)
    if root != "runs":
        monkeypatch.chdir(tmp_path)  # a path outside the working directory is absolute

    assert main(shlex.split(command)[1:]) == 0

    assert "test_accuracy" in capsys.readouterr().out


def test_a_failed_run_says_so_and_why(write_config, write_module, capsys):
    write_module(OWN_CODE)
    config = write_config({"trainer.callbacks": [{"class_path": "own.Stop"}]})

    assert main(["fit", "--config", config]) == 1

    folder = Path("runs/tiny/version_0")
    record = record_of(folder)
    assert record["state"] == "failed"
    assert record["error"] == "RuntimeError: the cable was pulled"
    assert record["epochs"] == 1
    assert len(rows_of(folder)) == 1
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert "the cable was pulled" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_run_with_its_exit_code(number, code, write_config, write_module, capsys):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("SIGINT is ignored by whatever started the tests, as in the background")
    write_module(OWN_CODE)
    stop = {"class_path": "own.Stop", "init_args": {"number": number}}
    config = write_config({"trainer.callbacks": [stop]})

    assert main(["fit", "--config", config]) == code

    folder = Path("runs/tiny/version_0")
    assert record_of(folder)["state"] == "interrupted"
    assert record_of(folder)["epochs"] == 1
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert "Traceback" not in capsys.readouterr().err


def fit_with_the_others(barrier):
    barrier.wait()
    sys.exit(main(["fit", "--config", "tiny.yaml", "--trainer.limit_train_batches", "1"]))


def test_eight_fits_started_in_the_same_instant_get_eight_complete_folders(write_config):
    write_config()
    context = multiprocessing.get_context("forkserver")
    # Forked from a process that has imported everything, they really start together.
    context.set_forkserver_preload(["classifier.cli.classifier_cli", "torch.utils.tensorboard"])
    barrier = context.Barrier(8)
    fits = [context.Process(target=fit_with_the_others, args=(barrier,)) for _ in range(8)]

    for process in fits:
        process.start()
    for process in fits:
        process.join()

    assert [process.exitcode for process in fits] == [0] * 8
    folders = sorted(Path("runs/tiny").iterdir())
    assert [folder.name for folder in folders] == [f"version_{number}" for number in range(8)]
    configs = {(folder / "config.yaml").read_text() for folder in folders}
    assert len(configs) == 1
    assert yaml.safe_load(configs.pop())["trainer"]["limit_train_batches"] == 1
    assert {record_of(folder)["state"] for folder in folders} == {"finished"}
    assert len({record_of(folder)["id"] for folder in folders}) == 8
    assert all(len(rows_of(folder)) == 2 for folder in folders)


def test_the_printed_config_gives_the_same_weights_to_the_bit(write_config, fit, capsys):
    arguments = ("--config", write_config(), "--hyperparameters.lr", "0.02")
    first = fit(*arguments)
    capsys.readouterr()
    assert main(["fit", *arguments, "--print_config"]) == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)

    second = fit("--config", "printed.yaml")

    assert equal(weights_of(first), weights_of(second))


def test_the_saved_config_gives_the_same_weights_to_the_bit(write_config, fit):
    first = fit("--config", write_config(), "--hyperparameters.lr", "0.02")

    second = fit("--config", str(first / "config.yaml"))

    assert equal(weights_of(first), weights_of(second))
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()


def test_another_seed_gives_other_weights_and_stands_in_the_record(write_config, fit):
    config = write_config()

    runs = [fit("--config", config, "--seed_everything", seed) for seed in ("7", "7", "8")]

    weights = [weights_of(folder) for folder in runs]
    assert equal(weights[0], weights[1])
    assert not equal(weights[0], weights[2])
    assert [record_of(folder)["seed"] for folder in runs] == [7, 7, 8]


@pytest.mark.filterwarnings("ignore:No seed found")
def test_a_seed_that_was_left_to_lightning_is_recorded_so_that_the_run_can_be_repeated(
    write_config, fit
):
    first = fit("--config", write_config(), "--seed_everything", "true")

    second = fit("--config", str(first / "config.yaml"))

    seed = record_of(first)["seed"]
    assert type(seed) is int
    assert record_of(second)["seed"] == seed
    assert equal(weights_of(first), weights_of(second))


def test_validation_within_an_epoch_leaves_the_last_checkpoint_at_its_end(write_config, fit):
    within = {"trainer.val_check_interval": 0.4, "trainer.limit_train_batches": 5}

    folder = fit("--config", write_config(within))

    rows = rows_of(folder)
    assert [row["step"] for row in rows] == ["2", "4", "5", "7", "9", "10"]
    assert [row["step"] for row in rows if row["val_loss"]] == ["2", "4", "7", "9"]
    assert [row["step"] for row in rows if row["train_loss"]] == ["5", "10"]
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (1, 10)
    assert record_of(folder)["state"] == "finished"


@pytest.mark.parametrize(
    "scheduler",
    [None, "torch.optim.lr_scheduler.ReduceLROnPlateau", "pytorch_lightning.cli.ReduceLROnPlateau"],
)
def test_an_epoch_without_validation_has_no_values_of_it(scheduler, write_config, fit, capsys):
    changes = {"trainer.check_val_every_n_epoch": 2, "trainer.max_epochs": 3}
    if scheduler:
        settings = {"monitor": "val_loss"} if "lightning" in scheduler else {}
        changes["model.lr_scheduler"] = {"class_path": scheduler, "init_args": settings}

    folder = fit("--config", write_config(changes))

    rows = rows_of(folder)
    for name in ("val_loss", "val_accuracy", "val_f1"):
        assert [bool(row[name]) for row in rows] == [False, True, False]
    assert all(row["train_loss"] for row in rows)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"], best["epoch"]) == (2, 12, 1)
    assert record_of(folder)["best"]["value"] == pytest.approx(float(rows[1]["val_loss"]))
    lines = re.findall(r"epoch ./3 .*", capsys.readouterr().out)
    assert ["val_loss" in line for line in lines] == [False, True, False]


LOSS = """
from torch import nn


class Loss(nn.CrossEntropyLoss):
    def forward(self, logits, labels):
        loss = super().forward(logits, labels)
        return loss if logits.requires_grad or len(labels) == 64 else loss * float("nan")
"""


def test_one_validation_batch_without_a_finite_loss_is_no_best_epoch(
    write_config, write_module, fit, capsys
):
    write_module(LOSS)
    changes = {"model.loss": {"class_path": "own.Loss"}, "data.init_args.eval_batch_size": 64}

    folder = fit("--config", write_config(changes))  # the last of three batches has 15 images

    assert [row["val_loss"] for row in rows_of(folder)] == ["nan", "nan"]
    assert "best" not in record_of(folder)
    assert "best epoch" not in capsys.readouterr().out


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def test_a_run_that_diverged_has_a_record_that_every_program_reads(write_config, capsys):
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}
    config = write_config({"model.optimizer": optimizer, "trainer.limit_train_batches": 1})

    assert main(["fit", "--config", config]) == 1

    folder = Path("runs/tiny/version_0")
    record = json.loads((folder / "run.json").read_text(), parse_constant=refuse)
    assert record["state"] == "failed"
    assert record["metrics"]["val_loss"] is None
    assert record.get("best", {}).get("value", 0) is not None
    printed = capsys.readouterr().out
    assert not re.search(r"best epoch \d+: val_loss (inf|nan)", printed)
    assert (folder / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU"
)
def test_a_trainer_that_is_refused_leaves_no_run_folder(write_config):
    config = write_config()

    assert main(["fit", "--config", config, "--trainer.accelerator", "gpu"]) == 2

    assert list(Path().glob("runs/*/*")) == []


UNREACHABLE = """
from classifier.data import Digits


class Unreachable(Digits):
    def prepare_data(self) -> None:
        raise ConnectionError("no route to the data")
"""


def test_data_that_cannot_be_prepared_leaves_no_run_folder(write_config, write_module):
    write_module(UNREACHABLE)
    config = write_config({"data.class_path": "own.Unreachable"})

    assert main(["fit", "--config", config]) == 1

    assert list(Path().glob("runs/*/*")) == []


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # barebones has no metrics
def test_barebones_trains_and_keeps_nothing(write_config, capsys):
    config = write_config()

    assert main(["fit", "--config", config, "--trainer.barebones", "true"]) == 0

    assert {path.name for path in Path().iterdir()} == {"tiny.yaml"}
    assert "epoch 2/2" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["TQDMProgressBar", "RichProgressBar", "own.Mine"])
def test_a_progress_bar_of_ones_own_needs_no_terminal(name, write_config, write_module, capsys):
    write_module("from pytorch_lightning.callbacks import TQDMProgressBar as B\nclass Mine(B): ...")

    assert main(["fit", "--config", write_config(), f"--trainer.callbacks+={name}"]) == 0

    assert "epoch 2/2" in capsys.readouterr().out


needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="keeps memory of glibc only"
)
FAULTS = """
import resource

import torch
from pytorch_lightning import Callback

class Faults(Callback):
    def on_train_batch_end(self, *_):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(64, 2**20)  # 256 MiB, 65,536 pages
        print("faults", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@needs_glibc
def test_memory_that_one_step_frees_is_there_for_the_next(write_config, write_module):
    write_module(FAULTS)
    config = write_config({"trainer.callbacks": [{"class_path": "own.Faults"}]})

    faults = page_faults(config)

    assert len(faults) >= 6
    assert faults[0] > 60_000
    assert sum(number > 1_000 for number in faults) <= 3  # the heap may have to grow once more


@needs_glibc
@pytest.mark.slow
def test_memory_is_given_back_where_image_files_are_read(write_config, write_module):
    """Their sizes leave holes of every size, which would come to gigabytes."""
    write_module(FAULTS)
    for name in ("cat", "dog"):
        Path("animals", name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), number).save(f"animals/{name}/{number}.png")
    changes = {
        "trainer.callbacks": [{"class_path": "own.Faults"}],
        "data.class_path": "classifier.data.ImageFolder",
        "data.init_args": {"root": "animals", "image_size": 8, "in_channels": 1, "num_workers": 0},
    }

    faults = page_faults(write_config(changes))

    assert faults
    assert min(faults) > 60_000


def page_faults(config):
    """Those that ``own.Faults`` prints; in a process whose memory no other test has used."""
    command = [sys.executable, "-m", "classifier", "fit", "--config", config]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(number) for number in re.findall(r"faults (\d+)", printed)]
