"""Flax networks behind `(init, step, unroll)`: flax.linen is imported here and in `layerwise`."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from purejax_po import masks, spaces, types
from purejax_po._xla import products
from purejax_po._xla.layerwise import gains, layerwise
from purejax_po.checks import check_choice, check_count, check_flag, check_is_env
from purejax_po.distributions import (
    Categorical,
    DiagonalGaussian,
    Product,
    ScaledGaussian,
    TanhGaussian,
)
from purejax_po.encoding import Encode, check_hidden, observation_encoder, param_dtype
from purejax_po.types import (
    Array,
    Carry,
    Critic,
    Distribution,
    Environment,
    EnvParams,
    Key,
    Observation,
    Params,
    Policy,
    Space,
)

Activation = Callable[[Array], Array]
Initializer = Callable[..., Array]
ActionDistribution = Literal["gaussian", "clipped_gaussian", "scaled_gaussian", "tanh_gaussian"]
ACTIVATIONS: dict[str, Activation] = {
    "tanh": products.tanh,
    "relu": nn.relu,
    "silu": nn.silu,
    "elu": nn.elu,
}


def orthogonal(scale: float = 1.0) -> Initializer:
    """Orthogonal initialiser without a QR decomposition: orthonormal rows or columns × `scale`.

    Gram-Schmidt, each vector projected twice, over a Gaussian matrix: the same (Haar) distribution
    as QR with positive diagonal. A batched LAPACK call can deadlock on a CPU and runs one matrix at
    a time on a GPU; this is a loop of matrix-vector products.

    Source: Saxe et al. 2014, Exact solutions to the nonlinear dynamics of learning, section 3.
    """

    def init(key: Key, shape: Sequence[int], dtype: Any = None) -> Array:
        dtype = param_dtype() if dtype is None else dtype
        return (scale * _orthonormal(key, math.prod(shape[:-1]), shape[-1], dtype)).reshape(shape)

    return init


@functools.partial(jax.jit, static_argnums=(1, 2, 3))  # traced once for all layers of a shape
def _orthonormal(key: Key, rows: int, columns: int, dtype: Any) -> Array:
    """A matrix `[rows, columns]` whose rows or columns, whichever are fewer, are orthonormal."""
    short, long = min(rows, columns), max(rows, columns)
    vectors = jax.random.normal(key, (short, long), dtype)

    def orthonormalize(i: Array, vectors: Array) -> Array:
        earlier = jnp.where(jnp.arange(short)[:, None] < i, vectors, 0.0)
        vector = vectors[i]
        for _ in range(2):  # the second pass removes what rounding left
            vector = vector - earlier.T @ (earlier @ vector)
        return vectors.at[i].set(vector / jnp.linalg.norm(vector))

    vectors = jax.lax.fori_loop(0, short, orthonormalize, vectors)
    return vectors if rows <= columns else vectors.T


class Dense(nn.Dense):
    """flax's layer; flax itself traces the initialisers at every call, to compare the shapes."""

    param_dtype: Any = dataclasses.field(default_factory=param_dtype)

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """`[..., inputs] → [..., features]`."""
        if not products.joins(inputs.shape[-1]):
            return super().__call__(inputs)
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return products.affine(inputs, kernel, bias)

    @nn.nowrap
    def param(self, name: str, init_fn: Any, *args: Any, **kwargs: Any) -> Any:
        """A parameter: looked up if it is there in the right shape, else what flax makes of it."""
        if self.has_variable("params", name):
            value = self.get_variable("params", name)
            if args and getattr(value, "shape", None) == args[0]:
                return value
        return super().param(name, init_fn, *args, **kwargs)


Initialization = Literal["orthogonal", "default"]


