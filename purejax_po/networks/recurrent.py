"""Networks with a memory: dense layers, a GRU or an LSTM, and a head."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejax_po.checks import check_choice, check_is_env
from purejax_po.encoding import Encode, check_hidden, observation_encoder, param_dtype
from purejax_po.networks.heads import (
    ActionDistribution,
    action_head,
    check_action_distribution,
    executed_as,
    masked,
)
from purejax_po.networks.modules import (
    MLP,
    USUAL,
    Activation,
    Convolutions,
    Dense,
    GaussianMLP,
    Layers,
    activation_of,
    check_layers,
    orthogonal,
)
from purejax_po.types import (
    Array,
    Carry,
    Critic,
    Distribution,
    Environment,
    EnvParams,
    Key,
    Network,
    Observation,
    Params,
    Policy,
)

Cell = Literal["gru", "lstm"]
CELLS: dict[str, type[nn.RNNCellBase]] = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


class Recurrent(nn.Module):
    """Fully connected layers, then a cell with memory, then a head: in three parts.

    Source: Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder, section 2.3
    (GRU); Hochreiter and Schmidhuber 1997, Long Short-Term Memory, and Gers et al. 2000, Learning
    to Forget (LSTM).
    """

    hidden: Sequence[int]
    activation: Activation
    head: nn.Module
    channels: Sequence[int] = ()
    """Of convolutions before the layers."""
    cell_type: Cell = "gru"
    made_as: Layers = USUAL

    def setup(self) -> None:
        """Name the layers."""
        scale = self.made_as.kernel(math.sqrt(2.0))
        if self.channels:
            self.convolutions = Convolutions(self.channels, self.activation, self.made_as)
        self.layers = [Dense(width, kernel_init=scale) for width in self.hidden[:-1]]
        if self.made_as.layer_norm:
            self.norms = [nn.LayerNorm(param_dtype=param_dtype()) for _ in self.hidden[:-1]]
        # flax's default initialiser is a QR decomposition: see `orthogonal`.
        cell: Any = CELLS[self.cell_type]
        self.cell = cell(
            self.hidden[-1], recurrent_kernel_init=orthogonal(), param_dtype=param_dtype()
        )

    def encode(self, x: Array) -> Array:
        """`[..., inputs] → [..., units]`: the layers before the cell."""
        if self.channels:
            x = self.convolutions(x)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = self.activation(self.norms[i](x) if self.made_as.layer_norm else x)
        return x

    def remember(self, carry: Carry, x: Array, start: Array) -> tuple[Carry, Array]:
        """One step of the cell: memory and output `[..., units]`; an episode starts without any."""
        kept = jax.tree.map(lambda x: jnp.where(start[..., None], 0.0, x), carry)
        return self.cell(kept, x)

    def decode(self, output: Array) -> Distribution | Array:
        """What the head makes of the cell's output `[..., units]`."""
        return self.head(output)  # type: ignore[operator]

    def __call__(self, carry: Carry, x: Array, start: Array) -> tuple[Carry, Distribution | Array]:
        """One step: `(memory, outputs)`."""
        carry, output = self.remember(carry, self.encode(x), start)
        return carry, self.decode(output)


