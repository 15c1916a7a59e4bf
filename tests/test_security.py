"""What a stranger's file cannot do: run code, fill the memory, leave its place.

A payload that is executed leaves the file ``ran`` behind.
"""

import ast
import contextlib
import copy
import csv
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY
from harmless import harmless_callbacks
from PIL import Image
from searches import Search, trial_folder, write_files

import classifier
from classifier import runs
from classifier.__main__ import main
from classifier.checkpoint import signature, trust
from classifier.checkpoint.read import read_checkpoint
from classifier.cli.command_line import harmless_packages
from classifier.module import ClassificationModule
from classifier.networks import torchvision_model
from classifier.platform import memory_limit
from classifier.weights.start import start_from

RAN = Path("ran")
COMMAND = "touch ran"


class Call:
    """Unpickles by calling a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def stranger(own_folder, trained, monkeypatch):
    """A folder with files that leave their mark when they are run, and a trained checkpoint.

    Python would find them, which is more than a stranger can hope for.
    """
    monkeypatch.syspath_prepend(own_folder)
    side_effect = "import pathlib\npathlib.Path('ran').touch()\n"
    Path("own.py").write_text(
        f"{side_effect}from torch import nn\nclass Net(nn.Linear):\n    pass\n"
        "def run(*_, **__):\n    pathlib.Path('ran').touch()\n"
    )
    Path("hubconf.py").write_text(f"{side_effect}def net():\n    pass\n")
    Path("net.yaml").write_text("class_path: own.Net\n")
    Path("code.pkl").write_bytes(pickle.dumps(Call(os.system, COMMAND)))
    torch.save(Call(os.system, COMMAND), "code.pt")
    Image.new("L", (8, 8)).save("image.png")
    return torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)


def everything_with(path, capsys):
    """Gives a checkpoint to all that read one; returns the exit codes and what was printed."""
    codes, errors = [], []
    for verb in ("fit", "validate", "test", "predict"):
        RAN.unlink(missing_ok=True)
        sys.modules.pop("own", None)
        files = ["--images", "image.png"] if verb == "predict" else []
        codes.append(main([verb, "--ckpt_path", path, *files]))
        errors.append(capsys.readouterr().err)
        assert not RAN.exists(), f"{verb} ran it"
    with pytest.raises((ValueError, RuntimeError), match=r"."):
        ClassificationModule.load_from_checkpoint(path)
    assert not RAN.exists(), "load_from_checkpoint ran it"
    return codes, errors


def legacy_pickle(_):
    Path("x.ckpt").write_bytes(Path("code.pkl").read_bytes())


def legacy_archive(_):
    with tarfile.open("x.ckpt", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.add("code.pkl", name)


def pickled(place, value):
    """Puts an object into the checkpoint, at a place of its own."""

    def forge(checkpoint):
        *path, last = place.split(".")
        section = checkpoint
        for key in path:
            section = section[key]
        section[last] = value
        torch.save(checkpoint, "x.ckpt")

    return forge


PICKLES = {
    "a pickle instead of a zip file": legacy_pickle,
    "a tar archive": legacy_archive,
    "os.system": pickled("state_dict", Call(os.system, COMMAND)),
    "os.system among the weights": pickled("state_dict.weight", Call(os.system, COMMAND)),
    "os.system in the hyperparameters": pickled("hyper_parameters.network", Call(os.system, "")),
    "os.system in our entry": pickled("classifier.config", Call(os.system, COMMAND)),
    "eval": pickled("epoch", Call(eval, "open('ran', 'w')")),
    "exec": pickled("loops", Call(exec, "open('ran', 'w')")),
    "getattr": pickled("loops", Call(getattr, "ran", "title")),
    "torch.load": pickled("epoch", Call(torch.load, "code.pt")),
    "torch.hub.load": pickled("epoch", Call(torch.hub.load, ".", "net", "local")),
    "a whole network": pickled("state_dict", torch.nn.Linear(1, 1)),
}


@pytest.mark.parametrize("forge", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("environment", ["as it is", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_code_in_a_pickle_is_not_run(forge, environment, stranger, monkeypatch, capsys):
    monkeypatch.setenv(environment, "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about tar files
        forge(stranger)

    codes, errors = everything_with("x.ckpt", capsys)

    assert codes == [2, 2, 2, 2]
    assert all("'x.ckpt' is not a checkpoint" in error for error in errors)


def spec(class_path, **settings):
    return {"class_path": class_path, "init_args": settings}


def linear(**settings):
    return spec("torch.nn.Linear", in_features=3, out_features=3, **settings)


# What the config of a checkpoint says of its network.
NETWORKS = {
    "a function that runs commands": spec("os.system", command=COMMAND),
    "… in C": spec("posix.system", command=COMMAND),
    "… by its name alone": "os.system",
    "a process": spec("subprocess.Popen", args=["touch", "ran"]),
    "… in dict_kwargs": {"class_path": "subprocess.Popen", "dict_kwargs": {"args": COMMAND}},
    "exec": spec("builtins.exec", source="open('ran', 'w')"),
    "eval": spec("builtins.eval", source="open('ran', 'w')"),
    "an import": spec("importlib.import_module", name="own"),
    "a module with side effects": spec("own.Net", in_features=1, out_features=1),
    "… as a text": "own.Net",
    "… that lacks the class": spec("own.Nothing"),
    "… in a text that is YAML again": "{class_path: own.Net}",
    "… in another file": "net.yaml",
    "… as a dotted key": {
        "class_path": "torch.nn.Linear",
        "init_args.device.class_path": "own.Net",
    },
    "… in untyped settings": linear(device=spec("own.Net")),
    "… in a list": spec("torch.nn.ModuleList", modules=["own.Net"]),
    "os.system in untyped settings": linear(device=spec("os.system", command=COMMAND)),
    "os.system through a trusted module": spec("torch.nn.modules.module.os.system", command="x"),
    "torch.load": spec("torch.load", f="code.pt", weights_only=False),
    "… through a trusted module": spec("torch.nn.functional.torch.load", f="code.pt"),
    "torch.hub": spec("torch.hub.load", repo_or_dir=".", model="net", source="local"),
    "torch.jit": spec("torch.jit.load", f="code.pt"),
    "a compiler": spec("torch.utils.cpp_extension.load", name="x", sources=["x.cpp"]),
    "torch.package": spec("torch.package.PackageImporter", file_or_buffer="code.pt"),
    "a file of torch": spec("torch.nn.functional.torch.from_file", filename="ran", size=9),
    "numpy": spec("numpy.load", file="code.pkl", allow_pickle=True),
    "joblib": spec("joblib.load", filename="code.pkl"),
    "pickle": spec("pickle.load", file="code.pkl"),
    "weights of timm": spec("timm.create_model", model_name="resnet10t", checkpoint_path="code.pt"),
    "a plain value": spec("torch.float32"),
    "what a plain value has": spec("torch.float32.to_complex"),
    "what is no plain value": spec("torch.ops.load_library", path="code.pt"),
    "a function of torch": spec("torch.save", obj=1, f="ran"),
    "this command": spec("classifier.__main__.main", arguments=["fit", "--config", "net.yaml"]),
    "a function of this package": spec("classifier.atomic.write_text", path="ran", text=""),
    "a command line of Lightning": spec("pytorch_lightning.cli.LightningCLI"),
    "jsonargparse": spec("jsonargparse.set_parsing_settings"),
    "a path": spec("../../own.Net"),
    "a path in a package": spec("torch.nn.../own.Net"),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_no_other_class_of_a_checkpoints_network_is_imported(network, stranger, capsys):
    config = yaml.safe_load(stranger["classifier"]["config"])
    config["model"]["network"] = network
    stranger["classifier"]["config"] = yaml.safe_dump(config)
    stranger["hyper_parameters"]["network"] = network
    torch.save(stranger, "x.ckpt")

    codes, errors = everything_with("x.ckpt", capsys)

    assert codes == [2, 2, 2, 2], errors
    assert "own" not in sys.modules
    assert [error for error in errors if len(error.splitlines()) > 3] == []


@pytest.mark.parametrize("name", [name for name in NETWORKS if "own" in str(NETWORKS[name])])
def test_nor_is_it_found_in_the_working_folder(name, stranger, own_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(own_folder)])

    test_no_other_class_of_a_checkpoints_network_is_imported(NETWORKS[name], stranger, capsys)

    assert str(own_folder) not in sys.path


# What the config of a checkpoint says at other places.
PLACES = {
    "loss": ("model.loss", spec("own.Net")),
    "optimizer": ("model.optimizer", spec("own.run")),
    "optimizer as a text": ("model.optimizer", "own.run"),
    "scheduler": ("model.lr_scheduler", spec("own.run")),
    "schedule": (
        "model.lr_scheduler",
        spec("torch.optim.lr_scheduler.LambdaLR", lr_lambda="own.run"),
    ),
    "data": ("data.class_path", "own.Net"),
    "augmentation": ("data.init_args.augment", [spec("own.Net")]),
    "augmentation as a text": ("data.init_args.augment", ["own.Net"]),
    "transform": (
        "data.init_args.mix",
        spec("torchvision.transforms.Lambda", lambd=spec("own.run")),
    ),
    "setting of the data": ("data.init_args.mean", spec("own.run")),
    "seed": ("hyperparameters.seed", spec("own.run")),
    "callback": ("trainer.callbacks", [spec("own.run")]),
    "callback as a text": ("trainer.callbacks", ["own.run"]),
    "callback with functions": (
        "trainer.callbacks",
        [spec("pytorch_lightning.callbacks.LambdaCallback", setup="own.run")],
    ),
    "callback that removes files": (
        "trainer.callbacks",
        [spec("pytorch_lightning.callbacks.ModelCheckpoint", dirpath="/")],
    ),
    "callback with a function among its further arguments": (
        "trainer.callbacks",
        [spec("pytorch_lightning.callbacks.WeightAveraging", avg_fn="own.run")],
    ),
    "callback with a function": (
        "trainer.callbacks",
        [
            spec(
                "pytorch_lightning.callbacks.StochasticWeightAveraging", swa_lrs=1, avg_fn="own.run"
            )
        ],
    ),
    "callback with a theme": (
        "trainer.callbacks",
        [spec("pytorch_lightning.callbacks.RichProgressBar", theme=spec("own.run"))],
    ),
    "callback with a path": (
        "trainer.callbacks",
        [spec("pytorch_lightning.callbacks.OnExceptionCheckpoint", dirpath="ran")],
    ),
    "callback that saves": (
        "trainer.callbacks",
        [spec("pytorch_lightning.callbacks.LearningRateFinder")],
    ),
    "what the module of a harmless callback imports": (
        "trainer.callbacks",
        [spec("pytorch_lightning.callbacks.early_stopping.os.system", command=COMMAND)],
    ),
    "what a harmless callback has": (
        "trainer.callbacks",
        [spec("pytorch_lightning.callbacks.EarlyStopping.load_state_dict")],
    ),
    "callback by its short name": ("trainer.callbacks", [spec("ModelCheckpoint", dirpath="/")]),
    "logger": ("trainer.logger", spec("own.run")),
    "plugin": ("trainer.plugins", [spec("own.run")]),
    "strategy": ("trainer.strategy", spec("own.run")),
}


@pytest.mark.parametrize(("place", "value"), PLACES.values(), ids=PLACES)
def test_no_other_class_of_a_checkpoints_config_is_imported(place, value, stranger, capsys):
    config = yaml.safe_load(stranger["classifier"]["config"])
    *path, last = place.split(".")
    section = config
    for key in path:
        section = section.setdefault(key, {})
    section[last] = value
    stranger["classifier"]["config"] = yaml.safe_dump(config)
    torch.save(stranger, "x.ckpt")

    code = main(["fit", "--ckpt_path", "x.ckpt"])

    assert code == 2
    assert not RAN.exists()
    assert "own" not in sys.modules
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"_instantiator": "os.system"},
        {"_instantiator": "own.run"},
        {"_class_path": "own.Net"},
        {"network": spec("own.Net")},
        {"optimizer": "own.run"},
        {"loss": "{class_path: own.Net}"},
    ],
    ids=str,
)
def test_load_from_checkpoint_imports_nothing_else(changes, stranger):
    stranger["hyper_parameters"].update(changes)
    torch.save(stranger, "x.ckpt")

    with pytest.raises(ValueError, match=r"own|os\.system"):
        ClassificationModule.load_from_checkpoint("x.ckpt")

    assert not RAN.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # hidden outside of tests
def test_the_payloads_would_run(stranger):
    torch.save(Call(os.system, COMMAND), "x.ckpt")
    torch.load("x.ckpt", weights_only=False)
    assert RAN.exists()
    RAN.unlink()
    stranger["hyper_parameters"]["network"] = spec("own.Net", in_features=1, out_features=1)
    torch.save(stranger, "x.ckpt")

    with pytest.raises(RuntimeError, match="state_dict"):
        ClassificationModule.load_from_checkpoint("x.ckpt", trust=["own"])

    assert RAN.exists()


def test_data_where_a_checkpoint_says_is_not_unpickled(stranger, capsys):
    folder = Path("data/MNIST/processed")
    folder.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (folder / name).write_bytes(Path("code.pt").read_bytes())
    folder = Path("data/cifar-10-batches-py")
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{n}" for n in range(1, 6))):
        (folder / name).write_bytes(Path("code.pkl").read_bytes())
    config = yaml.safe_load(stranger["classifier"]["config"])

    for name in ("MNIST", "CIFAR10"):
        settings = {"root": str(Path("data").absolute()), "download": False}
        config["data"] = spec(f"classifier.data.{name}", **settings)
        stranger["classifier"]["config"] = yaml.safe_dump(config)
        torch.save(stranger, "x.ckpt")
        assert main(["test", "--ckpt_path", "x.ckpt"]) != 0

    assert not RAN.exists()


@pytest.mark.slow
@pytest.mark.parametrize("forge", [PICKLES["os.system"], None], ids=["pickle", "class path"])
def test_a_search_runs_nothing_that_lies_in_the_folder_of_a_trial(forge, stranger, own_folder):
    """Takes 14 s: the search is killed, its checkpoint replaced, and the search goes on."""
    folder = write_files(TINY.replace("epochs 2", "epochs 1000"), n_trials=1, workers=1)
    checkpoint = trial_folder(folder, 0) / "checkpoints" / "last.ckpt"
    with Search() as search:
        search.wait_for(checkpoint.exists)  # then all are killed
    text = stranger["classifier"]["config"]
    stranger["classifier"]["config"] = text.replace("classifier.networks.MNISTNet", "own.Net")
    torch.save(stranger, "x.ckpt")
    if forge:
        forge(stranger)
    Path("x.ckpt").rename(checkpoint)

    with Search() as search:  # goes on
        assert search.end() != 0

    assert not list(own_folder.rglob("ran"))
    told = "".join(log.read_text() for log in folder.rglob("*.log"))
    assert "last.ckpt' is not a checkpoint" in told or "--trust own" in told


def test_the_class_and_the_remedy_are_named(stranger, capsys):
    text = stranger["classifier"]["config"]
    stranger["classifier"]["config"] = text.replace("classifier.networks.MNISTNet", "own.Net")
    torch.save(stranger, "x.ckpt")

    assert main(["test", "--ckpt_path", "x.ckpt"]) == 2

    error = capsys.readouterr().err
    assert "'own.Net'" in error
    assert "--trust own" in error


def test_the_callbacks_that_anybody_may_use_are_those_whose_code_is_harmless():
    abstract = {"BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"}
    paths = {path for path in harmless_callbacks() if path.rpartition(".")[2] not in abstract}

    listed = {
        path for path in harmless_packages() if path.startswith("pytorch_lightning.callbacks")
    }

    assert listed == paths


CALLBACKS = {
    "EarlyStopping": {"monitor": "val_loss"},
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": {"monitor": "val_loss"},
    "EMAWeightAveraging": {"decay": 0.9},
    "RichProgressBar": {"theme.description": "green"},
    "Timer": {"duration": "00:01:00:00"},
}


@contextlib.contextmanager
def another_user():
    """Within, the runs of before are those of a stranger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signature.VARIABLE, f"{os.environ[signature.VARIABLE]}.another")
        yield


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_run_with_a_harmless_callback_goes_on_without_a_word_of_trust(name, write_config, fit):
    settings = CALLBACKS[name].items()
    options = [f"--trainer.callbacks.{setting}={value}" for setting, value in settings]
    folder = fit("--config", write_config(), f"--trainer.callbacks+={name}", *options)

    with another_user():
        assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "3"]) == 0

    assert runs.read_record(folder)["epochs"] == 3


