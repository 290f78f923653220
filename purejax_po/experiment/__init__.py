"""The host layer, in rooms: config, store, run, results, plots, report."""

from purejax_po.experiment.store import arrays as checkpoint

__all__ = ["checkpoint"]  # as version 0.1 called it
