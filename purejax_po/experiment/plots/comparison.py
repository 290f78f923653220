"""Pictures of what came out of several runs: bars, profiles, who beats whom."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from purejax_po.experiment.plots import curves as plots
from purejax_po.experiment.plots.curves import BESIDE, COLOURS, HATCHES, MARKERS, Look
from purejax_po.experiment.results import join as runs
from purejax_po.experiment.results import statistics

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Reference = Mapping[str, tuple[float, float]]
"""By environment, the returns that become 0 and 1."""

AGGREGATE_TITLES = {
    "iqm": "IQM",
    "mean": "mean",
    "median": "median of means",
    "optimality_gap": "optimality gap",
}


def plot_comparison(dataset: "xr.Dataset", ax: "Axes | None" = None) -> "Axes":
    """Draw each algorithm's final return on one environment: IQM, 95 % interval, and every seed.

    Args:
        dataset: results of runs on one environment.
        ax: where to draw; a new picture by default.

    Returns:
        The Axes.

    Raises:
        ValueError: for several environments.
    """
    plots.check_one_env(dataset)
    (by_name,) = runs.final_returns(dataset).values()
    ax = plots.axes(ax, (6.4, 0.6 * len(by_name) + 1.4))
    rng = np.random.default_rng(0)
    places = plots.places(dataset)
    for i, (name, final) in enumerate(by_name.items()):
        if len(final) == 0:
            continue
        place = places.get(name, i)
        look: Look = {
            "color": COLOURS[place % len(COLOURS)],
            "hatch": HATCHES[place % len(HATCHES)],
        }
        ax.barh(i, statistics.iqm(final), height=0.6, alpha=0.45, edgecolor="black", lw=0.6, **look)
        heights = i + rng.uniform(-0.2, 0.2, len(final))
        ax.plot(final, heights, ".", color="0.25", ms=3, alpha=0.6, zorder=3)
        _draw_interval(ax, statistics.iqm(final), statistics.bootstrap_interval(final), i, "none")
    _name_rows(ax, list(by_name))
    ax.set_xlabel(plots.label("final_return"))
    ax.set_title(f"{plots.title(dataset)}: IQM, 95 % interval, seeds", fontsize=10)
    ax.grid(axis="x", alpha=0.3)
    return ax


def plot_comparisons(dataset: "xr.Dataset", figure: "Figure | None" = None) -> np.ndarray:
    """Draw `plot_comparison` for every environment, one below the other.

    Args:
        dataset: results of one or several runs.
        figure: where to draw, resized; a new picture by default.

    Returns:
        The Axes, an array with one per environment.
    """
    finals = runs.final_returns(dataset)
    rows = max(len(by_name) for by_name in finals.values())
    figure = plots.new_figure(figure, (7.0, (0.5 * rows + 1.4) * len(finals)))
    spaced = {"hspace": 0.1}
    drawn = figure.subplots(len(finals), squeeze=False, gridspec_kw=spaced).flat
    for ax, env in zip(drawn, finals, strict=True):
        plot_comparison(dataset.sel(env=env) if "env" in dataset.dims else dataset, ax)
    return np.array(drawn)


def plot_profile(
    dataset: "xr.Dataset", reference: Reference | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw performance profiles: the fraction of runs that score above τ, with 95 % bands.

    Args:
        dataset: results of one or several runs.
        reference: scales returns, see `normalized_scores`; on one environment without it τ is the
            return itself.
        ax: where to draw; a new picture by default.

    Returns:
        The Axes.

    Source: Agarwal et al. 2021, section 4.2.
    """
    finals = runs.final_returns(dataset)
    if len(finals) == 1 and reference is None:
        scores = {name: [x] for name, x in next(iter(finals.values())).items() if len(x)}
        unit = plots.label("final_return")
    else:
        scores = runs.normalized_scores(dataset, reference)
        unit = "normalised final return"
    everything = np.concatenate([x for tasks in scores.values() for x in tasks] or [[0.0]])
    margin = 0.05 * (np.ptp(everything) or 1.0)
    thresholds = np.linspace(everything.min() - margin, everything.max() + margin, 201)
    ax = plots.axes(ax)
    places = plots.places(dataset)
    for name, tasks in scores.items():
        found = statistics.performance_profile(tasks, thresholds)
        look = plots.style(places.get(name, 0))
        ax.plot(thresholds, found.value, label=name, **look)
        ax.fill_between(thresholds, found.low, found.high, color=look["color"], alpha=0.2, lw=0)
    ax.set(xlabel=f"τ: {unit}", ylabel="fraction of runs above τ")
    ax.set_title(f"{plots.title(dataset)}: performance profiles")
    ax.grid(alpha=0.3)
    ax.legend(**BESIDE, handlelength=3, title="95 % band")
    return ax


