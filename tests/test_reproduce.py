"""``reproduce``: a run trained again from its own record, in a fresh process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from torch import nn

import classifier
from classifier import runs
from classifier.__main__ import main
from classifier.checkpoint import modules, signature
from classifier.checkpoint.provenance import settings_digest
from classifier.checkpoint.read import weights_digest
from classifier.cli import ClassifierCLI
from classifier.cli.quiet import quiet

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
COSINE = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 3}}
OWN = """
from torch import nn


class Own(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture
def reproduce(capfd):
    """Runs the command and returns its exit code and what it printed after the training."""

    def run(*arguments):
        capfd.readouterr()
        code = main(["reproduce", *map(str, arguments)])
        output, errors = capfd.readouterr()
        known = ("note: the last bits may differ from before: ", "note: '")  # of an edited module
        assert all(line.startswith(known) for line in errors.splitlines())
        return code, output[output.index("weights: ") :].splitlines()

    return run


@pytest.fixture
def refuse(capfd):
    """Runs the command and returns its message."""

    def run(*arguments):
        assert main(["reproduce", *map(str, arguments)]) == 2
        output, errors = capfd.readouterr()
        assert output == ""
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        return errors

    return run


@pytest.fixture
def copied(trained):
    """A copy of the run of three epochs, to be changed."""
    return shutil.copytree(trained, Path("copied/version_0"))


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def change_record(folder, **facts):
    record = runs.read_record(folder)
    runs.write_record(folder, {**record, **facts})


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# ---- identical ----


def test_a_finished_run_is_trained_again_to_the_bit_in_a_folder_of_its_own(trained, reproduce):
    before = contents(trained)

    code, lines = reproduce(trained)

    digest = runs.read_record(trained)["weights_sha256"]
    assert (code, lines) == (
        0,
        [
            f"weights: identical after step 30 (sha256 {digest[:12]})",
            "metrics: identical up to epoch 3",
            "identical",
        ],
    )
    assert contents(trained) == before
    again = Path("runs/tiny_reproduced/version_0")
    assert runs.read_record(again)["weights_sha256"] == digest
    assert list(Path.cwd().rglob("run.json")) == [again.resolve() / "run.json"]


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        pytest.param(4, 0.01, id="epoch", marks=pytest.mark.slow),
        pytest.param(6, 0.0075, id="inside"),
    ],
)
def test_a_checkpoint_alone_of_the_midst_of_a_training_is_reproduced(
    step, rate, write_config, fit, reproduce, monkeypatch
):
    keep = "pytorch_lightning.callbacks.ModelCheckpoint"
    all_of_them = {"save_top_k": -1, "dirpath": "kept", "filename": "{step}"}
    callbacks = [
        {"class_path": keep, "init_args": {**all_of_them, **when}}
        for when in ({"every_n_train_steps": 6}, {"every_n_epochs": 1})
    ]
    changes = {"trainer.max_epochs": 3, "model.lr_scheduler": COSINE}
    fit("--config", write_config({**changes, "trainer.callbacks": callbacks}))
    shutil.rmtree("runs")
    Path("elsewhere").mkdir()
    shutil.move(f"kept/step={step}.ckpt", "elsewhere/some.ckpt")
    shutil.rmtree("kept")
    monkeypatch.chdir("elsewhere")

    code, lines = reproduce("some.ckpt", "--folder", "again")

    assert lines[0].startswith(f"weights: identical after step {step} ")
    assert lines[1:] == ["metrics: identical in epoch 1", "identical"]
    assert code == 0
    rows = runs.read_metrics(Path("again"))
    assert rows[-1]["step"] == str(step)
    assert float(rows[-1]["lr"]) == pytest.approx(rate)


QUIET = """
from classifier.module import ClassificationModule


class Quiet(ClassificationModule):
    def training_step(self, batch, batch_idx):
        images, labels = batch
        return self.loss(self(images), labels)
"""


