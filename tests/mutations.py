"""Configs and command lines, and what can go wrong in them: 1,000 ways and more."""

import contextlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

CONFIG = """\
hyperparameters:
  epochs: &epochs 1
  lr: &lr 0.01
  batch_size: &batch_size 64
  width: &width 4

seed_everything: 1
save_every: {minutes: 5.0}
trainer:
  max_epochs: *epochs
  max_steps: 2
  limit_train_batches: 2
  limit_val_batches: 1
  limit_test_batches: 1
  gradient_clip_val: 1.0
  callbacks:
    - class_path: EarlyStopping
      init_args: {monitor: val_loss, patience: 3}
model:
  network:
    class_path: classifier.networks.MNISTNet
    init_args:
      width: *width
  loss:
    class_path: torch.nn.CrossEntropyLoss
    init_args: {label_smoothing: 0.1}
  optimizer:
    class_path: torch.optim.Adam
    init_args:
      lr: *lr
      betas: [0.9, 0.99]
  lr_scheduler:
    class_path: torch.optim.lr_scheduler.StepLR
    init_args: {step_size: 1}
  monitor: val_accuracy
  interval: epoch
data:
  class_path: classifier.data.Digits
  init_args:
    batch_size: *batch_size
    augment:
      - class_path: classifier.augment.RandomShift
        init_args: {max_shift: 1}
    mix: {class_path: torchvision.transforms.v2.MixUp, init_args: {alpha: 0.2}}
"""
IMAGE_FOLDER = (
    CONFIG[: CONFIG.index("data:")]
    + """\
data:
  class_path: classifier.data.ImageFolder
  init_args:
    root: photos
    image_size: 16
    num_workers: 0
    batch_size: 2
    val_fraction: 0.3
    test_fraction: 0.3
    eval_transform:
      - class_path: torchvision.transforms.v2.Resize
        init_args: {size: 16}
      - class_path: torchvision.transforms.v2.CenterCrop
        init_args: {size: 16}
"""
)
SEARCH = """\
base: tiny.yaml
folder: found
monitor: val_accuracy
direction: maximize
n_trials: 4
max_seconds: 60
workers: 1
heartbeat: 30
engine: local
space:
  lr: {low: 1.0e-3, high: 0.1, log: true}
  width: [2, 4]
  batch_size:
    class_path: optuna.distributions.IntDistribution
    init_args: {low: 16, high: 64}
sampler:
  class_path: optuna.samplers.TPESampler
  init_args: {n_startup_trials: 2}
pruner:
  class_path: optuna.pruners.MedianPruner
"""
FIT = ["fit", "--config", "tiny.yaml", "--trainer.max_time=00:00:00:05"]
SEARCHING = ["search", "--config", "search.yaml", "--dry_run", "1"]
BEST = "runs/tiny/version_0/checkpoints/best.ckpt"
TEST = ["test", "--ckpt_path", BEST]
PREDICT = ["predict", "--ckpt_path", BEST, "--images", "images"]
# Each is fine, and short.
# fmt: off
COMMANDS = [
    FIT,
    [*FIT, "--hyperparameters.lr", "0.02"],
    [*FIT, "--model.optimizer=SGD", "--model.optimizer.lr", "0.1"],
    [*FIT, "--print_config"],
    ["fit", "--ckpt_path", "runs/tiny/version_0", "--hyperparameters.epochs", "4"],
    ["validate", "--ckpt_path", BEST, "--trainer.limit_val_batches", "1"],
    ["test", "--ckpt_path", BEST, "--data.batch_size", "32"],
    ["test", "--ckpt_path", "runs/tiny/version_0", "--config", "tiny.yaml"],
    [*PREDICT, "--output", "new.csv"],
    ["predict", "--ckpt_path", BEST, "--images", "images/0.png", "--output", "other.csv"],
    [*SEARCHING, "--n_trials", "3"],
    [*SEARCHING, "--space.lr", "{low: 0.1, high: 0.2}"],
    ["search", "status", "found"],
    ["search", "best", "found"],
    ["search", "table", "found"],
]

