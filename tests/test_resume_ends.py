"""A run that was ended on purpose goes on when what ended it is lifted; nothing else is touched."""

import json
import re
import shutil
from pathlib import Path

import pytest
import storms
import torch
import yaml
from conftest import put

from classifier import runs
from classifier.__main__ import main

RUN = Path("runs/tiny/version_0")
COUNTS = """
import json
from pathlib import Path

from pytorch_lightning.callbacks import Callback


class Counts(Callback):
    "Writes down which images each batch has, and which step follows it."

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        names = [str(hash(image.numpy().tobytes())) for image in batch[0]]
        line = [trainer.current_epoch, trainer.global_rank, trainer.global_step, names]
        with Path("images.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\\n")
"""
STOPPING = {
    "class_path": "pytorch_lightning.callbacks.EarlyStopping",
    "init_args": {"monitor": "val_loss", "min_delta": 10.0, "patience": 1},
}


def contents(folder=RUN):
    """Each file of a run folder, but for its lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != runs.LOCK)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def resume(capsys):
    """Goes on with the run; returns exit code, output and errors."""

    def run(*arguments, path=RUN):
        capsys.readouterr()
        code = main(["fit", "--ckpt_path", str(path), *arguments])
        return code, *capsys.readouterr()

    return run


# ---- ended inside an epoch ----


def test_more_steps_go_on_inside_the_epoch_to_the_same_bits(fit, write_config, resume, monkeypatch):
    Path("whole").mkdir()
    config = {"data.init_args.batch_size": 32, "trainer.limit_train_batches": 35}
    with monkeypatch.context() as patch:
        patch.chdir("whole")
        fit("--config", write_config(config), "--trainer.max_epochs", "3")
    fit("--config", write_config(config), "--trainer.max_epochs", "3", "--trainer.max_steps", "50")
    assert [row["step"] for row in runs.read_metrics(RUN)] == ["35", "50"]
    assert runs.read_record(RUN)["epochs"] == 1

    code, out, err = resume("--trainer.max_steps", "105")

    assert (code, err) == (0, "")
    assert "resumed in epoch 2" in out
    assert storms.differences(storms.facts(Path("whole")), storms.facts(Path())) == []


def test_what_the_step_number_ended_says_so_and_is_left_as_it_is(fit, write_config, resume):
    fit("--config", write_config(), "--trainer.max_steps", "6")
    before = contents()

    code, out, _ = resume()

    assert code == 0
    assert "nothing to train: 6 steps are done; raise trainer.max_steps to continue." in out
    assert contents() == before


@pytest.mark.parametrize("path", ["last.ckpt", "elsewhere.ckpt"])
def test_a_run_that_the_time_ended_goes_on_with_more_time(path, fit, write_config, resume):
    config = write_config({"trainer.max_time": {"milliseconds": 1}, "trainer.max_epochs": 2})
    fit("--config", config)
    before = contents()

    code, out, _ = resume("--trainer.max_epochs", "3")  # which is not what had ended it

    assert code == 0
    assert "nothing to train: ended by the time; raise or drop trainer.max_time" in out
    assert contents() == before
    checkpoint = RUN / "checkpoints" / "last.ckpt"
    if path == "elsewhere.ckpt":
        checkpoint = shutil.copy(checkpoint, path)
    code, out, _ = resume("--trainer.max_time", "00:00:10:00", path=checkpoint)
    assert code == 0
    assert "epoch 2/2" in out


@pytest.mark.parametrize("way", ["patience", "no callbacks"])
def test_a_run_that_early_stopping_ended_goes_on_when_it_is_lifted(
    way, fit, write_config, resume, capsys
):
    fit("--config", write_config({"trainer.callbacks": [STOPPING], "trainer.max_epochs": 5}))
    assert "ended by EarlyStopping" in capsys.readouterr().out
    before = contents()

    code, out, _ = resume("--trainer.max_epochs", "6")

    assert code == 0
    assert re.search(r"nothing to train: ended by EarlyStopping \(.*\); change its arguments", out)
    assert contents() == before
    lifted = {"patience": ["--config", "lifted.yaml"]}.get(way, ["--trainer.callbacks", "null"])
    patient = {**STOPPING, "init_args": {**STOPPING["init_args"], "patience": 9}}
    Path("lifted.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [patient]}}))
    code, out, err = resume(*lifted)
    assert (code, err) == (0, "")
    assert "epoch 5/5" in out


def test_early_stopping_does_not_mind_an_end_before_the_first_validation(fit, write_config):
    patient = {**STOPPING, "init_args": {**STOPPING["init_args"], "patience": 9}}

    fit("--config", write_config({"trainer.callbacks": [patient], "trainer.max_steps": 2}))

    assert runs.read_record(RUN)["steps"] == 2


# ---- nothing is overwritten ----


def test_a_run_of_which_only_the_best_checkpoint_is_left_is_not_trained_over(
    fit, write_config, resume
):
    fit("--config", write_config())
    for name in ("last", "previous"):
        (RUN / "checkpoints" / f"{name}.ckpt").unlink()
    before = contents()

    code, _, err = resume()

    assert code == 2
    assert "no last.ckpt and no previous.ckpt" in err
    assert f"--ckpt_path '{RUN}/checkpoints/best.ckpt'" in err
    assert f"--config '{RUN}/config.yaml'" in err
    assert contents() == before
    code, out, _ = resume("--trainer.max_epochs", "4", path=RUN / "checkpoints" / "best.ckpt")
    assert code == 0
    assert "runs/tiny/version_1" in out
    assert contents() == before


def test_a_checkpoint_with_nothing_to_train_leaves_no_new_folder(fit, write_config, resume):
    fit("--config", write_config())
    copy = shutil.copy(RUN / "checkpoints" / "last.ckpt", "copy.ckpt")

    code, out, _ = resume(path=copy)

    assert code == 0
    assert "nothing to train: 2 epochs are done" in out
    assert "run kept" not in out
    assert [folder.name for folder in RUN.parent.iterdir()] == [RUN.name]


@pytest.mark.parametrize(
    "changed", [(), pytest.param(("--hyperparameters.lr", "0.5"), marks=pytest.mark.slow)]
)
def test_a_resume_that_takes_no_step_changes_nothing(changed, fit, write_config, resume):
    fit("--config", write_config())
    before = contents()

    code, _, err = resume(*changed)

    assert (code, err) == (0, "")
    assert contents() == before
    assert main(["reproduce", str(RUN)]) == 0


def test_an_unchanged_resume_keeps_the_config_with_its_anchors(fit, write_config, resume):
    fit("--config", write_config())
    before = (RUN / "config.yaml").read_text()
    assert "&epochs 2" in before

    assert resume("--hyperparameters.epochs", "3")[0] == 0

    assert (RUN / "config.yaml").read_text() == before.replace("&epochs 2", "&epochs 3")
    assert (RUN / "config_0.yaml").read_text() == before
    assert resume("--hyperparameters.epochs", "4")[0] == 0
    assert resume()[0] == 0
    assert not (RUN / "config_2.yaml").exists()


def test_an_edited_config_is_refused_until_it_is_named(fit, write_config, resume):
    fit("--config", write_config())
    path = RUN / "config.yaml"
    path.write_text(path.read_text().replace("&lr 0.01", "&lr 0.02"))
    before = contents()

    code, _, err = resume("--hyperparameters.epochs", "3")

    assert code == 2
    assert f"'{path}' was edited since the run wrote it. --config '{path}'" in err
    assert contents() == before
    code, _, err = resume("--config", str(path), "--hyperparameters.epochs", "3")
    assert (code, err) == (0, "")
    assert "&lr 0.02" in path.read_text()
    assert runs.read_metrics(RUN)[-1]["lr"] == "0.02"


def test_a_config_that_was_removed_is_written_again(fit, write_config, resume):
    fit("--config", write_config())
    (RUN / "config.yaml").unlink()

    assert resume("--hyperparameters.epochs", "3")[0] == 0

    assert "&epochs 3" in (RUN / "config.yaml").read_text()


@pytest.mark.parametrize(
    "arguments", [{"filename": "best"}, {"filename": "last"}, {"save_last": True}]
)
def test_a_checkpoint_callback_that_would_write_over_the_run_s_own_is_refused(
    arguments, write_config, capsys
):
    callback = {"class_path": "ModelCheckpoint", "init_args": arguments}
    assert main(["fit", "--config", write_config({"trainer.callbacks": [callback]})]) == 2
    assert "which the run keeps itself" in capsys.readouterr().err
    assert not Path("runs").exists()

    callback["init_args"] = {**arguments, "dirpath": "mine"}
    assert main(["fit", "--config", write_config({"trainer.callbacks": [callback]})]) == 0


def test_a_best_checkpoint_of_somebody_else_does_not_keep_a_run_from_going_on(
    fit, write_config, resume
):
    fit("--config", write_config())
    best = RUN / "checkpoints" / "best.ckpt"
    saved = torch.load(best, weights_only=True)
    del saved["position"]
    torch.save(saved, best)

    assert resume("--trainer.max_epochs", "3")[0] == 0


@pytest.mark.parametrize("name", ["metrics.csv", "run.json"])
def test_what_was_removed_from_a_run_is_missed_in_a_line(name, fit, write_config, resume):
    fit("--config", write_config())
    (RUN / name).unlink()

    code, _, err = resume("--trainer.max_epochs", "3")

    assert code == 0
    assert err.startswith("note: ")
    assert name in err


def test_an_evaluation_in_another_precision_says_so(fit, write_config, capsys):
    fit("--config", write_config({"trainer.precision": "bf16-mixed"}))
    best = runs.read_record(RUN)["best"]["value"]
    capsys.readouterr()

    assert main(["validate", "--ckpt_path", str(RUN)]) == 0
    assert "--trainer.precision bf16-mixed gives the same" in capsys.readouterr().err

    assert main(["validate", "--ckpt_path", str(RUN), "--trainer.precision", "bf16-mixed"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"val_loss           {best:.4f}" in captured.out


# ---- other batches ----


def images_by_epoch(ranks=1):
    """The images in the order in which they were trained on, by epoch."""
    found = {}
    for line in Path("images.jsonl").read_text().splitlines():
        epoch, _, _, names = json.loads(line)
        found.setdefault(epoch, []).extend(names)
    return found


OTHER_BATCHES = {
    "larger": (16, {"data.init_args.batch_size": 64}, 64),
    "smaller": (16, {"data.init_args.batch_size": 4}, 4),
    "not a multiple": (16, {"data.init_args.batch_size": 24}, 24),
    "larger, with windows of its own": (
        *(16, {"data.init_args.batch_size": 37, "trainer.accumulate_grad_batches": 1}, 37),
    ),
}


@pytest.mark.parametrize(("size", "changes", "new"), OTHER_BATCHES.values(), ids=OTHER_BATCHES)
def test_with_other_batches_an_epoch_goes_on_at_the_image_where_it_was_left(
    size, changes, new, write_config, write_module, resume
):
    write_module(COUNTS)
    config = yaml.safe_load(Path(write_config()).read_text())
    config["trainer"] = {
        "max_epochs": 1,
        "max_steps": 11,
        "callbacks": [{"class_path": "own.Counts"}],
    }
    put(config, {"data.init_args.batch_size": size})
    del config["hyperparameters"]
    Path("tiny.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "tiny.yaml"]) == 0
    arguments = [text for key, value in changes.items() for text in (f"--{key}", str(value))]

    code, _, err = resume("--trainer.max_steps", "-1", *arguments)

    assert (code, err) == (0, "")
    (seen,) = images_by_epoch().values()
    assert len(set(seen)) == len(seen)
    assert 0 <= 1295 - len(seen) < new  # the last batch would have been smaller


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainer.accumulate_grad_batches", "2"),
        ("trainer.limit_train_batches", "4"),
        ("seed_everything", "5"),
    ],
)
def test_where_an_epoch_cannot_go_on_it_begins_anew_and_says_so(
    name, value, write_config, write_module, resume
):
    write_module(COUNTS)
    changes = {"trainer.callbacks": [{"class_path": "own.Counts"}], "trainer.max_steps": 5}
    changes |= {"trainer.limit_train_batches": 8, "trainer.max_epochs": 2}
    assert main(["fit", "--config", write_config(changes)]) == 0

    code, out, err = resume("--trainer.max_steps", "-1", f"--{name}", value)

    assert code == 0
    assert "note: epoch 1 begins again, so that the first 320 of its images are trained on" in err
    assert "epoch 2/2" in out
    seen = images_by_epoch()
    batches = int(value) if "limit" in name else 8
    assert len(seen[0]) == (5 + batches) * 64
    assert len(set(seen[0][5 * 64 :])) == batches * 64
    assert len(set(seen[1])) == batches * 64


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_on_another_number_of_devices_no_image_is_left_out_or_seen_twice(
    before, after, write_config, write_module, own_folder
):
    write_module(COUNTS)
    changes = {
        "trainer": {"max_epochs": 1, "max_steps": 11, "callbacks": [{"class_path": "own.Counts"}]},
        "data.init_args.batch_size": 16,
    }
    config = write_config(changes)
    assert storms.ended(storms.fit_in(own_folder, ["--config", config], before)) == [0] * before

    folder = storms.run_folder(own_folder)
    more = ["--ckpt_path", str(folder), "--trainer.max_steps", "-1"]
    more += ["--trainer.devices", str(after), "--trainer.strategy", "auto"]
    assert storms.ended(storms.fit_in(own_folder, more, after)) == [0] * after

    (seen,) = images_by_epoch().values()
    assert len(set(seen)) == len(seen)
    assert 0 <= 1295 - len(seen) < 16 * after
    (row,) = [row for row in runs.read_metrics(folder) if row["val_loss"]]
    assert 0.1 < float(row["train_accuracy"]) < 1


# ---- callbacks that cannot go on exactly ----

SWA = {
    "class_path": "pytorch_lightning.callbacks.StochasticWeightAveraging",
    "init_args": {"swa_lrs": 0.01, "swa_epoch_start": 1},
}


def test_a_callback_that_cannot_go_on_exactly_is_named_before_the_training(
    fit, write_config, resume, capsys
):
    fit("--config", write_config({"trainer.callbacks": [SWA], "trainer.max_epochs": 3}))

    captured = capsys.readouterr()
    assert captured.err.startswith(
        "note: with StochasticWeightAveraging a training that is stopped"
    )
    assert "EMAWeightAveraging" in captured.err
