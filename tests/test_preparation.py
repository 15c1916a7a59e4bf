"""Images are prepared as their pretrained weights ask for, unless somebody wrote otherwise."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from classifier.__main__ import main
from classifier.cli import ClassifierCLI
from classifier.data import ImageFolder
from classifier.weights.preparation import preparation_for

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TIMM = "timm.create_model"
VIT = {"model_name": "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "pretrained": True}
ASKED = {
    "torchvision's first weights": (
        ("torchvision.models.resnet50", {"weights": "IMAGENET1K_V1"}),
        {**IMAGENET, "image_size": 224, "interpolation": "bilinear", "crop_share": 0.875},
    ),
    "torchvision's second": (
        ("classifier.networks.torchvision_model", {"name": "resnet50", "weights": "DEFAULT"}),
        {**IMAGENET, "image_size": 224, "interpolation": "bilinear", "crop_share": 224 / 232},
    ),
    "timm's": (
        (TIMM, VIT),
        {
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "image_size": 224,
            "interpolation": "bicubic",
            "crop_share": 0.9,
        },
    ),
    "timm's, changed": (
        (TIMM, {**VIT, "pretrained_cfg_overlay": {"mean": [0.1] * 3, "interpolation": "lanczos"}}),
        {"mean": [0.1] * 3, "std": [0.5] * 3, "image_size": 224, "crop_share": 0.9},
    ),
    "nothing pretrained": ((TIMM, {**VIT, "pretrained": False}), {}),
    "nothing known": (("own.Network", {"pretrained": True}), {}),
}


@pytest.mark.parametrize(("network", "expected"), ASKED.values(), ids=ASKED)
def test_timm_and_torchvision_say_it_without_a_network(network, expected):
    found = preparation_for({"class_path": network[0], "init_args": network[1]}, None)

    assert found.pop("crop_share", 0) == pytest.approx(expected.get("crop_share", 0), abs=1e-5)
    assert found == {key: value for key, value in expected.items() if key != "crop_share"}


def photos():
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{name}/{number}.png")


CONFIG = """
trainer: {max_epochs: 1, limit_train_batches: 1}
model:
  network: {class_path: classifier.networks.efficientnet_lite0, init_args: {pretrained: true}}
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.001}}
data:
  class_path: classifier.data.ImageFolder
  init_args: {root: photos, image_size: 32, std: [0.25], batch_size: 4, num_workers: 0}
"""


def data_of(folder):
    return settings_in((folder / "config.yaml").read_text())


def as_saved(*words):
    """The settings of a training that is not begun."""
    return settings_in(ClassifierCLI(args=[*words], run=False).config_text)


def settings_in(text):
    settings = yaml.safe_load(text)["data"]["init_args"]
    return {k: settings[k] for k in ("mean", "std", "image_size", "interpolation", "crop_share")}


def test_what_nobody_wrote_is_filled_in_said_and_kept(fit, capsys):
    photos()
    Path("photos.yaml").write_text(CONFIG)

    folder = fit("--config", "photos.yaml")

    told = "images are prepared as for the pretrained weights: mean 0.5, interpolation bicubic, "
    assert f"note: {told}crop_share 0.875." in capsys.readouterr().err
    expected = {"mean": [0.5] * 3, "std": [0.25], "image_size": 32}
    expected |= {"interpolation": "bicubic", "crop_share": 0.875}
    assert data_of(folder) == expected
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["classifier"]["data"]["mean"] == [0.5] * 3
    for words in (["fit", "--trainer.max_epochs=2"], ["test"]):  # what the checkpoint says holds
        assert main([*words, "--ckpt_path", str(folder)]) == 0
        assert "prepared" not in capsys.readouterr().err
    assert data_of(folder) == expected

    # Another training of the saved config: what was filled in goes with its weights.
    assert as_saved("--config", str(folder)) == expected
    nothing = dict.fromkeys(("mean", "interpolation", "crop_share"))
    scratch = "--model.network.pretrained=false"
    found = as_saved("--config", str(folder), scratch)
    assert found == {**nothing, "std": [0.25], "image_size": 32}
    text = (folder / "config.yaml").read_text().replace("crop_share: 0.875\n", "crop_share: 0.5\n")
    Path("edited.yaml").write_text(text)
    assert as_saved("--config", "edited.yaml", scratch) == {**found, "crop_share": 0.5}


def test_a_set_in_memory_takes_mean_and_std_alone(write_config):
    lite0 = "classifier.networks.efficientnet_lite0"
    words = [f"--model.network={lite0}", "--model.network.pretrained=true"]

    cli = ClassifierCLI(args=["--config", write_config(), *words], run=False)

    settings = yaml.safe_load(cli.config_text)["data"]["init_args"]
    assert (settings["mean"], settings["std"]) == ([0.5], [0.5])
    assert cli.notes[-1].endswith("pretrained weights: mean 0.5, std 0.5.")


def test_an_own_run_says_how_its_images_were_prepared(fit):
    photos()
    text = CONFIG.replace("classifier.networks.efficientnet_lite0", "classifier.networks.MNISTNet")
    text = text.replace("pretrained: true", "width: 2")
    Path("first.yaml").write_text(text)
    words = ["--data.mean=[0.3]", "--data.crop_share=0.8", "--data.interpolation=bicubic"]
    first = fit("--config", "first.yaml", *words)
    Path("second.yaml").write_text(text.replace("image_size: 32, std: [0.25], ", ""))

    second = fit("--config", "second.yaml", f"--model.init_from={first}")

    expected = {"mean": [0.3] * 3, "std": [0.25] * 3, "image_size": 32}
    assert data_of(second) == {**expected, "interpolation": "bicubic", "crop_share": 0.8}


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0])
def test_a_crop_share_is_a_share(share):
    with pytest.raises(ValueError, match=f"crop_share is above 0 and at most 1, not {share}"):
        ImageFolder("photos", crop_share=share)
