"""ClassifierCLI is called, configured and subclassed as Lightning documents it of LightningCLI."""

import os
import re
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.cli import SaveConfigCallback

import classifier
from classifier.__main__ import main
from classifier.cli import ClassifierCLI
from classifier.errors import UserError
from classifier.module import ClassificationModule

pytestmark = [
    # What Lightning itself says or calls; Python shows deprecations to tests only.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
OWN = """
from typing import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassRecall

from classifier.data import ImageDataModule
from classifier.module import ClassificationModule
from classifier.networks import MNISTNet


class Penalty(ClassificationModule):
    def __init__(self, penalty: float = 0.001, **settings):
        super().__init__(**settings)
        self.penalty = penalty

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        return self.loss(logits, labels) + self.penalty * logits.square().mean()


class TwoOptimizers(ClassificationModule):
    def __init__(self, rate: float = 0.01, **settings):
        super().__init__(**settings)
        self.rate = rate
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = self.step(batch, "train")
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        first, *others = self.network.parameters()
        kinds = torch.optim.SGD, torch.optim.Adam
        return [k(p, lr=self.rate) for k, p in zip(kinds, ([first], others))]


class OwnMetric(ClassificationModule):
    def __init__(self, classes: int, **settings):
        super().__init__(**settings)
        self.recall = MulticlassRecall(classes)
        self.test_metrics["recall"] = MulticlassRecall(classes)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        images, labels = batch
        self.recall(self(images), labels)
        self.log("val_recall", self.recall, on_epoch=True)


class OwnNetwork(ClassificationModule):
    def __init__(
        self,
        class_names: list[str],
        width: int = 2,
        activation: Callable[[], nn.Module] = nn.ReLU,  # no text can hold it
    ):
        super().__init__(MNISTNet(len(class_names), 1, width=width), class_names)


class Fixed(ClassificationModule):
    def __init__(self):
        super().__init__(MNISTNet(10, 1, width=2), list("0123456789"))


class Shades(ImageDataModule):
    class_names = ["dark", "light"]
    in_channels = 1

    def setup(self, stage):
        labels = torch.arange(48) % 2
        noise = torch.randint(0, 128, (48, 1, 8, 8))
        images = (noise + 127 * labels[:, None, None, None]).byte()
        self.train_set = TensorDataset(images[:32], labels[:32])
        self.val_set = TensorDataset(images[32:], labels[32:])

    def train_dataloader(self):
        return DataLoader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, 8)

    test_dataloader = val_dataloader
"""
SHORT = ["--hyperparameters.epochs=1", "--trainer.limit_train_batches=2"]
CONFIG = {
    "model": {"network": {"class_path": "classifier.networks.MNISTNet"}},
    "data": {"class_path": "classifier.data.Digits"},
    "trainer": {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1},
}


@pytest.fixture
def words(write_config, write_module, monkeypatch):
    """Words that train the tiny config for two steps, beside a module ``own``."""
    write_module(OWN)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    return ["--config", write_config(), *SHORT]


def runs():
    return sorted(Path("runs").glob("*/*"))


def printed(capsys, *arguments):
    """What ``--print_config`` prints."""
    capsys.readouterr()
    assert main([*arguments, "--print_config"]) == 0
    return capsys.readouterr().out


def refusal(capsys, *arguments):
    """What is said of a mistake."""
    assert main(arguments) == 2
    return capsys.readouterr().err


# ---- called from Python ----


def test_a_mapping_names_the_command_and_trains_as_words_do(words):
    by_words = ClassifierCLI(args=["fit", *words])
    settings = {"fit": yaml.safe_load(by_words.run.config.read_text())}
    by_mapping = ClassifierCLI(args=settings)

    assert len(runs()) == 2
    for one, other in zip(by_words.model.parameters(), by_mapping.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_args_the_words_of_the_process_are_taken(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", *words, "--seed_everything=5"])

    assert ClassifierCLI().settings.seed_everything == 5
    assert len(runs()) == 1


def test_a_mapping_that_no_config_can_hold_is_refused(words):
    with pytest.raises(UserError, match="not a MNISTNet; give its class_path"):
        ClassifierCLI(args={"model": {"network": classifier.networks.MNISTNet(10, 1)}}, run=False)
    with pytest.raises(UserError, match="names the command"):
        ClassifierCLI(args=CONFIG)


def test_a_mapping_may_hold_paths_and_a_parsed_config_is_taken_again(words, own_folder):
    trainer = {**CONFIG["trainer"], "default_root_dir": own_folder / "others"}
    parsed = ClassifierCLI(args={"fit": {**CONFIG, "trainer": trainer}}).config
    ClassifierCLI(args=parsed)
    built = ClassifierCLI(args=CONFIG, run=False)

    assert len(list(Path("others").glob("*/*/run.json"))) == 2
    assert ClassifierCLI(args=built.config, run=False).model.mean.equal(built.model.mean)


def test_a_drawn_seed_is_another_in_each_cli_of_a_process():
    seeds = {
        ClassifierCLI(args={**CONFIG, "seed_everything": seed}, run=False).settings.seed_everything
        for seed in (True, 7, True, True)
    }

    assert len(seeds) == 4


def test_last_before_any_fit_is_answered_by_lightning(words):
    cli = ClassifierCLI(None, None, args=words, run=False)

    with pytest.warns(UserWarning, match="there is no last checkpoint"):
        cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path="last", verbose=False)


def test_a_class_that_is_no_module_or_data_of_ours_is_refused():
    with pytest.raises(UserError, match="not a subclass of ClassificationModule"):
        ClassifierCLI(pl.LightningModule, args=CONFIG, run=False)
    with pytest.raises(UserError, match="not a subclass of LightningDataModule"):
        ClassifierCLI(datamodule_class=pl.LightningModule, args=CONFIG, run=False)


@pytest.mark.parametrize("form", ["words", "mapping"])
def test_with_run_false_all_is_built_and_nothing_is_written(form, words):
    before = set(Path().rglob("*"))

    cli = ClassifierCLI(args=words if form == "words" else CONFIG, run=False)

    assert isinstance(cli.model, ClassificationModule)
    assert (cli.trainer.global_step, cli.datamodule.num_classes) == (0, 10)
    assert {path for path in Path().rglob("*") if "__pycache__" not in str(path)} == before


def test_the_trainer_of_run_false_keeps_a_run_and_knows_best_and_last(words):
    cli = ClassifierCLI(args=words, run=False)
    cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    assert not runs()
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    (folder,) = runs()

    best = cli.trainer.checkpoint_callback.best_model_path
    assert Path(best) == (folder / "checkpoints" / "best.ckpt").resolve()
    assert cli.trainer.checkpoint_callback.best_model_score == pytest.approx(
        cli.trainer.callback_metrics["val_loss"]
    )
    for which in ("best", "last", best):
        (result,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=which, verbose=False)
        assert {"test_loss", "test_accuracy"} <= result.keys()
    assert main(["test", "--ckpt_path", str(folder)]) == 0


def test_two_trainings_of_one_process_do_not_disturb_each_other(words):
    clis = [ClassifierCLI(args=words, run=False) for _ in range(2)]
    for cli in clis:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)

    for one, other in zip(*(cli.model.parameters() for cli in clis), strict=True):
        assert torch.equal(one, other)


def test_a_second_trainer_has_its_own_settings_and_its_own_run(words):
    cli = ClassifierCLI(args=words, run=False)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)

    second = cli.instantiate_trainer(max_epochs=2)
    second.fit(cli.model, datamodule=cli.datamodule)

    assert (cli.trainer.current_epoch, second.current_epoch) == (1, 2)
    assert [(run / "checkpoints/last.ckpt").exists() for run in runs()] == [True, True]


