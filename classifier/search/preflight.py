"""Finds out, before any training, whether the trials can be trained at all."""

import contextlib
import io
import multiprocessing
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path

from classifier.cli.job import Job
from classifier.cli.quiet import quiet
from classifier.cli.run import explained
from classifier.errors import UserError
from classifier.search.process import context, reset_inherited_state

# A machine that only starts a search lacks the devices of those that train.
ELSEWHERE = ("accelerator=cpu", "devices=1", "num_nodes=1", "strategy=auto", "precision=32-true")


def rehearse(base: Path, variants: Mapping[str, str], job: Job, here: bool) -> None:
    """Builds everything that a fit builds, for the base config and for each choice that is a text.

    These are ``variants``, config texts by what is different in them. It also downloads the data,
    which the workers would otherwise all do at once. ``job`` is what all trials have in common, and
    ``here`` says that they are on this machine.

    Raises:
        UserError: What the first fit would have said.
    """
    # Torch takes half a gigabyte, which whoever only watches does not need.
    apart = context if here else multiprocessing.get_context("spawn")
    answer, theirs = apart.Pipe(duplex=False)
    process = apart.Process(target=_rehearse, args=(theirs, base, variants, job, here))
    process.start()
    theirs.close()
    try:
        problem = answer.recv()
    except EOFError:
        process.join()
        raise UserError(
            f"building what '{base.name}' describes ends with exit code {process.exitcode}; "
            "see what 'classifier fit' says of it."
        ) from None
    if problem:
        raise UserError(problem)


def _rehearse(
    channel: Connection, base: Path, variants: Mapping[str, str], job: Job, here: bool
) -> None:
    reset_inherited_state()
    devices = () if here else [f"--trainer.{setting}" for setting in ELSEWHERE]
    problem = ""
    for change, config in {"": str(base), **variants}.items():
        words = ["--config", config, *devices]
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as told, quiet():
            code = explained(lambda: _build(words, job))  # noqa: B023
        if code:
            # The text of a variant has no file, so that its lines say nothing.
            message = re.sub(r"^error: (--config:\d+: )?", "", told.getvalue().strip())
            problem = f"with {change}: {message}" if change else message
            break
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        channel.send(problem)


def _build(words: Sequence[str], job: Job) -> int:
    from classifier.cli.classifier_cli import ClassifierCLI
    from classifier.cli.monitors import check_monitor
    from classifier.metrics import better

    cli = ClassifierCLI(args=words, run=False, job=job)
    monitor = str(job.monitor)
    check_monitor(cli.model, "monitor", monitor)
    mode = cli.model.mode_of(monitor)
    if mode and not job.direction.startswith(mode):
        raise UserError(f"direction: {job.direction}, but {better(monitor, mode)}; leave it out.")
    cli.datamodule.prepare_data()
    return 0
