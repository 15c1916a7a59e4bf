"""``classifier reproduce``: trains a run again from its own record and compares the two."""

import argparse
import contextlib
import math
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from classifier import runs, terminal
from classifier.anchored_yaml.text import load, setting_in
from classifier.checkpoint.find import KEY, check_is_there, folder_name
from classifier.checkpoint.provenance import flatten, weight_affecting_settings
from classifier.checkpoint.signature import Origin
from classifier.checkpoint.trust import origin_of_run
from classifier.cli.job import Job
from classifier.cli.run import COMMAND, CommandParser, explained
from classifier.cli.run import run as fit
from classifier.errors import UserError, did_you_mean
from classifier.platform import THREADS, TYPED, handled_by
from classifier.runs import RunFolder

FACTS = (
    *("seed", "device", "devices", "precision", "parameters"),
    *("init_from", "data", "code", "environment"),
)
# The name of a machine changes no bit, nor do its idle cores, nor where a file lies.
IGNORED_FACTS = ("environment.host", "environment.cores", "init_from.path")
RECORDED = ("seed_everything", "trainer.precision")  # settings that FACTS have, too
AGAIN = "--again"  # the action of the process that trains: folder, last step, words of fit
SECTIONS = ("data", "hyperparameters", "model", "seed_everything", "trainer", "trust")
NOT_COMPARED = ("epoch", "seconds")
UNEXPLAINED = """\
nothing that is recorded differs: the training itself is not deterministic (on a GPU see
trainer.deterministic), or it reads what the record does not know, such as a file of weights"""
FROM_PYTHON = """\
the run was made from Python: what that changed once ClassifierCLI(run=False) had built trainer,
model and data is not in its record"""


@dataclass(frozen=True)
class Trained:
    """What is kept of a training up to one of its steps."""

    record: Mapping[str, Any]
    config: str  # the text
    steps: int  # how many of the optimizer's the weights have seen
    digest: str  # SHA-256 of the weights
    weights: Mapping[str, Any] | None  # the state_dict; None if no checkpoint was kept
    metrics: Mapping[str, Mapping[str, str]]  # by "epoch N", and the "best" of a whole run
    source: Path  # the checkpoint or folder that it is trained again from
    working_folder: str  # where it was started, if that is the user's own word; else empty

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        return [*self.record.get("resumed", ()), self.record]

    @classmethod
    def of_folder(cls, folder: Path) -> "Trained":
        """The last step of a run folder.

        Raises:
            ValueError: If no step was kept, or the run is still being trained.
        """
        record = runs.read_record(folder)
        if record["state"] == "running":
            with runs.locked(folder):  # else it was killed
                pass
        run = RunFolder(folder)
        if run.last.is_file():
            kept = cls.of_checkpoint(run.last)
            if runs.is_config_edited(folder):
                terminal.note(
                    f"'{run.config}' was edited since the run wrote it; trained "
                    "again is what last.ckpt holds."
                )
        elif "weights_sha256" in record:
            text = run.config.read_text(encoding="utf-8")
            steps, digest = record["steps"], record["weights_sha256"]
            there = _started_in(record, origin_of_run(record, text))
            kept = cls(record, text, steps, digest, None, _epochs_of(folder, steps), folder, there)
        else:
            raise UserError(
                f"'{folder}' was {record['state']} before its first checkpoint; there is nothing "
                "to compare with."
            )
        best, metrics = record.get("best", {}), {**kept.metrics}
        # In format 1 it left out validations inside an epoch; a search follows a metric of its own.
        known = best and record["state"] == "finished" and record.get("format", 1) > 1
        if known and best.get("monitor") == setting_in(kept.config, ("model", "monitor")):
            metrics["best"] = {best["monitor"]: str(best["value"])}
        return replace(kept, record=record, metrics=metrics)

    @classmethod
    def of_checkpoint(cls, path: Path) -> "Trained":
        """A checkpoint, wherever it is; in its run folder with the metrics up to its step.

        Raises:
            ValueError: If it carries no config.
        """
        check_is_there(path)
        from classifier.checkpoint.read import read_with_origin, weights_digest  # with torch

        saved, origin = read_with_origin(path)
        own = saved.get(KEY, {})
        if "config" not in own:
            raise UserError(
                f"'{path}' carries no config and no run record, so that nothing says how it was "
                "trained; a checkpoint of 'classifier fit' does."
            )
        record, steps = own["run"], saved["global_step"]
        folder = runs.run_folder_of(path)
        if folder and runs.read_record(folder).get("id") == record["id"]:
            metrics = _epochs_of(folder, steps)
        else:
            metrics = _epoch_of(record)
        weights, there = saved["state_dict"], _started_in(record, origin)
        digest = weights_digest(weights)
        return cls(record, own["config"], steps, digest, weights, metrics, path, there)


