"""timm's ``train.py`` on one fold of photos, with the weights that the recipe starts from.

    python photos_timm.py FOLDER --script pytorch-image-models/train.py --epochs 24 --size 160

FOLDER has ``train`` and ``test``, as photos.py links them; a tenth of the training photos is
validated. Decay, warm-up, smoothing, dropout, size and epochs are the recipe's; the one rate lies
between those of its backbone and its head; what is augmented is timm's own choice.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import timm
import torch

from classifier.networks import efficientnet_lite0

NAME = "tf_efficientnet_lite0"
WAYS = """
    --opt adamw --lr 0.001 --weight-decay 0.05 --sched cosine --warmup-epochs 1 --smoothing 0.1
    --drop 0.2 --model-ema --model-ema-decay 0.99 --model-ema-warmup --workers 0 --batch-size 32
    --device cpu --no-prefetcher --num-classes 6 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5
"""


def main() -> None:
    """Trains, and prints the accuracy on validation and test photos."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--script", type=Path, required=True, help="timm's train.py.")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--size", type=int, default=160)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        split(options.folder / "train", work)
        weights = efficientnet_lite0(num_classes=1000, pretrained=True).state_dict()
        torch.save(weights, work / "weights.pth")
        words = [str(options.script), str(work), "--model", NAME, *WAYS.split(), "--pretrained"]
        words += ["--pretrained-path", str(work / "weights.pth"), "--output", str(work / "out")]
        words += ["--epochs", str(options.epochs), "--img-size", str(options.size)]
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        best = next(work.rglob("model_best.pth.tar"))
        parts = {"val": work / "validation", "test": options.folder / "test"}
        print(*(f"{name} {accuracy(best, part, options.size):.4f}" for name, part in parts.items()))


def split(photos: Path, work: Path) -> None:
    """Links every tenth photo of each class below ``validation``, the others below ``train``."""
    for folder in sorted(photos.iterdir()):
        for number, path in enumerate(sorted(folder.iterdir())):
            target = work / ("train" if number % 10 else "validation") / folder.name
            target.mkdir(parents=True, exist_ok=True)
            (target / path.name).symlink_to(path.resolve())


def accuracy(checkpoint: Path, photos: Path, size: int) -> float:
    """The share of photos that the moving average of a checkpoint has right."""
    model = timm.create_model(NAME, num_classes=6)
    timm.models.load_checkpoint(model, str(checkpoint), use_ema=True)
    loader = timm.data.create_loader(
        timm.data.create_dataset("", str(photos)),
        input_size=(3, size, size),
        batch_size=64,
        use_prefetcher=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        num_workers=0,
        crop_pct=0.875,
        interpolation="bicubic",
        device=torch.device("cpu"),
    )
    right = number = 0
    with torch.inference_mode():
        for images, labels in loader:
            right += int((model.eval()(images).argmax(1) == labels).sum())
            number += len(labels)
    return right / number


if __name__ == "__main__":
    main()
