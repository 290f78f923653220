"""What trained policies reach: every seed on the same episodes, at one or several parameters."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po import contract, environments
from purejax_po.checks import Range, check_count, check_number
from purejax_po.environments import parameters, randomized
from purejax_po.evaluation import Evaluation, evaluate
from purejax_po.experiment.policies import TrainedPolicies, load_policies
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run.evaluating import time_limit
from purejax_po.experiment.run.trainer import true_env
from purejax_po.training import MOST_SEEDS
from purejax_po.types import (
    Array,
    Environment,
    EnvName,
    EnvParams,
    JSONObject,
    Observation,
    Params,
    Trainer,
)

if TYPE_CHECKING:
    import xarray as xr

MOST_EPISODES = 10**7
"""Of all seeds of an evaluation, which run side by side."""
MOST_STEPS = 10**9
"""Of one seed's episodes: each step has a key of its own."""


def evaluate_run(
    out: str | os.PathLike[str],
    *,
    num_episodes: int = 100,
    greedy: bool = True,
    evaluation_seed: int = 0,
    point: Mapping[str, float] | None = None,
    best: bool = False,
    env: EnvName | None = None,
) -> "xr.Dataset":
    """Evaluate every finished seed's final policy on the same episodes, except diverged seeds.

    If training randomised the environment's parameters, the evaluation uses the true ones.

    Args:
        out: the directory of a run.
        num_episodes: episodes per seed, each up to the environment's time limit.
        greedy: act by the distribution's mode rather than a sample.
        evaluation_seed: decides the episodes' starts and noise, the same for every seed and run.
        point, best: as `load_policy`.
        env: another environment with the same kind of observations and actions, by its id or as an
            object, such as `"gymnasium/Hopper-v5"` for a policy of `brax/hopper`. By an id it is
            made with the run's wrappers; an object has its own.

    Returns:
        `episode_return` and `episode_length`, dims `seed`, `episode`; the attributes
        `diverged_seeds` and `unfinished_seeds` list those that are left out.

    Raises:
        ValueError: as `load_policies`; for more episodes than memory holds, an evaluation_seed
            outside [0, 2³²), or no policy; for an environment with other observations or actions.
    """
    found = _load(out, point, best, num_episodes, evaluation_seed)
    config, trainer = found.study.config, found.study.trainer
    if env is None:
        env, env_params = true_env(config, trainer)
    else:
        wrappers = config.wrappers if isinstance(env, str) else ()
        env, env_params = environments.make(env, wrappers=wrappers)
        _check_observations(trainer, env, env_params)
    dataset = _on_grid(out, found, env, env_params, {}, num_episodes, greedy, evaluation_seed)
    seeds = config.first_seed + np.arange(config.num_seeds)
    return dataset.assign_attrs(
        diverged_seeds=found.seeds[found.diverged].tolist(),
        unfinished_seeds=np.setdiff1d(seeds, found.seeds).tolist(),
    )


def evaluate_grid(
    out: str | os.PathLike[str],
    grid: Mapping[str, Sequence[float]],
    *,
    num_episodes: int = 100,
    greedy: bool = True,
    evaluation_seed: int = 0,
    point: Mapping[str, float] | None = None,
    best: bool = False,
) -> "xr.Dataset":
    """Evaluate every sound seed's final policy at each combination of some parameters' values.

    Every seed plays the same episodes at every point, without randomisation.

    Args:
        out: the directory of a run.
        grid: values by field of the environment's parameters, such as `{"g": (8, 10, 12)}`.
        num_episodes: episodes per seed and point.
        greedy, evaluation_seed, point, best: as `evaluate_run`.

    Returns:
        `episode_return` and `episode_length` with a dim for each field, and dims `seed`, `episode`.

    Raises:
        ValueError: as `evaluate_run`; for an unknown field, one that is no number, or a value that
            is given twice.
    """
    found = _load(out, point, best, num_episodes, evaluation_seed)
    config, trainer = found.study.config, found.study.trainer
    env, env_params = true_env(config, trainer)
    if not grid:
        raise ValueError("grid must name a field of the environment's parameters, got none")
    for name, values in grid.items():
        randomized.check_field("grid", config.env_name, name, env_params)
        if np.ndim(values) != 1 or not len(values):
            raise ValueError(f"grid {name} must be values such as (8.0, 10.0), got {values!r}")
        for value in values:
            check_number(f"grid {name}", value, Range())
            try:
                replace(config, env_params={name: value}).set_env_params(env_params)
            except ValueError as error:  # such as a part of a whole number
                raise ValueError(str(error).replace("env_params.", "grid ", 1)) from None
        if len(set(listed := np.asarray(values).tolist())) < len(listed):
            shown = ", ".join(f"{value:g}" for value in listed)
            raise ValueError(f"grid {name} must hold each value once, got {shown}")
    return _on_grid(out, found, env, env_params, grid, num_episodes, greedy, evaluation_seed)