TYPED = """
import torch
from classifier.networks import MNISTNet


class Typed(MNISTNet):
    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        dtype: torch.dtype = torch.float32,
        order: torch.memory_format = torch.contiguous_format,
    ):
        super().__init__(num_classes=num_classes, in_channels=in_channels, width=4)
        self.given = dtype, order
"""


def test_plain_values_of_torch_are_read_from_a_checkpoint(write_config, write_module, fit):
    write_module(TYPED)
    network = spec("own.Typed", order="torch.channels_last")
    folder = fit("--config", write_config({"model.network": network}))

    assert main(["test", "--ckpt_path", str(folder)]) == 0
    with another_user():
        assert main(["test", "--ckpt_path", str(folder), "--trust", "own"]) == 0
        module = ClassificationModule.load_from_checkpoint(folder, trust=["own"])

    assert module.network.given == (torch.float32, torch.channels_last)


OWN = "from classifier.networks import MNISTNet\nclass Own(MNISTNet):\n    pass\n"


@pytest.mark.parametrize("how", ["flag", "command line", "config", "module"])
def test_what_the_user_names_is_imported(how, write_config, write_module, fit):
    write_module(OWN)
    folder = fit("--config", write_config({"model.network": spec("own.Own", width=4)}))
    arguments = {
        "flag": ["--trust", "timm.data,own"],
        "command line": ["--model.network=own.Own"],
        "config": ["--config", "tiny.yaml"],
        "module": ["--trust=own"],
    }

    with another_user():
        assert main(["test", "--ckpt_path", str(folder)]) == 2
        assert main(["test", "--ckpt_path", str(folder), *arguments[how]]) == 0


