"""Changes to an environment for training alone; evaluate on the environment that was wrapped.

gymnax's own `reset` and `step` call `reset_env` and `step_env`: a proxy runs them with one of these
changed, so that spaces, parameters, time limit and automatic resets stay what they were. Around an
environment whose `step` does not (another wrapper, say) the change is made by `step` and `reset`
alone, or refused in one line where these do not tell enough.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purejax_po.checks import Range, check_number
from purejax_po.contract import check_traceable, is_deterministic, name_of
from purejax_po.environments.around import (
    Found,
    Proxy,
    Wrapper,
    inner_state,
    with_inner,
    without_limit,
)
from purejax_po.types import (
    Action,
    Array,
    Environment,
    EnvParams,
    EnvState,
    Info,
    Key,
    Observation,
    PyTree,
    Shapes,
)

StateDistribution = Callable[[Key, EnvParams], EnvState]
"""`(key, env_params) → state`: draws the state that an episode starts from."""
Judge = Callable[[Observation], Array]
"""`last observation → reward`, a scalar."""
Potential = Callable[[EnvState], Array]
"""`state → φ(state)`, a scalar."""


def reset_from(env: Environment, distribution: StateDistribution | EnvState) -> Environment:
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

    Example:
        >>> import purejax_po as po
        >>> env, env_params = po.make_env("Chain-v0")
        >>> anywhere = po.reset_from(env, env.states())
    """
    check_traceable("reset_from", env)
    observe: Callable[..., Observation] | None = getattr(env, "observe", None)
    if not callable(observe):
        raise ValueError(
            f"reset_from needs an environment that observes a given state, and {name_of(env)} has "
            "no method observe(key, state, action, params)"
        )
    draw = distribution if callable(distribution) else _uniform(env, distribution)
    _check_states(env, _abstract(draw, env.default_params), "draw")

    def begin(key: Key, params: EnvParams) -> tuple[Observation, EnvState]:
        draw_key, observe_key = jax.random.split(key)
        # Stored states may be of another precision than those that the environment makes.
        state = jax.tree.map(
            lambda x, y: jnp.asarray(x, y.dtype), draw(draw_key, params), _states(env, params)
        )
        return observe(observe_key, state, None, params), state

    proxy = Proxy(env, reset_env=begin)
    return proxy if proxy.uses("reset_env") else _StartedFrom(env, begin)


def shape_reward(env: Environment, potential: Potential, discount: Array | float) -> Environment:
    """Return the environment with rewards r̃ = r + γφ(s') − φ(s).

    φ(s') counts as 0 where s' is terminated, and in full where it is truncated; s' is always the
    true successor, never the state after a reset. So Q̃ = Q − φ and Ã = A, and the optimal policies
    stay the same, provided that γ is the algorithm's.

    Args:
        env: any environment. One whose `step` also resets, as a wrapper's does, must have its
            time limit among its parameters (`max_steps_in_episode`).
        potential: φ, a function of the environment's state alone, in units of return. Around a
            wrapper it may be one of the state inside.
        discount: γ in [0, 1]. To sweep it, wrap inside the function that is traced.

    Raises:
        ValueError: if the potential is not a function of the state that returns one real number,
            or γ is outside [0, 1].

    Source: Ng, Harada and Russell 1999, Policy Invariance Under Reward Transformations, theorem 1.

    Example:
        >>> import purejax_po as po
        >>> env, env_params = po.make_env("Chain-v0")
        >>> shaped = po.shape_reward(env, lambda state: 0.1 * state.position, discount=0.99)
    """
    check_traceable("shape_reward", env)
    check_number("discount", discount, Range(0.0, 1.0))
    read = _check_potential(env, potential)

    def step_env(
        key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Array, EnvState, Array, Array, Info]:
        obs, successor, reward, terminated, info = env.step_env(  # type: ignore[attr-defined]
            key, state, action, params
        )
        potential_after = jnp.where(terminated, 0.0, potential(successor))
        reward = reward + discount * potential_after - potential(state)
        return obs, successor, reward, terminated, info

    proxy = Proxy(env, step_env=step_env)
    return proxy if proxy.uses("step_env") else _Shaped(env, lambda s: potential(read(s)), discount)


