"""``classifier predict``: image files in, a CSV file out."""

import csv
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from disks import fill, small_disk
from PIL import Image

import classifier
from classifier.__main__ import main
from classifier.data import Digits
from classifier.module import ClassificationModule

COLUMNS = ["image", "label", "prediction", "probability"]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)  # as a phone's photo begins


@pytest.fixture
def checkpoint(trained):
    return str(trained / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="module")
def digits():
    """Test images, uint8 ``(12, 1, 8, 8)``."""
    data = Digits()
    data.setup("test")
    return data.test_set.images[:12]


def write_images(digits, *names):
    for image, name in zip(digits, names, strict=False):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(name, format="PNG")


def rows_of(path="predictions.csv"):
    with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def files_of(path="predictions.csv"):
    return [row["image"] for row in rows_of(path)]


def predict(checkpoint, *arguments):
    return main(["predict", "--ckpt_path", checkpoint, "--images", *arguments])


def test_a_file_a_folder_and_a_glob_come_in_the_order_given_each_image_once(
    checkpoint, digits, capsys
):
    names = ["one.png", "folder/b.png", "folder/a.png", "folder/deep/c.png", "g2.png", "g1.png"]
    write_images(digits, *names)

    assert predict(checkpoint, "g*.png", "folder", "one.png", "g1.png") == 0

    assert files_of() == [
        *("g1.png", "g2.png"),
        *("folder/a.png", "folder/b.png", "folder/deep/c.png"),
        "one.png",
    ]
    assert capsys.readouterr().out.splitlines() == ["6 predictions in predictions.csv"]
    assert {path.name for path in Path().iterdir()} == {
        *("one.png", "folder", "g1.png", "g2.png", "predictions.csv")
    }


def test_a_quoted_glob_may_match_folders(checkpoint, digits):
    names = ["photos1/b.png", "photos1/a.png", "photos2/deep/c.png", "photos.png", "other/d.png"]
    write_images(digits, *names)

    assert predict(checkpoint, "photos*") == 0

    assert files_of() == ["photos.png", "photos1/a.png", "photos1/b.png", "photos2/deep/c.png"]


@pytest.fixture
def tree(digits):
    """Two images, three behind a link, and links in circles, hidden folders and litter around."""
    write_images(digits, "tree/a.png", "tree/sub/b.png", "elsewhere/c.png", "elsewhere/B/d.PNG")
    write_images(digits, "tree/.thumbs/e.png", "tree/sub/.ipynb_checkpoints/f.png")
    write_images(digits, "tree/__MACOSX/g.png", "tree/sub/@eaDir/a.png/h.png", "beside.png")
    for link, target in {
        "linked": "../elsewhere",
        "twice": "../elsewhere/B",
        "a_sub": "sub",
        "circle": ".",
        "up": "..",
        "self": "self",
        "sub/up": "..",
        "file.png": "sub/b.png",
    }.items():
        Path("tree", link).symlink_to(target)
    return [
        f"tree/{name}"
        for name in ("a.png", "file.png", "linked/B/d.PNG", "linked/c.png", "sub/b.png")
    ]


@pytest.mark.parametrize("name", ["tree", "tree/**", "./tree/", "tr*"])
def test_a_folder_is_searched_through_links_but_not_in_circles(name, tree, checkpoint):
    assert predict(checkpoint, name) == 0

    assert files_of() == tree


def test_a_glob_with_folders_of_any_depth_finds_each_image_once(tree, checkpoint):
    assert predict(checkpoint, "tree/**/*.png") == 0

    assert files_of() == [name for name in tree if not name.endswith("PNG")]


def test_an_image_that_is_named_in_several_ways_is_predicted_at_its_first_place(tree, checkpoint):
    names = [
        "tree/sub",
        str(Path("tree/a.png").resolve()),
        "tree/a.png",
        "tree/linked",
        "elsewhere",
    ]

    assert predict(checkpoint, *names, "tree") == 0

    assert files_of() == [
        *("tree/sub/b.png", names[1], "tree/linked/B/d.PNG", "tree/linked/c.png", "tree/file.png")
    ]


