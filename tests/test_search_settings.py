"""The settings of a search: defaults, precedence, the copy in the folder, samplers, mistakes."""

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from conftest import TINY
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning

from classifier.errors import UserError
from classifier.module import ClassificationModule
from classifier.search.resume import differences
from classifier.search.samplers import make_pruner, make_sampler
from classifier.search.settings import (
    DEFAULT_MONITOR,
    DIRECTIONS,
    MODES,
    Settings,
    load,
    parse,
    save,
)

SEARCH = """\
base: tiny.yaml
n_trials: 12
space: {lr: {low: 1e-4, high: 0.1, log: true}, width: [2, 4]}
"""
FILE = ("--config", "digits.yaml")
LR = {"low": 1e-4, "high": 0.1, "log": True}
PARAMETERS = {
    "lr": FloatDistribution(1e-4, 0.1, log=True),
    "dropout": FloatDistribution(0, 0.9),
    "width": CategoricalDistribution([2, 4, 8, 16]),
}


@pytest.fixture(autouse=True)
def files(own_folder):
    Path("tiny.yaml").write_text(TINY)
    Path("digits.yaml").write_text(SEARCH)
    return own_folder


def search_file(lines):
    """Puts lines at the end of the search file, in place of those with the same keys."""
    added = [line.partition(":")[0] for line in lines.splitlines()]
    kept = [line for line in SEARCH.splitlines() if line.partition(":")[0] not in added]
    Path("digits.yaml").write_text("\n".join([*kept, lines]) + "\n")


# ---- defaults ----


def test_a_search_file_needs_no_more_than_base_space_and_budget(files):
    settings = parse(FILE)

    assert settings == Settings(
        base=files / "tiny.yaml",
        code_folder=files,
        space={"lr": LR, "width": [2, 4]},
        name="digits",
        folder=files / "searches" / "digits",
        monitor="val_loss",
        direction="minimize",
        n_trials=12,
        sampler=settings.sampler,
        pruner=settings.pruner,
    )


def test_tpe_and_a_median_pruner_that_waits_for_five_trials_are_the_default():
    settings = parse(FILE)

    pruner = make_pruner(settings.pruner)
    assert isinstance(make_sampler(settings.sampler, 0), optuna.samplers.TPESampler)
    assert isinstance(pruner, optuna.pruners.MedianPruner)
    assert pruner._n_startup_trials == 5


def test_a_key_without_a_value_has_its_default():
    search_file("workers:\nsampler:\nname:")

    assert parse(FILE).workers == 1
    assert parse(FILE).name == "digits"


@pytest.mark.parametrize(
    ("monitor", "direction"), [("val_accuracy", "maximize"), ("train_loss", "minimize")]
)
def test_the_metric_and_its_direction_come_from_the_base_config(monitor, direction):
    Path("tiny.yaml").write_text(TINY.replace("model:\n", f"model:\n  monitor: {monitor}\n"))

    settings = parse(FILE)

    assert (settings.monitor, settings.direction) == (monitor, direction)


def test_the_table_of_directions_is_that_of_the_metrics():
    metrics = ClassificationModule(torch.nn.Identity(), list("abcdef")).metric_modes()

    found = {name.partition("_")[2]: MODES[mode] for name, mode in metrics.items()}

    assert found == DIRECTIONS
    assert DEFAULT_MONITOR in metrics


@pytest.mark.parametrize(
    ("base", "given", "direction"),
    [
        ("", "direction: maximize", "maximize"),
        ("monitor: val_own\n  monitor_mode: max", "", "maximize"),
        ("monitor: val_own\n  monitor_mode: min", "direction: minimize", "minimize"),
    ],
)
def test_a_metric_of_the_users_has_the_direction_that_is_given(base, given, direction):
    Path("tiny.yaml").write_text(TINY.replace("model:\n", f"model:\n  {base}\n"))
    search_file(f"monitor: val_own\n{given}")

    assert parse(FILE).direction == direction


