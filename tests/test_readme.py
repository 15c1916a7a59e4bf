"""What the README says is true of the program."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from classifier.__main__ import VERBS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)
COMMANDS = sorted(
    {
        line.removeprefix("$ ").partition("  #")[0].strip()
        for kind, block in BLOCKS
        if kind == ""
        for line in block.splitlines()
        if line.removeprefix("$ ").startswith("classifier ")
    }
)


def test_the_first_screen_has_the_two_commands():
    first_screen = "\n".join(README.splitlines()[:20])

    assert "pip install -e . && classifier fit --config configs/digits.yaml" in first_screen
    assert "pip install -e '.[test]' && pytest" in first_screen


def test_the_config_of_the_readme_trains(own_folder, fit):
    config, _ = (block for kind, block in BLOCKS if kind == "yaml")
    Path("readme.yaml").write_text(config)
    assert len(config.splitlines()) <= 12

    folder = fit("--config", "readme.yaml", "--hyperparameters.epochs", "1")

    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["model"]["lr_scheduler"]["init_args"]["T_max"] == 1


def test_the_search_file_of_the_readme_is_the_shipped_one():
    _, search = (block for kind, block in BLOCKS if kind == "yaml")

    assert yaml.safe_load((ROOT / "configs/search/digits.yaml").read_text()) == yaml.safe_load(
        search
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_understood(command, monkeypatch, trained, own_folder, capsys):
    arguments = shlex.split(command)[1:]
    assert arguments[0] in VERBS
    monkeypatch.chdir(ROOT)
    run = "runs/digits/version_0"
    arguments = [argument.replace(run, str(trained)) for argument in arguments]
    tuned = own_folder / "tuned.yaml"  # in place of the one that the command above it writes
    tuned.write_text("model: {channels_last: true}")
    arguments = [argument.replace("mnist.tuned.yaml", str(tuned)) for argument in arguments]
    if arguments[0] == "search":
        arguments += (
            ["--dry_run=1", f"--folder={own_folder}/found"]
            if "--config" in arguments
            else ["--help"]
        )
    elif arguments[0] in ("reproduce", "tune"):
        arguments.append("--help")
    elif "--help" not in arguments and "--print_config" not in arguments:
        arguments.append("--print_config")

    assert main(arguments) == 0
    assert capsys.readouterr().out


# Lightning's own loading calls what jsonargparse 5 will remove; Python shows that to tests only.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_module_of_the_readme_answers_in_a_notebook(trained):
    (code,) = (block for kind, block in BLOCKS if kind == "python")
    scope = {"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}

    exec(code.replace("runs/digits/version_0", str(trained)), scope)

    assert scope["logits"].shape == (2, 10)
    assert scope["module"].class_names == list("0123456789")