class Layers(NamedTuple):
    """How layers are made, beside how many units they have."""

    kernels: tuple[int, ...] = ()
    """Sides of the convolutions' kernels (pixels), one for each of `channels`; `()`: 3."""
    strides: tuple[int, ...] = ()
    """Their strides (pixels); `()`: 1."""
    layer_norm: bool = False
    """Normalise each hidden layer over its units before the activation.

    Source: Ba et al. 2016, Layer Normalization.
    """
    initialization: Initialization = "orthogonal"
    """`"orthogonal"`, or flax's `"default"`: truncated normal with variance 1 / inputs, the last
    layer's too."""

    def convolutions(self, channels: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return channels, side and stride of each convolution."""
        kernels = self.kernels or (3,) * len(channels)
        strides = self.strides or (1,) * len(channels)
        return list(zip(channels, kernels, strides, strict=True))

    def kernel(self, scale: float) -> Initializer:
        """Return the initialiser of a layer's kernel, scaled where it is orthogonal."""
        is_default = self.initialization == "default"
        return nn.initializers.lecun_normal() if is_default else orthogonal(scale)


USUAL = Layers()


def check_layers(
    layers: Layers, channels: Sequence[int], space: Space = None, prefix: str = ""
) -> None:
    """Raise `ValueError` unless they fit the convolutions, and those an image (if given)."""
    for name in ("kernels", "strides"):
        values = getattr(layers, name)
        if not isinstance(values, tuple | list) or len(values) not in (0, len(channels)):
            raise ValueError(
                f"{prefix}{name} must be a number for each of {len(channels)} channels, or none, "
                f"got {values!r}"
            )
        for value in values:
            check_count(f"{prefix}{name}", value)
    check_flag(f"{prefix}layer_norm", layers.layer_norm)
    check_choice(f"{prefix}initialization", layers.initialization, get_args(Initialization))
    shape = tuple(getattr(space, "shape", None) or ())
    if len(shape) != 3 or not channels:
        return
    sides = list(shape[:2])
    for _, side, stride in layers.convolutions(channels):
        sides = [(x - side) // stride + 1 if x >= side else 0 for x in sides]
        if min(sides) < 1:
            raise ValueError(
                f"{prefix}kernels and {prefix}strides must leave a pixel of {shape[0]} × "
                f"{shape[1]} images, got {layers.convolutions(channels)} (channels, side, stride)"
            )


class Convolutions(nn.Module):
    """Convolutions without padding, 3 × 3 with stride 1 by default, as products of patches.

    With a kernel for each lane a convolution proper runs group by group on a CPU; a product of
    matrices does not.

    Source: Young and Tian 2019, MinAtar, section 3 (one layer of 16 channels).
    """

    channels: Sequence[int]
    activation: Activation
    layers: Layers = USUAL

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """`[..., H, W, C] → [..., features]`; a layer leaves ⌊(H − side)/stride⌋ + 1 rows."""
        for width, side, stride in self.layers.convolutions(self.channels):
            rows, columns = ((x - side) // stride + 1 for x in image.shape[-3:-1])
            height, breadth = (rows - 1) * stride + 1, (columns - 1) * stride + 1
            shifted = [
                image[..., i : i + height : stride, j : j + breadth : stride, :]
                for i in range(side)
                for j in range(side)
            ]
            patches = jnp.concatenate(shifted, axis=-1)
            layer = Dense(width, kernel_init=self.layers.kernel(math.sqrt(2.0)))
            if not all(isinstance(size, int) for size in patches.shape):  # exported: any batch
                image = self.activation(layer(patches))
                continue
            pixels = self.activation(layer(jnp.reshape(patches, (-1, patches.shape[-1]))))
            image = jnp.reshape(pixels, (*patches.shape[:-1], width))
        return jnp.reshape(image, (*image.shape[:-3], math.prod(image.shape[-3:])))


class MLP(nn.Module):
    """Fully connected layers, by default orthogonal: √2 inside, `output_scale` at the end."""

    hidden: Sequence[int]
    num_outputs: int
    activation: Activation
    output_scale: float
    channels: Sequence[int] = ()
    """Of convolutions before the layers."""
    layers: Layers = USUAL

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., inputs] → [..., num_outputs]`; with convolutions of images `[..., H, W, C]`."""
        if self.channels:
            x = Convolutions(self.channels, self.activation, self.layers)(x)
        for width in self.hidden:
            scale = self.layers.kernel(math.sqrt(2.0))
            x = Dense(width, kernel_init=scale, dot_general=products.dense)(x)
            if self.layers.layer_norm:
                x = nn.LayerNorm(param_dtype=param_dtype())(x)
            x = self.activation(x)
        scale = self.layers.kernel(self.output_scale)
        return Dense(self.num_outputs, kernel_init=scale, dot_general=products.dense)(x)


class GaussianMLP(nn.Module):
    """An MLP for the mean, and a log standard deviation that does not depend on the observation."""

    mean: MLP
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> DiagonalGaussian:
        """`[..., inputs] →` a distribution over `[..., D]`."""
        mean = self.mean(x)
        initializer = nn.initializers.constant(self.initial_log_std)
        log_std = self.param("log_std", initializer, mean.shape[-1:], param_dtype())
        return DiagonalGaussian(mean, jnp.broadcast_to(log_std, mean.shape))


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
    num_outputs, to_distribution = _action_head(env.action_space(env_params))
    check_layers(layers, channels, env.observation_space(env_params))
    mlp = MLP(tuple(hidden), num_outputs, _activation(activation), 0.01, tuple(channels), layers)
    module = GaussianMLP(mlp) if to_distribution is None else mlp

    def apply(params: Params, obs: Observation) -> Any:
        outputs: Any = module.apply(params, encode(obs))
        return outputs if to_distribution is None else to_distribution(outputs)

    policy = memoryless(Policy, lambda key: module.init(key, encode(example)), apply)
    is_plain = not channels and not layers.layer_norm
    if is_plain:
        policy = _described(policy, encode, activation, channels)
    if to_distribution is Categorical and is_plain and gains(hidden, num_outputs - 1):
        policy = policy._replace(jacobian=layerwise)
    policy = executed_as(policy, action_distribution, env.action_space(env_params))
    return _masked(policy, env, env_params) if mask_actions else policy


def executed_as(policy: Policy, action_distribution: str, space: Space) -> Policy:
    """Return a policy, with or without memory, whose Gaussian is of the class that was chosen."""
    if spaces.kind(space) != "box" or spaces.is_integer_box(space):
        return policy
    if action_distribution == "gaussian":
        suits = not spaces.is_bounded(space) or spaces.is_of_unit_order(space)
        if suits and not spaces.is_of_unit_order(space):
            warnings.warn(
                f"actions {space} have bounds far from a standard normal number, and one that is "
                "not finite to scale to: let the environment scale them",
                stacklevel=4,
            )
        action_distribution = "clipped_gaussian" if suits else "scaled_gaussian"
    if action_distribution == "clipped_gaussian":
        return policy
    cls = TanhGaussian if action_distribution == "tanh_gaussian" else ScaledGaussian

    def convert(gaussian: Any) -> ScaledGaussian:
        return cls(gaussian.mean, gaussian.log_std)

    def step(
        params: Params, carry: Carry, obs: Observation, start: Array
    ) -> tuple[Carry, Distribution]:
        carry, gaussian = policy.step(params, carry, obs, start)
        return carry, convert(gaussian)

    def unroll(params: Params, carry: Carry, obs: Observation, start: Array) -> Distribution:
        return convert(policy.unroll(params, carry, obs, start))

    dense = policy.dense and policy.dense._replace(unroll=unroll)
    return policy._replace(step=step, unroll=unroll, dense=dense)


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
    module = MLP(tuple(hidden), 1, _activation(activation), 1.0, tuple(channels), layers)

    def apply(params: Params, obs: Observation) -> Any:
        outputs: Any = module.apply(params, encode(obs))
        return outputs[..., 0]

    critic = memoryless(Critic, lambda key: module.init(key, encode(example)), apply)
    if layers.layer_norm:
        return critic
    return _described(critic, encode, activation, channels)


def _described(
    network: Any, encode: Callable[[Array], Array], activation: Any, channels: Sequence[int]
) -> Any:
    """The network with what a kernel has to know of it, if it has dense layers alone."""
    if channels:
        return network
    return network._replace(dense=types.Dense(network.unroll, encode, _activation(activation)))


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

    def decode(self, output: Array) -> Any:
        """What the head makes of the cell's output `[..., units]`."""
        return self.head(output)  # type: ignore[operator]

    def __call__(self, carry: Carry, x: Array, start: Array) -> tuple[Carry, Any]:
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
    num_outputs, to_distribution = _action_head(env.action_space(env_params))
    check_layers(layers, channels, env.observation_space(env_params))
    mlp = MLP((), num_outputs, _activation(activation), 0.01, layers=layers)
    head = GaussianMLP(mlp) if to_distribution is None else mlp
    value_head = MLP((), 1, _activation(activation), 1.0, layers=layers)
    policy_encoder = observation_encoder(env, env_params, channels, policy_fields, "policy")
    critic_encoder = observation_encoder(env, env_params, channels, critic_fields)
    shape = tuple(channels), cell, layers
    policy = Recurrent(tuple(hidden), _activation(activation), head, *shape)
    critic = Recurrent(tuple(hidden), _activation(activation), value_head, *shape)
    head_to_distribution = to_distribution or (lambda distribution: distribution)
    actor = recurrent(Policy, policy, policy_encoder, head_to_distribution)
    actor = executed_as(actor, action_distribution, env.action_space(env_params))
    return (
        _masked(actor, env, env_params) if mask_actions else actor,
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
    kind: Any,
    module: Recurrent,
    encoder: tuple[Encode, Observation],
    convert: Callable[[Any], Any],
) -> Any:
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

    def step(params: Params, carry: Carry, obs: Observation, start: Array) -> tuple[Carry, Any]:
        carry, outputs = module.apply(params, carry, encode(obs), start)  # type: ignore[misc]
        return carry, convert(outputs)

    def unroll(params: Params, carry: Carry, obs: Observation, start: Array) -> Any:
        def remember(carry: Carry, x: tuple[Array, Array]) -> Any:
            return module.apply(params, carry, *x, method="remember")

        # Only the memory needs a scan: the layers before and after see all steps at once.
        encoded: Any = module.apply(params, encode(obs), method="encode")
        output = jax.lax.scan(remember, carry, (encoded, start))[1]
        return convert(module.apply(params, output, method="decode"))

    return kind(init, initial_carry, step, unroll, memoryless=False)


def check_action_distribution(
    action_distribution: str, space: Space, name: str = "action_distribution"
) -> None:
    """Raise `ValueError` unless the distribution is known and the action space can have it."""
    check_choice(name, action_distribution, get_args(ActionDistribution))
    if action_distribution == "gaussian":
        return
    if spaces.kind(space) != "box" or spaces.is_integer_box(space):
        raise ValueError(f"{name} must be gaussian unless actions are a Box, got {space}")
    if action_distribution != "clipped_gaussian" and not spaces.is_bounded(space):
        raise ValueError(f"{name} must be gaussian unless actions have bounds, got {space}")


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

    return _masked(memoryless(Policy, init, apply), env, env_params)


def linear_critic(env: Environment, env_params: EnvParams) -> Critic:
    """Return V(s) = wᵀobs, started at zero; with one-hot observations, a table of values."""
    check_is_env(env)
    encode, example = observation_encoder(env, env_params)
    return memoryless(
        Critic,
        lambda key: jnp.zeros(encode(example).shape[-1]),
        lambda weights, obs: encode(obs) @ weights,
    )


def memoryless(
    kind: Any, init: Callable[[Key], Params], apply: Callable[[Params, Observation], Any]
) -> Any:
    """Make a `Policy` or `Critic` (`kind`) of a network `apply(params, obs [..., *obs_shape])`."""
    return kind(
        init=init,
        initial_carry=lambda num_envs: (),
        step=lambda params, carry, obs, start: (carry, apply(params, obs)),
        unroll=lambda params, carry, obs, start: apply(params, obs),
        memoryless=True,
    )


def _masked(policy: Policy, env: Environment, env_params: EnvParams) -> Policy:
    """The policy that keeps to what the observations' `action_mask` says, if they have one."""
    space = env.observation_space(env_params)
    name = str(getattr(env, "name", type(env).__name__))
    masks.check(name, space, env.action_space(env_params))
    return policy if masks.in_space(space) is None else masks.masked(policy)


def _action_head(space: Space) -> tuple[int, Callable[[Array], Any] | None]:
    """Number of network outputs, and their distribution (`None`: Gaussian) for an action space."""
    spaces.check_not_empty("actions", space)
    if spaces.kind(space) == "discrete":
        return int(space.n), Categorical
    if (factors := spaces.choices(space)) is not None:
        ends = np.cumsum(factors.sizes)[:-1].tolist()

        def to_product(outputs: Array) -> Product:
            return Product(tuple(Categorical(x) for x in jnp.split(outputs, ends, axis=-1)))

        return sum(factors.sizes), to_product
    if spaces.kind(space) == "box":
        if len(space.shape) != 1:
            raise ValueError(f"a Box action space must be a vector, got {space}")
        return int(space.shape[0]), None
    raise ValueError(
        "the policy serves Discrete, MultiDiscrete, MultiBinary, Box and Tuple-of-Discrete action "
        f"spaces, got {space}"
    )


def _activation(activation: str | Activation) -> Activation:
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return ACTIVATIONS[activation]
