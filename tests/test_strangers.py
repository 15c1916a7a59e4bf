"""What a stranger's file or folder cannot do, be it made by him or by changing one of the user's.

It names the module ``evil`` where a class path is imported. That lies wherever Python might look
for it, and leaves the file ``ran`` behind when it is imported.
"""

import contextlib
import hashlib
import os
import platform
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from conftest import TINY, put
from PIL import Image
from searches import write_files

from classifier import runs
from classifier.__main__ import main
from classifier.atomic import open_to_append
from classifier.checkpoint import signature, trust
from classifier.checkpoint.file import COMMENT, END, END_SIZE, _crc
from classifier.checkpoint.modules import digest
from classifier.checkpoint.read import read_with_origin
from classifier.cli.run import COMMAND
from classifier.module import ClassificationModule
from classifier.search import signed
from classifier.search.settings import parse, save
from classifier.search.study import Study
from classifier.search.worker import is_disk_full

OWN = "from classifier.networks import MNISTNet\nclass Own(MNISTNet):\n    pass\n"
EVIL = """\
import pathlib
pathlib.Path({mark!r}).touch()
from optuna.samplers import TPESampler
from classifier.networks import MNISTNet
class Net(MNISTNet):
    pass
class Sampler(TPESampler):
    pass
csv = png = data = yaml = ckpt = runs = Net
"""


@pytest.fixture(scope="session")
def own_run(tmp_path_factory):
    """The folder of a signed run with a network of one's own. Only to be read."""
    folder = tmp_path_factory.mktemp("own_run")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("own.py").write_text(OWN)
        config = yaml.safe_load(TINY)
        put(config, {"model.network": {"class_path": "own.Own", "init_args": {"width": 4}}})
        put(config, {"trainer.max_epochs": 1})
        Path("tiny.yaml").write_text(yaml.safe_dump(config))
        assert main(["fit", "--config", "tiny.yaml"]) == 0
        sys.modules.pop("own")
    return folder / "runs" / "tiny" / "version_0"


@pytest.fixture
def mark(own_folder):
    """What is there once ``evil`` was imported, which is in the working folder."""
    mark = own_folder / "ran"
    Path("evil.py").write_text(EVIL.format(mark=str(mark)))
    Image.new("L", (8, 8)).save("image.png")
    yield mark
    for name in ("own", "evil", "model"):
        sys.modules.pop(name, None)


@pytest.fixture
def folder(own_run, mark):
    """A copy of that run folder in the working folder, with ``evil`` in it."""
    shutil.copytree(own_run, "found")
    shutil.copy("evil.py", "found")
    return Path("found")


@pytest.fixture
def unsaved(folder):
    """One that was killed before its first checkpoint."""
    shutil.rmtree(folder / "checkpoints")
    record = runs.read_record(folder)
    runs.write_record(folder, {**record, "state": "running", "pid": 1})
    (folder / "metrics.csv").unlink()
    return folder


@pytest.fixture
def checkpoint(folder):
    return folder / "checkpoints" / "last.ckpt"


def evil_copy(path, network="evil.Net", **changes):
    """What is in a checkpoint, with another network."""
    content = torch.load(path, weights_only=True)
    config = yaml.safe_load(content["classifier"]["config"])
    put(config, {"model.network": {"class_path": network, "init_args": {"width": 4}}, **changes})
    content["classifier"]["config"] = yaml.safe_dump(config)
    content["hyper_parameters"]["network"]["class_path"] = network
    module = network.partition(".")[0]
    content["classifier"]["run"] |= {  # which would do, were the signature the user's
        "trusted": [network],
        "code": {module: digest(Path(f"{module}.py"))} if Path(f"{module}.py").exists() else {},
        "code_folders": {module: str(Path.cwd())},
    }
    return content


def refused_everywhere(path, mark, capsys):
    """Gives a checkpoint to all that read one; returns what the last of them said."""
    files = {"predict": ["--images", "image.png"], "fit": ["--trainer.max_epochs", "2"]}
    for verb in ("fit", "test", "predict"):
        assert main([verb, "--ckpt_path", str(path), *files.get(verb, [])]) == 2
    assert main(["fit", "--config", str(path)]) == 2
    with pytest.raises(ValueError, match=r"."):
        ClassificationModule.load_from_checkpoint(path)
    assert not mark.exists()
    assert not {"own", "evil"} & set(sys.modules)
    return capsys.readouterr().err


