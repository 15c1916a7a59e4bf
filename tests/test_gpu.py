"""What is otherwise on a GPU. Here stand-ins for torch's functions show it without one."""

from types import SimpleNamespace

import pytest
import torch

from classifier.data import Digits
from classifier.data.loader import TrainLoader


def loader_on(device: str) -> TrainLoader:
    """The training batches of Digits, for a trainer whose device is another."""
    data = Digits(batch_size=64)
    data.training_seed = 3
    data.setup("fit")
    count = SimpleNamespace(processed=1, ready=2)  # the second epoch, behind two batches
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=count),
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=count)),
    )
    strategy = SimpleNamespace(root_device=torch.device(device))
    return TrainLoader(data.train_dataloader(), SimpleNamespace(strategy=strategy, fit_loop=loop))


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_each_step_seeds_the_generator_of_its_device(kind, monkeypatch):
    seeds: list[int] = []
    monkeypatch.setattr(getattr(torch, kind), "manual_seed", seeds.append)

    number = len(list(loader_on(kind)))

    assert number == len(set(seeds)) > 10


@pytest.fixture
def pinned(monkeypatch) -> list[bool]:
    """What was allocated, and whether pinned: a stand-in of ``torch.empty``, which cannot here."""
    empty, told = torch.empty, []

    def stand_in(*size, pin_memory=False, **settings):
        told.append(pin_memory)
        return empty(*size, **settings)

    monkeypatch.setattr(torch, "empty", stand_in)
    return told


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_the_batches_of_a_gpu_are_those_of_a_cpu(free, pinned, monkeypatch):
    expected = list(loader_on("cpu"))
    loader = loader_on("cpu")
    monkeypatch.setitem(vars(loader.loader), "pin_memory", True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    pinned.clear()

    for (images, labels), (images_there, labels_there) in zip(loader, expected, strict=True):
        assert images.equal(images_there)
        assert labels.equal(labels_there)
    # What has no room on the GPU is gathered in pinned memory; what has is sent once.
    assert pinned == ([] if free else [True] * 2 * len(expected))


def test_images_are_sent_to_a_gpu_once_if_they_take_less_than_a_quarter_of_what_is_free(
    pinned, monkeypatch
):
    loader = loader_on("cpu")
    monkeypatch.setitem(vars(loader.loader), "pin_memory", True)
    size = loader.loader.dataset.images.nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * size, 0))
    list(loader)
    assert loader.on_gpu is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * size + 4, 0))
    loader.trainer.strategy.root_device = torch.device("meta")
    monkeypatch.setattr(torch, "get_device_module", lambda device: torch.random)

    (images, labels), *_ = loader
    there = loader.on_gpu
    assert images.device.type == labels.device.type == "meta"
    list(loader)
    assert loader.on_gpu is there
