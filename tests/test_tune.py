"""The execution plan is measured: what is faster and learns the same stands in a small config."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from pytorch_lightning.strategies import SingleDeviceStrategy

from classifier.__main__ import main
from classifier.checkpoint.read import read_checkpoint
from classifier.cli.quiet import quiet
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet
from classifier.platform import THREADS
from classifier.tune.candidate import Candidate
from classifier.tune.tuning import GROUPS, Tuning, choices_of, current_values

# Its convolutions are slow unless the channels come last, and bfloat16 is nothing for it.
OWN_NETWORK = """
import time

import torch
from torch import nn


class Picky(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, 2, 3)
        self.second = nn.Conv2d(2, 2, 3)
        self.head = nn.Linear(32, num_classes)

    def forward(self, images):
        fast = self.second.weight.is_contiguous(memory_format=torch.channels_last)
        if not fast:
            time.sleep(0.01)
        logits = self.head(self.second(self.first(images)).flatten(1))
        if torch.is_autocast_enabled("cpu"):
            if fast:
                raise RuntimeError("no kernel for bfloat16")
            return 100 * logits
        return logits
"""
COUNT = """
    calls = 0

    @classmethod
    def count(cls):
        cls.calls += 1
        if cls.calls == 40:  # after 26 to 35 with the config as it is, before the ninth round
            raise KeyboardInterrupt
"""
QUICK = ["--seconds", "0.1", "--model.compile", "false"]


@pytest.fixture(autouse=True)
def prepared(own_folder, monkeypatch):
    monkeypatch.setenv(THREADS, "1")  # that is not tried then
    with quiet():  # as the command does
        yield


@pytest.fixture
def picky(write_config, write_module):
    """A config of such a network."""
    write_module(OWN_NETWORK)
    return write_config({"model.network": {"class_path": "own.Picky"}})


def test_what_is_faster_and_learns_the_same_is_written_for_a_second_config(picky, capsys, fit):
    arguments = ["--config", picky, *QUICK, "--data.batch_size", "64"]

    assert main(["tune", *arguments]) == 0

    table = capsys.readouterr().out
    assert "channels_last: wins" in table
    assert "bf16-mixed: rejected: loss off by" in table
    assert "bf16-mixed, channels_last: failed: RuntimeError: no kernel for bfloat16" in table
    assert "batch_size" not in table.partition("tiny.tuned.yaml")[0]
    assert "classifier fit --config tiny.yaml" in table
    written = yaml.safe_load(Path("tiny.tuned.yaml").read_text())
    assert written["model"]["channels_last"] is True
    assert "trainer" not in written
    assert not Path("runs").exists()

    folder = fit("--config", picky, "--config", "tiny.tuned.yaml")

    assert folder.parent.name == "tiny"
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["channels_last"] is True


def test_what_the_command_line_says_is_not_tried_otherwise(write_config, capsys):
    fixed = ["--trainer.precision=bf16-mixed", "--data.batch_size", "64", *QUICK]
    config = write_config({"model.channels_last": True, "trainer.max_epochs": 1})

    assert main(["tune", "--config", config, *fixed]) == 0

    tried = [line.split("  ")[-1].strip() for line in capsys.readouterr().out.splitlines()]
    assert [name.partition(":")[0] for name in tried[1:4]] == [
        "as it is",
        "32-true, no channels_last",
        "no channels_last",
    ]
    assert "the reference of the loss" in tried[2]


def test_threads_are_tried_and_stand_in_the_command(
    write_config, write_module, monkeypatch, capsys
):
    monkeypatch.delenv(THREADS, raising=False)
    fast = "self.second.weight.is_contiguous(memory_format=torch.channels_last)"
    text = OWN_NETWORK.replace(fast, "torch.get_num_threads() == 1")
    head = "self.head = nn.Linear(32, num_classes)"
    write_module(text.replace(head, f"{head}; self.large = nn.Linear(1200, 1200)"))
    torch.set_num_threads(2)
    config = write_config({"model.network": {"class_path": "own.Picky"}})
    fixed = ["--trainer.precision=32-true", "--model.channels_last=false", "--data.batch_size=64"]

    assert main(["tune", "--config", config, *QUICK, *fixed]) == 0

    printed = capsys.readouterr().out
    assert "1 thread: wins" in printed
    assert printed.splitlines()[-1].startswith(
        "  OMP_NUM_THREADS=1 classifier fit --config tiny.yaml"
    )
    assert THREADS not in (yaml.safe_load(Path("tiny.tuned.yaml").read_text()) or {})
    assert torch.get_num_threads() == 2

    monkeypatch.setenv(THREADS, "2")
    assert THREADS not in current_values(Candidate(["--config", config]))


def test_where_no_plan_is_faster_the_file_changes_nothing(write_config, capsys, fit):
    fixed = ["--trainer.precision=32-true", "--model.channels_last=false"]
    optimizer = {"class_path": "torch.optim.Adagrad", "init_args": {"lr": 0.01, "fused": False}}
    config = write_config({"model.optimizer": optimizer})
    batch = ["--data.batch_size", "64", "--model.optimizer.init_args.fused", "false"]

    assert main(["tune", "--config", config, *QUICK, *fixed, *batch, "--output", "own.yaml"]) == 0

    assert "no faster plan found" in capsys.readouterr().out
    fit("--config", config, "--config", "own.yaml")


def test_a_larger_batch_is_a_comment_because_it_trains_differently(write_config, capsys):
    fixed = ["--trainer.precision=32-true", "--model.channels_last=false"]
    config = write_config({"data.init_args.batch_size": 400})

    assert main(["tune", "--config", config, *QUICK, *fixed]) == 0

    assert "batch_size 800: fits, but trains differently" in capsys.readouterr().out
    assert "data" not in yaml.safe_load(Path("tiny.tuned.yaml").read_text())


class OnGpu(SingleDeviceStrategy):
    """Says that the trainer's device is a GPU; the module and its batches stay where they are."""

    root_device = torch.device("cuda")


