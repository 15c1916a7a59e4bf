"""Runs a command; what goes wrong becomes a message of few lines and an exit code."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import classifier
from classifier import terminal
from classifier.checkpoint.modules import prelude
from classifier.cli.quiet import quiet
from classifier.errors import UserError
from classifier.internals.python import isolate_children

if TYPE_CHECKING:
    from classifier.cli.job import Job

COMMAND = (sys.executable, str(Path(classifier.__file__).with_name("__main__.py")))
"""Starts a command in a process of its own, which ``-m`` would let search the working folder."""


class CommandParser(argparse.ArgumentParser):
    """The parser of a command that is not Lightning's: says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help.")


def run(given: Sequence[str], job: "Job | None" = None, **settings: Any) -> int:
    """Runs one of Lightning's verbs.

    Args:
        given: The words of the command line, the verb first.
        job: What another command decides of a training that it starts.
        **settings: As ClassifierCLI's.

    Returns:
        0; 1 for a run that failed; 2 for what the user can mend; 130 or 143 after a signal.
    """
    from classifier.cli.given import Given, known_sections
    from classifier.cli.words import with_pipes_read

    def command() -> int:
        verb, *words = with_pipes_read(given)
        line = Given(verb, words, known_sections(verb))
        line.check()  # before torch, which takes seconds
        if not settings:  # which may bring a model of their own
            line.refuse_no_network()
        with quiet():
            from classifier.cli.classifier_cli import ClassifierCLI

            own: dict[str, Any] = {"job": job, "parser_kwargs": {"prog": "classifier"}, **settings}
            if line.averages:
                from classifier.cli.ensemble import run_ensemble

                _, rest = line.take_checkpoints(words)
                return run_ensemble(verb, rest, line.members, **own)
            return ClassifierCLI(args=[verb, *words], **own).exit_code

    return explained(command)


def explained(command: Callable[[], Any]) -> int:
    """Runs a command and returns its exit code; prints what went wrong in a few lines."""
    try:
        with isolate_children(prelude):
            return int(command())
    except SystemExit as stop:
        if type(stop).__name__ == "SIGTERMException":  # by name: not every command has Lightning
            return 128 + signal.SIGTERM
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns it into exit(1)
            return 128 + signal.SIGINT
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if os.environ.get("CLASSIFIER_DEBUG"):
            raise
        code = _told(error)
        _release(error)
        return code


def _release(error: BaseException | None) -> None:
    """Lets go of what the functions that failed still hold, the workers of a loader among it.

    Left to the garbage collector, a loader starts threads while its pipes are being closed: they
    print a traceback, or close a file that is not theirs.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _told(error: Exception) -> int:
    from classifier.cli.messages import is_explained, is_users, message_of

    terminal.error(message_of(error))
    if is_users(error):
        return error.exit_code if isinstance(error, UserError) else 2
    if not is_explained(error):
        terminal.say("CLASSIFIER_DEBUG=1 shows where it was raised.")
    return 1