def improvements(dataset: "xr.Dataset") -> dict[tuple[str, str], statistics.Estimate]:
    """Return P(X > Y) over the environments of each pair of algorithms, X before Y."""
    scores = runs.normalized_scores(dataset)
    return {
        (x, y): statistics.probability_of_improvement(scores[x], scores[y])
        for x, y in itertools.combinations(scores, 2)
    }


def plot_improvement(dataset: "xr.Dataset", ax: "Axes | None" = None) -> "Axes":
    """Draw the probability that a run of X beats one of Y for each pair, with 95 % intervals.

    Args:
        dataset: results of two algorithms or more.
        ax: where to draw; a new picture by default.

    Returns:
        The Axes.

    Raises:
        ValueError: for a single algorithm.

    Source: Agarwal et al. 2021, section 4.3.
    """
    pairs = improvements(dataset)
    if not pairs:
        raise ValueError("dataset must hold final returns of two algorithms or more, got fewer")
    ax = plots.axes(ax, (6.4, 0.35 * len(pairs) + 1.5))
    for i, found in enumerate(pairs.values()):
        _draw_interval(ax, found.value, found[1:], i, "o", COLOURS[0])
    _name_rows(ax, [f"{x} > {y}" for x, y in pairs])
    ax.axvline(0.5, color="0.3", ls="--", lw=1)
    ax.set(xlim=(-0.03, 1.03), title=plots.title(dataset))
    ax.set_xlabel("probability that a run of the first beats one of the second")
    ax.grid(axis="x", alpha=0.3)
    return ax


def aggregates(
    dataset: "xr.Dataset", reference: Reference | None = None
) -> dict[str, dict[str, statistics.Estimate]]:
    """Return IQM, mean, median and optimality gap of normalised scores, by algorithm."""
    scores = runs.normalized_scores(dataset, reference)
    return {
        name: {key: statistics.aggregate(tasks, f) for key, f in statistics.AGGREGATES.items()}
        for name, tasks in scores.items()
    }


def plot_aggregates(
    dataset: "xr.Dataset", reference: Reference | None = None, figure: "Figure | None" = None
) -> "Axes":
    """Draw IQM, mean, median and optimality gap over all environments, with 95 % intervals.

    Args:
        dataset: results of several runs.
        reference: scales returns, see `normalized_scores`.
        figure: where to draw, resized; a new picture by default.

    Returns:
        The four Axes.

    Source: Agarwal et al. 2021, section 4.3.
    """
    found = aggregates(dataset, reference)
    places = plots.places(dataset)
    figure = plots.new_figure(figure, (9.6, 0.4 * len(found) + 1.6))
    drawn = figure.subplots(1, len(AGGREGATE_TITLES), sharey=True)
    for ax, (key, heading) in zip(drawn, AGGREGATE_TITLES.items(), strict=True):
        for i, (name, estimates) in enumerate(found.items()):
            value, *ends = estimates[key]
            place = places.get(name, i)
            marker, colour = MARKERS[place % len(MARKERS)], COLOURS[place % len(COLOURS)]
            _draw_interval(ax, value, ends, i, marker, colour)
        ax.set_title(heading, fontsize=10)
        ax.grid(axis="x", alpha=0.3)
    _name_rows(drawn[0], list(found))
    scale = "smallest and largest return found" if reference is None else "reference returns"
    figure.supxlabel(f"normalised final return (0 and 1: {scale})", fontsize=10)
    figure.suptitle(f"{plots.title(dataset)}: aggregates, 95 % intervals", fontsize=11)
    return drawn


def _draw_interval(
    ax: "Axes",
    value: statistics.Floats,
    ends: Sequence[statistics.Floats],
    row: int,
    marker: str,
    colour: str = "black",
) -> None:
    """Draw a value and its interval, if it is known, in a row."""
    if np.all(np.isfinite(ends)):
        ax.plot(ends, [row, row], color=colour, lw=1.6, zorder=4)
        ax.plot(ends, [row, row], "|", color=colour, ms=9, mew=1.6, zorder=4)
    if marker != "none":
        ax.plot([value], [row], marker, color=colour, ms=6, zorder=5)


def _name_rows(ax: "Axes", names: list[str]) -> None:
    """Label the rows, the first one on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
