"""Times how a large folder of images starts, and its memory, beside torchvision's ImageFolder.

1.28 million files in 1,000 classes, as ImageNet has them, which are hard links to a few small ones:

    python tests/benchmarks/large.py

Each figure is of a process of its own, by turns, with the folders in the system's cache; the
packages are imported before. Linux.
"""

import argparse
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import machine
from PIL import Image

LINKS = 50_000  # to one file; ext4 allows 65,000
CLASSES = 1000
SMALL = 10 * CLASSES
STEPS = ["torchvision", "ours", "fingerprint", "manifest", "find_images"]
FIT = (
    "fit --data ImageFolder --data.image_size 32 --data.batch_size 32 --data.num_workers 0 "
    "--model.network ResNet9 --model.network.width 4 --trainer.max_steps 1 "
    "--trainer.limit_val_batches 1 --trainer.accelerator cpu --data.root"
)


def make_links(root: Path, number: int) -> None:
    """Makes the files of as many images, equally many in each class."""
    source = root.with_name("sources")
    source.mkdir(exist_ok=True)
    for place in range(0, number, LINKS):
        Image.new("RGB", (48, 40), (place // LINKS, 80, 160)).save(source / f"{place}.jpg")
    for place in range(number):
        name = f"n{10_000_000 + 7919 * (place % CLASSES)}"
        if place < CLASSES:
            (root / name).mkdir(parents=True)
        file = source / f"{place // LINKS * LINKS}.jpg"
        os.link(file, root / name / f"{name}_{place * 7 % 50_021}_{place // CLASSES}.JPEG")


def memory() -> tuple[int, int]:
    """Bytes in use after a collection, and the most since this was last asked."""
    words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(words["VmHWM"].split()[0])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), peak * 1024


def measured(step: str, root: Path) -> list[float]:
    """Seconds, those of the processor, and bytes that stay and at the most, in this process."""
    from torchvision.datasets import ImageFolder as Theirs

    from classifier.data import ImageFolder
    from classifier.sources.patterns import find_images

    def ours() -> ImageFolder:
        data = ImageFolder(str(root), num_workers=0)
        data.setup("fit")
        return data

    data = ours() if step in ("fingerprint", "manifest") else None
    with tempfile.TemporaryDirectory() as folder:
        does = {
            "torchvision": lambda: Theirs(root),
            "ours": ours,
            "fingerprint": lambda: data.fingerprint(),
            "manifest": lambda: data.write_manifest(Path(folder)),
            "find_images": lambda: find_images([str(root)]),
        }[step]
        before, _ = memory()
        began = time.perf_counter(), time.process_time()
        kept = does()
        seconds = time.perf_counter() - began[0], time.process_time() - began[1]
        after, peak = memory()
    del kept
    return [*seconds, after - before, peak - before]


def fit(root: Path) -> list[float]:
    """Seconds of a whole command that takes one step."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "classifier", *FIT.split(), str(root)]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return [time.perf_counter() - began]


def in_own_process(step: str, root: Path) -> list[float]:
    command = [sys.executable, __file__, "--step", step, "--folder", str(root)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=1_280_000, help="of images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where files are made or were; it stays")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measured(options.step, options.folder)))
        return
    # Beside this file, not in /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".large") as temporary:
        folder = options.folder or Path(temporary)
        large, small = folder / str(options.number) / "images", folder / str(SMALL) / "images"
        for root, number in ((large, options.number), (small, SMALL)):
            if not root.exists():
                root.parent.mkdir(parents=True)
                make_links(root, number)
        found = {step: [] for step in [*STEPS, "fit", "small"]}
        for _ in range(1 + options.rounds):  # the first fills the system's cache
            for step in STEPS:
                found[step].append(in_own_process(step, large))
            found["fit"].append(fit(large))
            found["small"].append(fit(small))
    print(machine("torch", "torchvision"), f"\nMedians of {options.rounds} rounds.\n")
    print(f"| {options.number:,} images | s | of the processor | times | B an image | at most |")
    print("|---|---|---|---|---|---|")
    theirs = median(row[0] for row in found["torchvision"][1:])
    for step, rows in found.items():
        wall, *others = (median(column) for column in zip(*rows[1:], strict=True))
        cells = [f"{wall:.2f}", "", f"{wall / theirs:.2f}", "", ""]
        if others:
            processor, *sizes = others
            cells[1] = f"{processor:.2f}"
            cells[3:] = [f"{size / options.number:.0f}" for size in sizes]
        print(f"| {step} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
