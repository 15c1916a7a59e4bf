"""How images of any shape come to the size that the network gets, in training as in evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from classifier.__main__ import main
from classifier.data import ImageFolder

TRANSFORMS = "torchvision.transforms.v2"


@pytest.fixture
def photos(tmp_path):
    """Photos of 40 x 30 pixels: left half black, right half white, a red line in the middle."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    for name in ("cat", "dog"):
        for number in range(10):
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return "photos"


def batches(root, **settings):
    """The training and the validation images."""
    data = ImageFolder(root, num_workers=0, batch_size=8, **settings)
    data.setup("fit")
    return next(iter(data.train_dataloader()))[0], next(iter(data.val_dataloader()))[0]


@pytest.mark.parametrize("size", [20, [20, 28], [28, 20]])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("transform", [None, [v2.RandAugment()], [v2.RandomRotation(10)]])
def test_training_images_have_the_size_of_the_others(transform, resize, size, photos):
    training, validation = batches(
        photos, image_size=size, resize=resize, train_transform=transform
    )

    height, width = size if isinstance(size, list) else (size, size)
    assert training.shape[1:] == validation.shape[1:] == (3, height, width)


def test_padding_keeps_the_whole_image_and_its_proportions(photos):
    _, (image, *_) = batches(photos, image_size=20, resize="pad")

    white = (image.float().mean(0) > 200).float()
    assert white[:2].sum() == white[-2:].sum() == 0  # 15 of 20 rows are image
    assert white[5:15, 11:].mean() == 1
    assert white[5:15, :9].mean() == 0


def test_stretching_keeps_the_whole_image(photos):
    _, (image, *_) = batches(photos, image_size=20, resize="stretch")

    assert (image[:, :, 11:] > 200).all()
    assert (image[:, :, :9] < 50).all()


def test_cropping_keeps_the_middle_in_any_shape(photos):
    for size in (20, [24, 8], [8, 24]):
        _, (image, *_) = batches(photos, image_size=size, crop_share=1.0)

        half = image.shape[2] // 2
        assert (image[:, :, half + 2 :] > 200).all()
        assert (image[:, :, : half - 2] < 50).all()


def test_what_does_not_resize_gets_images_as_evaluation_sees_them(photos):
    training, validation = batches(
        photos, image_size=20, train_transform=[v2.RandomHorizontalFlip(0)]
    )

    assert torch.equal(training[0], validation[0])


def test_a_random_crop_in_front_gets_the_whole_image(photos):
    seen = []

    class Seen(v2.RandomResizedCrop):
        def forward(self, image):
            seen.append(tuple(image.shape))
            return super().forward(image)

    batches(photos, image_size=20, train_transform=[Seen(20)])

    assert set(seen) == {(3, 30, 40)}


def config_of(photos, write_config, **arguments):
    data = {"root": photos, "image_size": 20, "num_workers": 0, **arguments}
    return write_config({"data": {"class_path": "ImageFolder", "init_args": data}})


def step(name, **arguments):
    return {"class_path": f"{TRANSFORMS}.{name}", "init_args": arguments}


WRONG = {
    "smaller crop": (
        {"train_transform": [step("RandomResizedCrop", size=16)]},
        "makes images of 16x16 pixels, but image_size is 20x20",
    ),
    "own evaluation": (
        {
            "train_transform": [step("RandomResizedCrop", size=16)],
            "eval_transform": [step("Resize", size=[24, 24])],
        },
        "training images are 16x16 pixels, but those of validation 24x24",
    ),
    "three numbers": ({"image_size": [20, 20, 3]}, "[height, width], not [20, 20, 3]"),
    "no size": ({"image_size": 0}, "at least 1"),
    "a size of nothing": ({"image_size": [20, 0]}, "at least 1"),
    "unknown way": ({"resize": "cut"}, "resize"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_with_sizes_are_told(arguments, message, photos, write_config, capfd):
    assert main(["fit", "--config", config_of(photos, write_config, **arguments)]) == 2

    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_run_with_padding_predicts_and_resumes_as_it_was_trained(photos, write_config, fit):
    config = config_of(photos, write_config, image_size=[12, 16], resize="pad")
    folder = fit("--config", config, "--trainer.max_epochs=1")

    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs=2"]) == 0
    for name in ("a.csv", "b.csv"):
        words = ["--images", "photos", "--output", name]
        assert main(["predict", "--ckpt_path", str(folder), *words]) == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


def test_how_much_the_crop_cuts_is_said_of_long_images(tmp_path, write_config, capfd):
    for name in ("cat", "dog"):
        (tmp_path / "long" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (80, 20)).save(tmp_path / "long" / name / f"{number}.png")

    assert main(["fit", "--config", config_of("long", write_config)]) == 0

    told = capfd.readouterr().err
    assert "cuts 75% off images such as those here, 80x20 pixels" in told
    assert "data.resize" in told

    words = ["--data.resize", "pad"]
    assert main(["fit", "--config", config_of("long", write_config), *words]) == 0
    assert "cuts" not in capfd.readouterr().err