def test_a_gpu_is_asked_for_what_only_a_gpu_has(write_config):
    candidate = Candidate(["--config", write_config()])
    tried = {key for group in GROUPS for key in group}
    assert "model.float32_matmul_precision" in tried - current_values(candidate).keys()

    candidate.trainer.strategy.__class__ = OnGpu

    key = "model.float32_matmul_precision"
    assert choices_of(key, current_values(candidate)[key]) == ["highest", "high"]
    assert "16-mixed" in choices_of("trainer.precision", "32-true", on_gpu=True)
    assert "16-mixed" not in choices_of("trainer.precision", "32-true")


@pytest.mark.parametrize(("on_gpu", "sizes"), [(False, [32]), (True, [32, 64])])
def test_the_batch_is_doubled_until_that_gains_nothing(on_gpu, sizes, write_config, capsys):
    class Even(Tuning):
        def _pace(self, candidate):
            return 100.0

    given = ["--config", write_config({"data.init_args.batch_size": 16})]
    tuning = Even(given, 0.1, 0.1, SimpleNamespace(update=str))
    tuning.on_gpu, tuning.rate = on_gpu, 100
    tuning.as_is.losses(1)
    tuning._enlarge()

    rows = [row for row in capsys.readouterr().out.splitlines() if "trains differently" in row]
    assert [int(row.split("batch_size ")[1].split(":")[0]) for row in rows] == sizes
    assert tuning.batch is None


def test_a_config_in_bfloat16_is_held_to_the_loss_in_float32(write_config, capsys):
    config = write_config({"trainer.precision": "bf16-mixed", "trainer.max_epochs": 1})
    fixed = ["--model.channels_last=false", "--model.optimizer.init_args.fused=false"]

    assert main(["tune", "--config", config, *QUICK, *fixed, "--data.batch_size=64"]) == 0

    assert "32-true: the reference of the loss" in capsys.readouterr().out


def test_a_scheduler_that_follows_validation_is_timed_too(write_config):
    scheduler = {"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
    stopping = {"class_path": "pytorch_lightning.callbacks.EarlyStopping"}
    stopping["init_args"] = {"monitor": "val_loss"}
    changes = {"model.lr_scheduler": scheduler, "trainer.callbacks": [stopping]}
    candidate = Candidate(["--config", write_config(changes)])

    losses = candidate.losses(6)

    assert len(losses) == 6
    assert candidate.images_in_all == 2 * 4 * 64
    assert candidate.images_per_second(0.01) > 0


def test_every_candidate_trains_the_same_steps(write_config):
    config = write_config()
    once = Candidate(["--config", config])

    losses = once.losses(5)
    again = Candidate(["--config", config], {"model.channels_last": True}, once.datamodule)

    assert again.losses(5) == pytest.approx(losses, rel=1e-4)
    assert once.trainer.global_step == again.trainer.global_step == 5


def test_ctrl_c_keeps_what_was_measured(picky, write_module, capsys):
    write_module(OWN_NETWORK.replace('RuntimeError("no kernel for bfloat16")', "KeyboardInterrupt"))

    assert main(["tune", "--config", picky, *QUICK]) == 130

    assert "stopped before the end" in capsys.readouterr().out
    assert "# Stopped before the end" in Path("tiny.tuned.yaml").read_text()


def test_ctrl_c_while_candidates_are_timed_keeps_their_rows(picky, write_module, capsys):
    slow = "time.sleep(0.01)"
    write_module(OWN_NETWORK.replace(slow, f"{slow}; Picky.count()") + COUNT)

    assert main(["tune", "--config", picky, *QUICK, "--trainer.precision=32-true"]) == 130

    assert "channels_last" in capsys.readouterr().out


def test_images_from_files_are_read_by_other_numbers_of_processes():
    tried = choices_of("data.init_args.num_workers", 3)

    assert tried[:2] == [0, 1]
    assert 3 in tried


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "'0' is not a number above 0"),
        (["--ckpt_path", "runs/a"], "--config, no --ckpt_path"),
        (["--output", "no/file.yaml"], "there is no folder 'no'"),
        (["--output", "tiny.yaml"], "'tiny.yaml' exists; name another file with --output"),
        (["--trainer.precison", "16"], "did you mean 'trainer.precision'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(write_config, arguments, message, capsys):
    assert main(["tune", "--config", write_config(), *arguments]) == 2

    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) <= 3