def recurrent_actor_critic(
    env: Environment,
    env_params: EnvParams,
    *,
    cell: Cell = "gru",
    hidden: Sequence[int] = (64, 64),
    activation: str | Activation = "tanh",
    action_distribution: ActionDistribution = "gaussian",
    channels: Sequence[int] = (),
    policy_fields: Sequence[str] = (),
    critic_fields: Sequence[str] = (),
    mask_actions: bool = True,
    layers: Layers = USUAL,
) -> tuple[Policy, Critic]:
    """Return a recurrent policy and a recurrent critic that share no parameters.

    Args:
        env, env_params: as `mlp_actor_critic`.
        cell: the last layer, a `"gru"` or an `"lstm"`.
        hidden: widths of the hidden layers, at least one.
        activation: of the layers before it.
        action_distribution, channels, policy_fields, critic_fields, mask_actions, layers: as
            `mlp_actor_critic`; the cell is without LayerNorm.

    Raises:
        ValueError: if there is no hidden layer, or the policy cannot serve the action space.
    """
    check_is_env(env)
    check_choice("cell", cell, tuple(CELLS))
    check_hidden(hidden)
    check_action_distribution(action_distribution, env.action_space(env_params))
    if not hidden:
        raise ValueError(f"hidden must name the width of the {cell.upper()} at least, got ()")
    num_outputs, to_distribution = action_head(env.action_space(env_params))
    check_layers(layers, channels, env.observation_space(env_params))
    mlp = MLP((), num_outputs, activation_of(activation), 0.01, layers=layers)
    head = GaussianMLP(mlp) if to_distribution is None else mlp
    value_head = MLP((), 1, activation_of(activation), 1.0, layers=layers)
    policy_encoder = observation_encoder(env, env_params, channels, policy_fields, "policy")
    critic_encoder = observation_encoder(env, env_params, channels, critic_fields)
    shape = tuple(channels), cell, layers
    policy = Recurrent(tuple(hidden), activation_of(activation), head, *shape)
    critic = Recurrent(tuple(hidden), activation_of(activation), value_head, *shape)
    head_to_distribution = to_distribution or (lambda distribution: distribution)
    actor = recurrent(Policy, policy, policy_encoder, head_to_distribution)
    actor = executed_as(actor, action_distribution, env.action_space(env_params))
    return (
        masked(actor, env, env_params) if mask_actions else actor,
        recurrent(Critic, critic, critic_encoder, lambda value: value[..., 0]),
    )


def gru_actor_critic(
    env: Environment, env_params: EnvParams, **options: Any
) -> tuple[Policy, Critic]:
    """Return a policy and a critic with a GRU; arguments as `recurrent_actor_critic`."""
    return recurrent_actor_critic(env, env_params, cell="gru", **options)


def lstm_actor_critic(
    env: Environment, env_params: EnvParams, **options: Any
) -> tuple[Policy, Critic]:
    """Return a policy and a critic with an LSTM; arguments as `recurrent_actor_critic`."""
    return recurrent_actor_critic(env, env_params, cell="lstm", **options)


def recurrent(
    kind: Callable[..., Network],
    module: Recurrent,
    encoder: tuple[Encode, Observation],
    convert: Callable[..., Distribution | Array],
) -> Network:
    """Make a `Policy` or `Critic` (`kind`) of a recurrent module whose outputs `convert` finishes.

    Args:
        encoder: from `observation_encoder`.
        convert: the head's outputs `[...]` to a distribution or a value.
    """
    encode, example = encoder

    def initial_carry(num_envs: int) -> Carry:
        memory = jnp.zeros((num_envs, module.hidden[-1]))
        return (memory, memory) if module.cell_type == "lstm" else memory

    def init(key: Key) -> Params:
        carry = jax.tree.map(lambda x: x[0], initial_carry(1))
        return module.init(key, carry, encode(example), jnp.zeros((), bool))

    def step(
        params: Params, carry: Carry, obs: Observation, start: Array
    ) -> tuple[Carry, Distribution | Array]:
        carry, outputs = module.apply(params, carry, encode(obs), start)  # type: ignore[misc]
        return carry, convert(outputs)

    def unroll(
        params: Params, carry: Carry, obs: Observation, start: Array
    ) -> Distribution | Array:
        def remember(carry: Carry, x: tuple[Array, Array]) -> Any:
            return module.apply(params, carry, *x, method="remember")

        # Only the memory needs a scan: the layers before and after see all steps at once.
        encoded: Any = module.apply(params, encode(obs), method="encode")
        output = jax.lax.scan(remember, carry, (encoded, start))[1]
        return convert(module.apply(params, output, method="decode"))

    return kind(init, initial_carry, step, unroll, memoryless=False)
