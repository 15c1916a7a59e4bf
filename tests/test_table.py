"""Images that a table lists: its dialects, its columns, and what is wrong with its rows."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image

from classifier.__main__ import main
from classifier.data import ImageFolder, Table


@pytest.fixture
def photos(tmp_path):
    """A folder of 24 photos of cats and dogs, and its rows: image, label, split, group."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(24):
        name = ("cat", "dog")[number % 2]
        path = tmp_path / "photos" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        part = "test" if number < 4 else "valid" if number < 8 else "train"
        rows.append([f"{name}/{number}.png", name, part, f"house {number // 4}"])
    random.shuffle(rows)
    return rows


def write(text, name="photos/table.csv", encoding="utf-8"):
    Path(name).write_bytes(text.encode(encoding))
    return name


def as_csv(rows, header=(), **dialect):
    text = io.StringIO()
    csv.writer(text, **dialect).writerows([header, *rows] if header else rows)
    return text.getvalue()


def loaded(path="photos/table.csv", **settings):
    data = Table(path, image_size=8, num_workers=0, **settings)
    data.setup("fit")
    return data


def facts(data):
    """What decides the training: keys and labels of each part, in their order."""
    assert data.class_names == ["cat", "dog"]
    return {part: (list(its.names), its.labels.tolist()) for part, its in data.sets.items()}


def first_two(rows):
    return [row[:2] for row in rows]


DIALECTS = {
    "commas": lambda rows: as_csv(first_two(rows), ("image", "label")),
    "semicolons": lambda rows: as_csv(first_two(rows), ("file", "class"), delimiter=";"),
    "tabs": lambda rows: as_csv(first_two(rows), ("path", "target"), delimiter="\t"),
    "bars": lambda rows: as_csv(first_two(rows), ("filename", "Category"), delimiter="|"),
    "blanks": lambda rows: "".join(f"{row[0]}   {row[1]}\n" for row in rows),
    "no header": lambda rows: as_csv(first_two(rows)),
    "label first": lambda rows: as_csv([row[1::-1] for row in rows], ("label", "image")),
    "label first, no header": lambda rows: as_csv([row[1::-1] for row in rows]),
    "unknown names": lambda rows: as_csv(first_two(rows), ("what", "which")),
    "quotes": lambda rows: as_csv(first_two(rows), ("image", "label"), quoting=csv.QUOTE_ALL),
    "line ends of Windows": lambda rows: as_csv(first_two(rows), lineterminator="\r\n"),
    "empty lines": lambda rows: as_csv(first_two(rows)).replace("\n", "\n\n"),
    "no line end at its end": lambda rows: as_csv(first_two(rows)).rstrip(),
    "paths of Windows": lambda rows: as_csv(first_two(rows)).replace("/", "\\"),
    "./paths": lambda rows: as_csv([[f"./{row[0]}", row[1]] for row in rows]),
    "whole paths": lambda rows: as_csv([[Path("photos", r[0]).absolute(), r[1]] for r in rows]),
    "ids without suffix": lambda rows: as_csv([[r[0][:-4], r[1]] for r in rows], ("id", "label")),
    "rows that come twice": lambda rows: as_csv(first_two(rows + rows[:3])),
}
SETTINGS = {"ids without suffix": {"columns": {"image": "id"}}}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_table_of_any_dialect_is_the_folder_that_it_lists(dialect, photos):
    write(DIALECTS[dialect](photos))

    found = facts(loaded(**SETTINGS.get(dialect, {})))

    folder = ImageFolder("photos", image_size=8, num_workers=0)
    folder.setup("fit")
    assert found == facts(folder)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_tables_in_several_encodings_are_read(encoding, photos):
    rows = [[image, {"cat": "Kätzchen"}.get(label, label)] for image, label, *_ in photos]
    write(as_csv(rows), encoding=encoding)

    data = loaded(encoding="cp1252" if encoding == "cp1252" else None)

    assert data.class_names == ["Kätzchen", "dog"]


def test_columns_of_split_and_group_are_used(photos):
    write(as_csv(photos, ("image", "label", "split", "house")))

    data = loaded(columns={"group": "house"})

    assert {part: len(images) for part, images in data.sets.items()} == (
        {"train": 16, "val": 4, "test": 4}
    )
    assert set(data.sets["test"].names) == {row[0] for row in photos if row[2] == "test"}