# ---- changed checkpoints ----


def test_no_byte_of_a_signed_checkpoint_can_be_changed(checkpoint):
    content = checkpoint.read_bytes()
    assert read_with_origin(checkpoint)[1] == "own"
    draw = random.Random(0)
    comment = len(content) - 190  # checksum and signature, and what counts their bytes
    places = [*draw.sample(range(comment), 150), *draw.sample(range(comment, len(content)), 50)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= draw.randrange(1, 256)
        checkpoint.write_bytes(changed)

        with pytest.raises(ValueError, match=r"last\.ckpt"):
            read_with_origin(checkpoint)


def test_a_signed_checkpoint_that_is_cut_off_is_damaged(checkpoint):
    content = checkpoint.read_bytes()
    draw = random.Random(0)
    for size in [*draw.sample(range(len(content)), 40), *range(len(content) - 10, len(content))]:
        checkpoint.write_bytes(content[:size])

        with pytest.raises(ValueError, match=r"last\.ckpt"):
            read_with_origin(checkpoint)


def with_comment(content, comment):
    """The bytes of a checkpoint with another comment of the zip."""
    start = content.rfind(END)
    return content[: start + END_SIZE - 2] + len(comment).to_bytes(2, "little") + comment


def signature_in(path):
    content = path.read_bytes()
    start = content.rfind(END) + END_SIZE
    return COMMENT.fullmatch(content[start:].decode())[2]


def with_key_of_another(digest, before):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLASSIFIER_KEY", f"{os.environ['CLASSIFIER_KEY']}_of_another")
        return signature.sign("checkpoint", digest)


FORGED = {
    "none": lambda digest, before: None,
    "of another content": lambda digest, before: before,
    "of a run": lambda digest, before: signature.sign("run", digest),
    "of a search": lambda digest, before: signature.sign("search", digest),
    "with another key": with_key_of_another,
    "of zeros": lambda digest, before: "0" * 64,
}


@pytest.mark.parametrize("network", ["own.Own", "evil.Net"])
@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_signature_lifts_no_check(forge, network, checkpoint, mark, capsys):
    before = signature_in(checkpoint)
    torch.save(evil_copy(checkpoint, network), checkpoint)  # without a comment
    content = checkpoint.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    forged = forge(checksum, before)
    comment = f"sha256:{checksum}"
    comment += f" hmac-sha256:{forged} crc32:{_crc(forged)}" if forged else ""
    checkpoint.write_bytes(with_comment(content, comment.encode()))

    told = refused_everywhere(checkpoint, mark, capsys)

    assert f"names '{network}'" in told
    assert ("CLASSIFIER_KEY=FILE" in told) == bool(forged)


def test_the_signature_of_one_kind_is_none_of_another():
    for kind in ("checkpoint", "run", "search"):
        for other in ("checkpoint", "run", "search"):
            origin = signature.origin(other, "x", signature.sign(kind, "x"))
            assert origin == ("own" if other == kind else "another key")


@pytest.mark.parametrize("value", [None, "", 5, True, ["x"], {}, "\ud800", "é" * 64, "0" * 10**6])
def test_what_is_no_signature_is_none(value):
    assert signature.origin("run", "x", value) in ("unsigned", "another key")


# ---- files that change while they are read ----


def swaps(monkeypatch, reading, swap):
    """Changes files at the very moment of a reading by torch, after the signature was verified."""
    load, readings = torch.load, []

    def swapped(*arguments, **settings):
        readings.append(arguments)
        if len(readings) == reading:
            swap()
        return load(*arguments, **settings)

    monkeypatch.setattr(torch, "load", swapped)
    return readings


def put_in_place(other, path):
    path.write_bytes(other.read_bytes())


def put_in_place_secretly(other, path):
    known = path.stat()
    put_in_place(other, path)
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))


SWAPS = {
    "another file": os.replace,
    "in place": put_in_place,
    "in place, with its time put back": put_in_place_secretly,
}


