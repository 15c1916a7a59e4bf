"""The moving average of the weights: it warms up, is validated, kept and gone on from."""

import math
from pathlib import Path

import pytest
import torch

from classifier import runs
from classifier.__main__ import main
from classifier.averaging import MovingAverage, check_decay, warmed_up
from classifier.cli import ClassifierCLI
from classifier.errors import UserError

CONFIG = str(Path(__file__).parents[1] / "configs" / "digits.yaml")
THREE = ["--config", CONFIG, "--hyperparameters.epochs=3"]


def test_the_first_averages_keep_little_of_the_first_weights():
    averaged, value = [torch.zeros(3)], 0.0
    update = warmed_up(0.9)
    for step in range(1, 200):
        update(averaged, [torch.full((3,), float(step))], torch.tensor(step))
        keep = min(0.9, (1 + step) / (10 + step))
        value = keep * value + (1 - keep) * step

        assert averaged[0].tolist() == pytest.approx([value] * 3, rel=1e-5)


def test_the_average_is_as_good_as_the_weights_from_the_first_epochs_on(fit):
    raw = runs.read_metrics(fit(*THREE))
    folder = fit(*THREE, "--model.moving_average=0.99")

    average = runs.read_metrics(folder)
    assert float(average[2]["val_accuracy"]) > float(raw[2]["val_accuracy"]) - 0.005
    assert float(average[0]["val_accuracy"]) > 0.8
    assert [row["train_loss"] for row in average] == [row["train_loss"] for row in raw]
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    name = "network.head.1.weight"
    assert not torch.equal(last["state_dict"][name], last["current_model_state"][name])
    assert best["state_dict"].keys() == last["state_dict"].keys()


def test_a_training_that_averages_no_more_goes_on_from_the_weights(write_config, fit):
    plain = fit("--config", write_config())
    folder = fit("--config", write_config(), "--model.moving_average=0.9")
    for run in (plain, folder):
        goes_on = ["fit", "--ckpt_path", str(run), "--trainer.max_epochs=3"]
        assert main([*goes_on, "--model.moving_average=null"]) == 0

    for column in ("train_loss", "val_loss"):
        rows = [runs.read_metrics(run)[-1][column] for run in (plain, folder)]
        assert rows[0] == rows[1]


@pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")
def test_after_a_training_in_python_the_weights_of_a_checkpoint_are_validated(write_config):
    config = write_config({"model.moving_average": 0.9})
    cli = ClassifierCLI(args=["--config", config], run=False)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    (average,) = [c for c in cli.trainer.callbacks if isinstance(c, MovingAverage)]
    best = cli.trainer.checkpoint_callback
    for parameter in cli.model.parameters():
        torch.nn.init.zeros_(parameter)

    (found,) = cli.trainer.validate(cli.model, datamodule=cli.datamodule, ckpt_path="best")

    assert found["val_loss"] == pytest.approx(best.best_model_score.item(), rel=1e-6)
    assert average in cli.trainer.callbacks


def test_a_decay_is_a_share(write_config, capsys):
    assert main(["fit", "--config", write_config(), "--model.moving_average=1.0"]) == 2
    assert "model.moving_average is the share" in capsys.readouterr().err
    for decay in (-0.1, math.nan):
        with pytest.raises(UserError, match="the share"):
            check_decay(decay)


def test_one_average_is_enough(write_config, capsys):
    options = ["--model.moving_average=0.9", "--trainer.callbacks+=EMAWeightAveraging"]

    assert main(["fit", "--config", write_config(), *options]) == 2

    error = capsys.readouterr().err
    assert "model.moving_average and EMAWeightAveraging" in error
    assert "leave one out" in error
