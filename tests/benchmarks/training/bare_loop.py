"""Bare PyTorch loops: as written by hand without a thought of speed, and as fast as we can.

    python bare_loop.py train --work mnist --root DATA --steps 100 --epochs 2
    python bare_loop.py choose --work mnist --root DATA     # the fastest precision and layout
    python bare_loop.py train --work mnist --root DATA --fused --precision bf16 --channels_last

All images are uint8 in one tensor in memory and are normalised by the batch; Adam with its
defaults; no metrics, no logging, no checkpoints.
"""

import argparse
import copy
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from works import RATE, WORKS, Work, build, load, open_image, report

CHOICE_SECONDS, CHOICE_ROUNDS = 0.5, 3


@dataclass
class Loop:
    """A network with the way in which it is computed.

    Args:
        network: Maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``.
        work: Says mean and std.
        bf16: Whether matrix products and convolutions are computed in bfloat16.
        channels_last: Whether weights and images are in the memory format channels_last.
        fused: Whether Adam updates all weights in one kernel.
    """

    network: nn.Module
    work: Work
    bf16: bool = False
    channels_last: bool = False
    fused: bool = False

    def __post_init__(self) -> None:
        self.layout = torch.channels_last if self.channels_last else torch.contiguous_format
        self.network.to(memory_format=self.layout)
        self.mean = 255 * torch.tensor(self.work.mean).view(-1, 1, 1)
        self.std = 255 * torch.tensor(self.work.std).view(-1, 1, 1)
        fused = True if self.fused else None  # None is Adam's own default
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE, fused=fused)

    def logits(self, images: Tensor) -> Tensor:
        """Maps uint8 images ``(N, C, H, W)`` to logits ``(N, K)``."""
        inputs = (images.to(torch.float32, memory_format=self.layout) - self.mean) / self.std
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.network(inputs)
        return logits.float()

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Trains on a batch."""
        loss = cross_entropy(self.logits(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def epoch(self, images: Tensor, labels: Tensor, steps: int) -> float:
        """Trains ``steps`` batches in random order; returns the seconds."""
        started = time.perf_counter()
        self.network.train()
        for batch in torch.randperm(len(images)).split(self.work.batch_size)[:steps]:
            self.step(images[batch], labels[batch])
        return time.perf_counter() - started

    @torch.inference_mode()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of the images that are classified rightly."""
        self.network.eval()
        size = 4 * self.work.batch_size
        right = [
            (self.logits(part).argmax(1) == truth).sum()
            for part, truth in zip(images.split(size), labels.split(size), strict=True)
        ]
        return sum(map(int, right)) / len(labels)


def main() -> None:
    """Does one of the tasks and reports how long it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("train", "test", "predict", "choose"))
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=0, help="In an epoch; 0 takes all images.")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", action="store_true", help="After each epoch.")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--fused", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    work = WORKS[options.work]
    if options.task == "choose":
        choose(work, options.root)
        return
    bf16 = options.precision == "bf16"
    loop = Loop(build(work), work, bf16, options.channels_last, options.fused)
    if options.task == "train":
        train(loop, options)
    elif options.task == "test":
        test(loop, options.root)
    else:
        predict(loop, options.root)


def train(loop: Loop, options: argparse.Namespace) -> None:
    """Reports the seconds of each epoch and, where asked, the test accuracies."""
    images, labels = load(loop.work, options.root, "train")
    test = load(loop.work, options.root, "test") if options.test else None
    steps = options.steps or len(images) // loop.work.batch_size
    seconds, accuracies, times = [], [], []
    for _ in range(options.epochs):
        seconds.append(loop.epoch(images, labels, steps))
        if test:
            accuracies.append(loop.accuracy(*test))
            times.append(time.time())
    report(seconds, accuracies=accuracies, times=times)


def test(loop: Loop, root: Path) -> None:
    """Reports the seconds of an evaluation of images in memory, after a batch to warm up."""
    images, labels = load(loop.work, root, "test")
    loop.accuracy(images[: loop.work.batch_size], labels[: loop.work.batch_size])
    started = time.perf_counter()
    loop.accuracy(images, labels)
    report([time.perf_counter() - started])


@torch.inference_mode()
def predict(loop: Loop, root: Path) -> None:
    """Reports the seconds to decode and classify the image files of the test split."""
    from torchvision.transforms import v2

    work = loop.work
    resize = [v2.Resize(work.resized, antialias=True), v2.CenterCrop(work.image_size)]
    prepare = v2.Compose([*resize, v2.PILToTensor()])
    paths = sorted((root / "test").glob("*/*"))
    loop.network.eval()
    started = time.perf_counter()
    for start in range(0, len(paths), work.batch_size):
        chunk = paths[start : start + work.batch_size]
        images = torch.stack([prepare(open_image(path)) for path in chunk])
        loop.logits(images).softmax(1).topk(5)
    report([time.perf_counter() - started])


def choose(work: Work, root: Path) -> None:
    """Reports which precision and memory format train fastest, from a few steps each, in turns."""
    images, labels = load(work, root, "train")
    images, labels = images[: work.batch_size], labels[: work.batch_size]
    network = build(work)
    loops = {
        (bf16, layout): Loop(copy.deepcopy(network), work, bf16, layout, fused=True)
        for bf16, layout in itertools.product((False, True), (False, True))
    }
    fastest = dict.fromkeys(loops, float("inf"))
    for _ in range(CHOICE_ROUNDS):
        for key, loop in loops.items():
            until = time.perf_counter() + CHOICE_SECONDS
            while (started := time.perf_counter()) < until:
                loop.step(images, labels)
                fastest[key] = min(fastest[key], time.perf_counter() - started)
    bf16, layout = min(fastest, key=fastest.__getitem__)
    report(list(fastest.values()), precision="bf16" if bf16 else "float32", channels_last=layout)


if __name__ == "__main__":
    main()
