"""Evaluation between windows, by a program of its own: training's bits stay what they are.

Every lane plays the same episodes, which are other ones at each evaluation. A lane that has solved
its task may end there: it is frozen as one that diverged is, by the program of training itself.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po import contract
from purejax_po.evaluation import evaluate_lanes
from purejax_po.experiment.config import ENV_PARAMS, ExperimentConfig
from purejax_po.experiment.run import plan as plans
from purejax_po.experiment.run.compilation import compiler_options, with_deep_stack
from purejax_po.experiment.run.observers import ended
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.program import Program, once, shapes_on
from purejax_po.experiment.run.trainer import true_env
from purejax_po.types import Array, Device, EnvParams, Params, Trainer
from purejax_po.update import TrainState

SEED = np.uint32(2**32 - 1)
"""Of the episodes: the key of no training run."""
MOST_STEPS = 10**8
"""Of an evaluation's episodes together: each step has a key of its own."""


class Evaluator(NamedTuple):
    """The policy's evaluation compiled for K lanes."""

    evaluate: dict[Device | None, Callable[..., Array]]
    """By device, `(number, env_params, params) → [K]`: the mean return over the episodes."""
    compile_seconds: float


def time_limit(trainer: Trainer) -> int:
    """The steps that an episode has at most.

    Raises:
        ValueError: if the environment's parameters do not tell.
    """
    limit = getattr(trainer.env_params, "max_steps_in_episode", None)
    if limit is None:
        name = contract.name_of(trainer.env)
        raise ValueError(
            f"{name}'s parameters must have max_steps_in_episode, the steps of an episode at most"
        )
    return int(limit)


def check(config: ExperimentConfig, trainer: Trainer) -> None:
    """Check that an experiment's policies can be evaluated in training.

    Raises:
        ValueError: for episodes without an end, too many of them, or an environment on the host,
            where those of an evaluation would not leave those of training alone.
    """
    if not contract.is_deterministic(trainer.env):
        raise ValueError(
            f"evaluate_every must be 0 for {config.env_name}, whose episodes take place outside "
            f"of JAX, got {config.evaluate_every}; purejax-po evaluate takes the final policies"
        )
    steps = _num_steps(config, trainer)
    if steps * config.evaluation_episodes > MOST_STEPS:
        raise ValueError(
            f"evaluation_episodes must be at most {max(1, MOST_STEPS // steps)} where episodes "
            f"have {steps} steps, got {config.evaluation_episodes}"
        )


def _num_steps(config: ExperimentConfig, trainer: Trainer) -> int:
    """The steps of the longest episode at any point of a sweep."""
    swept = config.sweep.get(f"{ENV_PARAMS}max_steps_in_episode", ())
    return int(max((time_limit(trainer), *swept)))


def compile_evaluator(
    config: ExperimentConfig, trainer: Trainer, program: Program, key: Hashable
) -> Evaluator | None:
    """Compile what evaluates the lanes of a program; None if nothing is to be evaluated.

    Args:
        config, trainer: the experiment.
        program: of its training.
        key: as `program.compile_once`.
    """
    if not config.evaluate_every:
        return None
    steps = _num_steps(config, trainer)
    asked = config.evaluation_episodes, steps, config.evaluation_actions
    devices = tuple(dict.fromkeys(program.workers))
    shape = asked, program.lanes_per_worker
    return once(
        _compiled, key, shape, devices, lambda: _compile(config, trainer, program, devices, steps)
    )


_compiled: dict[Hashable, Evaluator] = {}


