"""Trains configs as the trials of Ray Tune, two at a time, for ``search_speed.py``."""

import argparse
from pathlib import Path

import ray
from ray import tune


def train(config: dict[str, str]) -> None:
    """Fits a config in Ray's process."""
    from classifier.cli import run
    from classifier.runs import best_value, read_metrics

    runs = Path(config["runs"])
    code = run(["fit", "--config", config["file"], "--trainer.default_root_dir", str(runs)])
    assert code == 0
    (folder,) = (runs / Path(config["file"]).stem).iterdir()
    tune.report({"val_accuracy": best_value(read_metrics(folder), "val_accuracy", "maximize")})


def main() -> None:
    """Runs one trial for each config."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--reuse_actors", action="store_true")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False)
    results = tune.Tuner(
        train,
        param_space={
            "file": tune.grid_search(options.files),
            "runs": str(options.folder / "runs"),
        },
        tune_config=tune.TuneConfig(reuse_actors=options.reuse_actors),
        run_config=tune.RunConfig(storage_path=str(options.folder), name="ray"),
    ).fit()
    assert results.num_errors == 0


if __name__ == "__main__":
    main()