@pytest.mark.parametrize(
    ("base", "given", "message"),
    [
        ("", "monitor: val_own", "digits.yaml:.*monitor: no metric 'val_own'.* needs a direction"),
        (
            "monitor: val_other\n  monitor_mode: max",
            "monitor: val_own",
            "no metric 'val_own'.* needs a direction, minimize or maximize",
        ),
        (
            "",
            "monitor: val_accuracy\ndirection: minimize",
            "digits.yaml:.*minimize contradicts val_accuracy, to maximize",
        ),
        (
            "monitor: val_own\n  monitor_mode: max",
            "direction: minimize",
            "minimize contradicts val_own",
        ),
    ],
)
def test_a_direction_that_is_missing_or_wrong_is_refused(base, given, message):
    Path("tiny.yaml").write_text(TINY.replace("model:\n", f"model:\n  {base}\n"))
    search_file(given)

    with pytest.raises(UserError, match=message):
        parse(FILE)


def test_a_search_that_has_begun_keeps_its_direction():
    search_file("monitor: val_accuracy\nfolder: begun")
    settings = replace(parse(FILE), direction="minimize")  # as earlier versions allowed
    settings.folder.mkdir()
    save(settings)

    assert parse(FILE).direction == "minimize"
    assert parse([*FILE, "--direction", "minimize"]).direction == "minimize"
    with pytest.raises(UserError, match="contradicts"):
        parse([*FILE, "--monitor", "val_f1", "--direction", "minimize"])


def test_the_base_config_is_looked_for_beside_the_search_file_first(files):
    folder = files / "configs"
    folder.mkdir()
    (folder / "digits.yaml").write_text(SEARCH)

    there = parse(["--config", "configs/digits.yaml"])
    (folder / "tiny.yaml").write_text(TINY)
    beside = parse(["--config", "configs/digits.yaml"])

    assert there.base == files / "tiny.yaml"
    assert beside.base == folder / "tiny.yaml"


# ---- the command line ----


def test_the_command_line_wins_over_the_search_file():
    settings = parse([*FILE, "--n_trials", "3", "--workers=2", "--sampler", "RandomSampler"])

    assert (settings.n_trials, settings.workers) == (3, 2)
    assert settings.sampler["class_path"] == "optuna.samplers.RandomSampler"


def test_a_later_search_file_wins_over_an_earlier_one():
    Path("more.yaml").write_text("n_trials: 30\nspace: {epochs: {low: 1, high: 90}}")

    settings = parse([*FILE, "-c", "more.yaml"])

    assert (settings.n_trials, settings.space) == (30, {"epochs": {"low": 1, "high": 90}})
    assert settings.name == "digits"


def test_a_search_needs_no_search_file():
    settings = parse(["--base=tiny.yaml", "--space={lr: [0.1, 0.2]}", "--n_trials", "2"])

    assert settings.space == {"lr": [0.1, 0.2]}
    assert settings.name == "tiny"


def test_the_space_is_changed_by_entry_and_by_bound():
    space = parse([*FILE, "--space.lr.high", "1e-2", "--space.epochs", "[1, 2]"]).space
    new = parse(
        [*FILE, "--space", "{width: [2, 8]}", "--space.lr.low=1", "--space.lr.high=2.5"]
    ).space

    assert space == {"lr": {**LR, "high": 0.01}, "width": [2, 4], "epochs": [1, 2]}
    assert new == {"width": [2, 8], "lr": {"low": 1, "high": 2.5}}


def test_another_class_keeps_none_of_the_settings_of_the_former():
    search_file("pruner: {class_path: MedianPruner, init_args: {n_warmup_steps: 4}}")
    percentile = ["--pruner", "PercentilePruner", "--pruner.percentile", "30"]

    former = parse(FILE).pruner["init_args"]
    other = parse([*FILE, *percentile]).pruner["init_args"]

    assert former["n_warmup_steps"] == 4
    assert other["n_warmup_steps"] == 0


def test_a_class_in_the_search_file_keeps_none_of_the_default_settings():
    search_file("pruner: {class_path: HyperbandPruner, init_args: {reduction_factor: 4}}")

    assert "n_startup_trials" not in parse(FILE).pruner["init_args"]


