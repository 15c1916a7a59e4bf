"""Lays out the images of the works in ``{train,val,test}/<class>/``: as many as are needed."""

import tarfile
from itertools import islice
from pathlib import Path

from training.works import WORKS, Work

VAL_IMAGES = 2  # of each class, for the scripts that validate whether one wants it or not


def sizes(work: Work) -> dict[str, int]:
    """Images of each class in the splits."""
    train = work.steps * work.batch_size // work.num_classes
    return {"val": VAL_IMAGES, "train": train, "test": work.test_images // work.num_classes}


def unpack_cifar(archive: Path, root: Path) -> None:
    """Unpacks JPEG files from an archive of ``cifar10-jpg/{train,test}/<class>/<number>.jpg``."""
    number = sizes(WORKS["cifar"])
    with tarfile.open(archive) as files:
        for member in filter(tarfile.TarInfo.isfile, files):
            source, name, file = Path(member.name).parts[1:]
            index = int(Path(file).stem)
            split = "val" if source == "train" and index < number["val"] else source
            before = number["val"] if split == "train" else 0
            content = files.extractfile(member) if index < before + number[split] else None
            if content is not None:
                target = root / split / name / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())


def link_photos(photos: Path, root: Path) -> None:
    """Links photos from one folder per class."""
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        paths = iter(sorted(folder.iterdir()))
        for split, number in sizes(WORKS["photos"]).items():
            for path in islice(paths, number):
                target = root / split / folder.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
