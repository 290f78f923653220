"""Pictures of results, on matplotlib."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purejax_po.experiment import results, statistics
from purejax_po.types import check_choice

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = "#0072B2"
UNITS = {"kl": "nats", "kl_full_step": "nats", "entropy": "nats", "cg_residual": "relative"}


def plot(dataset: "xr.Dataset", variable: str = "episode_return", ax: "Axes | None" = None) -> Any:
    """Draw the IQM over seeds of a variable against environment steps, with a 95 % band.

    Seeds that diverged, or that never ended an episode, are left out.

    Args:
        dataset: results of a run.
        variable: any variable with dims `seed`, `update`.
        ax: where to draw; a new picture by default.

    Returns:
        The Axes.

    Raises:
        ValueError: for a variable that is no curve.
    """
    from matplotlib.ticker import EngFormatter

    choices = tuple(str(name) for name in dataset if dataset[name].dims == ("seed", "update"))
    check_choice("variable", variable, choices)
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    curves = _fill_forward(_sound(dataset)[variable].values)
    curves = curves[np.isfinite(curves).any(axis=1)]
    steps = dataset["step"].values
    known = np.all(np.isfinite(curves), axis=0)
    curves, steps = curves[:, known], steps[known]
    low, high = statistics.bootstrap_interval(curves, num_resamples=200)
    ax.plot(steps, statistics.iqm(curves), color=BLUE, label="interquartile mean")
    if len(curves) > 1:
        ax.fill_between(
            steps, low, high, color=BLUE, alpha=0.25, lw=0, label="95 % interval over seeds"
        )
    ax.xaxis.set_major_formatter(EngFormatter())
    ax.set_xlabel("environment steps per seed")
    ax.set_ylabel(variable.replace("_", " "))
    ax.set_title(_title(dataset))
    ax.grid(alpha=0.3)
    ax.legend(loc="best", frameon=False)
    return ax


def plot_diagnostics(dataset: "xr.Dataset", figure: "Figure | None" = None) -> "Figure":
    """Draw every diagnostic of the algorithm: IQM over seeds, and the middle half of the seeds.

    Args:
        dataset: results of a run.
        figure: where to draw; a new picture by default.

    Returns:
        The Figure.
    """
    names = [
        n for n in dataset if dataset[n].dims == ("seed", "update") and n not in results.EPISODES
    ]
    rows = math.ceil(len(names) / 3)
    if figure is None:
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(9.6, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    steps = dataset["step"].values / 1000
    for ax, name in zip(axes.flat, names, strict=False):
        values = _sound(dataset)[name].values
        values = values[np.all(np.isfinite(values), axis=1)]
        if len(values):
            low, high = np.percentile(values, [25, 75], axis=0)
            ax.plot(steps, statistics.iqm(values), color=BLUE)
            ax.fill_between(steps, low, high, color=BLUE, alpha=0.25, lw=0)
        unit = UNITS.get(str(name))
        ax.set_title(str(name).replace("_", " ") + (f" ({unit})" if unit else ""), fontsize=10)
        ax.grid(alpha=0.3)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    figure.supxlabel("thousand environment steps per seed")
    figure.suptitle(_title(dataset))
    return figure


def save_pictures(dataset: "xr.Dataset", directory: Path) -> None:
    """Write `learning_curve.png` and `diagnostics.png`, each whole or not at all."""
    from matplotlib.figure import Figure

    curve = Figure(figsize=(6.4, 4.0), layout="constrained")
    plot(dataset, ax=curve.subplots())
    diagnostics = plot_diagnostics(dataset, Figure(figsize=(9.6, 9.6), layout="constrained"))
    for figure, name in ((curve, "learning_curve.png"), (diagnostics, "diagnostics.png")):
        partial = directory / f".{name}.partial"
        figure.savefig(partial, dpi=150, format="png")
        os.replace(partial, directory / name)


def _sound(dataset: "xr.Dataset") -> "xr.Dataset":
    """Leave out the seeds that diverged."""
    if "diverged_at" not in dataset:
        return dataset
    return dataset.isel(seed=np.flatnonzero(dataset["diverged_at"].values < 0))


def _title(dataset: "xr.Dataset") -> str:
    number = dataset.sizes["seed"]
    name, env = dataset.attrs.get("algorithm", ""), dataset.attrs.get("env", "")
    return f"{name} on {env}, {number} seed{'s' * (number > 1)}"


def _fill_forward(curves: Any) -> Any:
    """Replace NaN (no episode ended in this window) by the seed's last known value."""
    curves = np.array(curves, float)
    for i in range(1, curves.shape[1]):
        unknown = np.isnan(curves[:, i])
        curves[unknown, i] = curves[unknown, i - 1]
    return curves