@pytest.fixture
def evil_file(checkpoint):
    path = Path("evil.pt")
    torch.save(evil_copy(checkpoint), path)
    return path


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
@pytest.mark.parametrize("reading", [1, 2])
def test_a_checkpoint_that_is_swapped_while_it_is_read_runs_nothing(
    reading, swap, checkpoint, evil_file, mark, monkeypatch, capsys
):
    readings = swaps(monkeypatch, reading, lambda: swap(evil_file, checkpoint))

    code = main(["test", "--ckpt_path", str(checkpoint)])

    assert len(readings) >= reading
    assert not mark.exists()
    assert "evil" not in sys.modules
    assert code in (0, 2), capsys.readouterr().err


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
@pytest.mark.parametrize("reading", [1, 2])
def test_load_from_checkpoint_runs_nothing_of_a_file_that_is_swapped_meanwhile(
    reading, swap, checkpoint, evil_file, mark, monkeypatch
):
    readings = swaps(monkeypatch, reading, lambda: swap(evil_file, checkpoint))
    refused = swap is not os.replace

    with pytest.raises(ValueError, match=r".") if refused else contextlib.nullcontext():
        module = ClassificationModule.load_from_checkpoint(checkpoint)
        assert type(module.network).__name__ == "Own"

    assert len(readings) >= reading
    assert not mark.exists()
    assert "evil" not in sys.modules


# ---- run folders ----


def test_a_signed_run_that_has_no_checkpoint_yet_goes_on_without_a_flag(unsaved):
    assert main(["fit", "--ckpt_path", str(unsaved)]) == 0

    assert (unsaved / "checkpoints/last.ckpt").is_file()


def edited(**changes):
    """Changes the config in a run folder."""

    def edit(folder):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        put(config, changes)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

    return edit


def recorded(name, change):
    """Changes the record in a run folder."""

    def edit(folder):
        record = runs.read_record(folder)
        runs.write_record(folder, {**record, name: change(record[name])})

    return edit


