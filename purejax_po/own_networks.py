"""Networks of any library behind `Policy` and `Critic`: an `init`, and an `apply`."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from purejax_po.checks import check_count
from purejax_po.networks import memoryless
from purejax_po.types import Array, Critic, Distribution, Key, Observation, Params, Policy

Output = TypeVar("Output")


def policy_of(
    init: Callable[[Key], Params],
    apply: Callable[[Params, Observation], Distribution],
    *,
    obs_ndim: int | None = None,
) -> Policy:
    """Make a policy without memory of two functions.

    Args:
        init: `key → params`, a pytree of arrays.
        apply: `(params, obs [..., *obs_shape]) → distribution [...]`, such as
            `distributions.Categorical(logits)`; observations are as the environment gives them. A
            mask of actions is for `apply` to read, or for `masked` around the policy.
        obs_ndim: the number of axes of one observation, where `apply` takes one at a time, as
            Equinox's layers do; it is mapped over all axes in front of them.
    """
    return memoryless(Policy, init, _mapped(apply, obs_ndim))


def critic_of(
    init: Callable[[Key], Params],
    apply: Callable[[Params, Observation], Array],
    *,
    obs_ndim: int | None = None,
) -> Critic:
    """Make a critic without memory: as `policy_of`, with values `[...]` in place of distributions.

    Squeeze the last axis of 1, which most libraries' layers leave.
    """
    return memoryless(Critic, init, _mapped(apply, obs_ndim))


def shared_torso(
    init: Callable[[Key], Params],
    apply: Callable[[Params, Observation], tuple[Distribution, Array]],
    *,
    obs_ndim: int | None = None,
) -> tuple[Policy, Critic]:
    """Make policy and critic of one network that returns a distribution and a value.

    A2C and PPO train it: their loss is one function of both outputs. Algorithms that train the
    critic apart from the policy refuse it.

    Args:
        init: `key → params` of the whole network.
        apply: `(params, obs [..., *obs_shape]) → (distribution [...], value [...])`.
        obs_ndim: as in `policy_of`.

    Returns:
        `(policy, critic)`; the critic has no parameters.
    """
    both = _mapped(apply, obs_ndim)
    policy = memoryless(Policy, init, lambda params, obs: both(params, obs)[0])
    critic = memoryless(Critic, lambda key: (), lambda params, obs: both(params, obs)[1])
    return policy, critic._replace(is_shared=True)


def _mapped(
    apply: Callable[[Params, Observation], Output], obs_ndim: int | None
) -> Callable[[Params, Observation], Output]:
    """A function of one observation as one of any leading axes."""
    if obs_ndim is None:
        return apply
    check_count("obs_ndim", obs_ndim, minimum=0)

    def over_leading_axes(params: Params, obs: Observation) -> Output:
        if not hasattr(obs, "ndim"):
            raise ValueError(
                f"obs_ndim must be None where observations have fields, got {obs_ndim}"
            )
        leading = obs.shape[: obs.ndim - obs_ndim]
        flat = jnp.reshape(obs, (math.prod(leading), *obs.shape[len(leading) :]))
        outputs = jax.vmap(apply, in_axes=(None, 0))(params, flat)
        return jax.tree.map(lambda x: jnp.reshape(x, (*leading, *x.shape[1:])), outputs)

    return over_leading_axes