def test_one_setting_of_the_default_class_is_changed_alone():
    arguments = parse([*FILE, "--pruner.n_warmup_steps", "3"]).pruner["init_args"]

    assert (arguments["n_startup_trials"], arguments["n_warmup_steps"]) == (5, 3)


def test_help_is_about_searching(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])

    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "classifier search --config FILE" in text
    assert "The config whose hyperparameters are searched" in text
    assert "searches/NAME_OF_THE_SEARCH_FILE" in text
    assert "type:" not in text
    assert "known subclasses" not in text


def test_the_settings_of_a_class_have_help(capsys):
    with pytest.raises(SystemExit):
        parse(["--sampler.help", "RandomSampler"])

    assert "--sampler.seed SEED" in capsys.readouterr().out


def test_settings_are_read_without_torch():
    script = (
        "import sys; from classifier.search import samplers, settings; "
        "samplers.make_sampler(settings.parse(['--config', 'digits.yaml']).sampler, 0);"
        "sys.exit('torch' in sys.modules)"
    )
    folder = Path(__file__).parents[1]

    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {script}"]
    )

    assert done.returncode == 0


# ---- the search folder ----


def saved(settings):
    settings.folder.mkdir(parents=True)
    save(settings)
    return settings.folder


@pytest.mark.parametrize(
    "lines",
    [
        "n_trials: 3",
        "sampler: grid\nspace: {lr: [1.0e-5, 2], width: [2, null]}\nn_trials:",
        "pruner: null\nmax_seconds: 60",
        "pruner: NopPruner\nsampler: {class_path: QMCSampler, init_args: {scramble: true}}",
        "pruner: {class_path: PatientPruner, init_args: {wrapped_pruner: null, patience: 2}}",
        "pruner: {class_path: MedianPruner, init_args: {n_warmup_steps: 0}}",
        "engine: slurm\nengine_options: {time: '04:00:00', cpus-per-task: 2}\nworkers: 4",
        "storage: postgresql://host/name\nheartbeat: 5\nname: other\nfolder: found",
        "n_trials: 4\nspace: {width: [2, {a: [1, 'on']}], seed_everything: [0, 1]}",
    ],
)
def test_a_search_folder_has_the_complete_settings(lines):
    search_file(lines)
    settings = parse(FILE)

    found = load(saved(settings))

    assert found == replace(settings, base=settings.folder / "base.yaml")
    assert differences(settings, found) == []
    assert found.base.read_text() == TINY


def test_the_plan_of_a_search_is_saved():
    settings = replace(parse(FILE), plan=[{"lr": 0.1, "width": 2}])

    assert load(saved(settings)) == replace(settings, base=settings.folder / "base.yaml")


def test_a_search_folder_can_be_moved(files):
    folder = saved(parse(FILE)).rename(files / "moved")

    assert load(Path("moved")).folder == folder
    assert load(folder).base == folder / "base.yaml"
    assert load(folder).name == "digits"


def test_the_saved_settings_go_on_with_their_own_search(files):
    folder = saved(parse([*FILE, "--folder", "found"]))

    settings = parse(["--config", "found/search.yaml", "--n_trials", "20"])

    assert settings == replace(load(folder), n_trials=20)


def test_what_may_not_change_when_a_search_goes_on_is_named():
    old = parse(FILE)
    free = ["--n_trials=3", "--workers=2", "--max_seconds=9", "--engine=ray", "--heartbeat=3"]

    same = parse([*FILE, *free, "--engine_options={num_cpus: 1}", "--dry_run=1"])
    other = parse([*FILE, "--space.lr.high=1", "--monitor=val_accuracy", "--sampler=RandomSampler"])

    assert differences(old, same) == []
    told = [difference.partition(" ")[0] for difference in differences(old, other)]
    assert told[:4] == ["space.lr.high", "monitor", "direction", "sampler.class_path"]