@pytest.mark.parametrize("name", ["tree/.thumbs", "tree/__MACOSX", "tree/up/tree/.thumbs"])
def test_what_is_named_is_searched_though_it_is_hidden_or_litter(name, tree, checkpoint):
    assert predict(checkpoint, name) == 0

    assert len(files_of()) == 1


def test_a_photo_that_no_package_reads_is_named_with_the_remedy(
    checkpoint, digits, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    write_images(digits, "photos/a.png")
    Path("photos/IMG_1.HEIC").write_bytes(HEIC)
    Path("photos/renamed.jpg").write_bytes(HEIC)
    Path("photos/DSC1.CR3").write_bytes(b"....ftypcrx ")
    Path("photos/text.heic").write_text("no image")

    assert predict(checkpoint, "photos") == 1

    assert files_of() == ["photos/a.png"]
    assert capsys.readouterr().err.splitlines() == [
        "unreadable: photos/DSC1.CR3: Pillow does not read .cr3; save it as JPEG or PNG.",
        "unreadable: photos/IMG_1.HEIC: to read HEIC photos, pip install pillow-heif.",
        "unreadable: photos/renamed.jpg: to read HEIC photos, pip install pillow-heif.",
        "unreadable: photos/text.heic: not an image, or damaged at its start.",
    ]


def test_heic_photos_are_read_where_pillow_heif_is_installed(checkpoint, digits):
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(digits[0, 0].numpy()).convert("RGB").resize((64, 64))
    pillow_heif.from_pillow(image).save("photos.heic", quality=-1)
    shutil.copy("photos.heic", "renamed.jpg")
    command = ["predict", "--ckpt_path", checkpoint, "--images", "photos.heic", "renamed.jpg"]

    # A process of its own, for Pillow reads HEIC from then on.
    subprocess.run([sys.executable, "-m", "classifier", *command], check=True)

    assert len({row["prediction"] for row in rows_of()}) == 1
    assert files_of() == ["photos.heic", "renamed.jpg"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # hidden outside of tests
def test_probabilities_are_those_of_a_softmax_by_hand(checkpoint, digits):
    names = [f"{number:02}.png" for number in range(12)]
    write_images(digits, *names)

    assert predict(checkpoint, ".", "--data.init_args.eval_batch_size", "5") == 0

    module = ClassificationModule.load_from_checkpoint(checkpoint).eval()
    with torch.no_grad():
        expected = module(digits).softmax(1)
    assert files_of() == names
    for row, values in zip(rows_of(), expected, strict=True):
        assert [*row] == [*COLUMNS, *module.class_names]
        assert row["label"] == ""
        assert row["prediction"] == module.class_names[values.argmax()]
        found = [float(value) for value in [*row.values()][3:]]
        assert found == pytest.approx([values.max().item(), *values.tolist()], abs=2e-6)
        assert all(re.fullmatch(r"[01]\.\d{6}", value) for value in [*row.values()][3:])


def test_top_k_of_earlier_versions_is_answered(checkpoint, digits, capsys):
    write_images(digits, "a.png")

    assert predict(checkpoint, "a.png", "--top_k", "2") == 2

    told = "--top_k: predictions.csv has a column for each class; leave it out."
    assert capsys.readouterr().err == f"error: {told}\n"


def test_classes_that_are_called_as_a_column_are_told_apart_by_position(write_config, fit, digits):
    for index, name in enumerate(["image", "label"]):
        write_images(digits, *(f"things/{name}/{index}{number}.png" for number in range(10)))
    data = {"root": "things", "image_size": 8, "num_workers": 0, "batch_size": 4}
    config = write_config({"data": {"class_path": "ImageFolder", "init_args": data}})
    folder = fit("--config", config)

    assert predict(str(folder), "things/image/00.png") == 0

    with Path("predictions.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header == [*COLUMNS, "image", "label"]
    assert row[:2] == ["things/image/00.png", ""]
    assert float(row[4]) + float(row[5]) == pytest.approx(1, abs=2e-6)
    assert row[3] == max(row[4:])


def test_labels_are_the_names_of_the_classes(digits, write_config, fit):
    for index, name in enumerate(["cat, tabby", "Hündin"]):
        write_images(digits, *(f"animals/{name}/{index}{number}.png" for number in range(10)))
    data = {
        "class_path": "ImageFolder",
        "init_args": {"root": "animals", "image_size": 8, "num_workers": 0, "batch_size": 4},
    }
    folder = fit("--config", write_config({"data": data}))
    shutil.move("animals/Hündin/10.png", "new.png")
    shutil.rmtree("animals")  # a prediction needs no data set

    assert predict(str(folder), "new.png", "--output", "out.csv") == 0

    (row,) = rows_of("out.csv")
    assert [*row][4:] == ["Hündin", "cat, tabby"]
    assert row["prediction"] in [*row][4:]


def test_unreadable_files_are_reported_at_the_end_and_the_rest_is_written(
    checkpoint, digits, capsys
):
    write_images(digits, "a.png", "b.png", "c.png")
    Path("text.png").write_text("no image")
    Path("empty.png").touch()
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:60])
    names = ["a.png", "text.png", "b.png", "empty.png", "cut.png", "c.png"]

    assert predict(checkpoint, *names) == 1

    assert files_of() == ["a.png", "b.png", "c.png"]
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["3 predictions in predictions.csv"]
    reports = printed.err.splitlines()
    assert [line.split(": ")[1] for line in reports] == ["text.png", "empty.png", "cut.png"]
    assert reports[1] == "unreadable: empty.png: the file is empty."
    assert all(line.count(": ") >= 2 for line in reports)


def test_when_no_file_can_be_read_all_are_reported(checkpoint, capsys):
    for name in ("a.png", "b.png"):
        Path(name).write_text("no image")

    assert predict(checkpoint, "a.png", "b.png") == 1

    assert rows_of() == []
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 2
    assert "0 predictions" in printed.out


def test_images_that_are_named_one_by_one_add_up(checkpoint, digits):
    write_images(digits, *(f"{name}.png" for name in "abcdef"))
    more = [
        "--images",
        "c.png",
        "d.png",
        "--seed_everything",
        "1",
        "--images=e.png",
        "--images=f.png",
    ]

    assert predict(checkpoint, "b.png", "a.png", *more) == 0

    assert files_of() == [f"{name}.png" for name in "bacdef"]


@pytest.mark.parametrize("more", [["--images"], ["--images", "--output", "x"], ["--images="]])
def test_images_without_a_name_behind_it_is_refused(more, checkpoint, digits, capsys):
    write_images(digits, "a.png")

    assert predict(checkpoint, "a.png", *more) == 2

    assert capsys.readouterr().err == "error: --images: expected a value.\n"


def heed_ctrl_c():
    """As a command in the foreground does, wherever the tests run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(*arguments):
    """A command of a user, in a process of its own."""
    path = str(Path(classifier.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-m", "classifier", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


OTHER = """
from pathlib import Path

from torch import nn


class Other(nn.Module):
    def forward(self, image):
        Path("out.csv").write_text("of another")
        Path("out_1.csv").write_text("of a third")
        return image
"""


def folder_of(root, transform, workers=0):
    """Options that read images as ``own.py`` does."""
    return [
        *("--data", "ImageFolder", "--data.root", root, "--data.in_channels", "1"),
        *("--data.eval_transform", f"[{{class_path: {transform}}}]"),
        *("--data.num_workers", str(workers)),
    ]


def test_an_output_that_is_made_meanwhile_is_left_alone(checkpoint, digits, write_module, capsys):
    """Each image that is read writes files under the name, as another command may."""
    write_images(digits, "a.png", "b.png")
    write_module(OTHER)

    code = predict(checkpoint, "a.png", "b.png", "--output=out.csv", *folder_of(".", "own.Other"))

    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: 'out\.csv' was made .* is in 'out_2\.csv'\.$", line)
    assert Path("out.csv").read_text() == "of another"
    assert Path("out_1.csv").read_text() == "of a third"
    assert files_of("out_2.csv") == ["a.png", "b.png"]
    assert not list(Path().glob(".*"))


SLOW = """
import time
from pathlib import Path

from torch import nn


class Slow(nn.Module):
    def forward(self, image):
        Path("begun").touch()
        time.sleep(0.5)
        return image
"""


@pytest.mark.slow
def test_of_two_predictions_at_once_each_has_its_rows(checkpoint, digits):
    """20 s: two processes start, and read for 6 s."""
    for name in ("one", "two"):
        write_images(digits, *(f"{name}/{number:02}.png" for number in range(12)))
    Path("own.py").write_text(SLOW)
    slow = ["predict", "--ckpt_path", checkpoint, *folder_of(".", "own.Slow"), "--images"]
    both = [started(*slow, name) for name in ("one", "two")]

    errors = [process.communicate()[1] for process in both]

    assert sorted(process.returncode for process in both) == [0, 2], errors
    files = [files_of(path) for path in Path().glob("predictions*.csv")]
    expected = [[f"{name}/{number:02}.png" for number in range(12)] for name in ("one", "two")]
    assert sorted(files) == expected


def test_an_output_on_a_full_disk_is_told(checkpoint, digits, capsys):
    write_images(digits, "a.png")
    Path("disk").mkdir()

    with small_disk("disk", "4k"):
        fill("disk")
        assert predict(checkpoint, "a.png", "--output", "disk/out.csv") == 2
        left = [path.name for path in Path("disk").iterdir()]

    assert capsys.readouterr().err == "error: 'disk/out.csv': No space left on device.\n"
    assert left == ["filler"]


def test_a_disk_without_links_gets_its_output(checkpoint, digits, monkeypatch):
    write_images(digits, "a.png")

    def link(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", link)
    assert predict(checkpoint, "a.png") == 0

    assert files_of() == ["a.png"]
    assert {path.name for path in Path().iterdir()} == {"a.png", "predictions.csv"}


@pytest.mark.parametrize(
    ("verb", "number", "workers"),
    [
        ("predict", signal.SIGTERM, 0),
        pytest.param("test", signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param("predict", signal.SIGTERM, 2, marks=pytest.mark.slow),
        pytest.param("predict", signal.SIGUSR1, 2, marks=pytest.mark.slow),
        pytest.param("validate", signal.SIGTERM, 0, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_it_at_once_and_leaves_nothing(verb, number, workers, checkpoint, digits):
    """7 s each, nearly all of which are the start; left alone each set takes some seconds more."""
    splits = [f"tree/{split}/{label}" for split in ("train", "val", "test") for label in range(10)]
    write_images([*digits] * 5, *(f"{folder}/{name}.png" for folder in splits for name in "ab"))
    Path("own.py").write_text(SLOW)
    command = [verb, "--ckpt_path", checkpoint, *folder_of("tree", "own.Slow", workers)]
    command += ["--images", "tree"] if verb == "predict" else []
    process = started(*command, "--data.eval_batch_size", "2")
    while not Path("begun").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)

    process.send_signal(number)
    printed = process.communicate()

    assert process.returncode == 128 + number
    # Of the network of one data set on another.
    assert not re.sub("warning: the images or their split .*\n", "", "".join(printed))
    left = {path.name for path in Path().iterdir()}
    assert left - {"__pycache__"} == {"begun", "own.py", "tree"}


def test_a_signal_while_it_is_loading_ends_it_at_once(checkpoint, digits):
    write_images(digits, "a.png")
    process = started("predict", "--ckpt_path", checkpoint, "--images", "a.png")
    time.sleep(1)  # the imports alone take longer

    process.send_signal(signal.SIGTERM)
    printed = process.communicate()

    assert process.returncode == 143
    assert printed == ("", "")


def test_an_existing_output_is_left_alone(checkpoint, digits, capsys):
    write_images(digits, "a.png")
    Path("predictions.csv").write_text("the work of a week")

    assert predict(checkpoint, "a.png") == 2

    assert Path("predictions.csv").read_text() == "the work of a week"
    error = capsys.readouterr().err
    assert re.match(r"error: --output 'predictions.csv' exists", error)
    assert {path.name for path in Path().iterdir()} == {"a.png", "predictions.csv"}


def test_an_output_in_a_folder_that_does_not_exist_is_refused(checkpoint, digits, capsys):
    write_images(digits, "a.png")

    assert predict(checkpoint, "a.png", "--output", "no/where.csv") == 2

    assert re.match(r"error: --output .*no folder 'no'", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing.png", "no file, folder or glob 'nothing.png'"),
        ("*.jpg", r"no file, folder or glob '\*.jpg'"),
        ("empty", "no image in folder 'empty'"),
    ],
    ids=["file", "glob", "folder"],
)
def test_a_path_that_stands_for_nothing_is_refused(pattern, message, checkpoint, digits, capsys):
    write_images(digits, "a.png")
    Path("empty").mkdir()

    assert predict(checkpoint, "a.png", pattern) == 2

    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "--images" in error
    assert len(error.splitlines()) == 1
    assert not Path("predictions.csv").exists()


def test_without_images_nothing_is_predicted(checkpoint, capsys):
    assert main(["predict", "--ckpt_path", checkpoint]) == 2

    assert "--images" in capsys.readouterr().err


NAMES = [
    "with space.png",
    "comma, and 'quotes\".png",
    "brackets[1].png",
    "star*.png",
    "Zwölf 数字.png",
    "-dash.png",
    "line\nbreak.png",
    os.fsdecode(b"latin-\xe9.png"),
]


def test_odd_file_names_come_out_as_they_went_in(checkpoint, digits):
    write_images(digits, *(f"images/{name}" for name in NAMES))

    assert predict(checkpoint, *(f"images/{name}" for name in NAMES)) == 0

    assert files_of() == [f"images/{name}" for name in NAMES]
    assert all(Path(name).is_file() for name in files_of())


def test_a_file_name_that_begins_with_a_dash_needs_a_folder_before_it(checkpoint, digits):
    write_images(digits, "-dash.png")

    assert predict(checkpoint, "./-dash.png") == 0

    assert files_of() == ["-dash.png"]


def test_an_unreadable_file_with_an_odd_name_is_reported(checkpoint, capfd):
    name = os.fsdecode(b"latin-\xe9.png")
    Path(name).write_text("no image")

    assert predict(checkpoint, name) == 1

    assert "unreadable: latin-" in capfd.readouterr().err


def test_an_output_with_an_odd_name_is_written(checkpoint, digits, capfd):
    write_images(digits, "a.png")
    name = os.fsdecode(b"latin-\xe9.csv")

    assert predict(checkpoint, "a.png", "--output", name) == 0

    assert len(rows_of(name)) == 1


def test_a_colour_photo_of_any_size_is_read_as_the_network_wants_it(checkpoint, digits):
    grey = Image.fromarray(digits[0, 0].numpy())
    grey.save("grey.png")
    grey.convert("RGB").resize((800, 600), Image.Resampling.NEAREST).save("photo.jpg")
    grey.convert("RGB").save("colour.png")
    grey.convert("RGBA").save("transparent.png")

    assert predict(checkpoint, "grey.png", "colour.png", "transparent.png", "photo.jpg") == 0

    rows = rows_of()
    assert len(rows) == 4
    labels = [(row["prediction"], row["probability"]) for row in rows]
    assert labels[0] == labels[1] == labels[2]


def test_a_run_folder_stands_for_its_best_checkpoint(trained, digits):
    write_images(digits, "a.png", "b.png")
    assert predict(str(trained / "checkpoints" / "best.ckpt"), "a.png", "b.png") == 0

    assert predict(str(trained), "a.png", "b.png", "--output", "again.csv") == 0

    assert rows_of("again.csv") == rows_of()


def test_the_data_set_need_not_be_there(checkpoint, digits):
    write_images(digits, "a.png")
    root = ["--data", "MNIST", "--data.init_args.root", "nowhere"]

    assert predict(checkpoint, "a.png", *root, "--data.init_args.download", "false") == 0

    assert len(rows_of()) == 1


def test_predictions_do_not_depend_on_the_batch(checkpoint, digits):
    names = [f"{number:02}.png" for number in range(12)]
    write_images(digits, *names)
    for size in ("1", "100"):
        arguments = ("--output", f"{size}.csv", "--data.init_args.eval_batch_size", size)
        assert predict(checkpoint, *names, *arguments) == 0

    rows = [rows_of(f"{size}.csv") for size in ("1", "100")]

    for one, other in zip(*rows, strict=True):
        assert one["prediction"] == other["prediction"]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=2e-6)
