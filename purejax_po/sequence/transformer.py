"""A causal transformer that keeps keys and values of what came before."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejax_po.checks import check_count
from purejax_po.distributions import Categorical
from purejax_po.sequence.tokens import (
    check_layers,
    check_token_task,
    fed,
    latest,
    normal,
    one_hot,
    product,
    reading_policy,
)
from purejax_po.types import Array, Environment, EnvParams, Key, Params, Policy

KeysAndValues = tuple[Array, Array]


class Cache(NamedTuple):
    """What a transformer remembers: keys and values of each layer, and where it stands."""

    prompt: tuple[KeysAndValues, ...]
    """`[N / group_size, P, D]` each."""
    output: tuple[KeysAndValues, ...]
    """`[N, T, D]` each, zero behind the latest token."""
    position: Array
    """Tokens emitted, int32 `[N]`."""


def transformer_policy(
    env: Environment,
    env_params: EnvParams,
    *,
    hidden: Sequence[int] = (32,),
    num_heads: int = 4,
    mlp_ratio: int = 4,
) -> Policy:
    """Return a causal transformer with a cache, normalised before each sublayer.

    Args:
        env, env_params: a token task.
        hidden: the width D, once for every layer.
        num_heads: heads of attention; divides D.
        mlp_ratio: hidden units of each layer's network for each of the D.

    Raises:
        ValueError: naming what the environment or the argument has to be.

    Source: Vaswani et al. 2017, Attention Is All You Need; Radford et al. 2019 (normalisation).
    """
    shape = check_token_task(env)
    width = check_layers(hidden, num_heads)
    check_count("mlp_ratio", mlp_ratio)
    prompt_length, max_tokens, _ = shape
    num_layers = len(hidden)

    def init(key: Key) -> Params:
        return _transformer_params(key, shape, width, num_layers, mlp_ratio)

    def read(params: Params, obs: Array, group_size: int) -> Cache:
        x = _embed(params, obs[::group_size, :prompt_length]) + params["prompt_position"]
        mask = jnp.tri(prompt_length, dtype=bool)
        prompt = []
        for layer in params["layers"]:
            query, key, value = _project(layer, x)
            prompt.append((key, value))
            # Of the last layer only the keys and values are needed.
            if prompt_length and layer is not params["layers"][-1]:
                x = _finish(layer, x, _attend(query, [(key, value, mask)], num_heads))
        nothing = jnp.zeros((obs.shape[0], max_tokens, width))
        output = ((nothing, nothing),) * num_layers
        return Cache(tuple(prompt), output, jnp.zeros(obs.shape[0], jnp.int32))

    run = functools.partial(_run_layers, num_heads)

    def advance(params: Params, cache: Cache, obs: Array) -> tuple[Cache, Categorical]:
        here = jax.nn.one_hot(cache.position, max_tokens)
        x = _embed(params, latest(obs, cache.position, shape)) + here @ params["output_position"]
        mask = jnp.arange(max_tokens) <= cache.position[:, None]
        output, logits = run(
            params,
            x[:, None],
            cache,
            lambda old, new: old + here[..., None] * new,
            mask[:, None],
        )
        return Cache(cache.prompt, output, cache.position + 1), Categorical(logits[:, 0])

    def unroll(params: Params, cache: Cache, obs: Array) -> Categorical:
        length = obs.shape[0]
        if length > max_tokens:
            raise ValueError(f"num_steps must be at most {max_tokens} tokens, got {length}")
        x = _embed(params, fed(obs, shape)) + params["output_position"][:length]
        mask = jnp.tri(length, dtype=bool)
        _, logits = run(params, x, cache, lambda old, new: new, mask)
        return Categorical(jnp.swapaxes(logits, 0, 1))

    return reading_policy(env, init, read, advance, unroll)


EMBEDDING_SCALE = 0.3


def _transformer_params(
    key: Key, shape: tuple[int, int, int], width: int, num_layers: int, mlp_ratio: int
) -> Params:
    """Draw a transformer's parameters."""
    prompt_length, max_tokens, num_tokens = shape
    keys = iter(jax.random.split(key, 4 + 4 * num_layers))
    residual = 1.0 / math.sqrt(2 * num_layers)

    def layer() -> dict[str, Array]:
        return {
            "qkv": normal(next(keys), (width, 3 * width), 1.0 / math.sqrt(width)),
            "attended": normal(next(keys), (width, width), residual / math.sqrt(width)),
            "up": normal(next(keys), (width, mlp_ratio * width), math.sqrt(2.0 / width)),
            "up_bias": jnp.zeros(mlp_ratio * width),
            "down": normal(
                next(keys), (mlp_ratio * width, width), residual / math.sqrt(mlp_ratio * width)
            ),
            "scale": jnp.ones((2, width)),
        }

    return {
        "embedding": normal(next(keys), (num_tokens + 1, width), EMBEDDING_SCALE),
        "prompt_position": normal(next(keys), (prompt_length, width), EMBEDDING_SCALE),
        "output_position": normal(next(keys), (max_tokens, width), EMBEDDING_SCALE),
        "layers": [layer() for _ in range(num_layers)],
        "scale": jnp.ones(width),
        "head": normal(next(keys), (width, num_tokens), 0.01),
        "head_bias": jnp.zeros(num_tokens),
    }


