import itertools
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torchvision.transforms import v2

from classifier.__main__ import main
from classifier.data import ImageFolder
from classifier.errors import UserError


def write_images(folder, number, seed=0):
    random = np.random.default_rng([seed, *folder.name.encode()])
    folder.mkdir(parents=True)
    for index in range(number):
        pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.fixture
def root(tmp_path):
    """Two class folders."""
    for name in ("cat", "dog"):
        write_images(tmp_path / "animals" / name, 10)
    return tmp_path / "animals"


def prepared(root, **settings):
    data = ImageFolder(root, **{"image_size": 8, "num_workers": 0, "batch_size": 4, **settings})
    data.setup("fit")
    return data


def sizes(data):
    return [len(data.train_set), len(data.val_set), len(data.test_set)]


def test_validation_and_test_are_cut_from_the_classes(root):
    data = prepared(root, val_fraction=0.2, test_fraction=0.3)

    assert sizes(data) == [10, 4, 6]
    assert data.class_names == ["cat", "dog"]
    paths = [*data.train_set.raw, *data.val_set.raw, *data.test_set.raw]
    assert len(set(paths)) == 20


def paths_of(data):
    return [set(images.raw) for images in (data.train_set, data.val_set, data.test_set)]


@pytest.mark.parametrize("name", ["0.png", "cat.png", "zebra.png", "IMG 7.JPG", "Hündin.png"])
def test_one_more_photo_moves_at_most_one_other_from_set_to_set(name, root):
    for folder, number in itertools.product(("cat", "dog"), range(10, 20)):
        (root / folder / f"{number}.png").touch()
    before = prepared(root)
    (root / "cat" / f"new {name}").touch()

    after = prepared(root)

    for old, new in zip(paths_of(before), paths_of(after), strict=True):
        left = old - new
        assert len(left) <= 1
        assert all(path.parent.name == "cat" for path in left)
    assert set.union(*paths_of(before)) == set.union(*paths_of(after)) - {
        root / "cat" / f"new {name}"
    }


def test_no_image_is_opened_or_asked_about_to_list_and_split_them(root, monkeypatch):
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    asked = []
    for name in ("stat", "lstat"):
        ask = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda p, *a, ask=ask, **k: asked.append(p) or ask(p, *a, **k)
        )

    prepared(root).fingerprint()

    assert asked
    assert not [path for path in asked if str(path).endswith(".png")]


def test_the_sets_do_not_depend_on_the_place(root, tmp_path):
    before = prepared(root)
    moved = root.rename(tmp_path / "moved")

    after = prepared(moved)

    assert [{moved / path.relative_to(root) for path in part} for part in paths_of(before)] == (
        paths_of(after)
    )


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_folders_of_the_sets_are_used_as_they_are(tmp_path, val):
    for split, number in (("train", 5), (val, 3), ("test", 2)):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, number)

    data = prepared(tmp_path)

    assert sizes(data) == [10, 6, 4]
    assert all(path.parts[-3] == val for path in data.val_set.raw)


LAYOUTS = {
    "Training/{a,b} + Testing/{a,b}": {"train": "Training", "test": "Testing"},
    "training_set/{a,b} + test_set/{a,b}": {"train": "training_set", "test": "test_set"},
    "TRAIN/{a,b} + DEV/{a,b}": {"train": "TRAIN", "val": "DEV"},
    "seg_train/{a,b} + seg_test/{a,b}": {"train": "seg_train", "test": "seg_test"},
    "trainset/{a,b} + ValData/{a}": {"train": "trainset", "val": "ValData"},
    "Train data/{a,b} + unseen/{b}": {"train": "Train data", "test": "unseen"},
    "train2017/{a,b} + val2017/{a,b}": {"train": "train2017", "val": "val2017"},
    "train/{a,b,c} + test/{a,b} + __MACOSX/a + .cache/a": {"train": "train", "test": "test"},
    "train + bus + car": None,
    "valid + invalid": None,
    "train_cat + train_dog": None,
    "cat/persian + dog/poodle + dog/collie": None,
    "cat + dog + cat/more + dog/more": None,  # a single class is no split
}
IN_DOUBT = {
    "part1/{a,b} + part2/{a,b}": ("both hold a folder 'a'", "{train: part1, test: part2}"),
    "fold1/{a,b} + fold2/{a,b} + fold3/{a,b}": (
        "'fold1' and 'fold2' both hold",
        "{train: fold1, val: fold2, test: fold3}",
    ),
    "cat/{left,right} + dog/{left,right}": ("'cat' and 'dog' both hold", "{train: cat, test: dog}"),
    "train/{a,b} + val/{a,b} + extra/{a,b}": ("'extra' beside", "{train: train, val: val}"),
    "train/{a,b} + dev/{a,b} + eval/{a,b}": ("both stand for val", "{train: train, val: dev}"),
    "Train/{a,b} + train/{a,b}": ("both stand for train", "{train: Train}"),
    "train + test": ("holds no class folders", "data.splits"),
    "train/{a,b} + val/images": ("'val/images' has no counterpart in train", "{train: train}"),
    "Train/{a,b} + Test": ("'Test' holds no class folders", "{train: Train}"),
    "train/{steam,electric} + bus + car": ("'bus' beside 'train' is no split", "{train: train}"),
    "trainval/{a,b} + test/{a,b}": ("no 'train/<class>/'", "{train: trainval, test: test}"),
    "Übung/{a,b} + die Prüfung/{a,b}": ("both hold", "{train: die Prüfung, test: Übung}"),
}


