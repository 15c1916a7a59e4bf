"""Data sets by class path: torchvision's in each kind of storage, the Hub's, one's own."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch.utils.data import Subset
from torchvision import datasets

from classifier.__main__ import main
from classifier.data import Datasets, HuggingFace, ImageFolder

OWN = """
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset


class Own(Dataset):
    classes = ["dark", "light"]

    def __init__(self, kind: str = "pillow", number: int = 24) -> None:
        self.kind, self.number = kind, number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        label = index % 2
        pixels = np.full((8, 8, 3), 200 * label + index, np.uint8)
        image = {
            "pillow": lambda: Image.fromarray(pixels),
            "array": lambda: pixels,
            "grey": lambda: pixels[:, :, 0],
            "tensor": lambda: torch.from_numpy(pixels).permute(2, 0, 1),
        }
        labels = {"array": np.int64(label), "tensor": torch.tensor([label])}
        return image[self.kind](), labels.get(self.kind, label)


class Transformed(Own):
    transform = print


class Texts(Own):
    def __getitem__(self, index):
        return super().__getitem__(index)[0], "dark"


class Nameless(Own):
    classes = None

    def __getitem__(self, index):
        return super().__getitem__(index)[0], 3 * (index % 2)


class Outside(Own):
    def __getitem__(self, index):
        return super().__getitem__(index)[0], index % 3


class Three(Own):
    def __getitem__(self, index):
        return (*super().__getitem__(index), index)


class Floats(Own):
    def __getitem__(self, index):
        return torch.rand(3, 8, 8), index % 2


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())
"""


@pytest.fixture
def photos(tmp_path):
    """A folder of 30 photos of cats and dogs, whose pixels say which is which."""
    random = np.random.default_rng(0)
    for number in range(30):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def loaded(train, **settings):
    data = Datasets(train, image_size=8, num_workers=0, **settings)
    data.setup("fit")
    return data


def facts(data):
    return data.class_names, {
        part: (list(images.names), images.labels.tolist()) for part, images in data.sets.items()
    }


def hub(photos):
    pytest.importorskip("datasets", reason="the extra 'huggingface' is not installed")
    return HuggingFace("imagefolder", "train", data_dir=str(photos))


FORMS = {"torchvision": lambda photos: datasets.ImageFolder(photos), "hub": hub}


@pytest.mark.parametrize("form", FORMS)
def test_a_data_set_of_files_is_the_folder_that_it_reads(form, photos, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(photos.parent / "cache"))
    data = loaded(lambda: FORMS[form](photos))

    folder = ImageFolder(photos, image_size=8, num_workers=0)
    folder.setup("fit")
    assert facts(data) == facts(folder)
    for one, other in zip(data.train_dataloader(), folder.train_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])


def test_no_file_is_opened_for_the_list_of_them(photos):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")

    data = loaded(lambda: datasets.ImageFolder(photos))

    assert sum(map(len, data.sets.values())) == 30


def test_parts_in_folders_of_their_own_are_told_apart(photos):
    (photos / "cat").rename(photos.parent / "animals-cat")
    for part in ("train", "test"):
        (photos / part / "dog").mkdir(parents=True)
        (photos / part / "cat").mkdir()
    for number, path in enumerate(sorted((photos / "dog").iterdir())):
        path.rename(photos / ("train" if number < 8 else "test") / "dog" / f"{number % 8}.png")
    for number, path in enumerate(sorted((photos.parent / "animals-cat").iterdir())):
        path.rename(photos / ("train" if number < 8 else "test") / "cat" / f"{number % 8}.png")
    (photos / "dog").rmdir()
    made = {
        part: lambda part=part: datasets.ImageFolder(photos / part) for part in ("train", "test")
    }

    data = loaded(made["train"], test=made["test"])

    folder = ImageFolder(photos, image_size=8, num_workers=0)
    folder.setup("fit")
    assert facts(data) == facts(folder)


def test_a_part_of_a_data_set_has_its_class_names(photos):
    whole = datasets.ImageFolder(photos)

    data = loaded(lambda: Subset(whole, range(5, 25)))

    assert data.class_names == ["cat", "dog"]
    assert sum(map(len, data.sets.values())) == 20


def digest(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def mat_file(root, monkeypatch):
    """SVHN: one .mat file."""
    labels = np.arange(40, dtype=np.uint8)[:, None] % 10 + 1  # 10 stands for 0
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 40), dtype=np.uint8)
    savemat(root / "train_32x32.mat", {"X": pixels, "y": labels})
    url, name, _ = datasets.SVHN.split_list["train"]
    facts = {"train": [url, name, digest(root / name)]}
    monkeypatch.setattr(datasets.SVHN, "split_list", facts)
    return datasets.SVHN(root, split="train"), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]


def arrays(root, monkeypatch):
    """STL10: arrays in binary files."""
    folder = root / "stl10_binary"
    folder.mkdir()
    random = np.random.default_rng(0)
    files = {
        "train_X.bin": random.integers(0, 256, (20, 3, 96, 96), dtype=np.uint8).tobytes(),
        "train_y.bin": (np.arange(20, dtype=np.uint8) % 2 + 1).tobytes(),
        "class_names.txt": b"airplane\nbird\n",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    known = [[name, digest(folder / name)] for name in files]
    monkeypatch.setattr(datasets.STL10, "train_list", known[:2])
    monkeypatch.setattr(datasets.STL10, "test_list", [])
    return datasets.STL10(root, split="train"), ["airplane", "bird"]


def hdf5(root, monkeypatch):
    """PCAM: HDF5 files."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    folder = root / "pcam"
    folder.mkdir()
    random = np.random.default_rng(0)
    with h5py.File(folder / "camelyonpatch_level_2_split_train_x.h5", "w") as file:
        file["x"] = random.integers(0, 256, (20, 96, 96, 3), dtype=np.uint8)
    with h5py.File(folder / "camelyonpatch_level_2_split_train_y.h5", "w") as file:
        file["y"] = (np.arange(20, dtype=np.uint8) % 2)[:, None, None, None]
    return datasets.PCAM(root, split="train"), ["0", "1"]


