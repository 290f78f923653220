"""What comes out of a run: its policies, to act with, evaluate and look at."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from purejax_po import environments
from purejax_po.checks import check_count
from purejax_po.evaluation import Evaluation, evaluate
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout, train
from purejax_po.experiment.config import ExperimentConfig, sweep
from purejax_po.experiment.loaded import LoadedPolicy
from purejax_po.experiment.run import block as blocks
from purejax_po.experiment.run.evaluating import time_limit
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.study import Study
from purejax_po.experiment.run.trainer import true_env
from purejax_po.experiment.store import legacy
from purejax_po.experiment.store import run_store as files
from purejax_po.experiment.store.arrays import CheckpointError
from purejax_po.experiment.store.run_store import ForeignError, Stored
from purejax_po.training import MOST_SEEDS
from purejax_po.types import EnvName, EnvParams, Params, Trainer

if TYPE_CHECKING:
    import xarray as xr

MOST_EPISODES = 10**7
"""Of all seeds of an evaluation, which run side by side."""
MOST_STEPS = 10**9
"""Of one seed's episodes: each step has a key of its own."""


class TrainedPolicies(NamedTuple):
    """The final policies of a run."""

    study: Study
    seeds: np.ndarray
    diverged: np.ndarray
    """Whether each seed diverged; its policy is the last finite one."""
    params: Params
    """Leaves `[seeds, ...]`."""


def load_policies(
    out: str | os.PathLike[str], point: Mapping[str, float] | None = None
) -> TrainedPolicies:
    """Read the final policies of all finished seeds of a run, at one point of a sweep.

    Raises:
        ValueError: if the directory is no run, if no seed has finished yet, or for a point that
            the sweep does not hold.
    """
    atomic.check_path("out", out)
    config = files.read_config(Path(out))
    place, values = sweep.find(config, point)
    study = train.prepare(config.at(values))
    numbers, diverged, params = _load_params(Path(out), config, study.trainer)
    places, seeds = sweep.split(config, numbers)
    chosen = places == place
    if not chosen.any():
        raise ValueError(f"{out} holds no trained policy: no seed has finished at this point yet")
    params = jax.tree.map(lambda x: x[chosen], params)
    return TrainedPolicies(study, seeds[chosen], diverged[chosen], params)