def both(folder):
    """As somebody who knows how a record is made, but has another key."""
    edited(**{"model.network.class_path": "evil.Net"})(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLASSIFIER_KEY", f"{os.environ['CLASSIFIER_KEY']}_of_another")
        config = (folder / "config.yaml").read_text()
        record = {**runs.read_record(folder), "trusted": ["evil"]}
        record["config_sha256"] = runs.text_sha256(config)
        record["signature"] = signature.sign("run", trust.signed_part(record, config))
    runs.write_record(folder, record)


EDITS = {
    "another network": edited(**{"model.network.class_path": "evil.Net"}),
    "another callback": edited(**{"trainer.callbacks": [{"class_path": "evil.Net"}]}),
    "another seed": edited(seed_everything=5),
    "trusted": recorded("trusted", lambda names: [*names, "evil"]),
    "working folder": recorded("working_folder", lambda _: str(Path.cwd())),
    "code": recorded("code", lambda code: {**code, "evil": ""}),
    "folders": recorded("code_folders", lambda code: {**code, "evil": str(Path.cwd())}),
    "no signature": recorded("signature", lambda _: None),
    "another kind": recorded("signature", lambda _: signature.sign("checkpoint", "x")),
    "another key": both,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_run_folder_that_was_changed_is_a_strangers(edit, unsaved, mark, capsys):
    edit(unsaved)

    for option in ("--ckpt_path", "--config"):
        assert main(["fit", option, str(unsaved)]) == 2
        told = capsys.readouterr().err
        assert "'own.Own'" in told or "'evil.Net'" in told
        assert "--trust" in told
    assert not mark.exists()
    assert not {"own", "evil"} & set(sys.modules)


def test_a_config_that_the_user_has_edited_is_his_word_once_he_names_it(unsaved, capsys):
    edited(seed_everything=5)(unsaved)
    config = unsaved / "config.yaml"
    Path("own.py").write_text(OWN)

    assert main(["fit", "--ckpt_path", str(unsaved)]) == 2
    assert f"edited since the run wrote it: by you, then --config '{config.resolve()}'" in (
        capsys.readouterr().err
    )
    assert main(["fit", "--ckpt_path", str(unsaved), "--config", str(config)]) == 0
    assert runs.read_record(unsaved)["seed"] == 5


# ---- what is no class path ----

WORDS = {
    "checkpoint": ("model.ckpt", ["--ckpt_path", "model.ckpt"]),
    "checkpoint, with =": ("model.ckpt", ["--ckpt_path=model.ckpt"]),
    "folder of data": ("model.data", ["--data.root", "model.data"]),
    "folder of data in full": ("model.data", ["--data.init_args.root=model.data"]),
    "data as YAML": ("model.data", ["--data", "{init_args: {root: model.data}}"]),
    "images": ("model.png", ["--images", "image.png", "model.png"]),
    "output": ("model.csv", ["--output", "model.csv"]),
    "output, with =": ("model.csv", ["--output=model.csv"]),
    "output in a config": ("model.csv", ["--config", "{output: model.csv}"]),
    "images in a config": ("model.png", ["--config", "{images: [image.png, model.png]}"]),
    "config": ("model.yaml", ["--config", "model.yaml"]),
    "folder of runs": ("model.runs", ["--trainer.default_root_dir", "model.runs"]),
    "logger": (
        "model.runs",
        ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=model.runs"],
    ),
    "weights": ("model.png", ["--model.network.weights", "model.png"]),
    "where weights come from": ("model.png", ["--model.init_from", "model.png"]),
}


@pytest.mark.parametrize(("word", "given"), WORDS.values(), ids=WORDS)
def test_the_name_of_a_file_asks_for_no_module(word, given, checkpoint, mark, capsys):
    """``output: model.csv`` does not ask for the ``csv`` of a ``model.py`` that lies there."""
    shutil.copy("evil.py", "model.py")
    Path("model.yaml").write_text("{}")
    torch.save(evil_copy(checkpoint, word), "model.ckpt")
    if given[0] == "--images":
        Path(word).touch()
    named = [] if any("--ckpt_path" in part for part in given) else ["--ckpt_path", "model.ckpt"]
    images = [] if "images" in str(given) else ["--images", "image.png"]

    assert main(["predict", *named, *images, *given]) == 2

    assert f"names '{word}', and importing that would run its code" in capsys.readouterr().err
    assert not mark.exists()


def test_a_class_path_of_the_users_own_words_is_one(checkpoint, mark):
    """So that what the test above shows is not that nothing is imported at all."""
    shutil.copy("evil.py", "model.py")
    torch.save(evil_copy(checkpoint, "model.csv"), "model.ckpt")

    main(["test", "--ckpt_path", "model.ckpt", "--model.network", "model.csv"])

    assert mark.exists()


# ---- where a stranger's file has something written ----


def test_a_strangers_config_does_not_say_where_runs_are_kept(checkpoint, own_folder):
    place = own_folder / "elsewhere"
    content = evil_copy(
        checkpoint, "classifier.networks.MNISTNet", **{"trainer.default_root_dir": str(place)}
    )
    content["classifier"]["run"]["name"] = ".ssh"
    torch.save(content, "x.ckpt")
    Path("stranger/version_0").mkdir(parents=True)
    Path("stranger/version_0/config.yaml").write_text(content["classifier"]["config"])
    Path("stranger/version_0/run.json").write_text("{}")

    assert main(["fit", "--ckpt_path", "x.ckpt", "--trainer.max_epochs", "2"]) == 0
    assert main(["fit", "--config", "x.ckpt"]) == 0
    assert main(["fit", "--config", "stranger/version_0"]) == 0

    assert not place.exists()
    assert sorted(path.parent.name for path in Path("runs").glob("*/*")) == [
        *(".ssh", ".ssh", "stranger")
    ]


def trees(folder):
    """What lies in a folder, with the content of its files."""
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


LINKS = {
    "record": ".run.json.part",
    "config": ".config.yaml.part",
    "metrics": ".metrics.csv.part",
    "checkpoint": "checkpoints/.new.ckpt.part",
    "lock": ".lock",
}


@pytest.mark.parametrize("kind", [Path.symlink_to, Path.hardlink_to], ids=["symbolic", "hard"])
@pytest.mark.parametrize("whose", ["own", "stranger"])
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_no_file_elsewhere_is_written_through_a_link_in_a_run_folder(
    link, whose, kind, folder, own_folder, capsys
):
    """A signature is on no link: somebody may have put it into the folder meanwhile."""
    elsewhere = own_folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "profile").write_text("precious")
    path = folder / link
    path.unlink(missing_ok=True)
    kind(path, elsewhere / "profile")
    if whose == "stranger":
        for file in folder.glob("checkpoints/*.ckpt"):
            torch.save(evil_copy(file, "classifier.networks.MNISTNet"), file)
    before = trees(elsewhere)

    code = main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "2"])

    assert trees(elsewhere) == before
    told = capsys.readouterr().err
    if whose == "stranger" and kind is Path.symlink_to:
        assert code == 2
        assert f"'{path.absolute()}' in it is a link" in told
        assert runs.read_record(folder)["epochs"] == 1
    elif link != ".lock":
        assert code == 0, told
        assert runs.read_record(folder)["epochs"] == 2