def test_trainer_defaults_lose_to_the_config_and_their_callbacks_are_added(words):
    timer = pl.callbacks.Timer()
    defaults = {"max_epochs": 7, "gradient_clip_val": 0.5, "callbacks": timer}

    cli = ClassifierCLI(args=words, run=False, trainer_defaults=defaults)

    assert (cli.trainer.max_epochs, cli.trainer.gradient_clip_val) == (1, 0.5)
    assert timer in cli.trainer.callbacks


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_fit_without_the_data_module_is_told_what_it_lacks(words):
    cli = ClassifierCLI(args=words, run=False)

    with pytest.raises(UserError, match="name the data module"):
        cli.trainer.fit(cli.model)


def test_a_callback_that_saves_the_config_elsewhere_is_called_beside_the_run_folder(words):
    saved = []

    class Elsewhere(SaveConfigCallback):
        def __init__(self, *args, **settings):
            super().__init__(*args, save_to_log_dir=False, **settings)

        def save_config(self, trainer, pl_module, stage):
            saved.append((stage, self.parser.dump(self.config)))

    cli = ClassifierCLI(args=["fit", *words], save_config_callback=Elsewhere)
    without = ClassifierCLI(args=["fit", *words], save_config_callback=None)

    ((stage, text),) = saved
    assert stage == "fit"
    assert yaml.safe_load(text)["data"]["class_path"] == "classifier.data.Digits"
    assert cli.run.config.stat().st_size
    assert without.run.config.read_text() == cli.run.config.read_text()


