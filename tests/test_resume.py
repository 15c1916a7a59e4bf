"""``fit --ckpt_path``: goes on where a run stopped, under the settings that hold now."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from classifier import runs
from classifier.__main__ import main
from classifier.data import Digits
from classifier.module import ClassificationModule
from classifier.optimization.resumed import follow_new_settings

KEPT = {"best.ckpt", "last.ckpt", "previous.ckpt"}
COSINE = {
    "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
    "init_args": {"T_max": 4},
}
STEP = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}}


def load(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def group_of(folder):
    (group,) = load(folder)["optimizer_states"][0]["param_groups"]
    return group


def rates_of(folder):
    return [float(row["lr"]) for row in runs.read_metrics(folder)]


def equal(weights, others):
    return all(torch.equal(weights[name], others[name]) for name in weights | others)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two epochs. Only to be read."""
    root = tmp_path_factory.mktemp("finished")
    (root / "tiny.yaml").write_text(TINY)
    assert (
        main(["fit", "--config", f"{root}/tiny.yaml", "--trainer.default_root_dir", str(root)]) == 0
    )
    return root / "tiny" / "version_0"


@pytest.fixture
def stopped(finished):
    """A copy of it to go on from."""
    return shutil.copytree(finished, Path("runs/tiny/version_0").resolve())


def resume(path, *arguments, epochs=3):
    more = ("--trainer.max_epochs", str(epochs)) if epochs else ()
    assert main(["fit", "--ckpt_path", str(path), *more, *arguments]) == 0


@pytest.mark.parametrize("path", ["checkpoints/last.ckpt", ""], ids=["file", "run folder"])
def test_a_resumed_run_goes_on_in_its_folder(path, stopped):
    resume(stopped / path, epochs=4)

    assert [folder.name for folder in stopped.parent.iterdir()] == [stopped.name]
    rows = runs.read_metrics(stopped)
    assert [(row["epoch"], row["step"]) for row in rows] == [
        *(("0", "4"), ("1", "8"), ("2", "12"), ("3", "16"))
    ]
    assert load(stopped)["epoch"] == 3
    assert load(stopped)["global_step"] == 16


def test_the_metrics_before_the_resumption_stay_as_they_were(stopped):
    before = (stopped / "metrics.csv").read_text()

    resume(stopped)

    assert (stopped / "metrics.csv").read_text().startswith(before)


def test_tensorboard_shows_one_curve(stopped):
    resume(stopped, epochs=4)

    events = EventAccumulator(str(stopped)).Reload()
    losses = [float(row["val_loss"]) for row in runs.read_metrics(stopped)]
    for name in ("val_loss", "train_loss", "lr"):
        assert [event.step for event in events.Scalars(name)] == [3, 7, 11, 15]
    assert [event.value for event in events.Scalars("val_loss")] == pytest.approx(losses)


def test_epochs_that_are_repeated_appear_once(fit, write_config):
    folder = fit("--config", write_config({"trainer.max_epochs": 1}))
    first = shutil.copy(folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "first.ckpt")
    resume(folder, epochs=3)

    resume(first, epochs=3)

    assert [row["epoch"] for row in runs.read_metrics(folder)] == ["0", "1", "2"]
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("val_loss")] == [3, 7, 11]


def test_the_record_keeps_the_earlier_starts(stopped):
    earlier = runs.read_record(stopped)

    resume(stopped, epochs=3)
    resume(stopped, epochs=4)

    record = runs.read_record(stopped)
    assert record["id"] == earlier["id"]
    assert record["state"] == "finished"
    assert record["epochs"] == 4
    assert [start["epochs"] for start in record["resumed"]] == [2, 3]
    assert record["resumed"][0] == earlier
    assert "resumed" not in record["resumed"][1]