def test_no_folder_elsewhere_is_written_to_through_a_link(unsaved, own_folder, capsys):
    edited(**{"model.network.class_path": "classifier.networks.MNISTNet"})(unsaved)
    recorded("config_sha256", lambda _: runs.sha256(unsaved / "config.yaml"))(unsaved)
    (own_folder / "elsewhere").mkdir()
    (unsaved / "checkpoints").symlink_to(own_folder / "elsewhere")

    assert main(["fit", "--ckpt_path", str(unsaved)]) == 2

    assert "in it is a link" in capsys.readouterr().err
    assert trees(own_folder / "elsewhere") == {}


# ---- searches ----


def begun(base=TINY, params=None, **changes):
    """The folder of a signed search with a trained trial, which nobody has to train for that."""
    write_files(base, **{"n_trials": 2, "space": {"width": [2, 4]}, **changes})
    settings = parse(["--config", "search.yaml"])
    folder = settings.folder
    (folder / "workers").mkdir(parents=True)
    save(settings)
    study = Study(settings)
    study.begin_in(Path.cwd())
    trial = optuna.trial.create_trial(
        params=params or {"width": 2},
        distributions=dict(study.space.parameters),
        value=0.5,
        user_attrs={"outcome": {"value": 0.5, "epochs": 1, "seconds": 1.0, "reason": ""}},
    )
    study.study.add_trial(trial)
    signed.sign(folder, Path.cwd())
    return Path("found")


def with_settings(folder, **changes):
    """Changes the search file as an editor would; its signature stays."""
    path = folder / "search.yaml"
    *lines, line = path.read_text().splitlines(keepends=True)
    assert line.startswith("# signed in ")
    settings = yaml.safe_load("".join(lines)) | changes
    path.write_text(f"{yaml.safe_dump(settings)}{line}")


ACTIONS = ["status", "table", "best", "importance", "refit", "worker"]
SAMPLERS = {
    "class": {"class_path": "evil.Sampler"},
    "name": "evil.Sampler",
    "function": {"class_path": "optuna.samplers.TPESampler", "init_args": {"gamma": "evil.Net"}},
    "within": {
        "class_path": "optuna.samplers.PartialFixedSampler",
        "init_args": {"fixed_params": {}, "base_sampler": {"class_path": "evil.Sampler"}},
    },
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_no_sampler_of_a_stranger_is_imported(sampler, action, mark, capsys):
    folder = begun()
    with_settings(folder, sampler=sampler)

    assert main(["search", action, str(folder)]) == 2

    assert "'evil." in capsys.readouterr().err
    assert not mark.exists()


def test_no_class_within_untyped_arguments_of_a_sampler_is_imported(mark, monkeypatch, capsys):
    """Nothing asks about it when the settings are read, and it is imported to get a seed."""
    folder = begun()
    fixed = {"fixed_params": {"class_path": "evil.Sampler"}}
    base = {"base_sampler": {"class_path": "optuna.samplers.RandomSampler"}}
    sampler = {"class_path": "optuna.samplers.PartialFixedSampler", "init_args": {**fixed, **base}}
    with_settings(folder, sampler=sampler)
    monkeypatch.syspath_prepend(Path.cwd() / "installed")  # where even a stranger's may import
    Path("installed").mkdir()
    shutil.move("evil.py", "installed")

    refused = pytest.raises(trust.ImportDenied, match=r"'evil\.Sampler'")
    with trust.confined(signed.trust_in(folder, [])), refused:  # as a worker takes a trial
        Study.of(folder).claim_next()

    assert not mark.exists()


def test_the_search_that_a_folder_holds_is_a_strangers_although_the_search_file_is_not(
    mark, capsys
):
    folder = begun()
    with_settings(folder, sampler={"class_path": "evil.Sampler"})

    assert main(["search", "--config", "search.yaml"]) == 2

    told = capsys.readouterr().err
    assert "names 'evil.Sampler'" in told
    assert "begin a new search, --folder DIR" in told.replace("Begin", "begin")
    assert "--trust" not in told  # which search has not
    assert not mark.exists()


@pytest.mark.parametrize("action", ACTIONS)
def test_no_database_of_a_stranger_is_asked_and_no_variable_is_told(
    action, mark, monkeypatch, capsys
):
    """``$NAME`` in its address comes from the environment, such as a password."""
    monkeypatch.setenv("PASSWORD_OF_TESTS", "s3cr3t")
    folder = begun()
    with_settings(folder, storage="postgresql://x:$PASSWORD_OF_TESTS@127.0.0.1:9/x")

    assert main(["search", action, str(folder)]) == 2

    told = "".join(capsys.readouterr())
    assert "has a storage and is not signed with your key" in told
    assert "s3cr3t" not in told


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_no_scheduler_is_given_the_options_of_a_stranger(engine, mark, monkeypatch, capsys):
    folder = begun()
    for name in ("sbatch", "scancel", "squeue"):
        Path(name).write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
        Path(name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path.cwd()), os.environ["PATH"]]))
    options = {"comment": f"x\ntouch {mark}\n", "address": "ray://127.0.0.1:9"}
    with_settings(folder, engine=engine, engine_options=options)

    assert main(["search", "refit", str(folder)]) == 2

    assert f"has engine {engine} and is not signed with your key" in capsys.readouterr().err
    assert not mark.exists()
    assert not list(folder.rglob("*.sbatch"))


