"""Pictures of sweeps: heat maps and sensitivity lines over hyperparameters."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from purejax_po.checks import check_choice
from purejax_po.experiment import layout
from purejax_po.experiment.plots import curves as plots
from purejax_po.experiment.plots.curves import MARKERS
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import statistics

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_ROOM = 0.1
"""What a tick's label takes of the width of a picture."""


def plot_sweep(dataset: "xr.Dataset", x: str, y: str, ax: "Axes | None" = None) -> "Axes":
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
    names = results.swept(dataset)
    check_choice("x", x, names)
    check_choice("y", y, tuple(name for name in names if name != x))
    if further := set(names) - {x, y}:
        name = min(further)
        raise ValueError(f"dataset must have no axes but {x} and {y}; first choose sel({name}=…)")
    dataset = dataset.transpose(y, x, "seed", ...)
    values = _sweep_estimates(dataset)[0]
    never = np.full(dataset["final_return"].shape, -1)
    has_diverged = np.any(np.asarray(dataset.get("diverged_at", never)) >= 0, axis=-1)
    ax = plots.axes(ax, (1.1 * values.shape[1] + 2.4, 0.6 * values.shape[0] + 1.8))
    image = ax.imshow(values, cmap="viridis", aspect="auto", origin="lower")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        why = "diverged" if has_diverged[i, j] else "no episode"
        text = f"{value:.4g}" if np.isfinite(value) else why
        ax.text(j, i, text, ha="center", va="center", color="white" if value < middle else "black")
    ax.set_xticks(range(values.shape[1]), [f"{v:g}" for v in dataset[x].values])
    ax.set_yticks(range(values.shape[0]), [f"{v:g}" for v in dataset[y].values])
    ax.set(xlabel=plots.label(x), ylabel=plots.label(y), title=plots.title(dataset))
    ax.figure.colorbar(image, ax=ax, label=f"IQM of {plots.label('final_return')}")
    return ax


def plot_sensitivity(
    dataset: "xr.Dataset", x: str, lines: str | None = None, ax: "Axes | None" = None
) -> "Axes":
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
    names = results.swept(dataset)
    check_choice("x", x, names)
    if lines is not None:
        check_choice("lines", lines, tuple(name for name in names if name != x))
    if further := set(names) - {x, lines}:
        name = min(further)
        raise ValueError(f"dataset must have no further axes; first choose sel({name}=…)")
    ax = plots.axes(ax)
    dataset = dataset.sortby(x)
    at = dataset[x].values
    ax.update_datalim(
        [(value, 0.0) for value in at], updatey=False
    )  # though nothing is known there
    for i, value in enumerate([None] if lines is None else dataset[lines].values):
        part = dataset if lines is None else dataset.sel({lines: value})
        middle, low, high = _sweep_estimates(part.transpose(x, "seed", ...))
        text = None if lines is None else f"{value:g}"
        look = plots.style(i)
        ax.plot(at, middle, marker=MARKERS[i % len(MARKERS)], label=text, **look)
        ax.fill_between(at, low, high, color=look["color"], alpha=0.2, lw=0)
    if at.min() > 0 and at.max() >= 10 * at.min():
        ax.set_xscale("log")
        gaps = np.diff(np.sort(np.log(at)))
        if gaps.min() / gaps.sum() >= LABEL_ROOM:  # for a tick at each of the swept values
            ax.set_xticks(at, [f"{value:g}" for value in at], minor=False)
        ax.xaxis.set_minor_formatter("")
    ax.set(xlabel=plots.label(x), ylabel=plots.label("final_return"))
    ax.set_title(f"{plots.title(dataset)}\nIQM, 95 % interval over seeds", fontsize=11)
    ax.grid(alpha=0.3)
    if lines is not None:
        ax.legend(**plots.BESIDE, title=plots.label(lines))
    return ax


def plot_axes(dataset: "xr.Dataset", figure: "Figure | None" = None) -> np.ndarray:
    """Draw a sweep: one axis as a line, two as a heat map, and of more a line for each.

    Args:
        dataset: results with a dim for each axis; where there are more than two, a line runs
            through the best point (see `results.best`).
        figure: where to draw, resized; a new picture by default.

    Returns:
        The Axes, an array with one per panel.

    Raises:
        ValueError: if there is no axis.
    """
    names = results.swept(dataset)
    if not names:
        raise ValueError("dataset must be a sweep, got results with no dims but seed and update")
    if len(names) == 1:
        figure = plots.new_figure(figure, (6.4, 4.0))
        return np.array([plot_sensitivity(dataset, names[0], ax=figure.subplots())])
    if len(names) == 2:
        y, x = names
        width, height = dataset.sizes[x], dataset.sizes[y]
        figure = plots.new_figure(figure, (max(5.6, 1.1 * width + 2.4), 0.6 * height + 1.8))
        return np.array([plot_sweep(dataset, x, y, figure.subplots())])
    rows = math.ceil(len(names) / 2)
    figure = plots.new_figure(figure, (9.6, 3.4 * rows + 0.6))
    drawn = plots.panels(figure, rows, 2, len(names))
    point = results.at(results.best(dataset))
    for ax, name in zip(drawn, names, strict=True):
        others = {k: v for k, v in point.items() if k in names and k != name}
        plot_sensitivity(dataset.sel(others), name, ax=ax)
        ax.set_title(", ".join(f"{plots.label(k)} {v:g}" for k, v in others.items()), fontsize=9)
    figure.suptitle(f"{plots.title(dataset)}: IQM, 95 % interval, through the best point")
    return drawn


def save_pictures(dataset: "xr.Dataset", directory: Path) -> None:
    """Write `sweep.png` if there is something to draw, whole or not at all."""
    if results.swept(dataset):
        figure = plots.unseen_figure()
        plot_axes(dataset, figure)
        plots.save_figure(figure, directory / layout.SWEEP)


def _sweep_estimates(dataset: "xr.Dataset") -> statistics.Estimate:
    """IQM and interval of the final return over the sound seeds: `[..., seed]` to `[...]`."""
    shape = dataset["final_return"].shape[:-1]
    found = np.full((3, math.prod(shape)), np.nan)
    for i, part in enumerate(results.points(dataset)):
        if len(kept := results.sound_final_returns(part)):
            found[:, i] = statistics.iqm(kept), *statistics.bootstrap_interval(kept)
    return statistics.Estimate(*found.reshape(3, *shape))
