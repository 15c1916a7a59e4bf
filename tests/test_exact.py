"""A training that is killed and goes on ends with the same bits as one that is left alone.

Measured on two shared cores, 20 configurations, nothing different in any of the runs: 160 runs with
572 kill -9, of which 242 went on inside an epoch and 148 between two (10 min); 40 runs with 142
SIGTERM and as many with 127 SIGINT (5 min); on two ranks 16 runs with 72 kill -9 and 16 with
61 SIGTERM (7 min). Likewise the 15 configurations with schedules filled in, groups, metrics, class
weights, a balanced sampler, an average and pretrained weights: 45 runs with 186 kill -9, of which
100 went on inside an epoch.
"""

import random
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import storms
import torch
import yaml
from conftest import put
from PIL import Image
from storms import Storm

from classifier.networks import MNISTNet

BASE = """\
seed_everything: 1
save_every: {steps: 2}
trainer:
  max_epochs: 3
  limit_train_batches: 12
  limit_val_batches: 2
model:
  network: {class_path: classifier.networks.MNISTNet, init_args: {width: 4}}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
data:
  class_path: classifier.data.Digits
  init_args: {batch_size: 16}
"""


def plateau(**arguments):
    return {
        "class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "init_args": {"factor": 0.5, "patience": 0, "threshold": 0.5, **arguments},
    }


def schedule(name, **arguments):
    return {"class_path": f"torch.optim.lr_scheduler.{name}", "init_args": arguments}


def callback(name, **arguments):
    return [{"class_path": name, "init_args": arguments}]


def folder_of_images(**arguments):
    return {
        "data": {
            "class_path": "classifier.data.ImageFolder",
            "init_args": {"root": "../images", "image_size": 16, "batch_size": 4, **arguments},
        }
    }