def test_the_config_of_the_earlier_start_is_kept(stopped):
    earlier = (stopped / "config.yaml").read_text()

    resume(stopped)

    now = yaml.safe_load((stopped / "config.yaml").read_text())
    assert now["trainer"]["max_epochs"] == 3
    assert now.get("ckpt_path") is None
    assert (stopped / "config_0.yaml").read_text() == earlier


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(fit, write_config):
    # Without dropout: its random numbers are not part of a checkpoint.
    changes = {"model.network.init_args.dropout": 0.0, "model.lr_scheduler": COSINE}
    whole = fit("--config", write_config({**changes, "trainer.max_epochs": 4}))
    parts = fit("--config", write_config(changes))

    resume(parts, epochs=4)

    assert equal(load(parts)["state_dict"], load(whole)["state_dict"])
    columns = [
        [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in runs.read_metrics(folder)
        ]
        for folder in (parts, whole)
    ]
    assert columns[0] == columns[1]


@pytest.mark.parametrize("place", ["same place", "moved folder"])
def test_an_earlier_best_epoch_stays_the_best(place, fit, write_config):
    stopped = fit("--config", write_config())
    if place == "moved folder":
        stopped = stopped.rename(stopped.with_name("version_7"))
    best = runs.read_record(stopped)["best"]
    content = (stopped / "checkpoints" / "best.ckpt").read_bytes()

    resume(stopped, "--model.optimizer.init_args.lr", "1")

    assert float(runs.read_metrics(stopped)[-1]["val_loss"]) > best["value"]
    assert {path.name for path in (stopped / "checkpoints").iterdir()} == KEPT
    assert (stopped / "checkpoints" / "best.ckpt").read_bytes() == content
    assert runs.read_record(stopped)["best"] == best


def test_a_better_epoch_becomes_the_best(fit, write_config):
    stopped = fit("--config", write_config())

    resume(stopped, epochs=6)

    losses = [float(row["val_loss"]) for row in runs.read_metrics(stopped)]
    best = runs.read_record(stopped)["best"]
    assert best["value"] == pytest.approx(min(losses))
    assert load(stopped, "best")["epoch"] == losses.index(min(losses)) >= 2
    assert best["sha256"] == runs.sha256(stopped / "checkpoints" / "best.ckpt")
    assert {path.name for path in (stopped / "checkpoints").iterdir()} == KEPT


def test_resuming_a_finished_run_is_harmless(fit, write_config):
    stopped = fit("--config", write_config())
    weights, metrics = load(stopped)["state_dict"], runs.read_metrics(stopped)
    best = runs.read_record(stopped)["best"]

    resume(stopped, epochs=None)

    assert equal(load(stopped)["state_dict"], weights)
    assert runs.read_metrics(stopped) == metrics
    record = runs.read_record(stopped)
    assert (record["state"], record["epochs"], record["best"]) == ("finished", 2, best)
    assert record["metrics"] == pytest.approx(
        {name: float(metrics[-1][name]) for name in record["metrics"]}
    )
    assert record["metrics"]


def test_a_failed_run_can_be_resumed(stopped):
    record = runs.read_record(stopped)
    runs.write_record(stopped, {**record, "state": "failed", "error": "RuntimeError: power cut"})

    resume(stopped)

    record = runs.read_record(stopped)
    assert record["state"] == "finished"
    assert "error" not in record
    assert record["resumed"][0]["error"] == "RuntimeError: power cut"


def test_a_checkpoint_that_was_moved_resumes_into_a_new_folder(trained):
    Path("kept").mkdir()
    checkpoint = shutil.copy(trained / "checkpoints" / "last.ckpt", "kept/good.ckpt")
    before = runs.sha256(Path(checkpoint))

    resume(checkpoint, "--trainer.limit_train_batches", "1", epochs=4)

    folder = Path("runs/tiny/version_0")
    assert load(folder)["epoch"] == 3
    assert load(folder)["global_step"] == 31
    assert [row["epoch"] for row in runs.read_metrics(folder)] == ["3"]
    record = runs.read_record(folder)
    assert record["id"] != runs.read_record(trained)["id"]
    assert runs.sha256(Path(checkpoint)) == before
    assert [path.name for path in Path("kept").iterdir()] == ["good.ckpt"]


