"""A trained module predicts images in Python as ``classifier predict`` does."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classifier.__main__ import main
from classifier.data import Digits
from classifier.module import ClassificationModule


def write_images(number):
    """Writes so many test images of Digits into a folder."""
    data = Digits()
    data.setup("test")
    Path("images").mkdir()
    for place, image in enumerate(data.test_set.images[:number]):
        Image.fromarray(image[0].numpy()).save(f"images/{place}.png")


def test_a_module_predicts_in_python_what_the_command_predicts(trained, own_folder):
    write_images(6)
    predict = ["predict", "--ckpt_path", str(trained), "--images", "images", "--output", "p.csv"]
    assert main(predict) == 0
    with Path("p.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]

    module = ClassificationModule.load_from_checkpoint(trained)
    found = module.predict(["images"])

    assert len(found) == 6
    for row, prediction in zip(rows, found, strict=True):
        assert prediction.image in row.values()
        assert prediction.prediction in row.values()
        assert f"{prediction.probability:.6f}" == row["probability"]
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_images_themselves_are_predicted_as_their_files_are(trained, own_folder):
    write_images(1)
    (path,) = Path("images").iterdir()
    with Image.open(path) as image:
        given = [path, str(path), path.read_bytes(), image.copy(), np.asarray(image)]
    module = ClassificationModule.load_from_checkpoint(trained)

    of_path, *others = [module.predict([one])[0] for one in given]

    assert of_path.image == str(path)
    assert [p.probabilities for p in others] == [of_path.probabilities] * 4
    assert module.predict([]) == []


def test_a_module_that_no_config_has_trained_does_not_know_how_to_read_images():
    module = ClassificationModule(torch.nn.Flatten(), ["a", "b"])

    with pytest.raises(ValueError, match="load it by load_from_checkpoint"):
        module.predict(["photo.jpg"])


def test_an_image_that_cannot_be_read_is_named_in_python(trained, own_folder):
    Path("no.png").write_text("text")
    module = ClassificationModule.load_from_checkpoint(trained)

    with pytest.raises(ValueError, match=r"Cannot read image 'no\.png'"):
        module.train().predict(["no.png"])
    assert module.training
