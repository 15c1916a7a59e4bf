"""The list of settings that a parsed command leaves: misspelt ones are answered before torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from classifier.__main__ import main
from classifier.cli.given import Given, known_sections
from classifier.cli.keys import known_keys
from classifier.errors import UserError

TINY = ["fit", "--config", "tiny.yaml"]
STEP = [*TINY, "--trainer.max_steps", "1", "--trainer.logger", "false"]
MISSPELT = {
    "trainer.max_epoch": "'trainer.max_epochs'",
    "trainer.gpus": "'trainer.devices'",
    "data.batch_siz": "'batch_size'",
    "data.init_args.batch_siz": "'batch_size'",
    "model.optimizer.init_args.lrr": "'lr'",
    "model.optimizer.momentum": "of torch.optim.Adam",
    "model.network.widht": "'width'",
    "model.lossy": "'loss'",
    "save_every.minute": "'save_every.minutes'",
}
FILES = {
    "trainer.yaml": ("max_epochs: *epochs", "max_epoch: *epochs", ":8: trainer.max_epoch"),
    "data.yaml": ("batch_size: *", "batch_siz: *", ":22: data.init_args.batch_siz"),
    "network.yaml": ("width: *", "widht: *", ":14: model.network.init_args.widht"),
}


def answers(capsys: pytest.CaptureFixture[str]) -> list[str]:
    told = []
    for words in [[*TINY, f"--{key}", "1"] for key in MISSPELT] + [
        ["fit", "--config", name] for name in FILES
    ]:
        assert main(words) == 2
        told.append(capsys.readouterr().err)
    return told


@pytest.fixture
def config(write_config, own_folder, monkeypatch):
    """The tiny config, one with a mistake for each of FILES, and no list of settings yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folder / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(own_folder / "cache"))
    text = Path(write_config()).read_text(encoding="utf-8")
    for name, (right, wrong, _) in FILES.items():
        Path(name).write_text(text.replace(right, wrong), encoding="utf-8")


def test_a_misspelt_setting_is_answered_alike_with_the_list_and_without_it(config, capsys):
    cold = answers(capsys)
    assert not known_keys()
    assert main(STEP) == 0
    capsys.readouterr()

    code = f"import sys; from classifier.__main__ import main; main({[*TINY, '--data.siz', '1']!r})"
    warm = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], capture_output=True
    )

    assert answers(capsys) == cold
    parts = [*MISSPELT.values(), *(part for _, _, part in FILES.values())]
    assert all(part in told for part, told in zip(parts, cold, strict=True))
    assert warm.returncode == 0
    assert b"data.init_args.siz: no such setting of classifier.data.Digits" in warm.stderr


def test_what_the_list_does_not_cover_is_left_to_the_parser(config, write_module):
    write_module("import classifier.networks\nclass Net(classifier.networks.MNISTNet):\n    pass\n")
    assert main([*STEP, "--model.network", "own.Net"]) == 0
    assert (
        "model.network own.Net" not in known_keys()
    )  # which may be edited, or another in another folder

    for words in (
        ["--model.network", "own.Net", "--model.network.depth", "3"],
        ["--model.network", "torchvision.models.resnet18", "--model.network.progress", "true"],
        ["--model.network.class_path", "torch.nn.Flatten", "--model.network.start_dim", "1"],
        ["--model.network", "{class_path: own.Net, init_args: {depth: 3}}"],
        ["--model", "own.Module", "--model.depth", "3"],
        ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val_loss"],
        ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"],
        ["--model.network", "torch.optim.Adam"],
        ["--model.network.num_classes", "10", "--model.mean", "[0.5]"],
        ["--data.help", "--trainer.callbacks.help", "EarlyStopping"],
    ):
        Given("fit", [*TINY[1:], *words], known_sections("fit")).check()


def test_of_a_class_whose_files_have_changed_since_nothing_is_known(config):
    assert main(STEP) == 0
    (file,) = Path(os.environ["XDG_CACHE_HOME"], "classifier").glob("keys-*.json")
    entries = json.loads(file.read_text())
    words = [*TINY[1:], "--model.optimizer.lrr", "1", "--data.siz", "1"]
    with pytest.raises(UserError, match="lrr: no such setting of"):
        Given("fit", words, known_sections("fit")).check()

    changed = entries["model.optimizer torch.optim.Adam"]["files"]
    changed[next(iter(changed))] += 1
    file.write_text(json.dumps(entries))
    with pytest.raises(UserError, match="siz: no such setting of"):
        Given("fit", words, known_sections("fit")).check()

    for damaged in ("", "[]", '{"trainer": 3}', '{"trainer": {"keys": 3}}'):
        file.write_text(damaged)
        assert known_keys() == {}
        assert main([*TINY, "--trainer.max_epoch", "1"]) == 2
    assert main(STEP) == 0
    assert "max_epochs" in known_keys()["trainer"]


def test_no_cache_is_no_mistake(config, own_folder):
    (own_folder / "cache").write_text("a file")
    assert main(STEP) == 0
    assert known_keys() == {}
