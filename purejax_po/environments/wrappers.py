"""Changes to an environment for training alone; evaluate on the environment that was wrapped.

A wrapped environment is a copy with `reset_env` or `step_env` replaced: gymnax's own `reset` and
`step` call these, so that spaces, parameters, time limit and automatic resets stay what they were.
"""

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purejax_po.types import Array, EnvParams, Info, Key, Range, check_number

StateDistribution = Callable[[Key, EnvParams], Any]
"""`(key, env_params) → state`: draws the state that an episode starts from."""
Potential = Callable[[Any], Any]
"""`state → φ(state)`, a scalar."""


def reset_from(env: Any, distribution: StateDistribution | Any) -> Any:
    """Return the environment with its episodes started from a given distribution of states.

    For training: `make_trainer` gets the wrapped environment, `evaluate` the original one with its
    true start. The automatic resets draw from the distribution, too.

    Args:
        env: a gymnax environment.
        distribution: states with leaves `[S, ...]`, one of which is drawn uniformly, e.g. those an
            expert visited or `Chain.states()`; or a function `(key, env_params) → state`. A state
            is taken as it is, with the time (steps) that it holds.

    Raises:
        ValueError: if what is drawn does not have the form of the environment's states.

    Source: Kakade and Langford 2002, Approximately Optimal Approximate Reinforcement Learning,
    section 1 (restarts); Resnick et al. 2018, Backplay (an expert's states).
    """
    draw = distribution if callable(distribution) else _uniform(env, distribution)
    _check_states(env, _abstract(draw, env.default_params), "draw")

    def reset_env(key: Key, params: EnvParams) -> tuple[Array, Any]:
        draw_key, observe_key = jax.random.split(key)
        # Stored states may be of another precision than those that the environment makes.
        state = jax.tree.map(
            lambda x, y: jnp.asarray(x, y.dtype), draw(draw_key, params), _states(env, params)
        )
        return env.observe(observe_key, state, None, params), state

    return _replace(env, reset_env=reset_env)


def shape_reward(env: Any, potential: Potential, discount: Array | float) -> Any:
    """Return the environment with rewards r̃ = r + γφ(s') − φ(s).

    φ(s') counts as 0 where s' is terminated, and in full where it is truncated; s' is always the
    true successor, never the state after a reset. So Q̃ = Q − φ and Ã = A, and the optimal policies
    stay the same, provided that γ is the algorithm's.

    Args:
        env: a gymnax environment.
        potential: φ, a function of the environment's state alone, in units of return.
        discount: γ in [0, 1]. To sweep it, wrap inside the function that is traced.

    Raises:
        ValueError: if the potential is not a function of the state that returns one real number,
            or γ is outside [0, 1].

    Source: Ng, Harada and Russell 1999, Policy Invariance Under Reward Transformations, theorem 1.
    """
    check_number("discount", discount, Range(0.0, 1.0))
    _check_potential(env, potential)

    def step_env(
        key: Key, state: Any, action: Any, params: EnvParams
    ) -> tuple[Array, Any, Array, Array, Info]:
        obs, successor, reward, terminated, info = env.step_env(key, state, action, params)
        potential_after = jnp.where(terminated, 0.0, potential(successor))
        reward = reward + discount * potential_after - potential(state)
        return obs, successor, reward, terminated, info

    return _replace(env, step_env=step_env)


def judge_outcome(env: Any, judge: Callable[[Array], Any]) -> Any:
    """Return the environment with a reward at the episodes' ends alone: what `judge` says of them.

    For training against a learned reward; evaluate on the original environment.

    Args:
        env: a gymnax environment.
        judge: from the last observation, the true successor, to a scalar; e.g. a reward model with
            its parameters. On token tasks that observation holds prompt and output.

    Raises:
        ValueError: if `judge` does not return one real number.
    """
    obs, _ = jax.eval_shape(env.reset, jax.random.key(0), env.default_params)
    value = jax.eval_shape(judge, obs)
    if getattr(value, "shape", None) != () or _kind(value) not in "iuf":
        raise ValueError(
            f"judge must return one real number for an observation of {env.name}, "
            f"got {_forms(value)}"
        )

    def step_env(
        key: Key, state: Any, action: Any, params: EnvParams
    ) -> tuple[Array, Any, Array, Array, Info]:
        obs, successor, _, terminated, info = env.step_env(key, state, action, params)
        ended = terminated | env.is_truncated(successor, params)
        return obs, successor, jnp.where(ended, judge(obs), 0.0), terminated, info

    return _replace(env, step_env=step_env)


def _replace(env: Any, **methods: Callable[..., Any]) -> Any:
    changed = copy.copy(env)
    for name, method in methods.items():
        setattr(changed, name, method)
    return changed


def _states(env: Any, params: EnvParams) -> Any:
    """The form of the environment's states: shapes and dtypes."""
    return _abstract(env.reset_env, params)[1]


def _abstract(draw: Callable[..., Any], params: EnvParams) -> Any:
    return jax.eval_shape(lambda params: draw(jax.random.key(0), params), params)


def _uniform(env: Any, states: Any) -> StateDistribution:
    """Draw uniformly from states with leaves `[S, ...]`."""
    sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(states)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(
            f"distribution must hold states of {env.name} with leaves [S, ...] for one S ≥ 1, "
            f"got {_forms(states)}"
        )
    _check_states(env, jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], states)), "hold")
    ((size,),) = sizes

    def draw(key: Key, params: EnvParams) -> Any:
        index = jax.random.randint(key, (), 0, size)
        return jax.tree.map(lambda x: jnp.asarray(x)[index], states)

    return draw


def _check_states(env: Any, actual: Any, verb: str) -> None:
    """Raise `ValueError` unless a state has the environment's structure, shapes and kinds."""
    expected = _states(env, env.default_params)
    if jax.tree.structure(actual) == jax.tree.structure(expected):
        pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
        if all(a.shape == e.shape and _kind(a) == _kind(e) for a, e in pairs):
            return
    raise ValueError(
        f"distribution must {verb} states of {env.name} such as {_forms(expected)}, "
        f"got {_forms(actual)}"
    )


def _check_potential(env: Any, potential: Any) -> None:
    needed = f"potential must be a function of the state of {env.name} alone, to one real number"
    if not callable(potential):
        raise ValueError(f"{needed}, got {potential!r}")
    try:
        value = jax.eval_shape(potential, _states(env, env.default_params))
    except Exception as error:  # whatever a user's function raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{needed}, got one that fails: {reason[0]}") from None
    is_number = getattr(value, "shape", None) == () and _kind(value) in "iuf"
    if not is_number:
        raise ValueError(f"{needed}, got one that returns {_forms(value)}")


def _kind(leaf: Any) -> str:
    """`f` floating (bfloat16 too), `i` integer, `b` bool, …"""
    return "f" if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype.kind


def _forms(tree: Any) -> str:
    """Say shortly what a pytree holds, e.g. `EnvState(time int32[], position float32[])`."""
    leaves = [
        f"{jax.tree_util.keystr(path).lstrip('.')} {jnp.result_type(x)}{list(jnp.shape(x))}".strip()
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    ]
    is_leaf = jax.tree_util.all_leaves([tree])
    return leaves[0] if is_leaf else f"{type(tree).__name__}({', '.join(leaves)})"
