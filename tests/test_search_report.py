"""What a search says: its table, its best, its importances, its progress, and its refit."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from searches import Search, trial_folder, trials_of

from classifier import runs
from classifier.__main__ import main
from classifier.search.report import duration, time_left
from classifier.search.results import Results
from classifier.search.settings import load
from classifier.search.study import Study


def told(capsys, *arguments):
    """What an action prints."""
    assert main(["search", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_table_lists_the_trials_best_first(found, capsys):
    header, *lines = told(capsys, "table", found).splitlines()

    assert header.split() == ["trial", "state", "val_accuracy", "lr", "width", "epochs", "seconds"]
    values = [float(line.split()[2]) for line in lines]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)


def test_the_status_of_an_ended_search_says_so(found, capsys):
    text = told(capsys, "status", found)

    assert "found: 4 of 4 trials done (4 complete)\nbest: trial " in text


def test_the_status_of_a_stopped_search_says_that_no_worker_is_active(copied, capsys):
    settings = copied / "search.yaml"
    settings.write_text(settings.read_text().replace("n_trials: 4", "n_trials: 9"))

    assert "4 of 9 trials done (4 complete); no active worker" in told(capsys, "status", copied)


def test_the_best_is_shown_with_what_it_changes(found, capsys):
    best = max(trials_of(found), key=lambda trial: trial.value)

    text = told(capsys, "best", found)

    assert text.startswith(f"trial {best.number}, val_accuracy {best.value:.4f}  lr ")
    assert "classifier fit --config found/best.yaml" in text
    assert f"--ckpt_path found/trials/{best.number:04d}/checkpoints/best.ckpt" in text
    if best.number:
        assert f"+  lr: &lr {best.params['lr']}" in text


def test_the_best_checkpoint_of_a_trial_is_that_of_the_searched_metric(found, capsys):
    best = max(trials_of(found), key=lambda trial: trial.value)
    folder = trial_folder(found, best.number)

    assert main(["validate", "--ckpt_path", str(folder)]) == 0

    (told,) = re.findall(r"val_accuracy +([\d.]+)", capsys.readouterr().out)
    record = runs.read_record(folder)["best"]
    assert record["monitor"] == "val_accuracy"  # the base config follows val_loss
    assert float(told) == round(record["value"], 4) == round(best.value, 4)


def test_the_importances_are_shares(found, capsys):
    *bars, last = told(capsys, "importance", found).splitlines()

    assert {bar.split()[0] for bar in bars} == {"lr", "width"}
    assert 98 <= sum(int(bar.split()[1].rstrip("%")) for bar in bars) <= 102
    assert last == "of the differences in val_accuracy, over 4 complete trials"


def test_the_importances_are_drawn_where_matplotlib_is(found, own_folder, capsys):
    plot = own_folder / "importance.png"
    if subprocess.run([sys.executable, "-c", "import matplotlib"]).returncode:
        assert main(["search", "importance", str(found), "--plot", str(plot)]) == 2
        assert "pip install matplotlib" in capsys.readouterr().err
        return

    told(capsys, "importance", found, "--plot", plot)

    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main(["search", "importance", str(found), "--plot", str(plot)]) == 2
    assert "exists; name another file" in capsys.readouterr().err


def begun_anew(folder):
    """A search folder without any trial."""
    (folder / "journal.log").unlink()
    Study(load(folder))
    return folder


def test_the_importances_need_something_to_compare(copied, capsys):
    begun_anew(copied)

    assert main(["search", "importance", str(copied)]) == 2
    assert "at least two names and two complete trials" in capsys.readouterr().err


def test_the_best_of_nothing_is_refused(copied, capsys):
    begun_anew(copied)

    for action in ("best", "refit"):
        assert main(["search", action, str(copied)]) == 2
        assert "no complete trial yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel", "found"], "search has no 'tabel', did you mean 'table'?"),
        (["table"], "the following arguments are required: DIR; see classifier search table"),
        (["table", "fund"], "'fund' is not the folder of a search, without search.yaml"),
        (["refit", "found", "--seeds", "0"], "'0' is not a whole number of at least 1"),
        (["refit", "found", "--sedes", "3"], "unrecognized arguments: --sedes"),
    ],
)
def test_a_mistake_takes_one_line(found, arguments, message, capsys):
    assert main(["search", *arguments]) == 2

    text = capsys.readouterr().err
    assert message in text
    assert len(text.splitlines()) == 1


def test_a_refit_trains_the_best_with_new_seeds_and_goes_on_when_repeated(copied):
    arguments = ["refit", "found", "--top_k", "2", "--seeds", "2"]
    best = sorted(trials_of(copied), key=lambda trial: (-trial.value, trial.number))[:2]
    command = (sys.executable, "-m", "classifier", "search", *arguments)

    for _ in range(2):
        with Search(*command) as search:
            assert search.end() == 0, Path("output.txt").read_text()

    folder = copied / "refit_1"
    assert [t.params for t in trials_of(folder)] == [t.params for t in best for _ in range(2)]
    seeds = [
        yaml.safe_load(path.read_text())["seed_everything"]
        for path in sorted(folder.glob("trials/*/trial.yaml"))
    ]
    assert seeds == [1, 2, 1, 2]
    assert not (copied / "refit_2").exists()
    text = Path("output.txt").read_text()
    assert text.count("complete  val_accuracy") == 4 + 4  # of the search, and once each anew
    assert f"trial {best[0].number} of the search: {best[0].value:.4f} there, 0." in text
    assert " ± 0." in text


def test_the_rest_of_the_time_is_estimated_from_the_trials_so_far(copied):
    settings = copied / "search.yaml"
    settings.write_text(settings.read_text().replace("n_trials: 4", "n_trials: 10"))
    study = Study.of(copied)
    results = Results(study)

    mean = sum(row.outcome.seconds for row in results.rows) / len(results.rows)

    assert time_left(results, 2) == f"6 trials left, about {duration(6 * mean / 2)}"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_a_time_is_said_in_words(seconds, words):
    assert duration(seconds) == words
