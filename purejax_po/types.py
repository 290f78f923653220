"""The types that the modules exchange, the ranges that hyperparameters declare, and checks."""

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
    get_args,
    get_type_hints,
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purejax_po.aliases import ALIASES
from purejax_po.jacobian import Jacobian, linearized

Array = jax.Array
Key = jax.Array
Params = Any
Carry = Any
EnvParams = Any
Info = dict[str, Array]
Start = Any
"""Whether observations are the first of an episode, bool; None where a policy is told that none is
(see `Policy.read`)."""

AnyType = TypeVar("AnyType")
AnyArguments = ParamSpec("AnyArguments")
DistributionType = TypeVar("DistributionType", bound="Distribution")


class Distribution(Protocol):
    """A batch of action distributions: a pytree of parameters with leading batch axes `[...]`.

    The leaves are unconstrained parameters (logits; mean and log standard deviation), so a tangent
    of a distribution is again a distribution of the same structure.
    """

    def noise(self, key: Key) -> Array:
        """Draw all the randomness that one `sample_from` needs; only the leaves' shapes matter."""
        ...

    def sample_from(self, noise: Array) -> Array:
        """Turn `noise` into actions `[..., *action_shape]`, deterministically."""
        ...

    def sample(self, key: Key) -> Array:
        """Draw actions `[..., *action_shape]`: `sample_from(noise(key))`."""
        ...

    def mode(self) -> Array:
        """Return the most likely actions `[..., *action_shape]`."""
        ...

    def log_prob(self, action: Array) -> Array:
        """Return log π(a|s) in nats, `[...]`."""
        ...

    def entropy(self) -> Array:
        """Return the (differential) entropy in nats, `[...]`."""
        ...

    def kl(self: DistributionType, other: DistributionType) -> Array:
        """Return KL(self ‖ other) in nats, `[...]`."""
        ...

    def fisher_product(self: DistributionType, tangent: DistributionType) -> DistributionType:
        """Multiply a tangent of the parameters by this distribution's Fisher matrix."""
        ...


class Policy(NamedTuple):
    """A policy: pure functions over a parameter pytree.

    With memory, `carry` is what is remembered between steps, one per environment. Without memory
    it is `()`, and `step` and `unroll` are one network that takes any leading axes.
    """

    init: Callable[[Key], Params]
    """`key → params`."""
    initial_carry: Callable[[int], Carry]
    """`num_envs → carry` at the start of an episode."""
    step: Callable[[Params, Carry, Array, Start], tuple[Carry, Any]]
    """`(params, carry, obs [N, ...], start [N]) → (carry, Distribution [N])`."""
    unroll: Callable[[Params, Carry, Array, Start], Any]
    """`(params, carry, obs [T, N, ...], start [T, N]) → Distribution [T, N]`."""
    memoryless: bool = True
    read: Callable[[Params, Array, int], Carry] | None = None
    """`(params, obs [N, ...], group_size) → carry` of what a first observation, shared by
    `group_size` neighbours, says once and for all: a prompt. `step` reads it wherever an episode
    starts. Where all start at once it is read once, and `step` and `unroll` are given `start`
    None."""
    jacobian: Jacobian = linearized
    """How products with the Jacobian of `unroll`'s distribution are made (Fisher products)."""


class Critic(NamedTuple):
    """A state-value function: as `Policy`, with values in place of distributions."""

    init: Callable[[Key], Params]
    initial_carry: Callable[[int], Carry]
    step: Callable[[Params, Carry, Array, Array], tuple[Carry, Array]]
    unroll: Callable[[Params, Carry, Array, Array], Array]
    memoryless: bool = True


class Transition(NamedTuple):
    """What a rollout collects; every leaf is `[T, N, ...]` (time, environment)."""

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    """The true successor, never the observation after a reset."""
    terminated: Array
    """The episode really ended: the value of `next_obs` is zero."""
    truncated: Array
    """The episode was cut by a time limit: the value of `next_obs` counts."""
    start: Array
    """`obs` is the first observation of an episode."""
    behaviour: Any
    """The distribution that the action was drawn from."""
    weight: Array
    """1 for a real sample, 0 for padding."""


