"""Results as labelled data: from windowed logs to a Dataset, a summary and files."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.results import statistics
from purejax_po.metrics import Log
from purejax_po.types import JSONObject

if TYPE_CHECKING:
    import xarray as xr

FINAL_FRACTION = 0.1
"""The share of training, at its end, whose episodes make the final return."""

SECONDS = ("compile_seconds", "run_seconds", "env_steps_per_second")
GIBIBYTES = ("memory_estimate_gib", "memory_peak_gib")
CIRCUMSTANCES = (*SECONDS, "device", "times_halved", *GIBIBYTES)
"""Attributes that tell how a run went, not what came out."""

EPISODES = ("num_episodes", "episode_return", "episode_return_std", "episode_length")
"""Variables by seed and update that every run has; the others are the algorithm's diagnostics."""

LABELS = ("algorithm", "env", "seed", "update", "step", "evaluation")
SHA256 = "results_sha256"
"""What `summary.json` calls the checksum of `results.nc`."""
OUTCOMES = ("final_return", "diverged_at", "evaluation_return", "final_evaluation", "solved_at")


def to_dataset(
    log: Log,
    *,
    seeds: Sequence[int] | np.ndarray,
    updates: Sequence[int] | np.ndarray,
    steps_per_update: int,
    axes: Mapping[str, Sequence[float]] | None = None,
) -> "xr.Dataset":
    """Label a log.

    Args:
        log: NumPy leaves `[lanes, windows]`: seeds, at one point of a sweep after the other.
        seeds: the seeds' values.
        updates: updates done by the end of each window.
        steps_per_update: environment steps of one update.
        axes: of a sweep, values by label; the last axis changes fastest.

    Returns:
        A Dataset with a dim for each axis, and dims `seed`, `update`: means over each window of
        `episode_return` (reward units), `episode_length` (steps) and of every diagnostic of the
        algorithm; NaN where no episode ended. `step` is the coordinate in environment steps per
        seed. A diagnostic that has an axis's name gets `_in_use` behind its own.
    """
    import xarray as xr

    axes = axes or {}
    dims = (*axes, "seed", "update")
    shape = (*map(len, axes.values()), len(seeds), len(updates))
    episodes = log.episode_return
    variance = episodes.m2 / np.maximum(episodes.count, 1)
    variables = {
        "num_episodes": episodes.count.astype(np.int32),
        "episode_return": np.where(episodes.count > 0, episodes.mean, np.nan),
        "episode_return_std": np.where(episodes.count > 0, np.sqrt(variance), np.nan),
        "episode_length": np.where(episodes.count > 0, log.episode_length.mean, np.nan),
    }
    for name, mean in log.info.mean.items():
        free = name.replace("/", ".")  # netCDF's separator
        if free in (*axes, *EPISODES, *SECONDS, *LABELS, *OUTCOMES):
            free = f"{free}_in_use"
        variables[free] = np.where(log.info.count > 0, mean, np.nan)
    updates = np.asarray(updates)
    labels = {**axes, "seed": np.asarray(seeds), "update": updates}
    shaped = {name: (dims, np.reshape(x, shape)) for name, x in variables.items()}
    dataset = xr.Dataset(shaped, coords=labels)
    dataset = dataset.assign_coords(step=("update", updates * steps_per_update))
    dataset["final_return"] = dims[:-1], final_return(dataset)
    return dataset


def final_return(
    dataset: Mapping[Any, Any], ends: np.ndarray | None = None, whole: int | None = None
) -> np.ndarray:
    """Mean return `[..., seeds]` of the episodes that end in the last tenth of training.

    A window counts if all of it lies there; the last window always does. NaN if no episode ended.

    Args:
        dataset: of training; or a mapping of what it holds by these names.
        whole: updates of which the last ones are a tenth; those of the dataset by default.
        ends: updates that each lane made, `[..., seeds]`; all of them by default.
    """
    updates = np.asarray(dataset["update"])
    begins = np.concatenate([[0], updates[:-1]])
    count = np.asarray(dataset["num_episodes"])
    mean = np.nan_to_num(dataset["episode_return"])
    if ends is None:
        last = begins >= updates[-1] - FINAL_FRACTION * (whole or updates[-1]) - 1e-9
        last[-1] = True
        count, mean = count[..., last], mean[..., last]
    else:
        end = np.asarray(ends)[..., None]
        lies_there = (begins >= (1 - FINAL_FRACTION) * end) & (updates <= end)
        count = count * (lies_there | (updates == end))
    total = count.sum(axis=-1)
    return np.where(total > 0, (count * mean).sum(axis=-1) / np.maximum(total, 1), np.nan)


def check_results(dataset: object) -> None:
    """Raise `ValueError` unless these are results: of a run, of a sweep or of several runs."""
    if "final_return" in getattr(dataset, "variables", ()):
        return
    is_evaluation = "episode" in getattr(dataset, "dims", ())
    hint = "; an evaluation has returns of episodes alone" if is_evaluation else ""
    raise ValueError(
        "dataset must be results of run, compare, load_results or load_runs, got "
        f"{type(dataset).__name__} without final_return{hint}"
    )


