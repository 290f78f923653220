"""Pictures of sweeps: heat maps and sensitivity lines over hyperparameters."""

from typing import TYPE_CHECKING, Any

import numpy as np

from purejax_po.experiment import plots, statistics
from purejax_po.experiment.plots import MARKERS
from purejax_po.types import check_choice

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


def plot_sweep(dataset: "xr.Dataset", x: str, y: str, ax: "Axes | None" = None) -> Any:
    """Draw the IQM of the final return for each pair of values of two swept hyperparameters.

    Args:
        dataset: results with dims `x`, `y` and `seed`; choose a value of any other axis first.
        x, y: names of the two axes.
        ax: where to draw; a new picture by default.

    Returns:
        The Axes.

    Raises:
        ValueError: for names that are no axes of the sweep, or for further axes.
    """
    names = _swept(dataset)
    check_choice("x", x, names)
    check_choice("y", y, tuple(name for name in names if name != x))
    if further := set(names) - {x, y}:
        name = min(further)
        raise ValueError(f"dataset must have no axes but {x} and {y}; first choose sel({name}=…)")
    values = _sweep_estimates(dataset.transpose(y, x, "seed", ...))[0]
    ax = plots.axes(ax, (1.1 * values.shape[1] + 2.4, 0.6 * values.shape[0] + 1.8))
    image = ax.imshow(values, cmap="viridis", aspect="auto", origin="lower")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        text = f"{value:.4g}" if np.isfinite(value) else "diverged"
        ax.text(j, i, text, ha="center", va="center", color="white" if value < middle else "black")
    ax.set_xticks(range(values.shape[1]), [f"{v:g}" for v in dataset[x].values])
    ax.set_yticks(range(values.shape[0]), [f"{v:g}" for v in dataset[y].values])
    ax.set_xlabel(plots.label(x))
    ax.set_ylabel(plots.label(y))
    ax.set_title(plots.title(dataset))
    ax.figure.colorbar(image, ax=ax, label=f"IQM of {plots.label('final_return')}")
    return ax


def plot_sensitivity(
    dataset: "xr.Dataset", x: str, lines: str | None = None, ax: "Axes | None" = None
) -> Any:
    """Draw the IQM of the final return against a swept hyperparameter, with 95 % intervals.

    Args:
        dataset: results with dims `x`, perhaps `lines`, and `seed`; choose a value of any other
            axis first.
        x: the hyperparameter along the horizontal axis, logarithmic if it spans a decade.
        lines: another one; a line for each of its values.
        ax: where to draw; a new picture by default.

    Returns:
        The Axes.

    Raises:
        ValueError: for names that are no axes of the sweep, or for further axes.
    """
    names = _swept(dataset)
    check_choice("x", x, names)
    if lines is not None:
        check_choice("lines", lines, tuple(name for name in names if name != x))
    if further := set(names) - {x, lines}:
        name = min(further)
        raise ValueError(f"dataset must have no further axes; first choose sel({name}=…)")
    ax = plots.axes(ax)
    at = dataset[x].values
    for i, value in enumerate([None] if lines is None else dataset[lines].values):
        part = dataset if lines is None else dataset.sel({lines: value})
        middle, low, high = _sweep_estimates(part.transpose(x, "seed", ...))
        text = None if lines is None else f"{value:g}"
        look = plots.style(i)
        ax.plot(at, middle, marker=MARKERS[i % len(MARKERS)], label=text, **look)
        ax.fill_between(at, low, high, color=look["color"], alpha=0.2, lw=0)
    if at.min() > 0 and at.max() >= 10 * at.min():
        ax.set_xscale("log")
    ax.set_xlabel(plots.label(x))
    ax.set_ylabel(plots.label("final_return"))
    ax.set_title(f"{plots.title(dataset)}: IQM, 95 % interval", fontsize=11)
    ax.grid(alpha=0.3)
    if lines is not None:
        ax.legend(
            loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, title=plots.label(lines)
        )
    return ax


def _swept(dataset: "xr.Dataset") -> tuple[str, ...]:
    """Names of the axes of a sweep."""
    dims = dataset["final_return"].dims
    return tuple(str(dim) for dim in dims if dim not in ("algorithm", "env", "seed"))


def _sweep_estimates(dataset: "xr.Dataset") -> statistics.Estimate:
    """IQM and interval of the final return over the sound seeds: `[..., seed]` to `[...]`."""
    final = np.array(dataset["final_return"].values, float)
    if "diverged_at" in dataset:
        final[dataset["diverged_at"].values >= 0] = np.nan
    found = np.full((3, *final.shape[:-1]), np.nan)
    for index in np.ndindex(final.shape[:-1]):
        kept = final[index][np.isfinite(final[index])]
        if len(kept):
            found[(0, *index)] = statistics.iqm(kept)
            found[(slice(1, 3), *index)] = statistics.bootstrap_interval(kept)
    return statistics.Estimate(*found)
