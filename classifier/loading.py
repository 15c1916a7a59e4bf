"""A module that its checkpoints describe: what they hold of it, and how it is built again."""

import copy
import inspect
import warnings
from argparse import ArgumentError
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentParser
from pytorch_lightning.utilities.parsing import collect_init_args
from typing_extensions import Self

from classifier.anchored_yaml.text import load
from classifier.checkpoint.find import FORMAT, KEY, resolve_checkpoint
from classifier.checkpoint.modules import serve_on
from classifier.checkpoint.read import OpenCheckpoint, is_plain, open_checkpoint
from classifier.checkpoint.trust import PACKAGES, Found, Trust, confined, import_class
from classifier.errors import UnfitWeightsError, UserError, did_you_mean, told_by
from classifier.optimization.schedules import builder_without_length
from classifier.tensors import tensors_as_lists
from classifier.weights.origin import switch_off_pretrained

OF_TRAINING = {"optimizer", "lr_scheduler"}  # arguments that inference does without
FROM_CONFIG = "_instantiator"  # the hyperparameter that tells what LightningCLI has built
CLASS = "_class_path"  # that of its class, where the config names one
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class LoadableModule(pl.LightningModule):
    """A LightningModule that its checkpoints describe, and that is built out of them again."""

    def __init__(self) -> None:
        super().__init__()
        self.run_format = FORMAT
        # What a checkpoint says of itself: config text, data and run record.
        self.provenance: dict[str, Any] = {"format": FORMAT}
        self._objects: set[str] = set()  # arguments that a checkpoint cannot hold
        self._missing: set[str] = set()  # of them, after loading
        self._classes: dict[str, str | None] = {}  # of optimizer and lr_scheduler
        self._trained_by: dict[str, str | None] = {}  # the classes of a training that is to go on
        self._entry: dict[str, Any] = {}  # what the checkpoint that it was loaded from says of it
        self._allowed: Trust | None = None  # what may be imported for that

    # ---- what a checkpoint holds ----

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Saves the arguments of the constructor, as Lightning does, but names alone of objects.

        From a config all are plain, class_path mappings above all. Elsewhere some are objects,
        which a checkpoint that loads with ``weights_only=True`` cannot hold.
        """
        frame = frame or getattr(inspect.currentframe(), "f_back", None)
        assert frame  # CPython has frames
        if args:
            # A mapping says all; yet Lightning would look for constructors among all callers.
            while isinstance(args[0], Mapping) and frame.f_back:
                frame = frame.f_back
            super().save_hyperparameters(*args, ignore=ignore, frame=frame, logger=logger)
        else:
            self._objects, others = self._objects_and_others(frame)
            others |= {ignore} if isinstance(ignore, str) else {*(ignore or ())}
            super().save_hyperparameters(ignore=[*others], frame=frame, logger=logger)
            if FROM_CONFIG in self.hparams:  # which has mappings in the place of objects
                super().save_hyperparameters(frame=frame, logger=logger)
        self._objects -= self.hparams.keys()

    def _objects_and_others(self, frame: FrameType) -> tuple[set[str], set[str]]:
        """Names the arguments that are objects, and all those that need not be held."""
        collected = collect_init_args(frame, [], classes=(pl.LightningModule,))
        *_, given = {}, *collected  # to the class itself, be it one derived from this
        plain = {name for name, value in given.items() if is_plain(value)}
        defaults = {name: parameter.default for name, parameter in self._arguments().items()}
        objects = {name for name in given.keys() - plain if given[name] is not defaults.get(name)}
        return objects, {name for arguments in collected for name in arguments} - plain

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        notes = {"objects": sorted(self._objects), "classes": self._classes}
        checkpoint[KEY] = self.provenance | {k: v for k, v in notes.items() if v}
        if settings := dict(checkpoint.get("hyper_parameters", {})):
            # The weights are here: where they came from is needed no more.
            settings |= {"init_from": None} if "init_from" in settings else {}
            if isinstance(settings.get("network"), dict):
                settings["network"] = copy.deepcopy(settings["network"])
                switch_off_pretrained(settings["network"])
            checkpoint["hyper_parameters"] = settings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if entry := checkpoint.get(KEY, {}):
            self.run_format = entry.get("format", 1)
        self._trained_by = dict(entry.get("classes", {}))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loads weights, as every module does; raises UnfitWeightsError if they do not fit."""
        try:
            return super().load_state_dict(*args, **kwargs)
        except RuntimeError as error:
            told = shorten(str(error).splitlines()[1], 160, placeholder=" …")
            raise UnfitWeightsError(f"the checkpoint does not fit the network: {told}") from error

    # ---- building it again ----

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # no streams, no addresses
        cls, checkpoint_path: str | Path, trust: Sequence[str] = (), **settings: Any
    ) -> Self:
        """Builds the module that a checkpoint describes, with its weights.

        Args:
            checkpoint_path: The file, or its run folder, which means its best checkpoint.
            trust: Packages or modules whose classes the checkpoint may use besides
                ``classifier.checkpoint.trust.PACKAGES``. One's own checkpoint needs none.
            **settings: Arguments of Lightning's method and, instead of those in the checkpoint,
                of the constructor. A module that was made in Python wants those again that were
                objects: the network and its loss; for training also optimizer and lr_scheduler.

        Raises:
            ValueError: If the checkpoint is damaged or names a class that is not trusted, or if an
                argument is unknown or is not given again.
            RuntimeError: If the weights do not fit the network.
        """
        path = resolve_checkpoint(str(checkpoint_path), "best")
        with open_checkpoint(path) as read:
            record = read.content.get(KEY, {}).get("run", {})
            found = Found(f"checkpoint '{path}'", read.origin, record)
            own = f"{cls.__module__}.{cls.__qualname__}"
            allowed = Trust(PACKAGES, words=[own], trusted=trust, found=found)
            try:
                with confined(allowed), tensors_as_lists(), warnings.catch_warnings():
                    # Lightning builds by what jsonargparse 5 will remove; both are pinned.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    module = cls._class_in(read, own)._load(read, path, allowed, settings)
            except ArgumentError as error:  # jsonargparse's
                raise UserError(f"'{path}': {told_by(error)}") from error
            except UnfitWeightsError as error:
                raise UnfitWeightsError(f"'{path}': {error}") from error
        serve_on(allowed.modules)
        return module

    @classmethod
    def _class_in(cls, read: OpenCheckpoint, own: str) -> type[Self]:
        """The class that a checkpoint names: this one, or one derived from it."""
        name = str(read.content.get("hyper_parameters", {}).get(CLASS, own))
        kind = cls if name == own else import_class(name)
        if not (isinstance(kind, type) and issubclass(kind, cls)):
            raise UserError(f"the checkpoint is of a {name}, which is not a {cls.__name__}.")
        return kind

    @classmethod
    def _load(
        cls, read: OpenCheckpoint, path: Path, allowed: Trust, settings: dict[str, Any]
    ) -> Self:
        own = cls._arguments()
        _check_names(settings, own)
        saved = read.content.get("hyper_parameters", {})
        taken = {name: value for name, value in saved.items() if name not in settings}
        objects = read.content.get(KEY, {}).get("objects", ())
        missing = {name for name in objects if name not in settings}
        needed = {name for name, parameter in own.items() if parameter.default is parameter.empty}
        lost = set() if "hparams_file" in settings else needed - taken.keys() - settings.keys()
        lost |= missing - OF_TRAINING
        _refuse_missing(f"'{path}'", [name for name in own if name in lost])
        allowed.check_config(taken)
        if schedule := builder_without_length(taken.get("lr_scheduler")):
            settings = {**settings, "lr_scheduler": schedule}
        read.file.seek(0)
        file: Any = read.file  # Lightning takes a file too, and undeclared any that is binary
        module = super().load_from_checkpoint(file, **{**settings, "weights_only": True})
        if FROM_CONFIG in saved:  # so that a checkpoint of the module can be loaded likewise
            plain = {k: v for k, v in settings.items() if k in own and is_plain(v)}
            module.save_hyperparameters({**taken, **plain})
        module._missing, module._trained_by = missing, {}
        module._objects |= missing
        module._entry, module._allowed = read.content.get(KEY, {}), allowed
        return module

    def data_of_training(self) -> Any:
        """Builds the data module of the training that this module was loaded from.

        It knows what the checkpoint says of the data, and reads images as that did; the data set
        itself need not be here.

        Raises:
            UserError: The module was not loaded from the checkpoint of a config.
        """
        config = load(self._entry.get("config", "")) or {}
        if "data" not in config or self._allowed is None:
            raise UserError(
                "how images are prepared for this module is not known: load it by "
                "load_from_checkpoint from a run that a config has trained, or prepare images "
                "yourself and call it with pixels (N, C, H, W) in 0..255."
            )
        self._allowed.check_config({"data": config["data"]})
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--data", type=pl.LightningDataModule)
        with confined(self._allowed):
            settings = parser.parse_object({"data": config["data"]})
            data = parser.instantiate(settings).data
        data.format = self._entry.get("format", 1)
        data.restore(self._entry["data"])
        return data

    @classmethod
    def _arguments(cls) -> dict[str, inspect.Parameter]:
        """The parameters of the constructor, through ``**kwargs`` also those of its base.

        The latter count as optional, for the class may give them to its base by itself.
        """
        found: dict[str, inspect.Parameter] = {}
        kinds = [kind for kind in cls.__mro__ if "__init__" in vars(kind)]
        for kind in kinds:
            _, *parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
            for parameter in (p for p in parameters if p.kind not in VARIABLE):
                optional = parameter.replace(default=None)
                found.setdefault(parameter.name, parameter if kind is kinds[0] else optional)
            if all(p.kind != p.VAR_KEYWORD for p in parameters):
                break
        return found

    def require_objects(self) -> None:
        """Raises UserError if the module was loaded without what a training needs."""
        _refuse_missing("the checkpoint", sorted(self._missing))


def _check_names(settings: Mapping[str, Any], own: Collection[str]) -> None:
    """Raises UserError for an argument of ``load_from_checkpoint`` that it does not take."""
    known = [*inspect.signature(pl.LightningModule.load_from_checkpoint).parameters, *own, "trust"]
    if unknown := [name for name in settings if name not in known]:
        hint = did_you_mean(unknown[0], known, f"; there are {', '.join(known)}.")
        raise UserError(f"load_from_checkpoint takes no {unknown[0]}{hint}")
    if not settings.get("weights_only", True):
        raise UserError("weights_only: a checkpoint is never read in a way that runs code.")


def _refuse_missing(name: str, arguments: Sequence[str]) -> None:
    """Raises UserError for arguments that a checkpoint does not hold and that are not given."""
    if arguments:
        again = ", ".join(f"{argument}=..." for argument in arguments)
        raise UserError(
            f"{name} does not hold {' and '.join(arguments)}, for a file cannot hold objects; "
            f"give what the module was made with: load_from_checkpoint(path, {again})."
        )