@with_deep_stack
def _compile(
    config: ExperimentConfig,
    trainer: Trainer,
    program: Program,
    devices: Sequence[Device],
    num_steps: int,
) -> Evaluator:
    """As `compile_evaluator`."""
    start = time.perf_counter()
    env = true_env(config, trainer)[0]
    if exact_match := getattr(type(env), "exact_match", None):  # of a token task
        env = exact_match(env)
    judge = trainer._replace(env=env)

    def evaluate(number: Array, env_params: EnvParams, params: Params) -> Array:
        found = evaluate_lanes(
            jax.random.fold_in(jax.random.key(SEED), number),
            judge,
            env_params,
            params,
            num_episodes=config.evaluation_episodes,
            num_steps=num_steps,
            greedy=config.evaluation_actions == "greedy",
        )
        return jnp.mean(found.episode_return, axis=1)

    numbers = np.zeros(program.lanes_per_worker, int)
    env_params = plans.make_lanes(config, numbers, trainer).env_params
    inputs = np.int32(0), env_params, program.state_shapes.acting_params
    jitted = jax.jit(evaluate)

    lowered = [jitted.lower(*shapes_on(device, inputs)) for device in devices]
    options = compiler_options(devices[0].platform)
    with ThreadPoolExecutor() as pool:
        compiled = list(pool.map(lambda program: program.compile(options), lowered))
    return Evaluator(
        dict(zip(devices, compiled, strict=True)), compile_seconds=time.perf_counter() - start
    )


def evaluate(
    program: Callable[..., Array],
    device: Device | None,
    env_params: EnvParams,
    state: TrainState,
    before: Sequence[np.ndarray],
    plan: Plan,
) -> tuple[TrainState, np.ndarray]:
    """Evaluate a block's lanes, and end those that have solved their task, if they are to.

    Args:
        program: an `Evaluator`'s, for the device.
        device: that holds state and parameters.
        env_params, state: of the lanes, leaves `[K, ...]`.
        before: what earlier evaluations have found, each `[K]`.
        plan: of the run.

    Returns:
        The state, and each lane's mean return `[K]`; of one that has ended, its last one.
    """
    number = jax.device_put(np.int32(len(before)), device)
    found = program(number, env_params, state.acting_params)
    found = np.array(jax.device_get(found))
    if plan.config.stop_when_solved is None:
        return state, found
    if (over := ended(plan.config.stop_when_solved, before)) is not None:
        found = np.where(over, before[-1], found)
    solved = found >= plan.config.stop_when_solved
    done, diverged_at = jax.device_get((state.num_done, state.diverged_at))
    frozen = np.where(solved & (diverged_at < 0), done, diverged_at).astype(diverged_at.dtype)
    return state._replace(diverged_at=jax.device_put(frozen, device)), found


def better(
    best: Params | None, params: Params, found: np.ndarray, before: Sequence[np.ndarray]
) -> Params:
    """Return of each lane what has the highest evaluation so far, of equals the earliest.

    Args:
        best: what had it before; None at the first evaluation.
        params: what the policy acts with, leaves `[K, ...]`; a window may overwrite them.
        found: their evaluation `[K]`.
        before: what earlier evaluations have found, each `[K]`.
    """
    if best is None:
        return jax.tree.map(jnp.copy, params)
    is_better = found > np.max(np.nan_to_num(before, nan=-np.inf), axis=0)
    return _chosen(is_better, params, best)


@jax.jit
def _chosen(is_new: Array, new: Params, old: Params) -> Params:
    def choose(new: Array, old: Array) -> Array:
        return jnp.where(jnp.reshape(is_new, (-1, *[1] * (new.ndim - 1))), new, old)

    return jax.tree.map(choose, new, old)


def truly_diverged_at(plan: Plan, returns: np.ndarray, diverged_at: np.ndarray) -> np.ndarray:
    """When lanes diverged, −1 for those that were frozen because they had solved their task.

    Args:
        plan: of the run.
        returns: `[lanes, evaluations]`.
        diverged_at: `[lanes]`, of the final state.
    """
    if plan.config.stop_when_solved is None:
        return diverged_at
    solved = np.asarray(returns) >= plan.config.stop_when_solved
    updates = np.asarray(plan.updates)[plan.evaluated]
    at = updates[np.argmax(solved, axis=1)]
    return np.where(solved.any(axis=1) & (diverged_at == at), -1, diverged_at).astype(np.int32)