def _load_params(
    directory: Path, config: ExperimentConfig, trainer: Trainer
) -> tuple[Params, np.ndarray, np.ndarray]:
    """Read the final parameters of all finished lanes.

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
        params = {k[len(".params") :]: v for k, v in found.arrays.items() if ".params" in k}
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
    for folder in sorted((directory / layout.BLOCKS).glob("[0-9]*")):
        block = int(folder.name)
        try:
            if (found := store.result(block)) is not None:
                yield block, found
        except ForeignError:
            raise
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
    out: str | os.PathLike[str], *, seed: int, point: Mapping[str, float] | None = None
) -> LoadedPolicy:
    """Return one seed's final policy: a function from observations to actions, and more.

    Args:
        out: the directory of a run.
        seed: the seed's value.
        point: of a sweep, the value of each axis, such as `summarize(…)["best"]`.

    Returns:
        `policy(obs)`, jitted: observations `[..., *obs_shape]` to the most likely actions, within
        the bounds of the action space; `policy.sample(key, obs)` draws them. A policy with memory
        takes one observation and what it remembers, `None` at an episode's start, and returns
        `(action, memory)`. See `LoadedPolicy`.

    Raises:
        ValueError: if the directory is no run, or the seed is none of its finished ones, or for a
            point that the sweep does not hold.
    """
    policies = load_policies(out, point)
    params = _params_of(policies, seed)
    if seed in policies.seeds[policies.diverged]:
        warnings.warn(f"seed {seed} diverged: this is its last finite policy", stacklevel=2)
    return LoadedPolicy(policies.study.config, seed, params, policies.study.trainer)


def check_asked(num_episodes: int, evaluation_seed: int) -> None:
    """Raise `ValueError` for arguments that no evaluation takes."""
    check_count("num_episodes", num_episodes)
    check_count("evaluation_seed", evaluation_seed, minimum=0)
    if evaluation_seed >= MOST_SEEDS:
        raise ValueError(f"evaluation_seed must be below 2^32, got {evaluation_seed}")


def sound_ones(out: str | os.PathLike[str], policies: TrainedPolicies) -> tuple[Params, np.ndarray]:
    """Return which seeds have not diverged, and their parameters.

    Raises:
        ValueError: if there is none.
    """
    sound = ~policies.diverged
    if not sound.any():
        raise ValueError(f"{out} holds no policy to evaluate: every seed diverged")
    return sound, jax.tree.map(lambda x: x[sound], policies.params)


def make_judge(
    trainer: Trainer, evaluation_seed: int, num_episodes: int, num_seeds: int, greedy: bool
) -> Callable[[Params, EnvParams], Evaluation]:
    """Return `(params, env_params) → Evaluation`, leaves `[seeds, ...]`, on the same episodes.

    Raises:
        ValueError: for more episodes than memory holds.
    """
    num_steps = time_limit(trainer)
    check_episodes(num_episodes, num_seeds, num_steps)

    def judge(params: Params, env_params: EnvParams) -> Evaluation:
        def one(params: Params) -> Evaluation:
            return evaluate(
                jax.random.key(evaluation_seed),
                trainer.env,
                env_params,
                trainer.actor,
                params,
                num_episodes=num_episodes,
                num_steps=num_steps,
                greedy=greedy,
            )

        return jax.vmap(one)(params)

    return judge


def evaluate_run(
    out: str | os.PathLike[str],
    *,
    num_episodes: int = 100,
    greedy: bool = True,
    evaluation_seed: int = 0,
    point: Mapping[str, float] | None = None,
    env: EnvName | None = None,
) -> "xr.Dataset":
    """Evaluate every finished seed's final policy on the same episodes, except diverged seeds.

    If training randomised the environment's parameters, the evaluation uses the true ones.

    Args:
        out: the directory of a run.
        num_episodes: episodes per seed, each up to the environment's time limit.
        greedy: act by the distribution's mode rather than a sample.
        evaluation_seed: decides the episodes' starts and noise, the same for every seed and run.
        point: as `load_policy`.
        env: another environment with the same kind of observations and actions, by its id or as an
            object, such as `"gymnasium/Hopper-v5"` for a policy of `brax/hopper`.

    Returns:
        `episode_return` and `episode_length`, dims `seed`, `episode`; the attributes
        `diverged_seeds` and `unfinished_seeds` list those that are left out.

    Raises:
        ValueError: as `load_policies`; for more episodes than memory holds, an evaluation_seed
            outside [0, 2³²), or no policy.
    """
    import xarray as xr

    check_asked(num_episodes, evaluation_seed)
    policies = load_policies(out, point)
    if env is None:
        env, env_params = true_env(policies.study.config, policies.study.trainer)
    else:
        env, env_params = environments.make(env)
    sound, params = sound_ones(out, policies)
    judge = make_judge(
        policies.study.trainer._replace(env=env, env_params=env_params),
        evaluation_seed,
        num_episodes,
        len(policies.seeds[sound]),
        greedy,
    )
    evaluation = jax.device_get(jax.jit(lambda params: judge(params, env_params))(params))
    dims = ("seed", "episode")
    return xr.Dataset(
        {
            "episode_return": (dims, evaluation.episode_return),
            "episode_length": (dims, evaluation.episode_length),
        },
        coords={"seed": policies.seeds[sound], "episode": np.arange(num_episodes)},
        attrs={
            "diverged_seeds": policies.seeds[~sound].tolist(),
            "unfinished_seeds": _unfinished_seeds(policies),
        },
    )


def _unfinished_seeds(policies: TrainedPolicies) -> list[int]:
    config = policies.study.config
    seeds = config.first_seed + np.arange(config.num_seeds)
    return np.setdiff1d(seeds, policies.seeds).tolist()


def check_episodes(num_episodes: int, num_seeds: int, num_steps: int) -> None:
    """Raise `ValueError` for more episodes than memory holds."""
    most = max(1, min(MOST_EPISODES // num_seeds, MOST_STEPS // num_steps))
    if num_episodes > most:
        raise ValueError(
            f"num_episodes must be at most {most} for {num_seeds} seeds and episodes of "
            f"{num_steps} steps, got {num_episodes}"
        )


def _params_of(policies: TrainedPolicies, seed: int) -> Params:
    index = np.flatnonzero(policies.seeds == seed)
    if len(index) == 0:
        raise ValueError(
            f"seed must be one of the run's finished seeds, "
            f"{policies.seeds.min()} … {policies.seeds.max()}, got {seed}"
        )
    return jax.tree.map(lambda x: x[index[0]], policies.params)
