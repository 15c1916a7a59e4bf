"""The space of a search: entries, configurations and their texts, and what is refused."""

import warnings

import optuna
import pytest
import yaml
from conftest import TINY
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from classifier.errors import UserError
from classifier.search.entries import read
from classifier.search.space import Space

BASE = """\
# Two networks, two optimizers.
hyperparameters:
  lr: &lr 0.01          # peak
  width: &width 4
  milestones: &milestones [2, 4]
  optimizer: &optimizer
    class_path: torch.optim.SGD
    init_args: {momentum: 0.9}

# ---- training ----
seed_everything: 7
model:
  network: {class_path: MNISTNet, init_args: {width: *width}}
  optimizer: *optimizer
  lr_scheduler: {base: *lr, milestones: *milestones}
"""
SGD = {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"betas": [0.8, 0.9]}}
SPACE = {
    "lr": {"low": 1e-4, "high": 0.1, "log": True},
    "width": {"low": 4, "high": 16, "step": 4},
    "milestones": [[2, 4], [3, 6]],
    "optimizer": [SGD, ADAM],
    "seed_everything": [0, 1],
}


def at(text, *path):
    data = yaml.safe_load(text)
    for key in path:
        data = data[key]
    return data


# ---- entries ----


@pytest.mark.parametrize(
    ("entry", "distribution"),
    [
        ({"low": 0.1, "high": 0.5}, FloatDistribution(0.1, 0.5)),
        ({"low": 1, "high": 0.5 * 4}, FloatDistribution(1, 2)),
        ({"low": 1, "high": 9}, IntDistribution(1, 9)),
        ({"low": 1, "high": 9, "step": None, "log": None}, IntDistribution(1, 9)),
        ({"low": 1, "high": 64, "log": True}, IntDistribution(1, 64, log=True)),
        ({"low": 16, "high": 64, "step": 16}, IntDistribution(16, 64, step=16)),
        ({"low": 16, "high": 70, "step": 16}, IntDistribution(16, 64, step=16)),
        ({"low": 0, "high": 1, "step": 0.25}, FloatDistribution(0, 1, step=0.25)),
        ([8, 16], CategoricalDistribution([8, 16])),
        ([8], CategoricalDistribution([8])),
        ([None, "cosine", True, 0.5], CategoricalDistribution([None, "cosine", True, 0.5])),
        ([None, SGD, ADAM], CategoricalDistribution([None, "SGD", "Adam"])),
        ([{"a": 1}, [2, 4]], CategoricalDistribution(["{a: 1}", "[2, 4]"])),
    ],
)
def test_an_entry_becomes_a_distribution_of_optuna(entry, distribution):
    assert read(entry).distribution == distribution


@pytest.mark.parametrize("prefix", ["", "optuna.distributions."])
def test_an_entry_may_name_a_distribution(prefix):
    entries = {
        name: {"class_path": f"{prefix}{name}Distribution", "init_args": arguments}
        for name, arguments in {
            "Float": {"low": 1, "high": 2},
            "Int": {"low": 1, "high": 2},
            "Categorical": {"choices": [1, 2]},
        }.items()
    }

    assert Space(entries).parameters == {
        "Float": FloatDistribution(1, 2),
        "Int": IntDistribution(1, 2),
        "Categorical": CategoricalDistribution([1, 2]),
    }


def test_blocks_of_one_class_are_told_apart_by_their_whole_text():
    fast = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}

    labels = Space({"optimizer": [SGD, fast, ADAM]}).parameters["optimizer"].choices

    assert labels == (
        "{class_path: torch.optim.SGD, init_args: {momentum: 0.9}}",
        "{class_path: torch.optim.SGD, init_args: {lr: 0.1}}",
        "Adam",
    )


def test_the_label_of_a_block_is_not_that_of_a_text():
    labels = Space({"optimizer": ["SGD", SGD]}).parameters["optimizer"].choices

    assert labels == ("SGD", "{class_path: torch.optim.SGD, init_args: {momentum: 0.9}}")