def write_layout(root, layout):
    for folders in layout.split(" + "):
        parent, *names = re.split("[{,}]", folders.removesuffix("}"))
        for path in [parent + name for name in names] or [parent]:
            (root / path).mkdir(parents=True, exist_ok=True)
            for index in range(3):
                (root / path / f"{index}.png").touch()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_are_known_by_their_names_in_any_usual_spelling(layout, tmp_path):
    write_layout(tmp_path, layout)
    expected = LAYOUTS[layout] or {}

    data = prepared(tmp_path)

    folders = [
        {path.relative_to(tmp_path).parts[0] for path in images.raw}
        for images in (data.train_set, data.val_set, data.test_set)
    ]
    for split, found in zip(("train", "val", "test"), folders, strict=True):
        if expected:
            assert found == {expected.get(split, expected["train"])}
        else:
            assert found == set(data.class_names)


@pytest.mark.parametrize("layout", IN_DOUBT)
def test_folders_that_may_be_splits_or_classes_are_an_error_with_both_readings(layout, tmp_path):
    write_layout(tmp_path, layout)
    doubt, splits = IN_DOUBT[layout]

    with pytest.raises(UserError) as caught:
        prepared(tmp_path)

    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert doubt in lines[0]
    assert splits in lines[1]
    assert lines[2].endswith("are classes: --data.splits none")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": "part1", "tset": "part2"}, "no split 'tset', did you mean 'test'"),
        (
            {"train": "part1", "test": "prt2"},
            "splits.test: no folder 'prt2' in .*, did you mean 'part2'",
        ),
        ({"test": "part2"}, "names no folder for train"),
        ({"train": "part1", "test": "part1"}, r"in both.*\{train: part1\}"),
        (
            {"train": "part1", "val": "part2", "test": "link"},
            r"in both.*\{train: part1, test: link\}",
        ),
        ({"train": ".", "test": "part2"}, "in both"),
        ({"train": "../elsewhere"}, "'../elsewhere' is not a folder's path below root"),
        ({"train": "part1", "test": "part2/a"}, "'.*part2/a' has no images in class folders"),
    ],
)
def test_wrong_names_of_splits_are_refused(splits, message, tmp_path):
    write_layout(tmp_path, "part1/{a,b} + part2/{a,b}")
    (tmp_path / "link").symlink_to("part2")

    with pytest.raises(UserError, match=message):
        prepared(tmp_path, splits=splits)


def test_folders_that_look_like_splits_may_be_said_to_be_classes(tmp_path):
    write_layout(tmp_path, "train/{a,b} + test/{a,b}")

    assert prepared(tmp_path, splits="none").class_names == ["test", "train"]


def test_splits_may_be_named_by_a_path_below_the_root(tmp_path):
    write_layout(tmp_path, "a/one/{x,y} + a/two/{x,y} + b/three/{x}")

    data = prepared(tmp_path, splits={"train": "a/one", "val": "a/two", "test": "b/three"})

    assert sizes(data) == [6, 6, 3]
    assert data.class_names == ["x", "y"]