def _run_layers(
    num_heads: int, params: Params, x: Array, cache: Cache, place: Callable, mask: Array
) -> tuple[tuple[KeysAndValues, ...], Array]:
    """The layers on `[N, Q, D]`; `place` says which keys and values there then are."""
    stored = []
    for layer, prompt, output in zip(params["layers"], cache.prompt, cache.output, strict=True):
        query, *new = _project(layer, x)
        keys, values = (place(old, added) for old, added in zip(output, new, strict=True))
        sources: list[tuple[Array, Array, Array | None]] = [(keys, values, mask)]
        if prompt[0].shape[1]:
            sources.append((*prompt, None))
        x = _finish(layer, x, _attend(query, sources, num_heads))
        stored.append((keys, values))
    logits = product(_normalise(x, params["scale"]), params["head"]) + params["head_bias"]
    return tuple(stored), logits


def _embed(params: Params, tokens: Array) -> Array:
    return product(one_hot(tokens, params["embedding"].shape[0] - 1), params["embedding"])


def _project(layer: dict[str, Array], x: Array) -> list[Array]:
    """Queries, keys and values, `[..., D]`."""
    return jnp.split(product(_normalise(x, layer["scale"][0]), layer["qkv"]), 3, axis=-1)


def _finish(layer: dict[str, Array], x: Array, attended: Array) -> Array:
    """What follows attention in a layer."""
    x = x + product(attended, layer["attended"])
    up = jax.nn.relu(product(_normalise(x, layer["scale"][1]), layer["up"]) + layer["up_bias"])
    return x + product(up, layer["down"])


def _normalise(x: Array, scale: Array) -> Array:
    """Root-mean-square normalisation (Zhang & Sennrich 2019)."""
    return x * (scale * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6))


def _attend(
    query: Array, sources: Sequence[tuple[Array, Array, Array | None]], num_heads: int
) -> Array:
    """Attention of queries `[N, Q, D]` to keys and values from several places at once.

    Args:
        sources: keys and values `[M, K, D]`, where M divides N and N/M neighbours share them, and
            which keys each query may see, bool `[..., Q, K]`, or None for all.
    """
    size, num_queries, width = query.shape
    scale = 1.0 / math.sqrt(width // num_heads)

    def heads(x: Array, groups: int) -> Array:
        return jnp.reshape(x, (groups, -1, num_heads, x.shape[-1] // num_heads))

    scores = []
    for keys, _, mask in sources:
        groups, num_keys = keys.shape[:2]
        score = jnp.einsum("mqhd,mkhd->mqhk", heads(scale * query, groups), heads(keys, groups))
        score = jnp.reshape(score, (size, num_queries, num_heads, num_keys))
        scores.append(score if mask is None else jnp.where(mask[..., None, :], score, -1e9))
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    ends = [values.shape[1] for _, values, _ in sources[:-1]]
    attended = jnp.zeros(())
    parts = jnp.split(weights, ends, axis=-1)
    for part, (_, values, _) in zip(parts, sources, strict=True):
        groups, num_keys = values.shape[:2]
        weight = jnp.reshape(part, (groups, -1, num_heads, num_keys))
        seen = jnp.einsum("mqhk,mkhd->mqhd", weight, heads(values, groups))
        attended = attended + jnp.reshape(seen, query.shape)
    return attended
