"""Several processes on one training: on two CPU ranks, as on two GPUs or nodes."""

import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only

import classifier
from classifier import runs
from classifier.__main__ import main
from classifier.callbacks.logger import RunLogger
from classifier.callbacks.run_keeper import RunKeeper
from classifier.data import Digits
from classifier.runs import RunFolder

TWO_RANKS = [
    *("--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.devices", "2")
]

OWN_CODE = """
import torch
from pytorch_lightning.callbacks import Callback


class Notes(Callback):
    def on_train_start(self, trainer, pl_module) -> None:
        self.labels = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.labels.append(batch[0])

    def on_train_end(self, trainer, pl_module) -> None:
        state = {name: value.clone() for name, value in pl_module.named_parameters()}
        notes = {"state": state, "images": torch.cat(self.labels)}
        torch.save(notes, f"rank_{trainer.global_rank}.pt")
"""


def classify(*arguments, launcher=("-m", "classifier")):
    """Runs a command in a process of its own, which starts the other ranks."""
    path = str(Path(classifier.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *launcher, *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def printed_values(text):
    return {name: float(value) for name, value in re.findall(r"^(\w+_\w+) +([\d.]+)$", text, re.M)}


def assert_one_complete_run(folder):
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        *("best.ckpt", "last.ckpt", "previous.ckpt")
    ]
    assert len(list(folder.glob("events.out.tfevents*"))) == 1
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["devices"] in (2, "2")
    assert runs.read_record(folder)["state"] == "finished"


def test_another_rank_leaves_what_lies_in_the_working_folder_alone(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    own = Path("events.out.tfevents.own")
    own.touch()

    RunLogger(RunKeeper(RunFolder(), Path)).finalize("success")

    assert own.exists()


def test_two_ranks_share_one_run_and_agree(write_config):
    Path("own.py").write_text(OWN_CODE)
    config = write_config({"trainer.callbacks": [{"class_path": "own.Notes"}]})

    run = classify("fit", "--config", config, *TWO_RANKS)

    assert run.returncode == 0, run.stderr
    folder = Path("runs/tiny/version_0")
    assert_one_complete_run(folder)
    assert [(row["epoch"], row["step"]) for row in runs.read_metrics(folder)] == [
        *(("0", "4"), ("1", "8"))
    ]
    ranks = [torch.load(f"rank_{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in ranks[0]["state"].items():
        assert torch.equal(value, ranks[1]["state"][name])
    assert not torch.equal(ranks[0]["images"], ranks[1]["images"])
    lines = run.stdout.splitlines()
    assert len(lines) == 11
    assert lines[5].startswith("device   2 x cpu, 128 images a batch, ")


UNFREEZING = {
    "trainer.callbacks": [{"class_path": "own.Weights"}],
    "trainer.max_epochs": 3,
    "trainer.accumulate_grad_batches": 2,
    "data.init_args.batch_size": 16,
    "model.groups": [
        {"match": "backbone", "freeze_epochs": 1},
        {"match": "head", "lr_scale": 5},
    ],
    "model.warmup": {"epochs": 1},
    "model.lr_scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR"},
    "model.interval": "step",
}
WEIGHTS = """
import torch
from pytorch_lightning.callbacks import Callback


class Weights(Callback):
    "Writes the rates of each step, and the weights after it."

    def on_train_start(self, trainer, pl_module) -> None:
        self.rates, self.weights = {}, {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.rates[trainer.global_step] = [group["lr"] for group in optimizer.param_groups]

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        parameters = pl_module.named_parameters()
        self.weights[trainer.global_step] = {n: p.detach().clone() for n, p in parameters}
        torch.save([self.rates, self.weights], f"rank_{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_ranks_keep_the_same_weights_before_in_and_after_the_epoch_that_unfreezes(write_config):
    Path("own.py").write_text(WEIGHTS)

    run = classify("fit", "--config", write_config(UNFREEZING), *TWO_RANKS)

    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    (rates, weights), (others, same) = (torch.load(f"rank_{rank}.pt") for rank in range(2))
    assert sorted(weights) == [*range(7)]  # 4 batches an epoch, 2 a step
    for step, values in weights.items():
        assert all(torch.equal(value, same[step][name]) for name, value in values.items())
    first, *later = [weights[step]["network.features.0.weight"] for step in range(2, 7)]
    assert torch.equal(first, weights[0]["network.features.0.weight"])
    assert not any(torch.equal(first, value) for value in later)
    cosine = [0.005 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert rates == others
    assert [head for _, head in rates.values()] == pytest.approx(
        [5 * rate * min(1, (step + 1) / 2) for step, rate in enumerate(cosine)]
    )
    assert [body for body, _ in rates.values()] == pytest.approx(
        [rate * min(1, max(0, step - 1) / 2) for step, rate in enumerate(cosine)]
    )


OWN_STRATEGY = """
from pytorch_lightning.strategies import SingleDeviceStrategy


class Scattered(SingleDeviceStrategy):
    "Writes a folder in place of a file, as some of Lightning's strategies do."

    def __init__(self) -> None:
        super().__init__("cpu")

    def save_checkpoint(self, checkpoint, filepath, storage_options=None) -> None:
        filepath.mkdir()
"""
ASYNC = "pytorch_lightning.plugins.io.AsyncCheckpointIO"
PLAIN = "lightning_fabric.plugins.io.TorchCheckpointIO"


@pytest.mark.parametrize("devices", ["1", "2"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--trainer.strategy=ddp_spawn"], "use 'ddp'"),
        (["--trainer.strategy=ddp_fork"], "use 'ddp'"),
        (["--trainer.strategy=ddp_notebook_find_unused_parameters_false"], "use 'ddp'"),
        (["--trainer.strategy=DDPStrategy", "--trainer.strategy.start_method=fork"], "use 'ddp'"),
        (
            ["--trainer.strategy={class_path: own.Scattered}"],
            "Scattered does not write .* use 'ddp'",
        ),
        ([f"--trainer.plugins={ASYNC}"], "AsyncCheckpointIO, .* leave it out"),
        (
            ["--trainer.strategy=DDPStrategy", f"--trainer.strategy.checkpoint_io={ASYNC}"],
            "AsyncCheckpointIO, .* leave it out",
        ),
    ],
    ids=str,
)
def test_what_would_not_write_checkpoints_our_way_is_refused(
    settings, message, devices, write_config, write_module, capsys
):
    write_module(OWN_STRATEGY)
    cpu = ["--trainer.accelerator", "cpu", "--trainer.devices", devices]

    code = main(["fit", "--config", write_config(), *cpu, *settings])

    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: .*{message}", line)
    assert not list(Path("runs").glob("*"))


def test_lightnings_plain_writer_of_checkpoints_gives_way_to_the_atomic_one(write_config):
    assert main(["fit", "--config", write_config(), f"--trainer.plugins=[{PLAIN}]"]) == 0

    last = Path("runs/tiny/version_0/checkpoints/last.ckpt")
    assert b"sha256:" in last.read_bytes()[-256:]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["validate", "test"])
def test_two_ranks_measure_what_one_measures(verb, trained, capsys):
    checkpoint = ["--ckpt_path", str(trained)]
    assert main([verb, *checkpoint]) == 0
    expected = printed_values(capsys.readouterr().out)

    run = classify(verb, *checkpoint, *TWO_RANKS)

    assert run.returncode == 0, run.stderr
    assert len(expected) == 4
    assert printed_values(run.stdout) == pytest.approx(expected, abs=1.1e-4)
    assert list(Path().iterdir()) == []


OF = "torchmetrics.classification.Multiclass"
UNBALANCED = {
    "model.metrics": {
        "recall": {"class_path": f"{OF}Recall"},
        "auroc": {"class_path": f"{OF}AUROC"},
        "error": {"class_path": f"{OF}CalibrationError"},
    },
    "model.class_weights": {"0": 3},
    "model.moving_average": 0.9,
    "data.init_args.sampler": "balanced",
    "trainer.callbacks": [{"class_path": "own.Notes"}],
}


@pytest.mark.slow
def test_two_ranks_agree_on_metrics_weights_classes_and_average(write_config, capsys):
    Path("own.py").write_text(OWN_CODE)

    run = classify("fit", "--config", write_config(UNBALANCED), *TWO_RANKS)

    assert run.returncode == 0, run.stderr
    ranks = [torch.load(f"rank_{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in ranks[0]["state"].items():
        assert torch.equal(value, ranks[1]["state"][name])
    checkpoint = ["--ckpt_path", "runs/tiny/version_0"]
    capsys.readouterr()
    assert main(["test", *checkpoint]) == 0
    expected = printed_values(capsys.readouterr().out)
    both = classify("test", *checkpoint, *TWO_RANKS)
    assert both.returncode == 0, both.stderr
    assert len(expected) == 7
    assert printed_values(both.stdout) == pytest.approx(expected, abs=1.1e-4)


STATISTICS = """
import torch
from pytorch_lightning.callbacks import Callback


class Statistics(Callback):
    seen = ()

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 0:
            state = {name: value.clone() for name, value in pl_module.network.named_buffers()}
            self.seen = [*self.seen, state]
            torch.save(self.seen, f"rank_{trainer.global_rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("average", [None, 0.9])
def test_two_ranks_validate_with_the_same_statistics_inside_accumulated_gradients(
    average, write_config
):
    Path("own.py").write_text(STATISTICS)
    changes = {
        "model.network": {"class_path": "classifier.networks.SmallResNet"},
        "model.moving_average": average,
        "trainer.accumulate_grad_batches": 3,
        "trainer.val_check_interval": 2,
        "trainer.max_epochs": 1,
        "trainer.callbacks": [{"class_path": "own.Statistics"}],
    }

    run = classify("fit", "--config", write_config(changes), *TWO_RANKS)

    assert run.returncode == 0, run.stderr
    first, second = (torch.load(f"rank_{rank}.pt", weights_only=True) for rank in range(2))
    assert len(first) == len(second) >= 2
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_normal_run_of_two_ranks_prints_no_noise(write_config):
    run = classify("fit", "--config", write_config(), *TWO_RANKS)

    assert run.stderr == ""


@pytest.mark.slow
def test_two_ranks_resume_in_the_folder_of_the_run(write_config):
    config = write_config()
    assert classify("fit", "--config", config, *TWO_RANKS).returncode == 0
    folder = Path("runs/tiny/version_0")

    run = classify("fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "3")

    assert run.returncode == 0, run.stderr
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [row["step"] for row in runs.read_metrics(folder)] == ["4", "8", "12"]
    assert len(runs.read_record(folder)["resumed"]) == 1


@pytest.mark.slow
def test_ranks_that_torchrun_starts_share_one_run(write_config):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")

    run = classify(
        *("-m", "classifier", "fit", "--config", write_config(), *TWO_RANKS), launcher=launcher
    )

    assert run.returncode == 0, run.stderr
    assert_one_complete_run(Path("runs/tiny/version_0"))


@pytest.mark.slow
def test_a_mistake_under_two_ranks_is_told_once(write_config):
    config = write_config({"data.init_args.batch_size": 0})

    run = classify("fit", "--config", config, *TWO_RANKS)

    assert run.returncode == 2
    assert len(run.stderr.splitlines()) <= 3
    assert "batch_size" in run.stderr


@pytest.mark.slow
def test_predictions_under_two_ranks_are_complete_and_in_order_or_refused(trained):
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        Image.new("L", (8, 8), 50 * number).save(name)

    run = classify("predict", "--ckpt_path", str(trained), "--images", *names, *TWO_RANKS)

    if run.returncode == 2:
        assert "devices" in run.stderr
    else:
        rows = Path("predictions.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in rows[1:]] == names


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["true", "false", "7"])
def test_two_ranks_share_out_the_training_images_whatever_the_seed(seed, write_config):
    Path("own.py").write_text(OWN_CODE)
    changes = {
        "trainer.callbacks": [{"class_path": "own.Notes"}],
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 1.0,
        "data.init_args.batch_size": 647,  # half of the 1,295 images
    }

    run = classify("fit", "--config", write_config(changes), "--seed_everything", seed, *TWO_RANKS)

    assert run.returncode == 0, run.stderr
    data = Digits()
    data.setup("fit")
    left = Counter(map(bytes_of, data.train_set.images))
    for rank in range(2):
        images = torch.load(f"rank_{rank}.pt", weights_only=True)["images"]
        assert len(images) == 647
        left.subtract(map(bytes_of, images))
    assert min(left.values()) == 0
    assert left.total() == 1
    recorded = runs.read_record(Path("runs/tiny/version_0"))["seed"]
    assert recorded is False if seed == "false" else type(recorded) is int


def bytes_of(image):
    return image.numpy().tobytes()


HANGS = """
import os
import signal
import time

from pytorch_lightning.callbacks import Callback

from classifier.callbacks import rank_watch

rank_watch.HANG_SECONDS = 4


class Hangs(Callback):
    "Lets a rank hang before or inside its fifth step."

    def __init__(self, rank: int, how: str) -> None:
        self.rank, self.how = rank, how

    def on_train_batch_end(self, trainer, *_) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, 4):
            time.sleep(1)  # five times what lies between two beats
            if self.how == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "how"),
    [
        (1, "sleeps"),
        (1, "stops"),
        (0, "sleeps"),
        (0, "stops"),
    ],
)
def test_a_rank_that_hangs_is_named_and_ends_the_job(rank, how, write_config):
    Path("own.py").write_text(HANGS)
    callback = {"class_path": "own.Hangs", "init_args": {"rank": rank, "how": how}}

    ended = classify("fit", "--config", write_config({"trainer.callbacks": [callback]}), *TWO_RANKS)

    assert ended.returncode == (-9 if (rank, how) == (0, "stops") else 1)
    first, last = ended.stderr.splitlines()
    place = r"\S*own\.py:\d+ \(on_train_batch_end\)" if how == "sleeps" else ".*"
    assert re.match(rf"error: rank {rank} \(PID \d+ on \S+, last at {place}\) did not", first)
    assert first.endswith("the other ranks wait. Resume with")
    assert last == "  classifier fit --ckpt_path runs/tiny/version_0"