@pytest.fixture
def command(tmp_path, write_config):
    """Trains a small network on a folder for an epoch; to be completed."""

    def complete(root, *arguments):
        data = {"root": str(root), "image_size": 16, "batch_size": 4, "num_workers": 0}
        changes = {"data": {"class_path": "classifier.data.ImageFolder", "init_args": data}}
        changes["model.network.class_path"] = "classifier.networks.SmallResNet"
        changes["model.network.init_args"] = {"depth": 8}
        return ["fit", "--config", write_config(changes), "--trainer.max_epochs", "1", *arguments]

    return complete


@pytest.mark.parametrize(
    ("arguments", "classes"),
    [
        (["--data.splits", "none"], ["part 1", "part2"]),
        (["--data.splits.train", "part 1", "--data.splits.test", "part2"], ["cat", "dog"]),
        (["--data.splits", "{train: part 1, test: part2}"], ["cat", "dog"]),
        (["--config", "splits.yaml"], ["cat", "dog"]),
    ],
)
def test_splits_are_named_by_option_or_in_the_config(arguments, classes, tmp_path, command):
    for split in ("part 1", "part2"):
        for name in ("cat", "dog"):
            write_images(tmp_path / "photos" / split / name, 8)
    Path("splits.yaml").write_text("data: {init_args: {splits: {train: part 1, test: part2}}}")

    assert main(command("photos", *arguments)) == 0

    record = json.loads(Path("runs/tiny/version_0/run.json").read_text())
    assert record["data"]["class_names"] == classes
    assert main(["test", "--ckpt_path", "runs/tiny/version_0"]) == 0


def test_both_readings_are_shown_on_the_command_line(tmp_path, command, capsys):
    write_layout(tmp_path / "photos", "part1/{a,b} + part2/{a,b}")

    assert main(command("photos")) == 2

    assert capsys.readouterr().err.splitlines() == [
        "error: The folders in 'photos' may be splits or classes: 'part1' and 'part2' both hold a "
        "folder 'a'.",
        "  If they are splits of 'a', 'b': --data.splits '{train: part1, test: part2}'",
        "  If 'part1', 'part2' are classes: --data.splits none",
    ]


