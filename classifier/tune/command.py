"""The command: reads its options, shows the table, writes the config of what won."""

import argparse
import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from classifier import __version__, terminal
from classifier.atomic import written_new
from classifier.cli.quiet import quiet
from classifier.cli.run import CommandParser, explained
from classifier.errors import UserError

if TYPE_CHECKING:
    from classifier.tune.tuning import Row, Tuning

HEADER = f"{'images/s':>10}  {'ratio':>6}  {'loss':>8}  candidate"


def run(given: Sequence[str]) -> int:
    """Runs ``tune``.

    Returns:
        0; 1 if the config cannot be trained; 2 for what the user can mend; 130 after Ctrl-C, when
        what was found so far is written; 143 after SIGTERM, when it is not.
    """
    quiet()
    return explained(lambda: _tune(_parse(given[1:])))


def _parse(given: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="classifier tune",
        usage="classifier tune --config FILE [--seconds NUMBER] [--tolerance NUMBER] "
        "[--output FILE] [--KEY VALUE ...]",
        description="Measures how a config trains fastest on this machine: precision, memory "
        "format, fused optimizer, torch.compile, reading processes and batch size, one after the "
        "other, each by a few seconds of real training in turns with the best so far. What wins by "
        "more than the noise (3 percent, and in seven of nine rounds) is written to a small config "
        "for: fit --config FILE --config NAME.tuned.yaml",
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
    from classifier.cli.sources import run_beside
    from classifier.cli.words import take_option
    from classifier.tune.tuning import Tuning

    configs, _ = take_option(options.given, "--config", "-c")
    config = next((Path(value) for value in configs if Path(value).is_file()), Path("config"))
    name = run_beside(config).get("name", config.stem)
    output = options.output or Path(f"{name}.tuned.yaml")
    if output.exists():
        raise UserError(f"'{output}' exists; name another file with --output, or remove it.")
    if not output.parent.is_dir():
        raise UserError(f"--output '{output}': there is no folder '{output.parent}'.")
    with Table() as table:
        tuning = Tuning(
            options.given, options.seconds, options.tolerance, table.add, table.announce
        )
        table.tuning = tuning
        stopped = not _finished(tuning)
    if not tuning.rate:
        return 130
    fit = terminal.command("fit", *options.given, "--config", output)
    tune = terminal.command("tune", *options.given)
    with written_new(output) as file:
        file.write(_text(tuning, table.lines, tune, fit, stopped).encode())
    found = f"{tuning.ratio:.2f} times as fast" if tuning.plan else "nothing is faster than it is"
    _say(f"{found}{'; stopped before the end' if stopped else ''}; {output}:\n  {fit}")
    return 130 if stopped else 0


def _finished(tuning: "Tuning") -> bool:
    """Measures; False if Ctrl-C came."""
    try:
        tuning.run()
    except KeyboardInterrupt:
        return False
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns it into exit(1)
            raise
        return False
    return True


class Table:
    """Shows rows as they come, and meanwhile, on a terminal, what is being measured."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tuning: Tuning

    def __enter__(self) -> "Table":
        from rich.console import Console

        console = Console()
        self.status = console.status("") if console.is_terminal else None
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.status:
            self.status.stop()

    def add(self, row: "Row") -> None:
        """Shows a row. All rates are at the pace that the machine had for the first one."""
        rate = "" if row.ratio is None else f"{self.tuning.rate * row.ratio:,.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        loss = "" if row.loss is None else f"{row.loss:.4f}"
        verdict = f": {row.verdict}" if row.verdict else ""
        if not self.lines:
            self._show(HEADER)
        self._show(f"{rate:>10}  {ratio:>6}  {loss:>8}  {row.name}{verdict}")

    def announce(self, name: str) -> None:
        """Says what is measured now."""
        if self.status:
            self.status.update(f"measures {name or 'the config as it is'}")

    def _show(self, line: str) -> None:
        self.lines.append(line)
        _say(line)


def _text(tuning: "Tuning", table: Sequence[str], tune: str, fit: str, stopped: bool) -> str:
    """The config of what won, with what it was found by."""
    comments = [
        f"What is fastest here, measured by classifier {__version__}:",
        f"  {tune}",
        f"on {_machine()}.",
        "Use it as another config:",
        f"  {fit}",
        "",
        *table,
    ]
    if stopped:
        comments += ["", "Stopped before the end: the rest was not measured."]
    if tuning.batch:
        size, ratio = tuning.batch
        comments += [
            "",
            f"A larger batch is {ratio:.2f} times as fast, but learns otherwise; the learning rate",
            "wants to grow with it:",
            f"data: {{init_args: {{batch_size: {size}}}}}",
        ]
    lines = [f"# {line}".rstrip() for line in comments]
    settings = yaml.safe_dump(nested(tuning.plan), sort_keys=False)
    return "\n".join([*lines, settings])


def _machine() -> str:
    from classifier import runs

    facts = runs.environment()
    parts = [
        *facts["gpus"],
        f"{facts['processor']} ({facts['cpu_capability']})",
        f"{facts['threads']} threads of {facts['cores']} cores",
        f"torch {facts['packages']['torch']}",
        f"Python {facts['python']}",
    ]
    return ", ".join(parts)


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key as the mappings that they stand for.

    >>> nested({"model.compile": True, "model.channels_last": True})
    {'model': {'compile': True, 'channels_last': True}}
    """
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