AUGMENT = [
    {"class_path": "classifier.augment.RandomShift", "init_args": {"max_shift": 1}},
    {"class_path": "torchvision.transforms.v2.RandomInvert"},
]
FROZEN = [
    {"match": ["features.0", "features.2"], "freeze_epochs": 1},
    {"match": "features.4", "freeze_epochs": 2, "weight_decay": 0.1},
    {"match": "features.6", "freeze": True},
    {"match": "head", "lr_scale": 5},
]
EMA = "pytorch_lightning.callbacks.EMAWeightAveraging"
KAPPA = {"class_path": "torchmetrics.classification.MulticlassCohenKappa"}
CONFIGS = {
    "every step": {"save_every": {"steps": 1}},
    "every clean point": {"save_every": {"minutes": 0}},
    "plateau of val_loss": {"model.lr_scheduler": plateau(), "trainer.max_epochs": 5},
    "plateau of train_loss": {"model.lr_scheduler": plateau(), "model.monitor": "train_loss"},
    "validation twice an epoch": {"trainer.val_check_interval": 0.5},
    "validation thrice, not at the end": {"trainer.val_check_interval": 5, "save_every.steps": 1},
    "validation every other epoch": {"trainer.check_val_every_n_epoch": 2, "trainer.max_epochs": 4},
    "accumulation of 3": {"trainer.accumulate_grad_batches": 3},
    "accumulation of 5": {"trainer.accumulate_grad_batches": 5, "save_every.steps": 1},
    "steps instead of epochs": {"trainer.max_epochs": -1, "trainer.max_steps": 30},
    "early stopping": {
        "trainer.callbacks": callback("EarlyStopping", monitor="val_loss", min_delta=10.0),
        "trainer.max_epochs": 8,
        "save_every.steps": None,
    },
    "moving average": {"trainer.callbacks": callback(EMA, decay=0.9)},
    "mixup and augmentation": {
        "data.init_args.mix": {"class_path": "torchvision.transforms.v2.MixUp"},
        "data.init_args.augment": AUGMENT,
    },
    "one cycle by step": {
        "model.lr_scheduler": {
            "class_path": "torch.optim.lr_scheduler.OneCycleLR",
            "init_args": {"max_lr": 0.05, "total_steps": 36},
        },
        "model.interval": "step",
    },
    "one batch an epoch": {"trainer.limit_train_batches": 1, "trainer.max_epochs": 12},
    "momentum and a schedule": {
        "model.optimizer": {
            "class_path": "torch.optim.SGD",
            "init_args": {"lr": 0.5, "momentum": 0.9, "weight_decay": 1.0e-3},
        },
        "model.no_decay_norm_bias": True,
        "trainer.max_epochs": 4,
        "save_every.steps": None,
        "model.lr_scheduler": {
            "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "init_args": {"T_max": 3},
        },
    },
    "checkpoints of the user": {
        "trainer.callbacks": callback("ModelCheckpoint", every_n_train_steps=5, save_top_k=-1)
    },
    "schedule of a length filled in": {
        "model.lr_scheduler": schedule("CosineAnnealingLR"),
        "model.interval": "step",
        "model.warmup": {"epochs": 1.5},
        "trainer.accumulate_grad_batches": 3,
    },
    "one cycle with a warm-up": {
        "model.lr_scheduler": schedule("OneCycleLR", max_lr=0.05),
        "model.warmup": {"steps": 15},
        "model.groups": [{"match": "head", "lr_scale": 4}],
        "model.no_decay_norm_bias": True,
    },
    "frozen for an epoch": {"model.groups": [{"match": "backbone", "freeze_epochs": 1}]},
    "frozen in part, averaged": {
        "model.groups": FROZEN,
        "model.warmup": {"epochs": 0.75},
        "trainer.callbacks": callback(EMA, decay=0.9),
        "trainer.max_epochs": 4,
    },
    "frozen, accumulation and plateau": {
        "model.groups": FROZEN,
        "model.warmup": {"steps": 3},
        "model.lr_scheduler": plateau(),
        "trainer.accumulate_grad_batches": 5,
        "trainer.max_epochs": 4,
        "save_every.steps": 1,
    },
    "frozen, steps skipped": {
        "model.groups": FROZEN,
        "model.skip_bad_steps": True,
        "model.lr_scheduler": schedule("PolynomialLR"),
        "model.optimizer": {
            "class_path": "torch.optim.SGD",
            "init_args": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1.0e-2},
        },
        "trainer.max_epochs": 4,
    },
    "layers at rates of their own": {
        "model.network": {
            "class_path": "timm.create_model",
            "init_args": {"model_name": "test_vit"},
            "dict_kwargs": {"img_size": 8, "patch_size": 4},
        },
        "model.layer_decay": 0.7,
        "model.warmup": {"epochs": 1},
        "model.lr_scheduler": schedule("CosineAnnealingLR"),
    },
    "chosen metrics": {
        "model.metrics": {"auroc": {"class_path": "torchmetrics.AUROC"}, "kappa": KAPPA},
        "model.monitor": "val_kappa",
        "model.lr_scheduler": plateau(),
        "trainer.val_check_interval": 0.5,
    },
    "class weights": {
        "model.class_weights": "balanced",
        "data.init_args.mix": {"class_path": "torchvision.transforms.v2.MixUp"},
        "trainer.accumulate_grad_batches": 3,
    },
    "balanced sampler": {"data.init_args.sampler": "balanced", "trainer.limit_train_batches": 1.0},
    "average that warms up": {"model.moving_average": 0.9, "trainer.val_check_interval": 0.5},
    "all for unbalanced classes": {
        "model.metrics": {"kappa": KAPPA},
        "model.class_weights": {"1": 3, "2": 0.5},
        "model.moving_average": 0.99,
        "data.init_args.sampler": "balanced",
    },
    "files, balanced, two workers": folder_of_images(num_workers=2, sampler="balanced"),
    "started from a file of weights": {
        "model.init_from": "../weights.pt",
        "model.groups": [{"match": "backbone", "freeze_epochs": 1}],
        "model.moving_average": 0.99,
    },
    "photos with pretrained weights": {
        **folder_of_images(
            image_size=32, augment=[{"class_path": "classifier.augment.RandomOrientation"}]
        ),
        "model.network": {
            "class_path": "classifier.networks.efficientnet_lite0",
            "init_args": {"pretrained": True},
        },
        "model.groups": [
            {"match": "*bn*", "freeze": True},
            {"match": "head", "lr_scale": 5},
            {"match": ["conv_stem", "blocks.0", "blocks.1", "blocks.2"], "freeze": True},
            {"match": "backbone", "freeze_epochs": 1},
        ],
        "model.lr_scheduler": schedule("CosineAnnealingLR"),
        "model.interval": "step",
        "model.warmup": {"epochs": 1},
        "model.no_decay_norm_bias": True,
        "model.moving_average": 0.99,
    },
    "files": folder_of_images(num_workers=0),
    "files, two workers": folder_of_images(num_workers=2),
    "files, decoded once": folder_of_images(in_memory=True, num_workers=0),
}
TABLE = {
    "data": {
        "class_path": "classifier.data.Table",
        "init_args": {
            "path": "../table.csv",
            "root": "../images",
            "image_size": 16,
            "batch_size": 4,
            "num_workers": 0,
        },
    }
}
OF_TORCHVISION = {
    "class_path": "torchvision.datasets.ImageFolder",
    "init_args": {"root": "../images"},
}
SKIPPING = {"root": "../damaged", "on_error": "skip", "max_skipped": 0.2}
DATA_CONFIGS = {
    "table with groups": TABLE,
    "table, a fold of groups": {**TABLE, "data.init_args.folds": 3, "data.init_args.fold": 1},
    "groups in paths, a fold": folder_of_images(
        group=r"\d(?=\.)", folds=4, fold=3, num_workers=2, sampler="balanced"
    ),
    "data set by class path": {
        "data": {
            "class_path": "classifier.data.Datasets",
            "init_args": {
                "train": OF_TORCHVISION,
                "image_size": 16,
                "batch_size": 4,
                "num_workers": 2,
            },
        }
    },
    "skipped images": folder_of_images(**SKIPPING, num_workers=2),
    "skipped images, balanced, cached": folder_of_images(
        **SKIPPING, num_workers=0, cache="disk", sampler="balanced"
    ),
    "cache in memory": folder_of_images(num_workers=2, cache="memory"),
    "cache on disk": folder_of_images(root="../photos", num_workers=2, cache="disk"),
    "cache on disk, no workers": folder_of_images(root="../photos", num_workers=0, cache="disk"),
    "crops drawn before decoding": folder_of_images(root="../photos", num_workers=2),
}


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Folders of 96 noisy images in two classes: small, damaged in part, or large JPEGs; a table.

    Those of the table are of eight groups.
    """
    root = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    rows = ["image,label,patient"]
    for number in range(96):
        name = "dark" if number % 2 else "light"
        for folder in ("images", "damaged", "photos"):
            (root / folder / name).mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 128, (20, 20, 3)) + 127 * (number % 2 == 0)
        image = Image.fromarray(pixels.astype(np.uint8))
        image.save(root / "images" / name / f"{number}.png")
        whole = (root / "images" / name / f"{number}.png").read_bytes()
        damaged = root / "damaged" / name / f"{number}.png"
        damaged.write_bytes(whole[: len(whole) // (1 + (number % 11 == 0))])
        image.resize((320, 240)).save(root / "photos" / name / f"{number}.jpg")
        rows.append(f"{name}/{number}.png,{name},{number % 8}")
    (root / "table.csv").write_text("\n".join(rows))
    return root


def write(folder, changes):
    """Writes the base config with changes by dotted key."""
    config = yaml.safe_load(BASE)
    put(config, changes)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def storm(folder, images, name, number, repeats, ranks=1):
    """Disturbs a training some times, and compares each with a calm one."""
    folder = folder / name.replace(" ", "_").replace(",", "")
    shutil.copytree(images, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    torch.save(MNISTNet(width=4).state_dict(), folder / "weights.pt")
    config = write(folder, {**CONFIGS, **DATA_CONFIGS}[name])
    seconds = storms.calm(folder / "calm", config, ranks)
    expected = storms.facts(folder / "calm")
    chance = random.Random(f"{name} {number}")
    total = Storm()
    for repeat in range(repeats):
        place = folder / f"run_{repeat}"
        total += storms.disturb(place, config, number, seconds, chance, ranks)
        if wrong := storms.differences(expected, storms.facts(place)):
            total.different.append(f"{name} {repeat}: {', '.join(wrong)}")
        else:
            shutil.rmtree(place)
    print(name, total, f"{seconds:.1f} s", flush=True)
    return total


def storm_all(folder, images, number, repeats, configs=CONFIGS):
    """Disturbs a training of each config, two at a time."""
    storms.warm_up()
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda name: storm(folder, images, name, number, repeats), configs)
    return sum(done, Storm())


@pytest.mark.slow
def test_no_storm_of_kills_changes_a_bit(tmp_path, images):
    total = storm_all(tmp_path, images, signal.SIGKILL, repeats=8)

    print(total)
    assert total.different == []
    assert total.runs >= 150
    assert total.signals >= 500
    assert min(total.inside, total.between) >= 50


@pytest.mark.slow
def test_no_storm_of_kills_over_any_kind_of_data_changes_a_bit(tmp_path, images):
    total = storm_all(tmp_path, images, signal.SIGKILL, 12, DATA_CONFIGS)

    print(total)
    assert total.different == []
    assert total.signals >= 300
    assert min(total.inside, total.between) >= 30


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_no_storm_of_signals_changes_a_bit(tmp_path, images, number):
    total = storm_all(tmp_path, images, number, repeats=2)

    print(total)
    assert total.different == []
    assert total.signals >= 100


RANKS = [
    *("every step", "accumulation of 3", "plateau of val_loss", "validation twice an epoch"),
    *("frozen in part, averaged", "all for unbalanced classes"),
]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_no_storm_on_two_ranks_changes_a_bit(tmp_path, images, number):
    storms.warm_up()

    total = sum((storm(tmp_path, images, name, number, 4, ranks=2) for name in RANKS), Storm())

    print(total)
    assert total.different == []
    assert total.signals >= 40
