"""Find everything that is wrong with an environment, by a few of its steps: one list."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po import contract, masks, observations, spaces
from purejax_po.distributions import Categorical, Product
from purejax_po.environments import registry
from purejax_po.types import (
    Action,
    Array,
    Environment,
    EnvName,
    EnvParams,
    Key,
    Observation,
    PyTree,
    Space,
)

MOST_STEPS = 200
"""Random actions; after each one observation and reward are checked."""
CALLS = ("jit", "pjit")
"""How a program calls a compiled function within it."""
ARRAYS = ("box", "discrete", "multi_discrete")
SHORT = 3
"""A time limit that most episodes reach."""


class Walk(NamedTuple):
    """What steps returned, `[steps, ...]`."""

    obs: Observation
    final_obs: Observation
    reward: Array
    terminated: Array
    truncated: Array


def check_env(
    env: EnvName, env_params: EnvParams | None = None, *, raises: bool = True
) -> list[str]:
    """List everything in an environment that would break training.

    It is traced once, then stepped with random valid actions, also past the ends of episodes. See
    `types.Environment` for the values that it must return, and `masks` for masks of actions.

    Args:
        env: an environment, or what `make_env` takes.
        env_params: its parameters (default: `env.default_params`).
        raises: raise an error for the problems, as gymnasium's `check_env` does.

    Returns:
        The problems, a line each; none of a correct environment.

    Raises:
        ValueError: with a line for each problem, if `raises`.
    """
    problems = list(dict.fromkeys(_problems(env, env_params)))
    if problems and raises:
        raise ValueError("\n".join(problems))
    return problems


def _problems(env: EnvName, env_params: EnvParams | None) -> Iterator[str]:
    try:
        env, default = _made(env)
        params = default if env_params is None else env_params
        space = contract.space_of(env, params, "action")
        obs_space = contract.space_of(env, params, "observation")
        traced = contract.first_observation(env, params)
    except (ValueError, AttributeError, NotImplementedError, TypeError) as error:
        yield str(error) or f"{contract.name_of(env)}: {type(error).__name__}"
        return
    before = list(_of_observation(env, obs_space, space, traced))
    yield from before
    action, failure = jax.eval_shape(lambda: _actions(space, jax.random.key(0))), ""
    try:
        contract.settled(env, params, action)
    except (ValueError, AttributeError, TypeError) as error:
        failure = str(error)
        yield failure
    if not any(told in failure for told in ("six values", "traceable")):
        yield from _of_values(env, params, action)
        yield from _of_randomness(env, params, action)
    if not failure and not (before and observations.fields(obs_space)):
        yield from _of_episodes(env, params, space, obs_space)


def _made(env: EnvName) -> tuple[Environment, EnvParams]:
    from purejax_po import environments

    if isinstance(env, str):
        return environments.make(env)
    return registry.instance(env, env, {})


def _actions(space: Space, key: Key) -> Action:
    """A random action of a space, as gymnax's draw it; of a bare space the smallest one."""
    if hasattr(space, "sample"):
        try:
            return space.sample(key)
        except TypeError:  # gymnasium's takes no key
            pass
    if spaces.kind(space) == "discrete":
        return spaces.start(space) + jax.random.randint(key, (), 0, int(space.n))
    if spaces.kind(space) == "box":
        low, high = np.maximum(space.low, -1.0), np.minimum(space.high, 1.0)
        return jax.random.uniform(key, space.shape, minval=low, maxval=high)
    return spaces.first_values(space)


def _valid_actions(space: Space, key: Key, obs: Observation) -> Action:
    """A random action that an observation's mask allows, if it has one."""
    mask = obs.get(observations.ACTION_MASK) if isinstance(obs, dict) else None
    if mask is None:
        return _actions(space, key)
    factors = spaces.choices(space)
    sizes = (int(space.n),) if factors is None else factors.sizes
    each = tuple(Categorical(jnp.zeros(size)) for size in sizes)
    distribution = masks.apply(each[0] if factors is None else Product(each), mask)
    return spaces.to_space(space, distribution.sample(key), distribution)


