"""Writes small runs of each kind as the code of the day writes them, and what they give.

python make.py      # in an empty folder; README.md says how format_1.tar.xz was made with it
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

BASE = {
    "seed_everything": 1,
    "trainer": {"max_epochs": 3},
    "model": {
        "network": {"class_path": "classifier.networks.MNISTNet", "init_args": {"width": 2}},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}},
    },
    "data": {"class_path": "classifier.data.Digits", "init_args": {"batch_size": 64}},
}
PLATEAU = {
    "class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau",
    "init_args": {"patience": 0, "factor": 0.5},
}
COSINE = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 5}}
STOPPING = {
    "class_path": "EarlyStopping",
    "init_args": {"monitor": "val_loss", "min_delta": 10.0, "patience": 2},
}
FOLDER = {
    "class_path": "classifier.data.ImageFolder",
    "init_args": {"root": "photos", "image_size": 16, "batch_size": 8, "num_workers": 0},
}
RUNS = {
    "finished": {"model.lr_scheduler": COSINE},
    "plateau": {
        "model.lr_scheduler": PLATEAU,
        "model.monitor": "val_accuracy",
        "trainer.max_epochs": 4,
    },
    "killed": {
        "save_every": {"steps": 3},
        "trainer.max_epochs": 12,
        "data.init_args.augment": [
            {"class_path": "classifier.augment.RandomShift", "init_args": {"max_shift": 1}}
        ],
    },
    "early_stopped": {"trainer.callbacks": [STOPPING], "trainer.max_epochs": 20},
    "photos": {"data": FOLDER},
}


SEARCH = {
    "base": "base.yaml",
    "folder": "searched",
    "monitor": "val_accuracy",
    "n_trials": 3,
    "pruner": None,
    "space": {"lr": {"low": 0.001, "high": 0.1, "log": True}},
}
EPOCHS = {"finished": 5, "plateau": 6, "killed": 12, "photos": 5, "searched": 4}


def write_photos() -> None:
    noise = np.random.default_rng(0)
    for number in range(48):
        label = ("blue", "green", "red")[number % 3]
        place = (
            Path("elsewhere")
            if number >= 42
            else Path("photos", label, "more" if number % 2 else "")
        )
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.add.outer(np.arange(20), np.arange(20))[:, :, None].repeat(3, 2) * 3
        pixels[:, :, 2 - number % 3] += 60
        pixels += noise.integers(0, 40)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png", optimize=True)
    # Not followed by this code.
    Path("photos", "red", "linked").symlink_to("../../elsewhere", target_is_directory=True)


def put(config, changes):
    for key, value in changes.items():
        *path, last = key.split(".")
        section = config
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value


def run(*arguments: str) -> str:
    done = subprocess.run(["classifier", *arguments], capture_output=True, text=True)
    print(" ".join(arguments), done.returncode, done.stderr, flush=True)
    return done.stdout


def numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(test_\w+)\W+([\d.e-]+)", text)}


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [
            {k: float(v) for k, v in row.items() if v and k != "seconds"}
            for row in csv.DictReader(file)
        ]


def train() -> None:
    for name, changes in RUNS.items():
        config = json.loads(json.dumps(BASE))
        put(config, changes)
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        if name == "killed":
            kill_inside_an_epoch()
        else:
            run("fit", "--config", f"{name}.yaml")
    text = yaml.safe_dump(BASE, sort_keys=False).replace("lr: 0.02", "lr: *lr")
    text = text.replace("max_epochs: 3", "max_epochs: 2")
    Path("base.yaml").write_text("hyperparameters:\n  lr: &lr 0.02\n" + text)
    Path("search.yaml").write_text(yaml.safe_dump(SEARCH, sort_keys=False))
    run("search", "--config", "search.yaml")


def kill_inside_an_epoch() -> None:
    process = subprocess.Popen(["classifier", "fit", "--config", "killed.yaml"])
    last = Path("runs/killed/version_0/checkpoints/last.ckpt")
    inside = False
    while not inside:
        assert process.poll() is None
        time.sleep(0.01)
        if last.exists():
            shutil.copy(last, "copy.ckpt")
            saved = torch.load("copy.ckpt", weights_only=True)
            inside = saved["epoch"] >= 2 and saved["position"]["inside_epoch"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    Path("copy.ckpt").unlink()


def main() -> None:
    write_photos()
    train()
    expected: dict[str, Any] = {}
    images = sorted(str(p) for p in Path("photos").rglob("*.png") if "linked" not in p.parts)[::7]
    folders = {name: Path("runs", name, "version_0") for name in RUNS}
    folders["searched"] = Path("searched/trials/0001")
    for name, folder in folders.items():
        facts = expected[name] = {"test": numbers(run("test", "--ckpt_path", str(folder)))}
        command = ["predict", "--ckpt_path", str(folder), "--output", "p.csv"]
        run(*command, "--images", *images)
        facts["predictions"] = Path("p.csv").read_text().splitlines()
        Path("p.csv").unlink()
    shutil.copytree(".", "../earlier_copy", symlinks=True)
    os.chdir("../earlier_copy")
    for name, epochs in EPOCHS.items():
        run("fit", "--ckpt_path", str(folders[name]), "--trainer.max_epochs", str(epochs))
        expected[name]["resumed"] = rows(folders[name])
    os.chdir("../earlier")
    Path("format_1.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main()
