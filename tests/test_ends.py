"""However a training ends, it goes on to the bits of one that was left alone.

Measured on two shared cores of an AMD EPYC: 300 ends of 75 trainings in 15 configurations, of which
164 went on inside an epoch, and 48 ends on two ranks, nothing different in any of them (5 min).
"""

import random
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import storms
import yaml
from conftest import put
from test_exact import AUGMENT, BASE, EMA, folder_of_images, images, plateau  # noqa: F401

EPOCHS, BATCHES = 4, 12
STEPS = EPOCHS * BATCHES
# The last epoch is for the last start alone, which so always finds something to train.
BEFORE_LAST = (EPOCHS - 1) * BATCHES
OWN = """
import hashlib
import os
import signal

from pytorch_lightning.callbacks import Callback


class Counts(Callback):
    "Keeps a digest of all images in the order in which they are trained on, and counts hooks."

    def __init__(self):
        self.state = {"digest": "", "images": 0, "epoch_starts": 0, "epoch_ends": 0}

    def on_train_epoch_start(self, *_):
        self.state["epoch_starts"] += 1

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        seen = self.state["digest"].encode() + batch[0].numpy().tobytes()
        self.state["digest"] = hashlib.sha256(seen).hexdigest()
        self.state["images"] += len(batch[0])

    def on_train_epoch_end(self, *_):
        self.state["epoch_ends"] += 1

    def state_dict(self):
        return dict(self.state)

    def load_state_dict(self, state):
        self.state = dict(state)


class Ends(Callback):
    "Ends the training at a batch, counted from 1 over all epochs, in a hook."

    def __init__(self, at: int = 0, hook: str = "on_train_batch_end", how: str = "stop"):
        self.at, self.hook, self.how = at, hook, how

    def _end(self, trainer, hook):
        if hook != self.hook or trainer.fit_loop.total_batch_idx + 1 < self.at or not self.at:
            return
        if self.how == "stop":
            trainer.should_stop = True
        elif self.how == "raise":
            raise RuntimeError("the callback fails")
        elif trainer.global_rank == 0:
            self.at = 0
            os.kill(os.getpid(), int(self.how))

    def on_train_batch_start(self, trainer, *_):
        self._end(trainer, "on_train_batch_start")

    def on_train_batch_end(self, trainer, *_):
        self._end(trainer, "on_train_batch_end")

    def on_validation_end(self, trainer, *_):
        self._end(trainer, "on_validation_end")

    def on_train_epoch_end(self, trainer, *_):
        self._end(trainer, "on_train_epoch_end")

    def on_train_epoch_start(self, trainer, *_):
        self._end(trainer, "on_train_epoch_start")
"""
HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_validation_end"),
    *("on_train_epoch_end", "on_train_epoch_start"),
)
SIGNALS = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 138, "SIGKILL": -9}
COSINE = {
    "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
    "init_args": {"T_max": EPOCHS},
}
SCHEDULER = {
    "class_path": "pytorch_lightning.callbacks.GradientAccumulationScheduler",
    "init_args": {"scheduling": {1: 3}},
}
CONFIGS = {
    "plain": {"model.lr_scheduler": COSINE},
    "saved at its end only": {"save_every.steps": None, "model.lr_scheduler": plateau()},
    "accumulation of 3": {"trainer.accumulate_grad_batches": 3, "save_every.steps": 1},
    "accumulation of 5": {"trainer.accumulate_grad_batches": 5, "model.lr_scheduler": COSINE},
    "accumulation that grows": {"extra": SCHEDULER},
    "validation twice an epoch": {"trainer.val_check_interval": 0.5},
    "validation thrice, not at the end": {
        "trainer.val_check_interval": 5,
        "save_every.steps": 1,
        "model.lr_scheduler": plateau(),
    },
    "validation within windows": {
        "trainer.val_check_interval": 4,
        "trainer.accumulate_grad_batches": 3,
    },
    "validation every other epoch": {"trainer.check_val_every_n_epoch": 2},
    "moving average": {"extra": {"class_path": EMA, "init_args": {"decay": 0.9}}},
    "steps instead of epochs": {"trainer.max_epochs": -1, "trainer.max_steps": BEFORE_LAST},
    "mixup and augmentation": {
        "data.init_args.mix": {"class_path": "torchvision.transforms.v2.MixUp"},
        "data.init_args.augment": AUGMENT,
    },
    "one cycle by step": {
        "model.lr_scheduler": {
            "class_path": "torch.optim.lr_scheduler.OneCycleLR",
            "init_args": {"max_lr": 0.05, "total_steps": STEPS},
        },
        "model.interval": "step",
    },
    "files": folder_of_images(num_workers=0),
    "files, two workers": folder_of_images(num_workers=2),
}
WAYS = ("steps", "epochs", "time", "early", "stop", "raise", *SIGNALS)


@dataclass
class Ends:
    """What a storm of ends did.

    Attributes:
        ends: How many ends there were, by way.
        inside: How many starts went on inside an epoch.
        different: What differed from the calm training.
    """

    ends: dict[str, int] = field(default_factory=dict)
    inside: int = 0
    different: list[str] = field(default_factory=list)

    def __add__(self, other):
        ways = self.ends.keys() | other.ends.keys()
        return Ends(
            {way: self.ends.get(way, 0) + other.ends.get(way, 0) for way in sorted(ways)},
            self.inside + other.inside,
            self.different + other.different,
        )


