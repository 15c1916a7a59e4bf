"""Console entry point: help, version and typos answer without importing torch."""

import os  # both are imported already, whatever lies in the working folder
import sys

OWN = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120  # not yet pathlib
if __name__ == "__main__" and os.path.realpath(sys.path[0]) in (os.getcwd(), OWN):  # noqa: PTH109
    # With -m the working folder, before the standard library; else the folder of this file.
    del sys.path[0]
    if not any(finder.find_spec("classifier", None) for finder in sys.meta_path):
        sys.path.append(os.path.dirname(OWN))  # noqa: PTH120  # it is not installed
    __spec__ = None  # else Lightning would start the other ranks by -m again

from collections.abc import Sequence  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402

from classifier import __version__, terminal  # noqa: E402
from classifier.errors import did_you_mean  # noqa: E402
from classifier.platform import exit_now, handled_by, let_threads_sleep  # noqa: E402


def _is_there(place: str) -> bool:
    """Whether the room of a command has not been taken out of the package."""
    room = Path(OWN, place.replace(":", ".").partition(".")[0])
    return (room / "__init__.py").exists() or room.with_suffix(".py").exists()


# The function that runs each, given the command line, and what it does.
_COMMANDS = {
    "fit": ("cli.run:run", "train a network, from a config file or on from a checkpoint"),
    "validate": ("cli.run:run", "evaluate a checkpoint on the validation set"),
    "test": ("cli.run:run", "evaluate a checkpoint on the test set"),
    "predict": ("cli.run:run", "write the classes of image files to a CSV file"),
    "tune": ("tune.command:run", "measure how a config trains fastest on this machine"),
    "search": ("search:run", "train a config with many values of its hyperparameters"),
    "reproduce": ("reproduce:run", "train a run again from its record and compare the two"),
}
VERBS = {verb: room for verb, room in _COMMANDS.items() if _is_there(room[0])}
EVALUATING = ("validate", "test", "predict")  # have nothing to save when they are to end
HELP = f"""\
usage: classifier <command> [options]

Train image classifiers from one YAML file.

{chr(10).join(f"  {verb:10}{meaning}" for verb, (_, meaning) in VERBS.items())}

  classifier fit --config configs/digits.yaml
  classifier test --ckpt_path runs/digits/version_0/checkpoints/best.ckpt
  classifier <command> --help        options of a command
  classifier fit … --print_config    the whole config, nothing is run
  classifier --version
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, 1 (failed), 2 (the user can mend it) or 130/143 (signal)."""
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None:  # the process is ours
        terminal.write_out_what_stdout_lacks()
        let_threads_sleep()
    if words and words[0].startswith(("-c", "--config")):
        from classifier.cli.words import verb_first

        words = verb_first(words, VERBS)
    if arguments is None and words and words[0] in EVALUATING:
        with handled_by(exit_now):
            return _run(words)
    return _run(words)


def _run(arguments: Sequence[str]) -> int:
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(HELP, end="")  # noqa: T201
        return 0
    if verb == "--version":
        print(f"classifier {__version__}")  # noqa: T201
        return 0
    if verb not in VERBS:
        told = "the command is missing" if verb.startswith("-") else f"no command '{verb}'"
        word = arguments[-1] if verb.startswith("-") else verb  # configs may stand before it
        hint = did_you_mean(word, VERBS, f"; there are {', '.join(VERBS)}.")
        print(f"error: {told}{hint}", file=sys.stderr)  # noqa: T201
        return 2
    module, _, function = VERBS[verb][0].partition(":")
    try:
        run = getattr(import_module(f"classifier.{module}"), function)
        return int(run(list(arguments)))
    except KeyboardInterrupt:  # while torch is imported
        return 130


if __name__ == "__main__":
    sys.exit(main())
