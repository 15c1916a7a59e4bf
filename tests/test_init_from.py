"""A training starts from weights of an earlier run, or of a file, and then needs them no more."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from classifier.__main__ import main
from classifier.checkpoint.file import write_checkpoint
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet, torchvision_model
from classifier.weights.start import start_from

NAMES = ["red", "green", "blue", "grey"]
CONFIG = {
    "trainer": {"max_epochs": 1},
    "model": {
        "network": {"class_path": "classifier.networks.MNISTNet", "init_args": {"width": 2}},
        # Nothing is learnt, so that what was taken can be seen afterwards.
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}},
    },
    "data": {
        "class_path": "classifier.data.ImageFolder",
        "init_args": {"image_size": 8, "batch_size": 8, "num_workers": 0},
    },
}


def photos(root, names):
    for name in names:
        folder = Path(root, name)
        folder.mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), name).resize((9 + number, 9)).save(folder / f"{number}.png")


def config(name, root, init_from=None, **model):
    settings = json.loads(json.dumps(CONFIG))
    settings["data"]["init_args"]["root"] = root
    settings["model"] |= {"init_from": init_from, **model}
    Path(name).write_text(yaml.safe_dump(settings))
    return ["--config", name]


def state(path):
    """The network's weights in a checkpoint, and its class names."""
    saved = torch.load(path, weights_only=True)
    own = {key.removeprefix("network."): value for key, value in saved["state_dict"].items()}
    return own, saved["classifier"]["data"]["class_names"]


@pytest.fixture
def earlier(fit):
    """The run that others start from, on three classes."""
    photos("three", ["red", "green", "blue"])
    return fit(*config("three.yaml", "three"), "--seed_everything", "5")


def test_a_run_with_other_classes_starts_from_an_earlier_one(earlier, fit, capsys):
    photos("others", ["grey", "red", "blue", "black"])
    before, names = state(earlier / "checkpoints" / "best.ckpt")
    capsys.readouterr()

    folder = fit(*config("others.yaml", "others", str(earlier)))

    out = " ".join(capsys.readouterr().out.split())
    assert "its head" not in out
    assert "best.ckpt; a fresh head for black, grey alone" in out
    after, classes = state(folder / "checkpoints" / "last.ckpt")
    body = [name for name, _ in MNISTNet().named_parameters() if not name.startswith("head.4")]
    assert all(torch.equal(after[name], before[name]) for name in body)
    for row, name in enumerate(classes):
        rows = [(after[key][row], before[key]) for key in ("head.4.weight", "head.4.bias")]
        kept = name in names and all(torch.equal(new, old[names.index(name)]) for new, old in rows)
        assert kept == (name in ("red", "blue"))
    record = json.loads((folder / "run.json").read_text())
    assert len(record["init_from"]["sha256"]) == 64
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["model"]["init_from"] == str(earlier)

    shutil.rmtree(earlier)  # from here on nothing needs it
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "2"]) == 0
    resumed = json.loads((folder / "run.json").read_text())
    assert resumed["init_from"] == record["init_from"]
    assert main(["test", "--ckpt_path", str(folder)]) == 0
    assert main(["predict", "--ckpt_path", str(folder), "--images", "others"]) == 0
    module = ClassificationModule.load_from_checkpoint(folder)
    assert torch.equal(module.state_dict()["network.head.4.bias"], after["head.4.bias"])
    capsys.readouterr()
    assert main(["fit", "--config", str(folder)]) == 2
    assert f"no weights file '{earlier}'" in capsys.readouterr().err


@pytest.mark.slow
def test_reproduce_tells_a_source_that_has_changed(earlier, fit, capfd):
    folder = fit(*config("again.yaml", "three", str(earlier)))
    assert main(["reproduce", str(folder)]) == 0
    assert capfd.readouterr().out.endswith("identical\n")
    best = earlier / "checkpoints" / "best.ckpt"
    saved = torch.load(best, weights_only=True)
    saved["state_dict"]["network.head.4.bias"] += 1
    write_checkpoint(saved, best)

    assert main(["reproduce", str(folder)]) == 1

    assert "  init_from.sha256: " in capfd.readouterr().out


