"""What a complete run's directory holds for its reader: results, pictures, a summary."""

from pathlib import Path
from typing import TYPE_CHECKING

from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.plots import curves
from purejax_po.experiment.plots import sweep as sweep_plots
from purejax_po.experiment.results import dataset as results

if TYPE_CHECKING:
    import xarray as xr


def write_run(dataset: "xr.Dataset", directory: Path) -> None:
    """Write a run's files; `summary.json`, which says that it is complete, comes last."""
    results.save(dataset, directory / layout.RESULTS)
    sweep_plots.save_pictures(dataset, directory)
    curves.save_pictures(results.best(dataset), directory)
    atomic.write_json(directory / layout.SUMMARY, results.summarize(dataset))