def _of_observation(
    env: Environment, space: Space, action_space: Space, obs: Observation
) -> Iterator[str]:
    """Shape and dtype of the first observation against its space, field by field, and the mask."""
    name, parts = contract.name_of(env), observations.fields(space)
    wrong = [(n, x) for n, x in (parts or {"": space}).items() if spaces.kind(x) not in ARRAYS]
    for field, part in wrong:
        yield f"{name}.observation_space{_of(field)} must be a Box or Discrete, got {part!r}"
    if wrong:
        return
    problems = list(observations.problems(name, space, obs))
    yield from problems
    try:
        masks.check(name, space, action_space)
    except ValueError as error:
        yield str(error)
    if problems:
        return
    for field, part, one in _by_field(space, obs):
        declared = getattr(part, "dtype", None)
        if declared is None or spaces.kind(part) == "discrete":
            continue
        declared = jax.dtypes.canonicalize_dtype(declared)
        if one.dtype != declared:
            yield (
                f"{name}.reset must return observations{_of(field)} {declared} as its space, got "
                f"{one.dtype}"
            )


def _by_field(space: Space, obs: Observation) -> Iterator[tuple[str, Space, Array]]:
    """Name, space and array of each field; one without a name where observations are one array."""
    parts = observations.fields(space)
    for name, part in (parts or {"": space}).items():
        yield name, part, observations.field(obs, name) if parts else obs


def _of(field: str) -> str:
    return f" {field}" if field else ""


def _of_values(env: Environment, params: EnvParams, action: Action) -> Iterator[str]:
    """Kinds of reward and flags, which Python's own numbers would get from whoever looks."""
    name, seen = contract.name_of(env), {}

    def look(key: Key, action: Action) -> PyTree:
        _, state = env.reset(key, params)
        seen["values"] = env.step(key, state, action, params)
        return 0

    jax.eval_shape(look, jax.eval_shape(lambda: jax.random.key(0)), action)
    _, _, reward, terminated, truncated, _ = seen["values"]
    if not jnp.issubdtype(jnp.result_type(reward), jnp.floating):
        yield f"{name}.step must return a float reward, got {jnp.result_type(reward)}"
    for what, flag in (("terminated", terminated), ("truncated", truncated)):
        if isinstance(flag, bool | int | float):
            yield f"{name}.step must return {what} as a JAX bool, got Python's {flag!r}"
        elif jnp.result_type(flag) != jnp.bool_:
            yield f"{name}.step must return {what} as a bool, got {jnp.result_type(flag)}"


def _of_randomness(env: Environment, params: EnvParams, action: Action) -> Iterator[str]:
    """Whether all that `reset` and `step` draw depends on the key, or on the state."""
    name, key = contract.name_of(env), jax.eval_shape(lambda: jax.random.key(0))
    _, state = jax.eval_shape(lambda key: env.reset(key, params), key)
    traced = {
        "reset": jax.make_jaxpr(lambda key: env.reset(key, params))(key),
        "step": jax.make_jaxpr(lambda key, state, action: env.step(key, state, action, params))(
            key, state, action
        ),
    }
    for method, program in traced.items():
        if _draws_alone(program.jaxpr, set(program.jaxpr.invars))[0]:
            yield f"{name}.{method} must draw its randomness from its key, and uses a fixed one"
    with jax.disable_jit():  # what a program holds fixed is drawn again
        twice = [_one_step(env, params, action) for _ in range(2)]
    if not all(jax.tree.leaves(jax.tree.map(np.array_equal, *twice))):
        yield (
            f"{name} must draw its randomness from its key alone, and one key gave two results "
            "(Python's and NumPy's generators are drawn from once, when a program is traced)"
        )


def _one_step(
    env: Environment, params: EnvParams, action: Action
) -> tuple[Observation, Observation, Array]:
    """Observations and reward of a reset and a step."""
    obs, state = env.reset(jax.random.key(0), params)
    action = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), action)
    next_obs, _, reward, *_ = env.step(jax.random.key(1), state, action, params)
    return obs, next_obs, reward


def _draws_alone(jaxpr: Any, reached: set[object]) -> tuple[bool, list[bool]]:
    """Whether a program draws numbers that do not depend on what is reached from its arguments.

    Calls are looked into; loops and branches are trusted.

    Returns:
        That, and which of its results are reached.
    """
    found, reached = False, set(reached)
    for equation in jaxpr.eqns:
        inputs = [_is_in(x, reached) for x in equation.invars]
        if equation.primitive.name in CALLS:
            inner = equation.params["jaxpr"].jaxpr
            inside = {x for x, is_in in zip(inner.invars, inputs, strict=True) if is_in}
            alone, outputs = _draws_alone(inner, inside)
        else:
            alone = equation.primitive.name == "random_bits" and not any(inputs)
            outputs = [any(inputs)] * len(equation.outvars)
        found |= alone
        reached |= {x for x, is_in in zip(equation.outvars, outputs, strict=True) if is_in}
    return found, [_is_in(x, reached) for x in jaxpr.outvars]


