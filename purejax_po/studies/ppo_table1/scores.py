"""Scores of runs, beside those of policies that were not trained."""

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po.evaluation import evaluate
from purejax_po.experiment import files as atomic
from purejax_po.experiment.results import statistics
from purejax_po.studies.ppo_table1 import protocol
from purejax_po.studies.ppo_table1.protocol import Job
from purejax_po.types import Array, Carry, Distribution, Key, Params

if TYPE_CHECKING:
    import xarray as xr

SCORED_EPISODES = 100
"""A run's score is the mean return of the last so many episodes."""
REFERENCE_POLICIES, REFERENCE_EPISODES = 16, 4
"""Of the untrained and of the random policy; episodes of each."""
REFERENCES = "references.json"

References = dict[str, list[float]]
"""Mean returns of several policies of a kind, `random` and `untrained`."""


class Score(NamedTuple):
    """The runs of one setting on one task."""

    runs: np.ndarray
    """Score of each seed, `[seeds]`; NaN where no episode ended."""
    num_diverged: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Mixed:
    """A Gaussian policy's actions, or uniform ones in [−1, 1], from the same noise."""

    gaussian: Distribution
    is_uniform: Array

    def noise(self, key: Key) -> Array:
        return self.gaussian.noise(key)

    def sample_from(self, noise: Array) -> Array:
        uniform = jax.scipy.special.erf(noise / jnp.sqrt(2.0))
        return jnp.where(self.is_uniform, uniform, self.gaussian.sample_from(noise))


def references(job: Job) -> References:
    """Mean returns of the uniformly random policy and of untrained ones.

    Both act on the observations as they are: there are no statistics before training.
    """
    env, env_params = job.config.make_env()
    algorithm = job.config.algorithm.build(env, env_params)
    actor = algorithm.actor

    def act(params: Params, carry: Carry, obs: Array, start: Array) -> tuple[Carry, _Mixed]:
        carry, gaussian = actor.act(params[0], carry, obs, start)
        return carry, _Mixed(gaussian, params[1])

    mixed = actor._replace(act=act)

    def one(seed: Array, is_uniform: Array) -> Array:
        init_key, key = jax.random.split(jax.random.key(seed))
        params = algorithm.init(init_key, algorithm.hyperparams).params
        return evaluate(
            key,
            env,
            env_params,
            mixed,
            (params, is_uniform),
            num_episodes=REFERENCE_EPISODES,
            num_steps=protocol.TASKS[job.task].max_steps,
            greedy=False,
        ).episode_return.mean()

    seeds = jnp.arange(2 * REFERENCE_POLICIES)
    found = jax.jit(jax.vmap(one))(seeds, seeds < REFERENCE_POLICIES).tolist()
    return {"random": found[:REFERENCE_POLICIES], "untrained": found[REFERENCE_POLICIES:]}


def read_references(job: Job) -> References:
    """As `references`, kept in the task's directory."""
    path = job.directory.parent / REFERENCES
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, references(job))
    return json.loads(path.read_text())


def last_episodes(dataset: "xr.Dataset", number: int = SCORED_EPISODES) -> np.ndarray:
    """Mean return of the last `number` episodes, `[..., seeds]`; NaN if none ended.

    Episodes are known by windows of updates: of the oldest window that is needed as many count as
    are missing, at the window's mean. A run that diverged has its last episodes before that.
    """
    count = dataset["num_episodes"].values.astype(float)
    later = np.cumsum(count[..., ::-1], axis=-1)[..., ::-1] - count
    weight = np.clip(number - later, 0.0, count)
    total = weight.sum(axis=-1)
    returns = np.nan_to_num(dataset["episode_return"].values)
    mean = (weight * returns).sum(axis=-1) / np.maximum(total, 1.0)
    return np.where(total > 0, mean, np.nan)


def by_setting(group: str, dataset: "xr.Dataset") -> dict[str, "xr.Dataset"]:
    """Split a group's results into those of its settings that were run, by label."""
    axis, settings = protocol.GROUPS[group].axis, protocol.GROUPS[group].settings
    if axis is None:
        return {x.label: dataset for x in settings}
    run = set(dataset[axis].values.tolist())
    return {x.label: dataset.sel({axis: x.value}) for x in settings if x.value in run}


def score(part: "xr.Dataset") -> Score:
    """Return one setting's scores on one task."""
    return Score(last_episodes(part), int(np.sum(part["diverged_at"].values >= 0)))


def best(of_task: Mapping[str, Score]) -> float:
    """Return what counts as 1: the highest mean over seeds of any setting of PPO.

    A setting's mean does not grow with the number of seeds, as the best single run would. Without
    PPO it is the best of what there is.
    """
    ours = [label for label in of_task if paper(label) is not None] or list(of_task)
    return max(_mean(of_task[label].runs) for label in ours)


def normalized(
    found: Mapping[str, Mapping[str, Score]], low: Mapping[str, float]
) -> dict[str, list[np.ndarray]]:
    """Scale every setting's scores, by task, so that random is 0 and `best` is 1.

    Args:
        found: scores by task and label.
        low: the random policy's mean return by task.

    Returns:
        By label, one `[seeds]` per task; runs without an episode are left out, and so are all runs
        of a task on which nothing beats random: there is no scale from 0 to 1.
    """
    labels = dict.fromkeys(label for of_task in found.values() for label in of_task)
    scaled: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    for task, of_task in found.items():
        high = best(of_task)
        for label, score in of_task.items():
            kept = score.runs[np.isfinite(score.runs) & (high > low[task])]
            scaled[label].append(statistics.normalize(kept, low[task], high) if len(kept) else kept)
    return scaled


def paper(label: str) -> float | None:
    """The paper's score of a setting."""
    settings = (x for group in protocol.GROUPS.values() for x in group.settings)
    return next(x.paper for x in settings if x.label == label)


def _mean(runs: np.ndarray) -> float:
    kept = runs[np.isfinite(runs)]
    return float(kept.mean()) if len(kept) else -np.inf