def test_a_group_of_a_column_is_in_one_part(photos):
    rows = [[image, label, group] for image, label, _, group in photos]
    write(as_csv(rows, ("image", "label", "group")))
    houses = {row[0]: row[3] for row in photos}

    data = loaded(test_fraction=0.3, val_fraction=0.2)

    parts = [{houses[name] for name in images.names} for images in data.sets.values()]
    assert sum(map(len, parts)) == 6
    assert len(set.union(*parts)) == 6


def test_columns_of_marks_are_classes_where_they_are_named(photos):
    rows = [[image, int(label == "cat"), int(label == "dog")] for image, label, *_ in photos]
    write(as_csv(rows, ("image", "cat", "dog")))

    data = loaded(columns={"label": ["cat", "dog"]})

    assert {Path(name).parent.name for name in data.sets["val"].names} == {"cat", "dog"}
    assert data.class_names == ["cat", "dog"]


def test_labels_are_texts_and_numbers_are_in_order(photos, tmp_path):
    rows = [[row[0], ("10", "9", "NA", "09")[n % 4]] for n, row in enumerate(photos)]
    write(as_csv(rows))

    data = loaded()

    assert data.class_names == ["09", "9", "10", "NA"]
    assert any("'09', '9' are taken as different" in note for note in data.notes("fit"))


def test_classes_can_be_chosen_and_ordered(photos):
    rows = [[row[0], ("a", "b", "c")[n % 3]] for n, row in enumerate(photos)]
    write(as_csv(rows))

    data = loaded(classes=["c", "a"])

    assert data.class_names == ["c", "a"]
    assert sum(map(len, data.sets.values())) == 16
    assert "left out 8 images of classes not in data.classes." in data.notes("fit")


def test_classes_of_folders_can_be_chosen_and_ordered(photos):
    Path("photos", "cow").mkdir()
    data = ImageFolder("photos", image_size=8, num_workers=0, classes=["dog", "cat"])
    data.setup("fit")

    assert data.class_names == ["dog", "cat"]
    assert {Path(name).parent.name for name in data.sets["train"].names} == {"cat", "dog"}
    labels = dict(zip(data.sets["train"].names, data.sets["train"].labels.tolist(), strict=True))
    assert all(label == name.startswith("cat") for name, label in labels.items())
    assert any("left out 1 classes" in n and "'cow'" in n for n in data.notes("fit"))


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_images_that_a_file_lists_are_left_out(kind, photos):
    write("image,why\ncat/0.png,blurred\ndog/1.png,blurred\ncat/99.png,gone\n", "bad.csv")
    write(as_csv(first_two(photos)))
    arguments = {"image_size": 8, "num_workers": 0, "exclude": "bad.csv"}
    kinds = {
        "folder": ImageFolder("photos", **arguments),
        "table": Table("photos/table.csv", **arguments),
    }
    data = kinds[kind]
    data.setup("fit")

    names = {name for images in data.sets.values() for name in images.names}
    assert len(names) == 22
    assert not names & {"cat/0.png", "dog/1.png"}
    notes = data.notes("fit")
    assert "left out by data.exclude: 2, such as 'cat/0.png'." in notes
    assert any("lists 1 images that are not there, such as 'cat/99.png'" in n for n in notes)


def parquet(columns, path="photos/table.parquet", features=None):
    from pyarrow import parquet as files

    table = pyarrow.table(columns)
    if features:
        described = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": described})
    files.write_table(table, path, row_group_size=5)
    return path


def embedded(rows):
    return [{"bytes": Path("photos", row[0]).read_bytes(), "path": row[0]} for row in rows]


def test_parquet_with_images_inside_is_the_folder(photos):
    names = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    labels = [("cat", "dog").index(row[1]) for row in photos]
    data = loaded(parquet({"image": embedded(photos), "label": labels}, features=names))

    folder = ImageFolder("photos", image_size=8, num_workers=0)
    folder.setup("fit")
    assert facts(data) == facts(folder)
    for one, other in zip(data.train_dataloader(), folder.train_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])


def test_parquet_of_bytes_and_of_paths_is_read(photos):
    contents = [Path("photos", row[0]).read_bytes() for row in photos]
    labels = [row[1] for row in photos]
    inside = loaded(parquet({"image": contents, "label": labels}))
    paths = loaded(parquet({"image": [row[0] for row in photos], "label": labels}))

    assert len(inside.sets["train"]) == len(paths.sets["train"])
    assert set(inside.sets["train"].names) < set(map(str, range(24)))
    assert next(iter(inside.val_dataloader()))[0].shape[1:] == (3, 8, 8)


