"""Several runs as one Dataset: found on disk, joined along `algorithm` and `env`, taken apart."""

import json
import math
import os
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from purejax_po.checks import check_choice
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.layout import COMPARISON
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import statistics
from purejax_po.types import JSONObject

if TYPE_CHECKING:
    import xarray as xr

OF_THE_TASK = ("wrappers", "randomize", "env_params", "env_options")
"""What makes of one environment unlike tasks; labels that are given tell all but the first."""

StrPath = str | os.PathLike[str]
Paths = StrPath | Sequence[StrPath] | Mapping[str | None, StrPath | Sequence[StrPath]]
Runs = dict[tuple[str, str], "xr.Dataset"]
"""Results of single runs by algorithm (or its label) and environment."""

COUNTS = {"num_episodes": np.int32, "diverged_at": np.int32}
"""Whole numbers, which are floats where runs of different lengths are joined."""
FIGURES = results.SECONDS
"""Attributes of a run that become variables by algorithm and environment."""
FREE = ("num_seeds", "first_seed", "lanes_per_device")
"""Fields of a configuration in which runs of one experiment may differ."""


def load_runs(paths: Paths) -> "xr.Dataset":
    """Read several runs as one Dataset.

    Args:
        paths: directories of runs, directories that hold runs, or `results.nc` files; or a mapping
            from labels to them, which distinguishes runs of one algorithm with other settings.

    Returns:
        Results with dims `seed`, `update` as a single run's, and in front of them `algorithm` and
        `env` where there are several. Runs of the same configuration with other seeds are joined
        along `seed`. NaN where a run has no such seed, update or variable; `step` depends on the
        algorithm too. Times are variables by algorithm and environment; `attrs["runs"]` holds the
        other attributes of each run as JSON. Runs on one environment with different wrappers,
        parameters or options are joined with a warning.

    Raises:
        ValueError: naming the path, for a missing, damaged or foreign file, or for two runs that
            have one name but different configurations or common seeds.
    """
    given = paths if isinstance(paths, Mapping) else {None: paths}
    named = [(label, path) for label, some in given.items() for path in listed(some)]
    for _, path in named:
        atomic.check_path("paths", path)
    if not named:
        raise ValueError("paths must name at least one run, got none")
    runs: Runs = {}
    places: dict[tuple[str, str], Path] = {}
    given_as: dict[tuple[str, str], str | None] = {}
    for own, path in named:
        for found, place in find_runs(Path(path)):
            dataset = results.load(place)
            if "algorithm" not in dataset.attrs:
                raise ValueError(f"paths must be single runs, got {place}, which holds several")
            if label := own or found:
                dataset.attrs["algorithm"] = label
            key = dataset.attrs["algorithm"], dataset.attrs["env"]
            if given_as.setdefault(key, own) != own:
                raise ValueError(
                    f"each label must be given once, got {key[0]} for {places[key]} and for {place}"
                )
            if key in runs:
                dataset = _join_seeds(runs[key], dataset, places[key], place)
            runs[key], places[key] = dataset, place
    _tell_unlike(runs, OF_THE_TASK[: 1 if isinstance(paths, Mapping) else None])
    return join(runs)


def _tell_unlike(runs: Runs, names: Sequence[str]) -> None:
    """Warn of runs on one environment whose settings of it differ."""
    by_env: dict[tuple[str, str], dict[str, str]] = {}
    for (algorithm, env), run in runs.items():
        config = json.loads(run.attrs.get("config", "{}"), parse_int=float)  # 10 is 10.0
        for name in names:
            held = run.attrs.get(name) or config.get(name)
            shown = held if isinstance(held, str) else json.dumps(held, sort_keys=True)
            by_env.setdefault((env, name), {})[algorithm] = shown if held else "none"
    for (env, name), found in by_env.items():
        if len(set(found.values())) > 1:
            shown = "; ".join(f"{k}: {v}" for k, v in found.items())
            warnings.warn(
                f"{name} should be the same for all runs on {env}, got {shown}; their returns are "
                "of unlike tasks",
                stacklevel=3,
            )


def is_run(path: Path) -> bool:
    """Tell whether a directory is that of a single run."""
    return (path / layout.RESULTS).exists() or (path / layout.CONFIG).exists()


def find_runs(path: Path) -> list[tuple[str | None, Path]]:
    """Return the labels (if any) and places of the runs that a path stands for.

    Raises:
        ValueError: if there is none.
    """
    if not path.is_dir() or is_run(path):
        return [(None, path)]
    if (path / COMPARISON).exists():
        runs = read_comparison(path)["runs"]
        return [(run["algorithm"], path / run["directory"]) for run in runs]
    below = sorted(p.parent for p in path.glob(f"*/{layout.CONFIG}"))
    if not below:
        raise ValueError(f"paths must hold runs, got {path}, which is and holds no run")
    return [(None, place) for place in below]