def test_a_run_of_before_that_names_a_file_as_weights_needs_no_file(fit, capsys):
    """As ``torchvision_model`` had it; ``fit`` now asks for ``init_from``."""
    photos("three", NAMES[:3])
    network = {
        "class_path": "classifier.networks.torchvision_model",
        "init_args": {"name": "squeezenet1_1"},
    }
    words = config("three.yaml", "three", network=network)
    folder = fit(*words, "--data.image_size=32")
    for path in (folder / "checkpoints").iterdir():
        saved = torch.load(path, weights_only=True)
        text = saved["classifier"]["config"]
        saved["classifier"]["config"] = text.replace(" weights: null", " weights: gone.pt")
        write_checkpoint(saved, path)

    assert main(["test", "--ckpt_path", str(folder)]) == 0
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_epochs=2"]) == 0
    torch.save(torchvision_model("squeezenet1_1", 3).state_dict(), "gone.pt")
    assert main(["fit", "--config", str(folder / "checkpoints" / "best.ckpt")]) == 0
    capsys.readouterr()

    assert main(["fit", *words, "--model.network.weights=gone.pt"]) == 2

    assert "write model.init_from: gone.pt" in capsys.readouterr().err


# ---- files of other programs ----


def other(scale=1.0):
    torch.manual_seed(7)
    return {key: value * scale for key, value in MNISTNet(4, 3, width=2).state_dict().items()}


def prefixed(prefix, scale=1.0):
    return {f"{prefix}{key}": value for key, value in other(scale).items()}


