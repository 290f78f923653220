"""Episodes in environments that differ: fields of the parameters, drawn at every reset.

By name: `environments.make("Pendulum-v1", randomize=["g=8:12"])`. For training; evaluate with the
true parameters, or at several values of them.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from purejax_po.checks import Range, check_choice, check_number
from purejax_po.contract import check_traceable, name_of
from purejax_po.environments import parameters
from purejax_po.environments.around import Found, Remembering, State
from purejax_po.types import Action, Array, Environment, EnvParams, EnvState, Key, Observation

Draw = Callable[[Key], Array]
"""`key → value`, a number."""
FORM = "NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=normal:MEAN:STD"
LIMIT = "max_steps_in_episode"


def randomized(env: Environment, draws: Mapping[str, Draw | tuple[float, float]]) -> Environment:
    """Return the environment with fields of its parameters drawn for each episode.

    Whatever the parameters hold for these fields is not looked at; all others are as given.
    Fields that follow from a drawn one follow it (`parameters.DERIVED`).

    Args:
        env: any environment whose parameters are a dataclass.
        draws: by field a range `(low, high)` to draw from uniformly (both ends included where the
            field is a whole number), or a function of a key.

    Raises:
        ValueError: for a field that is not there, is no number, or is the time limit; for a range
            without values.

    Source: Tobin et al. 2017, Domain Randomization for Transferring Deep Neural Networks from
    Simulation to the Real World; Peng et al. 2018, Sim-to-Real Transfer of Robotic Control with
    Dynamics Randomization.
    """
    check_traceable("randomize", env)
    params = env.default_params
    made = {}
    for name, draw in draws.items():
        check_field("randomize", name_of(env), name, params)
        if not callable(draw) and np.shape(draw) != (2,):
            raise ValueError(
                f"randomize {name} must be (low, high) or a function of a key, got {draw!r}"
            )
        like = jnp.asarray(getattr(params, name))
        made[name] = _typed(draw if callable(draw) else _uniform(name, *draw, like), like.dtype)
    return _Randomized(env, made) if made else env


def by_text(env: Environment, texts: Sequence[str]) -> Environment:
    """As `randomized`, by texts such as `g=8:12`, `m=log:0.5:2` and `l=normal:1:0.1`.

    Raises:
        ValueError: for a text that does not read; as `randomized`.
    """
    draws: dict[str, Draw | tuple[float, float]] = {}
    for text in texts:
        name, drawn = parse(text)
        if name in draws:
            raise ValueError(f"randomize must name each field once, got {name} twice")
        draws[name] = drawn.draw if drawn.kind != "uniform" else (drawn.low, drawn.high)
    return randomized(env, draws)


class Drawn(NamedTuple):
    """A distribution of one field, as a text gives it."""

    kind: str
    """`uniform`, `log` (uniform in the logarithm) or `normal`."""
    low: float
    """Of `normal` the mean."""
    high: float
    """Of `normal` the standard deviation."""

    def draw(self, key: Key) -> Array:
        """Draw a number that is not uniform."""
        if self.kind == "normal":
            return self.low + self.high * jax.random.normal(key)
        low, high = math.log(self.low), math.log(self.high)
        return jnp.exp(jax.random.uniform(key, minval=low, maxval=high))


def parse(text: str) -> tuple[str, Drawn]:
    """Return the field that a text names, and how it is drawn.

    Raises:
        ValueError: for a text that does not read, or a distribution without values.
    """
    name, equals, rest = str(text).partition("=")
    kind, *ends = [part.strip() for part in rest.split(":")]
    if kind not in ("log", "normal"):
        kind, ends = "uniform", [kind, *ends]
    try:
        low, high = map(float, ends)
    except ValueError:
        raise ValueError(f"randomize must be {FORM}, got {text!r}") from None
    if not (equals and name and math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"randomize must be {FORM}, got {text!r}")
    if kind == "normal" and high <= 0:
        raise ValueError(f"randomize {name} must have a standard deviation above 0, got {text!r}")
    if kind != "normal" and low > high:
        raise ValueError(f"randomize {name} must have LOW ≤ HIGH, got {text!r}")
    if kind == "log" and low <= 0:
        raise ValueError(f"randomize {name} must have log:LOW:HIGH above 0, got {text!r}")
    return name.strip(), Drawn(kind, low, high)


def numbers(params: EnvParams) -> tuple[str, ...]:
    """Return the fields of an environment's parameters that can be drawn: numbers, but no limit."""
    fields = dataclasses.fields(params) if dataclasses.is_dataclass(params) else ()
    found = [f.name for f in fields if isinstance(getattr(params, f.name), int | float | jax.Array)]
    return tuple(name for name in found if name != LIMIT and jnp.shape(getattr(params, name)) == ())