MISTAKES = {
    "nothing": ({}, "nothing is searched"),
    "number": ({"lr": 0.1}, r"space.lr\? space.lr: 0.1 is neither a range, .*, nor .* \[0.1\]"),
    "text": ({"lr": "loguniform(1e-4, 1)"}, "is neither a range"),
    "empty list": ({"lr": []}, "the list of choices is empty"),
    "duplicate": ({"lr": [0.1, 0.2, 0.1]}, "0.1 and 0.1 are the same choice"),
    "same block": ({"lr": [SGD, ADAM, SGD]}, "are the same choice"),
    "true and 1": ({"lr": [1, True]}, "1 and true are the same choice"),
    "no high": ({"lr": {"low": 1}}, "needs low and high"),
    "misspelt": ({"lr": {"low": 1, "hihg": 2}}, "no 'hihg', did you mean 'high'"),
    "unknown": ({"lr": {"low": 1, "high": 2, "q": 2}}, "no 'q'; it has low, high, log, step"),
    "quoted": ({"lr": {"low": "1e-4", "high": 1}}, "low is the text '1e-4'"),
    "bool": ({"lr": {"low": False, "high": 1}}, "low is false, expected a finite number"),
    "infinite": ({"lr": {"low": 0, "high": float("inf")}}, "high is .inf"),
    "not a number": ({"lr": {"low": float("nan"), "high": 1}}, "low is .nan"),
    "nothing for low": ({"lr": {"low": None, "high": 1}}, "low is null"),
    "swapped": ({"lr": {"low": 3, "high": 1}}, "low 3 is above high 1; swap them"),
    "one number": ({"lr": {"low": 3, "high": 3}}, "both 3, so that nothing varies"),
    "log from 0": ({"lr": {"low": 0, "high": 1, "log": True}}, "starts above 0, not at 0"),
    "log as text": ({"lr": {"low": 1, "high": 2, "log": "yes"}}, "log is true or false, not 'yes'"),
    "log and step": ({"lr": {"low": 1, "high": 9, "log": True, "step": 2}}, "log or step, not"),
    "step 0": ({"lr": {"low": 1, "high": 9, "step": 0}}, "step is above 0, not 0"),
    "wide step": ({"lr": {"low": 1, "high": 9, "step": 10}}, "step 10 is wider than the range"),
    "step as text": ({"lr": {"low": 1, "high": 9, "step": "2"}}, "step is the text '2'"),
    "no distribution": ({"lr": SGD}, "'torch.optim.SGD' is not a distribution"),
    "class misspelt": (
        {"lr": {"class_path": "FloatDistributoin", "init_args": {}}},
        "did you mean 'FloatDistribution'",
    ),
    "class without arguments": (
        {"lr": {"class_path": "FloatDistribution", "low": 1, "high": 2}},
        "has class_path and init_args, nothing else",
    ),
    "broken whole numbers": (
        {"lr": {"class_path": "IntDistribution", "init_args": {"low": 1, "high": 2.5}}},
        "has whole numbers",
    ),
    "choices missing": (
        {"lr": {"class_path": "CategoricalDistribution", "init_args": {"low": 1}}},
        "takes a list",
    ),
    "name is no text": ({3: [1, 2]}, "space.3: YAML does not read this name as text"),
    "negative seed": ({"seed_everything": [0, -1]}, "a seed is a whole number from 0 .*, not -1"),
    "broken seed": ({"seed_everything": [0.5]}, "a seed is a whole number .*, not 0.5"),
    "large seed": ({"seed_everything": [2**32]}, "from 0 to 4294967295"),
    "seed twice": ({"seed_everything": [1, 1]}, "are the same choice"),
    "seeds true": ({"seed_everything": [True]}, "not true"),
    "seeds of a range": ({"seed_everything": {"low": 0.0, "high": 1}}, "the seeds are a list"),
    "one seed": ({"seed_everything": 3}, "is neither a range"),
    "too many seeds": ({"seed_everything": {"low": 0, "high": 10**9}}, "the seeds are a list"),
}


