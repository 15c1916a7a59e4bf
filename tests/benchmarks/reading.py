"""Images a second that are read for training, without a network: ours beside other libraries.

    python tests/benchmarks/reading.py --photos PHOTOS --before CHECKOUT --peers PYTHON

Each way reads whole epochs of the photos, a folder for each class, in a process of its own: random
crops of random size and shape that are resized, and flips. By turns; whole epochs after the first
are timed. "limit" cuts and resizes images that lie in memory, decoded to the same shorter side as a
cache has them: what no cache can exceed.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import DataLoader

PRODUCT = Path(__file__).parents[2]
BATCH = 32
EPOCHS = 3  # of which the first is not timed
WAYS = ("before", "classifier", "memory", "disk", "limit", "timm", "fastai", "torchvision")


def main() -> None:
    """Times each way by turns and prints a Markdown table, or times one in this process."""
    options = parse()
    if options.way:
        print(json.dumps(measure(options.way, options.photos, options.sizes[0])))
        return
    from machine import machine

    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for size in options.sizes:
            for way in options.ways:
                found.setdefault((way, size), []).append(in_process(way, size, options))
                print(way, size, found[way, size][-1], flush=True)
    lines = [f"{machine('torch', 'torchvision', 'timm')}\n", f"    python {shlex.join(sys.argv)}\n"]
    text = "\n".join([*lines, *table(found, options)]) + "\n"
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="A folder for each class.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 224])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS[1:]))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="An earlier checkout of this package.")
    parser.add_argument("--peers", default=sys.executable, help="Python that has fastai.")
    parser.add_argument("--out", type=Path, help="Markdown file to write.")
    parser.add_argument("--way", choices=WAYS, help="Measures this one in this process.")
    return parser.parse_args()


def in_process(way: str, size: int, options: argparse.Namespace) -> dict[str, float]:
    python = options.peers if way == "fastai" else sys.executable
    words = [python, __file__, "--way", way, "--sizes", str(size), "--photos", str(options.photos)]
    place = options.before if way == "before" else PRODUCT
    environment = os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(way: str, photos: Path, size: int) -> dict[str, float]:
    """Images a second of whole epochs after the first, and the peak of memory in MiB."""
    epochs, number = READERS[way](photos, size)
    rates = []
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        read = sum(len(batch[0]) for batch in epochs(epoch))
        rates.append(read / (time.perf_counter() - started))
        assert read > number - BATCH
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rate": median(rates[1:]), "memory": peak}


Epochs = Callable[[int], Iterable[tuple[torch.Tensor, ...]]]


def ours(**settings: str) -> Callable[[Path, int], tuple[Epochs, int]]:
    """This package, with settings of its data."""

    def epochs(photos: Path, size: int) -> tuple[Epochs, int]:
        from classifier.data import ImageFolder

        data = ImageFolder(photos, image_size=size, batch_size=BATCH, num_workers=0, **settings)
        data.setup("fit")

        def epoch(number: int) -> Iterable[tuple[torch.Tensor, ...]]:
            data.set_epoch(number)
            return data.train_dataloader()

        return epoch, len(data.sets["train"])

    return epochs


def limit(photos: Path, size: int) -> tuple[Epochs, int]:
    """Crop, resize and flip of images in memory, in one process, without anything around it."""
    from torchvision.transforms import InterpolationMode, v2

    from classifier.images.read import ImageReader
    from classifier.images.shape import ShortSide

    read = ImageReader(3, torch.nn.Identity(), ShortSide(2 * size, InterpolationMode.BILINEAR))
    images = [read(path) for path in sorted(photos.rglob("*.jpg"))]
    change = torch.nn.Sequential(v2.RandomResizedCrop(size), v2.RandomHorizontalFlip())

    def epoch(number: int) -> Iterator[tuple[torch.Tensor, ...]]:
        order = torch.randperm(len(images)).tolist()
        for begin in range(0, len(order), BATCH):
            yield (torch.stack([change(images[i]) for i in order[begin : begin + BATCH]]),)

    return epoch, len(images)


def of_torchvision(photos: Path, size: int) -> tuple[Epochs, int]:
    """torchvision's folder and transforms, in PyTorch's loader."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    change = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    images = ImageFolder(photos, v2.Compose(change))
    loader = DataLoader(images, BATCH, shuffle=True, drop_last=True)
    return lambda number: loader, len(images)


def of_timm(photos: Path, size: int) -> tuple[Epochs, int]:
    """timm's loader, with its own crop and flip."""
    import timm.data

    images = timm.data.create_dataset("", str(photos))
    loader = timm.data.create_loader(
        images,
        (3, size, size),
        BATCH,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
        interpolation="bilinear",
    )
    return lambda number: loader, len(images)


def of_fastai(photos: Path, size: int) -> tuple[Epochs, int]:
    """fastai's loader, with its own crop and flip."""
    from fastai.vision import all as vision

    loaders = vision.ImageDataLoaders.from_folder(
        photos,
        valid_pct=0.1,
        bs=BATCH,
        num_workers=0,
        item_tfms=[vision.RandomResizedCrop(size), vision.FlipItem()],
        device=torch.device("cpu"),
    )
    return lambda number: loaders.train, len(loaders.train_ds)


READERS: dict[str, Callable[[Path, int], tuple[Epochs, int]]] = {
    "before": ours(),
    "classifier": ours(),
    "memory": ours(cache="memory"),
    "disk": ours(cache="disk"),
    "limit": limit,
    "timm": of_timm,
    "fastai": of_fastai,
    "torchvision": of_torchvision,
}


def table(
    found: dict[tuple[str, int], list[dict[str, float]]], options: argparse.Namespace
) -> Iterator[str]:
    """A line for each way: medians, and the ratio to ours without a cache."""
    yield "| | " + " | ".join(f"{size} pixels | MiB" for size in options.sizes) + " |"
    yield "|---|" + "---|" * 2 * len(options.sizes)
    for way in options.ways:
        cells = []
        for size in options.sizes:
            rate, memory = (
                median(one[name] for one in found[way, size]) for name in ("rate", "memory")
            )
            cells += [f"{rate:,.0f}", f"{memory:,.0f}"]
        yield f"| {way} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