# ---- the settings that are tried ----


def network_module(**settings):
    torch.manual_seed(0)
    return ClassificationModule(MNISTNet(width=4), list("0123456789"), **settings).eval()


STEPS = """
from classifier.module import ClassificationModule


class Steps(ClassificationModule):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(self.step(batch, "train"))
        self.optimizers().step()
"""


def test_a_module_whose_steps_return_no_loss_is_refused(write_config, write_module, capsys):
    write_module(STEPS)

    assert main(["tune", "--config", write_config(), "--model", "own.Steps"]) == 2

    assert "the training_step of Steps returns none." in capsys.readouterr().err


def test_channels_last_changes_the_layout_and_not_the_results():
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)

    plain, last = network_module(), network_module(channels_last=True)

    assert last.network.features[4].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last(images), plain(images))


VIEWS = """
from torch import nn


class Views(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, 4, 3)
        self.head = nn.Linear(144, num_classes)

    def forward(self, images):
        return self.head(self.first(images).view(len(images), -1))
"""


@pytest.mark.parametrize(
    "settings",
    [
        ["--model.network=own.Views"],
        ["--model.optimizer=LBFGS"],
        ["--trainer.callbacks+=ModelPruning", "--trainer.callbacks.pruning_fn=l1_unstructured"],
    ],
    ids=["network", "optimizer", "callback"],
)
def test_what_cannot_take_another_layout_names_the_setting(
    settings, write_config, write_module, capsys
):
    write_module(VIEWS)
    command = ["fit", "--config", write_config(), *settings]

    assert main([*command, "--model.channels_last", "true"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]

    assert error.startswith("error: model.channels_last: ")
    assert "--model.channels_last false" in error
    assert main([*command, "--model.channels_last", "false"]) == 0


def test_a_tuned_run_resumes_exactly_and_answers_without_its_plan(write_config, fit):
    config = write_config()
    plan = "model: {channels_last: true, optimizer: {init_args: {fused: true}}}"
    Path("plan.yaml").write_text(f"{plan}\ntrainer: {{precision: bf16-mixed}}\n")
    tuned = ["--config", config, "--config", "plan.yaml"]
    whole = read_checkpoint(fit(*tuned) / "checkpoints/last.ckpt")["state_dict"]
    begun = fit(*tuned, "--hyperparameters.epochs", "1")

    again = ["--ckpt_path", str(begun), "--hyperparameters.epochs", "2"]
    assert main(["fit", *again]) == 0

    last = begun / "checkpoints/last.ckpt"
    resumed = read_checkpoint(last)["state_dict"]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    answers = [
        ClassificationModule.load_from_checkpoint(last, channels_last=layout).eval()(images)
        for layout in (True, False)
    ]
    torch.testing.assert_close(*answers)


@pytest.mark.slow
def test_a_compiled_network_resumes_exactly_and_takes_any_number_of_images(write_config, fit):
    """About 40 s to compile for training and for evaluation, on one thread."""
    config = write_config({"model.compile": True, "data.init_args.eval_batch_size": 100})
    whole = read_checkpoint(fit("--config", config) / "checkpoints/last.ckpt")
    begun = fit("--config", config, "--trainer.max_epochs", "1")

    assert main(["fit", "--ckpt_path", str(begun), "--trainer.max_epochs", "2"]) == 0

    last = begun / "checkpoints/last.ckpt"
    resumed = read_checkpoint(last)["state_dict"]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole["state_dict"].items())
    plain = ["--model.compile", "false"]
    assert main(["test", "--ckpt_path", str(last), *plain]) == 0
    assert main(["test", "--ckpt_path", str(last)]) == 0