NAMES = ["../../poetry", "{here}/poetry", f"../../a-1-{'0' * 8}", "../x", "x", 5, None]


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_no_lock_of_others_is_removed_as_that_of_a_dead_worker(name, own_folder, capsys):
    folder = begun()
    locks = [own_folder / "poetry.lock", own_folder / f"a-1-{'0' * 8}.lock", folder / "x.lock"]
    for lock in (*locks, folder / "workers" / "x.lock"):
        lock.touch()
    study = Study.of(folder)
    study.study.ask()
    name = name.format(here=own_folder) if isinstance(name, str) else name
    identity = {"id": name, "host": platform.node(), "pid": 1}
    study.storage.set_trial_user_attr(study.trials()[1]._trial_id, "worker", identity)

    assert main(["search", "status", str(folder)]) == 2

    assert "which is not a worker" in capsys.readouterr().err
    assert all(lock.exists() for lock in (*locks, folder / "workers" / "x.lock"))


@pytest.mark.parametrize("action", ["best", "table", pytest.param("refit", marks=pytest.mark.slow)])
def test_no_value_in_the_journal_of_a_search_becomes_a_class_path(action, mark, capsys):
    """The signature is on the settings of the search, not on what was sampled since."""
    classes = ["classifier.networks.MNISTNet", "torch.nn.Identity"]
    base = TINY.replace("width: &width 4", f"width: &width 4\n  kind: &kind {classes[0]}")
    base = base.replace(f"class_path: {classes[0]}", "class_path: *kind")
    folder = begun(base=base, space={"kind": classes}, params={"kind": classes[0]})
    assert signed.signed_folder(folder)
    journal = folder / "journal.log"
    journal.write_text(journal.read_text().replace(classes[0], "evil.Net"))

    code = main(["search", action, str(folder)])

    assert code == (0 if action == "table" else 1), capsys.readouterr().err
    assert not mark.exists()
    assert not (folder / "best.yaml").exists()
    refits = list(folder.glob("refit_*"))
    assert len(refits) == (action == "refit")
    assert not [word for refit in refits for word in signed.words(refit) if word == "evil.Net"]


SEARCH_LINKS = ["journal.log", "trials", "trials/0001/output.log", "workers/local-0.log", "refit_1"]


@pytest.mark.parametrize("action", ["refit", "worker", "best"])
@pytest.mark.parametrize("link", SEARCH_LINKS)
def test_nothing_is_written_into_the_search_of_a_stranger_that_leads_elsewhere(
    link, action, own_folder, capsys
):
    folder = begun()
    with_settings(folder)  # as it was, but written in another way
    elsewhere = own_folder / "elsewhere"
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    if (folder / link).exists():
        (folder / link).rename(elsewhere)
    elif "." in link:
        elsewhere.write_text("precious")
    else:
        elsewhere.mkdir()
    (folder / link).symlink_to(elsewhere)
    before = trees(own_folder)

    assert main(["search", action, str(folder)]) == 2

    assert f"'{folder / link}' in it is a link" in capsys.readouterr().err
    assert trees(own_folder) == before


def test_what_a_trial_prints_is_written_through_no_link(own_folder):
    """Also where the signature is the user's, for it is on no link."""
    Path("profile").write_text("precious")
    for name in ("output.log", "local-0.log"):
        Path(name).symlink_to("profile")

        with pytest.raises(OSError, match=r"symbolic links"):
            open_to_append(Path(name))
    Path(".probe").symlink_to("profile")

    assert not is_disk_full(Path())
    assert Path("profile").read_text() == "precious"


