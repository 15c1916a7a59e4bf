"""The command line: start-up, hyperparameters, precedence, and what upstream must not change."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import TINY
from jsonargparse import _typehints
from pytorch_lightning import cli as lightning_cli

from classifier import __version__
from classifier.__main__ import VERBS, main
from classifier.checkpoint.trust import import_class
from classifier.cli import ClassifierCLI, words
from classifier.cli.given import known_sections


def printed(capsys, *arguments: str) -> str:
    """The config that ``fit … --print_config`` prints."""
    assert main(["fit", *arguments, "--print_config"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["fitt"], []], ids=str)
def test_help_version_and_typos_do_not_import_torch(arguments):
    code = (
        "import sys; from classifier.__main__ import main; "
        f"main({arguments!r}); sys.exit('torch' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr


TEXTS = {
    "tab.yaml": "trainer:\n\tmax_epochs: 1\n",
    "twice.yaml": "trainer: {}\ntrainer: {}\n",
    "section.yaml": "trianer: {}\n",
    "alias.yaml": "trainer: {max_epochs: *epochs}\n",
    "empty.yaml": "",
}
ON_SIGHT = [
    ["fit", "tiny.yaml"],
    ["fit", "--config", "none.yaml"],
    *(["fit", "--config", name] for name in TEXTS),
    ["fit", "--config", "tiny.yaml", "--hyperparameters.lrr", "1"],
    ["fit", "--config", "tiny.yaml", "--lr", "1"],
    ["fit", "--config", "tiny.yaml", "--trainer.max_epochs"],
    ["fit", "--config", "tiny.yaml", "--ckpt_path", "none.ckpt"],
    ["fit"],
    ["test"],
    ["test", "--ckpt_path", "runs"],
    ["predict", "--ckpt_path", "best", "--images", "."],
    ["predict", "--ckpt_path", "none.ckpt"],
    ["predict", "--ckpt_path", "none.ckpt", "--images", "none/"],
    ["predict", "--ckpt_path", "none.ckpt", "--images", ".", "--output", "tiny.yaml"],
    ["tune"],
    ["tune", "--config", "none.yaml"],
    ["reproduce"],
    ["reproduce", "none"],
]
IN_WORDS = {
    "no command": (["--config", "tiny.yaml", "fti"], "the command is missing, did you mean 'fit'?"),
    "nothing to train": (["fit", "--config", "empty.yaml"], "empty.yaml: model.network: not given"),
    "an option misspelt": (["fit", "--confg", "tiny.yaml"], "did you mean 'config'?"),
    "dashes alone": (["fit", "--config", "tiny.yaml", "--", "1"], "'--' stands alone"),
    "a blank in a name": (["fit", "a b.yaml"], "did you mean '--config 'a b.yaml''?"),
    "of another library": (
        ["fit", "--config", "tiny.yaml", "--model.freeze", "true"],
        "did you mean 'groups'?",
    ),
    "a config of nearly that name": (["fit", "--config", "tiny.yml"], "did you mean 'tiny.yaml'?"),
    "a config that comes along": (["fit", "--config", "photo.yaml"], "did you mean 'photos.yaml'?"),
    "a config of fit": (
        ["search", "--config", "tiny.yaml"],
        "it is a config of fit, which a search file names: 'base: FILE'.",
    ),
    "no images": (["predict", "--ckpt_path", "x"], "predict needs --images PATH"),
    "images that are not there": (
        ["predict", "--ckpt_path", "x", "--images", "none/"],
        "there is no file, folder or glob 'none/'.",
    ),
    "a file that is there": (
        ["predict", "--ckpt_path", "x", "--images", ".", "--output", "tiny.yaml"],
        "--output 'tiny.yaml' exists; name another one or remove it.",
    ),
}


@pytest.mark.parametrize(("arguments", "answer"), IN_WORDS.values(), ids=IN_WORDS)
def test_what_the_words_show_to_be_a_mistake_is_said(arguments, answer, write_config, capsys):
    write_config()
    Path("empty.yaml").touch()

    assert main(arguments) == 2

    assert answer in capsys.readouterr().err


def test_mistakes_that_the_text_shows_are_answered_without_torch(write_config):
    write_config()
    for name, text in TEXTS.items():
        Path(name).write_text(text)
    code = (
        "import sys; from classifier.__main__ import main; "
        f"print([main(words) for words in {ON_SIGHT!r}], 'torch' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.stdout == f"{[2] * len(ON_SIGHT)} False\n", result.stderr
    assert result.stderr.count("error: ") == len(ON_SIGHT)


@pytest.mark.parametrize("verb", words.VERBS)
def test_the_sections_that_are_known_without_the_parser_are_its_own(verb):
    class Asked(ClassifierCLI):
        def parse_arguments(self, parser, args):
            defaults = self.command_parser.get_defaults(skip_validation=True).as_dict()
            assert {*defaults, "ckpt_path"} == {"config", *known_sections(verb)}
            raise SystemExit

    with pytest.raises(SystemExit):
        Asked(args=[verb])


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"classifier {__version__}\n"


@pytest.mark.slow
def test_a_login_node_with_cuda_but_without_a_gpu_is_not_worth_a_word():
    """torch.compile imports this, which says so of a machine where CUDA_HOME exists."""
    code = "from classifier.cli.quiet import quiet\nwith quiet(): import torch.utils.cpp_extension"

    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_HOME": "/", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )

    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("timm.create_model", ["model_name", "pretrained"]),
        ("torchvision_model", ["name", "num_classes", "weights"]),
        ("torchvision.models.resnet18", ["weights", "num_classes"]),
    ],
)
def test_the_help_of_a_function_lists_its_settings(path, settings, capsys):
    assert main(["fit", "--model.network.help", path]) == 0

    shown = capsys.readouterr().out
    assert [name for name in settings if f"--model.network.{name}" not in shown.split()] == []
    assert shown.count("\n") < 80


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_fits_two_screens(verb, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")

    assert main([verb, "--help"]) == 0

    help_text = capsys.readouterr().out
    assert help_text.startswith(f"usage: classifier {verb} ")
    assert ("classifier.networks.SmallResNet" in help_text) == (
        verb not in ("search", "reproduce", "tune")
    )
    assert "torch.nn.Conv2d" not in help_text
    assert len(help_text.splitlines()) <= 66


def test_all_settings_of_the_trainer_are_shown_where_they_are_asked_for(capsys):
    settings = set(inspect.signature(pl.Trainer).parameters)

    for asked in "--help", "--trainer.help":
        assert main(["fit", asked]) == 0

        shown = set(re.findall(r"--trainer\.(\w+)", capsys.readouterr().out))
        assert settings - shown if asked == "--help" else settings <= shown
        assert {"max_epochs", "devices", "precision", "callbacks"} <= shown


def test_a_hyperparameter_changes_every_use_and_keeps_its_alias(write_config, capsys):
    config = write_config()

    text = printed(capsys, "--config", config, "--hyperparameters.lr", "0.5")

    assert "lr: &lr 0.5" in text
    assert "lr: *lr" in text
    assert yaml.safe_load(text)["model"]["optimizer"]["init_args"]["lr"] == 0.5


def test_the_printed_config_prints_itself(write_config, capsys):
    first = printed(capsys, "--config", write_config())
    Path("printed.yaml").write_text(first)

    assert printed(capsys, "--config", "printed.yaml") == first


def test_a_later_config_wins_and_its_hyperparameters_reach_earlier_files(write_config, capsys):
    config = write_config()
    Path("more.yaml").write_text("hyperparameters: {lr: 0.7}\ntrainer: {max_epochs: 9}\n")

    merged = yaml.safe_load(printed(capsys, "--config", config, "--config", "more.yaml"))

    assert merged["model"]["optimizer"]["init_args"]["lr"] == 0.7
    assert merged["trainer"]["max_epochs"] == 9
    assert merged["hyperparameters"] == {"epochs": 2, "lr": 0.7, "batch_size": 64, "width": 4}


def test_an_option_in_front_of_the_config_wins_too(write_config, capsys):
    text = printed(capsys, "--trainer.max_epochs", "7", "--config", write_config())

    assert yaml.safe_load(text)["trainer"]["max_epochs"] == 7


def test_a_whole_block_can_be_a_hyperparameter(capsys):
    Path("block.yaml").write_text(
        "hyperparameters:\n"
        "  optimizer: &optimizer {class_path: torch.optim.Adam, init_args: {lr: 0.1}}\n"
        "model:\n"
        "  network: classifier.networks.MNISTNet\n"
        "  optimizer: *optimizer\n"
        "data: classifier.data.Digits\n"
    )
    sgd = "{class_path: torch.optim.SGD, init_args: {lr: 0.2, momentum: 0.9}}"

    text = printed(capsys, "--config", "block.yaml", "--hyperparameters.optimizer", sgd)

    optimizer = yaml.safe_load(text)["model"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert optimizer["init_args"]["momentum"] == 0.9
    assert "optimizer: *optimizer" in text


def test_a_hyperparameter_that_nothing_uses_is_pointed_out(fit, capsys):
    Path("tiny.yaml").write_text(TINY.replace("  lr: &lr", "  spare: 3\n  lr: &lr"))

    fit("--config", "tiny.yaml")

    assert "'spare'" in capsys.readouterr().err


def test_a_default_that_no_config_can_hold_is_left_out(write_config, capsys):
    # The norm_layer of a vision transformer is a functools.partial.
    changes = {"model.network": {"class_path": "torchvision.models.vit_b_32"}}

    text = printed(capsys, "--config", write_config(changes))

    assert "norm_layer" not in text
    Path("printed.yaml").write_text(text)
    assert printed(capsys, "--config", "printed.yaml") == text


def test_lightning_still_has_the_private_parts_that_are_built_on():
    names = {
        "before_instantiate_classes",
        "_add_instantiators",
        "_parse_ckpt_path",
        "_get",
        "_parser",
    }
    assert names <= set(dir(lightning_cli.LightningCLI))
    parameters = inspect.signature(lightning_cli._InstantiatorFn.__call__).parameters
    assert "applied_instantiation_links" in parameters
    source = inspect.getsource(lightning_cli.LightningCLI._run_subcommand)
    assert "getattr(self, subcommand" in source  # ClassifierCLI.predict is called through this
    assert "config_dump" in inspect.getsource(lightning_cli.LightningCLI._dump_config)
    from pytorch_lightning.core.mixins import hparams_mixin

    assert hparams_mixin._given_hyperparameters.get() is None
    with hparams_mixin._given_hyperparameters_context({"width": 2}, "cli"):
        assert hparams_mixin._given_hyperparameters.get() == {"width": 2, "_instantiator": "cli"}


def test_jsonargparse_still_has_the_private_parts_that_are_built_on():
    caller = inspect.getsource(_typehints.adapt_class_type)
    assert "linked_targets" in caller


def test_a_module_of_the_command_line_saves_plain_hyperparameters(trained):
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)

    network = checkpoint["hyper_parameters"]["network"]
    assert network["class_path"] == "classifier.networks.MNISTNet"
    assert network["init_args"]["num_classes"] == 10
    assert isinstance(checkpoint["pytorch-lightning_version"], str)
    assert pl.__version__ == checkpoint["pytorch-lightning_version"]


def test_a_function_is_found_behind_a_module_of_its_name():
    assert callable(import_class("torchvision.models.googlenet"))


def test_an_option_that_changes_one_use_of_a_hyperparameter_is_noted(write_config, capsys):
    config = ["fit", "--config", write_config(), "--trainer.fast_dev_run=true"]
    scheduled = ["--model.lr_scheduler=torch.optim.lr_scheduler.CosineAnnealingLR"]
    Path("twice.yaml").write_text(
        "hyperparameters: {epochs: &epochs 2}\ntrainer: {max_epochs: *epochs}\n"
        "model: {lr_scheduler: {class_path: torch.optim.lr_scheduler.CosineAnnealingLR, "
        "init_args: {T_max: *epochs}}}\n"
    )
    twice = [*config, "--config", "twice.yaml"]

    for given, noted in (
        ([*twice, "--trainer.max_epochs=1"], True),
        ([*twice, "--trainer.max_epochs=1", "--print_config"], True),
        ([*twice, "--hyperparameters.epochs=1"], False),
        ([*config, *scheduled, "--model.lr_scheduler.T_max=3", "--trainer.max_epochs=1"], False),
    ):
        capsys.readouterr()
        assert main(given) == 0
        told = "--trainer.max_epochs leaves model.lr_scheduler.T_max as it is; "
        assert (told + "--hyperparameters.epochs changes all." in capsys.readouterr().err) == noted
