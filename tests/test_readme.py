"""What the READMEs say is true of the program."""

import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from PIL import Image

from classifier.__main__ import VERBS, main

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("[ct]*/**/README.md"))]
NOT_RUN = {
    "createuser": "changes a server",
    "export": "sets up a cluster",
    "head": "shows a file that another command wrote",
    "pip": "changes the environment; done by hand for each release",
    "python": "a benchmark of hours",
    "python3": "makes an environment; done by hand for each release",
    "ray": "starts a cluster",
    "tensorboard": "serves until it is stopped",
}
"""Programs that the READMEs call and that are not called here, each with the reason."""


class Block(NamedTuple):
    """A block of code."""

    readme: str
    kind: str
    text: str


class Command(NamedTuple):
    """A line that calls a program, and the error that stands below it, if one does."""

    line: str
    error: str


BLOCKS = [
    Block(str(path.relative_to(ROOT)), kind, text)
    for path in READMES
    for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), re.S | re.M)
]
FILES = {m[1]: b.text for b in BLOCKS if (m := re.match(r"# (\w+\.(py|yaml))\n", b.text))}
"""Blocks that open with the name of a file, which other blocks use."""


def commands() -> list[Command]:
    """Those of the blocks, and those that stand in the first column of a table."""
    found = set()
    for path in READMES:
        rows = re.findall(r"^\| `(classifier \w+ .+?)`", path.read_text(), re.M)
        found |= {Command(row, "") for row in rows}
    for block in BLOCKS:
        if block.kind not in ("", "bash") or "#SBATCH" in block.text:  # see test_preemption.py
            continue
        lines = [*block.text.splitlines(), ""]
        has_output = any(line.startswith("$ ") for line in lines)
        for line, below in itertools.pairwise(lines):
            program = line.removeprefix("$ ").split(" ")[0]
            if line.startswith("$ ") or (program in ("classifier", *NOT_RUN) and not has_output):
                command = line.removeprefix("$ ").partition("  #")[0].strip()
                found.add(Command(command, below if below.startswith("error: ") else ""))
    return sorted(found)


COMMANDS = commands()
OWN = [command for command in COMMANDS if command.line.startswith("classifier ")]
PYTHON = [b for b in BLOCKS if b.kind == "python" and b.text not in FILES.values()]


@pytest.fixture
def as_described(own_folder: Path) -> Iterator[None]:
    """The working folder that the READMEs speak of; what is imported of it is forgotten."""
    (own_folder / "configs").symlink_to(ROOT / "configs")
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("mnist.tuned.yaml").write_text("model: {channels_last: true}")
    yield
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the config that the READMEs speak of. Only to be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("digits"))
        words = ["--hyperparameters.epochs=1", "--trainer.limit_train_batches=3"]
        assert main(["fit", "--config", str(ROOT / "configs/digits.yaml"), *words]) == 0
        return Path("runs/digits/version_0").absolute()


def test_the_first_screen_has_the_two_commands():
    lines = READMES[0].read_text().splitlines()
    first_screen = "\n".join(lines[:20])

    assert "pip install -e . && classifier fit --config configs/digits.yaml" in first_screen
    assert "pip install -e '.[test]' && pytest" in first_screen
    assert len(lines) <= 120


def test_the_config_of_the_readme_trains(own_folder, fit):
    (config,) = (b.text for b in BLOCKS if b.readme == "README.md" and b.kind == "yaml")
    Path("readme.yaml").write_text(config)
    assert len(config.splitlines()) <= 12

    folder = fit("--config", "readme.yaml", "--hyperparameters.epochs", "1")

    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["trainer"]["max_epochs"] == 1


def test_the_search_file_of_the_readme_is_the_shipped_one():
    search = next(b.text for b in BLOCKS if b.text.startswith("base:"))

    assert yaml.safe_load((ROOT / "configs/search/digits.yaml").read_text()) == yaml.safe_load(
        search
    )


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.kind == "yaml"], ids=lambda b: b.text[:30]
)
def test_a_config_of_a_readme_is_yaml(block):
    assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in OWN], ids=lambda c: c.line)
def test_another_program_is_not_called_for_a_reason(command):
    assert command.line.split()[0] in NOT_RUN


@pytest.mark.parametrize("command", OWN, ids=lambda command: command.line)
def test_a_command_of_a_readme_is_understood(command, as_described, digits, capsys):
    line = re.sub(r"\$\(.*?\)", "0", command.line)  # what the shell would work out
    arguments = shlex.split(re.sub(r"runs/\w+/version_0", str(digits), line))[1:]
    assert arguments[0] in VERBS
    if arguments[0] == "search":
        shown = ["--dry_run=1", "--folder=found"] if "--config" in arguments else ["--help"]
    elif arguments[0] in ("reproduce", "tune"):
        shown = ["--help"]
    elif arguments[0] == "fit" and {"configs/digits.yaml", "own_module.yaml"} & {*arguments}:
        shown = ["--trainer.fast_dev_run=true"]
    else:
        shown = ["--print_config"]
    if any("help" in argument or argument == "--print_config" for argument in arguments):
        shown = []

    assert main(arguments + shown) == (2 if command.error else 0)

    output = capsys.readouterr()
    assert output.err.splitlines()[0] == command.error if command.error else output.out


@pytest.mark.filterwarnings("ignore:The number of training batches")
# Lightning's own loading calls what jsonargparse 5 will remove; Python shows that to tests only.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.readme}: {block.text[:40]}")
def test_the_python_of_a_readme_runs(block, as_described, digits):
    scope = {"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}
    Image.linear_gradient("L").resize((30, 20)).save("digit.png")

    exec(block.text.replace("runs/digits/version_0", str(digits)), scope)

    if "probability" in scope:  # as those of the command
        words = ["--ckpt_path", str(digits), "--images", "digit.png"]
        assert main(["predict", *words]) == 0
        told = Path("predictions.csv").read_text().splitlines()[1].split(",")
        assert told[2] == scope["label"]
        assert float(told[3]) == pytest.approx(scope["probability"], abs=1e-6)
    elif "ClassifierCLI" in scope:
        assert [path.name for path in Path("runs").glob("*/*")] == ["version_0"]
    if "logits" in scope:
        assert scope["logits"].shape == (2, 10)
        assert scope["module"].class_names == list("0123456789")


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_of_a_readme_leads_to_a_file_and_a_heading(path):
    for target, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#?)([^)]*)\)", path.read_text()):
        file = path.parent / target if target else path
        assert file.exists(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M) if heading else []
        slugs = [re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings]
        assert not heading or heading in slugs