def test_parser_kwargs_reach_the_parser(words):
    Path("team.yaml").write_text("seed_everything: 11\n")
    defaults = {"fit": {"default_config_files": ["team.yaml"]}}
    cli = ClassifierCLI(args=["fit", *words], parser_kwargs=defaults)

    assert cli.settings.seed_everything == 11


# ---- hooks, arguments and trainers of a subclass ----


class TeamTrainer(pl.Trainer):
    def sizes(self, model, factor: int, datamodule=None):
        """Prints how large the network is.

        Args:
            model: The module.
            factor: By which it is multiplied.
            datamodule: The data.
        """
        print(factor * sum(p.numel() for p in model.parameters()))

    def fit_twice(self, model, datamodule):
        """Trains, and once more."""
        self.fit(model, datamodule=datamodule)
        self.fit_loop.max_epochs += 1
        self.fit(model, datamodule=datamodule)


class Sizes(ClassifierCLI):
    @staticmethod
    def subcommands():
        given = {"model", "datamodule"}
        return {**ClassifierCLI.subcommands(), "sizes": given, "fit_twice": given}


def test_the_documented_hooks_are_free_and_the_run_stays_usable(words):
    called = []

    class Hooked(ClassifierCLI):
        def before_instantiate_classes(self):
            called.append("before_instantiate_classes")

        def after_instantiate_classes(self):
            called.append("after_instantiate_classes")

        def before_fit(self):
            called.append("before_fit")

        def fit(self, *args, **settings):
            called.append("fit")
            self.trainer.fit(*args, **settings)

        def after_fit(self):
            called.append("after_fit")

    cli = Hooked(args=["fit", *words])

    assert called == [
        *("before_instantiate_classes", "after_instantiate_classes"),
        *("before_fit", "fit", "after_fit"),
    ]
    assert cli.run.config.stat().st_size
    run = str(cli.run.path)
    assert main(["test", "--ckpt_path", run]) == 0
    assert main(["fit", "--ckpt_path", run, "--trainer.max_epochs=2"]) == 0


def test_a_trainer_with_callbacks_of_a_subclass_keeps_the_run(words):
    class Mine(pl.Callback):
        pass

    class WithCallback(ClassifierCLI):
        def instantiate_trainer(self, **settings):
            return super().instantiate_trainer(**{**settings, "callbacks": [Mine()]})

    cli = WithCallback(args=["fit", *words])

    assert any(isinstance(callback, Mine) for callback in cli.trainer.callbacks)
    names = {path.name for path in cli.run.path.rglob("*")}
    assert {"config.yaml", "run.json", "metrics.csv", "best.ckpt", "last.ckpt"} <= names


class TeamCLI(ClassifierCLI):
    """Adds arguments, one of them required by a class, with defaults of its own."""

    def add_arguments_to_parser(self, parser):
        parser.add_argument("--team.size", type=int, default=3)
        parser.add_lightning_class_args(EarlyStopping, "early")
        parser.set_defaults({"early.monitor": "val_loss"})
        parser.link_arguments("team.size", "early.patience")