def test_a_folder_that_is_no_search_is_refused_with_a_similar_one():
    saved(parse(FILE))

    with pytest.raises(UserError, match=r"'searches/digit' is not .*'searches/digits'"):
        load(Path("searches/digit"))
    with pytest.raises(UserError, match=r"'searches' is not .* --config FILE' makes one"):
        load(Path("searches"))


# ---- samplers ----


def sampled(sampler, count=1):
    """What a sampler proposes after four finished trials, when asked several times."""
    study = optuna.create_study()
    for number, value in enumerate([0.1, 0.02, 0.004, 0.05]):
        params = {"lr": value, "dropout": 0.1 * number, "width": 2 ** (number + 1)}
        study.add_trial(optuna.create_trial(params=params, distributions=PARAMETERS, value=value))
    study.sampler = sampler
    return [study.ask(PARAMETERS).params for _ in range(count)]


@pytest.mark.parametrize(
    "name", ["RandomSampler", "TPESampler", "TPESampler --sampler.n_startup_trials=2"]
)
def test_a_trial_is_sampled_by_its_number_alone(name):
    settings = parse([*FILE, "--sampler", *name.split()])

    again = [sampled(make_sampler(settings.sampler, 7)) for _ in range(2)]
    others = [sampled(make_sampler(settings.sampler, number)) for number in range(6)]

    assert again[0] == again[1]
    assert len({str(params) for params in others}) == 6


def test_the_seed_of_the_sampler_gives_another_search():
    settings = [parse([*FILE, "--sampler.seed", seed]) for seed in ("0", "1")]

    proposals = [sampled(make_sampler(one.sampler, 0)) for one in (parse(FILE), *settings)]

    assert proposals[0] == proposals[1] != proposals[2]


def test_samplers_inside_a_sampler_are_seeded_too():
    settings = parse(
        [
            *FILE,
            "--sampler=PartialFixedSampler",
            "--sampler.fixed_params={dropout: 0.5}",
            "--sampler.base_sampler=RandomSampler",
        ]
    )

    proposals = [sampled(make_sampler(settings.sampler, number))[0] for number in (0, 1, 1)]

    assert [params["dropout"] for params in proposals] == [0.5] * 3
    assert proposals[0]["lr"] != proposals[1]["lr"] == proposals[2]["lr"]


def test_quasi_random_trials_are_points_of_one_sequence():
    settings = parse([*FILE, "--sampler=QMCSampler", "--sampler.scramble=true"])
    ours, expected = optuna.create_study(), optuna.create_study()
    first = {"lr": 0.01, "dropout": 0.5, "width": 4}
    for study in (ours, expected):
        study.add_trial(optuna.create_trial(params=first, distributions=PARAMETERS, value=1))
    with pytest.warns(ExperimentalWarning):
        expected.sampler = optuna.samplers.QMCSampler(scramble=True, seed=0)

    points = []
    for number in range(8):
        ours.sampler = make_sampler(settings.sampler, number)
        points.append(ours.ask(PARAMETERS).params)

    assert points == [expected.ask(PARAMETERS).params for _ in range(8)]


def test_the_pruner_null_prunes_nothing():
    assert isinstance(make_pruner(parse([*FILE, "--pruner=null"]).pruner), optuna.pruners.NopPruner)


def test_a_grid_needs_no_budget():
    search_file("sampler: grid\nspace: {lr: [0.1, 0.2]}\nn_trials:")

    settings = parse(FILE)

    assert (settings.sampler, settings.n_trials) == ("grid", None)
    assert isinstance(make_sampler(settings.sampler, 0), optuna.samplers.BaseSampler)