def read_comparison(directory: Path) -> JSONObject:
    """Read `comparison.json`.

    Raises:
        ValueError: naming the file, if it cannot be read.
    """
    path = directory / COMPARISON
    try:
        found = json.loads(path.read_text())
        if not all({"algorithm", "env", "directory", "config"} <= set(r) for r in found["runs"]):
            raise KeyError
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{COMPARISON} must be that of a comparison, got {path}") from None
    return found


def join(runs: Runs) -> "xr.Dataset":
    """Join single runs; see `load_runs`."""
    import xarray as xr

    algorithms = list(dict.fromkeys(algorithm for algorithm, _ in runs))
    envs = list(dict.fromkeys(env for _, env in runs))
    if len(runs) == 1:
        return next(iter(runs.values()))
    for (algorithm, env), run in runs.items():
        if axes := results.swept(run):
            raise ValueError(
                f"runs that are joined must be at one point, got a sweep over {', '.join(axes)}: "
                f"{algorithm} on {env}; report it by itself"
            )
    dims = list(dict.fromkeys(dim for run in runs.values() for dim in run.dims))
    rows = []
    for algorithm in algorithms:
        row = [_widen(runs.get((algorithm, env)), dims) for env in envs]
        dim = xr.Variable("env", envs)
        rows.append(xr.concat(row, dim, join="outer") if len(envs) > 1 else row[0])
    dataset = rows[0]
    if len(algorithms) > 1:
        dataset = xr.concat(rows, xr.Variable("algorithm", algorithms), join="outer")
    # Labels last: concatenation would order the dims by where they first turn up.
    dataset = dataset.transpose("algorithm", "env", *dims, missing_dims="ignore")
    dataset = dataset.set_coords("step")
    dataset.attrs = {
        "runs": json.dumps(
            [
                {k: v for k, v in run.attrs.items() if k not in FIGURES}
                | {"algorithm": algorithm, "env": env}
                for (algorithm, env), run in runs.items()
            ],
            default=lambda x: x.item(),  # a NumPy scalar, as netCDF attributes are
        )
    }
    return dataset


def split(dataset: "xr.Dataset") -> Runs:
    """Undo `join`; of a part of a joined Dataset, return the parts of its runs.

    Returns:
        The runs by algorithm and environment; a single run's Dataset is its own only part.
    """
    results.check_results(dataset)
    if "runs" not in dataset.attrs:
        return {(dataset.attrs.get("algorithm", ""), dataset.attrs.get("env", "")): dataset}
    own = [dim for dim in ("algorithm", "env") if dim in dataset.coords]
    dataset = dataset.expand_dims([dim for dim in own if dim not in dataset.dims])
    runs: Runs = {}
    for attributes in json.loads(dataset.attrs["runs"]):
        if all(attributes[dim] in dataset[dim].values for dim in own):
            part = dataset.sel({dim: attributes[dim] for dim in own})
            if (run := _narrow(part, attributes)) is not None:
                runs[attributes["algorithm"], attributes["env"]] = run
    if not runs:
        raise ValueError("dataset must hold a run, got a part of joined runs in which none is")
    return runs