def _started_in(record: Mapping[str, Any], origin: Origin) -> str:
    return str(record.get("working_folder", "")) if origin == "own" else ""


def run(given: Sequence[str]) -> int:
    """Runs ``reproduce``.

    Returns:
        0 for identical or within tolerance; 1 for different, or if the training failed; 2 for what
        the user can mend; 130 or 143 after a signal.
    """
    if given[1:2] == [AGAIN]:
        folder, last_step, *words = given[2:]
        return fit(["fit", *words], Job(Path(folder), last_step=int(last_step)))
    return explained(lambda: _reproduce(_parse(given[1:])))


def _parse(given: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="classifier reproduce",
        usage="classifier reproduce RUN [--folder DIR] [--tolerance NUMBER] [--KEY VALUE ...]",
        description="Trains a run again in a process and a folder of its own, from the record in "
        "its folder or checkpoint alone and up to the same step, and compares weights and metrics. "
        "Says 'identical' or 'within tolerance' (exit code 0) or 'different' (1), and what "
        "differs in settings, code, data and environment.",
        epilog="--KEY VALUE changes a setting, as for fit: --data.root DIR where the data was "
        "moved. The training starts in the folder that the run was started in, if it exists; "
        "relative paths count from there.",
        allow_abbrev=False,
    )
    help_text = "A run folder, which means its last checkpoint, or a checkpoint file."
    parser.add_argument("run", type=Path, metavar="RUN", help=help_text)
    help_text = "New folder for the second training. (runs/NAME_reproduced/version_N)"
    parser.add_argument("--folder", type=Path, metavar="DIR", help=help_text)
    help_text = "How far each weight and metric may be off, absolute or relative. (0.0001)"
    parser.add_argument("--tolerance", type=_tolerance, default=1e-4, help=help_text)
    options, settings = parser.parse_known_args(given)
    options.settings = settings
    for word in settings:
        name = word.partition("=")[0].removeprefix("--")
        if word.startswith("--") and name.partition(".")[0] not in SECTIONS:
            known = ("folder", "tolerance", *SECTIONS)
            raise UserError(f"reproduce has no --{name}{did_you_mean(name, known)}")
    return options


