"""TensorBoard's HParams tab: the columns of a search, and the values and the end of a trial."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams import summary_v2 as hp  # of which api would import tensorflow
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from classifier.search.space import Distribution, Space


def write_experiment(folder: Path, space: Space, monitor: str) -> None:
    """Writes an event file that names the columns: what is searched, and the best ``monitor``.

    Without it TensorBoard takes every scalar for a result, and of the searched names only those
    of the trial that it happens to read first. Does nothing if there is one already.
    """
    if any(folder.glob("events.out.tfevents*")):
        return
    domains = {name: _domain(distribution) for name, distribution in space.parameters.items()}
    domains |= {space.repeat: hp.Discrete(space.repeats)} if space.repeats else {}
    columns = [hp.HParam(name, domains[name]) for name in space.names]
    experiment = hp.hparams_config_pb(columns, [hp.Metric(f"best/{monitor}")])
    writer = EventFileWriter(str(folder))
    writer.add_event(Event(summary=experiment))
    writer.close()


def _domain(distribution: Distribution) -> hp.Domain | None:
    """The values of a column; None if they are of several kinds, which TensorBoard has no word for.

    It would hide the trials whose values are not of the column's kind.
    """
    if not isinstance(distribution, CategoricalDistribution):
        return hp.RealInterval(float(distribution.low), float(distribution.high))
    choices = [_plain(choice) for choice in distribution.choices]
    kinds = {type(choice) for choice in choices}
    if kinds == {int, float}:
        choices, kinds = [float(choice) for choice in choices], {float}
    return hp.Discrete(choices) if len(kinds) == 1 else None


def session_start(hyperparameters: Mapping[str, Any], name: str) -> Summary:
    """The row of a trial, with the searched values by name."""
    values = {key: _plain(value) for key, value in hyperparameters.items()}
    return hp.hparams_pb(values, trial_id=name)


def session_end(succeeded: bool) -> Summary:
    """The end of a trial."""
    status = STATUS_SUCCESS if succeeded else STATUS_FAILURE
    end = SessionEndInfo(status=status, end_time_secs=time.time())
    data = metadata.create_summary_metadata(HParamsPluginData(session_end_info=end))
    value = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG, metadata=data, tensor=metadata.NULL_TENSOR
    )
    return Summary(value=[value])


def _plain(value: Any) -> Any:
    """Anything but truth values, numbers and texts as a text: None becomes ``null``."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