def test_arguments_of_a_subclass_stand_in_configs_with_anchors_and_are_found_again(words, capsys):
    Path("team.yaml").write_text(
        "hyperparameters: {size: &size 4}\nteam: {size: *size}\nearly: {min_delta: 0.5}\n"
    )
    cli = TeamCLI(args=["fit", *words, "--config", "team.yaml", "--hyperparameters.size=9"])
    saved = str(cli.run.config)

    assert cli.settings.team.size == 9
    assert "size: *size" in cli.run.config.read_text()
    (early,) = (c for c in cli.trainer.callbacks if isinstance(c, EarlyStopping))
    assert (early.monitor, early.patience, early.min_delta) == ("val_loss", 9, -0.5)
    assert TeamCLI(args=["fit", "--config", saved, "--team.size=2"]).settings.team.size == 2
    assert TeamCLI(args=["test", "--ckpt_path", str(cli.run.path)]).settings.team.size == 9
    resumed = ["fit", "--ckpt_path", str(cli.run.path), "--trainer.max_epochs=2"]
    assert TeamCLI(args=resumed).settings.team.size == 9
    assert main(["test", "--ckpt_path", str(cli.run.path)]) == 0
    assert "no section 'team'" in refusal(capsys, "fit", "--config", saved)
    assert "another program has added" in refusal(capsys, "fit", "--ckpt_path", str(cli.run.path))


def test_a_link_of_a_subclass_fills_in_what_its_module_requires(words):
    class Linked(ClassifierCLI):
        def add_arguments_to_parser(self, parser):
            target = "model.init_args.classes"
            parser.link_arguments("data.num_classes", target, apply_on="instantiate")

    cli = Linked(args=["fit", *words, "--model=own.OwnMetric"])

    assert cli.model.recall.num_classes == 10
    assert Linked(args=["test", "--ckpt_path", str(cli.run.path)]).model.recall.num_classes == 10


def test_a_link_takes_a_default_of_the_trainer_or_the_seed(words):
    class Linked(ClassifierCLI):
        def add_arguments_to_parser(self, parser):
            parser.link_arguments("seed_everything", "data.init_args.split_seed")
            parser.link_arguments("trainer.accumulate_grad_batches", "data.init_args.batch_size")
            parser.set_defaults({"seed_everything": 5})

    assert Linked(args=CONFIG, run=False).datamodule.split_seed == 5
    words = [*words, "--seed_everything=6", "--trainer.accumulate_grad_batches=2"]
    data = Linked(args=words, run=False).datamodule
    assert (data.split_seed, data.batch_size) == (6, 2)


@pytest.mark.filterwarnings("ignore:.*will be overridden by")  # as Lightning says of it
def test_a_cli_with_optimizer_arguments_resumes_with_its_own_schedule(words):
    class Own(ClassifierCLI):
        def add_arguments_to_parser(self, parser):
            parser.add_optimizer_args(torch.optim.SGD)
            parser.add_lr_scheduler_args(torch.optim.lr_scheduler.StepLR)
            parser.set_defaults({"optimizer.lr": 0.125, "lr_scheduler.step_size": 10})

    whole = Own(args=["fit", *words, "--trainer.max_epochs=2"])
    half = Own(args=["fit", *words])
    resumed = Own(args=["fit", "--ckpt_path", str(half.run.path), "--trainer.max_epochs=2"])

    assert type(resumed.trainer.lr_scheduler_configs[0].scheduler).__name__ == "StepLR"
    assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == 0.125
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_subclass_sets_defaults_of_all_sections(words):
    class Defaults(ClassifierCLI):
        def add_arguments_to_parser(self, parser):
            network = {"class_path": "classifier.networks.MNISTNet", "init_args": {"width": 2}}
            path = "classifier.module.ClassificationModule"
            digits = {"class_path": "classifier.data.Digits", "init_args": {"batch_size": 8}}
            parser.set_defaults({"model": {"class_path": path, "init_args": {"network": network}}})
            parser.set_defaults({"data": digits, "trainer.max_epochs": 3})

    cli = Defaults(args=["--model.network.width=3"], run=False)

    assert (cli.trainer.max_epochs, cli.datamodule.batch_size) == (3, 8)
    assert cli.settings.model.init_args.network.init_args.width == 3
    assert Defaults(args=words, run=False).datamodule.batch_size == 64


def test_the_help_of_a_subclass_lists_its_commands_and_others_are_refused(words, capsys):
    for asked, code in ("--help", 0), ("fti", 2):
        with pytest.raises(SystemExit) as ended:
            Sizes(args=[asked], trainer_class=TeamTrainer)
        assert ended.value.code == code
    output = capsys.readouterr()
    assert "Prints how large the network is." in output.out
    assert output.err.count("\n") == 1
    with pytest.raises(UserError, match="--config: name the command"):
        Sizes(args=words, trainer_class=TeamTrainer)