def test_a_trusted_package_is_given_to_load_from_checkpoint(write_config, write_module, fit):
    write_module(OWN)
    folder = fit("--config", write_config({"model.network": spec("own.Own", width=4)}))

    with another_user():
        with pytest.raises(ValueError, match=r"'own\.Own'.*trust="):
            ClassificationModule.load_from_checkpoint(folder)
        module = ClassificationModule.load_from_checkpoint(folder, trust=["own"])

    assert type(module.network).__name__ == "Own"


def test_the_help_lists_what_a_checkpoint_may_use(capsys):
    assert main(["test", "--help"]) == 0

    text = " ".join(capsys.readouterr().out.split())
    assert "--trust" in text
    assert [package for package in trust.PACKAGES if package not in text] == []


def test_a_config_runs_no_function_that_nobody_wants_in_a_config(write_config, stranger):
    for network in (spec("os.system", command=COMMAND), spec("torch.load", f="code.pt")):
        assert main(["fit", "--config", write_config({"model.network": network})]) == 2

    assert not RAN.exists()


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:9/x.ckpt", "https://x/x.ckpt", "s3://x/x.ckpt", "memory://x", "zip::x.ckpt"],
)
def test_a_checkpoint_is_not_fetched_from_the_net(address, capsys):
    assert main(["test", "--ckpt_path", address]) == 2
    assert "download it first" in capsys.readouterr().err
    with pytest.raises(ValueError, match="download it first"):
        ClassificationModule.load_from_checkpoint(address)