def swept(dataset: "xr.Dataset") -> tuple[str, ...]:
    """Return the names of the axes of a sweep."""
    check_results(dataset)
    dims = dataset["final_return"].dims
    return tuple(str(dim) for dim in dims if dim not in LABELS)


def at(dataset: "xr.Dataset") -> dict[str, float]:
    """Return the values of swept axes at which a Dataset has been chosen from a sweep."""
    return {
        str(name): coord.item()
        for name, coord in dataset.coords.items()
        if coord.ndim == 0 and name not in LABELS
    }


def check_one_point(dataset: "xr.Dataset") -> None:
    """Raise `ValueError` if there are several points of a sweep."""
    if axes := swept(dataset):
        chosen = ", ".join(f"{axis}=…" for axis in axes)
        raise ValueError(f"dataset must hold one point of the sweep: dataset.sel({chosen})")


def points(dataset: "xr.Dataset") -> Iterator["xr.Dataset"]:
    """Yield the part of each point of a sweep; without one, the Dataset itself."""
    axes = swept(dataset)
    for index in np.ndindex(*[dataset.sizes[axis] for axis in axes]):
        yield dataset.isel(dict(zip(axes, index, strict=True)))


def best(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return the part of the point with the highest IQM of the final return.

    Points at which a seed diverged come after all others.
    """

    def merit(part: "xr.Dataset") -> tuple[bool, float]:
        kept = sound_final_returns(part)
        iqm = float(statistics.iqm(kept)) if len(kept) else -math.inf
        return not np.any(part["diverged_at"].values >= 0), iqm

    return max(points(dataset), key=merit)


def sound_final_returns(dataset: "xr.Dataset") -> np.ndarray:
    """Return the final returns of the seeds that did not diverge and ended an episode."""
    final, diverged_at = dataset["final_return"].values, dataset.get("diverged_at", -1)
    return final[np.isfinite(final) & (np.asarray(diverged_at) < 0)]


def summarize(dataset: "xr.Dataset") -> JSONObject:
    """Return what `summary.json` holds, as JSON-ready values.

    `final_return` is over seeds: interquartile mean with a 95 % bootstrap interval, mean, median,
    minimum and maximum of each seed's mean return at the end of training. Seeds that diverged or
    ended no episode there are left out and listed. For a sweep `points` holds one for each point;
    `final_return` is that of the point `best`, which it selected, so it is biased upwards.
    With evaluation in training `final_evaluation` is the same of the last one, and `solved` tells
    how many seeds reached the threshold and after how many steps half of them had (null: never).
    """
    attributes = dataset.attrs
    parts = list(points(dataset)) if swept(dataset) else []
    chosen = best(dataset) if parts else dataset
    summary = {
        "algorithm": attributes["algorithm"],
        "env": attributes["env"],
        **{k: attributes[k] for k in ("wrappers", "randomize") if k in attributes},
        "num_seeds": dataset.sizes["seed"],
        "total_steps": int(dataset["step"].values[-1]),
        "final_return": over_seeds(sound_final_returns(chosen)),
        **_of_evaluation(chosen, attributes),
        "diverged_seeds": [
            {**lane, "update": int(update)} for lane, update, _ in _lanes(dataset) if update >= 0
        ],
        "seeds_without_final_episodes": [
            lane if parts else lane["seed"]
            for lane, update, final in _lanes(dataset)
            if update < 0 and not math.isfinite(final)
        ],
        **{k: number(attributes.get(k, math.nan)) for k in SECONDS},
        "lanes_per_device": int(attributes["lanes_per_device"]),
        "device": attributes.get("device"),
        "times_halved": int(attributes.get("times_halved", 0)),
        **{k: number(attributes.get(k, math.nan)) for k in GIBIBYTES},
        "versions": json.loads(attributes["versions"]),
    }
    if parts:
        summary["best"] = at(chosen)
        summary["points"] = [
            {
                "point": at(part),
                "final_return": over_seeds(sound_final_returns(part)),
                "num_diverged": int(np.sum(part["diverged_at"].values >= 0)),
                **_of_evaluation(part, attributes),
            }
            for part in parts
        ]
    return summary


def _of_evaluation(dataset: "xr.Dataset", attributes: Mapping[str, Any]) -> JSONObject:
    """What is known of a run's final evaluation, and of when it was solved; nothing without one."""
    if "final_evaluation" not in dataset:
        return {}
    final, is_sound = dataset["final_evaluation"].values, dataset["diverged_at"].values < 0
    found: JSONObject = {"final_evaluation": over_seeds(final[is_sound & np.isfinite(final)])}
    if "solved_at" in dataset:
        config, steps = json.loads(attributes["config"]), dataset["solved_at"].values
        ends = config.get("stop_when_solved")
        found["solved"] = {
            "return": config.get("solve_return") if ends is None else ends,
            "num_seeds": int(np.isfinite(steps).sum()),
            "median_steps": number(_half_by(steps)),
        }
    return found


def _half_by(steps: np.ndarray) -> float:
    """The step by which half of the seeds had solved their task; NaN: never."""
    return np.quantile(np.nan_to_num(steps, nan=math.inf), 0.5, method="inverted_cdf")


def _lanes(dataset: "xr.Dataset") -> Iterator[tuple[JSONObject, int, float]]:
    """Yield each lane's point and seed, the update at which it diverged, and its final return."""
    for part in points(dataset):
        point = at(part) if swept(dataset) else {}
        columns = (part[name].values for name in ("seed", "diverged_at", "final_return"))
        for seed, update, final in zip(*columns, strict=True):
            yield {**point, "seed": int(seed)}, int(update), float(final)


def over_seeds(x: np.ndarray) -> dict[str, float | None]:
    """IQM with a 95 % bootstrap interval, mean, median, min, max of `[seeds]`; null: unknown."""
    low, high = statistics.bootstrap_interval(x)
    iqm = statistics.iqm(x) if len(x) else math.nan
    found = {"iqm": number(iqm), "ci_low": number(low), "ci_high": number(high)}
    reductions = {"mean": np.mean, "median": np.median, "min": np.min, "max": np.max}
    return found | {k: number(f(x)) if len(x) else None for k, f in reductions.items()}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("purejax-po", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy")
    extras = ("brax", "craftax", "jumanji", "pgx")  # whose games may be played
    found = {"python": platform.python_version(), **dict.fromkeys(packages, "not installed")}
    for package in (*packages, *extras):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def save(dataset: "xr.Dataset", path: Path) -> None:
    """Write a Dataset as netCDF-4, whole or not at all.

    `summary.json` holds times and devices: this file depends on the results alone, to the bit.
    """
    dataset = dataset.drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in dataset.attrs.items() if k not in CIRCUMSTANCES}
    )
    # By way of memory: HDF5 does not survive a full disk.
    atomic.write_bytes(path, bytes(dataset.to_netcdf(engine="h5netcdf")))