@pytest.mark.slow
def test_a_checkpoint_alone_of_a_module_that_logs_nothing_in_training_is_reproduced(
    write_config, write_module, fit, reproduce
):
    """6 s."""
    write_module(QUIET)
    config = yaml.safe_load(Path(write_config({"trainer.max_epochs": 2})).read_text())
    config["model"] = {"class_path": "own.Quiet", "init_args": config["model"]}
    Path("quiet.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(fit("--config", "quiet.yaml") / "checkpoints" / "last.ckpt", "some.ckpt")

    code, lines = reproduce("some.ckpt")

    assert (code, lines[1:]) == (0, ["metrics: identical in epoch 2", "identical"])


@pytest.mark.slow
def test_a_run_that_was_stopped_early_is_reproduced_up_to_there(write_config, fit, reproduce):
    """6 s."""
    stopping = {
        "class_path": "pytorch_lightning.callbacks.EarlyStopping",
        "init_args": {"monitor": "val_loss", "patience": 1, "min_delta": 100.0},
    }
    changes = {"trainer.max_epochs": 9, "trainer.callbacks": [stopping]}
    folder = fit("--config", write_config(changes))
    assert runs.read_record(folder)["epochs"] == 2

    code, lines = reproduce(folder)

    assert lines[1:] == ["metrics: identical up to epoch 2", "identical"]
    assert code == 0


@pytest.mark.slow
def test_a_run_that_was_resumed_is_reproduced_in_one_go(write_config, fit, reproduce):
    """6 s. More epochs of the same schedule are no other settings."""
    changes = {"model.network.init_args.dropout": 0.5, "model.lr_scheduler": COSINE}
    folder = fit("--config", write_config({**changes, "trainer.max_epochs": 1}))
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "3"]) == 0
    assert (folder / "config_0.yaml").exists()

    code, lines = reproduce(folder)

    assert lines[1:] == ["metrics: identical up to epoch 3", "identical"]
    assert code == 0


@pytest.mark.slow
def test_a_run_that_was_killed_is_reproduced_up_to_its_last_checkpoint(copied, reproduce):
    """6 s. The record of a killed run says that it is running, but nobody holds its lock."""
    record = runs.read_record(copied)
    ended = ("ended", "seconds", "epochs", "steps", "best", "weights_sha256", "metrics")
    kept = {name: value for name, value in record.items() if name not in ended}
    runs.write_record(copied, {**kept, "state": "running"})

    code, lines = reproduce(copied)

    assert lines[1:] == ["metrics: identical up to epoch 3", "identical"]
    assert code == 0


@pytest.mark.slow
def test_a_run_without_checkpoints_is_compared_by_its_digest(write_config, fit, reproduce):
    """12 s: twice."""
    folder = fit("--config", write_config({"trainer.enable_checkpointing": False}))
    assert not (folder / "checkpoints").exists()

    assert reproduce(folder)[1][1:] == ["metrics: identical up to epoch 2", "identical"]

    change_record(folder, weights_sha256="0" * 64)
    code, lines = reproduce(folder)
    assert (code, lines[-1]) == (1, "different")
    assert lines[0].startswith(f"weights: sha256 {'0' * 12} then, ")


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets in ../shared/data")
@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_run_of_each_shipped_config_is_reproduced(config, fit, reproduce):
    """8 to 18 s each, photos 54 s: two epochs of 20 batches, trained twice."""
    data = {
        "digits": [],
        "mnist": ["--data.root", str(SHARED)],
        "fashion_mnist": ["--data.root", str(SHARED)],
        "photos": [f"--data.root={SHARED}/trashnet-quarter", "--data.num_workers=2"],
    }
    if config.stem == "cifar10":
        data["cifar10"] = ["--data=ImageFolder", "--data.root=photos", "--data.image_size=32"]
        with tarfile.open(SHARED / "cifar10-jpg.tar.gz") as archive:
            names = [n for n in archive.getnames() if re.search(r"test/\w+/00[0-4]\d.jpg$", n)]
            archive.extractall(".", names, filter="data")
        shutil.move("cifar10-jpg/test", "photos")
    short = ["--trainer.limit_train_batches=20", "--trainer.limit_val_batches=5"]

    folder = fit("--config", str(config), "--hyperparameters.epochs=2", *short, *data[config.stem])

    code, lines = reproduce(folder)
    assert lines[1:] == ["metrics: identical up to epoch 2", "identical"]
    assert code == 0


# ---- different, and why ----