def test_a_file_whose_name_begins_like_an_address_is_a_file(trained, own_folder):
    Path("http.ckpt").write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes())

    assert main(["validate", "--ckpt_path", "http.ckpt"]) == 0


# ---- bombs ----


def deflated(checkpoint):
    torch.save(checkpoint, "stored.ckpt")
    with zipfile.ZipFile("stored.ckpt") as old, zipfile.ZipFile("x.ckpt", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), zipfile.ZIP_DEFLATED)


def overlapping(checkpoint):
    torch.save(checkpoint, "x.ckpt")
    with zipfile.ZipFile("x.ckpt") as archive:
        place = archive.start_dir
        first, second = archive.infolist()[:2]
    content = bytearray(Path("x.ckpt").read_bytes())
    offset = content.index(second.filename.encode(), place) - 4  # of the entry, in the directory
    content[offset : offset + 4] = struct.pack("<I", first.header_offset)
    Path("x.ckpt").write_bytes(content)


def two_directories(checkpoint):
    torch.save(checkpoint, "x.ckpt")
    with zipfile.ZipFile("x.ckpt", "a") as archive:
        archive.comment = b"PK\x05\x06" + bytes(18)


def stretched(checkpoint):
    checkpoint["state_dict"]["mean"] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(checkpoint, "x.ckpt")


