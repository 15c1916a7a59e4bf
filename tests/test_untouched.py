"""Other libraries, the environment and the process are left as they were."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import classifier

WATCH = '''
import logging, os, signal, sys, threading, types, warnings

import jsonargparse.typing, multiprocessing.util, torch._dynamo, torch.utils.tensorboard
import torch.utils.cpp_extension, torchmetrics, torchvision.transforms.v2
import lightning_fabric, pytorch_lightning.cli
from pytorch_lightning.cli import LightningCLI

WATCHED = ("jsonargparse", "lightning_fabric", "multiprocessing", "pytorch_lightning", "torch",
           "torchmetrics", "torchvision")
LOGGERS = ("", "pytorch_lightning", "lightning_fabric", "torch", "torch.utils.cpp_extension")


def known(value):
    """What tells a value from another one: of a registry what it holds, of others which it is."""
    if isinstance(value, dict | list | set):
        return [*map(id, value), *(map(id, value.values()) if isinstance(value, dict) else ())]
    return id(value)


def snapshot():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in WATCHED or not isinstance(module, types.ModuleType):
            continue
        for key, value in list(vars(module).items()):
            if key.startswith("__"):
                continue
            found[name, key] = known(value)
            if isinstance(value, type) and value.__module__ == name:
                found |= {(name, key, k): id(v) for k, v in vars(value).items() if k[:2] != "__"}
    loggers = [logging.getLogger(name) for name in LOGGERS]
    parts = [*loggers, *(handler for logger in loggers for handler in logger.handlers)]
    found["process"] = {
        "environment": dict(os.environ),
        "warnings": [*warnings.filters, warnings.showwarning],
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": [threading.excepthook, sys.excepthook, sys.stdout, sys.stderr],
        "imports": [*sys.argv, *sys.path, *sys.meta_path, *sys.path_hooks],
        "filters of logs": [(part, part.level, *part.filters) for part in parts],
        "torch": [torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
                  torch.get_float32_matmul_precision(), torch.is_grad_enabled()],
        "threads": threading.active_count(),
    }
    return found


def report(before):
    after = snapshot()
    process, then = after.pop("process"), before.pop("process")
    print([k for k in before if after.get(k) != before[k] and k[1] not in OWN_CACHES])
    print([(k, then[k], process[k]) for k in then if process[k] != then[k]])


# jsonargparse's, a parser for each class; and torch's as it counts operations: a table of its
# functions, and how many hooks there have been.
OWN_CACHES = ("_cached_class_parsers", "_builtin_table", "RemovableHandle")
'''
IMPORT = """
before = snapshot()
import classifier.cli.classifier_cli, classifier.data, classifier.loading, classifier.module
report(before)
"""
# What plain LightningCLI leaves behind was there before: an optimizer's hooks, lazy imports.
COMMANDS = """
from classifier.data import Digits
from classifier.__main__ import main
from classifier.module import ClassificationModule

environment = dict(os.environ)
sys.argv = ["train.py"]
config = {"model": {"network": {"class_path": "classifier.networks.MNISTNet", "init_args":
    {"num_classes": 10, "in_channels": 1}}, "class_names": [str(n) for n in range(10)]},
    "trainer": {"fast_dev_run": True}}
cli = LightningCLI(ClassificationModule, Digits, args={"fit": config})
cli.trainer.test(cli.model, cli.datamodule)
os.environ.clear()
os.environ.update(environment)
before = snapshot()
codes = [main(words.split()) for words in (
    "fit --config tiny.yaml --hyperparameters.epochs 1 --trainer.limit_train_batches 2",
    "test --ckpt_path runs/tiny/version_0",
    "fit --config missing.yaml",
    "tune --help",
)]
assert codes == [0, 0, 2, 0], codes
report(before)
"""


def differences(code):
    """What a snapshot says that code has changed: in libraries, and in the process."""
    environment = {**os.environ, "PYTHONPATH": str(Path(classifier.__file__).parents[1])}
    environment.pop("JSONARGPARSE_DEPRECATION_WARNINGS", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCH + code],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-2:]


@pytest.mark.parametrize("code", [IMPORT, COMMANDS], ids=["importing", "commands"])
def test_nothing_of_another_library_or_of_the_process_is_changed_by(code, write_config):
    write_config()

    assert differences(code) == ["[]", "[]"]
