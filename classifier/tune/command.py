"""The command: reads its options, shows the table, writes the config of what won."""

import argparse
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from classifier import __version__, environment, terminal
from classifier.atomic import atomic_create
from classifier.cli.given import Given, known_sections
from classifier.cli.quiet import quiet
from classifier.cli.run import CommandParser, explained
from classifier.cli.sources import is_text, run_beside
from classifier.cli.words import take_option
from classifier.errors import UserError
from classifier.platform import THREADS

if TYPE_CHECKING:
    from classifier.tune.tuning import Tuning


def run(given: Sequence[str]) -> int:
    """Runs ``tune``.

    Returns:
        0; 1 if the config cannot be trained; 2 for a usage or configuration error; 130 after
        Ctrl-C, when what was found so far is written; 143 after SIGTERM, when it is not.
    """
    return explained(lambda: _tune(_parse(given[1:])))


def _parse(given: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="classifier tune",
        usage="classifier tune --config FILE [--seconds NUMBER] [--tolerance NUMBER] "
        "[--output FILE] [--KEY VALUE ...]",
        description="Measures how a config trains fastest on this machine: threads, precision, "
        "memory format, fused optimizer, torch.compile, reading processes, batch size, one after "
        "the other, each by a few seconds of real training in turns with the best so far. What "
        "wins by more than the noise (3 percent, in seven of nine rounds) is written to a small "
        "config for: fit --config FILE --config NAME.tuned.yaml",
        epilog="--KEY VALUE is any option of fit; what it sets is not tried otherwise. A larger "
        "batch changes what is learnt: it is reported, and stands in the file as a comment.",
        allow_abbrev=False,
    )
    help_text = "How long to time each candidate. (3)"
    parser.add_argument("--seconds", type=_positive, default=3.0, metavar="NUMBER", help=help_text)
    help_text = (
        "How far the mean loss of the first steps, at most 50 on the same images, may be off that "
        "in float32, as a share of it. Where it was measured, bfloat16 was off by up to 0.02, "
        "other random numbers of dropout, as torch.compile draws them, by 0.03 and another seed by "
        "0.15; what does not train is off by much more. (0.1)"
    )
    parser.add_argument(
        "--tolerance", type=_positive, default=0.1, metavar="NUMBER", help=help_text
    )
    help_text = "New config of what won. (NAME.tuned.yaml)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=help_text)
    options, rest = parser.parse_known_args(given)
    options.given = rest
    if any(word.partition("=")[0] == "--ckpt_path" for word in rest):
        raise UserError("tune measures a config from its first step on: --config, no --ckpt_path")
    return options


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")


def _tune(options: argparse.Namespace) -> int:
    configs, _ = take_option(options.given, "--config", "-c")
    config = next((Path(value) for value in configs if not is_text(value)), Path("config"))
    name = run_beside(config).get("name", config.stem)
    output = options.output or Path(f"{name}.tuned.yaml")
    if output.exists():
        raise UserError(f"'{output}' exists; name another file with --output, or remove it.")
    if not output.parent.is_dir():
        raise UserError(f"--output '{output}': there is no folder '{output.parent}'.")
    line = Given("fit", options.given, known_sections("fit"))
    line.check()  # before torch, which takes seconds
    line.refuse_no_network()
    with quiet():
        return _measure(options, output)


def _measure(options: argparse.Namespace, output: Path) -> int:
    from rich.console import Console

    from classifier.tune.tuning import Tuning

    with Console().status("") as status:
        tuning = Tuning(options.given, options.seconds, options.tolerance, status)
        for note in tuning.as_is.notes:
            terminal.note(note)
        tuning.measure_baseline()
        stopped = False
        try:
            tuning.run()
        except (KeyboardInterrupt, SystemExit) as end:
            if KeyboardInterrupt not in (type(end), type(end.__context__)):
                raise  # else Lightning turned it into exit(1)
            stopped = True
    fit = terminal.command("fit", *options.given, "--config", output)
    if threads := tuning.best.plan.get(THREADS):  # which no config says
        fit = f"{THREADS}={threads} {fit}"
    with atomic_create(output) as file:
        file.write(_text(tuning, fit, stopped).encode())
    found = f"{tuning.ratio:.2f} times as fast" if tuning.best.plan else "no faster plan found"
    terminal.out(f"{found}{'; stopped before the end' if stopped else ''}; {output}:\n  {fit}")
    return 130 if stopped else 0


def _text(tuning: "Tuning", fit: str, stopped: bool) -> str:
    """The config of what won, with what it was found by."""
    from jsonargparse import Namespace

    facts = environment.describe()
    machine = [
        *environment.describe_device(tuning.as_is.trainer.strategy.root_device)["gpus"],
        f"{facts['processor']} ({facts['cpu_capability']})",
        f"{facts['threads']} threads of {facts['cores']} cores",
        f"torch {facts['packages']['torch']}",
        f"Python {facts['python']}",
    ]
    comments = [
        f"What is fastest here, measured by classifier {__version__}:",
        f"  {terminal.command('tune', *tuning.given)}",
        f"on {', '.join(machine)}.",
        "Use it as another config:",
        f"  {fit}",
        "",
        *tuning.table,
    ]
    if stopped:
        comments += ["", "Stopped before the end: the rest was not measured."]
    if tuning.batch:
        size, ratio = tuning.batch
        comments += [
            "",
            f"A larger batch is {ratio:.2f} times as fast, but trains differently; scale the",
            "learning rate with it:",
            f"data: {{init_args: {{batch_size: {size}}}}}",
        ]
    lines = [f"# {line}".rstrip() for line in comments]
    plan = {key: value for key, value in tuning.best.plan.items() if key != THREADS}
    plan = Namespace(plan).as_dict()  # type: ignore[no-untyped-call]  # nested
    settings = yaml.safe_dump(plan, sort_keys=False)
    return "\n".join([*lines, settings])
