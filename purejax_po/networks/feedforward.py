"""Networks of dense layers, behind convolutions where observations are images."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from purejax_po import types
from purejax_po._xla.layerwise import gains, layerwise
from purejax_po.checks import check_is_env
from purejax_po.distributions import Categorical
from purejax_po.encoding import check_hidden, observation_encoder
from purejax_po.networks.heads import (
    ActionDistribution,
    action_head,
    check_action_distribution,
    executed_as,
    masked,
    memoryless,
)
from purejax_po.networks.modules import (
    MLP,
    USUAL,
    Activation,
    GaussianMLP,
    Layers,
    activation_of,
    check_layers,
)
from purejax_po.types import (
    Array,
    Critic,
    Distribution,
    Environment,
    EnvParams,
    Observation,
    Params,
    Policy,
)

Kind = TypeVar("Kind", Policy, Critic)


def mlp_actor_critic(
    env: Environment,
    env_params: EnvParams,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str | Activation = "tanh",
    action_distribution: ActionDistribution = "gaussian",
    channels: Sequence[int] = (),
    policy_fields: Sequence[str] = (),
    critic_fields: Sequence[str] = (),
    mask_actions: bool = True,
    layers: Layers = USUAL,
) -> tuple[Policy, Critic]:
    """Return an MLP policy and an MLP critic that share no parameters.

    Args:
        env, env_params: a gymnax environment; its spaces size the networks. Observations of any
            shape are flattened, discrete ones are one-hot encoded, the fields of a dictionary or a
            tuple joined.
        hidden: widths of the hidden layers.
        activation: `"tanh"`, `"relu"`, `"silu"`, `"elu"` or a function.
        action_distribution: in a Box of actions a `"clipped_gaussian"`, clipped to it when
            executed; a `"scaled_gaussian"`, clipped to [−1, 1], which is then mapped to the Box; a
            `"tanh_gaussian"`, squashed into it by tanh (see `distributions.TanhGaussian`). A
            `"gaussian"` is clipped if the Box is of the order of a standard normal number
            (`spaces.is_of_unit_order`: 0.25 to 10 on either side of 0) or has no bounds, and scaled
            if not.
        channels: of convolutions before the hidden layers, where observations are images.
        policy_fields, critic_fields: what each sees of a dictionary or a tuple; by default the
            policy sees all but `action_mask` and what begins with `privileged`, the critic all but
            `action_mask`.
        mask_actions: never take an action that the field `action_mask` of an observation says is
            not valid (see `masks`).
        layers: sides and strides of the convolutions, LayerNorm, initialisation.

    Raises:
        ValueError: if the policy cannot serve the action space or its mask, convolutions the
            observations, or for a field that is not there.

    Example:
        >>> import jax
        >>> import purejax_po as po
        >>> policy, critic = po.mlp_actor_critic(*po.make_env("CartPole-v1"), hidden=(8,))
        >>> params = policy.init(jax.random.key(0))
        >>> policy.step(params, (), jax.numpy.ones((2, 4)), None)[1].sample(jax.random.key(1)).shape
        (2,)
    """
    shape: Any = {
        "hidden": hidden,
        "activation": activation,
        "channels": channels,
        "layers": layers,
    }
    policy = mlp_policy(
        env,
        env_params,
        action_distribution=action_distribution,
        fields=policy_fields,
        mask_actions=mask_actions,
        **shape,
    )
    return policy, mlp_critic(env, env_params, fields=critic_fields, **shape)


def mlp_policy(
    env: Environment,
    env_params: EnvParams,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str | Activation = "tanh",
    action_distribution: ActionDistribution = "gaussian",
    channels: Sequence[int] = (),
    fields: Sequence[str] = (),
    mask_actions: bool = True,
    layers: Layers = USUAL,
) -> Policy:
    """Return a categorical, multi-discrete or Gaussian MLP policy, as the action space asks."""
    check_is_env(env)
    check_hidden(hidden)
    check_action_distribution(action_distribution, env.action_space(env_params))
    encode, example = observation_encoder(env, env_params, channels, fields, "policy")
    num_outputs, to_distribution = action_head(env.action_space(env_params))
    check_layers(layers, channels, env.observation_space(env_params))
    mlp = MLP(tuple(hidden), num_outputs, activation_of(activation), 0.01, tuple(channels), layers)
    module = GaussianMLP(mlp) if to_distribution is None else mlp

    def apply(params: Params, obs: Observation) -> Distribution:
        outputs: Any = module.apply(params, encode(obs))
        return outputs if to_distribution is None else to_distribution(outputs)

    policy = memoryless(Policy, lambda key: module.init(key, encode(example)), apply)
    is_plain = not channels and not layers.layer_norm
    if is_plain:
        policy = _described(policy, encode, activation, channels)
    if to_distribution is Categorical and is_plain and gains(hidden, num_outputs - 1):
        policy = policy._replace(jacobian=layerwise)
    policy = executed_as(policy, action_distribution, env.action_space(env_params))
    return masked(policy, env, env_params) if mask_actions else policy


def mlp_critic(
    env: Environment,
    env_params: EnvParams,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str | Activation = "tanh",
    channels: Sequence[int] = (),
    fields: Sequence[str] = (),
    layers: Layers = USUAL,
) -> Critic:
    """Return an MLP state-value function."""
    check_is_env(env)
    check_hidden(hidden)
    encode, example = observation_encoder(env, env_params, channels, fields)
    check_layers(layers, channels, env.observation_space(env_params))
    module = MLP(tuple(hidden), 1, activation_of(activation), 1.0, tuple(channels), layers)

    def apply(params: Params, obs: Observation) -> Array:
        outputs: Any = module.apply(params, encode(obs))
        return outputs[..., 0]

    critic = memoryless(Critic, lambda key: module.init(key, encode(example)), apply)
    if layers.layer_norm:
        return critic
    return _described(critic, encode, activation, channels)


def _described(
    network: Kind,
    encode: Callable[[Array], Array],
    activation: str | Activation,
    channels: Sequence[int],
) -> Kind:
    """The network with what a kernel has to know of it, if it has dense layers alone."""
    if channels:
        return network
    return network._replace(dense=types.Dense(network.unroll, encode, activation_of(activation)))
