"""Hyperparameters: edits of config texts against loading the texts with an independent loader."""

import random
import subprocess
import sys
from math import inf, nan

import pytest
import yaml
from jsonargparse import get_loader

from classifier.anchored_yaml.aliases import anchors, with_aliases
from classifier.anchored_yaml.edit import set_values
from classifier.anchored_yaml.names import apply, split_arguments, unused, values
from classifier.anchored_yaml.scalars import Dumper, literal
from classifier.anchored_yaml.text import (
    MISSING,
    ConfigSource,
    check,
    differing,
    load,
    locate,
    same,
)
from classifier.errors import UserError

CONFIG = """\
# Digits, small network.
hyperparameters:            # searched values
  lr: &lr 0.02              # learning rate
  wd: &wd 1e-4
  milestones: &ms [2, 4]    # epochs
  sgd: &sgd  # of the optimizer
    momentum: 0.9
    nesterov: true

# -------- training --------
model:
  optimizer: {lr: *lr, weight_decay: *wd, <<: *sgd}
  scheduler:
    milestones: *ms
"""
SCALARS = [0, -3, 0.1, 1e-05, -2.5e16, inf, True, False, None, "", "SGD", "1e-4", "on", "null"]
SCALARS += ["012", "0o7", "y", "~", "a: b", "# c", " x ", "two\nlines\n", "ä 😀", "*x", "{", "'\""]
SCALARS += ["2026-01-31", "1:30", "1_000", ".inf", "<<", "=", "!tag", "a, b]", "tab\t", "\x85", "-"]
STYLES = ["plain", "block", "own line", "tag", "text"]


def random_value(draw, levels=2):
    kind = draw.choice(["scalar", "list", "mapping"]) if levels else "scalar"
    if kind == "list":
        return [random_value(draw, levels - 1) for _ in range(draw.randrange(4))]
    if kind == "mapping":
        keys = draw.sample(["a", "b", "on c", "d-e"], draw.randrange(4))
        return {key: random_value(draw, levels - 1) for key in keys}
    return draw.choice(SCALARS)


def written(draw, name, value):
    """Writes one anchored hyperparameter in one of the many ways of YAML."""
    style, note = draw.choice(STYLES), draw.choice(["", "  # note"])
    if isinstance(value, dict | list) and value and style == "block":
        lines = yaml.dump(value, Dumper=Dumper, allow_unicode=True).split("\n")[:-1]
        indent = "  " if isinstance(value, list) and draw.random() < 0.5 else "    "
        body = "".join(f"{indent}{line}\n" if line else "\n" for line in lines)
        return f"  {name}: &{name}{note}\n{body}", value
    if style == "block":
        return f"  {name}: &{name} |  # text\n    one\n    two\n\n", "one\ntwo\n"
    if style == "own line":
        return f"  {name}: &{name}{note}\n    {literal(value)}\n", value
    if style == "tag":
        return f"  {name}: {draw.choice(['!!float &', '&'])}{name} 7.5{note}\n", 7.5
    if style == "text":
        return draw.choice(
            [(f"  {name}: &{name}{note}\n", None), (f"  {name}: &{name} 'x'\n", "x")]
        )
    return f"  {name}: &{name} {literal(value)}{note}\n", value


def random_config(draw):
    """Returns the parts of a text, the hyperparameters and the names of those written."""
    names = ["lr", "wd", "net"]
    parts, block = [], {}
    for name in names:
        part, block[name] = written(draw, name, random_value(draw))
        parts.append(part)
        if draw.random() < 0.5:
            parts.append(f"  # about {name}\n\n")
    tail = "model:\n  lr: *lr\n  sizes: [*wd, {net: *net}]  # used\n  other: *lr\n"
    return ["hyperparameters:  # block\n", *parts, "\n# the rest\n", tail], block


def model_of(block):
    sizes = [block["wd"], {"net": block["net"]}]
    return {"lr": block["lr"], "sizes": sizes, "other": block["lr"]}


@pytest.mark.parametrize("seed", range(200))
def test_a_change_reaches_every_alias_and_keeps_all_other_text(seed):
    draw = random.Random(seed)
    parts, block = random_config(draw)
    name, value = draw.choice(list(block)), random_value(draw)

    changed = set_values("".join(parts), {("hyperparameters", name): value})

    block[name] = value
    expected = {"hyperparameters": block, "model": model_of(block)}
    assert same(get_loader("yaml")(changed), expected)
    own = next(index for index, part in enumerate(parts) if part.startswith(f"  {name}:"))
    assert changed.startswith("".join(parts[:own]) + f"  {name}:")
    assert changed.endswith("".join(parts[own + 1 :]))
    check(ConfigSource("changed.yaml", changed))


