"""The training of a trial: an ordinary fit that reports to its search, and is stopped by it."""

import json
import os
from multiprocessing.connection import Connection

from classifier.search.process import Trial


def run(trial: Trial, channel: Connection | None = None) -> int:
    """Fits a trial; returns the exit code.

    Args:
        trial: What to fit.
        channel: The trial's end of a pipe to the search; None if nobody listens, and on all ranks
            but the first.
    """
    facts = {**json.loads(trial.to_json()), "channel": channel and os.dup(channel.fileno())}
    del facts["arguments"]
    os.environ["CLASSIFIER_TRIAL"] = json.dumps(facts)
    from classifier.cli import run

    try:
        return run(["fit", *trial.arguments])
    finally:
        del os.environ["CLASSIFIER_TRIAL"]
