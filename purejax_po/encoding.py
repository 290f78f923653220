"""What networks read: flat float vectors, or images, of an environment's observations."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po import observations, spaces
from purejax_po.checks import check_count
from purejax_po.types import Array, Environment, EnvParams, Observation, Space

Encode = Callable[[Observation], Array]
MOST_WEIGHTS = 2**31
"""Between two layers, 8 GiB of them."""


def param_dtype() -> Any:
    """The dtype of parameters: float32, or float64 where JAX computes in double precision."""
    return jnp.result_type(float)


def observation_encoder(
    env: Environment,
    env_params: EnvParams,
    channels: Sequence[int] = (),
    fields: Sequence[str] = (),
    reader: observations.Reader = "critic",
) -> tuple[Encode, Observation]:
    """Return a function that makes flat float vectors of observations, and an example observation.

    Box observations `[..., *shape]` become `[..., prod(shape)]`, or floats of their own shape where
    convolutions of so many `channels` read them; discrete ones `[...]` are one-hot, and so are the
    tokens of token tasks, NONE = −1 included. Those of MultiDiscrete are the numbers themselves:
    one outside its range is read as any other, and nobody tells. Images of whole numbers are
    brought into [0, 1] by their bounds: 0 … 255 by x/255. Of a dictionary or a tuple the fields'
    vectors are joined.

    Args:
        fields: of a dictionary or a tuple, those to read (`observations.seen_fields`).
        reader: a policy does not see by itself what is privileged.

    Raises:
        ValueError: if observations are neither, convolutions are to read what is no image, or for a
            field that is not there.
    """
    space = env.observation_space(env_params)
    vocabulary = getattr(env, "num_tokens", None)
    names = observations.seen_fields(space, reader, fields)
    if not names:
        return _encoder(space, channels, vocabulary)
    check_channels(channels, seen_space(space, names))
    found = observations.fields(space)
    if channels:
        (name,) = names
        encode, example = _encoder(found[name], channels, None)
        return lambda obs: encode(observations.field(obs, name)), {name: example}
    tokens = {observations.OBSERVATION: vocabulary}
    parts = {name: _encoder(found[name], (), tokens.get(name)) for name in names}

    def encode_fields(obs: Observation) -> Array:
        vectors = [part(observations.field(obs, name)) for name, (part, _) in parts.items()]
        return jnp.concatenate(vectors, axis=-1) if len(vectors) > 1 else vectors[0]

    return encode_fields, {name: example for name, (_, example) in parts.items()}


def seen_space(space: Space, names: Sequence[str]) -> Space:
    """The space of what a network reads: that of the one field, if it reads a single one."""
    return observations.fields(space)[names[0]] if len(names) == 1 else space


def _encoder(
    space: Space, channels: Sequence[int], vocabulary: int | None
) -> tuple[Callable[[Array], Array], Array]:
    """The encoder of one array: see `observation_encoder`."""
    spaces.check_not_empty("observations", space)
    check_channels(channels, space)
    if vocabulary is not None:
        num_tokens, (length,) = vocabulary + 1, space.shape

        def encode_tokens(obs: Array) -> Array:
            one_hot = jax.nn.one_hot(obs + 1, num_tokens)
            return jnp.reshape(one_hot, (*obs.shape[:-1], length * num_tokens))

        return encode_tokens, jnp.zeros(length, jnp.int32)
    found = spaces.kind(space)
    if found == "discrete":
        return _one_hot_encoder(int(space.n), spaces.start(space)), jnp.zeros((), jnp.int32)
    if found not in ("box", "multi_discrete"):
        raise ValueError(
            "observations must be Box or Discrete, or a dictionary or a tuple of these, got "
            f"{space}"
        )
    shape = tuple(space.shape)
    to_unit = _unit_scale(space)

    def encode(obs: Array) -> Array:
        leading = obs.shape[: obs.ndim - len(shape)]
        observations.check_shape(obs, shape)
        if not jnp.issubdtype(obs.dtype, jnp.floating):
            obs = to_unit(obs.astype(param_dtype()))
        return obs if channels else jnp.reshape(obs, (*leading, math.prod(shape)))

    return encode, jnp.zeros(shape)


def _one_hot_encoder(size: int, first: int) -> Callable[[Array], Array]:
    """One-hot vectors of the values first … first + size − 1; NaN for any other.

    An observation outside its space is a mistake of the environment. It makes the lane diverge,
    where a vector of zeros would let it train on nothing.
    """

    def encode(obs: Array) -> Array:
        index = obs - first if first else obs
        inside = (index >= 0) & (index < size)
        return jnp.where(inside[..., None], jax.nn.one_hot(index, size), jnp.nan)

    return encode


def _unit_scale(space: Space) -> Callable[[Array], Array]:
    """(x − low)/(high − low) for images of whole numbers, such as 0 … 255; else x itself."""
    if len(space.shape) != 3 or spaces.kind(space) != "box" or not spaces.is_bounded(space):
        return lambda x: x
    low, high = (np.asarray(x, np.float32) for x in (space.low, space.high))
    if high.max() <= 1.0:  # bits, as MinAtar's
        return lambda x: x
    return lambda x: (x - low) / np.maximum(high - low, 1.0)


def check_hidden(hidden: object, name: str = "hidden") -> None:
    """Raise `ValueError` unless `hidden` is a sequence of positive whole numbers."""
    if not isinstance(hidden, tuple | list):
        raise ValueError(f"{name} must be a sequence of widths such as (64, 64), got {hidden!r}")
    for width in hidden:
        check_count(name, width)
    _check_weights(name, hidden)


def _check_weights(name: str, widths: Sequence[int]) -> None:
    """Raise `ValueError` for layers between which there are more weights than memory holds."""
    for one, two in zip((1, *widths), (*widths, 1), strict=True):
        if one * two >= MOST_WEIGHTS:
            raise ValueError(
                f"{name} must make fewer than 2^31 weights between two layers, got {list(widths)}"
            )


def check_channels(channels: object, space: Space = None, name: str = "channels") -> None:
    """Raise `ValueError` unless they are counts, and observations (if given) large enough."""
    if not isinstance(channels, tuple | list):
        raise ValueError(f"{name} must be a sequence of counts such as (16,), got {channels!r}")
    for count in channels:
        check_count(name, count)
    _check_weights(name, channels)
    if not channels or space is None:
        return
    shape, least = tuple(getattr(space, "shape", None) or ()), 2 * len(channels) + 1
    if len(shape) != 3 or min(shape[:2]) < least:
        raise ValueError(
            f"{name} must be () unless observations are images [height, width, channels] of "
            f"{least} × {least} pixels or more, got {tuple(channels)} and observations of shape "
            f"{shape}"
        )