class Rollout(NamedTuple):
    """One update's data: transitions `[T, N]`, and what a policy with memory needs to replay."""

    transition: Transition
    carry: Carry
    """The policy's carry before the first step, `[N, ...]`; `()` without memory."""
    progress: Array
    """Updates done so far over updates planned, in [0, 1)."""


class Algorithm(NamedTuple):
    """A policy-optimisation algorithm as a pair of pure functions, as in optax."""

    policy: Policy
    """Acts with the first field of the state, `state.params`."""
    hyperparams: Any
    """The default hyperparameters: a pytree of floats, handed back to `init` and `update`."""
    init: Callable[[Key, Any], Any]
    """`(key, hyperparams) → state`, a NamedTuple whose first field is `params`."""
    update: Callable[[Key, Any, Any, Rollout], tuple[Any, Info]]
    """`(key, hyperparams, state, rollout) → (state, info)`; `info` holds scalars only."""
    complete_episodes: bool = False
    """Each rollout starts anew, and its weights leave each environment's first episode alone (see
    `rollout.first_episodes`)."""
    group_size: int = 1
    """With complete episodes: so many neighbouring environments start from one state."""
    critic: Critic | None = None
    """Judges with `state.params.critic`, if the algorithm has one."""


class ActorCriticParams(NamedTuple):
    """Separate parameters of a policy and of a critic."""

    policy: Params
    critic: Params


class Trainer(NamedTuple):
    """Environment, rollout and algorithm joined into two pure functions (see `make_trainer`)."""

    init: Callable[..., Any]
    """`(key, hyperparams, env_params=default, num_updates=inf) → TrainState`."""
    step: Callable[..., tuple[Any, Any]]
    """`(hyperparams, TrainState, env_params=default) → (TrainState, Log)`: one update."""
    env: Any
    env_params: EnvParams
    algorithm: Algorithm
    num_envs: int
    num_steps: int
    policy: Policy
    """Acts on the environment's own observations with `TrainState.acting_params`."""

    def __repr__(self) -> str:
        env = getattr(self.env, "name", type(self.env).__name__)
        return f"Trainer({env}, num_envs={self.num_envs}, num_steps={self.num_steps})"

    @property
    def steps_per_update(self) -> int:
        """Return the environment steps that one update consumes."""
        return self.num_envs * self.num_steps


FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a float may take: finite, between `low` and `high`."""

    low: float = -math.inf
    high: float = math.inf
    includes_low: bool = True
    includes_high: bool = True

    def __contains__(self, value: float) -> bool:
        # Programs compute in single precision: what is infinite or out of range there is so here.
        single = float(np.float32(value)) if abs(value) <= FLOAT32_MAX else math.inf
        return self._has(value) and self._has(single)

    def _has(self, value: float) -> bool:
        above = value >= self.low if self.includes_low else value > self.low
        below = value <= self.high if self.includes_high else value < self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        if self.low == -math.inf and self.high == math.inf:
            return "a finite number"
        if self.high == math.inf:
            return f"a finite number {'≥' if self.includes_low else '>'} {self.low:g}"
        left, right = "[("[not self.includes_low], "])"[not self.includes_high]
        return f"a number in {left}{self.low:g}, {self.high:g}{right}"


Real = Annotated[float, Range()]
Positive = Annotated[float, Range(0.0, includes_low=False)]
NonNegative = Annotated[float, Range(0.0)]
UnitInterval = Annotated[float, Range(0.0, 1.0)]
OpenUnitInterval = Annotated[float, Range(0.0, 1.0, includes_low=False, includes_high=False)]
POSITIVE_FRACTION = Range(0.0, 1.0, includes_low=False)


def known_names(cls: type[AnyType]) -> type[AnyType]:
    """Make a dataclass raise `ValueError`, naming the nearest field, for an unknown name."""
    fields = tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
    original = cls.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            ours = ALIASES.get(name, name).rpartition(".")[2]
            if name not in fields and ours in fields:
                raise ValueError(f"{name} is called {ours} here: {cls.__name__}({ours}=…)")
            check_choice(f"a field of {cls.__name__}", name, fields)
        original(self, *args, **kwargs)

    cls.__init__ = init
    return cls


def known_arguments(factory: Callable[AnyArguments, AnyType]) -> Callable[AnyArguments, AnyType]:
    """Make an algorithm's factory raise `ValueError` for arguments that it has not, or lacks."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def call(*args: AnyArguments.args, **kwargs: AnyArguments.kwargs) -> AnyType:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ValueError(_how_to_call(factory, signature, kwargs, error)) from None
        return factory(*args, **kwargs)

    return call


