"""What a user brings: networks of flax linen, of flax NNX, of Equinox and of nothing but JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import purejax_po as po

WIDTH = 8


def _sizes(env, env_params):
    return env.observation_space(env_params).shape[0], env.action_space(env_params).n


def linen(env, env_params):
    """Two networks of flax linen."""
    num_inputs, num_actions = _sizes(env, env_params)
    policy, critic = (
        nn.Sequential([nn.Dense(WIDTH), nn.tanh, nn.Dense(n)]) for n in (num_actions, 1)
    )
    example = jnp.zeros(num_inputs)
    return (
        po.policy_of(
            lambda key: policy.init(key, example),
            lambda params, obs: po.distributions.Categorical(policy.apply(params, obs)),
        ),
        po.critic_of(
            lambda key: critic.init(key, example),
            lambda params, obs: critic.apply(params, obs)[..., 0],
        ),
    )


def of_nnx(env, env_params):
    """Two networks of flax NNX, each split into its graph and its parameters."""
    num_inputs, num_actions = _sizes(env, env_params)

    def split(num_outputs, key):
        rngs = nnx.Rngs(key)
        first, last = (
            nnx.Linear(num_inputs, WIDTH, rngs=rngs),
            nnx.Linear(WIDTH, num_outputs, rngs=rngs),
        )
        return nnx.split(nnx.Sequential(first, nnx.tanh, last), nnx.Param, ...)

    def parts(num_outputs):
        graph, _, rest = split(num_outputs, jax.random.key(0))
        return (
            lambda key: split(num_outputs, key)[1],
            lambda params, obs: nnx.merge(graph, params, rest)(obs),
        )

    (policy_init, logits), (critic_init, value) = parts(num_actions), parts(1)
    return (
        po.policy_of(policy_init, lambda p, obs: po.distributions.Categorical(logits(p, obs))),
        po.critic_of(critic_init, lambda p, obs: value(p, obs)[..., 0]),
    )


def of_equinox(env, env_params):
    """Two networks of Equinox, whose layers take one observation at a time."""
    import equinox as eqx

    num_inputs, num_actions = _sizes(env, env_params)

    def parts(num_outputs):
        def make(key):
            return eqx.nn.MLP(num_inputs, num_outputs, WIDTH, 1, key=key)

        static = eqx.partition(make(jax.random.key(0)), eqx.is_array)[1]
        return (
            lambda key: eqx.partition(make(key), eqx.is_array)[0],
            lambda params, obs: eqx.combine(params, static)(obs),
        )

    (policy_init, logits), (critic_init, value) = parts(num_actions), parts(1)

    def act(params, obs):
        return po.distributions.Categorical(logits(params, obs))

    return (
        po.policy_of(policy_init, act, obs_ndim=1),
        po.critic_of(critic_init, lambda p, obs: value(p, obs)[0], obs_ndim=1),
    )


def on_a_torso(env, env_params):
    """A torso that is given, here random, as a pretrained one would be; both heads read it."""
    num_inputs, num_actions = _sizes(env, env_params)
    torso = jax.random.normal(jax.random.key(0), (num_inputs, WIDTH))

    def head(num_outputs):
        return (
            lambda key: 0.1 * jax.random.normal(key, (WIDTH, num_outputs)),
            lambda params, obs: jnp.tanh(obs @ torso) @ params,
        )

    (policy_init, logits), (critic_init, value) = head(num_actions), head(1)
    return (
        po.policy_of(policy_init, lambda p, obs: po.distributions.Categorical(logits(p, obs))),
        po.critic_of(critic_init, lambda p, obs: value(p, obs)[..., 0]),
    )


def shared(env, env_params):
    """A torso that both heads train."""
    num_inputs, num_actions = _sizes(env, env_params)

    def init(key):
        shapes = {"torso": (num_inputs, WIDTH), "policy": (WIDTH, num_actions), "critic": (WIDTH,)}
        keys = zip(shapes.items(), jax.random.split(key, 3), strict=True)
        return {name: 0.3 * jax.random.normal(key, shape) for (name, shape), key in keys}

    def apply(params, obs):
        x = jnp.tanh(obs @ params["torso"])
        return po.distributions.Categorical(x @ params["policy"]), x @ params["critic"]

    return po.shared_torso(init, apply)


def alone(env, env_params):
    """A policy without a critic."""
    return linen(env, env_params)[0]


def fails(env, env_params):
    """Makes a mistake."""
    raise TypeError("a mistake of the user's")


NUMBER = 3