def without_numbers(checkpoint):
    checkpoint["state_dict"]["mean"] = torch.empty(1 << 40, device="meta")
    torch.save(checkpoint, "x.ckpt")


def doubled(checkpoint):
    value = []
    for _ in range(60):
        value = [value, value]
    checkpoint["hyper_parameters"]["x"] = value
    torch.save(checkpoint, "x.ckpt")


def nested(checkpoint):
    write_pickle(checkpoint, b"]" * 100_000 + b"a" * 99_999)


def within_itself(checkpoint):
    value = []
    value.append(value)
    checkpoint["classifier"]["run"]["x"] = value
    torch.save(checkpoint, "x.ckpt")


def copied_sets(checkpoint):
    # A list of 30,000 numbers, of which 3,000 sets are made: 6 GB out of 200 kB.
    numbers = b"".join(b"J" + struct.pack("<I", number) for number in range(30_000))
    sets = b"h\x00h\x01\x85R" * 3_000
    constructor = b"cbuiltins\nset\nq\x00"
    write_pickle(checkpoint, constructor + b"](" + numbers + b"eq\x01(" + sets + b"l")


def long_number(checkpoint):
    write_pickle(checkpoint, b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R")


def write_pickle(_, program):
    """Writes a checkpoint whose hyperparameters are what a program of pickle makes."""
    data = (
        b"\x80\x02}(X\x0a\x00\x00\x00state_dict}X\x10\x00\x00\x00hyper_parameters" + program + b"u."
    )
    with zipfile.ZipFile("x.ckpt", "w") as archive:
        for name, content in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"x/{name}", content)


