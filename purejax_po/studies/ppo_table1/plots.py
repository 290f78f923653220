"""Learning curves of Table 1: for every task, a panel of each family of settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from purejax_po.experiment.plots import curves as plots

if TYPE_CHECKING:
    import xarray as xr

Curves = Mapping[str, "xr.Dataset"]
"""One setting's runs by its label."""


def save_curves(task: str, families: Mapping[str, Curves], random: float, out: Path) -> None:
    """Write `curves-TASK.png`: IQM over seeds with 95 % bands, and the random policy's return."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(4.6 * len(families), 3.8), layout="constrained")
    panels = figure.subplots(1, len(families), squeeze=False, sharey=True)[0]
    for ax, (family, curves) in zip(panels, families.items(), strict=True):
        for i, (label, part) in enumerate(curves.items()):
            plots.draw_curve(ax, part, "episode_return", plots.style(i), label)
        ax.axhline(random, color="0.5", lw=1, label="random")
        ax.xaxis.set_major_formatter(EngFormatter())
        ax.set_xlabel(plots.STEPS)
        ax.set_title(family.replace("_", " "))
        ax.grid(alpha=0.3)
        ax.legend(loc="best", frameon=False, fontsize=8)
    panels[0].set_ylabel(plots.label("episode_return"))
    figure.suptitle(task)
    plots.save_figure(figure, out / f"curves-{task}.png")