def test_an_older_checkpoint_starts_a_new_run_and_leaves_the_old_one_alone(fit, write_config):
    old = fit("--config", write_config({"trainer.max_epochs": 1}))
    resume(old, "--model.optimizer.init_args.lr", "1", epochs=2)
    assert (load(old, "best")["epoch"], load(old)["epoch"]) == (0, 1)
    before = {path: runs.sha256(path) for path in old.rglob("*") if path.is_file()}

    resume(old / "checkpoints" / "best.ckpt", "--model.optimizer.init_args.lr", "0.01", epochs=2)

    assert {path: runs.sha256(path) for path in old.rglob("*") if path.is_file()} == before
    new = old.with_name("version_1")
    assert sorted(old.parent.iterdir()) == [old, new]
    assert [row["epoch"] for row in runs.read_metrics(new)] == ["1"]
    assert load(new)["global_step"] == 8
    record = runs.read_record(new)
    assert record["id"] != runs.read_record(old)["id"]
    assert "resumed" not in record


def test_a_checkpoint_can_be_named_in_the_config(stopped):
    text = f"ckpt_path: {stopped}\ntrainer:\n  max_epochs: 3\n"
    Path("more.yaml").write_text(text)

    assert main(["fit", "--config", "more.yaml"]) == 0

    assert load(stopped)["global_step"] == 12
    assert [folder.name for folder in stopped.parent.iterdir()] == [stopped.name]


def test_a_checkpoint_on_the_command_line_beats_that_in_the_config(stopped):
    Path("more.yaml").write_text("ckpt_path: nowhere.ckpt\ntrainer:\n  max_epochs: 3\n")

    resume(stopped, "--config", "more.yaml", epochs=None)

    assert load(stopped)["global_step"] == 12


def test_a_damaged_record_is_named(stopped, capsys):
    (stopped / "run.json").write_text('{"id": "1a", "state"')

    assert main(["fit", "--ckpt_path", str(stopped), "--trainer.max_epochs", "3"]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) <= 3
    assert "run.json' is damaged" in error
    assert (stopped / "run.json").read_text() == '{"id": "1a", "state"'


# ---- settings that hold now ----


@pytest.mark.parametrize(
    "option",
    ["--model.optimizer.init_args.lr", "--model.optimizer.lr", "--hyperparameters.lr"],
)
def test_a_new_learning_rate_takes_effect(option, stopped):
    resume(stopped, option, "0.001")

    assert group_of(stopped)["lr"] == 0.001
    assert runs.read_metrics(stopped)[-1]["lr"] == "0.001"
    config = yaml.safe_load((stopped / "config.yaml").read_text())
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.001


def test_a_new_learning_rate_keeps_the_place_in_the_schedule(fit, write_config):
    cosine = {"model.lr_scheduler": COSINE}
    lr = {"model.optimizer.init_args.lr": 0.001}
    slow = fit("--config", write_config({**cosine, **lr, "trainer.max_epochs": 3}))
    changed = fit("--config", write_config(cosine))

    resume(changed, "--model.optimizer.init_args.lr", "0.001")

    assert group_of(changed)["lr"] == pytest.approx(group_of(slow)["lr"])
    assert group_of(changed)["initial_lr"] == 0.001
    assert load(changed)["lr_schedulers"][0]["base_lrs"] == [0.001]


def test_a_longer_schedule_goes_on_at_its_own_place(fit, write_config):
    def cosine(epochs):
        settings = {"class_path": COSINE["class_path"], "init_args": {"T_max": epochs}}
        return {"model.lr_scheduler": settings, "trainer.max_epochs": epochs}

    whole = fit("--config", write_config(cosine(4)), "--trainer.max_epochs", "3")
    short = fit("--config", write_config(cosine(2)))  # its rate has come down to zero

    resume(short, "--model.lr_scheduler.init_args.T_max", "4")

    assert group_of(short)["lr"] == pytest.approx(group_of(whole)["lr"])


def test_without_a_new_setting_the_place_in_the_schedule_stays(fit, write_config):
    whole = fit("--config", write_config({"model.lr_scheduler": COSINE, "trainer.max_epochs": 3}))
    parts = fit("--config", write_config({"model.lr_scheduler": COSINE}))

    resume(parts)

    assert group_of(parts)["lr"] == group_of(whole)["lr"]


def test_a_new_weight_decay_takes_effect(stopped):
    resume(stopped, "--model.optimizer.init_args.weight_decay", "0.25")

    group = group_of(stopped)
    assert (group["weight_decay"], group["lr"]) == (0.25, 0.01)
    step = load(stopped)["optimizer_states"][0]["state"][0]["step"]
    assert step == 12  # Adam's averages went on


