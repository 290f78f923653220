"""What the engine asks of an environment and of a policy, checked by one abstract step.

Nothing is compiled and nothing is computed: `jax.eval_shape` runs `reset`, the policy and `step` on
shapes and dtypes. Each mismatch is one line.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath

from purejax_po import masks, observations, spaces
from purejax_po.actor import acting
from purejax_po.checks import check_is_env, check_networks, describe
from purejax_po.types import (
    Action,
    Actor,
    Critic,
    Distribution,
    Environment,
    EnvParams,
    EnvState,
    Observation,
    Params,
    Policy,
    PyTree,
    Shapes,
    Space,
)

DISTRIBUTION = ("noise", "sample_from")
"""What a rollout needs of a policy's distribution."""
METHODS = ("reset", "step", "action_space", "observation_space")
FROM_LEGACY = "po.from_legacy(env) tells them apart"
MOST_ROUNDS = 4
"""Steps after which a state that starts at Python numbers has found its dtypes."""


class Start(NamedTuple):
    """The shapes and dtypes of one environment's observation and state between two steps."""

    obs: Observation
    env_state: EnvState


def check(
    env: Environment,
    env_params: EnvParams,
    actor: Actor | Policy,
    params: Params,
    check_critic: Callable[[Observation], None] | None = None,
) -> Start:
    """Check an environment and what acts in it against each other.

    Args:
        env, env_params: the environment, and its parameters as they are by default.
        actor: acts with `params`; a policy does so with its own.
        params: what is acted with, or its shapes and dtypes.
        check_critic: called with the shape and dtype of one observation.

    Returns:
        What `reset` returns, with the dtypes that stay the same from step to step.

    Raises:
        ValueError: in one line, for the first thing that does not fit.
    """
    check_is_env(env)
    name = name_of(env)
    for method in METHODS:
        if not callable(getattr(env, method, None)):
            raise ValueError(f"{name} must have a method {method}, as gymnax's environments have")
    if not isinstance(actor, Actor):
        check_networks(actor)
    if is_legacy(env):
        raise ValueError(
            f"{name} has is_terminal, but not is_terminated, as environments written for gymnax "
            f"before 1.0: its time limit would count as an end; {FROM_LEGACY}"
        )
    obs = _reset(env, env_params)[0]
    obs_space = space_of(env, env_params, "observation")
    if problem := next(observations.problems(name, obs_space, obs), None):
        raise ValueError(problem)
    masks.check(name, obs_space, space_of(env, env_params, "action"))
    distribution = _act(acting(actor), params, obs)
    if check_critic is not None:
        check_critic(obs)
    space = space_of(env, env_params, "action")
    spaces.check_fit(name, space, _one(distribution))

    def execute(distribution: Distribution) -> Action:
        action = distribution.sample_from(distribution.noise(jax.random.key(0)))
        return spaces.to_space(space, action, distribution)

    return settled(env, env_params, _one(jax.eval_shape(execute, distribution)))


def first_observation(env: Environment, env_params: EnvParams) -> Observation:
    """Return the shape and dtype of one observation; errors as `check`."""
    check_is_env(env)
    return _reset(env, env_params)[0]


def check_traceable(what: str, env: Environment) -> None:
    """Raise `ValueError` unless an environment is an object whose `reset` JAX can trace."""
    check_is_env(env)
    try:
        jax.eval_shape(env.reset, jax.random.key(0), _strong(env.default_params))
    except Exception as error:  # whatever another library's class makes of it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{what} needs an environment whose reset(key, env_params) JAX can trace, and that of "
            f"{name_of(env)} fails ({reason}); wrap the gymnax environment inside of it"
        ) from None


def settled(env: Environment, env_params: EnvParams, action: Action) -> Start:
    """Find the dtypes that an environment's observation and state keep from step to step.

    A scan carries what keeps its dtype. What `reset` starts at a Python number takes the dtype that
    a step gives it; anything else must keep the dtype that it had.

    Args:
        action: shape and dtype of an executed action.

    Raises:
        ValueError: naming the field that changes, or what `step` returns instead of six values.
    """
    name = name_of(env)
    before = Start(*_reset(env, env_params))
    for _ in range(MOST_ROUNDS):
        after = _step(env, env_params, before.env_state, action, before.obs)
        joined = Start(
            _join(f"{name}: the observation", before.obs, after.obs),
            _join(f"{name}: the state", before.env_state, after.env_state),
        )
        if _dtypes(joined) == _dtypes(before):
            return joined
        before = joined
    raise ValueError(f"{name}: the state's dtypes must settle, but change with every step")