def judge_outcome(env: Environment, judge: Judge) -> Environment:
    """Return the environment whose only reward comes at an episode's end: the value of `judge`.

    For training against a learned reward; evaluate on the original environment.

    Args:
        env: a gymnax environment.
        judge: from the last observation, the true successor, to a scalar; e.g. a reward model with
            its parameters. On token tasks that observation holds prompt and output.

    Raises:
        ValueError: if `judge` does not return one real number.
    """
    check_traceable("judge_outcome", env)
    value = jax.eval_shape(judge, _abstract(env.reset, env.default_params)[0])
    if getattr(value, "shape", None) != () or _kind(value) not in "iuf":
        raise ValueError(
            f"judge must return one real number for an observation of {name_of(env)}, "
            f"got {_forms(value)}"
        )
    return _Judged(env, judge)


class _Judged(Wrapper):
    """See `judge_outcome`."""

    def __init__(self, env: Environment, judge: Judge) -> None:
        super().__init__(env)
        self._judge = judge

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step, with the judge's reward at an episode's end and none before."""
        obs, state, _, terminated, truncated, info = self._env.step(key, state, action, params)
        judged = self._judge(info["final_observation"])
        reward = jnp.where(terminated | truncated, judged, 0.0)
        return obs, state, reward, terminated, truncated, info


class _Shaped(Wrapper):
    """See `shape_reward`: for environments whose `step` alone knows how an episode ends.

    The state before a reset is that of a second step, whose time limit is out of reach. The
    compiler finds that both do the same until the end.
    """

    def __init__(self, env: Environment, potential: Potential, discount: Array | float) -> None:
        super().__init__(env)
        _check_time_limit(env)
        self._potential, self._discount = potential, discount

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step, with the change of the potential added to the reward."""
        params = self._env.default_params if params is None else params
        found = self._env.step(key, state, action, params)
        obs, next_state, reward, terminated, truncated, info = found
        endless = self._env.step(key, state, action, without_limit(params))
        after = jnp.where(terminated, 0.0, self._potential(endless[1]))
        # Cut by another limit than the parameters': better a lane that diverges than a wrong φ.
        after = jnp.where(endless[4] & ~terminated, jnp.nan, after)
        reward = reward + self._discount * after - self._potential(state)
        return obs, next_state, reward, terminated, truncated, info


class _StartedFrom(Wrapper):
    """See `reset_from`: for environments whose `step` alone knows how an episode begins."""

    def __init__(
        self, env: Environment, begin: Callable[[Key, EnvParams], tuple[Observation, EnvState]]
    ) -> None:
        super().__init__(env)
        self._begin = begin
        expected = jax.eval_shape(env.reset, jax.random.key(0), env.default_params)[0]
        found = _abstract(self._start, env.default_params)[0]
        if not _are_alike(found, expected):
            raise ValueError(
                f"reset_from must be inside of a wrapper that changes observations: {name_of(env)} "
                f"observes {_forms(expected)}, and a drawn state {_forms(found)}"
            )

    def _start(self, key: Key, params: EnvParams) -> tuple[Array, EnvState]:
        """An observation and a state: the wrapper's own at a reset, around a drawn one."""
        obs, inner = self._begin(key, params)
        state = self._env.reset(key, params)[1]
        return obs, with_inner(state, inner)

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Array, EnvState]:
        """Begin at a drawn state."""
        params = self._env.default_params if params is None else params
        return self._start(key, params)

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step, and begin at a drawn state where the episode has ended."""
        params = self._env.default_params if params is None else params
        obs, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        start_obs, start = self._start(jax.random.fold_in(key, 1), params)
        start = with_inner(state, inner_state(start))  # what a wrapper counts goes on
        ended = terminated | truncated
        obs, state = jax.tree.map(
            lambda x, y: jnp.where(ended, x, y), (start_obs, start), (obs, state)
        )
        return obs, state, reward, terminated, truncated, info


def _are_alike(found: Shapes, expected: Shapes) -> bool:
    """Whether two observations have the same fields, shapes and dtypes."""
    if jax.tree.structure(found) != jax.tree.structure(expected):
        return False
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all((x.shape, x.dtype) == (y.shape, y.dtype) for x, y in pairs)


def _check_time_limit(env: Environment) -> None:
    """Raise `ValueError` unless a time limit among the parameters is all that cuts an episode."""
    if not is_deterministic(env):
        raise ValueError(f"shape_reward steps twice, and {name_of(env)} cannot step without effect")
    counts = getattr(env, "counts_steps", False)  # a `time_limit` that is no parameter
    if hasattr(env.default_params, "max_steps_in_episode") and not counts:
        return
    raise ValueError(
        f"shape_reward must know the state before a reset, which {name_of(env)} keeps to itself "
        "(it has no step_env, and no max_steps_in_episode among its parameters, or a time_limit "
        "of its own besides): wrap the environment inside of it"
    )


def _states(env: Environment, params: EnvParams) -> Shapes:
    """The form of the innermost environment's states: shapes and dtypes."""
    return inner_state(_abstract(env.reset, params)[1])


