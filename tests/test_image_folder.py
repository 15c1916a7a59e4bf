import itertools
import re

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torchvision.transforms import v2

from classifier.data import ImageFolder


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
    paths = [*data.train_set.paths, *data.val_set.paths, *data.test_set.paths]
    assert len(set(paths)) == 20


def paths_of(data):
    return [set(images.paths) for images in (data.train_set, data.val_set, data.test_set)]


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
    assert all(path.parts[-3] == val for path in data.val_set.paths)


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


def test_a_fingerprint_changes_with_a_file(root):
    before = prepared(root).fingerprint()
    (root / "cat" / "0.png").write_bytes((root / "cat" / "0.png").read_bytes() + b" ")

    assert prepared(root).fingerprint() != before


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
    Image.new("RGB", (30, 20)).save(root / "cat" / "0.png")
    data = prepared(root, train_transform=[v2.RandomHorizontalFlip()], batch_size=16)
    data.train_set.paths[0] = root / "cat" / "0.png"

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
    with pytest.raises(FileNotFoundError, match=r"No folder '.*nowhere/at/all'; set root"):
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

    with pytest.raises(ValueError, match="eel' has no images; add some or remove it"):
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