def _is_in(x: object, variables: set[object]) -> bool:
    """Whether a variable is in a set; a literal is in none, and has no hash."""
    return not hasattr(x, "val") and x in variables


def _of_episodes(
    env: Environment, params: EnvParams, space: Space, obs_space: Space
) -> Iterator[str]:
    """Walk with random actions: bounds, rewards, time limits."""
    name = contract.name_of(env)
    limit = getattr(params, "max_steps_in_episode", None)
    num_steps = MOST_STEPS if limit is None else min(int(limit) + 2, MOST_STEPS)
    found = jax.device_get(jax.jit(_walk(env, space, num_steps))(params))
    for what, obs in (("observation", found.obs), ("final_observation", found.final_obs)):
        for field, part, one in _by_field(obs_space, obs):
            yield from _of_bounds(name, what + _of(field), part, one)
    mask = found.obs.get(observations.ACTION_MASK) if isinstance(found.obs, dict) else None
    if mask is not None and not mask.reshape(len(mask), -1).any(axis=1).all():
        yield f"{name}: action_mask must leave an action valid, got a state without one"
    if not np.isfinite(np.asarray(found.reward, float)).all():
        yield f"{name}.step must return finite rewards, got one that is not"
    if limit is not None and hasattr(params, "replace") and num_steps > SHORT:
        short = params.replace(max_steps_in_episode=type(limit)(SHORT))
        cut = jax.device_get(jax.jit(_walk(env, space, SHORT))(short))
        goes_on = not (found.terminated | found.truncated)[:SHORT].any()
        yield from _of_limit(name, found, cut, int(limit), goes_on)


def _walk(env: Environment, space: Space, num_steps: int) -> Callable[[EnvParams], Walk]:
    """A function that makes steps with random actions, the same every time it is traced."""

    def walk(params: EnvParams) -> Walk:
        keys = jax.random.split(jax.random.key(0), MOST_STEPS + 1)
        action = jax.eval_shape(lambda: _actions(space, keys[0]))
        like = contract.settled(env, params, action)

        def step(before: PyTree, key: Key) -> PyTree:
            seen, state = before
            act = _valid_actions(space, jax.random.fold_in(key, 1), seen)
            obs, after, reward, *ends, info = env.step(key, state, act, params)
            found = Walk(obs, info["final_observation"], reward, *map(jnp.bool_, ends))
            return contract.as_before(contract.name_of(env), (obs, after), before), found

        start = env.reset(keys[0], params)
        start = jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), start, tuple(like))
        return jax.lax.scan(step, start, keys[1 : num_steps + 1])[1]

    return walk


def _of_bounds(name: str, what: str, space: Space, obs: Observation) -> Iterator[str]:
    """Whether observations `[steps, ...]` lie in their space."""
    kind = spaces.kind(space)
    if kind == "box":
        low, high = np.asarray(space.low), np.asarray(space.high)
    elif kind == "discrete":
        low = np.asarray(spaces.start(space))
        high = low + int(space.n) - 1
    else:
        return
    if not np.isfinite(np.asarray(obs, float)).all():
        yield f"{name}: {what} must be finite, got one that is not"
        return
    outside = (obs < low) | (obs > high)
    if outside.any():
        value = np.asarray(obs)[outside][0]
        yield f"{name}: {what} must lie in its space {space}, got {value}"


def _of_limit(name: str, found: Walk, cut: Walk, limit: int, goes_on: bool) -> Iterator[str]:
    """Whether a time limit is told as a real end.

    Args:
        found: under the limit that the environment has.
        cut: the same steps under a limit of `SHORT`.
        goes_on: whether no episode ends so early but by that limit.
    """
    ends = np.flatnonzero(found.terminated | found.truncated)
    lengths = np.diff(np.concatenate([[-1], ends]))
    always = len(ends) > 0 and (lengths == limit).all() and found.terminated[ends].all()
    if (goes_on and cut.terminated[SHORT - 1]) or always:
        yield (
            f"{name}.step must tell a time limit as truncated, got terminated: the value of what "
            "follows would count as zero"
        )