WRAPPED = {
    "a state dict": other(),
    "of a script": {"epoch": 3, "optimizer": {"lr": 0.1}, "model": other()},
    "of DDP": {"model_state_dict": prefixed("module.")},
    "of Lightning": {
        "state_dict": {**prefixed("model._orig_mod."), "loss.weight": torch.ones(4)},
        "epoch": 1,
        "pytorch-lightning_version": "2.0",
    },
    "with an average, as timm's": {"state_dict": other(-1), "state_dict_ema": other()},
    "one in the other": {"model": {"module": prefixed("backbone."), "step": 3}},
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_the_weights_are_found_in_what_other_programs_save(wrapped):
    torch.save(wrapped, "weights.pt")
    network = MNISTNet(4, 3, width=2)

    taken = start_from(network, "weights.pt", NAMES)

    assert all(torch.equal(value, other()[key]) for key, value in network.state_dict().items())
    assert "its head as it is, for it has as many classes" in str(taken)
    assert taken.left == (["loss"] if "pytorch-lightning_version" in wrapped else [])


def test_older_files_and_safetensors_are_read_too():
    torch.save(other(), "old.pth", _use_new_zipfile_serialization=False)
    save_file(other(), "new.safetensors")

    taken = [start_from(MNISTNet(4, 3, width=2), f, NAMES) for f in ("old.pth", "new.safetensors")]

    assert taken[0].digest == taken[1].digest


def test_a_head_of_another_number_of_unnamed_classes_is_fresh_and_the_rest_is_kept():
    torch.save(other(), "weights.pt")
    network = MNISTNet(3, 3, width=2)
    fresh = network.state_dict()["head.4.weight"].clone()

    taken = start_from(network, "weights.pt", NAMES[:3])

    assert str(taken).endswith("weights.pt; a fresh head")
    assert torch.equal(network.state_dict()["head.4.weight"], fresh)
    assert torch.equal(network.state_dict()["head.1.weight"], other()["head.1.weight"])


def test_filters_are_summed_for_grey_images_and_repeated_for_others():
    torch.save(other(), "weights.pt")
    grey, six = MNISTNet(4, 1, width=2).eval(), MNISTNet(4, 6, width=2).eval()
    colour = MNISTNet(4, 3, width=2).eval()

    for network in (grey, six, colour):
        start_from(network, "weights.pt", NAMES)

    image = torch.rand(2, 1, 8, 8)
    expected = colour(image.expand(-1, 3, -1, -1))
    torch.testing.assert_close(grey(image), expected)
    torch.testing.assert_close(six(image.expand(-1, 6, -1, -1)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.8.weight"), r"lacks 'features.8.weight' \(1 of"),
        (lambda s: s.update({"features.20.weight": torch.ones(1)}), "also has 'features.20"),
        (lambda s: s.update({"features.4.weight": torch.ones(3, 2, 3, 3)}), "'features.4.weight'"),
        (lambda s: s.clear() or s.update(x=torch.ones(1)), "lacks 'features.0.weight'"),
    ],
)
def test_weights_of_another_network_are_refused(change, message):
    weights = other()
    change(weights)
    torch.save(weights, "weights.pt")

    with pytest.raises(ValueError, match=f"'weights.pt' .*{message}"):
        start_from(MNISTNet(4, 3, width=2), "weights.pt", NAMES)


def test_parts_that_the_network_lacks_are_left_and_a_head_may_be_missing():
    weights = {k: v for k, v in other().items() if not k.startswith("head.4")}
    torch.save({**weights, "aux.weight": torch.ones(2), "projector.0.bias": torch.ones(1)}, "x.pt")

    taken = start_from(MNISTNet(4, 3, width=2), "x.pt", NAMES)

    assert str(taken).endswith("x.pt; a fresh head; not used: aux, projector")


# ---- mistakes ----


class Code:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


TORCHVISION = "--model.network=torchvision.models.squeezenet1_1"
MISTAKES = {
    "missing": (["--model.init_from=wieghts.pt"], ["'wieghts.pt'", "did you mean 'weights.pt'"]),
    "an empty file": (["--model.init_from=empty.pt"], ["'empty.pt' is empty", "safetensors"]),
    "damaged": (["--model.init_from=cut.pt"], ["'cut.pt'", "damaged"]),
    "damaged safetensors": (["--model.init_from=cut.safetensors"], ["'cut.safetensors'"]),
    "an image": (["--model.init_from=a.png"], ["'a.png' is damaged", "state dict"]),
    "code": (["--model.init_from=code.pt"], ["'code.pt'", "more than tensors"]),
    "a whole network": (["--model.init_from=network.pt"], ["'network.pt'", "state_dict()"]),
    "no state dict": (["--model.init_from=numbers.pt"], ["'numbers.pt' holds no state dict"]),
    "a folder": (["--model.init_from=folder"], ["'folder'", "without a checkpoint"]),
    "nothing": (["--model.init_from="], ["init_from", "''", "leave it out"]),
    "weights that diverged": (
        ["--model.init_from=nan.pt"],
        ["'nan.pt' holds NaN", "'features.0.weight' (1 of "],
    ),
    "an address": (["--model.init_from=https://x/y.pt"], ["URL", "download it first"]),
    "another network": (["--model.init_from=weights.pt"], ["MNISTNet", "lacks 'features.0"]),
    "two origins": (
        [TORCHVISION, "--model.network.weights=DEFAULT", "--model.init_from=weights.pt"],
        ["'weights.pt'", "model.network.weights", "leave out"],
    ),
    "timm's own way": (
        [
            *("--model.network=timm.create_model", "--model.network.model_name=resnet10t"),
            "--model.network.checkpoint_path=weights.pt",
        ],
        ["checkpoint_path", "model.init_from: weights.pt"],
    ),
    "torchvision's former way": (
        [
            *(
                "--model.network=classifier.networks.torchvision_model",
                "--model.network.name=resnet18",
            ),
            "--model.network.weights=weights.pt",
        ],
        ["weights", "model.init_from: weights.pt"],
    ),
    "beside a checkpoint": (
        ["--ckpt_path", "TRAINED", "--model.init_from=weights.pt"],
        ["model.init_from", "--ckpt_path", "leave out"],
    ),
}


@pytest.fixture
def files():
    torch.save({"weight": torch.ones(2)}, "weights.pt")
    diverged = MNISTNet(width=4).state_dict()
    next(iter(diverged.values()))[0] = torch.nan
    torch.save(diverged, "nan.pt")
    Path("cut.pt").write_bytes(Path("weights.pt").read_bytes()[:300])
    Path("cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    Path("empty.pt").touch()
    Path("folder").mkdir()
    Image.new("RGB", (8, 8)).save("a.png")
    torch.save({"weight": Code()}, "code.pt")
    torch.save(torch.nn.Linear(2, 2), "network.pt")
    torch.save({"a": 1, "state_dict": {"fc": [1.0]}}, "numbers.pt")


@pytest.mark.parametrize(("given", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_before_training(given, words, files, write_config, trained, capsys):
    named = [str(trained) if word == "TRAINED" else word for word in given]
    start = [] if "TRAINED" in given else ["--config", write_config()]

    assert main(["fit", *start, *named]) == 2

    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert [word for word in words if word not in printed.err] == [], printed.err
    assert len(lines) <= 3
    assert not Path("ran").exists()
    assert "epoch 1/" not in printed.out
