"""Runs the ``train.py`` of timm or of torchvision's references on a network of this benchmark.

    python reference_script.py --script timm/train.py --work cifar -- --data-dir DATA ...

The script runs as it is, with the options after ``--``, but for two things: ``--model benchmark``
is the network of the work, and the time of each training epoch is taken.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from works import WORKS, Work, build, report


def main() -> None:
    """Runs the script and reports the seconds of its epochs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--script", type=Path, required=True, help="The train.py.")
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("rest", nargs="*", help="Options of the script, after --.")
    options = parser.parse_args()
    sys.path.insert(0, str(options.script.parent))  # for the modules beside it
    sys.argv = [str(options.script), *options.rest]
    script = import_file(options.script)
    seconds: list[float] = []
    script.train_one_epoch = timed(script.train_one_epoch, seconds)
    if hasattr(script, "get_args_parser"):
        note = run_torchvision(script, WORKS[options.work])
    else:
        note = run_timm(script, WORKS[options.work])
    report(seconds, note)


def import_file(path: Path) -> ModuleType:
    """Imports a script without running its ``__main__`` part."""
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def timed(train: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Notes how long each call takes."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = train(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return result

    return wrapper


def run_torchvision(script: ModuleType, work: Work) -> str:
    """Puts the network in the place of torchvision's models and trains it."""
    import torchvision

    torchvision.models.get_model = lambda *_, **__: build(work)
    script.main(script.get_args_parser().parse_args())
    return f"torchvision {torchvision.__version__}"


def run_timm(script: ModuleType, work: Work) -> str:
    """Registers the network with timm and trains it."""
    import timm

    def benchmark(pretrained: bool = False, **_: Any) -> Any:
        network = build(work)
        network.num_classes = work.num_classes  # train.py reads it
        return network

    benchmark.__module__ = __name__
    timm.models.register_model(benchmark)
    script.main()
    return f"timm {timm.__version__}"


if __name__ == "__main__":
    main()
