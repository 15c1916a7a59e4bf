"""The same config gives the same bits, whatever else is done meanwhile."""

import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import storms
import torch
import yaml
from conftest import put
from PIL import Image
from torch.utils.data import DataLoader

from classifier.__main__ import main
from classifier.data.loader import TrainLoader
from classifier.data.sets import EpochSampler, MemorySet, identity_collate

OWN = """
import random

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from classifier.data import ImageFolder


class Jitter(nn.Module):
    "A transform of somebody who draws from all three generators."

    def forward(self, image):
        shift = random.randrange(9) + np.random.randint(9) + int(torch.randint(9, ()))
        return (image.int() + shift).clamp(0, 255).to(torch.uint8)


class Restarting(ImageFolder):
    "Starts its worker processes anew in each epoch."

    def _loader(self, *arguments, **settings):
        loader = super()._loader(*arguments, **settings)
        object.__setattr__(loader, "persistent_workers", False)
        return loader


def draw(self, *_, **__):
    torch.rand(3)
    random.random()
    np.random.rand()


class Draws(Callback):
    "Draws random numbers wherever no step is under way."


for hook in (
    "on_fit_start",
    "on_sanity_check_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
):
    setattr(Draws, hook, draw)
"""
CONFIG = """\
seed_everything: 3
trainer:
  max_epochs: 2
  enable_progress_bar: false
model:
  network: {class_path: classifier.networks.MNISTNet, init_args: {width: 4, dropout: 0.5}}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
data:
  class_path: classifier.data.ImageFolder
  init_args:
    root: ../images
    image_size: 16
    batch_size: 4
    num_workers: 0
    train_transform:
      - {class_path: torchvision.transforms.v2.RandomCrop, init_args: {size: 16}}
      - {class_path: own.Jitter}
    augment: [{class_path: classifier.augment.RandomShift, init_args: {max_shift: 1}}]
    mix: {class_path: torchvision.transforms.v2.MixUp}
"""


def logger(name):
    return {"class_path": f"pytorch_lightning.loggers.{name}", "init_args": {"save_dir": "logs"}}


def callbacks(*names):
    return {"trainer.callbacks": [{"class_path": name} for name in names]}


def workers(number):
    return {"data.init_args.num_workers": number}