@pytest.mark.parametrize("seed", range(50))
def test_all_configs_follow_the_last_one_and_the_override(seed):
    draw = random.Random(seed)
    written = [random_config(draw) for _ in range(3)]
    final = written[-1][1]
    name = draw.choice(list(final))
    final[name] = random_value(draw)
    sources = [ConfigSource("a.yaml", "".join(parts)) for parts, _ in written]

    texts = apply(sources, {(name,): final[name]})

    expected = {"hyperparameters": final, "model": model_of(final)}
    assert all(same(load(text), expected) for text in texts)


@pytest.mark.parametrize("seed", range(200))
def test_aliases_put_back_load_to_the_same_data_and_follow_a_change_again(seed):
    draw = random.Random(seed)
    parts, block = random_config(draw)
    text = "".join(parts)
    data = load(text)
    overridden = draw.random() < 0.5
    if overridden:
        data["model"]["other"] = "set on the command line"
    value = random_value(draw)

    saved = with_aliases(yaml.dump(data, Dumper=Dumper), anchors([text]))
    again = apply([ConfigSource("saved.yaml", saved)], {("lr",): value})[0]

    assert same(load(saved), data)
    expected = model_of(block | {"lr": value})
    if overridden:
        expected["other"] = data["model"]["other"]
    assert same(load(again)["model"], expected)


@pytest.mark.parametrize("value", [*SCALARS, nan, [], {}, [[]], {"a": {"b": [1, {"c": None}]}}])
def test_a_written_value_is_read_alike_by_both_loaders(value):
    text = f"[{literal(value)}]"

    assert "\n" not in text
    assert same(yaml.safe_load(text), [value])
    assert same(load(text), [value])


@pytest.mark.parametrize(
    "scalar",
    ["1e-4", "1E5", ".5", "1.", "-.inf", ".NaN", "012", "1_0", "yes", "2026-01-31", "1:30.5", "x"],
)
def test_scalars_are_read_as_jsonargparse_reads_them(scalar):
    assert same(load(scalar), get_loader("yaml")(scalar))


def test_a_trial_differs_from_its_base_in_the_searched_values_only():
    values = {("hyperparameters", "lr"): 1e-05, ("hyperparameters", "sgd", "momentum"): 0.5}

    trial = set_values(CONFIG, values)

    before, after = CONFIG.splitlines(), trial.splitlines()
    assert [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]] == [
        (
            "  lr: &lr 0.02              # learning rate",
            "  lr: &lr 1.0e-05              # learning rate",
        ),
        ("    momentum: 0.9", "    momentum: 0.5"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n- 1\n- 2\n# c\nb: 3\n", "a: 9\n# c\nb: 3\n"),
        ("a:\nb: 3\n", "a: 9\nb: 3\n"),
        ("a: # c\nb: 3\n", "a: 9 # c\nb: 3\n"),
        ("{a, b: 3}", "{a: 9, b: 3}"),
        ('{"a":1,"b":3}', '{"a":9,"b":3}'),
        ("a: >\n  x\n\n# c\nb: 3", "a: 9\n\n# c\nb: 3"),
        ("a:\n  &k k: 1\nb: 3", "a: 9\nb: 3"),
        ("a: !!str &x 1\nb: 3", "a: &x 9\nb: 3"),
        ("a: 'x'", "a: 9"),
        ("\ufeffa: 1\r\nb: 3\r\n", "\ufeffa: 9\r\nb: 3\r\n"),
    ],
)
def test_every_form_of_an_old_value_gives_way_to_the_new_one(text, expected):
    assert set_values(text, {("a",): 9}) == expected


def test_a_new_mapping_keeps_the_anchors_of_its_parts():
    text = "hyperparameters:\n  sgd: &sgd\n    momentum: &m 0.9\nmodel: [*m, *sgd]\n"

    changed = set_values(text, {("hyperparameters", "sgd"): {"momentum": 0.5, "dampening": 0}})

    assert load(changed)["model"] == [0.5, {"momentum": 0.5, "dampening": 0}]
    with pytest.raises(UserError, match=r"cannot set 'hyperparameters.sgd' to SGD: .*anchor '&m'"):
        set_values(text, {("hyperparameters", "sgd"): "SGD"})


def test_the_last_config_decides_and_an_override_decides_over_it():
    second = "hyperparameters:\n  lr: &lr 0.7\n  sgd: {momentum: *lr}  # own\n"
    sources = [ConfigSource("one.yaml", CONFIG), ConfigSource("two.yaml", second)]

    texts = apply(sources, {("lr",): 0.3, ("wd",): 0})

    optimizer = {"lr": 0.3, "weight_decay": 0, "momentum": 0.3}
    assert load(texts[0])["model"]["optimizer"] == optimizer
    assert texts[1] == second.replace("0.7", "0.3")
    assert values(texts) == {"lr": 0.3, "wd": 0, "milestones": [2, 4], "sgd": {"momentum": 0.3}}