@pytest.mark.parametrize(("entries", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_an_entry_is_refused_in_a_line(entries, words):
    with pytest.raises(UserError, match=words) as error:
        Space(entries, where=lambda key: f"search.yaml:3: {key}? ")

    assert str(error.value).startswith("search.yaml:3: space")
    assert "\n" not in str(error.value)


# ---- one configuration ----


def test_names_parameters_and_seeds_are_kept_apart():
    space = Space({**SPACE, "seed_everything": {"low": 3, "high": 7, "step": 2}})

    assert space.names == ("lr", "width", "milestones", "optimizer", "seed_everything")
    assert tuple(space.parameters) == ("lr", "width", "milestones", "optimizer")
    assert space.repeats == (3, 5, 7)


def test_a_text_differs_in_exactly_the_values_of_the_configuration():
    space = Space(SPACE)
    params = {"lr": 0.05, "width": 8, "milestones": "[3, 6]", "optimizer": "Adam"}

    text = space.text(BASE, params, repeated=1)

    expected = yaml.safe_load(BASE)
    expected["hyperparameters"] |= {"lr": 0.05, "width": 8, "milestones": [3, 6], "optimizer": ADAM}
    expected["seed_everything"] = 1
    expected["model"]["network"]["init_args"]["width"] = 8
    expected["model"]["optimizer"] = ADAM
    expected["model"]["lr_scheduler"] = {"base": 0.05, "milestones": [3, 6]}
    assert yaml.safe_load(text) == expected
    kept = [line for line in BASE.splitlines() if "#" in line or "*" in line]
    kept.remove("  lr: &lr 0.01          # peak")
    assert [line for line in kept if line not in text.splitlines()] == []


def test_every_sampled_configuration_comes_back_from_its_own_text():
    space = Space(SPACE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    for _ in range(20):
        params = study.ask(space.parameters).params
        assert space.point(space.text(BASE, params)) == params


def test_a_configuration_without_a_name_keeps_the_value_of_the_base_config():
    assert Space(SPACE).text(BASE, {}) == BASE


def test_steps_are_written_without_the_rounding_errors_of_a_sum():
    space = Space({"lr": {"low": 0.1, "high": 0.5, "step": 0.1}})
    noisy = 0.1 + 2 * 0.1

    assert noisy != 0.3
    assert at(space.text(BASE, {"lr": noisy}), "hyperparameters", "lr") == 0.3
    assert space.labelled({"lr": noisy}) == {"lr": 0.3}


def test_a_part_of_a_block_is_searched_by_its_dotted_name():
    space = Space({"optimizer.init_args.momentum": [0.5, 0.9], "milestones.0": [1, 2]})
    space.check(BASE)

    text = space.text(BASE, {"optimizer.init_args.momentum": 0.5, "milestones.0": 1})

    assert at(text, "model", "optimizer", "init_args", "momentum") == 0.5
    assert at(text, "model", "lr_scheduler", "milestones") == [1, 4]
    assert space.point(BASE) == {"optimizer.init_args.momentum": 0.9, "milestones.0": 2}


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("# Note.\n\nmodel: 1\n", "# Note.\n\nseed_everything: 3\nmodel: 1\n"),
        ("  model: 1\n  data: 2\n", "  seed_everything: 3\n  model: 1\n  data: 2\n"),
        ("{model: 1}", "{seed_everything: 3, model: 1}"),
        ("# Nothing.\n", "seed_everything: 3\n# Nothing.\n"),
        ("seed_everything: 0\nmodel: 1\n", "seed_everything: 3\nmodel: 1\n"),
        ("seed_everything: true\n", "seed_everything: 3\n"),
    ],
)
def test_the_seed_is_changed_or_added(base, expected):
    assert Space({"seed_everything": [3]}).text(base, {}, repeated=3) == expected


def test_the_base_config_is_a_point_of_the_space_if_all_its_values_are():
    point = {"lr": 0.01, "width": 4, "milestones": "[2, 4]", "optimizer": "SGD"}

    assert Space(SPACE).point(BASE) == point


@pytest.mark.parametrize(
    "entry",
    [
        {"low": 0.02, "high": 0.1},
        {"low": 1e-4, "high": 0.005},
        {"low": 0, "high": 1},
        {"low": 0.0, "high": 1.0, "step": 0.25},
        [0.02, 0.03],
    ],
)
def test_a_base_config_outside_the_space_is_no_point_of_it(entry):
    assert Space({"lr": entry}).point(BASE) is None


def test_a_whole_number_lies_in_a_range_of_other_numbers():
    point = Space({"width": {"low": 0.5, "high": 9.5}}).point(BASE)

    assert point == {"width": 4.0}
    assert isinstance(point["width"], float)


def test_tables_show_numbers_and_labels_in_the_order_of_the_space():
    params = {"optimizer": "Adam", "milestones": "[3, 6]", "width": 8, "lr": 0.05}

    shown = Space(SPACE).labelled(params, repeated=1)

    assert list(shown.items()) == [
        ("lr", 0.05),
        ("width", 8),
        ("milestones", "[3, 6]"),
        ("optimizer", "Adam"),
        ("seed_everything", 1),
    ]


def test_a_seed_that_is_not_searched_is_not_shown():
    assert Space({"lr": [1, 2]}).labelled({"lr": 1}, repeated=3) == {"lr": 1}


def test_the_space_describes_itself():
    space = Space(
        {
            **SPACE,
            "dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
            "epochs": {"low": 5, "high": 10},
            "alpha": {"low": 0.0, "high": 1.0},
            "schedule": [None, "cosine", 1e-5],
        }
    )

    assert space.describe() == [
        "lr 0.0001 .. 0.1 (log)",
        "width 4 .. 16 (in steps of 4)",
        "milestones [2, 4] | [3, 6]",
        "optimizer SGD | Adam",
        "seed_everything 0, 1 (each configuration with every seed)",
        "dropout 0.0 .. 0.5 (in steps of 0.1)",
        "epochs 5 .. 10 (whole numbers)",
        "alpha 0.0 .. 1.0",
        "schedule null | cosine | 1.0e-05",
    ]


# ---- all configurations ----


def test_a_grid_is_the_product_with_the_first_name_slowest():
    space = Space(
        {
            "width": {"low": 4, "high": 12, "step": 4},
            "optimizer": [SGD, ADAM],
            "seed_everything": [0, 1, 2],
        }
    )

    assert space.grid() == [
        {"width": width, "optimizer": optimizer}
        for width in (4, 8, 12)
        for optimizer in ("SGD", "Adam")
    ]
    assert space.size == 6


def test_the_steps_of_a_grid_are_exact():
    space = Space({"lr": {"low": 0.1, "high": 0.75, "step": 0.1}})

    assert [point["lr"] for point in space.grid()] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_a_grid_of_a_range_without_steps_is_refused():
    space = Space({"width": [4, 8], "lr": {"low": 0.1, "high": 0.2}})

    assert space.size is None
    with pytest.raises(UserError, match=r"space.lr: .* give it a step, or list the values"):
        space.grid()


@pytest.mark.parametrize(
    "entries",
    [
        {"lr": {"low": 1, "high": 10**12}},
        {"lr": {"low": 1, "high": 2000}, "width": {"low": 1, "high": 2000}},
    ],
)
def test_a_grid_without_measure_is_refused_at_once(entries):
    space = Space(entries)

    assert space.size is None
    with pytest.raises(UserError, match="a grid of more than 1000000 configurations"):
        space.grid()


def test_a_space_of_seeds_alone_has_one_configuration():
    space = Space({"seed_everything": [0, 1]})
    space.check(TINY)

    assert space.grid() == [{}]
    assert space.point(TINY) == {}
    assert space.size == 1


# ---- the space and the base config ----


def check(entries, base=BASE):
    with pytest.raises(UserError) as error:
        Space(entries, where=lambda key: f"{key}: ").check(base, "base.yaml")
    assert str(error.value).count("\n") < 3
    return str(error.value)


def test_a_good_space_passes():
    Space(SPACE).check(BASE)


def test_an_unknown_name_is_refused_with_a_similar_one():
    message = check({"widht": [1, 2]})

    assert message.startswith("space.widht: space.widht: in base.yaml there is no hyperparameter")
    assert "did you mean 'width'" in message
    assert "lr, width, milestones, optimizer.class_path" in message


def test_an_unknown_part_of_a_block_is_refused_with_a_similar_one():
    message = check({"optimizer.init_args.momentun": [0, 1]})

    assert "did you mean 'optimizer.init_args.momentum'" in message


def test_a_base_config_without_hyperparameters_is_refused():
    message = check({"lr": [1, 2]}, "model: 3")

    assert "This config has no hyperparameters" in message


def test_a_name_which_no_alias_uses_is_refused():
    message = check({"width": [1, 2]}, BASE.replace("*width", "8"))

    assert "space.width: no alias in base.yaml uses it" in message


def test_a_part_which_no_alias_uses_is_refused():
    base = BASE.replace("momentum: 0.9", "momentum: &momentum 0.9").replace(
        "optimizer: *optimizer", "optimizer: {momentum: *momentum}"
    )

    Space({"optimizer.init_args.momentum": [0, 0.5]}).check(base)
    message = check({"optimizer.class_path": ["torch.optim.SGD", "torch.optim.Adam"]}, base)

    assert "space.optimizer.class_path: no alias" in message


def test_a_hyperparameter_that_takes_over_another_is_refused():
    base = BASE.replace("width: &width 4", "width: *lr").replace("*width", "*lr")

    message = check({"width": [0.01, 8]}, base)

    assert "'hyperparameters.width' is an alias of 'hyperparameters.lr'; change that" in message


def test_a_block_without_the_alias_of_another_searched_name_is_refused():
    base = BASE.replace("momentum: 0.9", "momentum: 0.9, lr: *lr").replace("base: *lr", "base: 1")
    fixed = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}

    Space({"lr": [1, 2]}).check(base)
    message = check({"lr": [1, 2], "optimizer": [fixed]}, base)

    assert "space.lr: nothing uses it where optimizer is Adam" in message
    assert "search a part such as optimizer.class_path" in message


