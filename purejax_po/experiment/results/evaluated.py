"""Evaluations in training as labelled data: their returns, and when a task was solved."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from purejax_po.checks import check_choice
from purejax_po.experiment.results import dataset as results

if TYPE_CHECKING:
    import xarray as xr

KEYS = {"training": "final_return", "evaluation": "final_evaluation"}
"""What runs may be ranked by, and what a summary calls it."""


def add(
    dataset: "xr.Dataset",
    returns: np.ndarray,
    *,
    windows: Sequence[int],
    threshold: float | None = None,
    stops: bool = False,
) -> "xr.Dataset":
    """Add evaluations to the results of a run.

    Args:
        dataset: of training, with `diverged_at`.
        returns: mean returns over the episodes of each evaluation, `[..., seeds, evaluations]`.
        windows: that the evaluations followed, from 0.
        threshold: the return at which the task counts as solved.
        stops: a lane ends there.

    Returns:
        The Dataset with `evaluation_return` by seed and `evaluation`, which is labelled by the
        environment steps done before, and `final_evaluation`, the last one; with a threshold
        `solved_at`, the steps at the first evaluation that reached it, NaN where none did. The
        `final_return` of a lane that has ended is of the last tenth of its own training.
    """
    dims = dataset["final_return"].dims
    updates = dataset["update"].values[list(windows)]
    steps = dataset["step"].values[list(windows)]
    dataset = dataset.assign_coords(evaluation=steps)
    dataset["evaluation_return"] = (*dims, "evaluation"), returns
    dataset["final_evaluation"] = dims, returns[..., -1]
    if threshold is None:
        return dataset
    diverged_at = dataset["diverged_at"].values[..., None]
    solved = (returns >= threshold) & ((diverged_at < 0) | (updates <= diverged_at))
    first, is_solved = np.argmax(solved, axis=-1), solved.any(axis=-1)
    dataset["solved_at"] = dims, np.where(is_solved, steps[first], np.nan)
    if stops:
        ends = np.where(is_solved, updates[first], dataset["update"].values[-1])
        dataset["final_return"] = dims, results.final_return(dataset, ends)
    return dataset


def ranked_by(dataset: "xr.Dataset", what: str) -> "xr.Dataset":
    """Return results whose `final_return` is that of training, or the final evaluation's.

    Every ranking of algorithms or points uses `final_return`.

    Raises:
        ValueError: for another name, or results without evaluation.
    """
    check_choice("rank_by", what, tuple(KEYS))
    if what == "training":
        return dataset
    results.check_results(dataset)
    if "final_evaluation" not in dataset:
        raise ValueError(
            "rank_by must be training for runs without evaluation (evaluate_every), got evaluation"
        )
    return dataset.assign(final_return=dataset["final_evaluation"])