def check_field(what: str, env_name: str, name: str, params: EnvParams) -> None:
    """Raise `ValueError` unless a name is that of a field that can be drawn."""
    if not (known := numbers(params)):
        raise ValueError(
            f"{what} must be left out for {env_name}, whose parameters hold no number besides a "
            f"time limit, got {name!r}"
        )
    check_choice(f"{what} of {env_name}", name, known)


def _uniform(name: str, low: float, high: float, like: Array) -> Draw:
    for value in (low, high):
        check_number(f"randomize {name}", value, Range())
    if low > high:
        raise ValueError(f"randomize {name} must have LOW ≤ HIGH, got {low:g}:{high:g}")
    if jnp.issubdtype(like.dtype, jnp.integer):
        if int(low) != low or int(high) != high:
            raise ValueError(f"randomize {name} must be whole numbers, got {low:g}:{high:g}")
        return lambda key: jax.random.randint(key, (), int(low), int(high) + 1)
    return lambda key: jax.random.uniform(key, minval=low, maxval=high)


def _typed(draw: Draw, dtype: DTypeLike) -> Draw:
    """In the dtype of the field; whole numbers are rounded to."""
    if jnp.issubdtype(dtype, jnp.integer):
        return lambda key: jnp.round(draw(key)).astype(dtype)
    return lambda key: jnp.asarray(draw(key), dtype)


class _Randomized(Remembering):
    """See `randomized`; remembers the fields of the running episode."""

    def __init__(self, env: Environment, draws: dict[str, Draw]) -> None:
        super().__init__(env)
        self._draws = draws

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, State]:
        """Draw the fields, and begin with them."""
        params = self._env.default_params if params is None else params
        obs, (inner, values) = self._begin(key, params)
        return obs, State(inner, values)

    def step(
        self, key: Key, state: State, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step with the episode's fields, and begin with others where it has ended."""
        from purejax_po.environments.adapters import unless_ended  # imports gymnax

        params = self._env.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        own = self._with(params, state.memory)
        obs, inner, reward, terminated, truncated, info = self._env.step(
            step_key, state.env_state, action, own
        )
        obs, (inner, values) = unless_ended(self._begin)(
            terminated | truncated, reset_key, params, (obs, (inner, state.memory))
        )
        return obs, State(inner, values), reward, terminated, truncated, info

    def _begin(
        self, key: Key, params: EnvParams
    ) -> tuple[Observation, tuple[EnvState, dict[str, Array]]]:
        reset_key, *keys = jax.random.split(key, len(self._draws) + 1)
        pairs = zip(self._draws.items(), keys, strict=True)
        values = {name: draw(key) for (name, draw), key in pairs}
        obs, inner = self._env.reset(reset_key, self._with(params, values))
        return obs, (inner, values)

    def _with(self, params: EnvParams, values: dict[str, Array]) -> EnvParams:
        """The parameters of an episode."""
        changed = params.replace(**values)
        return parameters.follow(name_of(self._env), changed, values)

    def _begin_rollout(self, key: Key, state: State, params: EnvParams) -> State:
        own = self._with(params, state.memory)
        return state._replace(env_state=self._env.begin_rollout(key, state.env_state, own))  # type: ignore[attr-defined]