def test_a_class_of_trainers_and_a_command_of_its_own_are_taken(words, capsys):
    Sizes(args=["sizes", *words, "--factor=0"], trainer_class=TeamTrainer)

    assert capsys.readouterr().out.strip() == "0"
    assert not runs()


@pytest.mark.parametrize("form", ["words", "mapping"])
def test_a_command_of_ones_own_that_trains_keeps_a_run(form, words):
    args = ["fit_twice", *words] if form == "words" else {"fit_twice": CONFIG}
    Sizes(args=args, trainer_class=TeamTrainer)
    (run,) = runs()

    assert (run / "metrics.csv").read_text().count("\n") == 3
    assert main(["fit", "--ckpt_path", str(run), "--trainer.max_epochs=3"]) == 0
    assert main(["test", "--ckpt_path", str(run)]) == 0


# ---- modules and data of one's own ----

KINDS = {
    "Penalty": ["--model.penalty=0.5"],
    "TwoOptimizers": ["--model.rate=0.5"],
    "OwnMetric": ["--model.classes=10"],
}


@pytest.mark.parametrize("form", ["config", pytest.param("option", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_of_ones_own_is_trained_resumed_tested_used_and_loaded(kind, form, words):
    (setting,) = KINDS[kind]
    name, value = setting.removeprefix("--model.").split("=")
    if form == "option":
        chosen = [f"--model=own.{kind}", setting]
    else:
        block = {"class_path": f"own.{kind}", "init_args": {name: yaml.safe_load(value)}}
        Path("own.yaml").write_text(yaml.safe_dump({"model": block}))
        chosen = ["--config", "own.yaml"]

    assert main(["fit", *words, *chosen]) == 0
    (run,) = runs()
    saved = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert saved["class_path"] == f"own.{kind}"
    assert saved["init_args"]["network"]["init_args"]["width"] == 4
    assert main(["fit", "--ckpt_path", str(run), "--trainer.max_epochs=2"]) == 0
    assert main(["test", "--ckpt_path", str(run)]) == 0
    Image.new("L", (8, 8)).save("image.png")
    assert main(["predict", "--ckpt_path", str(run), "--images", "image.png"]) == 0
    assert Path("predictions.csv").read_text().count("\n") == 2
    loaded = ClassificationModule.load_from_checkpoint(run / "checkpoints/last.ckpt")
    assert type(loaded).__name__ == kind
    assert getattr(loaded, name, value) in (value, yaml.safe_load(value))


def test_a_module_without_settings_is_trained_resumed_and_tested(words):
    config = {**CONFIG, "model": {"class_path": "own.Fixed"}}
    Path("fixed.yaml").write_text(yaml.safe_dump(config))

    assert main(["fit", "--config", "fixed.yaml"]) == 0
    assert main(["fit", "--ckpt_path", "runs/fixed/version_0", "--trainer.max_epochs=2"]) == 0
    assert main(["test", "--ckpt_path", "runs/fixed/version_0"]) == 0


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in ("Penalty", "TwoOptimizers", "OwnMetric", "OwnNetwork")
    ],
)
def test_a_run_of_a_module_of_ones_own_is_reproduced(kind, words):
    config = {**CONFIG, "model": {"class_path": f"own.{kind}"}}
    if kind in KINDS:
        config["model"]["init_args"] = CONFIG["model"]
    Path("own.yaml").write_text(yaml.safe_dump(config))

    assert main(["fit", "--config", "own.yaml", *KINDS.get(kind, [])]) == 0

    assert main(["reproduce", "runs/own/version_0"]) == 0


def test_an_option_in_front_of_the_class_and_one_behind_it_both_hold(words, capsys):
    options = ["--model.monitor=val_accuracy", "--model=own.Penalty", "--model.penalty=0.5"]

    model = yaml.safe_load(printed(capsys, "fit", *words, *options))["model"]

    assert (model["init_args"]["monitor"], model["init_args"]["penalty"]) == ("val_accuracy", 0.5)


def test_flat_settings_and_those_below_a_class_path_mix_in_any_order(words, capsys):
    Path("flat.yaml").write_text("model: {monitor: val_accuracy, optimizer: {class_path: SGD}}\n")
    Path("own.yaml").write_text("model: {class_path: own.Penalty, init_args: {penalty: 0.5}}\n")
    first, last = ["--config", "flat.yaml"], ["--config", "own.yaml"]

    for files in ([*first, *last], [*last, *first]):
        model = yaml.safe_load(printed(capsys, "fit", *words, *files))["model"]
        settings = model["init_args"]
        assert (model["class_path"], settings["penalty"]) == ("own.Penalty", 0.5)
        assert settings["monitor"] == "val_accuracy"
        assert settings["optimizer"]["class_path"] == "torch.optim.SGD"
        assert settings["network"]["class_path"] == "classifier.networks.MNISTNet"


def test_a_module_with_a_class_for_a_default_may_be_the_default(words, monkeypatch):
    monkeypatch.syspath_prepend(".")
    from own import OwnNetwork

    cli = ClassifierCLI(OwnNetwork, args={"data": CONFIG["data"]}, run=False)

    assert type(cli.model) is OwnNetwork


def test_a_module_that_is_given_as_model_class_is_the_default(words, monkeypatch):
    monkeypatch.syspath_prepend(".")
    from own import Penalty

    cli = ClassifierCLI(Penalty, args=["fit", *words, "--model.penalty=0.25"])

    assert cli.model.penalty == 0.25
    assert ClassificationModule.load_from_checkpoint(cli.run.best).penalty == 0.25
    assert main(["test", "--ckpt_path", str(cli.run.path)]) == 0


def test_data_written_as_lightning_documents_it_is_trained_resumed_and_tested(words):
    config = {**CONFIG, "data": {"class_path": "own.Shades"}}
    Path("shades.yaml").write_text(yaml.safe_dump(config))

    assert main(["fit", "--config", "shades.yaml"]) == 0
    assert main(["fit", "--ckpt_path", "runs/shades/version_0", "--trainer.max_epochs=2"]) == 0
    assert main(["test", "--ckpt_path", "runs/shades/version_0"]) == 0


# ---- class paths and configs as the documentation prints them ----


def test_class_paths_of_lightning_pytorch_mean_the_installed_package(words, capsys):
    block = {"class_path": "lightning.pytorch.callbacks.ModelSummary"}
    Path("callbacks.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [block]}}))
    option = "--trainer.callbacks+=lightning.pytorch.callbacks.Timer"

    text = printed(capsys, "fit", *words, "--config", "callbacks.yaml", option)

    first, second = yaml.safe_load(text)["trainer"]["callbacks"]
    assert first["class_path"] == "pytorch_lightning.callbacks.ModelSummary"
    assert second["class_path"] == "pytorch_lightning.callbacks.Timer"


def test_a_callback_built_on_the_other_lightning_is_told_the_import_to_change(
    words, write_module, capsys
):
    write_module("import lightning.pytorch as L\n\n\nclass Mine(L.Callback):\n    pass\n")

    told = refusal(capsys, "fit", *words, "--trainer.callbacks=own.Mine")

    assert "Write 'import pytorch_lightning as pl' in place of" in told


def test_a_config_in_front_of_the_command_is_read(words):
    assert main([*words, "fit"]) == 0
    assert len(runs()) == 1


def test_a_file_with_a_section_for_each_command_is_read(words, capsys):
    Path("both.yaml").write_text(
        yaml.safe_dump({"fit": {**CONFIG, "seed_everything": 4}, "test": {"seed_everything": 6}})
    )

    assert main(["--config", "both.yaml", "fit"]) == 0
    run = "runs/both/version_0"
    assert yaml.safe_load(Path(run, "config.yaml").read_text())["seed_everything"] == 4
    text = printed(capsys, "test", "--ckpt_path", run, "--config", "both.yaml")
    assert yaml.safe_load(text)["seed_everything"] == 6


def test_the_section_of_a_command_keeps_its_anchors_and_may_be_of_ones_own(words):
    text = yaml.safe_dump({"fit": CONFIG, "test": {}}).replace("max_epochs: 1", "max_epochs: *e")
    text = text.replace("fit:\n", "fit:\n  hyperparameters: {e: &e 3}\n")
    Path("both.yaml").write_text(text)
    cli = ClassifierCLI(args=["fit", "--config", "both.yaml", "--hyperparameters.e=1"])
    Path("own.yaml").write_text(text.replace("fit:", "fit_twice:"))
    own = ["fit_twice", "--config", "own.yaml", "--hyperparameters.e=1"]

    assert cli.trainer.max_epochs == 1
    assert "max_epochs: *e" in cli.run.config.read_text()
    assert Sizes(args=own, trainer_class=TeamTrainer).trainer.current_epoch == 2


def test_a_config_comes_through_a_pipe_glued_to_its_option_or_in_parts(words, capsys):
    expected = printed(capsys, "fit", "--config", "tiny.yaml")
    reader, writer = os.pipe()
    os.write(writer, Path("tiny.yaml").read_bytes())
    os.close(writer)
    assert printed(capsys, "fit", "--config", f"/dev/fd/{reader}") == expected
    os.close(reader)
    assert printed(capsys, "fit", "-ctiny.yaml") == expected

    whole = yaml.safe_load(expected)
    for name in ("trainer", "model", "data"):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(whole[name]))
    parts = {name: f"{name}.yaml" for name in ("trainer", "model", "data")}
    Path("parts.yaml").write_text(yaml.safe_dump(parts))
    found = yaml.safe_load(printed(capsys, "fit", "--config", "parts.yaml"))
    assert found == {**whole, "hyperparameters": {}}


def test_a_config_of_plain_lightning_cli_is_read(words, capsys):
    Path("plain.yaml").write_text(yaml.safe_dump({**CONFIG, "weights_only": None}))
    assert main(["fit", "--config", "plain.yaml"]) == 0

    Path("plain.yaml").write_text(yaml.safe_dump({**CONFIG, "weights_only": False}))
    assert "weights_only is always true here" in refusal(capsys, "fit", "--config", "plain.yaml")


@pytest.mark.parametrize("verb", ["fit", "test"])
@pytest.mark.parametrize("which", ["best", "last", "hpc"])
def test_a_checkpoint_of_lightnings_choice_is_answered_by_what_chooses_here(which, verb, capsys):
    told = refusal(capsys, verb, "--ckpt_path", which)

    assert f"--ckpt_path {which}: name the run, --ckpt_path runs/NAME/version_N" in told


def test_a_logger_of_ones_own_is_named_by_its_own_folder(words, capsys):
    logger = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=elsewhere"]

    assert main(["fit", *words, *logger]) == 0

    assert "tensorboard --logdir elsewhere" in capsys.readouterr().out
    assert list(Path("elsewhere").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("trainer: {log_every_n_steps: '${trainer.max_epochs}'}", "by an anchor, '&name 3'"),
        ("data: {class_path: Digits, init_args: {batch_size: '${n}'}}", "by an anchor, '&name 3'"),
        ("trainer: !include trainer.yaml", "name both, --config A --config B"),
    ],
)
def test_other_ways_to_name_a_value_are_answered_by_those_of_here(text, remedy, words, capsys):
    Path("other.yaml").write_text(f"{text}\n")

    told = refusal(capsys, "fit", *words, "--config", "other.yaml")

    assert "other.yaml:1: " in told
    assert remedy in told