def test_a_new_weight_decay_still_spares_norms_and_biases(fit, write_config):
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"weight_decay": 0.1}}
    changes = {"model.optimizer": optimizer, "model.no_decay_norm_bias": True}
    folder = fit("--config", write_config(changes))

    resume(folder, "--model.optimizer.init_args.weight_decay", "0.25")

    decayed, spared = load(folder)["optimizer_states"][0]["param_groups"]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.25, 0)


def test_another_optimizer_starts_afresh(stopped):
    resume(stopped, "--model.optimizer", "torch.optim.SGD", "--model.optimizer.momentum", "0.9")

    group = group_of(stopped)
    assert group["momentum"] == 0.9
    assert "betas" not in group
    assert load(stopped)["global_step"] == 12


def test_another_optimizer_gets_none_of_the_settings_of_the_former(stopped):
    resume(stopped, "--model.optimizer", "torch.optim.AdamW")

    assert group_of(stopped)["weight_decay"] == 0.01
    step = load(stopped)["optimizer_states"][0]["state"][0]["step"]
    assert step == 4


def test_a_new_setting_of_the_scheduler_holds_as_if_from_the_start(fit, write_config):
    folder = fit("--config", write_config({"model.lr_scheduler": STEP}))

    resume(folder, "--model.lr_scheduler.init_args.gamma", "0.5")

    assert group_of(folder)["lr"] == pytest.approx(0.01 * 0.5**3)


def test_another_scheduler_holds_as_if_from_the_start(fit, write_config):
    folder = fit("--config", write_config({"model.lr_scheduler": STEP}))
    exponential = "torch.optim.lr_scheduler.ExponentialLR"

    resume(folder, *("--model.lr_scheduler", exponential, "--model.lr_scheduler.gamma", "0.5"))

    assert load(folder)["lr_schedulers"][0]["gamma"] == 0.5
    assert rates_of(folder) == pytest.approx([0.01, 0.001, 0.01 * 0.5**2])
    assert group_of(folder)["lr"] == pytest.approx(0.01 * 0.5**3)


def test_a_scheduler_that_was_added_holds_as_if_from_the_start(stopped):
    step = "torch.optim.lr_scheduler.StepLR"

    resume(stopped, "--model.lr_scheduler", step, "--model.lr_scheduler.step_size", "1", epochs=4)

    assert rates_of(stopped) == pytest.approx([0.01, 0.01, 0.0001, 0.00001])
    assert group_of(stopped)["lr"] == pytest.approx(0.000001)
    assert load(stopped)["lr_schedulers"][0]["base_lrs"] == [0.01]


def test_a_plateau_schedule_that_was_added_goes_by_what_is_measured_from_now_on(stopped):
    resume(stopped, "--model.lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau")

    assert rates_of(stopped) == [0.01] * 3
    assert load(stopped)["lr_schedulers"][0]["last_epoch"] == 1


@pytest.mark.parametrize("scheduler", [STEP, COSINE], ids=["StepLR", "CosineAnnealingLR"])
def test_without_its_scheduler_a_run_goes_on_at_the_base_rate(scheduler, fit, write_config):
    folder = fit("--config", write_config({"model.lr_scheduler": scheduler}))

    resume(folder, "--model.lr_scheduler", "null", epochs=4)

    assert rates_of(folder)[2:] == [0.01, 0.01]
    assert load(folder)["lr_schedulers"] == []
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["lr_scheduler"] is None


def test_another_optimizer_keeps_the_place_in_the_schedule(fit, write_config):
    folder = fit("--config", write_config({"model.lr_scheduler": STEP}))

    resume(folder, "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.02", epochs=4)

    assert rates_of(folder) == pytest.approx([0.01, 0.001, 0.0002, 0.00002])
    assert "betas" not in group_of(folder)
    assert load(folder)["lr_schedulers"][0]["last_epoch"] == 4


HALVED = {"class_path": STEP["class_path"], "init_args": {"step_size": 1, "gamma": 0.5}}


