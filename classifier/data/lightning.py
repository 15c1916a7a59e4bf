"""Any LightningDataModule, with what the config has to say of it.

Shapes: N images, C channels, H rows, W columns, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from classifier.data.base import Description, ImageDataModule, compare_class_names
from classifier.data.sets import Batch
from classifier.errors import UserError

# Lightning's hooks that are those of the wrapped data module, also where it overrides none.
HOOKS = (
    *("prepare_data", "teardown", "on_exception", "state_dict", "load_state_dict"),
    *("train_dataloader", "val_dataloader", "test_dataloader", "transfer_batch_to_device"),
)
ATTRIBUTES = ("prepare_data_per_node", "allow_zero_length_dataloader_with_multiple_devices")
KEYS = ("image", "label")  # of batches that are mappings
LEEWAY = 0.25  # share of the range by which interpolation and noise may leave it


class LightningData(ImageDataModule):
    """Any LightningDataModule; one that ``data`` names by its class path alone is taken for this.

    Its batches are ``(images, labels)`` or ``{"image": images, "label": labels}``: images
    (N, C, H, W), uint8 or of the values that ``range`` says; labels, whole numbers (N,) or shares
    of the classes (N, K). All its hooks are called, but ``predict_dataloader``.

    Args:
        data: The data module.
        class_names: The names of the classes, in the order of the labels. If not given, those in
            its attribute ``class_names`` or ``classes``, or else numbers up to its ``num_classes``.
        in_channels: Channels of the images. Its attribute ``in_channels``, or else 3, if not given.
        mean: Mean of each channel in 0..1, for normalisation. ImageNet's if not given.
        std: Standard deviation of each channel in 0..1. ImageNet's if not given.
        range: The values of the pixels from black to white, such as [0, 1] after torchvision's
            ToTensor; or "normalised", by ``mean`` and ``std``. Needed for floating point; uint8 are
            in 0..255 if it is not given.
    """

    unknown = ("order on resume", "image counts", "fingerprint", "file reader")

    def __init__(
        self,
        data: pl.LightningDataModule,
        class_names: list[str] | None = None,
        in_channels: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        range: Literal["normalised"] | tuple[float, float] | None = None,
    ) -> None:
        self.data: pl.LightningDataModule
        self.data = data = data.data if isinstance(data, LightningData) else data
        if isinstance(data, ImageDataModule):
            raise UserError(
                f"{type(data).__name__} needs no LightningData: name it as data itself."
            )
        super().__init__(mean=mean, std=std)
        for hook in HOOKS:
            setattr(self, hook, getattr(data, hook))
        for name in ATTRIBUTES:
            setattr(self, name, getattr(data, name))
        for name in ("batch_size", "num_workers"):  # as most data modules call them
            number = getattr(data, name, data.hparams.get(name))
            setattr(self, name, number if isinstance(number, int) else 0)
        self.given_names = class_names
        self.given_channels = in_channels
        self.range = self._checked_range(range)
        self._seen: set[object] = set()  # the stages of which a batch was looked at

    def _checked_range(self, given: Any) -> Any:
        if given == "normalised" and len(self._given) < 2:
            raise UserError(
                "data.range: to take back a normalisation, data.mean and data.std must say by what "
                "the images are normalised."
            )
        if isinstance(given, Sequence) and given != "normalised" and not given[0] < given[1]:
            raise UserError(f"data.range goes from black to white, such as [0, 1], not {given}.")
        return given

    @property
    def trainer(self) -> Any:
        return self.data.trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        self.data.trainer = trainer

    @property
    def kind(self) -> str:
        return type(self.data).__name__

    def _has_own_loader(self, part: str) -> bool:
        return True

    # ---- what is known of it ----

    def own_description(self) -> Description:
        """Describes the data by the config, and by the attributes that the data module has so far.

        Raises:
            UserError: If neither says how many classes there are, or if they contradict each other.
        """
        given, own = self.given_names, self._own_names()
        names = given or own
        if not names or len({*names}) < len(names):
            raise UserError(
                f"data: {self.kind} does not say its classes before setup, in class_names, classes "
                f"or num_classes; {self._remedy('class_names: [cat, dog]')}"
                if not names
                else f"data.class_names: each class needs a name of its own; given {names}."
            )
        if own and (len(names) != len(own) or (names != own and {*names} == {*own})):
            raise UserError(
                f"data.class_names has the {len(names)} classes {_listed(names)}, but {self.kind} "
                f"the {len(own)} classes {_listed(own)}, in this order: leave class_names out."
            )
        channels = self.given_channels or getattr(self.data, "in_channels", None)
        known = Description(class_names=names)
        if isinstance(channels, int):
            known["in_channels"] = channels
        return known

    def _own_names(self) -> list[str] | None:
        """The names of the classes, or their numbers, as far as the data module says them."""
        for name in ("class_names", "classes", "num_classes"):
            try:
                found = getattr(self.data, name, None)
            except Exception:  # a property that can be asked after setup only
                continue
            if isinstance(found, int) and found > 0:
                return [str(number) for number in range(found)]
            if isinstance(found, Sequence) and not isinstance(found, str) and found:
                return [str(part) for part in found]
        return None

    def _remedy(self, setting: str) -> str:
        """What to write to say something of the data."""
        kind = type(self.data)
        return (
            f"write data: {{class_path: LightningData, init_args: {{data: {{class_path: "
            f"{kind.__module__}.{kind.__qualname__}}}, {setting}}}}}."
        )

    def class_counts(self) -> Tensor | None:
        counts = getattr(self.data, "class_counts", None)
        return torch.as_tensor(counts()) if callable(counts) else None

    def summary(self) -> dict[str, str]:
        rows = super().summary()
        return {**rows, "data": f"{self.title}, an unknown number of images"}

    def _augmentation(self) -> str:
        return f"in training as {self.kind} gives them"

    def notes(self, stage: str) -> list[str]:
        if stage != "fit":
            return []
        own = "" if self._given else " Images are normalised by ImageNet's mean and std."
        return [
            f"{self.kind} does not say its images, their counts and their order: a training that "
            "is stopped and resumed may see other images than one that is not, changed data is not "
            "noticed, class_weights: balanced wants its class_counts, tune loads the data for each "
            f"plan, and predict takes other data to read files by.{own}"
        ]

    def reader(self) -> Any:
        raise UserError(
            f"{self.kind} does not say how an image file is read, and its predict_dataloader is "
            "not used: --data ImageFolder --data.root FOLDER --data.image_size N reads "
            "files as ImageFolder does."
        )

    # ---- its hooks that do more ----

    def setup(self, stage: str) -> None:
        self.data.setup(stage)
        found = self.own_description()  # of which more may be known now
        if self._restored is not None:
            compare_class_names(self._restored["class_names"], found["class_names"])

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch = self.data.on_before_batch_transfer(batch, dataloader_idx)
        _, labels = self._pair(batch) or (None, None)
        if isinstance(labels, Tensor) and labels.ndim == 1 and len(labels):
            # Here, for of labels on a GPU the host would have to wait.
            worst = labels.min() if labels.min() < 0 else labels.max()
            if not 0 <= worst < self.num_classes:
                raise UserError(
                    f"{self.kind} has the label {worst.item():g}, expected 0 to "
                    f"{self.num_classes - 1} for its {self.num_classes} class names."
                )
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        batch = self.data.on_after_batch_transfer(batch, dataloader_idx)
        if (pair := self._pair(batch)) is None:
            raise UserError(
                f"{self.kind} has batches that are {_shown(batch)}, expected (images, labels) or "
                '{"image": images, "label": labels}; its collate_fn decides.'
            )
        images, labels = pair
        self._check_kinds(images, labels)
        if (stage := self.trainer.state.stage) not in self._seen:
            self._seen.add(stage)
            self._check_values(images)
            self.batch_size = self.batch_size or len(images)
        return self._as_pixels(images), labels if labels.ndim == 2 else labels.long()

    def _pair(self, batch: Any) -> tuple[Any, Any] | None:
        """Images and labels of a batch; None if it is of another kind."""
        if isinstance(batch, Mapping) and {*KEYS} <= {*batch}:
            return batch[KEYS[0]], batch[KEYS[1]]
        is_pair = isinstance(batch, list | tuple) and len(batch) == 2
        return (batch[0], batch[1]) if is_pair else None

    def _check_kinds(self, images: Any, labels: Any) -> None:
        """Checks what no device has to be waited for: types and shapes."""
        if not isinstance(images, Tensor) or images.ndim != 4:
            raise UserError(
                f"The images of {self.kind} are {_shown(images)}, expected (N, C, H, W)."
            )
        if images.shape[1] != self.in_channels:
            raise UserError(
                f"The images of {self.kind} have {images.shape[1]} channels, expected "
                f"{self.in_channels}; {self._remedy(f'in_channels: {images.shape[1]}')}"
            )
        number, classes = len(images), self.num_classes
        is_tensor = isinstance(labels, Tensor)
        expected = (number, classes) if is_tensor and labels.is_floating_point() else (number,)
        if not is_tensor or labels.shape != expected:
            raise UserError(
                f"The labels of {self.kind} are {_shown(labels)}, expected whole numbers "
                f"({number},), one for each image."
            )
        if self.range is None and images.dtype != torch.uint8:
            raise UserError(
                f"The images of {self.kind} are {_shown(images)} {_span(images)}: say which values "
                "are black and white, or that they are normalised by data.mean and data.std; "
                f"{self._remedy('range: [0, 1]')}"
            )

    def _check_values(self, images: Tensor) -> None:
        """Checks the values of the first batch of a stage."""
        if self.range in (None, "normalised"):
            return
        black, white = self.range
        leeway = LEEWAY * (white - black)
        if images.min() < black - leeway or images.max() > white + leeway:
            raise UserError(
                f"The images of {self.kind} go {_span(images)}, outside of the data.range "
                f"[{black:g}, {white:g}]."
            )

    def _as_pixels(self, images: Tensor) -> Tensor:
        """The images in 0..255."""
        if self.range is None:
            return images
        images = images.float()
        if self.range == "normalised":
            mean, std = (images.new_tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
            return (images * std + mean) * 255
        black, white = self.range
        pixels: Tensor = (images - black) * (255 / (white - black))
        return pixels


def _shown(value: Any) -> str:
    """What something is, for an error."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(repr, value))}"
    number = f" of {len(value)}" if isinstance(value, list | tuple) else ""
    return f"a {type(value).__name__}{number}"


def _span(images: Tensor) -> str:
    return f"from {images.min().item():.3g} to {images.max().item():.3g}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