@pytest.mark.parametrize("name", ["optimizer", "lr_scheduler"])
def test_options_of_automatic_optimizers_are_answered_by_their_names_here(name, words, capsys):
    assert f"did you mean 'model.{name}'?" in refusal(capsys, "fit", *words, f"--{name}", "Adam")


def test_the_config_that_an_evaluation_prints_has_the_names_of_its_anchors(trained, capsys):
    text = printed(capsys, "test", "--ckpt_path", str(trained))

    anchors = re.findall(r"&(\w+)", text)
    assert anchors == ["lr", "batch_size", "width"]
    assert all(f"*{name}" in text for name in anchors)


def test_statistics_that_contradict_the_data_are_refused(words, capsys):
    told = refusal(capsys, "fit", *words, "--model.mean=[0.1]")
    assert "model.mean is [0.1], but Digits has [0.30" in told
    assert "Leave it out: it is filled in from data.mean." in told

    Path("names.yaml").write_text("model: {class_names: [a, b]}\n")
    told = refusal(capsys, "fit", *words, "--config", "names.yaml")
    assert "names.yaml:1: model.class_names is ['a', 'b'], but Digits has ['0', '1', " in told

    mean = "--data.mean=[0.5]"  # of one's own: for both
    assert main(["fit", *words, mean, "--model.mean=[0.5]"]) == 0