def _how_to_call(factory: Any, signature: inspect.Signature, given: Any, error: Exception) -> str:
    """What a call of an algorithm's factory must be."""
    name, known = factory.__name__, signature.parameters
    needed = [k for k, p in known.items() if p.default is p.empty]
    hyperparams = get_args(get_type_hints(factory)["hyperparams"])[0]
    fields = {f.name for f in dataclasses.fields(hyperparams)}
    for unknown in (str(k) for k in given if k not in known):
        ours = ALIASES.get(unknown, unknown).rpartition(".")[2]
        if ours in fields:
            inner = f"hyperparams={hyperparams.__name__}({ours}=…)"
            return (
                f"{unknown} is no argument of {name} but a hyperparameter: "
                f"{name}({', '.join(needed)}, {inner})"
            )
        matches = difflib.get_close_matches(ours, known, n=1, cutoff=0.4)
        hint = f"; did you mean {matches[0]}?" if matches else ""
        return f"{name} has no argument {unknown}{hint} (it has {', '.join(known)})"
    networks = "*mlp_actor_critic(env, env_params)"
    made = networks if len(needed) > 1 else f"{networks[1:]}[0]"
    return f"{name} must be given {' and '.join(needed)}, such as {name}({made}): {error}"


def check_hyperparams(hyperparams: Any, prefix: str = "hyperparams") -> None:
    """Check every annotated float of a hyperparameter dataclass against its declared range.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    for name, hint in get_type_hints(type(hyperparams), include_extras=True).items():
        allowed = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range)), None)
        value = getattr(hyperparams, name)
        if allowed is None or isinstance(value, Tracer) or getattr(value, "ndim", 0) > 0:
            continue  # traced, or a sweep's axis
        check_number(f"{prefix}.{name}", value, allowed)


def check_number(name: str, value: Any, allowed: Range) -> None:
    """Raise `ValueError` naming `name`, `value` and the range, unless the value is inside."""
    if isinstance(value, Tracer):
        return
    try:
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {allowed}, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name} must be {allowed}, got a number beyond any float") from None
    if number not in allowed:
        raise ValueError(f"{name} must be {allowed}, got {value}")


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """Raise `ValueError` unless `value` is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be a whole number ≥ {minimum}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is `True` or `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `ValueError`, naming the nearest match, unless `value` is one of `choices`."""
    if value not in choices:
        matches = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
        hint = f"; did you mean {matches[0]}?" if matches else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def check_networks(policy: Any, critic: Any = None) -> None:
    """Raise `ValueError` unless networks are a `Policy` and, if one is given, a `Critic`."""
    for role, found, needed in (("policy", policy, Policy), ("critic", critic, Critic)):
        if found is None and role == "critic":
            continue
        other = Critic if needed is Policy else Policy
        if isinstance(found, other) or not hasattr(found, "unroll"):
            raise ValueError(
                f"{role} must be a {needed.__name__} such as mlp_actor_critic(env, env_params) "
                f"returns (policy, critic), got {type(found).__name__}"
            )


def all_finite(tree: Any) -> Array:
    """Return whether every leaf of real or complex floats is finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    # inf - inf and nan - nan are nan; a CPU sums floats sooner than it joins booleans.
    finite = jnp.stack([jnp.sum(x - x) == 0.0 for x in leaves])
    # Without the barrier a compiler writes `all` out as a chain of ands, and the whole chain anew
    # for everything that depends on it: much of what a program consisted of.
    return jnp.all(jax.lax.optimization_barrier(finite))