def test_what_is_left_out_is_said_once_before_the_training(root, command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    for name in ("__MACOSX/cat", "@eaDir", "lost+found", "cat/.ipynb_checkpoints"):
        (root / name).mkdir(parents=True)
    (root / "__MACOSX/cat/0.png").touch()
    (root / "dog/Thumbs.db").touch()
    (root / "dog/circle").symlink_to("..")
    for name in ("cat/b.HEIC", "dog/a.heic", "dog/b.CR2"):
        (root / name).write_bytes(b"a photo")
    for number in range(3):
        Image.new("L", (10, 12)).save(root / "cat" / f"{number}.bmp")
    Image.new("L", (10, 12)).save(root / "cat" / "0 mask.png")

    assert main(command(root, "--data.exclude", '["*mask.png", "dog/9*", "*.gif"]')) == 0

    assert capsys.readouterr().err.splitlines() == [
        "note: left out 1 .cr2, such as 'dog/b.CR2': Pillow does not read .cr2; save it as JPEG or "
        "PNG.",
        "note: left out 2 .heic, such as 'cat/b.HEIC': to read HEIC photos, pip install "
        "pillow-heif.",
        "note: left out links to folders that are read without them: 1, such as 'dog/circle'.",
        "note: left out by data.exclude: 2, such as 'cat/0 mask.png'.",
        "note: left out what systems and tools leave in folders: '.ipynb_checkpoints', '@eaDir', "
        "'Thumbs.db', '__MACOSX', 'lost+found'.",
        "note: data.exclude: no image matches '*.gif'.",
        "note: images that share their name with another but for the suffix: 3, such as "
        "'cat/0.png' beside '0.bmp'. If they are masks or copies, data.exclude: [\"*.bmp\"] leaves "
        "them out.",
    ]
    record = json.loads(Path("runs/tiny/version_0/run.json").read_text())
    assert record["data"]["class_names"] == ["cat", "dog"]


def test_a_class_that_is_missing_in_test_is_said_by_fit_and_by_test(tmp_path, command, capsys):
    for name in ("train/ant", "train/bee", "train/cat", "test/ant", "test/cat"):
        write_images(tmp_path / "photos" / name, 6)
    (tmp_path / "photos" / "test" / "bee").mkdir()
    note = (
        "note: there are no test images of 'bee'; once predicted, such a class counts as 0 in a "
        "mean over the classes.\n"
    )

    assert main(command("photos")) == 0
    assert capsys.readouterr().err == note

    assert main(["test", "--ckpt_path", "runs/tiny/version_0"]) == 0
    assert capsys.readouterr().err == note

    assert main(["validate", "--ckpt_path", "runs/tiny/version_0"]) == 0
    assert capsys.readouterr().err == ""
    assert prepared(tmp_path / "photos").test_set.labels.tolist() == [0] * 6 + [2] * 6


def test_a_split_without_any_image_is_refused(tmp_path):
    write_layout(tmp_path, "train/{a,b}")
    (tmp_path / "val" / "a").mkdir(parents=True)

    with pytest.raises(UserError, match="val' has no images in class folders; add some or remove"):
        prepared(tmp_path)


def test_a_class_of_photos_that_nothing_reads_is_an_error_with_the_remedy(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    for path in (root / "cat").iterdir():
        path.rename(path.with_suffix(".heic"))

    with pytest.raises(UserError, match=r"cat' has no images(.|\n)*10 \.heic.*install pillow-heif"):
        prepared(root)


def test_images_are_left_out_by_name_or_by_path(root):
    write_images(root / "cat" / "old", 5)

    assert sum(sizes(prepared(root, exclude=["[0-4].png"]))) == 10
    assert sum(sizes(prepared(root, exclude=["cat/[0-4].png"]))) == 20
    assert sum(sizes(prepared(root, exclude=["*/old/*", "9.*"]))) == 18


def test_links_are_read_once_and_not_in_circles(root, tmp_path):
    write_images(tmp_path / "elsewhere" / "deep", 4)
    write_images(root / "cat" / "nested", 3)
    (root / "cat" / "linked").symlink_to("../../elsewhere")
    (root / "cat" / "again").symlink_to("../../elsewhere/deep")
    (root / "cat" / "a dog").symlink_to("../dog")
    (root / "cat" / "file.png").symlink_to("../dog/0.png")  # which is read as a dog
    (root / "dog" / "circle").symlink_to("../..")
    (root / "dog" / "self").symlink_to("self")
    write_images(tmp_path / "store" / "emu", 4)
    (root / "emu").symlink_to(tmp_path / "store" / "emu")
    (tmp_path / "a link").symlink_to(root)

    data = prepared(tmp_path / "a link")

    assert data.class_names == ["cat", "dog", "emu"]
    labels = torch.cat([images.labels for images in (data.train_set, data.val_set, data.test_set)])
    assert labels.bincount().tolist() == [10 + 3 + 4, 10, 4]


def test_a_link_to_an_image_that_is_read_without_it_is_left_out(root, tmp_path):
    write_images(tmp_path / "elsewhere", 3, seed=1)
    for index in range(3):
        (root / "cat" / f"again{index}.png").symlink_to(f"{index}.png")
        (root / "dog" / f"new{index}.png").symlink_to(tmp_path / "elsewhere" / f"{index}.png")
    (root / "dog" / "new_again.png").symlink_to(tmp_path / "elsewhere" / "0.png")

    data = prepared(root, val_fraction=0.2, test_fraction=0.2)

    paths = [path.resolve() for paths in paths_of(data) for path in paths]
    assert len(paths) == len(set(paths)) == 23
    (note,) = data.notes("fit")
    assert note.startswith("left out links to images that are read without them: 4, such as 'cat/")


def test_images_beside_the_class_folders_and_unnamed_splits_are_said(tmp_path):
    for split in ("part1", "part2", "part3"):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, 4)
    (tmp_path / "part1" / "cat" / "0.png").rename(tmp_path / "part1" / "loose.png")
    (tmp_path / "part1" / "cat" / "1.png").rename(tmp_path / "loose.png")

    data = prepared(
        tmp_path, splits={"train": "part1", "test": "part2"}, val_fraction=0.4, batch_size=2
    )

    assert data.notes("fit") == [
        "left out 2 images in no class folder, such as 'loose.png'.",
        "left out folders that data.splits does not name: 'part3'.",
    ]


def test_a_flat_folder_of_tests_beside_one_to_train_on_is_no_class(tmp_path):
    for name in ("train", "test1"):
        write_images(tmp_path / name, 6)

    with pytest.raises(UserError, match="may be splits or classes"):
        prepared(tmp_path)


def test_a_class_folder_that_links_to_another_is_refused(root):
    (root / "eel").symlink_to("cat")

    with pytest.raises(
        UserError, match=r"eel' has no images(.|\n)*links to folders .* such as 'eel'"
    ):
        prepared(root)


def test_a_folder_too_deep_is_refused_with_the_right_one(root):
    with pytest.raises(
        UserError, match=r"only one class folder, .*Set root to '.*animals', which has 2"
    ):
        prepared(root.parent)


def test_a_class_name_that_is_not_text_is_refused(root):
    (root / "cat").rename(root / os.fsdecode(b"caf\xe9"))

    with pytest.raises(UserError, match=r"caf\\udce9' is not UTF-8; rename it"):
        prepared(root)


def test_a_missing_test_folder_is_cut_from_train_only(tmp_path):
    for split, number in (("train", 10), ("val", 3)):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, number)

    assert sizes(prepared(tmp_path, test_fraction=0.2)) == [16, 6, 4]


