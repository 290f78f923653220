"""Training as a pure function: rollout, any algorithm and metrics, scanned."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from purejax_po import contract, metrics, normalization, observations, spaces, update
from purejax_po.checks import Range, check_choice, check_count, check_flag, check_number
from purejax_po.metrics import Log
from purejax_po.normalization import NormalizedParams
from purejax_po.types import (
    Actor,
    Algorithm,
    Array,
    Environment,
    EnvParams,
    Hyperparams,
    Key,
    Observation,
    Space,
    Trainer,
)
from purejax_po.update import Loop, TrainState, shape_of

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

MOST_SEEDS = 2**32
"""Seeds are below it: a key is made of 32 bits of its seed."""
MatmulPrecision = Literal["default", "bfloat16", "tensorfloat32", "float32"]


class Result(NamedTuple):
    """The result of `train`: the last state, and a log with one entry per window."""

    state: TrainState
    log: Log

    def __repr__(self) -> str:
        return f"Result({self.state!r}, log of {shape_of(self.log.info.count)} windows)"


def seed_keys(seeds: int | ArrayLike) -> Key:
    """Return one key per seed, made of the seed's value.

    Args:
        seeds: whole numbers in [0, 2³²), `[S]`; or a number n, which stands for 0 … n−1.

    Returns:
        Keys `[S]`. Different seeds have different keys.

    Raises:
        ValueError: for a seed that is no whole number or is out of range: JAX would take it modulo
            2³², and two seeds would share a key.

    Example:
        >>> import purejax_po as po
        >>> po.seed_keys(16).shape
        (16,)
        >>> po.seed_keys([3, 7]).shape
        (2,)
    """
    if isinstance(seeds, Tracer):
        if seeds.ndim != 1 or not jnp.issubdtype(seeds.dtype, jnp.integer):
            raise ValueError(
                "seeds must be a list of whole numbers where they are traced, got "
                f"{seeds.dtype}{list(seeds.shape)}"
            )
        return jax.vmap(jax.random.key)(seeds)
    try:
        values = np.asarray(seeds)
    except ValueError:  # lists of several lengths
        raise ValueError(f"seeds must be one list of whole numbers, got {seeds!r}") from None
    if values.ndim == 0:
        seeds = seeds.item() if isinstance(seeds, np.ndarray | jax.Array) else seeds
        check_count("seeds", seeds)
        check_number("seeds", seeds, Range(1, MOST_SEEDS))
        values = np.arange(int(values), dtype=np.uint32)
    is_whole = values.dtype.kind in "iu" or (
        values.dtype == object and all(isinstance(x, int) for x in values.flat)  # beyond 64 bits
    )
    if values.ndim != 1 or not values.size or not is_whole:
        raise ValueError(
            "seeds must be a number of seeds or a list of whole numbers, got "
            f"{values.dtype}{list(values.shape)}"
        )
    if values.min() < 0 or values.max() >= MOST_SEEDS:
        wrong = values[(values < 0) | (values >= MOST_SEEDS)][0]
        raise ValueError(f"seeds must be whole numbers in [0, 2^32), got {wrong}")
    return jax.vmap(jax.random.key)(jnp.asarray(values.astype(np.uint32)))


def make_trainer(
    env: Environment,
    env_params: EnvParams,
    algorithm: Algorithm,
    *,
    num_envs: int,
    num_steps: int,
    normalize_observations: bool = False,
    normalize_rewards: bool = False,
    matmul_precision: MatmulPrecision = "default",
) -> Trainer:
    """Join an environment, an algorithm and a rollout into `(init, step)`.

    Args:
        env, env_params: a gymnax environment and its default parameters, which `init` and `step`
            also take as a traced argument.
        algorithm: any `Algorithm`.
        num_envs: N, environments stepped in parallel by each lane.
        num_steps: T, steps of each environment per update.
        normalize_observations: let policy and critic see (obs − mean)/std, clipped to ±10, with
            running moments of the lane's observations up to the last update, field by field.
        normalize_rewards: let the algorithm see r / std of the running return discounted by
            `hyperparams.discount`; logs and evaluations keep the true rewards.
        matmul_precision: of products of matrices, by JAX's names: `"default"`, `"bfloat16"`,
            `"tensorfloat32"`, `"float32"`. The device decides what they mean: on recent NVIDIA
            GPUs all except the last are tensorfloat32, on a CPU all are float32.

    Raises:
        ValueError: if a number is not a positive whole number, there is nothing to normalise, the
            environments do not split into groups, the policy needs whole episodes and the
            algorithm does not, or environment, policy and critic do not fit each other
            (`contract.check`).

    Example:
        >>> import purejax_po as po
        >>> env, env_params = po.make_env("CartPole-v1")
        >>> algorithm = po.ppo(*po.mlp_actor_critic(env, env_params))
        >>> trainer = po.make_trainer(env, env_params, algorithm, num_envs=4, num_steps=128)
        >>> trainer.steps_per_update
        512
    """
    check_count("num_envs", num_envs)
    check_count("num_steps", num_steps)
    check_flag("normalize_observations", normalize_observations)
    check_flag("normalize_rewards", normalize_rewards)
    check_choice("matmul_precision", matmul_precision, get_args(MatmulPrecision))
    _check_algorithm(algorithm, num_envs, normalize_rewards)
    actor, obs = algorithm.actor, jnp.zeros(())
    if normalize_observations:
        actor, obs = normalization.normalizing(actor), _number_observation(env, env_params)
    loop = Loop(
        env=env,
        algorithm=algorithm,
        actor=actor,
        num_envs=num_envs,
        num_steps=num_steps,
        like=_checked(env, env_params, actor, algorithm, normalize_observations),
        obs=obs,
        normalize_observations=normalize_observations,
        normalize_rewards=normalize_rewards,
    )
    init, step = _functions(loop, env_params)
    if matmul_precision != "default":
        init, step = (_at_precision(matmul_precision, f) for f in (init, step))
    return Trainer(init, step, env, env_params, algorithm, num_envs, num_steps, actor)


def make_train(trainer: Trainer, *, num_updates: int, log_every: int = 1) -> Callable[..., Result]:
    """Return the pure function `train(key, hyperparams, env_params=default) → Result`.

    Args:
        trainer: from `make_trainer`.
        num_updates: updates to make; schedules run against this number.
        log_every: updates per window of the log; the last window may be shorter.

    Returns:
        A function to `jax.jit` and `jax.vmap`; its log has ⌈num_updates / log_every⌉ windows.
    """
    check_count("num_updates", num_updates)
    check_count("log_every", log_every)

    def train(
        key: Key, hyperparams: Hyperparams, env_params: EnvParams = trainer.env_params
    ) -> Result:
        state = trainer.init(key, hyperparams, env_params, num_updates)

        def window(state: TrainState, length: Array) -> tuple[TrainState, Log]:
            return run_window(trainer, hyperparams, state, env_params, length)

        return Result(*jax.lax.scan(window, state, window_lengths(num_updates, log_every)))

    return train


def run_window(
    trainer: Trainer,
    hyperparams: Hyperparams,
    state: TrainState,
    env_params: EnvParams,
    length: Array,
) -> tuple[TrainState, Log]:
    """Make `length` updates and merge their logs; traced, so that one program serves any length."""
    step = jax.jit(trainer.step)  # traced once for both

    def advance(_: Array, carry: tuple[TrainState, Log]) -> tuple[TrainState, Log]:
        state, log = carry
        state, latest = step(hyperparams, state, env_params)
        return state, metrics.merge_logs(log, latest)

    shapes = jax.eval_shape(step, hyperparams, state, env_params)[1]
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, length, advance, (state, empty))


def window_lengths(num_updates: int, log_every: int) -> Array:
    """Split `num_updates` into windows of `log_every` and a shorter last one, int32 `[W]`."""
    full, rest = divmod(num_updates, log_every)
    return jnp.asarray([log_every] * full + [rest] * (rest > 0), jnp.int32)


def _check_algorithm(algorithm: Algorithm, num_envs: int, normalize_rewards: bool) -> None:
    """Raise `ValueError` unless an algorithm can be trained so."""
    if num_envs % algorithm.group_size:
        raise ValueError(
            f"num_envs must be a multiple of the group size {algorithm.group_size}, got {num_envs}"
        )
    if not isinstance(algorithm.actor, Actor):
        raise ValueError(
            "algorithm.actor must be an Actor, such as acting(policy) makes, got "
            f"{type(algorithm.actor).__name__}"
        )
    if algorithm.actor.prompt is not None and not algorithm.complete_episodes:
        raise ValueError(
            "a policy that reads a prompt needs an algorithm that learns from complete episodes"
        )
    if normalize_rewards and not hasattr(algorithm.hyperparams, "discount"):
        raise ValueError("normalize_rewards must be False for hyperparams without discount")


def _functions(
    loop: Loop, default_params: EnvParams
) -> tuple[Callable[..., TrainState], Callable[..., tuple[TrainState, Log]]]:
    """The two functions of a trainer."""

    def init(
        key: Key,
        hyperparams: Hyperparams,
        env_params: EnvParams = default_params,
        num_updates: Array | float = jnp.inf,
    ) -> TrainState:
        return update.start(loop, key, hyperparams, env_params, num_updates)

    def step(
        hyperparams: Hyperparams, state: TrainState, env_params: EnvParams = default_params
    ) -> tuple[TrainState, Log]:
        return update.step(loop, hyperparams, state, env_params)

    return init, step


def _checked(
    env: Environment, env_params: EnvParams, actor: Actor, algorithm: Algorithm, normalizes: bool
) -> contract.Start:
    """Check environment, actor and critic against each other: see `contract.check`."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyperparams)
    if not hasattr(state, "params"):
        raise ValueError(
            "algorithm.init must return a state with a field params, such as a NamedTuple "
            f"State(params, optimizer), got {type(state).__name__}"
        )
    params: Any = state.params

    def check_critic(obs: Observation) -> None:
        if algorithm.critic is not None:
            if normalizes:
                obs = jax.eval_shape(normalization.normalize_obs, acting.obs, obs)
            contract.check_values(algorithm.critic, algorithm.critic.params_of(params), obs)

    if normalizes:
        statistics = _number_observation(env, env_params)
        acting: Any = NormalizedParams(params, normalization.empty(statistics))
    else:
        acting = params
    return contract.check(env, env_params, actor, acting, check_critic)


