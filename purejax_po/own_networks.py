"""Networks of any library behind `Policy` and `Critic`: an `init`, and an `apply`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from purejax_po.checks import check_count
from purejax_po.networks import memoryless
from purejax_po.types import Array, Critic, Distribution, Key, Observation, Params, Policy

Apply = Callable[[Params, Observation], Distribution | Array]


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

    A last axis of 1, which most libraries' layers leave, has to be squeezed.
    """
    return memoryless(Critic, init, _mapped(apply, obs_ndim))


def _mapped(apply: Apply, obs_ndim: int | None) -> Apply:
    """A function of one observation as one of any leading axes."""
    if obs_ndim is None:
        return apply
    check_count("obs_ndim", obs_ndim, minimum=0)

    def over_leading_axes(params: Params, obs: Observation) -> Distribution | Array:
        if not hasattr(obs, "ndim"):
            raise ValueError(
                f"obs_ndim must be None where observations have fields, got {obs_ndim}"
            )
        leading = obs.shape[: obs.ndim - obs_ndim]
        flat = jnp.reshape(obs, (math.prod(leading), *obs.shape[len(leading) :]))
        outputs = jax.vmap(apply, in_axes=(None, 0))(params, flat)
        return jax.tree.map(lambda x: jnp.reshape(x, (*leading, *x.shape[1:])), outputs)

    return over_leading_axes