def test_labels_of_all_sets_follow_the_classes_of_train(tmp_path):
    for name in ("ant", "bee", "cat"):
        write_images(tmp_path / "train" / name, 3)
    write_images(tmp_path / "val" / "cat", 2)
    write_images(tmp_path / "test" / "bee", 2)

    data = prepared(tmp_path)

    assert data.val_set.labels.tolist() == [2, 2]
    assert data.test_set.labels.tolist() == [1, 1]


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "tram"):
        write_images(tmp_path / name, 4)

    assert prepared(tmp_path).class_names == ["train", "tram"]


def test_hidden_files_and_other_files_are_ignored(root):
    write_images(root / ".thumbnails", 2)
    write_images(root / "cat" / ".cache", 2)
    (root / "cat" / "._0.png").write_bytes(b"AppleDouble")
    (root / "cat" / "notes.txt").write_text("none")
    (root / "labels.csv").write_text("none")

    assert sum(sizes(prepared(root))) == 20


def test_images_of_nested_folders_belong_to_the_class(root):
    write_images(root / "cat" / "persian", 3)

    assert sum(sizes(prepared(root))) == 23


def test_images_in_memory_are_those_of_evaluation_from_disk(root):
    transform = [v2.CenterCrop(8)]
    disk = prepared(root, eval_transform=transform)
    memory = prepared(root, eval_transform=transform, in_memory=True)

    assert torch.equal(
        torch.cat([images for images, _ in disk.val_dataloader()]), memory.val_set.images
    )
    assert memory.train_set.images.shape == (len(disk.train_set), 3, 8, 8)


def test_images_of_the_right_size_stay_as_they_are_in_memory(root):
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    for name in ("cat", "dog"):
        for path in (root / name).iterdir():
            Image.fromarray(pixels).save(path)

    images = prepared(root, in_memory=True).train_set.images

    assert (images == torch.from_numpy(pixels).permute(2, 0, 1)).all()


def test_random_transforms_depend_on_the_epoch_and_not_on_the_workers(root):
    def epochs(workers):
        pl.seed_everything(1, verbose=False)
        data = prepared(root, num_workers=workers)
        loader = data.train_dataloader()
        drawn = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            drawn.append(torch.cat([images for images, _ in loader]))
        return drawn

    alone, shared = epochs(0), epochs(2)

    assert torch.equal(alone[0], shared[0])
    assert torch.equal(alone[1], shared[1])
    assert not torch.equal(alone[0], alone[1])


def test_reading_leaves_the_random_state_of_training_alone(root):
    data = prepared(root)
    loader = iter(data.train_dataloader())
    before = torch.get_rng_state()

    next(loader)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_fingerprint_changes_with_the_list_of_files_and_their_labels(root):
    before = prepared(root).fingerprint()
    (root / "cat" / "0.png").rename(root / "dog" / "0 too.png")

    assert prepared(root).fingerprint() != before


def test_no_file_is_asked_for_to_begin_a_training(root, monkeypatch):
    asked, stat = [], Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **_: asked.append(path) or stat(path))

    data = prepared(root)
    data.fingerprint()

    assert not [path for path in asked if path.suffix == ".png"]