FAST = {
    "two workers": workers(2),
    "no validation": {"trainer.limit_val_batches": 0},
    "validation twice an epoch": {"trainer.val_check_interval": 0.5},
    "callbacks that draw": callbacks("own.Draws"),
}
SLOW = {
    "one worker": workers(1),
    "four workers": workers(4),
    "two workers, begun anew": {**workers(2), "data.class_path": "own.Restarting"},
    "four workers, begun anew": {**workers(4), "data.class_path": "own.Restarting"},
    "workers, no validation": {**workers(2), "trainer.limit_val_batches": 0},
    "workers begun anew, no validation": {
        **workers(2),
        "data.class_path": "own.Restarting",
        "trainer.limit_val_batches": 0,
    },
    "workers, validation twice": {**workers(2), "trainer.val_check_interval": 0.5},
    "workers and callbacks that draw": {**workers(2), **callbacks("own.Draws")},
    "validation every other epoch": {"trainer.check_val_every_n_epoch": 2},
    "one batch of validation": {"trainer.limit_val_batches": 1},
    "larger batches of validation": {"data.init_args.eval_batch_size": 7},
    "no sanity check": {"trainer.num_sanity_val_steps": 0},
    "a long sanity check": {"trainer.num_sanity_val_steps": -1},
    "loaders made anew": {"trainer.reload_dataloaders_every_n_epochs": 1},
    "a progress bar": {"trainer.enable_progress_bar": True},
    "two loggers": {"trainer.logger": [logger("TensorBoardLogger"), logger("CSVLogger")]},
    "no logger": {"trainer.logger": False},
    "metrics of every step": {"trainer.log_every_n_steps": 1},
    "a checkpoint of every step": {"save_every": {"steps": 1}},
    "other callbacks": callbacks("ModelSummary", "LearningRateMonitor", "Timer", "Checkpoint"),
    "search for anomalies": {"trainer.detect_anomaly": True},
    "deterministic algorithms": {"trainer.deterministic": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with 42 noisy images of 20 x 20 pixels, and the code of a user."""
    root = tmp_path_factory.mktemp("determinism")
    noise = np.random.default_rng(0)
    for number in range(42):
        path = root / "images" / ("dark" if number % 2 else "light") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 128, (20, 20, 3)) + 127 * (number % 2 == 0)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    (root / "own.py").write_text(OWN)
    return root


@pytest.fixture(scope="module")
def train(folder):
    """Trains with changes of the config; returns a digest of all that was learnt."""

    def run(**changes):
        config = yaml.safe_load(CONFIG)
        put(config, changes)
        here = folder / f"fit_{len(list(folder.iterdir()))}"
        here.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(here)
            shutil.copy(folder / "own.py", "own.py")
            Path("tiny.yaml").write_text(yaml.safe_dump(config))
            torch.set_num_threads(1)
            assert main(["fit", "--config", "tiny.yaml"]) == 0
        checkpoint = torch.load(
            here / "runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True
        )
        assert checkpoint["global_step"] == 16
        return storms.digest([checkpoint["state_dict"], checkpoint["optimizer_states"]])

    return run


@pytest.fixture(scope="module")
def expected(train):
    """What is learnt without workers, with one validation an epoch."""
    return train()


def test_another_seed_learns_something_else(train, expected):
    assert train(seed_everything=4) != expected


@pytest.mark.parametrize("changes", FAST.values(), ids=FAST)
def test_the_same_config_gives_the_same_bits(changes, train, expected):
    assert train(**changes) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Lightning about settings that nobody should need
@pytest.mark.parametrize("changes", SLOW.values(), ids=SLOW)
def test_the_same_config_gives_the_same_bits_whatever_else_is_done(changes, train, expected):
    assert train(**changes) == expected


# ---- what a batch and its step depend on ----


def loader(epoch=0, position=0, seed=0, ranks=1, rank=0):
    """The training batches of 48 numbered images, at a place of a training."""
    numbers = torch.arange(48)
    images = MemorySet(numbers.to(torch.uint8).reshape(48, 1, 1, 1), numbers)
    sampler = EpochSampler(images, shuffle=True, num_replicas=ranks, rank=rank, seed=seed)
    batches = DataLoader(images, 4, sampler=sampler, collate_fn=identity_collate, drop_last=True)
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch, ready=position))
    trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(
            epoch_progress=progress, epoch_loop=SimpleNamespace(batch_progress=progress)
        ),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return TrainLoader(batches, trainer)


def steps(loader):
    """What each step sees and draws from the three generators."""
    return [
        (labels.tolist(), torch.rand(()).item(), random.random(), np.random.rand())  # noqa: NPY002
        for _, labels in loader
    ]


def test_an_epoch_that_was_broken_off_anywhere_goes_on_with_the_same_steps():
    for epoch in (0, 3):
        whole = steps(loader(epoch))
        assert len(whole) == 12
        for position in range(13):
            assert steps(loader(epoch, position)) == whole[position:]


def test_what_others_draw_between_the_steps_does_not_matter():
    expected = steps(loader())
    found = []

    for _, labels in loader():
        draws = torch.rand(()).item(), random.random(), np.random.rand()  # noqa: NPY002
        found.append((labels.tolist(), *draws))
        torch.manual_seed(len(found))
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002

    assert found == expected


def test_seed_epoch_position_and_rank_each_give_other_draws():
    places = [
        {"seed": seed, "epoch": epoch, "ranks": 2, "rank": rank}
        for seed in (0, 1)
        for epoch in (0, 1)
        for rank in (0, 1)
    ]

    draws = [step[1:] for place in places for step in steps(loader(**place))]

    assert len(draws) == 8 * 6
    for column in zip(*draws, strict=True):
        assert len(set(column)) == len(column)


@pytest.mark.parametrize("position", [0, 2, 5])
def test_two_ranks_share_an_epoch_without_an_image_twice_wherever_it_goes_on(position):
    whole = [steps(loader(1, ranks=2, rank=rank)) for rank in (0, 1)]
    rest = [steps(loader(1, position, ranks=2, rank=rank)) for rank in (0, 1)]

    assert rest == [own[position:] for own in whole]
    seen = [number for own in whole for labels, *_ in own for number in labels]
    assert sorted(seen) == list(range(48))


def test_batches_that_were_seen_are_not_read_again(monkeypatch):
    read = []
    batches = loader(0, 9)
    images = batches.loader.dataset
    original = images.__getitems__
    monkeypatch.setattr(images, "__getitems__", lambda keys: read.append(keys) or original(keys))

    list(batches)

    assert len(read) == 3