def over_seeds(dataset: "xr.Dataset") -> list[JSONObject]:
    """Return for each point of a grid, `at`, the `final_return` over seeds."""
    means = dataset.assign(final_return=dataset["episode_return"].mean("episode"))
    return [
        {"at": results.at(x), "final_return": results.over_seeds(x["final_return"].values)}
        for x in results.points(means)
    ]


def check_episodes(num_episodes: int, num_seeds: int, num_steps: int) -> None:
    """Raise `ValueError` for more episodes of each seed than memory holds."""
    most = max(1, min(MOST_EPISODES // num_seeds, MOST_STEPS // num_steps))
    if num_episodes > most:
        raise ValueError(
            f"num_episodes must be at most {most} for {num_seeds} seed{'s' * (num_seeds != 1)} "
            f"and episodes of {num_steps} steps, got {num_episodes}"
        )


def _load(
    out: str | os.PathLike[str],
    point: Mapping[str, float] | None,
    best: bool,
    num_episodes: int,
    evaluation_seed: int,
) -> TrainedPolicies:
    """As `load_policies`, once the arguments of an evaluation are checked."""
    check_count("num_episodes", num_episodes)
    check_count("evaluation_seed", evaluation_seed, minimum=0)
    if evaluation_seed >= MOST_SEEDS:
        raise ValueError(f"evaluation_seed must be below 2^32, got {evaluation_seed}")
    return load_policies(out, point, best)


def _check_observations(trainer: Trainer, env: Environment, env_params: EnvParams) -> None:
    """Raise `ValueError` unless an environment's observations have the shapes of the trainer's."""
    own = contract.first_observation(trainer.env, trainer.env_params)
    found = contract.first_observation(env, env_params)
    if _shapes(found) != _shapes(own):
        raise ValueError(
            f"env must have the observations of {contract.name_of(trainer.env)}, "
            f"{_shapes(own)}, got {contract.name_of(env)} with {_shapes(found)}"
        )


def _shapes(obs: Observation) -> str:
    """Shapes in words, by name where an observation has several fields."""
    return str(jax.tree.map(lambda x: list(x.shape), obs))


def _on_grid(
    out: str | os.PathLike[str],
    found: TrainedPolicies,
    env: Environment,
    env_params: EnvParams,
    grid: Mapping[str, Sequence[float]],
    num_episodes: int,
    greedy: bool,
    evaluation_seed: int,
) -> "xr.Dataset":
    """Play the same episodes with every sound seed, at each combination of values."""
    import xarray as xr

    sound = ~found.diverged
    if not sound.any():
        raise ValueError(f"{out} holds no policy to evaluate: every seed diverged")
    seeds, params = found.seeds[sound], jax.tree.map(lambda x: x[sound], found.params)
    trainer = found.study.trainer._replace(env=env, env_params=env_params)
    num_steps = time_limit(trainer)
    check_episodes(num_episodes, len(seeds), num_steps)

    @jax.jit
    def evaluate_at(params: Params, changes: dict[str, Array]) -> Evaluation:
        at = env_params
        if changes:
            name = found.study.config.env_name
            at = parameters.follow(name, env_params.replace(**changes), changes)

        one = partial(
            evaluate,
            *(jax.random.key(evaluation_seed), env, at, trainer.actor),
            num_episodes=num_episodes,
            num_steps=num_steps,
            greedy=greedy,
        )
        return jax.vmap(one)(params)

    parts: list[Any] = []
    for values in itertools.product(*grid.values()):
        pairs = zip(grid, values, strict=True)
        changes = {k: jnp.asarray(v, jnp.result_type(getattr(env_params, k))) for k, v in pairs}
        parts.append(jax.device_get(evaluate_at(params, changes)))
    dims = (*grid, "seed", "episode")
    shape = (*map(len, grid.values()), len(seeds), num_episodes)
    return xr.Dataset(
        {
            name: (dims, np.stack([getattr(part, name) for part in parts]).reshape(shape))
            for name in ("episode_return", "episode_length")
        },
        coords={
            **{name: list(map(float, values)) for name, values in grid.items()},
            "seed": seeds,
            "episode": np.arange(num_episodes),
        },
    )