def as_before(what: str, new: PyTree, old: PyTree) -> PyTree:
    """Return what a step gave, in the dtypes of what it was given.

    Raises:
        ValueError: naming the field whose dtype or shape changes, unless it is a Python number's.
    """
    joined = _join(what, jax.eval_shape(lambda: old), new)
    return jax.tree.map(
        lambda x, like: x if x.dtype == like.dtype else jnp.asarray(x, like.dtype),
        jax.tree.map(jnp.asarray, new),
        joined,
    )


def check_values(critic: Critic, params: Params, obs: Observation) -> None:
    """Raise `ValueError` unless a critic gives one value for each observation, for one given."""
    time_and_env = (3, 2)
    several = _batch(obs, time_and_env)
    start = jax.ShapeDtypeStruct(time_and_env, jnp.bool_)
    carry = jax.eval_shape(lambda: critic.initial_carry(time_and_env[1]))
    value = jax.eval_shape(critic.unroll, params, carry, several, start)
    if getattr(value, "shape", None) != time_and_env:
        raise ValueError(
            f"critic must return one value for each observation, {list(time_and_env)} for "
            f"{_shapes(several)}, got {describe(value)}; a last axis of 1 must be squeezed"
        )


def name_of(env: object) -> str:
    """The environment's name for messages."""
    return str(getattr(env, "name", type(env).__name__))


def is_deterministic(env: object) -> bool:
    """Whether key and state decide each step: not where the environment is on the host."""
    return getattr(env, "deterministic", True)


def is_legacy(env: object) -> bool:
    """Whether a class says how an episode ends as gymnax did before 1.0, and not as it does now.

    Of a wrapper of this package the environment inside is asked.
    """
    inner = getattr(type(env), "_inside", None)
    if inner is not None:
        return is_legacy(inner(env))
    old, new = (
        next((cls for cls in type(env).__mro__ if name in vars(cls)), None)
        for name in ("is_terminal", "is_terminated")
    )
    return old is not None and old is not new and (new is None or issubclass(old, new))


def _strong(tree: PyTree) -> Shapes:
    """Shapes and dtypes as a run has them, where every number is an array."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)


def _abstract(what: str, function: Callable[..., PyTree], *args: PyTree) -> Shapes:
    """Call a user's function on shapes; its failure in one line."""
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:  # whatever a user's function raises
        reason = str(error).strip().splitlines() or [""]
        detail = f"{type(error).__name__}: {reason[0]}".removesuffix(": ")
        raise ValueError(f"{what} must be traceable by JAX, and fails: {detail}") from error


def space_of(env: Environment, env_params: EnvParams, which: str) -> Space:
    """Return the `"action"` or the `"observation"` space of an environment.

    Raises:
        ValueError: in one line, if there is none, or if it is not a space.
    """
    try:
        with jax.ensure_compile_time_eval():  # bounds are numbers to compare, also in a trace
            space = getattr(env, f"{which}_space")(env_params)
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"{name_of(env)}.{which}_space(env_params) must return a space, and fails: "
            f"{type(error).__name__} {error}".rstrip()
        ) from None
    if spaces.kind(space) == "unknown":
        raise ValueError(
            f"{name_of(env)}.{which}_space(env_params) must return a space such as "
            f"gymnax.environments.spaces.Discrete, got {space!r}"
        )
    spaces.check_not_empty(f"{which}s of {name_of(env)}", space)
    return space


def _reset(env: Environment, env_params: EnvParams) -> tuple[Observation, EnvState]:
    name = name_of(env)
    key = jax.eval_shape(lambda: jax.random.key(0))
    started = _abstract(f"{name}.reset", env.reset, key, _strong(env_params))
    if not (isinstance(started, tuple) and len(started) == 2):
        raise ValueError(
            f"{name}.reset must return (observation, state), got {_describe_values(started)}"
        )
    observations.check_arrays(f"{name}.reset", started[0])
    return started


def _batch(obs: Observation, axes: tuple[int, ...]) -> Observation:
    """Shapes and dtypes of several observations."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), obs)


def _act(actor: Actor, params: Params, obs: Observation) -> Distribution:
    """The distribution of a batch of one action, leaves as shapes and dtypes."""
    several = _batch(obs, (1,))
    start = jax.ShapeDtypeStruct((1,), jnp.bool_)
    carry = jax.eval_shape(lambda: actor.initial_carry(1))
    _, distribution = jax.eval_shape(actor.act, params, carry, several, start)
    if missing := [name for name in DISTRIBUTION if not hasattr(distribution, name)]:
        raise ValueError(
            "the policy must return a distribution such as distributions.Categorical(logits), got "
            f"{describe(distribution)} without {missing[0]}"
        )
    return distribution


def _one(tree: Shapes) -> Shapes:
    """Shapes and dtypes of the first of several; what they share stays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[x.shape[:1] == (1,) :], x.dtype), tree
    )


