"""What TensorBoard's HParams tab has to know of a search before it looks at the trials."""

from pathlib import Path

from optuna.distributions import CategoricalDistribution
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.summary_v2 import (
    Discrete,
    HParam,
    Metric,
    RealInterval,
    hparams_config_pb,
)
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from classifier.search.space import SEED, Distribution, Space


def write_experiment(folder: Path, space: Space, monitor: str) -> None:
    """Writes an event file that names the columns: what is searched, and the best ``monitor``.

    Without it TensorBoard takes every scalar for a result, and of the searched names only those
    of the trial that it happens to read first. Does nothing if there is one already.

    Args:
        folder: The search folder, above those of the trials.
        space: What is searched.
        monitor: The metric that the search improves.
    """
    if any(folder.glob("events.out.tfevents*")):
        return
    columns = []
    for name in space.names:
        domain = Discrete(space.seeds) if name == SEED else _domain(space.parameters[name])
        columns.append(HParam(name, domain))
    experiment = hparams_config_pb(columns, [Metric(f"best/{monitor}")])
    writer = EventFileWriter(str(folder))
    writer.add_event(Event(summary=experiment))
    writer.close()


def _domain(distribution: Distribution) -> Discrete | RealInterval | None:
    """The values of a column; None if they are of several kinds, which TensorBoard has no word for.

    It would hide the trials whose values are not of the column's kind.
    """
    if not isinstance(distribution, CategoricalDistribution):
        return RealInterval(float(distribution.low), float(distribution.high))
    choices = ["null" if choice is None else choice for choice in distribution.choices]
    kinds = {type(choice) for choice in choices}
    if kinds == {int, float}:
        choices, kinds = [float(choice) for choice in choices], {float}
    return Discrete(choices) if len(kinds) == 1 else None
