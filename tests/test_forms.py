"""One data set in each form that data has: the same keys, splits, labels and weights."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classifier.__main__ import main
from classifier.data import Digits
from classifier.sources.manifest import read_manifest

NAMES = ["one", "seven", "zero"]
SETTINGS = {"image_size": 8, "num_workers": 0, "batch_size": 8}


@pytest.fixture
def photos(own_folder):
    """A folder of 36 digits of three classes, as PNG and as JPEG; returns (path, label) of each."""
    digits = Digits()
    digits.setup("fit")
    images, labels = digits.train_set.images, digits.train_set.labels
    rows = []
    for name, number in zip(NAMES, (1, 7, 0), strict=True):
        for place, image in enumerate(images[labels == number][:12]):
            path = Path("photos", name, f"{place}.{'png' if place % 2 else 'jpg'}")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)
            rows.append((f"{name}/{path.name}", name))
    return [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]


def folder(rows):
    return {"class_path": "ImageFolder", "init_args": {"root": "photos"}}


def table(rows):
    lines = ["image,label", *map(",".join, rows)]
    Path("photos/table.csv").write_text("\n".join(lines), encoding="utf-8")
    return {"class_path": "Table", "init_args": {"path": "photos/table.csv"}}


def parquet(rows, images):
    pa = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    from pyarrow import parquet

    table = pa.table({"image": images, "label": [label for _, label in rows]})
    parquet.write_table(table, "photos/table.parquet")
    return {"class_path": "Table", "init_args": {"path": "photos/table.parquet"}}


def parquet_of_paths(rows):
    return parquet(rows, [path for path, _ in rows])


def embedded(rows):
    return [{"bytes": Path("photos", path).read_bytes(), "path": path} for path, _ in rows]


def parquet_of_images(rows):
    return parquet(rows, embedded(rows))


def datasets(kind, **arguments):
    return {
        "class_path": "Datasets",
        "init_args": {"train": {"class_path": kind, "init_args": arguments}},
    }


def torchvision(rows):
    return datasets("torchvision.datasets.ImageFolder", root="photos")


def hub(rows):
    pytest.importorskip("datasets", reason="the extra 'huggingface' is not installed")
    kind = "classifier.data.HuggingFace"
    return datasets(kind, path="imagefolder", split="train", data_dir="photos")


@pytest.mark.parametrize("form", [table, parquet_of_paths, parquet_of_images, torchvision, hub])
def test_a_form_is_trained_on_as_the_folder_is(form, photos, write_config, fit, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(Path("cache").resolve()))
    runs = {}
    for make in (folder, form):
        data = make(photos)
        data["init_args"] |= SETTINGS
        changes = {"data": data, "trainer.max_epochs": 1, "seed_everything": 7}
        runs[make] = fit("--config", write_config(changes, f"{make.__name__}.yaml"))

    one, other = (read_manifest(run) for run in runs.values())
    assert other == one
    assert {entry.label for entry in one.values()} == {*NAMES}
    records = [json.loads((run / "run.json").read_text()) for run in runs.values()]
    assert records[0]["data"] == records[1]["data"]  # with the fingerprint
    one, other = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in runs.values()
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def predicted(trained, *images, code=0):
    arguments = ["--ckpt_path", str(trained), "--output", "o.csv", "--images", *images]
    assert main(["predict", *arguments]) == code
    rows = list(csv.DictReader(Path("o.csv").read_text().splitlines()))
    Path("o.csv").unlink()
    return [row.pop("image") for row in rows], rows


def test_images_in_a_table_are_predicted_as_files_are_and_named_by_their_keys(
    photos, trained, capfd
):
    parquet_of_images(photos)
    names, rows = predicted(trained, "photos/table.parquet", "photos/table.parquet")
    files, expected = predicted(trained, *(f"photos/{path}" for path, _ in photos))

    assert names == [path for path, _ in photos]
    assert rows == expected

    first, last = (Path("photos", path).read_bytes() for path, _ in (photos[0], photos[-1]))
    parquet([("", "")] * 3, [first, b"no image", last])
    capfd.readouterr()
    names, rows = predicted(trained, files[1], "photos/table.parquet", code=1)

    assert names == [files[1], "0", "2"]
    assert rows == [expected[1], expected[0], expected[-1]]
    assert "unreadable: 1: " in capfd.readouterr().err