@pytest.mark.parametrize(
    ("interval", "place", "end"), [("step", 2 * 4, 3 * 4), ("epoch", 2, 3)], ids=["step", "epoch"]
)
def test_another_interval_plays_the_schedule_by_it(interval, place, end, fit, write_config):
    former = {"step": "epoch", "epoch": "step"}[interval]
    changes = {"model.lr_scheduler": HALVED, "model.interval": former}
    folder = fit("--config", write_config(changes))

    resume(folder, "--model.interval", interval)

    assert rates_of(folder)[2] == pytest.approx(0.01 * 0.5**place)
    assert group_of(folder)["lr"] == pytest.approx(0.01 * 0.5**end)


def test_validation_within_an_epoch_does_not_keep_a_run_from_resuming(fit, write_config):
    within = {"trainer.val_check_interval": 0.4, "trainer.limit_train_batches": 5}
    changes = {**within, "model.network.init_args.dropout": 0.0}
    whole = fit("--config", write_config({**changes, "trainer.max_epochs": 3}))
    parts = fit("--config", write_config(changes))

    resume(parts)

    assert equal(load(parts)["state_dict"], load(whole)["state_dict"])
    steps = [row["step"] for row in runs.read_metrics(parts)]
    assert steps == ["2", "4", "5", "7", "9", "10", "12", "14", "15"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # hidden outside of tests
def test_a_new_mean_takes_effect_from_the_first_step_to_the_test(stopped, capsys):
    resume(stopped, "--data.mean", "[0.5]")

    saved = load(stopped)
    config = yaml.safe_load((stopped / "config.yaml").read_text())
    module = ClassificationModule.load_from_checkpoint(stopped / "checkpoints" / "last.ckpt").eval()
    assert config["data"]["init_args"]["mean"] == [0.5]
    assert saved["classifier"]["data"]["mean"] == [0.5]
    assert module.mean.flatten().tolist() == [127.5]
    data = Digits()
    data.setup("test")
    with torch.no_grad():
        logits = module(data.test_set.images)
    expected = torch.nn.functional.cross_entropy(logits, data.test_set.labels).item()
    capsys.readouterr()
    assert main(["test", "--ckpt_path", str(stopped / "checkpoints" / "last.ckpt")]) == 0
    (loss,) = re.findall(r"test_loss +([\d.]+)", capsys.readouterr().out)
    assert float(loss) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("key", "saved", "in_config", "on_command_line"),
    [
        ("model.optimizer.init_args.lr", 0.01, 0.02, 0.03),
        ("data.init_args.batch_size", 64, 32, 16),
        ("trainer.limit_train_batches", 10, 2, 1),
    ],
)
def test_the_command_line_beats_the_config_which_beats_the_checkpoint_which_beats_the_defaults(
    key, saved, in_config, on_command_line, trained, write_config, capsys
):
    checkpoint = ["--ckpt_path", str(trained)]
    config = ["--config", write_config({key: in_config})]
    option = [f"--{key}", str(on_command_line)]
    found = []

    for arguments in (checkpoint, checkpoint + config, [*option, *checkpoint, *config]):
        assert main(["fit", *arguments, "--print_config"]) == 0
        setting = yaml.safe_load(capsys.readouterr().out)
        for part in key.split("."):
            setting = setting[part]
        found.append(setting)

    assert found == [saved, in_config, on_command_line]


def test_what_is_printed_is_what_is_used(stopped, write_config):
    config = write_config({"trainer.limit_train_batches": 3, "data.init_args.batch_size": 32})

    resume(stopped, "--config", config, "--trainer.limit_train_batches", "2")

    assert load(stopped)["global_step"] == 8 + 2
    assert [row["step"] for row in runs.read_metrics(stopped)] == ["4", "8", "10"]


def test_a_changed_network_is_refused_in_few_lines(stopped, capsys):
    arguments = ["--model.network.init_args.width", "8", "--trainer.max_epochs", "3"]

    assert main(["fit", "--ckpt_path", str(stopped), *arguments]) == 2

    error = capsys.readouterr().err
    assert 1 <= len(error.splitlines()) <= 3
    assert runs.read_metrics(stopped)[-1]["epoch"] == "1"


def test_a_refused_resumption_leaves_the_run_as_it_was(stopped):
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}

    code = main(["fit", "--ckpt_path", str(stopped), "--model.optimizer.init_args.lr", "fast"])

    assert code == 2
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before