def test_configs_without_changes_stay_as_they_are():
    texts = [CONFIG, "", "# nothing\n", "trainer: {max_epochs: 1}\n"]

    assert apply([ConfigSource("a.yaml", text) for text in texts], {}) == texts


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("lrr",), r"no hyperparameter 'lrr', did you mean 'lr'\? This config has: lr, wd, mile"),
        (("sgd", "momentun"), r"'sgd.momentun', did you mean 'sgd.momentum'\?"),
        (("lr", "x"), "no hyperparameter 'lr.x'"),
    ],
)
def test_an_unknown_hyperparameter_is_refused(path, message):
    with pytest.raises(UserError, match=message):
        apply([ConfigSource("a.yaml", CONFIG)], {path: 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {}", "no hyperparameter 'b'. This config has no hyperparameters."),
        (
            "hyperparameters: {lr: &lr 1, b: *lr}",
            "is an alias of 'hyperparameters.lr'; change that",
        ),
        ("hyperparameters: [b]", "a.yaml:1: 'hyperparameters' holds 'name: value' lines"),
        ("hyperparameters: {1: 1}", "reads a name here as 1; put it in quotes"),
        ("hyperparameters: {on: 1}", "reads the name on as True; put it in quotes, 'on'"),
    ],
)
def test_a_block_which_cannot_be_changed_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        apply([ConfigSource("a.yaml", text)], {("b",): 2})


def test_hyperparameters_are_taken_out_of_the_command_line():
    line = "fit --hyperparameters.lr 1e-4 -c x.yaml --hyperparameters.sgd.m=-0.5 --model.lr 3"

    overrides, remaining = split_arguments(
        [*line.split(), "--hyperparameters", "{wd: 0}", "--hyperparameters.x", "-0.5"]
    )

    assert overrides == {("lr",): 0.0001, ("sgd", "m"): -0.5, ("wd",): 0, ("x",): -0.5}
    assert remaining == ["fit", "-c", "x.yaml", "--model.lr", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hyperparameters.lr"], "--hyperparameters.lr needs a value"),
        (["--hyperparameters.lr", "--model.lr", "1"], "--hyperparameters.lr needs a value"),
        (["--hyperparameters.lr="], "--hyperparameters.lr needs a value"),
        (["--hyperparameters.", "1"], "names no hyperparameter"),
        (["--hyperparameters", "3"], "takes a mapping"),
        (["--hyperparameters.lr", "[1"], "this sequence in brackets is not complete"),
    ],
)
def test_a_wrong_option_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        split_arguments(arguments)


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n  lr: 1\n  wd: 2\n  lr: 3", r"f.yaml:4: duplicate key 'lr' \(first on line 2\)"),
        ("1: a\n1: b", "f.yaml:2: duplicate key '1'"),
        ("a: *lrr\nb: &lr 1", r"f.yaml:1: no anchor '&lrr' for this alias, did you mean 'lr'\?"),
        ("a: *lr\nb: &lr 1", "f.yaml:1: alias '.lr' stands before its anchor"),
        ("a: &x 1\nb: &x 2", "f.yaml:2: anchor '&x' is defined a second time"),
        ("a: &a [*a]", "f.yaml:1: this value contains an alias of itself"),
        ("a:\n\tb: 1", "f.yaml:2: a tab"),
        ("a: b: c", "f.yaml:1: a second ':'"),
        ("a:\n  lr:0.3\n  b: 2", "f.yaml:2: a blank is missing behind a colon: 'lr: 0.3'"),
        ("a:\n  lr:&l 3\n  c: 1\nb: 2", "f.yaml:2: a blank is missing behind a colon: 'lr: &l 3'"),
        ("a: &n 3\nb: {c: ${n}}", r"f.yaml:2: a value is used again by '\*name', not by"),
        ("a: &a 1\nb:*a\nc: 2", "f.yaml:2: a blank is missing behind a colon: 'b: .a'"),
        ("a: [1\nb: 2", "f.yaml:2: .* in brackets"),
        ("- a", "f.yaml:1: .* found a list"),
        ("text", "f.yaml:1: .* found 'text'"),
        ("{{a}}: 1", "f.yaml:1: a list or mapping cannot be a name"),
        ("a: !x 1", "f.yaml:1: unknown tag '!x'"),
        ("a: !!int x", "f.yaml:1: 'x' is not of the kind int"),
        ("<<: 3", "f.yaml:1: .* merging"),
        ("a: 1\nb: \x01", "f.yaml:2: a character"),
        ("a: 1\n---\nb: 2", "f.yaml:2: expected a single document"),
        ("a: " + "[" * 101 + "]" * 101, "more than 100 levels"),
        ("a: " + "[" * 3000, "more than 100 levels"),
        (BOMB, "aliases make more than 100000 values"),
    ],
)
def test_a_wrong_config_is_refused_with_its_line(text, message):
    with pytest.raises(UserError, match=message):
        check(ConfigSource("f.yaml", text))


