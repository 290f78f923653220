"""Pictures of results, on matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purejax_po.experiment import statistics

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

BLUE = "#0072B2"


def plot(dataset: "xr.Dataset", variable: str = "episode_return", ax: "Axes | None" = None) -> Any:
    """Draw the IQM over seeds of a variable against environment steps, with a 95 % band.

    Args:
        dataset: results of a run.
        variable: any variable with dims `seed`, `update`.
        ax: where to draw; a new picture by default.

    Returns:
        The Axes.
    """
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    curves = _fill_forward(dataset[variable].values)
    steps = dataset["step"].values
    known = np.all(np.isfinite(curves), axis=0)
    curves, steps = curves[:, known], steps[known]
    low, high = statistics.bootstrap_interval(curves, num_resamples=500)
    ax.plot(steps, statistics.iqm(curves), color=BLUE, label="interquartile mean")
    if len(curves) > 1:
        ax.fill_between(
            steps, low, high, color=BLUE, alpha=0.25, lw=0, label="95 % interval over seeds"
        )
    ax.set_xlabel("environment steps per seed")
    ax.set_ylabel(variable.replace("_", " "))
    number = dataset.sizes["seed"]
    name, env = dataset.attrs.get("algorithm", ""), dataset.attrs.get("env", "")
    ax.set_title(f"{name} on {env}, {number} seed{'s' * (number > 1)}")
    ax.grid(alpha=0.3)
    ax.legend(loc="best", frameon=False)
    return ax


def save_learning_curve(dataset: "xr.Dataset", path: Path) -> None:
    """Write the picture of `plot` as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    plot(dataset, ax=figure.subplots())
    figure.savefig(path, dpi=150, format="png")


def _fill_forward(curves: Any) -> Any:
    """Replace NaN (no episode ended in this window) by the seed's last known value."""
    curves = np.array(curves, float)
    for i in range(1, curves.shape[1]):
        unknown = np.isnan(curves[:, i])
        curves[unknown, i] = curves[unknown, i - 1]
    return curves
