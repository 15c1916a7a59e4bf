"""Images in one folder per class."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from classifier.data.image_files import FileDataModule
from classifier.sources.earlier import EarlierFolder
from classifier.sources.folder import Folder


class ImageFolder(FileDataModule):
    """Images in ``root/<class>/`` or in ``root/{train,val,test}/<class>/``.

    Any format that Pillow reads counts as an image, HEIC where pillow-heif is installed. Links are
    followed; what is hidden, and what systems leave in folders (__MACOSX, Thumbs.db), is left out.
    The folders of train, val and test may be called so in any usual way, such as Training or
    test_set. Missing val and test folders are replaced by a share of each class of the training
    images.

    Args:
        root: Folder of the class folders, or of train, val and test.
        splits: Which folder, by its path below root, is train, val and test, where the names do not
            say it: a mapping such as {train: part1, test: part2}; or "none": all are classes.
        *args: Arguments of FileDataModule.
        **kwargs: Arguments of FileDataModule and ImageDataModule.
    """

    def __init__(
        self,
        root: str,
        *args: Any,
        splits: dict[str, str] | Literal["none"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.root = Path(root).expanduser()
        self.splits = splits

    @cached_property
    def image_source(self) -> Folder:
        kind = Folder if self.format > 1 else EarlierFolder
        return kind(self.root, self.splits, self.choice)
