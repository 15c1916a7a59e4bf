"""Which images are for training, validation and test: shares, groups and folds."""

import gzip
import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier.__main__ import main
from classifier.data import ImageFolder

PATIENT = r"patient(\d+)_"


@pytest.fixture
def scans(tmp_path):
    """Scans of 30 patients in two classes, 1 to 5 of each, one of them wrongly in the other."""
    random = np.random.default_rng(0)
    for patient in range(30):
        for number in range(1 + patient % 5):
            name = "ill" if patient % 2 else "well"
            folder = tmp_path / "scans" / ("ill" if (patient, number) == (4, 0) else name)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"patient{patient}_{number}.png")
    return tmp_path / "scans"


def parts(root, **settings):
    """The names of the images in each part."""
    data = ImageFolder(root, image_size=8, num_workers=0, **settings)
    data.setup("fit")
    return {part: {path.name for path in images.raw} for part, images in data.sets.items()}


def patients(names):
    return {re.match(PATIENT, name)[1] for name in names}


@pytest.mark.parametrize("group", [None, PATIENT])
def test_each_image_is_in_the_test_set_of_one_fold_and_validates_in_at_most_one(group, scans):
    folds = [parts(scans, folds=5, fold=fold, group=group) for fold in range(5)]

    everything = {path.name for path in scans.rglob("*.png")}
    assert all(set.union(*fold.values()) == everything for fold in folds)
    assert Counter(itertools.chain(*(fold["test"] for fold in folds))) == Counter(everything)
    assert max(Counter(itertools.chain(*(fold["val"] for fold in folds))).values()) == 1
    assert len({tuple(sorted(fold["test"])) for fold in folds}) == 5


def test_folds_have_equal_shares_of_each_class(scans):
    whole = [len([*(scans / name).iterdir()]) for name in ("ill", "well")]

    for fold in range(4):
        data = ImageFolder(scans, image_size=8, num_workers=0, folds=4, fold=fold)
        data.setup("fit")
        for number, images in zip(data.sets["test"].labels.bincount(), whole, strict=True):
            assert number in (images // 4, images // 4 + 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fold", [None, 0, 2])
def test_no_group_is_in_two_parts(fold, seed, scans):
    settings = {} if fold is None else {"folds": 3, "fold": fold}

    found = parts(scans, group=PATIENT, split_seed=seed, test_fraction=0.2, **settings)

    assert all(found.values())
    for one, other in itertools.combinations(found.values(), 2):
        assert not patients(one) & patients(other)


def test_groups_with_images_of_all_classes_are_split(scans):
    found = parts(scans, group=r"_(\d)", test_fraction=0.3, val_fraction=0.2)

    numbers = [{name[-5] for name in names} for names in found.values()]
    assert sum(map(len, numbers)) == 5
    assert all(numbers)


def test_without_groups_the_scans_of_a_patient_are_torn_apart(scans):
    found = parts(scans, test_fraction=0.2)

    assert patients(found["train"]) & patients(found["test"])


def test_a_few_more_groups_move_few_images(scans):
    before = parts(scans, group=PATIENT, test_fraction=0.3)
    for name in ("patient77_0.png", "patient88_0.png"):
        (scans / "ill" / name).touch()

    after = parts(scans, group=PATIENT, test_fraction=0.3)

    moved = [before[part] - after[part] for part in before]
    assert len(patients(set.union(*moved))) <= 3


def test_a_fold_is_trained_recorded_and_resumed(scans, write_config, fit, capfd):
    config = write_config(
        {
            "data": {
                "class_path": "ImageFolder",
                "init_args": {"root": "scans", "image_size": 8, "folds": 3, "fold": 1},
            },
            "trainer.max_epochs": 1,
        }
    )

    folder = fit("--config", config, "--data.group", PATIENT, "--data.num_workers=0")
    capfd.readouterr()

    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "2"]) == 0
    assert main(["test", "--ckpt_path", str(folder)]) == 0
    assert "have changed" not in "".join(capfd.readouterr())


MISTAKES = {
    "folds alone": ({"folds": 5}, "data.folds needs data.fold: which one is the test set"),
    "fold alone": ({"fold": 1}, "data.fold needs data.folds"),
    "fold too high": ({"folds": 5, "fold": 5}, "with 5 folds up to 4, not 5"),
    "one fold": ({"folds": 1, "fold": 0}, "at least 2, not 1"),
    "negative fold": ({"folds": 5, "fold": -1}, "counts from 0"),
    "more folds than images": (
        {"folds": 60, "fold": 0},
        "too few to split into 60 folds; add images or choose fewer folds",
    ),
    "more folds than groups": (
        {"folds": 31, "fold": 0, "group": PATIENT},
        "There are 30 groups of images, too few to split into 31 folds",
    ),
    "no regular expression": ({"group": "("}, "is no regular expression"),
    "finds nothing": ({"group": r"camera(\d)"}, r"finds nothing in 'ill/patient11_0.png', one of"),
    "all in one group": ({"group": "."}, "groups of images, too few to split into 3 parts"),
}