def test_a_table_is_trained_on_resumed_and_tested_elsewhere(
    photos, write_config, fit, tmp_path, monkeypatch, capfd
):
    write(as_csv(photos, ("image", "label", "split", "house")))
    arguments = {"path": "photos/table.csv", "image_size": 8, "num_workers": 0}
    data = {"class_path": "Table", "init_args": arguments}
    folder = fit("--config", write_config({"data": data, "trainer.max_epochs": 1}))
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)

    assert main(["fit", "--ckpt_path", str(tmp_path / folder), "--trainer.max_epochs=2"]) == 0
    assert main(["test", "--ckpt_path", str(tmp_path / folder)]) == 0

    told = "".join(capfd.readouterr())
    assert "have changed" not in told
    assert "16 / 4 / 4 images" in told


def test_predict_takes_a_table(photos, trained, capfd):
    write(as_csv([[row[0]] for row in photos[:5]], ("image",)))

    code = main(
        [
            "predict",
            "--ckpt_path",
            str(trained),
            "--images",
            "photos/table.csv",
            "--output",
            "o.csv",
        ]
    )

    assert code == 0
    rows = list(csv.DictReader(Path("o.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [f"photos/{row[0]}" for row in photos[:5]]


HEAD = ("image", "label")
WRONG = {
    "missing": (
        lambda r: as_csv([*first_two(r), ["cat/99.png", "cat"]], HEAD),
        {},
        "row 26: no such",
    ),
    "two missing": (
        lambda r: as_csv([["a.png", "cat"], *first_two(r), ["b.png", "cat"]], HEAD),
        {},
        "rows 2, 27: no such image in 'photos': 'a.png', 'b.png'",
    ),
    "other root": (
        lambda r: as_csv([[row[0][4:], row[1]] for row in r], HEAD),
        {},
        "(set data.root to 'photos/cat'?)",
    ),
    "no root": (lambda r: as_csv(first_two(r), HEAD), {"root": "nowhere"}, "which is no folder"),
    "contradiction": (
        lambda r: as_csv([*first_two(r), [r[3][0], "fish"]], HEAD),
        {},
        "row 26: contradicts an earlier row",
    ),
    "two splits": (
        lambda r: as_csv([*r, [*r[3][:2], "other", r[3][3]]], (*HEAD, "split", "group")),
        {},
        "row 26: expected train, val or test as the split, not: 'other'",
    ),
    "leak": (
        lambda r: as_csv(
            [*r, [*r[3][:2], "test" if r[3][2] == "train" else "train", r[3][3]]],
            (*HEAD, "split", "group"),
        ),
        {},
        "contradicts an earlier row",
    ),
    "empty label": (
        lambda r: as_csv([[r[0][0], ""], *first_two(r[1:])], HEAD),
        {},
        "row 2: no label",
    ),
    "empty image": (lambda r: as_csv([["", "cat"], *first_two(r)], HEAD), {}, "row 2: no image is"),
    "empty group": (
        lambda r: as_csv([[*r[0][:2], "x"], [*r[1][:2], ""]], (*HEAD, "group")),
        {},
        "row 3: no group for",
    ),
    "class without training": (
        lambda r: as_csv(
            [[i, "fish" if p == "test" else c, p] for i, c, p, _ in r], (*HEAD, "split")
        ),
        {},
        "no training image is of this class: 'fish'",
    ),
    "one class": (
        lambda r: as_csv([[row[0], "cat"] for row in r], HEAD),
        {},
        "of the class 'cat' alone; expected two",
    ),
    "no training": (
        lambda r: as_csv([[*row[:2], "test"] for row in r], (*HEAD, "split")),
        {},
        "of no class; expected two",
    ),
    "ragged": (
        lambda r: as_csv(first_two(r), HEAD) + "cat/0.png,cat,more\n",
        {},
        "row 26: not 2 cells, as in row 1; the cells are separated by comma",
    ),
    "quote": (lambda r: as_csv(first_two(r), HEAD) + '"cat/0.png"x,cat\n', {}, "row 26: "),
    "open quote": (lambda r: as_csv(first_two(r), HEAD) + '"cat/0.png,cat\n', {}, "row 26: "),
    "two delimiters": (lambda r: "image,x;label,y\ncat/0.png,1;cat,2\n", {}, "set data.delimiter"),
    "not UTF-8": (lambda r: as_csv(first_two(r), HEAD) + "é,cat\n", {}, "row 26: not UTF-8; set"),
    "NUL": (lambda r: as_csv(first_two(r), HEAD) + "\0,cat\n", {}, "row 26: a NUL character"),
    "unknown encoding": (
        lambda r: as_csv(first_two(r), HEAD),
        {"encoding": "utf-9"},
        "Python knows no encoding 'utf-9'",
    ),
    "long delimiter": (
        lambda r: as_csv(first_two(r), HEAD),
        {"delimiter": "::"},
        "data.delimiter is one character, not '::'",
    ),
    "empty file": (lambda r: "", {}, "is empty; expected a row for each image"),
    "header alone": (lambda r: "image,label\n", {}, "has the names of its columns but no rows"),
    "column twice": (lambda r: as_csv(r, ("image", "label", "x", "x")), {}, "two columns 'x'"),
    "two for the label": (
        lambda r: as_csv([row[:3] for row in r], ("image", "label", "class")),
        {},
        "the label may be in 'label' or 'class'; set data.columns.label",
    ),
    "no column for the label": (
        lambda r: as_csv(r, ("image", "one", "two", "three")),
        {},
        "set data.columns.label to one of 'image', 'one', 'two', 'three'",
    ),
    "a column for each class": (
        lambda r: as_csv(
            [[i, int(c == "cat"), int(c == "dog")] for i, c, *_ in r], ("image", "cat", "dog")
        ),
        {},
        "data.columns.label: [cat, dog]",
    ),
    "several labels": (
        lambda r: as_csv([[row[0], 1, 1] for row in r], ("image", "cat", "dog")),
        {},
        "give several labels an image",
    ),
    "unknown column": (
        lambda r: as_csv(first_two(r), HEAD),
        {"columns": {"label": "labell"}},
        "has no column 'labell', did you mean 'label'?",
    ),
    "unknown role": (
        lambda r: as_csv(first_two(r), HEAD),
        {"columns": {"lable": "label"}},
        "nothing is called 'lable', did you mean 'label'?",
    ),
    "names or an image": (
        lambda r: as_csv([[row[0][:-4], row[1]] for row in r]),
        {},
        "set data.header to true or false",
    ),
    "unknown class": (
        lambda r: as_csv(first_two(r), HEAD),
        {"classes": ["cat", "dogs"]},
        "there is no class 'dogs', did you mean 'dog'?",
    ),
    "class twice": (
        lambda r: as_csv(first_two(r), HEAD),
        {"classes": ["cat", "cat"]},
        "data.classes names 'cat' twice",
    ),
    "two groups": (
        lambda r: as_csv([[i, c, g] for i, c, _, g in r], (*HEAD, "group")),
        {"group": "(cat|dog)"},
        "the data has groups already, in a column",
    ),
    "no table to exclude": (
        lambda r: as_csv(first_two(r), HEAD),
        {"exclude": "bad.csv"},
        "No table 'bad.csv'",
    ),
}


@pytest.mark.parametrize(("text", "settings", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_with_tables_are_told(text, settings, message, photos, write_config, capfd):
    encoding = "latin-1" if "not UTF-8" in message else "utf-8"
    write(text(photos), encoding=encoding)
    arguments = {"path": "photos/table.csv", "image_size": 8, "num_workers": 0, **settings}
    config = write_config({"data": {"class_path": "Table", "init_args": arguments}})

    assert main(["fit", "--config", config]) == 2

    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 5


def test_a_table_that_is_not_there_is_told(write_config, capfd):
    config = write_config({"data": {"class_path": "Table", "init_args": {"path": "no.csv"}}})

    assert main(["fit", "--config", config]) == 2

    assert "No table 'no.csv'" in capfd.readouterr().err


PARQUET_MISTAKES = {
    "damaged": (
        lambda rows: Path("photos/table.parquet").write_bytes(b"PAR1"),
        "is no whole Parquet",
    ),
    "paths of another machine": (
        lambda rows: parquet({"image": [{"bytes": None, "path": "/home/x.png"}], "label": ["cat"]}),
        "row 1: the path of an image that lay on another machine",
    ),
    "no rows": (lambda rows: parquet({"image": [], "label": []}), "has no rows"),
}


@pytest.mark.parametrize(("make", "message"), PARQUET_MISTAKES.values(), ids=PARQUET_MISTAKES)
def test_mistakes_with_parquet_are_told(make, message, photos, write_config, capfd):
    make(photos)
    arguments = {"path": "photos/table.parquet", "image_size": 8, "num_workers": 0}
    config = write_config({"data": {"class_path": "Table", "init_args": arguments}})

    assert main(["fit", "--config", config]) == 2

    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error
