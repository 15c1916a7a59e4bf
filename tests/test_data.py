"""The contract of all data modules, on tiny data sets that the tests write."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from torch import nn
from torchvision import datasets
from torchvision.transforms import v2

from classifier.data import (
    CIFAR10,
    CIFAR100,
    MNIST,
    Digits,
    FashionMNIST,
    ImageDataModule,
    ImageFolder,
)
from classifier.data.sets import EpochSampler, MemorySet
from classifier.splits import random_order, stratified_split

# Lightning asks PyTorch in an outdated way; it does no harm.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    path.write_bytes(header + values.tobytes())


def tiny_mnist(root: Path, name: str = "MNIST") -> Path:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, number in (("train", 60), ("t10k", 20)):
        pixels = random.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", pixels)
        labels = np.arange(number, dtype=np.uint8) % 10
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return root


def tiny_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = np.random.default_rng(0)
    for source, key, meta_key, num_classes in (
        (datasets.CIFAR10, "labels", "label_names", 10),
        (datasets.CIFAR100, "fine_labels", "fine_label_names", 100),
    ):
        folder = root / source.base_folder
        folder.mkdir()
        for part in ("train_list", "test_list"):
            names = [name for name, _ in getattr(source, part)]
            # The checksums are those of the full files; without one, torchvision only looks for
            # the file.
            monkeypatch.setattr(source, part, [[name, None] for name in names])
            for name in names:
                pixels = random.integers(0, 256, (2 * num_classes, 3072), dtype=np.uint8)
                content = {"data": pixels, key: list(range(num_classes)) * 2}
                (folder / name).write_bytes(pickle.dumps(content))
        monkeypatch.setattr(source, "meta", {**source.meta, "md5": None})
        meta = {meta_key: [str(index) for index in range(num_classes)]}
        (folder / source.meta["filename"]).write_bytes(pickle.dumps(meta))
    return root


def tiny_folder(root: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog", "hen"):
        (root / name).mkdir(parents=True)
        for index in range(8):
            pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


KINDS = ("digits", "mnist", "fashion", "cifar10", "cifar100", "folder", "folder in memory")


@pytest.fixture(params=KINDS)
def data(request, tmp_path, monkeypatch) -> ImageDataModule:
    if request.param == "digits":
        return Digits(batch_size=8)
    if request.param in ("mnist", "fashion"):
        source = {"mnist": MNIST, "fashion": FashionMNIST}[request.param]
        return source(tiny_mnist(tmp_path, source.__name__), download=False, batch_size=8)
    if request.param in ("cifar10", "cifar100"):
        source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[request.param]
        return source(tiny_cifar(tmp_path, monkeypatch), download=False, batch_size=8)
    in_memory = request.param == "folder in memory"
    root = tiny_folder(tmp_path / "animals")
    return ImageFolder(root, image_size=8, in_memory=in_memory, num_workers=0, batch_size=8)


def prepared(data: ImageDataModule) -> ImageDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def test_batches_are_bytes_with_class_numbers(data):
    images, labels = next(iter(prepared(data).train_dataloader()))

    assert images.dtype == torch.uint8
    assert images.shape[:2] == (8, data.in_channels)
    assert images.is_contiguous()
    assert labels.dtype == torch.int64
    assert labels.shape == (8,)
    assert labels.max() < data.num_classes == len(data.class_names)


def test_normalisation_has_one_number_for_each_channel(data):
    assert len(data.mean) == len(data.std) == data.in_channels
    assert all(0 < value < 1 for value in [*data.mean, *data.std])


def test_every_set_has_every_class(data):
    prepared(data)

    for images in (data.train_set, data.val_set, data.test_set):
        assert images.labels.unique().tolist() == list(range(data.num_classes))


def test_evaluation_sees_every_image_once_in_order(data):
    prepared(data)

    for loader, images in (
        (data.val_dataloader(), data.val_set),
        (data.test_dataloader(), data.test_set),
    ):
        assert torch.equal(torch.cat([labels for _, labels in loader]), images.labels)


def test_the_three_sets_share_no_image(data):
    prepared(data)

    seen = [
        {image.numpy().tobytes() for image in pixels(images)}
        for images in (data.val_set, data.test_set)
    ]

    assert not seen[0] & seen[1]
    if isinstance(data.train_set, MemorySet):
        train = {image.numpy().tobytes() for image in data.train_set.images}
        assert not train & (seen[0] | seen[1])


def pixels(images):
    return images.__getitems__(list(range(len(images))))[0]


def test_a_restored_description_needs_no_disk(data, tmp_path):
    description = data.describe()
    elsewhere = MNIST(root=tmp_path / "nowhere", download=False)

    elsewhere.restore(description)

    assert elsewhere.describe() == description
    assert elsewhere.class_names == data.class_names
    assert elsewhere.num_classes == data.num_classes
    assert (elsewhere.mean, elsewhere.std) == (data.mean, data.std)


def test_other_classes_than_the_restored_ones_are_refused(data):
    description = data.describe()
    wrong = [*description["class_names"][:-1], "unicorn"]
    data.restore({**description, "class_names": wrong})

    with pytest.raises(ValueError, match=r"class \d+ is '.*', expected 'unicorn'"):
        data.setup("test")


def test_files_are_read_in_order_without_the_data_set(data, tmp_path, monkeypatch):
    paths = [tmp_path / f"{index}.png" for index in range(40)]
    for index, path in enumerate(paths):
        Image.new("RGB", (20, 30), (6 * index, 0, 0)).save(path)
    paths[5].write_text("no image")
    monkeypatch.setattr(type(data), "setup", None)  # must not be called
    monkeypatch.setattr(type(data), "prepare_data", None)

    data.files = paths
    batches = list(data.predict_dataloader())

    assert [batch.images.shape[1] for batch in batches] == [data.in_channels] * 2
    readable = [str(path) for path in paths if path != paths[5]]
    assert [file for batch in batches for file in batch.files] == readable
    assert batches[0].unreadable == [(str(paths[5]), "not an image, or damaged at its start.")]
    reds = torch.cat([batch.images[:, 0].float().mean((1, 2)) for batch in batches])
    assert (reds.diff() > 0).all()


def test_a_batch_of_unreadable_files_is_empty(tmp_path):
    data = Digits()
    data.files = [tmp_path / "gone.png"]
    batch = next(iter(data.predict_dataloader()))

    assert batch.images.shape == (0, 1, 1, 1)
    assert batch.unreadable == [(str(tmp_path / "gone.png"), "no such file.")]


class Sevens(nn.Module):
    def forward(self, images):
        return torch.full_like(images, 7)


class Probe(pl.LightningModule):
    """Trains nothing and remembers the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append((self.current_epoch, *batch))
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def epoch(self, number):
        return torch.cat([images for epoch, images, _ in self.seen["train"] if epoch == number])