def _step(
    env: Environment, env_params: EnvParams, env_state: EnvState, action: Action, obs: Observation
) -> Start:
    """Observation and state after an abstract step, whose other values are checked."""
    name = name_of(env)
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = _abstract(f"{name}.step", env.step, key, env_state, action, _strong(env_params))
    if not (isinstance(found, tuple) and len(found) == 6):
        hint = (
            "; environments written for gymnax before 1.0 do not tell a time limit from an end: "
            f"{FROM_LEGACY}"
            if isinstance(found, tuple) and len(found) == 5
            else ""
        )
        raise ValueError(
            f"{name}.step must return six values (observation, state, reward, terminated, "
            f"truncated, info), got {_describe_values(found)}{hint}"
        )
    next_obs, next_state, reward, terminated, truncated, info = found
    observations.check_arrays(f"{name}.step", next_obs)
    for what, value in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
        if getattr(value, "shape", None) != ():
            raise ValueError(f"{name}.step must return one {what}, got {describe(value)}")
    if jnp.issubdtype(reward.dtype, jnp.complexfloating) or reward.dtype == bool:
        raise ValueError(f"{name}.step must return a real reward, got {describe(reward)}")
    if not isinstance(info, dict) or "final_observation" not in info:
        raise ValueError(
            f'{name}.step must return the observation before any reset as info["final_observation"]'
            f", got {_describe_info(info)}"
        )
    _check_final(name, info["final_observation"], obs, next_obs)
    return Start(next_obs, next_state)


def _check_final(name: str, final: Observation, obs: Observation, next_obs: Observation) -> None:
    """Raise `ValueError` unless the true successor has the form that observations have."""
    what = f'{name}.step: info["final_observation"]'
    if jax.tree.structure(final) != jax.tree.structure(obs):
        raise ValueError(
            f"{what} must be of the form that observations have, {describe(obs)}, got "
            f"{describe(final)}"
        )
    paths = jax.tree_util.tree_leaves_with_path(final)
    for (path, one), old, new in zip(paths, *map(jax.tree.leaves, (obs, next_obs)), strict=True):
        field = f"{what} {jax.tree_util.keystr(path)}".rstrip()
        if getattr(one, "shape", None) != old.shape:
            raise ValueError(
                f"{field} must be of the shape {list(old.shape)} that observations have, got "
                f"{describe(one)}"
            )
        if one.dtype not in (old.dtype, new.dtype) and not _is_weak(one):
            raise ValueError(
                f"{field} must be of the dtype {new.dtype} that observations have, got "
                f"{describe(one)}"
            )


def _join(what: str, before: Shapes, after: Shapes) -> Shapes:
    """Shapes and dtypes of a tree that a step is given and gives back."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            f"{what} must keep its structure from step to step, got {jax.tree.structure(after)} "
            f"after {jax.tree.structure(before)}"
        )

    def join(
        path: KeyPath, old: jax.ShapeDtypeStruct, new: jax.ShapeDtypeStruct
    ) -> jax.ShapeDtypeStruct:
        field = f"{what} {jax.tree_util.keystr(path)}".rstrip()
        if jnp.shape(new) != jnp.shape(old):
            raise ValueError(
                f"{field} must keep its shape from step to step, got {list(jnp.shape(new))} "
                f"after {list(jnp.shape(old))}"
            )
        dtypes = old.dtype, new.dtype
        if dtypes[0] == dtypes[1]:
            return jax.ShapeDtypeStruct(old.shape, old.dtype)
        if not any(jnp.issubdtype(d, jax.dtypes.extended) for d in dtypes):
            wider = jnp.promote_types(*dtypes)
            if (_is_weak(old) and wider == dtypes[1]) or (_is_weak(new) and wider == dtypes[0]):
                return jax.ShapeDtypeStruct(old.shape, wider)
        raise ValueError(
            f"{field} must keep its dtype from step to step, got {dtypes[1]} after {dtypes[0]}; "
            f"let reset start it as {dtypes[1]}"
        )

    return jax.tree_util.tree_map_with_path(join, before, after)


def _is_weak(x: object) -> bool:
    """Whether a number has the dtype of a Python number, which gives way to others."""
    return bool(getattr(x, "weak_type", False))


def _dtypes(start: Start) -> list[np.dtype]:
    return [x.dtype for x in jax.tree.leaves(start)]


def _shapes(tree: Shapes) -> str:
    """The shapes of an array, or of several: `[3, 2, 4]`."""
    return ", ".join(str(list(x.shape)) for x in jax.tree.leaves(tree))


def _describe_values(found: object) -> str:
    return f"{len(found)} values" if isinstance(found, tuple) else describe(found)


def _describe_info(info: object) -> str:
    if not isinstance(info, dict):
        return describe(info)
    return f"info with {', '.join(map(str, info))}" if info else "an empty info"