@pytest.mark.parametrize("text", ["", "# c\n", "---\n", "null", CONFIG])
def test_a_right_config_passes(text):
    check(ConfigSource("f.yaml", text))


def test_hyperparameters_without_an_alias_are_unused():
    block = "{a: &a 1, b: &b {c: *a}, d: &d {e: &e 1}, f: &f {g: 1}, h: 2, i: &i 3, j: *i}"
    text = f"hyperparameters: {block}\nmodel: {{b: *b, e: *e, <<: *f}}\n"

    assert unused([text]) == ["h", "i", "j"]
    assert unused([text, "hyperparameters: {h: &h 1}\nx: *h\n"]) == ["i", "j"]


def test_a_saved_config_has_the_anchors_of_the_user_again():
    data = load(CONFIG)
    data["model"]["optimizer"]["nesterov"] = False

    saved = with_aliases(yaml.safe_dump(data), anchors([CONFIG]))

    assert saved.startswith("hyperparameters:\n  lr: &lr 0.02\n")
    assert "    momentum: *sgd_momentum\n    nesterov: false\n" in saved
    assert "    milestones: *ms\n" in saved


def test_a_number_that_became_a_fraction_is_linked_but_true_is_not_one():
    text = "hyperparameters: {a: &a 1}\nb: *a\nc: *a\n"

    saved = with_aliases("hyperparameters: {a: 1}\nb: 1.0\nc: true\n", anchors([text]))

    assert saved == "hyperparameters:\n  a: &a 1.0\nb: *a\nc: true\n"


def test_the_smallest_parts_that_differ_are_found():
    first = {"lr": 0.1, "betas": [0.9, 0.99], "blocks": [{"a": 1, "b": 2}], "gone": None}
    second = {"lr": 0.1, "betas": [0.9, 0.98], "blocks": [{"b": 2, "a": 1.0}], "new": {}}

    assert list(differing(first, second)) == [
        (("betas",), [0.9, 0.99], [0.9, 0.98]),
        (("blocks", 0, "a"), 1, 1.0),
        (("gone",), None, MISSING),
        (("new",), MISSING, {}),
    ]


def test_one_batch_and_all_batches_are_two_values():
    text = "hyperparameters: {share: &share 1}\ntrainer: {limit_train_batches: *share}\n"

    (changed,) = apply([ConfigSource("c", text)], {("share",): 1.0})

    assert changed == text.replace("&share 1", "&share 1.0")


def test_a_place_which_a_later_config_sets_has_no_alias():
    later = "model: {optimizer: {lr: 0.02}}"

    found = {anchor.name: anchor.places for anchor in anchors([CONFIG, later])}

    assert "lr" not in found
    assert found["wd"][1:] == [("model", "optimizer", "weight_decay")]


def test_a_class_completed_by_the_parser_still_follows_its_hyperparameter():
    text = "hyperparameters:\n  net: &net {class_path: Net}\n  opt: &opt SGD\na: *net\nb: *opt\n"
    net = {"class_path": "torch.nn.Net", "init_args": {"width": 8}}
    opt = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    block = {"net": {"class_path": "Net"}, "opt": "SGD"}

    saved = with_aliases(
        yaml.safe_dump({"hyperparameters": block, "a": net, "b": opt}), anchors([text])
    )
    again = apply(
        [ConfigSource("saved.yaml", saved)],
        {("net", "init_args", "width"): 16, ("opt",): "torch.optim.Adam"},
    )

    assert load(saved) == {"hyperparameters": {"net": net, "opt": opt}, "a": net, "b": opt}
    assert load(again[0])["a"]["init_args"]["width"] == 16
    assert load(again[0])["b"] == "torch.optim.Adam"


def test_equal_anchor_names_of_two_configs_stay_apart():
    texts = ["a: &x 1\nb: *x\n", "c: &x 2\nd: *x\n"]

    saved = with_aliases("a: 1\nb: 1\nc: 2\nd: 2\n", anchors(texts))

    assert saved == "a: &x 1\nb: *x\nc: &x_2 2\nd: *x_2\n"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("model", "optimizer", "lr"), 12),
        (("model", "scheduler", "milestones", "1"), 5),
        (("model", "optimizer", "momentum"), 7),
        (("model", "optimise"), None),
    ],
)
def test_a_key_is_located_by_its_line(path, line):
    assert locate(CONFIG, path) == line


def test_the_import_does_not_need_torch():
    code = "import sys, classifier.anchored_yaml.aliases; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