def test_runs_of_earlier_formats_also_compare_the_sizes_of_files(root):
    def fingerprint():
        data = ImageFolder(root, image_size=8, num_workers=0)
        data.format = 2
        data.setup("fit")
        return data.fingerprint()

    before = fingerprint()
    (root / "cat" / "0.png").write_bytes((root / "cat" / "0.png").read_bytes() + b" ")

    assert fingerprint() != before


def test_a_fingerprint_tells_files_of_one_name_in_different_folders_apart(root):
    for name in ("2023", "2024"):
        write_images(root / "cat" / name, 1)
    before = prepared(root).fingerprint()
    for name in ("2023", "2024"):
        (root / "cat" / name).rename(root / "cat" / f"old {name}")

    assert prepared(root).fingerprint() != before


def test_a_file_name_that_is_not_text_is_read(root):
    (root / "cat" / "0.png").rename(root / "cat" / os.fsdecode(b"\xe9.png"))

    data = prepared(root)

    assert len(data.fingerprint()) == 16
    assert sum(len(labels) for _, labels in data.train_dataloader()) == len(data.train_set)


def test_a_fingerprint_does_not_depend_on_the_place(root, tmp_path):
    before = prepared(root).fingerprint()

    assert prepared(root.rename(tmp_path / "moved")).fingerprint() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_training_image_is_named_in_the_last_line(root, workers):
    for path in (root / "cat").iterdir():
        path.write_text("no image")
    data = prepared(root, num_workers=workers)

    with pytest.raises(ValueError, match="Cannot read image") as caught:
        list(data.train_dataloader())

    last = str(caught.value).strip().splitlines()[-1]
    assert re.search(r"Cannot read image '.*animals/cat/\d\.png': not an image", last)


def test_transforms_to_several_sizes_are_refused(root):
    flip = [v2.RandomHorizontalFlip()]
    data = prepared(root, train_transform=flip, eval_transform=flip, batch_size=16)
    Image.new("RGB", (30, 20)).save(data.train_set.raw[0])

    with pytest.raises(ValueError, match="images of different sizes"):
        list(data.train_dataloader())


def test_train_transforms_in_memory_are_refused():
    with pytest.raises(ValueError, match="use augment instead"):
        ImageFolder("images", in_memory=True, train_transform=[v2.RandomHorizontalFlip()])


def test_other_than_one_or_three_channels_are_refused():
    with pytest.raises(ValueError, match=r"1 \(greyscale\) or 3 \(RGB\), not 4"):
        ImageFolder("images", in_channels=4)


def test_a_missing_root_suggests_its_neighbour(root):
    with pytest.raises(FileNotFoundError, match="did you mean 'animals'"):
        prepared(root.with_name("animal"))


def test_a_root_below_nothing_is_missing_too(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No folder '.*nowhere/at/all'; data.root is"):
        prepared(tmp_path / "nowhere" / "at" / "all")


def test_a_root_that_is_a_file_is_refused(root):
    (root / "archive.zip").touch()

    with pytest.raises(ValueError, match=r"archive\.zip' is a file; expected the folder"):
        prepared(root / "archive.zip")


def test_images_without_class_folders_are_refused(root):
    with pytest.raises(ValueError, match="no class folders but 10 images directly inside"):
        prepared(root / "cat")


def test_an_empty_root_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no class folders; expected .*<class name>/<image>"):
        prepared(tmp_path)


def test_a_single_class_is_refused(tmp_path):
    write_images(tmp_path / "cat", 3)

    with pytest.raises(ValueError, match="only one class folder, 'cat'"):
        prepared(tmp_path)


def test_an_empty_class_folder_is_refused(root):
    (root / "eel").mkdir()

    with pytest.raises(ValueError, match=r"eel' has no images; add some or remove it"):
        prepared(root)


def test_a_class_that_train_lacks_is_refused_with_the_closest_name(tmp_path):
    for name in ("train/cat", "train/dog", "val/dogs"):
        write_images(tmp_path / name, 3)

    with pytest.raises(ValueError, match="dogs' has no counterpart in train, did you mean 'dog'"):
        prepared(tmp_path)


def test_a_test_folder_without_train_is_refused(tmp_path):
    for name in ("test/cat", "test/dog"):
        write_images(tmp_path / name, 3)

    with pytest.raises(ValueError, match="has a folder 'test', but no 'train/<class>/'"):
        prepared(tmp_path)