def test_a_class_and_its_learning_rate_are_searched_apart():
    base = BASE.replace("momentum: 0.9", "lr: *lr").replace("base: *lr", "base: 1")
    space = Space({"lr": [1, 2], "optimizer.class_path": ["torch.optim.SGD", "torch.optim.Adam"]})
    space.check(base)

    text = space.text(base, {"lr": 2, "optimizer.class_path": "torch.optim.Adam"})

    expected = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2}}
    assert at(text, "model", "optimizer") == expected


def test_a_block_without_a_part_that_is_searched_too_is_refused():
    message = check({"optimizer": [SGD, ADAM], "optimizer.init_args.momentum": [0.5, 0.9]})

    assert "space.optimizer.init_args.momentum: nothing uses it where optimizer is Adam" in message


def test_a_block_and_a_part_of_it_are_searched_together():
    other = {"class_path": "torch.optim.RMSprop", "init_args": {"momentum": 0}}
    space = Space({"optimizer.init_args.momentum": [0.5, 0.9], "optimizer": [SGD, other]})
    space.check(BASE)

    text = space.text(BASE, {"optimizer.init_args.momentum": 0.5, "optimizer": "RMSprop"})

    expected = {"class_path": "torch.optim.RMSprop", "init_args": {"momentum": 0.5}}
    assert at(text, "model", "optimizer") == expected


def test_a_seed_that_is_an_alias_is_refused():
    base = BASE.replace("seed_everything: 7", "seed_everything: *width")

    message = check({"seed_everything": [1, 2]}, base)

    assert "space.seed_everything: base.yaml:11: 'seed_everything' is an alias" in message


def test_no_warning_of_optuna_reaches_the_user():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Space({"lr": {"low": 0.0, "high": 1.0, "step": 0.3}, "width": [[1], None]}).describe()

    assert [str(warning.message) for warning in caught] == []
