"""Images and labels that a table lists."""

from functools import cached_property
from pathlib import Path
from typing import Any

from classifier.data.image_files import FileDataModule
from classifier.sources.table import Table as TableSource


class Table(FileDataModule):
    """Images that a CSV, TSV or Parquet file lists, one in each row.

    Columns with usual names, such as "file" and "label", need not be named. Labels are texts: "3"
    and "03" are two classes. Without a column for the split, validation and test images are a share
    of each class.

    Args:
        path: The file. A Parquet file may hold the images, too.
        root: Folder that the images' paths are relative to; the folder of the table if not given.
            Paths may lack their suffix.
        columns: Which column is what, by its name or by its position from 0: {image: id, label:
            kind, split: part, group: patient}. Images of one group are never in two of training,
            validation and test. Several columns of 0 and 1 for label are a class each.
        header: Whether the first row names the columns. Seen if not given.
        delimiter: What stands between the cells of a row: one character, or "blanks". Seen if not
            given.
        encoding: Such as "cp1252". UTF-8, or UTF-16 with its mark, if not given.
        *args: Arguments of FileDataModule.
        **kwargs: Arguments of FileDataModule and ImageDataModule.
    """

    def __init__(
        self,
        path: str,
        *args: Any,
        root: str | None = None,
        columns: dict[str, str | int | list[str | int]] | None = None,
        header: bool | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.path = Path(path).expanduser()
        self.root = Path(root).expanduser() if root else self.path.parent
        self.columns = columns or {}
        self.reading = {"header": header, "delimiter": delimiter, "encoding": encoding}

    @property
    def title(self) -> str:
        return f"{type(self).__name__} {self.path}"

    @cached_property
    def image_source(self) -> TableSource:
        return TableSource(self.path, self.root, self.columns, self.choice, **self.reading)