def save_results(dataset: "xr.Dataset", path: str | os.PathLike[str]) -> None:
    """Write results as netCDF-4, with their attributes; `load_results` reads them.

    Args:
        dataset: results of a run, of a sweep or of several runs, or a part of them.
        path: the file, whose name ends with `.nc`; replaced whole or not at all.

    Raises:
        ValueError: for another name, that of a run's own file, or one that cannot be written to.
    """
    atomic.check_path("path", path)
    path = Path(path)
    if path.suffix != ".nc" or path.with_name(layout.CONFIG).exists():
        raise ValueError(f"path must be a .nc file outside of a run's directory, got {path}")
    packed = {name: {"zlib": True, "complevel": 1} for name in dataset.data_vars}
    try:
        atomic.write_bytes(path, bytes(dataset.to_netcdf(engine="h5netcdf", encoding=packed)))
    except OSError as error:
        raise ValueError(f"path must be writable, got {path}: {error.strerror}") from None


def load(path: str | Path) -> "xr.Dataset":
    """Read the results of a run, or of several that were joined and saved.

    Args:
        path: a run's directory, its `results.nc`, or a file of `save_results`.

    Raises:
        ValueError: naming the file, if it is missing, damaged, no results file, or a run's that is
            not as it was written.
    """
    import xarray as xr

    atomic.check_path("path", path)
    path = Path(path)
    path = path / layout.RESULTS if path.is_dir() else path
    try:
        dataset = xr.load_dataset(path, engine="h5netcdf")
    except Exception as error:  # h5py raises anything for a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        reason = f"no readable netCDF file ({reason})" if path.exists() else "no such file"
        if not path.exists() and path.with_name(layout.CONFIG).exists():
            reason = "the run is not complete; resume it"
        raise ValueError(f"results must be a results.nc file, got {path}: {reason}") from None
    if not ({"algorithm", "runs"} & set(dataset.attrs) and "final_return" in dataset):
        raise ValueError(
            f"results must be a results.nc file, got {path}: a netCDF file, but not of this package"
        )
    summary = path.with_name(layout.SUMMARY)
    if path.name == layout.RESULTS and summary.exists() and "algorithm" in dataset.attrs:
        dataset.attrs.update(_circumstances(summary, path))
    return dataset.drop_encoding()  # whole numbers may become NaN where runs are joined


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _circumstances(summary: Path, path: Path) -> JSONObject:
    try:
        found = json.loads(summary.read_text())
        kept = {k: found[k] for k in CIRCUMSTANCES if found.get(k) is not None}
        intact = found.get(SHA256)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"summary.json must be readable, got {summary}: {error}") from None
    if intact not in (None, sha256(path)):
        raise ValueError(f"{path} is damaged: its checksum is not that of {layout.SUMMARY}")
    return kept


def number(x: SupportsFloat) -> float | None:
    """Return a JSON number; null for what is not finite."""
    value = float(x)
    return value if math.isfinite(value) else None