def trainer(**settings) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "enable_checkpointing": False,
            **quiet,
            **settings,
        }
    )


def test_each_epoch_has_its_own_order_and_the_same_seed_repeats_it():
    probes = [Probe(), Probe()]
    for probe in probes:
        pl.seed_everything(1, verbose=False)
        trainer().fit(probe, datamodule=Digits())

    assert torch.equal(probes[0].epoch(0), probes[1].epoch(0))
    assert torch.equal(probes[0].epoch(1), probes[1].epoch(1))
    assert not torch.equal(probes[0].epoch(0), probes[0].epoch(1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_is_the_one_that_was_interrupted(tmp_path, workers):
    root = tiny_folder(tmp_path / "animals")

    def run(epochs, checkpoint=None):
        pl.seed_everything(1, verbose=False)
        probe, fit = Probe(), trainer(max_epochs=epochs, limit_val_batches=0)
        data = ImageFolder(root, image_size=8, num_workers=workers, batch_size=4)
        fit.fit(probe, datamodule=data, ckpt_path=checkpoint)
        fit.save_checkpoint(tmp_path / "last.ckpt")
        return probe

    whole = run(2)
    run(1)
    resumed = run(2, tmp_path / "last.ckpt")

    assert torch.equal(resumed.epoch(1), whole.epoch(1))  # order and random crops
    assert not torch.equal(whole.epoch(0), whole.epoch(1))


def test_without_a_trainer_each_epoch_has_an_order_of_its_own(data):
    prepared(data)

    def epoch(number, loader=None):
        data.set_epoch(number)
        return torch.cat([images for images, _ in loader or data.train_dataloader()])

    first, second, third = (epoch(number) for number in range(3))
    kept = data.train_dataloader()

    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert torch.equal(epoch(1), second)
    assert torch.equal(epoch(0, kept), first)
    assert torch.equal(epoch(1, kept), second)
    assert torch.equal(epoch(1, data.val_dataloader()), epoch(2, data.val_dataloader()))


def test_without_a_trainer_a_batch_is_augmented_by_hand():
    data = prepared(Digits(augment=[Sevens()], mix=v2.MixUp(alpha=1.0)))
    batch = next(iter(data.train_dataloader()))

    images, shares = data.augmented(batch)

    assert images.allclose(torch.tensor(7.0))  # the two parts of a mixture are rounded
    assert shares.shape == (len(batch[1]), 10)
    assert shares.sum(1).allclose(torch.ones(len(shares)))


def test_only_training_batches_are_augmented_and_mixed():
    probe = Probe()
    data = Digits(augment=[Sevens()], mix=v2.MixUp(alpha=1.0))
    whole = trainer(max_epochs=1)

    whole.fit(probe, datamodule=data)
    whole.test(probe, datamodule=data, verbose=False)

    _, images, labels = probe.seen["train"][0]
    assert images.dtype == torch.float32
    assert torch.allclose(images, torch.tensor(7.0))
    assert labels.shape == (128, 10)
    assert torch.allclose(labels.sum(1), torch.ones(128))
    for stage in ("val", "test"):
        images, labels = probe.seen[stage][0]
        assert images.dtype == torch.uint8
        assert labels.ndim == 1
        assert images.unique().numel() > 10


def test_overfitting_a_batch_repeats_it():
    probe = Probe()

    with pytest.warns(UserWarning, match="You requested to overfit"):
        trainer(overfit_batches=1).fit(probe, datamodule=Digits(batch_size=16))

    assert probe.epoch(0).shape == (16, 1, 8, 8)
    assert torch.equal(probe.epoch(0), probe.epoch(1))


def test_lightning_asks_for_no_workers_where_they_would_not_help(monkeypatch):
    connector = "pytorch_lightning.trainer.connectors.data_connector"
    monkeypatch.setattr(f"{connector}.suggested_max_num_workers", lambda local_world_size: 8)

    trainer(max_epochs=1).fit(Probe(), datamodule=Digits())  # a warning would be an error


def numbered(number: int) -> MemorySet:
    return MemorySet(torch.zeros(number, 1, 1, 1, dtype=torch.uint8), torch.arange(number))


@pytest.mark.parametrize("number", [15, 16, 1])
def test_two_ranks_evaluate_every_image_exactly_once(number):
    ranks = [EpochSampler(numbered(number), False, 2, rank) for rank in (0, 1)]

    assert sorted([*ranks[0], *ranks[1]]) == list(range(number))
    assert [len(rank) for rank in ranks] == [len(list(rank)) for rank in ranks]


def test_two_ranks_train_on_equally_many_different_images():
    ranks = [EpochSampler(numbered(15), True, 2, rank, seed=3) for rank in (0, 1)]

    drawn = [list(rank) for rank in ranks]

    assert [len(rank) for rank in ranks] == [len(keys) for keys in drawn] == [7, 7]
    assert len({*drawn[0], *drawn[1]}) == 14


def test_neighbouring_seeds_share_no_order():
    first, second = (
        EpochSampler(numbered(50), True, seed=0),
        EpochSampler(numbered(50), True, seed=1),
    )
    first.set_epoch(1)

    assert [key % 50 for key in first] != list(second)


def test_a_last_batch_of_fewer_images_is_left_out_unless_it_is_the_only_one():
    data = prepared(Digits(batch_size=1000))
    only = prepared(Digits(batch_size=2000))

    assert [len(labels) for _, labels in data.train_dataloader()] == [1000]
    assert [len(labels) for _, labels in only.train_dataloader()] == [1295]


def test_the_split_depends_on_its_own_seed_alone():
    prints = []
    for seed, split_seed in ((1, 0), (2, 0), (1, 5)):
        pl.seed_everything(seed, verbose=False)
        prints.append(prepared(Digits(split_seed=split_seed)).fingerprint())

    assert prints[0] == prints[1] != prints[2]


def test_the_test_set_does_not_depend_on_the_split_seed():
    sets = [prepared(Digits(split_seed=seed)).test_set for seed in (0, 5)]

    assert torch.equal(sets[0].images, sets[1].images)


def test_a_fingerprint_changes_with_one_pixel():
    data = prepared(Digits())
    before = data.fingerprint()

    data.test_set.images[3, 0, 2, 2] ^= 1

    assert data.fingerprint() != before
    assert len(before) == 16


def test_each_part_has_its_share_of_each_class_within_one_image():
    random = np.random.default_rng(0)
    for seed in range(50):
        counts = random.integers(4, 60, size=5)
        labels = torch.tensor(random.permutation(np.repeat(np.arange(5), counts)))

        parts = stratified_split(labels, [0.2, 0.1], random_order(len(labels), seed), "abcde")

        assert torch.cat(parts).sort().values.tolist() == list(range(len(labels)))
        for part, fraction in zip(parts[1:], (0.2, 0.1), strict=True):
            shares = torch.bincount(labels[part], minlength=5).numpy()
            assert (np.abs(shares - fraction * counts) < 1).all()
            assert (shares >= 1).all()
        again = stratified_split(labels, [0.2, 0.1], random_order(len(labels), seed), "abcde")
        assert all(map(torch.equal, parts, again))


def test_three_images_of_a_class_are_enough_for_three_parts():
    parts = stratified_split(torch.tensor([0, 0, 0]), [0.1, 0.1], torch.arange(3), ["cat"])

    assert [len(part) for part in parts] == [1, 1, 1]


def test_a_class_too_small_to_split_is_named():
    with pytest.raises(ValueError, match="Class 'dog' has 1 images, too few to split into 2 parts"):
        stratified_split(torch.tensor([0, 0, 1]), [0.5], torch.arange(3), ["cat", "dog"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, not 0"),
        ({"val_fraction": 1.0}, "val_fraction is a share of the images, .* not 1.0"),
        ({"val_fraction": 0.0}, "val_fraction is a share of the images, .* not 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Digits(**settings)


def test_given_mean_and_std_replace_the_data_sets_own():
    data = CIFAR10(mean=[0.5], std=[0.2, 0.3, 0.4])

    assert data.mean == [0.5, 0.5, 0.5]
    assert data.std == [0.2, 0.3, 0.4]


def test_a_mean_for_other_channels_is_refused():
    with pytest.raises(ValueError, match="mean has 3 values, but the images have 1 channels"):
        _ = Digits(mean=[0.5, 0.5, 0.5]).mean


def test_a_mean_in_pixel_units_is_refused():
    with pytest.raises(ValueError, match=r"measured on pixels in 0\.\.1"):
        _ = Digits(mean=[125.0]).mean


def test_missing_files_are_reported_with_the_place_and_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MNIST .* in '.*MNIST/raw' .*download to true"):
        MNIST(root=tmp_path, download=False).prepare_data()


def test_a_failed_download_is_reported_with_its_reason(tmp_path, monkeypatch):
    closed_port = "http://127.0.0.1:9/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [closed_port])

    with pytest.raises(FileNotFoundError, match=r"could not be downloaded .*refused.*connection"):
        MNIST(root=tmp_path).prepare_data()


@pytest.mark.parametrize("kind", ["Digits", "MNIST", "CIFAR100", "ImageFolder"])
def test_yaml_reaches_the_arguments_of_the_base(kind):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    config = f"""
        class_path: classifier.data.{kind}
        init_args:
          {"root: somewhere" if kind != "Digits" else ""}
          batch_size: 32
          split_seed: 4
          augment:
          - class_path: torch.nn.Identity
          mix:
            class_path: torchvision.transforms.v2.CutMix
          mean: [0.5]
    """

    data = parser.instantiate(parser.parse_args([f"--data={config}"])).data

    assert (data.batch_size, data.eval_batch_size, data.split_seed) == (32, 128, 4)
    assert isinstance(data.augment[0], nn.Identity)
    assert isinstance(data.mix, v2.CutMix)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"no data sets in {SHARED_DATA}")
@pytest.mark.parametrize("source", [MNIST, FashionMNIST])
def test_mean_and_std_are_those_of_the_training_images(source):
    images, labels = source(root=SHARED_DATA, download=False).load(train=True)

    levels = torch.arange(256) / 255
    shares = images.flatten().bincount(minlength=256).double() / images.numel()
    mean = (shares * levels).sum()
    std = (shares * (levels - mean) ** 2).sum().sqrt()
    assert images.shape == (60_000, 1, 28, 28)
    assert labels.bincount().numel() == 10
    assert source.pixel_mean[0] == pytest.approx(mean.item(), abs=5e-5)
    assert source.pixel_std[0] == pytest.approx(std.item(), abs=5e-5)


def test_mean_and_std_of_the_digits_are_those_of_their_training_images():
    levels = Digits().load(train=True)[0].double() / 255

    assert Digits.pixel_mean[0] == pytest.approx(levels.mean().item(), abs=5e-5)
    assert Digits.pixel_std[0] == pytest.approx(levels.std().item(), abs=5e-5)