def _abstract(draw: Callable[[Key, EnvParams], PyTree], params: EnvParams) -> Shapes:
    return jax.eval_shape(lambda params: draw(jax.random.key(0), params), params)


def _uniform(env: Environment, states: EnvState) -> StateDistribution:
    """Draw uniformly from states with leaves `[S, ...]`."""
    sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(states)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(
            f"distribution must hold states of {name_of(env)} with leaves [S, ...] for one S ≥ 1, "
            f"got {_forms(states)}"
        )
    _check_states(env, jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], states)), "hold")
    ((size,),) = sizes

    def draw(key: Key, params: EnvParams) -> EnvState:
        index = jax.random.randint(key, (), 0, size)
        return jax.tree.map(lambda x: jnp.asarray(x)[index], states)

    return draw


def _check_states(env: Environment, actual: Shapes, verb: str) -> None:
    """Raise `ValueError` unless a state has the environment's structure, shapes and kinds."""
    expected = _states(env, env.default_params)
    if jax.tree.structure(actual) == jax.tree.structure(expected):
        pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
        if all(a.shape == e.shape and _kind(a) == _kind(e) for a, e in pairs):
            return
    raise ValueError(
        f"distribution must {verb} states of {name_of(env)} such as {_forms(expected)}, "
        f"got {_forms(actual)}"
    )


def _check_potential(env: Environment, potential: Potential) -> Callable[[EnvState], EnvState]:
    """Check that a potential serves the environment's states, its own or those inside a wrapper's.

    Returns:
        The function from a state of the environment to the one that the potential reads.
    """
    needed = (
        f"potential must be a function of the state of {name_of(env)} alone, to one real number"
    )
    if not callable(potential):
        raise ValueError(f"{needed}, got {potential!r}")
    whole = _abstract(env.reset, env.default_params)[1]
    readers: list[Callable[[EnvState], EnvState]] = [lambda state: state]
    if hasattr(whole, "env_state"):
        readers.append(inner_state)
    reason = ""
    for read in readers:
        try:
            value = jax.eval_shape(lambda state, read=read: potential(read(state)), whole)
        except Exception as error:  # whatever a user's function raises
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            continue
        if getattr(value, "shape", None) == () and _kind(value) in "iuf":
            return read
        raise ValueError(f"{needed}, got one that returns {_forms(value)}")
    raise ValueError(f"{needed}, got one that fails: {reason}")


def _kind(leaf: Array) -> str:
    """`f` floating (bfloat16 too), `i` integer, `b` bool, …"""
    return "f" if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype.kind


def _forms(tree: PyTree) -> str:
    """Say shortly what a pytree holds, e.g. `EnvState(time int32[], position float32[])`."""
    leaves = [
        f"{jax.tree_util.keystr(path).lstrip('.')} {jnp.result_type(x)}{list(jnp.shape(x))}".strip()
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    ]
    is_leaf = jax.tree_util.all_leaves([tree])
    return leaves[0] if is_leaf else f"{type(tree).__name__}({', '.join(leaves)})"