CHANGED = {
    "base": ("base.yaml", lambda text: text.replace("Digits", "MNIST")),
    "search": ("search.yaml", lambda text: text.replace("n_trials: 2", "n_trials: 1")),
    "place": ("search.yaml", lambda text: text.replace('signed in "', 'signed in "/tmp')),
    "signature": ("search.yaml", lambda text: text[:-3] + ("aa" if text[-2] == "b" else "bb")),
    "no signature": ("search.yaml", lambda text: text[: text.index("# signed in")]),
}


@pytest.mark.parametrize(("file", "change"), CHANGED.values(), ids=CHANGED)
def test_a_search_that_was_changed_is_a_strangers(file, change, own_folder):
    folder = begun()
    assert signed.signed_folder(folder) == own_folder
    assert signed.trust_in(folder, []).found is None
    path = folder / file
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before

    assert signed.signed_folder(folder) is None
    confined = signed.trust_in(folder, [])
    assert confined.found.origin in ("unsigned", "another key")
    assert confined.words == set()


# ---- whole commands, in a process of their own ----


def command(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def evil_run(folder):
    """The run folder of a stranger, whose checkpoints and whose config name ``evil``."""
    for path in folder.glob("checkpoints/*.ckpt"):
        torch.save(evil_copy(path), path)
    text = torch.load(path, weights_only=True)["classifier"]["config"]
    (folder / "config.yaml").write_text(text)
    shutil.copy("evil.py", "own.py")
    return folder


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, marks=pytest.mark.slow)
        for what in ("file", "folder", "folder without checkpoints")
    ],
)
def test_reproduce_runs_nothing_of_a_stranger(what, evil_run, mark):
    """Takes 5 s: the training is a process of its own."""
    if what == "folder without checkpoints":
        shutil.rmtree(evil_run / "checkpoints")
    path = evil_run / "checkpoints/best.ckpt" if what == "file" else evil_run

    done = command("reproduce", str(path))

    assert done.returncode == 2
    assert "'evil.Net'" in done.stderr
    assert not mark.exists()


def test_no_command_runs_anything_of_a_strangers_run_folder(evil_run, mark, capsys):
    for verb in ("fit", "validate", "test"):
        assert main([verb, "--ckpt_path", str(evil_run)]) == 2
    assert main(["fit", "--config", str(evil_run)]) == 2
    assert main(["tune", "--config", str(evil_run)]) == 2
    assert main(["fit", "--config", str(evil_run), "--print_config"]) == 2
    shutil.rmtree(evil_run / "checkpoints")
    assert main(["fit", "--ckpt_path", str(evil_run)]) == 2
    assert main(["fit", "--ckpt_path", str(evil_run / "checkpoints/last.ckpt")]) == 2

    assert capsys.readouterr().err.count("'evil.Net'") == 8
    assert not mark.exists()


def evil_search(**changes):
    """The folder of a stranger's search, of which all that names something names ``evil``."""
    folder = begun(**changes)
    base = folder / "base.yaml"
    base.write_text(base.read_text().replace("classifier.networks.MNISTNet", "evil.Net"))
    shutil.copy("evil.py", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("action", ["worker", "refit"])
def test_no_trial_of_a_stranger_runs_anything(action, mark, own_folder):
    """Takes 15 s: trials are processes. The journal says where they are to run, too."""
    os.chdir(own_folder)
    Path("place").mkdir()
    shutil.copy("evil.py", "place")
    folder = evil_search(pruner=None)
    study = Study.of(folder)
    study.study.set_user_attr("working_folder", str(own_folder / "place"))

    refused = command("search", action, str(folder))
    base = (folder / "base.yaml").read_text()
    text = re.sub(r"network:\n +class_path: (\S+)\n.*\n.*\n", r"network: \1\n", base)
    (folder / "base.yaml").write_text(text)  # where only the trials find it
    done = command("search", action, str(folder))

    assert not mark.exists()
    assert "names 'evil.Net'" in refused.stderr
    outputs = [path.read_text() for path in folder.rglob("output.log")]
    assert outputs, done.stderr
    assert all("names 'evil.Net'" in output for output in outputs)
    assert not (own_folder / "place" / "runs").exists()
