"""What came out of a run: the records of its blocks as one Dataset."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from purejax_po.experiment.config import sweep
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import evaluated
from purejax_po.experiment.run.observers import Record
from purejax_po.experiment.run.plan import Plan

if TYPE_CHECKING:
    import xarray as xr


def dataset_of(plan: Plan, parts: Sequence[tuple[Record, np.ndarray]]) -> "xr.Dataset":
    """Label what the blocks of a run have left, in their order.

    Args:
        plan: of the run.
        parts: each block's record, and when its lanes diverged `[num_real]`.
    """
    config = plan.config
    record, diverged_at = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    dataset = results.to_dataset(
        record.log,
        seeds=np.arange(config.num_seeds) + config.first_seed,
        updates=plan.updates,
        steps_per_update=plan.steps_per_update,
        axes=sweep.axes(config),
    )
    final = dataset["final_return"]
    dataset["diverged_at"] = final.dims, diverged_at.reshape(final.shape)
    if record.evaluation is not None:
        dataset = evaluated.add(
            dataset,
            record.evaluation.reshape(*final.shape, -1),
            windows=plan.evaluated,
            threshold=config.threshold,
            stops=config.stop_when_solved is not None,
        )
    dataset.attrs.update(
        algorithm=config.algorithm.name,
        env=config.env_name,
        **{k: v for k in ("wrappers", "randomize") if (v := ", ".join(getattr(config, k)))},
        config=json.dumps(config.identity()),
        versions=json.dumps(results.versions()),
    )
    return dataset
