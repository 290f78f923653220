"""Pictures of a search for settings: what mattered, and which values the good trials have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from purejax_po.experiment.plots import curves as plots
from purejax_po.types import JSONObject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECADES = 10.0
"""Numbers whose largest is so many times the smallest are drawn on a logarithmic scale."""


def plot_importances(importances: Mapping[str, float]) -> "Figure":
    """Draw each name's share in what tells good trials from others."""
    ordered = sorted(importances.items(), key=lambda pair: pair[1])
    figure = plots.unseen_figure(5.0, 0.3 * len(ordered) + 1.2)
    ax = figure.subplots()
    ax.barh([plots.label(name) for name, _ in ordered], [share for _, share in ordered])
    ax.set(xlabel="importance (PED-ANOVA)", title="what told the best trials from the others")
    return figure


def plot_parallel(rows: Sequence[JSONObject], names: Sequence[str]) -> "Figure":
    """Draw a line for each trial through its values, coloured by its score.

    Args:
        rows: of trials: values by name, and `score`.
        names: what has an axis of its own, from left to right; the score is the last one.
    """
    from matplotlib import colormaps

    scored = sorted((r for r in rows if r["score"] is not None), key=lambda r: r["score"])
    names = [*names, "score"]
    figure = plots.unseen_figure(1.3 * len(names) + 1.0, 4.5)
    ax = figure.subplots()
    places = [_places([row[name] for row in scored]) for name in names]
    ranks = np.linspace(0.0, 1.0, max(len(scored), 1))
    for i, rank in enumerate(ranks[: len(scored)]):
        heights = [column[i] for column, _ in places]
        ax.plot(range(len(names)), heights, color=colormaps["viridis"](rank), lw=0.6 + 1.4 * rank)
    for x, (_, ticks) in enumerate(places):
        ax.axvline(x, color="0.7", lw=0.8, zorder=0)
        for height, text in ticks:
            ax.annotate(text, (x, height), fontsize=7, xytext=(2, 2), textcoords="offset points")
    ax.set_xticks(range(len(names)), [plots.label(n) for n in names], rotation=30, ha="right")
    ax.set(yticks=[], title="trials, the best ones bright")
    return figure


def save_pictures(
    directory: Path,
    rows: Sequence[JSONObject],
    names: Sequence[str],
    importances: Mapping[str, float],
) -> None:
    """Write `importance.png` (if any is known) and `parallel.png` into a directory."""
    plots.save_figure(plot_parallel(rows, names), directory / "parallel.png")
    if importances:
        plots.save_figure(plot_importances(importances), directory / "importance.png")


def _places(values: Sequence[object]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in [0, 1] of an axis's values, and its ticks."""
    is_number = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    if not is_number or len(set(values)) <= 4:
        kinds = sorted(set(values), key=lambda x: (str(type(x)), x))
        heights = {x: (i + 0.5) / len(kinds) for i, x in enumerate(kinds)}
        return [heights[x] for x in values], [(heights[x], str(x)) for x in kinds]
    numbers = np.asarray(values, float)
    low, high = numbers.min(), numbers.max()
    scaled = np.log(numbers) if low > 0 and high / low >= DECADES else numbers
    span = scaled.max() - scaled.min()
    heights = (scaled - scaled.min()) / span if span > 0 else np.full(len(scaled), 0.5)
    return heights.tolist(), [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
