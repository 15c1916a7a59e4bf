"""fastai's ``fine_tune`` on one fold of photos, with the weights that the recipe starts from.

    python photos_fastai.py FOLDER --epochs 24 --size 160

FOLDER has ``train`` and ``test``, as photos.py links them; a tenth of the training photos is
validated. Everything else is what fastai does by itself.
"""

import argparse
from pathlib import Path

from fastai.vision import all as vision

from classifier.networks import efficientnet_lite0


def main() -> None:
    """Trains, and prints the accuracy on validation and test photos."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--size", type=int, default=160)
    options = parser.parse_args()
    vision.set_seed(0)
    loaders = vision.ImageDataLoaders.from_folder(
        options.folder / "train",
        valid_pct=0.1,
        seed=0,
        bs=32,
        num_workers=0,
        item_tfms=vision.RandomResizedCrop(options.size, min_scale=0.35),
        batch_tfms=[*vision.aug_transforms(), vision.Normalize.from_stats([0.5] * 3, [0.5] * 3)],
    )
    learner = vision.vision_learner(
        loaders, "tf_efficientnet_lite0", pretrained=False, metrics=vision.accuracy
    )
    weights = efficientnet_lite0(num_classes=1000, pretrained=True).state_dict()
    body = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    learner.model[0].model.load_state_dict(body)
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(options.epochs)
        _, validated = learner.validate()
        photos = vision.get_image_files(options.folder / "test")
        _, tested = learner.validate(dl=loaders.test_dl(photos, with_labels=True))
    print(f"val {validated:.4f} test {tested:.4f}")


if __name__ == "__main__":
    main()
