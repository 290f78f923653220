"""Action masks: distributions and policies that give invalid actions probability zero.

An environment tells which actions are valid by a field `action_mask` of a dictionary observation,
bool, of the state that is observed. So the mask is kept in every transition, and all that a policy
says of a state is conditioned on it: samples, mode, log-probabilities, entropy, KL and Fisher
matrix. Its shape is, for

- one of n actions: `[n]`;
- several choices of n₁, n₂, … values: `[n₁ + n₂ + …]`, the coordinates' masks one after another;
  or `[n₁, n₂, …]`, which says what combinations are valid.

Where no action is valid, the mask does not count: an observation that ends an episode may have
such a mask, since nobody acts on it.
"""

import functools
import math

import jax
import jax.numpy as jnp

from purejax_po import spaces
from purejax_po.distributions import Categorical, Joint, MaskedCategorical, Product
from purejax_po.observations import ACTION_MASK, field, fields
from purejax_po.types import (
    Action,
    Array,
    Carry,
    Distribution,
    Observation,
    Params,
    Policy,
    Prompt,
    Space,
)

MOST_COMBINATIONS = 2**16
"""Of several choices whose mask is one of combinations: each has a probability of its own."""


def apply(distribution: Distribution, mask: Array) -> Distribution:
    """Condition a discrete distribution on what is valid: π(a) ∝ π(a)·mask(a).

    Args:
        distribution: a `Categorical`, or a `Product` of such.
        mask: bool, the batch's axes and those that the module says. A mask of combinations makes a
            `Joint` of a `Product`.

    Raises:
        ValueError: for another distribution, or a mask of another shape.
    """
    if isinstance(distribution, Categorical):
        size = distribution.logits.shape[-1:]
        if mask.shape[distribution.logits.ndim - 1 :] == size:
            return _categorical(distribution.logits, mask)
        raise ValueError(f"action_mask must be {list(size)}, got {list(mask.shape)}")
    if not isinstance(distribution, Product):
        raise ValueError(
            f"action_mask needs a policy of discrete actions, got {type(distribution).__name__}"
        )
    logits = [factor.logits for factor in distribution.factors]
    sizes = tuple(x.shape[-1] for x in logits)
    shape = mask.shape[logits[0].ndim - 1 :]
    if shape == (sum(sizes),):
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = jnp.split(mask, ends, axis=-1)
        return Product(tuple(_categorical(*x) for x in zip(logits, parts, strict=True)))
    if shape != sizes:
        raise ValueError(
            f"action_mask must be {[sum(sizes)]} or {list(sizes)}, got {list(mask.shape)}"
        )
    combinations = jnp.reshape(mask, (*mask.shape[: -len(sizes)], -1))
    return Joint(_categorical(_sums(logits), combinations), sizes)


def masked(policy: Policy) -> Policy:
    """Return the policy of dictionary observations that never takes an action that is not valid.

    Args:
        policy: of the same observations, whose `action_mask` it may read or not.
    """

    def step(
        params: Params, carry: Carry, obs: Observation, start: Array
    ) -> tuple[Carry, Distribution]:
        carry, distribution = policy.step(params, carry, obs, start)
        return carry, apply(distribution, field(obs, ACTION_MASK))

    def unroll(params: Params, carry: Carry, obs: Observation, start: Array) -> Distribution:
        return apply(policy.unroll(params, carry, obs, start), field(obs, ACTION_MASK))

    prompt = policy.prompt
    if prompt is not None:
        prompt = Prompt(prompt.read, masked(prompt.go_on))
    return policy._replace(step=step, unroll=unroll, prompt=prompt)


def allows(obs: Observation, action: Action, action_space: Space) -> Array:
    """Whether an observation's mask, if it has one, calls an action valid: bool `[]`."""
    if not isinstance(obs, dict) or ACTION_MASK not in obs:
        return jnp.bool_(True)
    factors = spaces.choices(action_space)
    if factors is None:
        factors = spaces.Choices((int(action_space.n),), (spaces.start(action_space),))
    chosen = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(action)])
    chosen, mask = chosen - jnp.asarray(factors.starts), obs[ACTION_MASK]
    if mask.shape == factors.sizes:
        valid = mask[tuple(chosen)]
    else:
        valid = jnp.all(mask[chosen + jnp.cumsum(jnp.asarray((0, *factors.sizes[:-1])))])
    return valid | ~jnp.any(mask)


def in_space(obs_space: Space) -> Space | None:
    """The space of the mask that observations have; None without one."""
    return fields(obs_space).get(ACTION_MASK)


def check(env_name: str, obs_space: Space, action_space: Space) -> None:
    """Raise `ValueError` unless observations have no mask, or one that fits the action space."""
    if (space := in_space(obs_space)) is None:
        return
    shape = tuple(getattr(space, "shape", None) or ())
    if spaces.kind(action_space) == "discrete":
        allowed = [(int(action_space.n),)]
    elif (factors := spaces.choices(action_space)) is not None:
        allowed = [(sum(factors.sizes),), factors.sizes]
        if shape == factors.sizes and math.prod(shape) > MOST_COMBINATIONS:
            raise ValueError(
                f"action_mask of {env_name} must have at most {MOST_COMBINATIONS} combinations, "
                f"got {list(shape)}"
            )
    else:
        raise ValueError(
            f"action_mask of {env_name} must be left out unless actions are discrete, got "
            f"{action_space}"
        )
    if shape not in allowed:
        told = " or ".join(str(list(x)) for x in allowed)
        raise ValueError(
            f"action_mask of {env_name} must have the shape {told} for {action_space}, got "
            f"{list(shape)}"
        )


def _categorical(logits: Array, mask: Array) -> MaskedCategorical:
    """The lowest number in place of the logit of what is not valid: its probability is 0."""
    counts = mask | ~jnp.any(mask, axis=-1, keepdims=True)
    return MaskedCategorical(jnp.where(counts, logits, jnp.finfo(logits.dtype).min))


def _sums(logits: list[Array]) -> Array:
    """Σ_d l_d of every combination, `[..., n₁·n₂·…]`."""

    def widen(x: Array, y: Array) -> Array:
        return jnp.reshape(x[..., :, None] + y[..., None, :], (*x.shape[:-1], -1))

    return functools.reduce(widen, logits)