def _tolerance(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least 0")


def _reproduce(options: argparse.Namespace) -> int:
    before = _find(options.run)
    if len(before.record.get("settings", ())) > 1:
        raise UserError(
            f"'{options.run}' was trained on from a checkpoint under other settings, so that no "
            "single config leads to its weights; reproduce a checkpoint from before the change."
        )
    if before.steps == 0:
        raise UserError(f"'{options.run}' was not trained for a single step.")
    name = folder_name(before.record["name"])
    folder = _new_folder(options.folder, f"{name}_reproduced")
    terminal.out(f"trains '{options.run}' again up to step {before.steps:,}, in {folder}")
    code = _train(before, folder, options.settings)
    if code:
        runs.remove_if_unused(folder)
        terminal.error(f"the training ended with exit code {code}; there is nothing to compare.")
        return code
    return _compare(before, Trained.of_folder(folder), options.tolerance)


def _find(path: Path) -> Trained:
    if not path.is_dir():
        trained = Trained.of_checkpoint(path)
        if path.suffix != ".ckpt":  # by which fit knows it from a config file
            raise UserError(f"'{path}' is a checkpoint, but its name does not end in .ckpt.")
        return trained
    if not RunFolder(path).begun or not RunFolder(path).config.is_file():
        raise UserError(
            f"'{path}' is not a run folder: run.json or config.yaml is missing. Name the folder of "
            "a run, such as runs/digits/version_0, or a checkpoint file."
        )
    return Trained.of_folder(path)


def _new_folder(wanted: Path | None, name: str) -> Path:
    if wanted is None:
        return runs.claim_folder(Path("runs", name).resolve(), "version")
    try:
        wanted.mkdir(parents=True)
    except FileExistsError as error:
        raise UserError(f"--folder '{wanted}' exists; name a new one.") from error
    return wanted.resolve()


def _epochs_of(folder: Path, steps: int) -> dict[str, dict[str, str]]:
    """The metrics of epochs and of validations inside them, up to a step.

    Those of an epoch have what its last validation measured, as all rows of format 1.
    """
    found: dict[str, dict[str, str]] = {}
    validated: dict[str, str] = {}
    for row in runs.read_metrics(folder):
        values = {name: text for name, text in row.items() if text and name not in NOT_COMPARED}
        name = f"epoch {int(row['epoch']) + 1}"
        if int(row["step"]) > steps:
            break
        if "train_loss" in values:
            found[name] = {**validated, **values}
            validated = {}
        else:
            found[f"{name}, step {row['step']}"] = validated = values
    return found


def _epoch_of(record: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The metrics of the last epoch that had ended, which are all that a checkpoint knows."""
    if "metrics" not in record:
        return {}
    values = {"step": record["steps"], **record["metrics"]}
    return {f"epoch {record['epochs']}": {name: str(value) for name, value in values.items()}}


def _train(before: Trained, folder: Path, settings: Sequence[str]) -> int:
    """Trains up to the same step in a fresh process; returns its exit code.

    It ends in good order on the signals that come meanwhile.
    """
    threads = before.record.get("environment", {}).get("threads")
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # seen from another folder, too
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(part).resolve()) for part in path if part),
        **({THREADS: str(threads)} if isinstance(threads, int) else {}),
    }
    # The config may be a stranger's; fit confines what it imports.
    command = [*COMMAND, "reproduce", AGAIN, str(folder), str(before.steps)]
    command += ["--config", str(before.source.resolve()), *settings]
    # Not by max_steps, from which some schedules take their length.
    command += [f"--trainer.{name}=null" for name in ("max_time", "min_epochs", "min_steps")]
    there = before.working_folder if Path(before.working_folder).is_dir() else None
    process = subprocess.Popen(command, cwd=there or None, env=environment)

    def hand_on(number: int, _: object) -> None:
        if number not in TYPED:  # they reach both
            process.send_signal(number)

    with handled_by(hand_on):
        code = process.wait()
    return 128 - code if code < 0 else code


# ---- the comparison ----


def _compare(before: Trained, now: Trained, tolerance: float) -> int:
    """Prints what is the same and what is not; the verdict comes last."""
    weights, weights_line = _compared_weights(before, now)
    metrics, metrics_line = _compared_metrics(before, now)
    differences = _differences(before, now)
    gap = max(weights, metrics)
    identical = before.digest == now.digest and metrics == 0
    lines = [weights_line, metrics_line]
    if differences:
        lines += ["then and now differ in", *(f"  {difference}" for difference in differences)]
    if not identical and any(start.get("from_python") for start in before.starts):
        lines.append(FROM_PYTHON)
    elif not identical and not differences:
        lines.append(UNEXPLAINED)
    verdict = "identical" if identical else "different"
    if not identical and gap <= tolerance:
        verdict = f"within tolerance: off by at most {gap:.1g}, {tolerance:g} is allowed"
    terminal.out("\n".join([*lines, verdict]))
    return int(verdict == "different")


def _compared_weights(before: Trained, now: Trained) -> tuple[float, str]:
    if before.digest == now.digest:
        return 0, f"weights: identical after step {before.steps:,} (sha256 {before.digest[:12]})"
    if before.weights is None or now.weights is None:
        return math.inf, f"weights: sha256 {before.digest[:12]} then, {now.digest[:12]} now"
    names = sorted(before.weights.keys() | now.weights.keys())
    gaps = {name: _tensor_gap(before.weights.get(name), now.weights.get(name)) for name in names}
    worst = max(names, key=lambda name: gaps[name])
    number = sum(gap > 0 for gap in gaps.values())
    if gaps[worst] < math.inf:
        most = f"by up to {gaps[worst]:.2g} ({worst})"
    else:
        old, new = (_kind(weights.get(worst)) for weights in (before.weights, now.weights))
        most = f"{worst} {old} then, {new} now"
    return gaps[worst], f"weights: {number} of {len(names)} tensors differ, {most}"


def _tensor_gap(then: Any, now: Any) -> float:
    """The largest difference of two values, absolute below 1 and relative above."""
    import torch  # here, so that mistakes are answered before it is there

    if not isinstance(then, torch.Tensor) or not isinstance(now, torch.Tensor):
        return 0.0 if repr(then) == repr(now) else math.inf
    if then.shape != now.shape or then.dtype != now.dtype:
        return math.inf
    old, new = then.double(), now.double()
    gaps = (old - new).abs() / old.abs().clamp(min=1)
    gaps = torch.where((old == new) | (old.isnan() & new.isnan()), 0.0, gaps)
    return float(gaps.nan_to_num(math.inf, math.inf).max()) if gaps.numel() else 0.0


def _kind(value: Any) -> str:
    import torch

    if not isinstance(value, torch.Tensor):
        return "missing" if value is None else repr(value)
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _compared_metrics(before: Trained, now: Trained) -> tuple[float, str]:
    first, largest = "", 0.0
    for epoch, then in before.metrics.items():
        # In a folder that of a module which logs nothing in training has a step in its name.
        at_step = f"{epoch}, step {then.get('step')}"
        again = now.metrics.get(epoch) or now.metrics.get(at_step, {})
        gaps = {name: _metric_gap(value, again.get(name)) for name, value in then.items()}
        largest = max([largest, *gaps.values()])
        if any(gaps.values()) and not first:
            name = max(gaps, key=lambda name: gaps[name])
            values = f"{then[name]} then, {again.get(name, 'missing')} now"
            first = f"metrics: different from {epoch} on: {name} {values}"
    epochs = [name for name in before.metrics if name != "best"]
    if first or not epochs:
        return largest, first or "metrics: none are kept"
    return 0, f"metrics: identical {'up to' if len(epochs) > 1 else 'in'} {epochs[-1]}"


def _metric_gap(then: str, now: str | None) -> float:
    if now is None:
        return math.inf
    import torch

    return _tensor_gap(*(torch.tensor(float(text), dtype=torch.double) for text in (then, now)))


def _differences(before: Trained, now: Trained) -> list[str]:
    """What is recorded and differs: of each start of the run, and of the settings."""
    again = _facts(now.record)
    found = [
        (key, then.get(key), again.get(key))
        for then in map(_facts, before.starts)
        for key in {**then, **again}
    ]
    old, new = (weight_affecting_settings(load(trained.config)) for trained in (before, now))
    found += [(key, old.get(key), new.get(key)) for key in {**old, **new} if key not in RECORDED]
    lines = (f"{key}: {_short(a)} then, {_short(b)} now" for key, a, b in found if a != b)
    return list(dict.fromkeys(lines))


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    facts = flatten({name: record[name] for name in FACTS if name in record}).items()
    return {k.removeprefix("environment."): v for k, v in facts if k not in IGNORED_FACTS}


def _short(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40,64}", value):
        return value[:12]
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
