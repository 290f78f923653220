"""Flax modules: layers, convolutions and what they are initialised with."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from purejax_po._xla import products
from purejax_po.checks import check_choice, check_count, check_flag
from purejax_po.distributions import DiagonalGaussian
from purejax_po.encoding import param_dtype
from purejax_po.types import Array, Key, Space

Activation = Callable[[Array], Array]
Initializer = Callable[..., Array]
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

    def init(key: Key, shape: Sequence[int], dtype: DTypeLike | None = None) -> Array:
        dtype = param_dtype() if dtype is None else dtype
        return (scale * _orthonormal(key, math.prod(shape[:-1]), shape[-1], dtype)).reshape(shape)

    return init


@functools.partial(jax.jit, static_argnums=(1, 2, 3))  # traced once for all layers of a shape
def _orthonormal(key: Key, rows: int, columns: int, dtype: DTypeLike) -> Array:
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

    param_dtype: DTypeLike = dataclasses.field(default_factory=param_dtype)

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
    def param(self, name: str, init_fn: Initializer, *args: Any, **kwargs: Any) -> Any:
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


def activation_of(activation: str | Activation) -> Activation:
    """Return the activation of that name, or the function itself.

    Raises:
        ValueError: if the name is none of `ACTIVATIONS`.
    """
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return ACTIVATIONS[activation]