def test_no_warning_about_experimental_classes_reaches_the_user():
    arguments = ["--sampler=QMCSampler", "--pruner=PatientPruner", "--pruner.wrapped_pruner=null"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings = parse([*FILE, *arguments, "--pruner.patience=2"])
        make_sampler(settings.sampler, 0)
        make_pruner(settings.pruner)

    assert [str(warning.message) for warning in caught] == []


# ---- mistakes ----

ON_THE_COMMAND_LINE = {
    "misspelt": (["--n_trial=3"], "n_trial: no such setting, did you mean 'n_trials'"),
    "text for a number": (["--n_trials=many"], "n_trials: 'many' is not a whole number"),
    "true for a number": (["--workers=true"], "workers: 'True' is not a whole number"),
    "no trials": (["--n_trials=0"], "n_trials: at least 1 is needed, not 0"),
    "no workers": (["--workers=0"], "workers: at least 1 is needed, not 0"),
    "negative dry run": (["--dry_run=-1"], "dry_run: at least 0 is needed, not -1"),
    "no time": (["--max_seconds=0"], "max_seconds: a time above 0 is needed"),
    "no heartbeat": (["--heartbeat=.nan"], "heartbeat: a time above 0 is needed, not nan"),
    "no budget": (["--n_trials=null"], "n_trials: not given. .* --max_seconds 3600"),
    "value missing": (["--folder"], "--folder: expected a value"),
    "config missing": (["--config"], "--config: expected a value"),
    "no such config": (["--config", "digit.yaml"], "no file 'digit.yaml' in '.', .* 'digits.yaml'"),
    "config is a folder": (["--config", "."], "'.' is a folder, expected a YAML file"),
    "no such base": (["--base=tyny.yaml"], "base: no file 'tyny.yaml' in '.', .* 'tiny.yaml'"),
    "no such name": (["--space.widht=[2, 4]"], "space.widht: in tiny.yaml .* mean 'width'"),
    "low above high": (["--space.lr.high=1e-5"], "^space.lr: low 0.0001 is above high 1.0e-05"),
    "space is a list": (["--space=[1]"], r"space: '\[1\]' is not a mapping"),
    "sampler misspelt": (["--sampler=RandomSamplr"], "no class 'RandomSamplr', .*'RandomSampler'"),
    "sampler unknown": (["--sampler=Bayes"], "no class 'Bayes'; there are CmaEsSampler, GPS"),
    "sampler of a package": (["--sampler=nope.Sampler"], "no 'nope', neither installed"),
    "sampler is a pruner": (["--sampler=optuna.pruners.NopPruner"], "a subclass of BaseSampler"),
    "sampler setting": (["--sampler.sed=3"], "sampler.init_args.sed: .* did you mean 'seed'"),
    "sampler seed": (["--sampler.seed=x"], "sampler.init_args.seed: 'x' is not a whole number.$"),
    "negative seed": (["--sampler.seed=-1"], "sampler: a seed is a whole number from 0, not -1"),
    "sampler incomplete": (["--sampler=PartialFixedSampler"], "sampler: needs fixed_params and"),
    "grid sampler": (["--sampler=GridSampler"], "write 'sampler: grid' in its place"),
    "brute force": (["--sampler=BruteForceSampler"], "write 'sampler: grid' in its place"),
    "endless grid": (["--sampler=grid"], "digits.yaml:3: space.lr: a grid takes every value"),
    "pruner is a sampler": (["--pruner=RandomSampler"], "no class 'RandomSampler'; .*MedianPruner"),
    "pruner value": (["--pruner.n_startup_trials=-1"], "pruner: .* cannot be negative"),
    "sqlite": (["--storage=sqlite:///x.db"], "storage: SQLite's locks fail .* PostgreSQL"),
    "storage is a file": (["--storage=journal.log"], "'journal.log' is not the URL of a database"),
    "engine misspelt": (["--engine=slrum"], "engine: 'slrum' is not local or slurm or ray"),
    "direction": (["--direction=max"], "direction: 'max' is not minimize or maximize"),
}


def mistake(arguments):
    with pytest.raises(UserError) as error:
        parse(arguments)
    assert str(error.value).count("\n") < 3
    return error


@pytest.mark.parametrize(
    ("arguments", "words"), ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE
)
def test_a_mistake_on_the_command_line_is_refused_in_a_few_words(arguments, words):
    assert mistake([*FILE, *arguments]).match(words)


IN_THE_FILE = {
    "misspelt": ("spase: {}", "digits.yaml:4: no setting 'spase', did you mean 'space'"),
    "of another tool": (
        "config: x",
        "digits.yaml:4: no setting 'config'; there are base, code_folder, space,",
    ),
    "of one call": ("dry_run: 3", "digits.yaml:4: no setting 'dry_run'"),
    "two metrics": ("directions: [maximize]", "did you mean 'direction'"),
    "two directions": ("direction: [maximize]", "digits.yaml:4: direction: .* is not minimize or"),
    "no YAML": ("a: b: c", "digits.yaml:4: a second ':'"),
    "duplicate key": ("workers: 1\nworkers: 2", "digits.yaml:5: duplicate key 'workers'"),
    "empty space": ("space:", "digits.yaml:3: space: nothing is searched"),
    "no base": ("base:", "base: not given. Name a search file"),
    "no such base": ("base: tyny.yaml", "digits.yaml:3: base: no file .* 'tiny.yaml'"),
    "entry": ("space: {lr: 3}", "digits.yaml:3: space.lr: 3 is neither a range"),
    "number": ("workers: two", "digits.yaml:4: workers: 'two' is not a whole number"),
    "sampler setting": (
        "sampler: {class_path: RandomSampler, init_args: {sed: 3}}",
        "digits.yaml:4: sampler.init_args.sed: .*'seed'",
    ),
    "init_args misspelt": (
        "sampler: {class_path: RandomSampler, init_arg: {seed: 3}}",
        "digits.yaml:4: sampler: there is no 'init_arg', did you mean 'init_args'",
    ),
    "settings without class": ("sampler: {seed: 3}", "sampler: there is no 'seed'; it has class_p"),
    "two samplers": ("sampler: [RandomSampler]", r"sampler: \[RandomSampler\] is not a class"),
    "pruner value": (
        "pruner: {class_path: MedianPruner, init_args: {n_startup_trials: -1}}",
        "digits.yaml:4: pruner: .* cannot be negative",
    ),
}


@pytest.mark.parametrize(("lines", "words"), IN_THE_FILE.values(), ids=IN_THE_FILE)
def test_a_mistake_in_the_search_file_is_refused_with_its_line(lines, words):
    search_file(lines)

    assert mistake(FILE).match(words)


def test_a_mistake_in_the_base_config_is_named_with_its_own_line():
    Path("tiny.yaml").write_text("model: [")

    assert mistake(FILE).match("tiny.yaml:1: ")


def test_a_file_that_is_no_text_is_refused():
    Path("tiny.yaml").write_bytes(b"\xff\xfe\x00")

    assert mistake(FILE).match("'tiny.yaml' is not a text file in UTF-8")


def test_a_sampler_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setattr("classifier.search.samplers.find_spec", lambda name: None)

    assert mistake([*FILE, "--sampler=CmaEsSampler"]).match("sampler: .* pip install cmaes")


def test_nothing_given_is_answered_with_what_is_needed():
    assert mistake([]).match("base: not given. Name a search file, --config FILE")


def test_a_url_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SEARCH_DATABASE", "postgresql://host/name")

    assert parse([*FILE, "--storage=$SEARCH_DATABASE"]).storage == "$SEARCH_DATABASE"
    assert mistake([*FILE, "--storage=$NOT_SET"]).match("is not the URL of a database")


def test_trials_are_a_multiple_of_the_seeds():
    search_file("n_trials: 7\nspace: {lr: {low: 0.1, high: 1.0}, seed_everything: [0, 1, 2]}")

    with pytest.raises(UserError, match=r"7 is not a multiple of the 3 seeds .* take 9"):
        parse(FILE)


def test_more_trials_than_there_are_combinations_are_refused():
    search_file("n_trials: 9\nspace: {lr: [0.1, 0.2], width: [2, 4]}")

    with pytest.raises(UserError, match=r"9, but the space has only 4 .* 'sampler: grid'"):
        parse(FILE)


def test_with_seeds_no_trial_is_stopped_early_unless_asked():
    search_file("n_trials: 6\nspace: {lr: {low: 0.1, high: 1.0}, seed_everything: [0, 1, 2]}")

    assert parse(FILE).pruner is None
    assert parse([*FILE, "--pruner", "MedianPruner"]).pruner is not None
