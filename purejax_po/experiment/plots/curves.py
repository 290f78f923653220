"""Pictures of training, on matplotlib: learning curves and diagnostics."""

import io
import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purejax_po.checks import check_choice
from purejax_po.experiment import files as atomic
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import join as runs
from purejax_po.experiment.results import statistics

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Look = dict[str, Any]
"""Keyword arguments of matplotlib that say how a line looks."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito 2008, Color Universal Design: told apart with any colour vision."""
LINES = ("-", "--", "-.", (0, (3, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), ":")
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++")
MARKERS = "osD^vP*"
"""With lines and hatches, what tells algorithms apart in black and white."""

BESIDE: Look = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
"""Where a legend stands that would cover lines."""

UNITS = {
    "final_return": "sum of rewards",
    "final_evaluation": "sum of rewards",
    "episode_return": "sum of rewards",
    "evaluation_return": "sum of rewards",
    "episode_return_std": "sum of rewards",
    "episode_length": "steps",
    "kl": "nats",
    "kl_full_step": "nats",
    "entropy": "nats",
    "cg_residual": "relative",
    "clip_fraction": "share of samples",
    "explained_variance": "share",
}
STEPS = "environment steps per seed"


def style(index: int) -> Look:
    """Return the colour and line style of the index-th algorithm."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "lw": 1.7,
    }


def label(name: Hashable) -> str:
    """Return a variable's name for an axis, with its unit where it has one."""
    text = "KL" if name == "kl" else str(name).replace("_", " ")
    return f"{text} ({UNITS[str(name)]})" if name in UNITS else text


def plot(
    dataset: "xr.Dataset", variable: str = "episode_return", ax: "Axes | None" = None
) -> "Axes":
    """Draw the IQM over seeds of a variable against environment steps, with a 95 % band.

    Seeds that diverged, or that never ended an episode, are left out.

    Beside `episode_return`, which is of training, stands `evaluation_return` where there is one: a
    line with markers.

    Args:
        dataset: results of a run, of several algorithms on one environment, or of a sweep of up to
            seven points (choose with `sel`), each of which is a line.
        variable: any variable by seed and update, e.g. `episode_return`, `kl`; or
            `evaluation_return`.
        ax: where to draw; a new picture by default.

    Returns:
        The Axes.

    Raises:
        ValueError: for a variable that is no curve, several environments or too many points.
    """
    from matplotlib.ticker import EngFormatter

    check_one_env(dataset)
    curves = ("seed", "update"), ("seed", "evaluation")
    choices = tuple(str(n) for n in dataset if dataset[n].dims[-2:] in curves)
    check_choice("variable", variable, choices)
    parts = _lines(dataset)
    order = places(dataset)
    is_named = len({*parts, *order}) > 1
    ax = axes(ax)
    for i, (name, run) in enumerate(parts.items()):
        if variable not in run:
            continue
        place, shown = order.get(name, i), name if is_named else None
        has_both = variable == "episode_return" and "evaluation_return" in run
        look = {**style(place), **({"alpha": 0.5, "lw": 1.2} if has_both and shown else {})}
        draw_curve(ax, run, variable, look, shown)
        if has_both:  # in another colour, or that of its name
            look = style(place) if shown else {**style(1), "linestyle": "-"}
            look |= {"marker": MARKERS[place % len(MARKERS)], "ms": 4}
            text = f"{shown}, evaluation" if shown else "evaluation"
            draw_curve(ax, run, "evaluation_return", look, text)
    ax.xaxis.set_major_formatter(EngFormatter())
    ax.set(xlabel=STEPS, ylabel=label(variable), title=title(dataset))
    ax.grid(alpha=0.3)
    if not is_named:
        ax.legend(loc="best", frameon=False)
    else:
        axis = results.swept(dataset)
        of = f"{label(axis[0])}\n" if len(axis) == 1 else ""
        ax.legend(**BESIDE, handlelength=3, title=f"{of}IQM, 95 % band")
    return ax


def plot_curves(
    dataset: "xr.Dataset", variable: str = "episode_return", figure: "Figure | None" = None
) -> np.ndarray:
    """Draw `plot` for every environment, side by side, with one legend.

    Args:
        dataset: results of one or several runs.
        variable: as `plot`.
        figure: where to draw, resized; a new picture by default.

    Returns:
        The Axes, an array with one per environment.
    """
    envs = list(dict.fromkeys(env for _, env in runs.split(dataset)))
    columns = min(3, len(envs))
    rows = math.ceil(len(envs) / columns)
    figure = new_figure(figure, (max(6.4, 4.4 * columns), 3.4 * rows + 0.6))
    drawn = panels(figure, rows, columns, len(envs))
    shown: dict[str, Artist] = {}
    for ax, env in zip(drawn, envs, strict=True):
        plot(dataset.sel(env=env) if "env" in dataset.dims else dataset, variable, ax)
        if ax.get_legend() is not None and len(envs) > 1:
            handles, names = ax.get_legend_handles_labels()
            ax.get_legend().remove()
            shown |= {n: h for n, h in zip(names, handles, strict=True) if n not in shown}
    if shown:
        legend = {"loc": "outside lower center", "handlelength": 3, "frameon": False}
        figure.legend(shown.values(), shown, ncols=min(6, len(shown)), **legend)
    return drawn


def plot_diagnostics(dataset: "xr.Dataset", figure: "Figure | None" = None) -> np.ndarray:
    """Draw every diagnostic of the algorithm: IQM over seeds, and the middle half of the seeds.

    Args:
        dataset: results of a run.
        figure: where to draw, resized; a new picture by default.

    Returns:
        The Axes, an array with one per diagnostic.

    Raises:
        ValueError: for a sweep of several points.
    """
    from matplotlib.ticker import EngFormatter

    results.check_one_point(dataset)
    names = [
        n for n in dataset if dataset[n].dims == ("seed", "update") and n not in results.EPISODES
    ]
    rows = max(1, math.ceil(len(names) / 3))
    figure = new_figure(figure, (9.6, 2.4 * rows))
    drawn = panels(figure, rows, 3, len(names))
    steps = dataset["step"].values
    for ax, name in zip(drawn, names, strict=True):
        columns = [x[np.isfinite(x)] for x in _sound(dataset)[name].values.T]
        known = np.array([len(x) > 0 for x in columns])  # a seed that has solved its task has ended
        if found := [(statistics.iqm(x), *np.percentile(x, [25, 75])) for x in columns if len(x)]:
            middle, low, high = np.transpose(found)
            ax.plot(steps[known], middle, color=COLOURS[0])
            ax.fill_between(steps[known], low, high, color=COLOURS[0], alpha=0.25, lw=0)
        ax.set_title(label(name), fontsize=10)
        ax.xaxis.set_major_formatter(EngFormatter())
        ax.grid(alpha=0.3)
    figure.supxlabel(f"{STEPS}; line: IQM over seeds, band: middle half of the seeds")
    figure.suptitle(title(dataset))
    return drawn


def save_pictures(dataset: "xr.Dataset", directory: Path) -> None:
    """Write `learning_curve.png` and `diagnostics.png`, each whole or not at all."""
    curve, diagnostics = unseen_figure(), unseen_figure()
    plot(dataset, ax=curve.subplots())
    save_figure(curve, directory / "learning_curve.png")
    plot_diagnostics(dataset, diagnostics)
    save_figure(diagnostics, directory / "diagnostics.png")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture whole or not at all."""
    atomic.write_bytes(path, encoded(figure, path.suffix.removeprefix(".")))


def encoded(figure: "Figure", form: str) -> bytes:
    """Return a picture as a file of a format holds it."""
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format=form)
    return content.getvalue()


def unseen_figure(width: float = 6.4, height: float = 4.0) -> "Figure":
    """Return a figure that no window manager knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def axes(ax: "Axes | None", size: tuple[float, float] = (6.4, 4.0)) -> "Axes":
    """Return `ax`, or the Axes of a new picture of that size in inches."""
    return new_figure(None, size).subplots() if ax is None else ax


def new_figure(figure: "Figure | None", size: tuple[float, float]) -> "Figure":
    """Return `figure` or a new one, which a notebook shows, of that size in inches."""
    if figure is not None:
        figure.set_size_inches(size)
        return figure
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained")


def panels(figure: "Figure", rows: int, columns: int, number: int) -> np.ndarray:
    """Return the Axes of a grid, the first `number` of them; the others stay empty."""
    drawn = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in drawn[number:]:
        ax.set_axis_off()
    return drawn[:number]


def check_one_env(dataset: "xr.Dataset") -> None:
    """Raise `ValueError` if there are several environments, or no results."""
    results.check_results(dataset)
    if "env" in dataset.dims:
        names = ", ".join(map(str, dataset["env"].values))
        raise ValueError(
            f"dataset must hold one environment, got {names}; choose one: dataset.sel(env=…)"
        )


def title(dataset: "xr.Dataset") -> str:
    """Say which algorithm, environment, how many seeds, and the point chosen from a sweep."""
    point = ", ".join(f"{label(name)} {value:g}" for name, value in results.at(dataset).items())
    parts = runs.split(dataset)
    algorithms = list(dict.fromkeys(name for name, _ in parts))
    envs = list(dict.fromkeys(env for _, env in parts))
    numbers = {run.sizes["seed"] for run in parts.values()}
    seeds = f"{max(numbers)} seed{'s' * (max(numbers) != 1)}"
    if len(numbers) > 1:
        seeds = f"{min(numbers)} to {seeds}"
    where = envs[0] if len(envs) == 1 else f"{len(envs)} environments"
    who = f"{algorithms[0]} on " if len(algorithms) == 1 else ""
    return f"{who}{where}, {seeds}\n{point}".rstrip()


def places(dataset: "xr.Dataset") -> dict[str, int]:
    """Number the algorithms of all joined runs: each looks alike wherever a part is drawn."""
    named = (run["algorithm"] for run in json.loads(dataset.attrs.get("runs", "[]")))
    return {name: i for i, name in enumerate(dict.fromkeys(named))}


def _lines(dataset: "xr.Dataset") -> dict[str, "xr.Dataset"]:
    """What to draw a line of: algorithms, or the points of a sweep."""
    swept = results.swept(dataset)
    if not swept:
        return {name: run for (name, _), run in runs.split(dataset).items()}
    count = math.prod(dataset.sizes[axis] for axis in swept)
    if count > len(COLOURS):
        chosen = ", ".join(f"{axis}=…" for axis in swept)
        raise ValueError(
            f"dataset must hold at most {len(COLOURS)} points to draw a line of each, got {count}; "
            f"choose some: dataset.sel({chosen})"
        )
    parts = list(results.points(dataset))
    return {", ".join(f"{results.at(part)[axis]:g}" for axis in swept): part for part in parts}


def draw_curve(ax: "Axes", run: "xr.Dataset", variable: str, look: Look, name: str | None) -> None:
    """Draw the IQM of one run's seeds and its band; a run without a value leaves its label."""
    curves = _fill_forward(_sound(run)[variable].values)
    curves = curves[np.isfinite(curves).any(axis=1)]
    steps = run["step" if run[variable].dims[-1] == "update" else "evaluation"].values
    known = np.all(np.isfinite(curves), axis=0)
    curves, steps = curves[:, known], steps[known]
    middle = statistics.iqm(curves) if len(curves) else np.full(len(steps), np.nan)
    ax.plot(steps, middle, label=name or "interquartile mean", **look)
    if len(curves) > 1:
        low, high = statistics.bootstrap_interval(curves, num_resamples=200)
        band = None if name else "95 % interval over seeds"
        ax.fill_between(steps, low, high, color=look["color"], alpha=0.25, lw=0, label=band)


def _sound(dataset: "xr.Dataset") -> "xr.Dataset":
    """Leave out the seeds that diverged."""
    if "diverged_at" not in dataset:
        return dataset
    return dataset.isel(seed=np.flatnonzero(dataset["diverged_at"].values < 0))


def _fill_forward(curves: np.ndarray) -> np.ndarray:
    """Replace NaN (no episode ended in this window) by the seed's last known value."""
    curves = np.array(curves, float)
    for i in range(1, curves.shape[1]):
        unknown = np.isnan(curves[:, i])
        curves[unknown, i] = curves[unknown, i - 1]
    return curves