@pytest.fixture
def photos():
    """A folder of 24 photos in two classes."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for index in range(12):
            pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{name}/{index}.png")


@pytest.fixture
def own_run(photos, write_module, write_config, fit):
    """A run on the photos whose network stands in a module beside the config."""
    write_module(OWN)
    changes = {
        "model.network": {"class_path": "own.Own"},
        "data.class_path": "classifier.data.ImageFolder",
        "data.init_args": {
            "root": "photos",
            "image_size": 8,
            "in_channels": 1,
            "batch_size": 4,
            "in_memory": True,
            "num_workers": 0,
        },
    }
    return fit("--config", write_config(changes))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["folder", "checkpoint alone"])
def test_the_network_of_a_stranger_is_trusted_by_name_only(
    what, own_run, reproduce, capfd, monkeypatch
):
    shutil.copy(own_run / "checkpoints" / "last.ckpt", "alone.ckpt")
    run = own_run if what == "folder" else "alone.ckpt"
    monkeypatch.setenv(signature.VARIABLE, f"{os.environ[signature.VARIABLE]}.another")
    capfd.readouterr()

    assert main(["reproduce", str(run)]) == 2
    assert re.search(r"checkpoint '.*\.ckpt' names 'own\.Own'", capfd.readouterr().err)

    assert reproduce(run, "--trust", "own")[1][-1] == "identical"


# Each returns what is to be said of it to reproduce.


def change_seed():
    return ["--seed_everything", "1"]


def change_precision():
    return ["--trainer.precision", "bf16-mixed"]


def change_settings():
    return ["--data.batch_size", "3"]


def change_data():
    shutil.copy("photos/cat/0.png", "photos/dog/12.png")
    return []


def change_code():
    edit(Path("own.py"), "(64, num_classes)", "(64, num_classes, bias=False)")
    return []


HASH = r"\w{12} then, \w{12} now"
CHANGES = {
    change_seed: "seed: 0 then, 1 now",
    change_precision: "precision: 32-true then, bf16-mixed now",
    change_settings: r"data\.init_args\.batch_size: 4 then, 3 now",
    change_data: r"data\.fingerprint: \w{16} then, \w{16} now",
    change_code: rf"code\.own: {HASH}",
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_makes_another_run_and_is_named(change, own_run, reproduce):
    """6 s each."""
    code, lines = reproduce(own_run, *change())

    assert (code, lines[-1]) == (1, "different")
    heading = lines.index("then and now differ in")
    named = [line.strip() for line in lines[heading + 1 : -1]]
    (reason,) = [line for line in named if not line.startswith("parameters: ")]
    assert re.fullmatch(CHANGES[change], reason)


def test_all_changes_are_named_at_once(own_run, reproduce):
    settings = [word for change in CHANGES for word in change()]

    code, lines = reproduce(own_run, *settings)

    assert (code, lines[-1]) == (1, "different")
    assert lines[0] == (
        "weights: 2 of 2 tensors differ, network.1.bias float32 (2,) then, missing now"
    )
    assert lines[1].startswith("metrics: different from epoch 1 on: ")
    listed = "\n".join(lines[lines.index("then and now differ in") :])
    assert [reason for reason in CHANGES.values() if not re.search(reason, listed)] == []


def trained_in_python(config, change=lambda cli: None):
    with quiet():  # as a command does
        cli = ClassifierCLI(args=["--config", config], run=False)
        change(cli)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return "runs/tiny/version_0"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda cli: setattr(cli.trainer.fit_loop, "max_epochs", 3), id="epochs"),
        pytest.param(
            lambda cli: setattr(
                cli.model, "network", nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            ),
            id="network",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_python_changed_is_told_to_be_beyond_the_record(change, write_config, reproduce):
    code, lines = reproduce(trained_in_python(write_config(), change))

    assert (code, lines[-1]) == (1, "different")
    assert "the run was made from Python: " in "\n".join(lines)
    assert "not deterministic" not in "\n".join(lines)


@pytest.mark.slow
def test_a_run_from_python_that_changed_nothing_is_reproduced(write_config, reproduce):
    code, lines = reproduce(trained_in_python(write_config()))

    assert (code, lines[2:]) == (0, ["identical"])


@pytest.mark.slow
def test_an_edit_of_the_config_file_is_noted_and_changes_nothing(copied, capfd):
    """6 s. The checkpoint holds what it was trained by."""
    edit(copied / "config.yaml", "seed_everything: 0", "seed_everything: 1")

    assert main(["reproduce", str(copied)]) == 0

    output, errors = capfd.readouterr()
    assert output.splitlines()[-1] == "identical"
    assert f"note: '{copied / 'config.yaml'}' was edited since the run wrote it" in errors


def test_weights_that_are_nearly_the_same_are_within_the_tolerance(copied, reproduce):
    last = copied / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    weight = next(iter(saved["state_dict"].values()))
    weight.view(-1)[0] += 2**-16
    torch.save(saved, last)

    code, lines = reproduce(copied)

    assert code == 0
    assert re.match(r"weights: 1 of \d+ tensors differ, by up to 1\.5e-05 \(network", lines[0])
    assert lines[1] == "metrics: identical up to epoch 3"
    assert lines[2].startswith("nothing that is recorded differs: ")
    assert lines[-1] == "within tolerance: off by at most 2e-05, 0.0001 is allowed"


@pytest.mark.slow
def test_another_environment_is_named_also_where_it_changes_nothing(copied, reproduce):
    """6 s."""
    environment = runs.read_record(copied)["environment"]
    packages = {**environment["packages"], "numpy": "1.0", "gone": "2.0"}
    last = copied / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    saved["classifier"]["run"]["environment"] |= {"packages": packages, "python": "3.9.1"}
    torch.save(saved, last)
    change_record(copied, environment={**environment, "packages": packages, "python": "3.9.1"})

    code, lines = reproduce(copied)

    numpy = environment["packages"]["numpy"]
    assert lines[2:] == [
        "then and now differ in",
        f"  python: 3.9.1 then, {environment['python']} now",
        f"  packages.numpy: 1.0 then, {numpy} now",
        "  packages.gone: 2.0 then, none now",
        "identical",
    ]
    assert code == 0


@pytest.mark.slow
def test_the_training_has_as_many_threads_as_then(copied, reproduce):
    """6 s."""
    environment = {**runs.read_record(copied)["environment"], "threads": 2}
    change_record(copied, environment=environment)

    reproduce(copied, "--folder", "again")

    assert runs.read_record(Path("again"))["environment"]["threads"] == 2


# ---- mistakes ----


def plain_checkpoint(trained, write_config):
    module = pl.LightningModule()
    module.layer = nn.Linear(1, 1)
    torch.save({"state_dict": module.state_dict(), "global_step": 1}, "plain.ckpt")
    return ["plain.ckpt"]


def empty_folder(trained, write_config):
    Path("empty").mkdir()
    return ["empty"]


def interrupted_run(trained, write_config):
    shutil.copytree(trained, "run", ignore=shutil.ignore_patterns("checkpoints"))
    record = runs.read_record(Path("run"))
    del record["weights_sha256"]
    runs.write_record(Path("run"), {**record, "state": "interrupted"})
    return ["run"]


def run_resumed_under_other_settings(trained, write_config):
    folder = shutil.copytree(trained, "run")
    other = ["--trainer.max_epochs", "4", "--model.optimizer.init_args.lr", "0.001"]
    assert main(["fit", "--ckpt_path", str(folder), *other]) == 0
    return ["run"]


def run_from_weights_of_others(trained, write_config):
    saved = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    del saved["classifier"]
    torch.save(saved, "foreign.ckpt")
    more = ["--ckpt_path", "foreign.ckpt", "--trainer.max_epochs", "4"]
    assert main(["fit", "--config", write_config(), *more]) == 0
    return ["runs/tiny/version_0"]


def run_without_steps(trained, write_config):
    assert main(["fit", "--config", write_config({"trainer.max_epochs": 0})]) == 0
    return ["runs/tiny/version_0"]


MISTAKES = [
    ("nothing", lambda *_: [], "reproduce: the following arguments are required: RUN"),
    ("no run", lambda *_: ["nosuch"], "No checkpoint 'nosuch'"),
    ("typo", lambda trained, _: [f"{trained}0"], "did you mean '.*version_0'"),
    ("empty", empty_folder, "'empty' is not a run folder"),
    ("option", lambda *_: ["x", "--tolerence", "1"], "no --tolerence, did you mean 'tolerance'"),
    ("number", lambda *_: ["x", "--tolerance", "all"], "'all' is not a number of at least 0"),
    ("plain", plain_checkpoint, "'plain.ckpt' carries no config and no run record"),
    ("interrupted", interrupted_run, "was interrupted before its first checkpoint"),
    ("resumed", run_resumed_under_other_settings, "trained on from a checkpoint under other sett"),
    ("foreign", run_from_weights_of_others, "trained on from a checkpoint under other settings"),
    ("no step", run_without_steps, "was not trained for a single step"),
    ("folder", lambda trained, _: [trained, "--folder", "."], "--folder '.' exists"),
]


@pytest.mark.parametrize(
    ("prepare", "words"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_a_mistake_is_answered_before_anything_is_trained(
    prepare, words, trained, write_config, refuse, capfd
):
    arguments = prepare(trained, write_config)
    capfd.readouterr()

    message = refuse(*arguments)

    assert re.search(words, message)
    assert not Path("runs/tiny_reproduced").exists()


def test_the_config_of_a_checkpoint_is_trained_from_scratch(trained, fit):
    folder = fit("--config", str(trained / "checkpoints" / "best.ckpt"))

    digests = [runs.read_record(path)["weights_sha256"] for path in (trained, folder)]
    assert digests[0] == digests[1]
    assert runs.read_record(folder)["name"] == "tiny"


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_the_config_of_a_checkpoint_does_not_go_with_weights(verb, trained, capsys):
    checkpoint = str(trained / "checkpoints" / "best.ckpt")

    assert main([verb, "--config", checkpoint, "--ckpt_path", checkpoint]) == 2

    assert "trains from scratch what a checkpoint was trained by" in capsys.readouterr().err


def test_a_run_that_is_being_trained_is_left_alone(copied, refuse, monkeypatch):
    monkeypatch.setattr(runs, "LOCK_SECONDS", 0)
    change_record(copied, state="running")

    with runs.locked(copied):
        message = refuse(copied)

    assert "is being trained by another process" in message


def test_data_that_is_gone_is_reported_and_leaves_no_folder(own_run, capfd):
    shutil.rmtree("photos")
    capfd.readouterr()

    assert main(["reproduce", str(own_run)]) == 2

    error, last = capfd.readouterr().err.splitlines()
    assert "photos" in error
    assert last == ("error: the training ended with exit code 2; there is nothing to compare.")
    assert not Path("runs/tiny_reproduced").exists()


@pytest.mark.slow
def test_data_that_was_moved_can_be_named(own_run, reproduce):
    """6 s."""
    shutil.move("photos", "moved")

    code, lines = reproduce(own_run, "--data.root", "moved")

    assert (code, lines[2:]) == (0, ["identical"])


@pytest.mark.slow
def test_a_signal_ends_the_training_too(trained):
    """11 s."""
    last = shutil.copytree(trained, Path("long")) / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    config = saved["classifier"]["config"]
    saved["classifier"]["config"] = config.replace("max_epochs: *epochs", "max_epochs: 100000")
    assert saved["classifier"]["config"] != config
    torch.save({**saved, "global_step": 100_000}, last)
    command = [sys.executable, "-m", "classifier", "reproduce", "long", "--folder", "again"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not Path("again/metrics.csv").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM

    assert runs.read_record(Path("again"))["state"] == "interrupted"


# ---- what is recorded ----


def test_the_record_says_what_a_reproduction_has_to_agree_with(trained):
    record = runs.read_record(trained)

    weights = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert record["weights_sha256"] == weights_digest(weights)
    assert (record["device"], record["devices"], record["precision"]) == ("cpu", 1, "32-true")
    assert list(record["code"]) == ["classifier"]
    assert len(record["settings"]) == 1


def test_a_checkpoint_says_to_which_epoch_its_metrics_belong(trained):
    saved = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)

    record = saved["classifier"]["run"]
    assert (record["epochs"], record["steps"]) == (3, saved["global_step"])


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, -0.0]), "b": torch.tensor(1)},
        {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor(1)},
        {"a": torch.tensor([1.0, 0.0]).double(), "b": torch.tensor(1)},
        {"a": torch.tensor([1.0, 0.0]), "c": torch.tensor(1)},
        {"a": torch.tensor([1.0, 0.0]), "b": {"seen": 1}},
    ],
    ids=["bits", "shape", "type", "name", "extra state"],
)
def test_the_digest_of_weights_tells_apart(other):
    weights = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor(1)}

    assert weights_digest(other) != weights_digest(weights)


def test_the_digest_of_weights_does_not_depend_on_their_order_or_memory():
    weights = {"a": torch.arange(6).view(2, 3), "b": torch.empty(0, dtype=torch.bfloat16)}
    other = {"b": weights["b"].clone(), "a": weights["a"].T.contiguous().T}

    assert weights_digest(other) == weights_digest(weights)


@pytest.mark.parametrize(
    ("change", "decides"),
    [
        ({"trainer": {"max_epochs": 9, "precision": None}}, False),
        ({"hyperparameters": {"lr": 1}}, False),
        ({"data": {"init_args": {"root": "there", "num_workers": 3}}}, False),
        ({"trainer": {"max_epochs": 2, "precision": "bf16-mixed"}}, True),
        ({"data": {"init_args": {"root": "here", "rooted": 1}}}, True),
        ({"seed_everything": 1}, True),
    ],
    ids=["epochs", "name", "place", "precision", "similar name", "seed"],
)
def test_only_settings_that_decide_the_weights_change_their_digest(change, decides):
    config = {
        "trainer": {"max_epochs": 2, "precision": None},
        "data": {"init_args": {"root": "here"}},
        "seed_everything": 0,
    }

    digests = [settings_digest(given) for given in (config, {**config, **change})]

    assert (digests[0] != digests[1]) == decides


def test_code_is_what_the_config_names_and_what_stands_beside_it(
    write_module, own_folder, monkeypatch
):
    monkeypatch.syspath_prepend(own_folder)
    write_module("import beside\nimport yaml\n")
    Path("beside").mkdir()
    Path("beside/__init__.py").touch()
    Path("unused.py").touch()
    import own  # noqa: F401

    before = modules.code_digests(modules.used_modules(["own", "torch", "json"]))
    Path("beside/__init__.py").write_text("changed = True\n")
    after = modules.code_digests(modules.used_modules(["own", "torch", "json"]))
    sys.modules.pop("beside")

    assert list(before) == ["classifier", "beside", "own"]
    assert [name for name in before if before[name] != after[name]] == ["beside"]
    json.dumps(before)


def test_the_code_of_this_package_has_a_digest_of_all_its_files(tmp_path, monkeypatch):
    copy = shutil.copytree(Path(classifier.__file__).parent, tmp_path / "classifier")
    before = modules.code_digests({})
    monkeypatch.setattr(classifier, "__file__", str(copy / "__init__.py"))

    same = modules.code_digests({})
    (copy / "search" / "report.py").write_text("")
    changed = modules.code_digests({})

    assert same == before
    assert changed != before


ENDED = {
    "by the time": ("trainer.max_time", {"milliseconds": 1}),
    "by steps inside an epoch": ("trainer.max_steps", 5),
    "by the time, after some epochs": ("trainer.max_time", {"milliseconds": 150}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), ENDED.values(), ids=ENDED)
def test_a_run_that_was_ended_is_compared_up_to_where_it_ended(
    key, value, fit, write_config, reproduce
):
    schedule = {"model.lr_scheduler": COSINE, "trainer.limit_train_batches": 4}
    folder = fit("--config", write_config({key: value, "trainer.max_epochs": 50, **schedule}))

    code, lines = reproduce(folder)

    assert (code, lines[-1]) == (0, "identical")
    assert f"identical after step {runs.read_record(folder)['steps']}" in lines[0]


@pytest.mark.slow
def test_validations_inside_an_epoch_are_compared_too(fit, write_config, reproduce):
    folder = fit("--config", write_config({"trainer.val_check_interval": 3}))

    code, lines = reproduce(folder)

    assert (code, lines[-1]) == (0, "identical")
    assert lines[1] == "metrics: identical up to epoch 2"