def _at_precision(
    precision: str, function: Callable[Arguments, Returned]
) -> Callable[Arguments, Returned]:
    """The function, traced with another precision of products of matrices."""

    @functools.wraps(function)
    def traced(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        with jax.default_matmul_precision(precision):
            return function(*args, **kwargs)

    return traced


def _number_observation(env: Environment, env_params: EnvParams) -> Observation:
    """Shape and dtype of what is normalised: one observation, or its fields of numbers by name."""
    obs = contract.first_observation(env, env_params)
    space, has_tokens = env.observation_space(env_params), hasattr(env, "num_tokens")
    if not observations.fields(space) and not hasattr(obs, "dtype"):
        return jnp.zeros(())  # the contract's check tells of it
    if parts := observations.fields(space):
        found = {name: observations.field(obs, name) for name in parts}
        numbers = {name: x for name, x in found.items() if _are_numbers(parts[name], x)}
    else:
        numbers = obs if _are_numbers(space, obs) else {}
    if has_tokens or numbers == {}:
        raise ValueError(
            "normalize_observations must be False unless observations are a Box of numbers, got "
            f"{contract.describe(obs)}" + (" of tokens" if has_tokens else "")
        )
    return numbers


def _are_numbers(space: Space, obs: Observation) -> bool:
    """Whether an array has statistics: a Box of real or whole numbers."""
    is_real = jnp.issubdtype(obs.dtype, jnp.floating) or jnp.issubdtype(obs.dtype, jnp.integer)
    return spaces.kind(space) == "box" and bool(is_real)