@pytest.mark.parametrize(("settings", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_with_folds_and_groups_are_told(settings, message, scans, write_config, capfd):
    arguments = {"root": "scans", "image_size": 8, "num_workers": 0, **settings}
    config = write_config({"data": {"class_path": "ImageFolder", "init_args": arguments}})

    assert main(["fit", "--config", config]) == 2

    error = capfd.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 3


def test_folds_of_data_with_a_test_set_of_its_own_are_refused(scans, write_config, capfd):
    (scans / "train").mkdir()
    for name in ("ill", "well"):
        (scans / name).rename(scans / "train" / name)
        (scans / "test" / name).mkdir(parents=True)
        next((scans / "train" / name).iterdir()).rename(scans / "test" / name / "patient99_0.png")
    arguments = {"root": "scans", "image_size": 8, "folds": 5, "fold": 0}
    config = write_config({"data": {"class_path": "ImageFolder", "init_args": arguments}})

    assert main(["fit", "--config", config]) == 2

    assert "the data has a test set of its own" in capfd.readouterr().err


# ---- the split of a run, given back ----


@pytest.fixture
def split_run(scans, write_config, fit):
    """A run, and what is in its parts."""
    arguments = {"root": "scans", "image_size": 8, "num_workers": 0, "group": PATIENT}
    data = {"class_path": "ImageFolder", "init_args": arguments}
    return fit("--config", write_config({"data": data, "trainer.max_epochs": 1}))


def test_the_split_of_a_run_is_kept_and_can_be_read(split_run, scans):
    lines = gzip.decompress((split_run / "manifest.csv.gz").read_bytes()).decode().splitlines()

    assert lines[0] == "image,label,group,part"
    assert len(lines) == 1 + len([*scans.rglob("*.png")])
    assert "ill/patient4_0.png,ill,4," in "\n".join(lines)
    parts_of = {line.split(",")[0]: line.split(",")[3] for line in lines[1:]}
    found = parts(scans, group=PATIENT)
    assert {
        part: {Path(k).name for k, p in parts_of.items() if p == part} for part in found
    } == found


def test_a_manifest_keeps_the_split_whatever_comes_and_goes(split_run, scans):
    before = parts(scans, group=PATIENT)
    next((scans / "well").iterdir()).unlink()
    for patient in range(50, 70):
        (scans / "ill" / f"patient{patient}_0.png").touch()
    (scans / "ill" / "patient0_9.png").touch()  # another one of a patient that is known
    moved = next((scans / "ill").glob("patient1_*.png"))
    moved.rename(scans / "well" / moved.name)

    settings = {"split_seed": 7, "test_fraction": 0.5, "group": PATIENT}
    data = ImageFolder(scans, image_size=8, num_workers=0, manifest=str(split_run), **settings)
    data.setup("fit")

    after = {part: {path.name for path in its.raw} for part, its in data.sets.items()}
    whole = set.union(*after.values())
    for part, names in before.items():
        assert names & whole <= after[part]
    assert {
        len(names & {f"patient{p}_0.png" for p in range(50, 70)}) for names in after.values()
    } == ({8, 2, 10})
    (part,) = (part for part, names in before.items() if "0" in patients(names))
    assert "patient0_9.png" in after[part]
    told = " ".join(data.notes("fit"))
    assert "20 images are not in it and split among themselves" in told
    assert "2 images of it are not there" in told


def test_a_label_that_differs_from_the_manifest_is_said(split_run, scans, tmp_path):
    content = gzip.decompress((split_run / "manifest.csv.gz").read_bytes()).decode()
    Path("own.csv").write_text(content.replace("ill/patient4_0.png,ill", "ill/patient4_0.png,well"))

    data = ImageFolder(scans, image_size=8, num_workers=0, manifest="own.csv")
    data.setup("fit")

    told = "1 images have another label than in it, which is left out, such as 'ill/patient4_0.png'"
    assert any(told in note for note in data.notes("fit"))


MANIFESTS = {
    "no file": (None, "no file 'own.csv'"),
    "another table": ("a,b\n1,2\n", "is no manifest of a run: its columns are not image"),
    "unknown part": ("image,label,group,part\nill/x.png,ill,,trian\n", "a part is 'trian'"),
    "other images": ("image,label,group,part\na.png,ill,,train\n", ""),
    "all in training": ("all train", "leaves no validation images"),
}


@pytest.mark.parametrize(("text", "message"), MANIFESTS.values(), ids=MANIFESTS)
def test_mistakes_with_manifests_are_told(text, message, scans, write_config, capfd):
    if text == "all train":
        rows = [
            f"{path.relative_to(scans)},{path.parent.name},,train" for path in scans.rglob("*.png")
        ]
        text = "\n".join(["image,label,group,part", *rows])
    if text is not None:
        Path("own.csv").write_text(text)
    arguments = {"root": "scans", "image_size": 8, "num_workers": 0, "manifest": "own.csv"}
    config = write_config({"data": {"class_path": "ImageFolder", "init_args": arguments}})

    assert main(["fit", "--config", config]) == (2 if message else 0)

    error = capfd.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 3


def test_a_manifest_and_folds_contradict(scans, write_config, capfd):
    arguments = {"root": "scans", "image_size": 8, "manifest": "x", "folds": 3, "fold": 0}
    config = write_config({"data": {"class_path": "ImageFolder", "init_args": arguments}})

    assert main(["fit", "--config", config]) == 2

    assert "both say which images are for test" in capfd.readouterr().err


def test_a_group_that_the_data_itself_tears_apart_is_refused(tmp_path, capfd):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            Path("photos", part, name).mkdir(parents=True)
            for number in range(10):
                Image.new("L", (8, 8)).save(f"photos/{part}/{name}/{part}_{number}.png")
    fit = ["fit", "--data", "ImageFolder", "--data.root", "photos", "--trainer.max_epochs", "1"]

    assert main([*fit, "--model.network", "MNISTNet", "--data.group", r"_(\d)"]) == 2

    error = capfd.readouterr().err
    assert "data.group: images of the group '" in error
    assert "training and test" in error or "validation and test" in error
    assert not Path("runs").exists()