def test_checkpoints_load_with_weights_only(trained):
    for name in ("best", "last"):
        assert load(trained, name)["state_dict"]


# ---- the edit of the saved states ----

ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1, "weight_decay": 0.0}}


def checkpoint_of(optimizer=ADAM, scheduler=None, **group):
    state = {"base_lrs": [0.1], "gamma": 0.5, "last_epoch": 2}
    group = {"lr": 0.1, "weight_decay": 0.0, "params": [0], **group}
    settings = {"network": {"class_path": "n"}, "optimizer": optimizer, "lr_scheduler": scheduler}
    return {
        "hyper_parameters": {**settings, "no_decay_norm_bias": False},
        "optimizer_states": [{"state": {0: {"step": 5}}, "param_groups": [group]}],
        "lr_schedulers": [state] if scheduler else [],
    }


def followed(checkpoint, **changes):
    checkpoint = json.loads(json.dumps(checkpoint))
    follow_new_settings(checkpoint, {**checkpoint["hyper_parameters"], **changes})
    return checkpoint


def with_settings(spec, **settings):
    return {**spec, "init_args": {**spec["init_args"], **settings}}


def test_equal_settings_change_nothing():
    checkpoint = checkpoint_of(scheduler=STEP, initial_lr=0.1)

    assert followed(checkpoint) == json.loads(json.dumps(checkpoint))


def test_a_rate_without_a_schedule_is_set():
    checkpoint = followed(checkpoint_of(), optimizer=with_settings(ADAM, lr=0.3))

    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == 0.3


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {**ADAM, "init_args": {**ADAM["init_args"], "lr": 0.2}}},
        {"lr_scheduler": {**STEP, "init_args": {**STEP["init_args"], "gamma": 0.9}}},
    ],
    ids=["rate", "schedule"],
)
def test_a_schedule_with_new_settings_is_played_again(changes):
    checkpoint = checkpoint_of(scheduler=STEP, lr=0.025, initial_lr=0.1)

    assert follow_new_settings(checkpoint, {**checkpoint["hyper_parameters"], **changes})

    assert checkpoint["lr_schedulers"] == []


def test_a_schedule_with_the_same_settings_goes_on():
    checkpoint = checkpoint_of(scheduler=STEP, lr=0.025, initial_lr=0.1)

    assert not follow_new_settings(checkpoint, checkpoint["hyper_parameters"])

    assert checkpoint == checkpoint_of(scheduler=STEP, lr=0.025, initial_lr=0.1)


def test_a_setting_that_did_not_change_keeps_the_saved_value():
    before = checkpoint_of(weight_decay=0.7)  # set by hand, by a callback for example

    checkpoint = followed(before, optimizer=with_settings(ADAM, lr=0.2))

    assert checkpoint["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.7


def test_the_state_of_another_optimizer_is_dropped():
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}

    checkpoint = followed(checkpoint_of(scheduler=STEP), optimizer=sgd)

    assert checkpoint["optimizer_states"] == []
    assert checkpoint["lr_schedulers"] == []


def test_the_state_of_other_parameter_groups_is_dropped():
    checkpoint = followed(checkpoint_of(), no_decay_norm_bias=True)

    assert checkpoint["optimizer_states"] == []


def test_the_state_of_another_scheduler_is_dropped():
    checkpoint = followed(checkpoint_of(scheduler=STEP), lr_scheduler=COSINE)

    assert checkpoint["lr_schedulers"] == []
    assert checkpoint["optimizer_states"][0]["state"] == {"0": {"step": 5}}


@pytest.mark.parametrize("missing", ["optimizer_states", "hyper_parameters"])
def test_a_checkpoint_of_weights_alone_or_of_python_stays_as_it_is(missing):
    before = checkpoint_of()
    del before[missing]
    settings = {"optimizer": with_settings(ADAM, lr=9), "network": {}}

    after = json.loads(json.dumps(before))
    follow_new_settings(after, settings)

    assert after == json.loads(json.dumps(before))


def test_going_on_with_another_precision_is_noted(stopped, capsys):
    resume(stopped, "--trainer.precision", "bf16-mixed")

    told = capsys.readouterr().err
    assert "may differ from before: precision bf16-mixed, not 32-true" in told