def trainer_settings(name, end=None, patience=100):
    """The callbacks of a start, and what ends it."""
    callbacks = [
        {"class_path": "endings.Counts"},
        {"class_path": "endings.Ends", "init_args": {"at": 0, **(end or {})}},
        {
            "class_path": "pytorch_lightning.callbacks.EarlyStopping",
            "init_args": {"monitor": "val_loss", "min_delta": 10.0, "patience": patience},
        },
    ]
    extra = CONFIGS[name].get("extra")
    return [*callbacks, extra] if extra else callbacks


def draw(way, name, done, chance):
    """The trainer's settings that end a start; ``done`` is how many ends there were before."""
    changes = {"callbacks": trainer_settings(name)}
    at = chance.randint(1, BEFORE_LAST)
    if way == "steps":
        changes["max_steps"] = at
    elif way == "epochs":
        changes["max_epochs"] = chance.randint(1, EPOCHS - 1)
    elif way == "time":
        changes["max_time"] = {"milliseconds": 60 * (done + 1) + chance.randint(0, 60)}
    elif way == "early":
        changes["callbacks"] = trainer_settings(name, patience=chance.randint(1, 2))
    else:
        how = way if way in ("stop", "raise") else str(int(signal.Signals[way]))
        end = {"at": at, "hook": chance.choice(HOOKS), "how": how}
        changes["callbacks"] = trainer_settings(name, end)
    return changes


def expected_codes(way, ranks):
    # Fewer epochs than are done are refused.
    codes = {"raise": {0, 1}, "epochs": {0, 2}}.get(way, {0, SIGNALS.get(way, 0)})
    return codes | ({1, -9, -15} if ranks > 1 and way in (*SIGNALS, "raise") else set())


def write(folder, name):
    config = yaml.safe_load(BASE)
    changes = {key: value for key, value in CONFIGS[name].items() if key != "extra"}
    put(config, {**changes, "trainer.callbacks": trainer_settings(name)})
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    (folder / "endings.py").write_text(OWN)


def start(folder, settings, ranks):
    """Trains, from the run's checkpoint if there is a run; returns the exit codes."""
    (folder / "end.yaml").write_text(yaml.safe_dump({"trainer": settings}))
    begun = storms.run_folder(folder)
    first = ["--ckpt_path", str(begun)] if begun else ["--config", "tiny.yaml"]
    return storms.ended(storms.fit_in(folder, [*first, "--config", "end.yaml"], ranks))


def facts(folder, whole):
    """What has to be the same; the best checkpoint may be of a validation that an end caused."""
    found = storms.facts(folder)
    return {key: value for key, value in found.items() if whole or not key.startswith("best")}


def last_settings(name):
    """Those that lift whatever ended the training before."""
    by_steps = "trainer.max_steps" in CONFIGS[name]
    return {
        "callbacks": trainer_settings(name),
        "max_steps": STEPS if by_steps else -1,
        "max_epochs": -1 if by_steps else EPOCHS,
        "max_time": None,
    }


def storm(folder, images, name, chains, length, ranks=1):  # noqa: F811
    """Ends trainings of one config in chains, and compares each chain with a calm training."""
    folder = folder / name.replace(" ", "_").replace(",", "")
    folder.mkdir()
    shutil.copytree(images, folder / "images")
    total = Ends()
    calm = folder / "calm"
    calm.mkdir()
    write(calm, name)
    assert start(calm, last_settings(name), ranks) == [0] * ranks, output(calm)
    chance = random.Random(name)
    for number in range(chains):
        place = folder / f"chain_{number}"
        place.mkdir()
        write(place, name)
        ways = []
        for done in range(length):
            way = WAYS[(number * length + done) % len(WAYS)]
            way = chance.choice(WAYS) if chance.random() < 0.3 else way
            codes = start(place, draw(way, name, done, chance), ranks)
            assert set(codes) <= expected_codes(way, ranks), f"{way} {codes}\n{output(place)}"
            ways.append(way)
            total += Ends({way: 1}, is_inside(place))
        assert start(place, last_settings(name), ranks) == [0] * ranks, output(place)
        whole = not {"time", "early", "stop"} & set(ways)
        if wrong := storms.differences(facts(calm, whole), facts(place, whole)):
            total.different.append(f"{place}: {', '.join(ways)}: {', '.join(wrong)}")
        else:
            shutil.rmtree(place)
    print(name, total, flush=True)
    return total


def output(folder):
    return (folder / "output.txt").read_text()


def is_inside(folder):
    run = storms.run_folder(folder)
    return storms._position(run).inside if run else 0


@pytest.mark.slow
def test_no_storm_of_ends_changes_a_bit(tmp_path, images):  # noqa: F811
    storms.warm_up()
    with ThreadPoolExecutor(2) as pool:
        total = sum(pool.map(lambda name: storm(tmp_path, images, name, 5, 4), CONFIGS), Ends())

    print(total)
    assert total.different == []
    assert sum(total.ends.values()) >= 300
    assert min(total.ends.values()) >= 10
    assert total.inside >= 50


@pytest.mark.slow
def test_no_storm_of_ends_on_two_ranks_changes_a_bit(tmp_path, images):  # noqa: F811
    storms.warm_up()

    names = ("plain", "accumulation of 3", "validation twice an epoch", "moving average")
    total = sum((storm(tmp_path, images, name, 3, 4, ranks=2) for name in names), Ends())

    print(total)
    assert total.different == []
    assert sum(total.ends.values()) >= 40


def test_a_few_ends_change_no_bit(tmp_path, images):  # noqa: F811
    total = storm(tmp_path, images, "validation within windows", 1, 6)

    assert total.different == []