def final_returns(dataset: "xr.Dataset") -> dict[str, dict[str, np.ndarray]]:
    """Return the final returns `[seeds]` by environment and algorithm.

    Seeds that diverged, or that ended no episode in the last tenth of training, are left out.

    Raises:
        ValueError: for a sweep of several points.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for (algorithm, env), run in split(dataset).items():
        results.check_one_point(run)
        found.setdefault(env, {})[algorithm] = results.sound_final_returns(run)
    return found


def normalized_scores(
    dataset: "xr.Dataset", reference: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, list[np.ndarray]]:
    """Return each algorithm's final returns on every environment, scaled to be comparable.

    Args:
        dataset: results of one or several runs.
        reference: by environment, the returns that become 0 and 1, e.g. those of a random and of
            an optimal policy. By default the smallest and the largest final return of all
            algorithms given: then scores depend on what is compared.

    Returns:
        By algorithm a list of `[seeds]`, one per environment. Algorithms without a final return on
        one of the environments are left out.

    Raises:
        ValueError: for a reference that lacks an environment or whose ends do not differ.
    """
    finals = final_returns(dataset)
    algorithms = dict.fromkeys(name for by_name in finals.values() for name in by_name)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in algorithms}
    for env, by_name in finals.items():
        everything = np.concatenate(list(by_name.values()))
        if reference is not None:
            check_choice("reference", env, tuple(reference))
            low, high = reference[env]
            if low == high:
                raise ValueError(f"reference of {env} must have two different ends, got {low}")
        else:  # unused if nothing is known
            low, high = everything.min(initial=np.inf), everything.max(initial=-np.inf)
        for name, final in by_name.items():
            if len(final):
                scores[name].append(statistics.normalize(final, low, high))
    return {name: tasks for name, tasks in scores.items() if len(tasks) == len(finals)}


def listed(paths: StrPath | Sequence[StrPath]) -> list[StrPath]:
    """Return the paths, of one or of several."""
    if isinstance(paths, str | os.PathLike) or not isinstance(paths, Iterable):
        return [paths]
    return list(paths)


def _widen(run: "xr.Dataset | None", dims: Sequence[Hashable]) -> "xr.Dataset":
    """Give a run the seeds and updates of all; NaN where it has none."""
    import xarray as xr

    if run is None:
        run = xr.Dataset(coords={dim: np.arange(0) for dim in dims})
        run = run.assign(step=("update", []))
    run = run.assign_coords({dim: np.arange(0) for dim in dims if dim not in run.dims})
    wide = run.reset_coords("step")
    for name in FIGURES:
        wide[name] = (), float(run.attrs.get(name, math.nan))
    return wide.drop_attrs(deep=False)


def _narrow(part: "xr.Dataset", attributes: JSONObject) -> "xr.Dataset | None":
    """Undo `_widen`."""
    figures = {k: float(part[k]) for k in FIGURES if k in part and not math.isnan(part[k])}
    part = part.drop_vars([*FIGURES, "algorithm", "env"], errors="ignore")
    part = part.isel(seed=np.flatnonzero(np.isfinite(part["diverged_at"].values)))
    if part.sizes["seed"] == 0:
        return None
    part = part.isel(update=np.flatnonzero(np.isfinite(part["step"].values)))
    if "evaluation" in part.dims:
        known = np.isfinite(part["evaluation_return"].values).any(axis=0)
        part = part.isel(evaluation=known) if known.any() else part.drop_dims("evaluation")
    kept = [*results.EPISODES, "final_return"]
    config = json.loads(attributes.get("config", "{}"))
    if any(config.get(name) is not None for name in ("solve_return", "stop_when_solved")):
        kept.append("solved_at")
    part = part.drop_vars(
        [name for name in part if name not in kept and np.all(np.isnan(part[name].values))]
    )
    for name, dtype in COUNTS.items():
        part[name] = part[name].astype(dtype)
    part = part.assign_coords(step=part["step"].astype(int))
    part.attrs = {**attributes, **figures}
    return part


def summarize(dataset: "xr.Dataset") -> JSONObject:
    """Return what `summary.json` holds of a run (see `dataset.summarize`), as JSON-ready values.

    Of several runs, as `load_runs` and `compare` return them: `{"runs": [...]}` with the summary of
    each, which names its algorithm and environment.
    """
    found = [results.summarize(run) for run in split(dataset).values()]
    if {"algorithm", "env"} & set(dataset.dims):
        return {"runs": found}
    (one,) = found  # of several runs, one may have been chosen
    return one


def _join_seeds(first: "xr.Dataset", second: "xr.Dataset", one: Path, other: Path) -> "xr.Dataset":
    """Join two runs that differ in their seeds alone."""
    import xarray as xr

    configs = [json.loads(run.attrs["config"]) for run in (first, second)]
    bare = [{k: v for k, v in config.items() if k not in FREE} for config in configs]
    name = f"{first.attrs['algorithm']} on {first.attrs['env']}"
    if bare[0] != bare[1]:
        raise ValueError(
            f"two runs of {name} must have one configuration, got {one} and {other}; "
            "give them labels: load_runs({label: path, …}), or new=PATH on the command line"
        )
    if common := set(first["seed"].values.tolist()) & set(second["seed"].values.tolist()):
        raise ValueError(
            f"two runs of {name} must have seeds of their own, got {one} and {other} "
            f"with seed {min(common)} in both"
        )
    joined = xr.concat([first, second], "seed").sortby("seed")
    compiling, seconds, speeds = (
        [float(run.attrs.get(name, math.nan)) for run in (first, second)] for name in FIGURES
    )
    total = sum(seconds)
    joined.attrs = {
        **first.attrs,
        "config": json.dumps({**configs[0], "num_seeds": joined.sizes["seed"]}),
        "compile_seconds": sum(compiling),
        "run_seconds": total,
        "env_steps_per_second": float(np.dot(speeds, seconds) / total) if total else math.nan,
    }
    return joined