BOMBS = [deflated, overlapping, two_directories, stretched, without_numbers, doubled, nested]
BOMBS += [within_itself, copied_sets, long_number]


@contextlib.contextmanager
def peak(megabytes):
    """Checks how much more memory than before is in use at most."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the former peak
    before = peak_kilobytes()
    yield
    assert peak_kilobytes() - before < 1000 * megabytes


def peak_kilobytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("forge", BOMBS, ids=lambda forge: forge.__name__)
def test_a_bomb_is_refused_in_little_time_and_memory(forge, stranger):
    forge(stranger)
    start = time.process_time()

    with peak(megabytes=1000), pytest.raises(ValueError, match=r"x\.ckpt"):
        read_checkpoint(Path("x.ckpt"))

    assert time.process_time() - start < 10  # of this process, however busy the machine is
    assert main(["test", "--ckpt_path", "x.ckpt"]) == 2


def test_the_memory_is_unlimited_again_after_reading(trained):
    limits = resource.getrlimit(resource.RLIMIT_AS)

    read_checkpoint(trained / "checkpoints" / "best.ckpt")
    with contextlib.suppress(RuntimeError), memory_limit(0):
        torch.empty(1 << 40)

    assert resource.getrlimit(resource.RLIMIT_AS) == limits


DOUBLED = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)
)
TEXTS = {
    "aliases": DOUBLED,
    "levels": "model: " + "[" * 2000 + "]" * 2000,
    "length": "x" * 2_000_000,
    "tag": "model: !!python/object/apply:os.system [touch ran]",
    "list": "[1, 2]",
    "word": "text",
    "itself": "trainer: &t {x: *t}",
    "control characters": "model: \x1b[2J",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_config_that_is_none_is_refused(text, stranger, capsys):
    stranger["classifier"]["config"] = text
    torch.save(stranger, "x.ckpt")
    start = time.process_time()

    assert main(["test", "--ckpt_path", "x.ckpt"]) == 2

    assert time.process_time() - start < 10
    assert not RAN.exists()
    assert len(capsys.readouterr().err.splitlines()) <= 3


def test_a_bomb_among_the_files_of_pretrained_weights_is_refused(stranger):
    deflated(torchvision_model("squeezenet1_0", 2).state_dict())
    Path("x.ckpt").rename("x.pt")

    for name in ("x.pt", "code.pt"):
        with pytest.raises(ValueError, match=f"'{name}' is damaged or holds more than tensors"):
            start_from(torchvision_model("squeezenet1_0", 2), name, ["a", "b"])

    assert not RAN.exists()


# ---- values ----

WRONG = {
    "data.class_names": [3, "ab", None, [["a"], ["b"]]],
    "data.in_channels": ["1", 0, -1, 10**12, True],
    "data.mean": [[float("nan")], ["0.5"], 0.5, [0.1, 0.2]],
    "data": [[], "x", {}],
    "run": [3, {"name": 5}, {"working_folder": ["/"]}, {"data": {"fingerprint": 3}}],
    "config": [3, ["model"], None],
}


@pytest.mark.parametrize(
    ("place", "value"), [(place, value) for place, values in WRONG.items() for value in values]
)
def test_a_description_of_the_wrong_kind_is_refused(place, value, stranger):
    forged = copy.deepcopy(stranger)
    pickled(f"classifier.{place}", value)(forged)

    with pytest.raises(ValueError, match=rf"'x\.ckpt'.*wrong '{place.partition('.')[0]}'"):
        read_checkpoint(Path("x.ckpt"))


@pytest.mark.parametrize(
    "name", ["../../escaped", "/tmp/escaped", "..", ".", "a/b", "a\\b", "", "a\nb", "\x1b[2J", "\0"]
)
def test_the_name_of_a_run_leads_nowhere_else(name, stranger, capsys, own_folder):
    Path("work").mkdir()
    os.chdir("work")
    stranger["classifier"]["run"]["name"] = name
    torch.save(stranger, "x.ckpt")

    code = main(["fit", "--ckpt_path", "x.ckpt", "--trainer.max_epochs", "4"])

    assert code == (0 if name == "" else 2)  # without a name it is called like its data
    assert "\x1b" not in capsys.readouterr().err
    assert not list(own_folder.rglob("*escaped*"))
    assert not Path("/tmp/escaped").exists()


NAMES = ["../../escaped", "/tmp/escaped", "=cmd()", "\x1b]0;title\x07", "a\nb", 'q"u,ote']


def test_names_of_classes_stay_in_their_cells(stranger, capsys, own_folder):
    names = [*NAMES, "6", "7", "8", "9"]
    stranger["classifier"]["data"]["class_names"] = names
    torch.save(stranger, "x.ckpt")

    assert main(["predict", "--ckpt_path", "x.ckpt", "--images", "image.png"]) == 0

    with Path("predictions.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header[4:] == names
    assert row[2] in names
    assert "\x1b" not in "".join(capsys.readouterr())
    assert not list(own_folder.rglob("*escaped*"))


@pytest.mark.parametrize("value", ["\x1b[31mred", "abc\x9b2J"])
def test_nothing_of_a_checkpoint_commands_the_terminal(value, stranger, capsys):
    stranger["classifier"]["run"]["data"]["fingerprint"] = value
    stranger["classifier"]["config"] += f"\nhyperparameters2: {value!r}\n"
    names = stranger["classifier"]["data"]["class_names"]
    torch.save(stranger, "x.ckpt")
    assert main(["test", "--ckpt_path", "x.ckpt"]) == 0
    stranger["classifier"]["data"]["class_names"] = [value, *names[1:]]
    torch.save(stranger, "x.ckpt")
    assert main(["test", "--ckpt_path", "x.ckpt"]) == 2

    printed = "".join(capsys.readouterr())

    assert "red" in printed or "2J" in printed
    assert "\x1b" not in printed
    assert "\x9b" not in printed


# ---- image files ----


def test_files_that_never_end_are_not_read(trained, own_folder, capsys):
    Path("photos/deep").mkdir(parents=True)
    Image.new("L", (8, 8)).save("photos/image.png")
    os.mkfifo("photos/pipe.png")
    Path("photos/zero.png").symlink_to("/dev/zero")
    Path("photos/deep/loop").symlink_to("..")
    Path("photos/self.png").symlink_to("self.png")
    start = time.process_time()

    code = main(["predict", "--ckpt_path", str(trained), "--images", "photos", "/dev/zero"])

    assert code == 1  # some could not be read
    assert time.process_time() - start < 20
    lines = Path("predictions.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["image", "photos/image.png"]
    assert capsys.readouterr().err.count("not a regular file") == 3


MEMORY = """
import sys
from pathlib import Path

