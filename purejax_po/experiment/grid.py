"""Policies judged at several values of the environment's parameters."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po.checks import Range, check_choice, check_number
from purejax_po.environments import parameters, randomized
from purejax_po.evaluation import Evaluation
from purejax_po.experiment import policies
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run.trainer import true_env
from purejax_po.types import Array, JSONObject, Params, PyTree

if TYPE_CHECKING:
    import xarray as xr


def evaluate_grid(
    out: str | os.PathLike[str],
    grid: Mapping[str, Sequence[float]],
    *,
    num_episodes: int = 100,
    greedy: bool = True,
    evaluation_seed: int = 0,
    point: Mapping[str, float] | None = None,
) -> "xr.Dataset":
    """Evaluate every sound seed's final policy at each combination of some parameters' values.

    Every seed plays the same episodes at every point, without randomisation.

    Args:
        out: the directory of a run.
        grid: values by field of the environment's parameters, such as `{"g": (8, 10, 12)}`.
        num_episodes: episodes per seed and point.
        greedy, evaluation_seed, point: as `evaluate_run`.

    Returns:
        `episode_return` and `episode_length` with a dim for each field, and dims `seed`, `episode`.

    Raises:
        ValueError: as `evaluate_run`; for an unknown field, or one that is no number.
    """
    policies.check_asked(num_episodes, evaluation_seed)
    found = policies.load_policies(out, point)
    config, trainer = found.study.config, found.study.trainer
    env, env_params = true_env(config, trainer)
    if not grid:
        raise ValueError("grid must name a field of the environment's parameters, got none")
    for name, values in grid.items():
        check_choice(f"grid of {config.env_name}", name, randomized.numbers(env_params))
        for value in values:
            check_number(f"grid {name}", value, Range())
    sound, params = policies.sound_ones(out, found)
    judge = policies.make_judge(
        trainer._replace(env=env, env_params=env_params),
        evaluation_seed,
        num_episodes,
        len(found.seeds[sound]),
        greedy,
    )

    @jax.jit
    def evaluate_all(params: Params, changes: dict[str, Array]) -> Evaluation:
        return judge(
            params,
            parameters.follow(config.env_name, env_params.replace(**changes), changes),
        )

    parts = []
    for values in itertools.product(*grid.values()):
        pairs = zip(grid, values, strict=True)
        changes = {k: jnp.asarray(v, jnp.result_type(getattr(env_params, k))) for k, v in pairs}
        parts.append(jax.device_get(evaluate_all(params, changes)))
    return _labelled(parts, grid, found.seeds[sound], num_episodes)


def over_seeds(dataset: "xr.Dataset") -> list[JSONObject]:
    """Return for each point of a grid, `at`, the `final_return` over seeds."""
    means = dataset["episode_return"].mean("episode")
    names = [str(name) for name in means.dims if name != "seed"]
    rows = []
    for values in itertools.product(*(means[name].values.tolist() for name in names)):
        at = dict(zip(names, values, strict=True))
        rows.append({"at": at, "final_return": results.over_seeds(means.sel(at).values)})
    return rows


def _labelled(
    parts: Sequence[PyTree],
    grid: Mapping[str, Sequence[float]],
    seeds: np.ndarray,
    num_episodes: int,
) -> "xr.Dataset":
    import xarray as xr

    dims = (*grid, "seed", "episode")
    shape = (*map(len, grid.values()), len(seeds), num_episodes)

    def joined(name: str) -> tuple[tuple[str, ...], np.ndarray]:
        return dims, np.stack([getattr(part, name) for part in parts]).reshape(shape)

    return xr.Dataset(
        {name: joined(name) for name in ("episode_return", "episode_length")},
        coords={
            **{name: list(map(float, values)) for name, values in grid.items()},
            "seed": seeds,
            "episode": np.arange(num_episodes),
        },
    )
