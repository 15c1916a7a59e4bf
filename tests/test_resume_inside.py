"""A training that is stopped by a signal inside an epoch goes on to the same bits."""

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import storms
import torch
import yaml

from classifier import runs
from classifier.__main__ import main

RUN = Path("runs/tiny/version_0")
GO_ON = ["fit", "--ckpt_path", str(RUN)]
OWN = """
import signal
import sys
from pathlib import Path

from pytorch_lightning.callbacks import Callback
from torchmetrics import MeanMetric

FOUND = {}


class Stops(Callback):
    "Does what the file 'stop' says, once: signals, a batch of the training, a hook."

    def setup(self, trainer, pl_module, stage):
        path = Path("stop")
        self.words = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)

    def _stop(self, trainer, hook):
        if self.words[1:] == [str(trainer.fit_loop.total_batch_idx + 1), hook]:
            numbers, self.words = self.words[0], []
            for number in numbers.split("+"):
                signal.raise_signal(int(number))

    def on_train_batch_start(self, trainer, *_):
        self._stop(trainer, "before")

    def on_train_batch_end(self, trainer, *_):
        self._stop(trainer, "after")

    def on_validation_batch_start(self, trainer, *_):
        self._stop(trainer, "validation")

    def on_train_epoch_end(self, trainer, *_):
        self._stop(trainer, "end")


class Measures(Callback):
    "Gives the module a metric of its own."

    def setup(self, trainer, pl_module, stage):
        pl_module.extra = MeanMetric()

    def on_train_batch_end(self, trainer, pl_module, *_):
        pl_module.extra(1.0)
        pl_module.log("train_extra", pl_module.extra, on_step=False, on_epoch=True)


class Looks(Callback):
    "Evaluates expressions on the trainer after the second batch."

    def __init__(self, expressions: list[str]):
        self.expressions = expressions

    def on_train_batch_end(self, trainer, *_):
        self.log("seen", float(trainer.global_step), on_epoch=True)
        if trainer.global_step != 2:
            return
        loop = trainer.fit_loop
        results = loop.epoch_loop._results.values()
        names = {
            "trainer": trainer,
            "loop": loop,
            "epoch_loop": loop.epoch_loop,
            "state": loop.state_dict(),
            "mean": next(r for r in results if r.is_tensor and r.meta.on_epoch),
            "metric": next(r for r in results if not r.is_tensor),
        }
        for expression in self.expressions:
            try:
                FOUND[expression] = eval(expression, names)
            except Exception as error:
                FOUND[expression] = error
"""
EMA = {"class_path": "pytorch_lightning.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
PLATEAU = {
    "class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau",
    "init_args": {"factor": 0.5, "patience": 0, "threshold": 0.5},
}
STOPS = {"class_path": "own.Stops"}
CHANGES = {
    "trainer.callbacks": [STOPS],
    "trainer.limit_train_batches": 6,
    "trainer.max_epochs": 3,
    "data.init_args.batch_size": 16,
}


@pytest.fixture(autouse=True)
def ordinary_signals():
    """The handlers of a command in the foreground, put back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def same_bits(write_config, write_module, monkeypatch):
    """Trains calmly in another folder, and checks that the run here ended in the same way."""

    def check(here=None, **changes):
        here = here or Path().resolve()
        calm = here / "calm"
        calm.mkdir()
        with monkeypatch.context() as patch:
            patch.chdir(calm)
            assert main(["fit", "--config", write_config(CHANGES | changes)]) == 0
        assert storms.differences(storms.facts(calm), storms.facts(here)) == []

    return check


@pytest.fixture
def stop(write_config, write_module):
    """Starts a training and stops it by a signal; returns the exit code."""

    def run(number, batch, hook="after", **changes):
        write_module(OWN)
        numbers = number if isinstance(number, list) else [number]
        Path("stop").write_text(f"{'+'.join(str(int(n)) for n in numbers)} {batch} {hook}")
        return main(["fit", "--config", write_config(CHANGES | changes)])

    return run


def saved():
    """Step of the newest checkpoint, and whether it lies inside an epoch."""
    checkpoint = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["global_step"], checkpoint["position"]["inside_epoch"]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
def test_a_signal_saves_at_the_next_step_and_says_what_goes_on(name, code, stop, same_bits, capsys):
    assert stop(signal.Signals[name], batch=9, hook="before") == code

    assert saved() == (9, True)
    record = yaml.safe_load((RUN / "run.json").read_text())
    assert (record["state"], record["epochs"], record["steps"]) == ("interrupted", 1, 9)
    captured = capsys.readouterr()
    assert captured.err == ""
    last = [line.strip() for line in captured.out.splitlines()[-2:]]
    assert last == [
        "stopped in epoch 2; resume with",
        f"classifier fit --ckpt_path {RUN}",
    ]
    assert main(GO_ON) == 0
    assert "resumed in epoch 2" in capsys.readouterr().out
    same_bits()


STOPPED = {
    "in a window of accumulation": (8, "before", {"trainer.accumulate_grad_batches": 3}, 3, True),
    "where a validation is due": (9, "after", {"trainer.val_check_interval": 3}, 9, True),
    "in a validation inside an epoch": (
        9,
        "validation",
        {"trainer.val_check_interval": 3},
        9,
        True,
    ),
    "in the validation of an epoch": (12, "validation", {}, 12, False),
    "at the last step of an epoch": (12, "after", {}, 12, False),
    "at the end of an epoch": (12, "end", {}, 12, False),
    "at the last step of all": (18, "after", {}, 18, False),
    "with a plateau": (9, "after", {"model.lr_scheduler": PLATEAU}, 9, True),
    "with a plateau of train_loss": (
        *(9, "after", {"model.lr_scheduler": PLATEAU, "model.monitor": "train_loss"}, 9, True),
    ),
    "with a plateau, between epochs": (12, "after", {"model.lr_scheduler": PLATEAU}, 12, False),
    "with a moving average": (9, "after", {"trainer.callbacks": [STOPS, EMA]}, 9, True),
    "with steps instead of epochs": (
        *(9, "after", {"trainer.max_epochs": -1, "trainer.max_steps": 16}, 9, True),
    ),
    "at the last of so many steps": (
        *(16, "after", {"trainer.max_epochs": -1, "trainer.max_steps": 16}, 16, True),
    ),
}


@pytest.mark.parametrize(
    ("batch", "hook", "changes", "step", "inside"), STOPPED.values(), ids=STOPPED
)
def test_a_training_goes_on_to_the_same_bits_wherever_it_is_stopped(
    batch, hook, changes, step, inside, stop, same_bits
):
    code = stop(signal.SIGTERM, batch, hook, **changes)

    ends = step in (16, 18)  # for a signal at the very last step there is nothing to stop
    assert code == (0 if ends else 143)
    assert saved() == (step, inside)
    assert main(GO_ON) == 0
    same_bits(**changes)


def test_a_training_may_be_stopped_again_and_again(stop, same_bits):
    assert stop(signal.SIGTERM, 1) == 143
    for batch in (2, 5, 6, 7, 12, 15):
        Path("stop").write_text(f"{int(signal.SIGTERM)} {batch} after")
        assert main(GO_ON) == 143

    assert main(GO_ON) == 0

    same_bits()
    assert len(yaml.safe_load((RUN / "run.json").read_text())["resumed"]) == 7


def test_a_signal_that_was_ignored_stays_ignored(stop, same_bits):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and a shell in the background do

    assert stop(signal.SIGINT, 9) == 0

    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    same_bits()


def test_the_handlers_of_before_are_back_after_a_training(stop):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    assert stop(signal.SIGTERM, 9) == 143

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_a_training_at_once(name, write_config, write_module, own_folder):
    write_module(OWN)
    number = int(signal.Signals[name])
    Path("stop").write_text(f"{number}+{number} 9 before")

    (process,) = storms.fit_in(own_folder, ["--config", write_config(CHANGES)])
    process.join()

    assert process.exitcode == -number
    assert saved() == (6, False)
    assert "Traceback" not in Path("output.txt").read_text()


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(stop, same_bits, capsys):
    assert stop(signal.SIGTERM, 3) == 143
    shutil.rmtree(RUN / "checkpoints")
    config = (RUN / "config.yaml").read_text()

    assert main(["fit", "--ckpt_path", str(RUN)]) == 0

    assert (RUN / "config.yaml").read_text() == config
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]
    same_bits()


def test_a_finished_run_has_nothing_to_train_and_says_so(write_config, capsys):
    assert main(["fit", "--config", write_config({"trainer.max_epochs": 1})]) == 0
    before = (RUN / "checkpoints" / "last.ckpt").read_bytes()
    capsys.readouterr()

    assert main(["fit", "--ckpt_path", str(RUN)]) == 0

    captured = capsys.readouterr()
    assert "nothing to train: 1 epoch is done" in captured.out
    assert captured.err == ""
    last = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    (RUN / "before.ckpt").write_bytes(before)
    earlier = torch.load(RUN / "before.ckpt", weights_only=True)
    assert storms.digest(last["state_dict"]) == storms.digest(earlier["state_dict"])


@pytest.mark.parametrize("interval", [1.0, 3])
def test_a_run_that_was_killed_when_all_was_trained_still_gets_its_last_metrics(
    interval, write_config
):
    assert main(["fit", "--config", write_config({"trainer.val_check_interval": interval})]) == 0
    record = json.loads((RUN / "run.json").read_text())
    at_start = ("state", "id", "name", "working_folder", "command", "seed", "environment", "data")
    killed = {**{name: record[name] for name in at_start}, "state": "running"}
    (RUN / "run.json").write_text(json.dumps(killed))

    assert main(["fit", "--ckpt_path", str(RUN)]) == 0

    again = json.loads((RUN / "run.json").read_text())
    for name in ("state", "metrics", "best", "epochs", "steps", "weights_sha256"):
        assert again[name] == record[name]


def test_a_run_goes_on_without_a_metric_that_the_module_has_no_more(stop, capsys):
    callbacks = {"trainer.callbacks": [STOPS, {"class_path": "own.Measures"}]}
    assert stop(signal.SIGTERM, 9, **callbacks) == 143
    assert saved() == (9, True)
    capsys.readouterr()

    assert main([*GO_ON, "--trainer.callbacks", "null"]) == 0

    assert "resumed in epoch 2" in capsys.readouterr().out
    record = runs.read_record(RUN)
    assert (record["state"], record["epochs"], record["steps"]) == ("finished", 3, 18)


# ---- the private parts of Lightning ----

EPOCHS = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
BATCHES = {"ready": 2, "started": 2, "processed": 2, "completed": 1}
PARTS = {
    "loop._can_stop_early": True,
    "trainer.is_last_batch": False,
    "epoch_loop._should_check_val_fx(loop._data_fetcher)": False,
    "epoch_loop.restarting": False,
    "loop._restarting": False,
    "epoch_loop.batch_progress.current.ready": 2,
    "epoch_loop._results.keys() >= {'training_step.train_loss'}": True,
    "loop.epoch_progress.current.processed": 0,
    "loop.epoch_progress.current.ready": 1,
    "loop.batch_idx": 1,
    "state['epoch_progress']['total']": EPOCHS,
    "state['epoch_progress']['current']": EPOCHS,
    "state['epoch_loop.batch_progress']['current']": BATCHES,
    "state['epoch_loop.batch_progress']['is_last_batch']": False,
    "mean.meta.is_max_reduction": False,
    "mean.meta.is_min_reduction": False,
    "callable(mean.meta.reduce_fx)": True,
    "sorted(mean.metric_state)": ["cumulated_batch_size", "value"],
    "metric.value.metric_state is not None": True,
    "isinstance(trainer._logger_connector._callback_metrics, dict)": True,
    "trainer.should_stop": False,
    "trainer.global_rank": 0,
    "type(trainer.checkpoint_callbacks[-1]).__name__": "RunCheckpoints",
    "type(trainer.callbacks[-1]).__name__": "RunCheckpoints",
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What Lightning's private parts are after the second of four batches."""
    from conftest import TINY

    folder = tmp_path_factory.mktemp("parts")
    config = yaml.safe_load(TINY)
    config["trainer"]["callbacks"] = [
        {"class_path": "own.Looks", "init_args": {"expressions": list(PARTS)}}
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("own.py").write_text(OWN)
        Path("tiny.yaml").write_text(yaml.safe_dump(config))
        assert main(["fit", "--config", "tiny.yaml", "--trainer.max_epochs", "1"]) == 0
        import own

        del sys.modules["own"]
        return own.FOUND


@pytest.mark.parametrize("part", PARTS)
def test_lightning_still_has_the_private_part(part, parts):
    assert parts[part] == PARTS[part]