SCALARS = [
    *("null", "~", "", "NaN", ".nan", "inf", ".inf", "-.inf", "-1", "0", "-0.0", "1", "2", "3.5"),
    *("1e999", "1e-999", "1e5", "99999999999999999999999999", "2147483648", "9223372036854775808"),
    *("true", "no", "on", "yes", "'1'", '""', '"0.1"', "0x1F", "0o17", "1_000", "1:30"),
    *("2020-1-1", "auto", "val_loss", "abc", "a b", "käse", "日本", "🙂", r'"\0"', r'"\e[2J"'),
    *(r'"\ud800"', "%", "[]", "{}", "[1, 2]", "[[[]]]", "{a: 1}", "{class_path: 3}"),
    *("{class_path: null}", "[null]", "{class_path: torch.nn.Linear}", "{init_args: {}}", "*lr"),
    *("*epochs", "*nothing", "&lr 3", "!!python/object:os.system x", "!!python/name:os.system"),
    *("!!binary aGk=", "!!set {a, b}", "!!str 1", "!!float x", "!!int 1.5", "!own x"),
    *("!!timestamp x", "!!null x", "!!omap [a: 1]", "|", ">", "|\n x", '"', "'", "[", "{", "]"),
    *("}", ",", ":", "- 1", "?", "@a", "`a", "#", "a: b", "..", ".", "/", "~root", "$HOME"),
    *("${HOME}", "tiny.yaml", "images", "a.b.c.d", "os", "x" * 999, "[" * 90 + "]" * 90),
    *("[" * 2000, "{" * 300, "9" * 5000, "=", "<<", "1e", "--", "-", "0.1.2"),
]
NUMBERS = [
    *("-1", "0", "1", "2", "3", "1.0", "0.5", "-0.5", "1.5", ".nan", ".inf", "-.inf", "1e-300"),
    *("1e300", "1000000", "2147483648", "99999999999999999999999999", "null", "true", "false"),
    *("-2147483649", "[0.1, 0.2]", "[]", "[1]", "[.nan, .inf]", "[-1, 2, 3]", "[[1, 2], [3]]"),
    *("1e5", "1e-5", "'1'"),
]
SETTINGS = {
    "trainer": (
        "accelerator strategy devices precision logger fast_dev_run max_epochs min_epochs "
        "min_steps max_time limit_val_batches overfit_batches val_check_interval "
        "check_val_every_n_epoch num_sanity_val_steps log_every_n_steps enable_checkpointing "
        "enable_progress_bar enable_model_summary accumulate_grad_batches "
        "gradient_clip_algorithm deterministic benchmark inference_mode use_distributed_sampler "
        "profiler detect_anomaly barebones plugins sync_batchnorm "
        "reload_dataloaders_every_n_epochs default_root_dir enable_autolog_hparams "
        "model_registry"
    ),
    "model": "no_decay_norm_bias class_names mean std monitor interval loss lr_scheduler optimizer",
    "data": "eval_batch_size val_fraction split_seed augment mix mean std num_workers in_memory "
    "train_transform in_channels image_size test_fraction batch_size root",
    "hyperparameters": "epochs lr x",
    "network": "num_classes in_channels width dropout depth",
}
WORDS = [
    *("value", "norm", "warn", "min", "simple", "advanced", "cpu", "cuda", "mps", "auto", "ddp"),
    *("fsdp", "ddp_spawn", "deepspeed", "16", "bf16-mixed", "64-true", "16-true", "val_loss"),
    *("val_f1", "step", "TensorBoardLogger", "CSVLogger", "[CSVLogger, CSVLogger]", "00:00:00:00"),
    *("{seconds: 1}", "photos", "[a, b]", "[a, a, a, a, a, a, a, a, a, a]", "[0, 1]"),
    *("torchvision.transforms.v2.CutMix", "RandomFlip"),
]
CLASSES = [
    *("os", "os.system", "os.path", "math.pi", "builtins.int", "builtins.print", "int", "print"),
    *("torch", "torch.nn", "torch.nn.Linear", "torch.nn.Identity", "torch.nn.Sequential", "ReLU"),
    *("torch.optim", "torch.optim.SGD", "torch.optim.Optimizer", "torch.optim.LBFGS", "Adagrad"),
    *("torch.optim.SparseAdam", "torch.optim.lr_scheduler.LambdaLR", "ReduceLROnPlateau", "Adamm"),
    *("torch.nn.MSELoss", "torch.nn.NLLLoss", "torch.nn.BCELoss", "torch.nn.functional.relu"),
    *("torchvision.models", "torchvision.models.resnet", "torchvision.models.get_model", "Module"),
    *("classifier", "classifier.data", "classifier.networks", "classifier.networks.MNISTnet"),
    *("classifier.data.ImageFolder", "classifier.data.ImageDataModule", "classifier.data.base"),
    *("classifier.__main__.main", "classifier.augment.RandomFlip", "classifier.module"),
    *("MNISTNet", "pytorch_lightning.Trainer", "pytorch_lightning.LightningModule"),
    *("pytorch_lightning.Callback", "pytorch_lightning.LightningDataModule", "typing.Any"),
    *("collections.OrderedDict", "NoSuch", "a.b", "a..b", ".a", "a.", ".", "..", "a b.c", "1.2"),
    *("sys.exit", "os._exit", "os.abort", "antigravity", "this", "__main__", "__main__.main"),
    *("tiny", "tiny.yaml", "käse.Käse", "x.\0", "builtins.exit", "builtins.input"),
    *("subprocess.run", "torch.load", "pickle.loads", "time.sleep"),
    *("classifier.networks.torchvision_model", "torch.optim.Adam.step", "torch.Tensor"),
    *("json.loads", "optuna.samplers.RandomSampler", "optuna.samplers.GridSampler"),
    *("optuna.pruners.NopPruner", "unittest.mock.MagicMock", "abc.ABC", "enum.Enum"),
    *("functools.partial", "concurrent.futures"),
]
TEXTS = [
    *("\t", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe", "é", "🙂"),
    *("'", '"', ":", ": ", " :", "#", " #", "&a ", "*a", "!", "!!", "%", "@", "`", "|", ">", "-"),
    *("- ", "?", "? ", ",", "[", "]", "{", "}", "\n", "\r", "\r\n", "\n---\n", "\n...\n", "---"),
    *("<<: *lr\n", "\n<<: *width", "%YAML 9.9\n---\n", "%TAG ! x\n", "\n<<: [{a: 1}, *lr]\n"),
    *("\\", "\v", "\f"),
]
OPTIONS = [
    *("--", "-", "--=", "--x=", "--x", "-x", "---", "--config", "--config=", "--config=tiny.yaml"),
    *("--config=.", "--config=binary.yaml", "--config=-", "--config=/dev/null", "--config={}"),
    *("-c", "--config=nothing.yaml", "--config=empty.yaml", "--config={a: 1}"),
    *("--config=search.yaml", "--config=images/0.png", "--config=[1]", "--config=\n"),
    *("--config=trainer: 3\n", "--config.x=1", "--config=runs/tiny/version_0/config.yaml"),
    *("--config=runs/tiny/version_0/run.json", "--hyperparameters", "--hyperparameters="),
    *("--hyperparameters.", "--hyperparameters.=1", "--hyperparameters.lr"),
    *("--hyperparameters.lr=", "--hyperparameters.lr=[", "--hyperparameters=3"),
    *("--hyperparameters.lr.x=1", "--hyperparameters.lr=*lr", "--hyperparameters.lr=&a 1"),
    *("--hyperparameters.l=1", "--hyperparameters={lr: 1}"),
    *("--hyperparameters.lr=!!python/name:x", "--trainer", "--trainer=3", "--trainer="),
    *("--trainer.max_epochs", "--trainer.max_epochs=", "--trainer.max_epoch=3"),
    *("--trainer.max_epochs=x", "--trainer.callbacks=EarlyStopping"),
    *("--trainer.callbacks+=Nothing", "--trainer.callbacks+=", "--trainer.callbacks+"),
    *("--trainer.x", "--trainer.logger=1", "--trainer.logger=x", "--trainer.logger=CSVLogger"),
    *("--trainer.plugins=x", "--trainer.accelerator=tpu", "--trainer.accelerator=x"),
    *("--trainer.strategy=x", "--trainer.devices=-1", "--trainer.devices=[]"),
    *("--trainer.devices=x", "--trainer.devices=0", "--trainer.precision=64"),
    *("--trainer.profiler=x", "--trainer.profiler=simple", "--model", "--model=3", "--model="),
    *("--model.network", "--model.network=", "--model.network=3", "--model.network.x=1"),
    *("--model.network.width=x", "--model.network.init_args=3", "--model.optimizer="),
    *("--model.optimizer.x=1", "--model.optimizer={", "--model.loss=[]", "--model.lr_scheduler=x"),
    *("--model.monitor=", "--model.class_names=[a]", "--model.mean=1", "--data", "--data="),
    *("--data=3", "--data=x.y", "--data.x=1", "--data.batch_size", "--data.root=."),
    *("--data.batch_size=0", "--data.batch_size=x", "--data=ImageFolder", "--data.augment=x"),
    *("--data.class_path=x", "--data.init_args=3", "--data.help", "--data.help=x"),
    *("--data.help=Digits", "--model.network.help=x", "--model.optimizer.help=Adam"),
    *("--model.help", "--help", "-h", "--print_config", "--print_config=", "--print_config=x"),
    *("--print_config=comments", "--print_config=skip_null", "--ckpt_path", "--ckpt_path="),
    *("--ckpt_path=x.ckpt", "--ckpt_path=.", "--ckpt_path=tiny.yaml", "--ckpt_path=runs"),
    *("--ckpt_path=empty.yaml", "--ckpt_path=images", f"--ckpt_path={BEST}", "--ckpt_path=best"),
    *("--ckpt_path=last", "--ckpt_path=http://x/y", "--ckpt_path=\0", "--ckpt_path=" + "x" * 999),
    *("--config=\0", "--config=" + "x" * 999, "--images", "--images=", "--images=nothing/*.png"),
    *("--images=\0", "--images=tiny.yaml", "--output", "--output=", "--output=predictions.csv"),
    *("--output=images", "--output=no/where.csv", "--output=tiny.yaml", "--output=\0"),
    *("--output=" + "x" * 999, "--output=.", "--output=images/", "--top_k", "--top_k=0", "--trust"),
    *("--trust=", "--trust=x y", "--trust=os", "--trust=torch", "--trust=,", "--trust=..."),
    *("--seed_everything=x", "--seed_everything=-1", "--seed_everything="),
    *("--seed_everything=1e99", "--seed_everything=99999999999999", "--seed_everything=true"),
    *("--save_every.minutes=-1", "--save_every.steps=0", "--save_every=3", "--n_trials=0"),
    *("--n_trials=x", "--n_trials", "--space", "--space=", "--space=x", "--space.=1"),
    *("--space.lr", "--space.lr=", "--space.x=[1]", "--space.lr=[]"),
    *("--space.lr={low: 2, high: 1}", "--space.lr=x", "--space.lr.low=x", "--sampler=x"),
    *("--sampler=grid", "--sampler=", "--sampler.help", "--sampler.seed=x", "--pruner=x"),
    *("--pruner=null", "--pruner=", "--folder=", "--folder=tiny.yaml", "--folder=images"),
    *("--folder=\0", "--base=", "--base=x", "--base=.", "--base=binary.yaml"),
    *("--base=search.yaml", "--storage=x", "--storage=sqlite:///x", "--storage=x://y"),
    *("--engine=x", "--engine=ray", "--workers=0", "--max_seconds=0", "--max_seconds=nan"),
    *("--max_seconds=x", "--direction=up", "--monitor=x", "x", "tiny.yaml", "", " ", "\n", "\0"),
    *("é", "\udcff", "fit", "--fit", "--version", "x" * 9999, "*"),
]
# fmt: on
Text = Callable[[str, random.Random], str]
Command = Callable[[list[str], random.Random], list[str]]


@dataclass
class Case:
    """A command line with the files that it finds, besides those of every case.

    Attributes:
        kind: How it came to be.
        arguments: The command line.
        files: Contents of files by name.
    """

    kind: str
    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


# ---- mutations of a config's text ----


def _lines(change: Callable[[list[str], int, random.Random], None]) -> Text:
    def mutate(text: str, chance: random.Random) -> str:
        lines = text.split("\n")
        change(lines, chance.randrange(len(lines) - 1), chance)
        return "\n".join(lines)

    mutate.__name__ = change.__name__
    return mutate


@_lines
def delete_line(lines, at, chance):
    del lines[at]


@_lines
def delete_lines(lines, at, chance):
    del lines[at : at + chance.randint(2, 8)]


@_lines
def double_line(lines, at, chance):
    lines.insert(chance.choice([at, len(lines), 0]), lines[at])


@_lines
def swap_lines(lines, at, chance):
    other = chance.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


@_lines
def indent_line(lines, at, chance):
    lines[at] = chance.choice([" ", "  ", "    ", "\t", "- "]) + lines[at]


@_lines
def dedent_line(lines, at, chance):
    lines[at] = lines[at].removeprefix(" " * chance.randint(1, 6))


@_lines
def move_block(lines, at, chance):
    block = lines[at : at + chance.randint(1, 4)]
    del lines[at : at + len(block)]
    place = chance.randrange(len(lines) + 1)
    lines[place:place] = block


@_lines
def add_key(lines, at, chance):
    space = re.match(" *", lines[at])[0]
    lines.insert(
        at, f"{space}{chance.choice(['x', 'null', '1', 'käse', 'k' * 2000, 'a.b', '<<', ''])}: 1"
    )


@_lines
def add_setting(lines, at, chance):
    """Sets what the config leaves out, to what may or may not be allowed."""
    section = chance.choice(["trainer", "trainer", "trainer", *SETTINGS])
    name = chance.choice(SETTINGS[section].split())
    value = chance.choice(chance.choice([NUMBERS, NUMBERS, WORDS, SCALARS]))
    start = next(i for i, line in enumerate(lines) if line.strip() == f"{section}:")
    space = "  "
    if section in ("data", "network"):
        start = next(i for i in range(start, len(lines)) if lines[i].strip() == "init_args:")
        space = re.match(" *", lines[start])[0] + "  "
    lines[:] = [line for line in lines if line.partition(":")[0] != space + name]
    lines.insert(start + 1, f"{space}{name}: {value}")


def _values(text: str) -> list[re.Match[str]]:
    return list(re.finditer(r"(?<=: )(?!\{|\[)[^\n,}\]]+", text))


def replace_value(text, chance):
    value = chance.choice(_values(text))
    return text[: value.start()] + chance.choice(SCALARS) + text[value.end() :]


def replace_number(text, chance):
    value = chance.choice(
        [value for value in _values(text) if re.match("(&[a-z_]+ )?[0-9]", value[0])]
    )
    anchor = re.match("(&[a-z_]+ )?", value[0])[0]
    return text[: value.start()] + anchor + chance.choice(NUMBERS) + text[value.end() :]


def replace_class(text, chance):
    value = chance.choice(list(re.finditer(r"(?<=class_path: )[\w.]+", text)))
    return text[: value.start()] + chance.choice(CLASSES) + text[value.end() :]


def replace_section(text, chance):
    """Puts a scalar where a mapping or a list was."""
    section = chance.choice(list(re.finditer(r"(?m)^( *)([\w -]+:)\n(\1 +.*\n)+", text)))
    value = chance.choice(SCALARS)
    return f"{text[: section.start()]}{section[1]}{section[2]} {value}\n{text[section.end() :]}"


def change_key(text, chance):
    key = chance.choice(list(re.finditer(r"\w+(?=:)", text)))
    name = key[0]
    at = chance.randrange(len(name))
    new = chance.choice(
        [name[:at] + name[at + 1 :], name[:at] + "q" + name[at:], name.upper(), name + "s", "",
         f'"{name}"', f"[{name}]", f"? {name}", name.replace("_", "-"), f"{name}.x", "null", "3.5"]
    )  # fmt: skip
    return text[: key.start()] + new + text[key.end() :]


def swap_keys(text, chance):
    first, second = sorted(
        chance.sample(list(re.finditer(r"\w+(?=:)", text)), 2), key=lambda key: key.start()
    )
    middle = text[first.end() : second.start()]
    return text[: first.start()] + second[0] + middle + first[0] + text[second.end() :]


def change_anchor(text, chance):
    mark = chance.choice(list(re.finditer(r"[&*]\w+", text)))
    new = chance.choice(["&lr", "*lr", "*width", "&x", "*x", "", "*", "&", "&epochs", "!!str"])
    return text[: mark.start()] + new + text[mark.end() :]


def insert_text(text, chance):
    at = chance.randrange(len(text))
    return text[:at] + chance.choice(TEXTS) + text[at:]


def delete_text(text, chance):
    at = chance.randrange(len(text))
    return text[:at] + text[at + chance.choice([1, 1, 2, 5, 40]) :]


def truncate(text, chance):
    return text[: chance.randrange(len(text))]


def change_ends(text, chance):
    return text.replace("\n", chance.choice(["\r\n", "\r", "\u2028", "\n\n", " # x\n", " \n"]))


def repeat_text(text, chance):
    return text + chance.choice(["", "---\n", "...\n", "--- x\n", "%YAML 1.1\n---\n"]) + text


def merge_key(text, chance):
    line = chance.choice(
        ["  <<: *lr\n", "  <<: *epochs\n", "  <<: {lr: 1}\n", "  <<: [{a: 1}]\n", "  <<: 3\n",
         "  <<: &a {x: *a}\n", "  x: &a [*a]\n", "  x: {? {a: 1} : 2}\n", "  ? x\n", "  - x\n"]
    )  # fmt: skip
    at = chance.choice([match.end() for match in re.finditer(r"(?m)^\w+:\n", text)])
    return text[:at] + line + text[at:]


def bomb(text, chance):
    levels = "".join(
        f"  b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]\n" if i else "  b0: &b0 [1]\n"
        for i in range(chance.choice([3, 9, 30]))
    )
    return text.replace("hyperparameters:\n", f"hyperparameters:\n{levels}", 1)


def several(text, chance):
    for mutate in chance.sample(TEXT_MUTATIONS[:-1], chance.randint(2, 4)):
        with contextlib.suppress(IndexError, ValueError, StopIteration):  # nothing left to mutate
            text = mutate(text, chance)
    return text


TEXT_MUTATIONS: list[Text] = [
    *(delete_line, delete_lines, double_line, swap_lines, indent_line, dedent_line, move_block),
    *(
        add_key,
        *[replace_value] * 4,
        *[replace_class] * 5,
        *[replace_number] * 5,
        replace_section,
        *[change_key] * 2,
    ),
    *[add_setting] * 6,
    *(swap_keys, change_anchor, insert_text, delete_text, truncate, change_ends, repeat_text),
    *(merge_key, bomb, several),
]


def encoded(text: str, chance: random.Random) -> bytes:
    """The text in UTF-8, mostly."""
    data = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.93:
        return data
    at = chance.randrange(len(data) + 1)
    return chance.choice(
        [b"\xef\xbb\xbf" + data, text.encode("utf-16"), data[:at] + b"\xe9\xff" + data[at:],
         data[:at] + b"\0" + data[at:], data[:at] + b"\xed\xa0\x80" + data[at:]]
    )  # fmt: skip


# ---- mutations of a command line ----


def add_option(arguments, chance):
    at = chance.randint(1, len(arguments))
    return [*arguments[:at], chance.choice(OPTIONS), *arguments[at:]]


def drop_argument(arguments, chance):
    at = chance.randrange(len(arguments))
    return [*arguments[:at], *arguments[at + 1 :]]


def double_argument(arguments, chance):
    at = chance.randrange(len(arguments))
    return [*arguments[:at], *chance.choice([1, 2]) * arguments[at : at + 2], *arguments[at:]]


def shuffle_arguments(arguments, chance):
    return [*arguments[:1], *chance.sample(arguments[1:], len(arguments) - 1)]


def misspell(arguments, chance):
    place = chance.randrange(len(arguments))
    word = arguments[place]
    at = chance.randrange(len(word) + 1)
    new = chance.choice(
        [word[:at] + "q" + word[at:], word[:at], word[at:], word.upper(), f"{word}="]
    )
    return [*arguments[:place], new, *arguments[place + 1 :]]


def replace_argument(arguments, chance):
    place = chance.randrange(1, len(arguments))
    name, equals, _ = arguments[place].partition("=")
    value = chance.choice(SCALARS)
    new = name + equals + value if equals or name.startswith("--") else value
    return [*arguments[:place], new, *arguments[place + 1 :]]


def change_verb(arguments, chance):
    return [
        chance.choice(["fit", "validate", "test", "predict", "search", "", "x"]),
        *arguments[1:],
    ]


COMMAND_MUTATIONS: list[Command] = [
    *[add_option] * 5,
    *(drop_argument, double_argument, shuffle_arguments, misspell, replace_argument, change_verb),
]


# ---- the cases ----


def case_of(number: int) -> Case:
    """The case of a number, always the same."""
    chance = random.Random(number)
    if number % 3 == 2:
        mutate = chance.choice(COMMAND_MUTATIONS)
        arguments = mutate(list(chance.choice(COMMANDS)), chance)
        return Case(mutate.__name__, arguments)
    name, text, command = chance.choice(
        [("tiny.yaml", CONFIG, FIT)] * 5 + [("search.yaml", SEARCH, SEARCHING)]
    )
    if name == "tiny.yaml" and chance.random() < 0.15:
        command = chance.choice(
            [SEARCHING, [*FIT, "--print_config"], [*TEST, "--config", "tiny.yaml"],
             [*PREDICT, "--output", "new.csv", "--config", "tiny.yaml"]]
        )  # fmt: skip
    if name == "tiny.yaml" and chance.random() < 0.2:
        text = IMAGE_FOLDER
    mutate = chance.choice(TEXT_MUTATIONS)
    try:
        mutated = mutate(text, chance)
    except (IndexError, StopIteration):  # it has no such place
        mutated = truncate(text, chance)
    return Case(mutate.__name__, command, {name: encoded(mutated, chance)})
