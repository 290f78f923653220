"""What comes out of a run: its policies, to act with, evaluate and look at."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from purejax_po.checks import check_flag
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout, train
from purejax_po.experiment.config import ExperimentConfig, sweep
from purejax_po.experiment.loaded import LoadedPolicy
from purejax_po.experiment.run import block as blocks
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.study import Study
from purejax_po.experiment.store import legacy
from purejax_po.experiment.store import run_store as files
from purejax_po.experiment.store.arrays import CheckpointError
from purejax_po.experiment.store.run_store import Stored
from purejax_po.types import Params, Trainer


class TrainedPolicies(NamedTuple):
    """The final policies of a run, or those with the highest evaluations."""

    study: Study
    seeds: np.ndarray
    diverged: np.ndarray
    """Whether each seed diverged; its policy is the last finite one."""
    params: Params
    """Leaves `[seeds, ...]`."""


def load_policies(
    out: str | os.PathLike[str],
    point: Mapping[str, float] | None = None,
    best: bool = False,
) -> TrainedPolicies:
    """Read the policies of all finished seeds of a run, at one point of a sweep.

    They are the final ones, or with `best` those with the highest evaluation in training.

    Raises:
        ValueError: if the directory is no run, if no seed has finished yet, or for a point that
            the sweep does not hold; for the best ones of a run that has not kept them.
    """
    atomic.check_path("out", out)
    check_flag("best", best)
    config = files.read_config(Path(out))
    if best and not config.keep_best:
        raise ValueError(f"best must be False for {out}, which was trained without keep_best")
    place, values = sweep.find(config, point)
    study = train.prepare(config.at(values))
    numbers, diverged, params = _load_params(
        Path(out), config, study.trainer, ".best" if best else ".params"
    )
    places, seeds = sweep.split(config, numbers)
    chosen = places == place
    if not chosen.any():
        raise ValueError(f"{out} holds no trained policy: no seed has finished at this point yet")
    params = jax.tree.map(lambda x: x[chosen], params)
    return TrainedPolicies(study, seeds[chosen], diverged[chosen], params)


def _load_params(
    directory: Path, config: ExperimentConfig, trainer: Trainer, field: str
) -> tuple[Params, np.ndarray, np.ndarray]:
    """Read the parameters of all finished lanes: a field of `block.Finished`, as stored.

    Returns:
        Their numbers, whether each one diverged, and parameters with leaves `[lanes, ...]`.

    Raises:
        ValueError: if no lane has finished, or a checkpoint does not fit or belongs to another
            configuration.
    """
    shapes = jax.eval_shape(trainer.init, jax.random.key(0), trainer.algorithm.hyperparams)
    numbers, diverged, parts, problems = [], [], [], []
    for block, found in _results(directory):
        if isinstance(found, CheckpointError):
            problems.append(str(found))
            continue
        plan = Plan(config, found.meta["plan"]["lanes_per_device"], "")
        params = {k[len(field) :]: v for k, v in found.arrays.items() if k.startswith(field)}
        count = plan.num_real(block)
        template = jax.tree.map(
            lambda x, n=count: jax.ShapeDtypeStruct((n, *x.shape), x.dtype),
            shapes.acting_params,
        )
        parts.append(blocks.unflatten(template, found._replace(arrays=params)))
        diverged.append(found.arrays[".diverged_at"] >= 0)
        numbers.append(plan.numbers(block))
    if not parts:
        reason = problems[0] if problems else "no seed has finished yet"
        raise ValueError(f"{directory} holds no trained policy: {reason}")
    found, order = np.unique(np.concatenate(numbers), return_index=True)
    if len(found) < config.num_lanes:
        for problem in problems:
            warnings.warn(f"{problem}; its seeds are left out", stacklevel=2)
    joined = jax.tree.map(lambda *x: np.concatenate(x)[order], *parts)
    return found, np.concatenate(diverged)[order], joined


def _results(directory: Path) -> Iterator[tuple[int, Stored | CheckpointError]]:
    """Yield the blocks that have a result, or what is wrong with it."""
    store = files.RunStore(directory, files.stored_hashes(directory))
    if legacy.is_old(directory):
        yield from legacy.results(store)
        return
    for block in layout.blocks(directory):
        try:
            if (found := store.result(block)) is not None:
                yield block, found
        except CheckpointError as error:
            yield block, error


def best_point(out: str | os.PathLike[str]) -> dict[str, float]:
    """Return the best point of a sweep that is complete; of any other run, none."""
    atomic.check_path("out", out)
    path = Path(out) / layout.SUMMARY
    if not path.exists() or not files.read_config(Path(out)).sweep:
        return {}
    return dict(json.loads(path.read_text()).get("best", {}))


def load_policy(
    out: str | os.PathLike[str],
    *,
    seed: int,
    point: Mapping[str, float] | None = None,
    best: bool = False,
) -> LoadedPolicy:
    """Return one seed's final policy: a function from observations to actions, and more.

    Args:
        out: the directory of a run.
        seed: the seed's value.
        point: of a sweep, the value of each axis, such as `summarize(…)["best"]`.
        best: in place of the final policy the one with the highest evaluation in training, of a
            run with `keep_best`.

    Returns:
        `policy(obs)`, jitted: observations `[..., *obs_shape]` to the most likely actions, within
        the bounds of the action space; `policy.sample(key, obs)` draws them. A policy with memory
        takes one observation and what it remembers, `None` at an episode's start, and returns
        `(action, memory)`. See `LoadedPolicy`.

    Raises:
        ValueError: if the directory is no run, or the seed is none of its finished ones, or for a
            point that the sweep does not hold; for the best one of a run that has not kept it.
    """
    policies = load_policies(out, point, best)
    params = _params_of(policies, seed)
    if seed in policies.seeds[policies.diverged]:
        warnings.warn(f"seed {seed} diverged: this is its last finite policy", stacklevel=2)
    return LoadedPolicy(policies.study.config, seed, params, policies.study.trainer)


def _params_of(policies: TrainedPolicies, seed: int) -> Params:
    index = np.flatnonzero(policies.seeds == seed)
    if len(index) == 0:
        raise ValueError(
            f"seed must be one of the run's finished seeds, "
            f"{policies.seeds.min()} … {policies.seeds.max()}, got {seed}"
        )
    return jax.tree.map(lambda x: x[index[0]], policies.params)