def files_and_mat(root, monkeypatch):
    """Flowers102: JPEG files, and their labels in .mat files."""
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(1, 21):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.arange(20) % 2 + 1})
    savemat(folder / "setid.mat", {"trnid": np.arange(1, 21)})
    known = {
        "label": ("imagelabels.mat", digest(folder / "imagelabels.mat")),
        "setid": ("setid.mat", digest(folder / "setid.mat")),
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", {"image": ("", ""), **known})
    return datasets.Flowers102(root, split="train"), ["pink primrose", "hard-leaved pocket orchid"]


@pytest.mark.parametrize("make", [mat_file, arrays, hdf5, files_and_mat])
def test_each_storage_of_torchvision_is_read_as_torchvision_reads_it(make, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    theirs, names = make(tmp_path / "data", monkeypatch)

    settings = {} if make is not files_and_mat else {"classes": names}
    data = loaded(lambda: theirs, eval_transform=[torch.nn.Identity()], **settings)

    assert data.class_names == names
    assert sum(map(len, data.sets.values())) == len(theirs)
    known = {(np.asarray(image).tobytes(), int(label)) for image, label in theirs}
    for images, labels in (*data.val_dataloader(), *data.test_dataloader()):
        for image, label in zip(images, labels.tolist(), strict=True):
            assert (image.permute(1, 2, 0).numpy().tobytes(), label) in known


@pytest.mark.parametrize("kind", ["pillow", "array", "grey", "tensor"])
def test_an_own_data_set_is_trained_on_resumed_and_tested(kind, write_module, write_config, fit):
    write_module(OWN)
    arguments = {
        "train": {"class_path": "own.Own", "init_args": {"kind": kind}},
        "test": {"class_path": "own.Own", "init_args": {"kind": kind, "number": 6}},
        "image_size": 8,
        "num_workers": 2,
    }
    data = {"class_path": "Datasets", "init_args": arguments}
    folder = fit("--config", write_config({"data": data, "trainer.max_epochs": 1}))

    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs=2"]) == 0
    assert main(["test", "--ckpt_path", str(folder)]) == 0


def test_predict_needs_no_data_set(write_module, write_config, fit, tmp_path):
    write_module(OWN)
    arguments = {"train": {"class_path": "own.Own"}, "image_size": 8, "num_workers": 0}
    data = {"class_path": "Datasets", "init_args": arguments}
    folder = fit("--config", write_config({"data": data, "trainer.max_epochs": 1}))
    text = (tmp_path / "own.py").read_text()
    (tmp_path / "own.py").write_text(text.replace("self.kind, self.number =", "1 / 0 ="))
    Image.new("RGB", (8, 8)).save("one.png")

    assert main(["predict", "--ckpt_path", str(folder), "--images", "one.png"]) == 0


WRONG = {
    "transform": ({"train": "own.Transformed"}, "Transformed has a transform"),
    "texts": ({"train": "own.Texts"}, "a label is 'dark'; expected the number of a class"),
    "gaps": ({"train": "own.Nameless"}, "none of its images has the label 1 (2 of 4"),
    "outside": ({"train": "own.Outside"}, "has the label 2; expected 0 to 1"),
    "three values": ({"train": "own.Three"}, "is tuple, not (image, label)"),
    "no length": ({"train": "own.Stream"}, "is no map-style data set"),
    "empty": (
        {"train": {"class_path": "own.Own", "init_args": {"number": 0}}},
        "is no map-style data set with images",
    ),
    "floats": ({"train": "own.Floats"}, "Cannot read image 'train/"),
    "few names": ({"train": "own.Outside", "class_names": ["a", "b"]}, "there are 2 classes"),
    "no root": (
        {"train": {"class_path": "torchvision.datasets.ImageFolder", "init_args": {"root": "no"}}},
        "no",
    ),
    "not downloaded": (
        {"train": {"class_path": "torchvision.datasets.CIFAR10", "init_args": {"root": "no"}}},
        "download",
    ),
    "misspelt": ({"train": "torchvision.datasets.Flowers103"}, "did you mean 'Flowers102'"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_with_data_sets_are_told(settings, message, write_module, write_config, capfd):
    write_module(OWN)
    train = settings["train"]
    made = {"class_path": train} if isinstance(train, str) else train
    arguments = {"image_size": 8, "num_workers": 0, **settings, "train": made}
    config = write_config({"data": {"class_path": "Datasets", "init_args": arguments}})

    assert main(["fit", "--config", config]) == 2

    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_columns_of_the_hub_that_are_in_doubt_are_told(photos, monkeypatch):
    pytest.importorskip("datasets", reason="the extra 'huggingface' is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(photos.parent / "cache"))

    with pytest.raises(ValueError, match="Which column is the label\\? There are 'image', 'label'"):
        HuggingFace("imagefolder", "train", label="kind", data_dir=str(photos))