from classifier.__main__ import main


def peak(*images):
    "Exit code, and megabytes that were in use at most."
    Path("/proc/self/clear_refs").write_text("5")  # forgets the former peak
    code = main(["predict", "--ckpt_path", sys.argv[1], "--images", *images])
    Path("predictions.csv").unlink()
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return code, int(line.split()[1]) // 1000


print([peak(*images.split()) for images in sys.argv[2:]])
"""


@pytest.mark.slow
def test_the_memory_of_a_prediction_does_not_grow_with_the_images(trained, own_folder):
    """In a process whose memory no other test has used, which takes 8 s.

    Measured: twenty images of 25 megapixels, which have 500 MB, in one batch take 3 MB more than
    two of them, and one of 225 megapixels is not read.
    """
    Path("photos").mkdir()
    Image.new("L", (5000, 5000)).save("photos/0.png")
    for number in range(1, 20):
        Path(f"photos/{number}.png").hardlink_to("photos/0.png")
    Image.new("1", (15_000, 15_000)).save("bomb.png")
    few = " ".join(f"photos/{number}.png" for number in range(2))
    path = os.pathsep.join([str(Path(classifier.__file__).parents[1]), *sys.path])

    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(trained), few, few, "photos", "bomb.png"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )

    assert "bomb.png: more than" in done.stderr
    _, *peaks = ast.literal_eval(done.stdout.splitlines()[-1])
    assert [code for code, _ in peaks] == [0, 0, 1]
    few, many, bomb = (megabytes for _, megabytes in peaks)
    assert many < few + 150
    assert bomb < few + 150
