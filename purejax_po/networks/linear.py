"""Linear networks, tables among them: a softmax policy, and a critic."""

from collections.abc import Callable

import jax.numpy as jnp

from purejax_po import spaces
from purejax_po.checks import check_is_env
from purejax_po.distributions import Categorical
from purejax_po.encoding import observation_encoder
from purejax_po.networks.heads import masked, memoryless
from purejax_po.types import Array, Critic, Environment, EnvParams, Key, Observation, Policy


def softmax_linear_policy(
    env: Environment, env_params: EnvParams, features: Callable[[Observation], Array] | None = None
) -> Policy:
    """Return π(a|s) ∝ exp(θᵀφ(s,a)), started at θ = 0 (the uniform policy).

    Args:
        env, env_params: a gymnax environment with a discrete action space.
        features: φ, from observations `[..., *obs_shape]` to `[..., A, F]`. Without it φ(s,a) puts
            the encoded observation in a block of its own for each action; with one-hot
            observations that is the tabular softmax policy.
    """
    check_is_env(env)
    space = env.action_space(env_params)
    if spaces.kind(space) != "discrete":
        raise ValueError(f"softmax_linear_policy needs a discrete action space, got {space}")
    encode, example = observation_encoder(env, env_params, reader="policy")

    def init(key: Key) -> Array:
        del key
        if features is not None:
            return jnp.zeros(features(example).shape[-1])
        return jnp.zeros((encode(example).shape[-1], int(space.n)))

    def apply(theta: Array, obs: Observation) -> Categorical:
        return Categorical(encode(obs) @ theta if features is None else features(obs) @ theta)

    return masked(memoryless(Policy, init, apply), env, env_params)


def linear_critic(env: Environment, env_params: EnvParams) -> Critic:
    """Return V(s) = wᵀobs, started at zero; with one-hot observations, a table of values."""
    check_is_env(env)
    encode, example = observation_encoder(env, env_params)
    return memoryless(
        Critic,
        lambda key: jnp.zeros(encode(example).shape[-1]),
        lambda weights, obs: encode(obs) @ weights,
    )
