"""Sequence policies for token tasks: a causal transformer and a GRU that read a prompt once.

Both take the observations of `environments.tokens`: P prompt tokens and T places for the output. A
step feeds the latest token alone to a cache of what came before; `unroll` sees all tokens of an
output at once, and both give the same distributions. Neighbours with one prompt share its cache.

Plain functions over dictionaries of arrays: tokens are looked up and laid down by products with
one-hot vectors, whose transposes are products again, and no scatter.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejax_po.checks import check_count, check_is_env
from purejax_po.distributions import Categorical
from purejax_po.types import Array, Environment, EnvParams, Key, Params, Policy, Prompt

KeysAndValues = tuple[Array, Array]


class Cache(NamedTuple):
    """What a transformer remembers: keys and values of each layer, and where it stands."""

    prompt: tuple[KeysAndValues, ...]
    """`[N / group_size, P, D]` each."""
    output: tuple[KeysAndValues, ...]
    """`[N, T, D]` each, zero behind the latest token."""
    position: Array
    """Tokens emitted, int32 `[N]`."""


class Memory(NamedTuple):
    """What a GRU remembers."""

    hidden: Array
    """`[N, D]`."""
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
        x = _embed(params, _latest(obs, cache.position, shape)) + here @ params["output_position"]
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
        x = _embed(params, _fed(obs, shape)) + params["output_position"][:length]
        mask = jnp.tri(length, dtype=bool)
        _, logits = run(params, x, cache, lambda old, new: new, mask)
        return Categorical(jnp.swapaxes(logits, 0, 1))

    return _reading_policy(env, init, read, advance, unroll)


def gru_policy(env: Environment, env_params: EnvParams, *, hidden: Sequence[int] = (32,)) -> Policy:
    """Return a GRU that reads the prompt token by token, then each token it emitted.

    Args:
        env, env_params: a token task.
        hidden: the width of the one layer.

    Raises:
        ValueError: naming what the environment or the argument has to be.

    Source: Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder, section 2.3.
    """
    shape = check_token_task(env)
    check_layers(hidden, 1)
    if len(hidden) != 1:
        raise ValueError(f"hidden must name one width for a GRU on tokens, got {tuple(hidden)}")
    (width,) = hidden
    prompt_length, _, num_tokens = shape

    def init(key: Key) -> Params:
        inputs, recurrent, head = jax.random.split(key, 3)
        return {
            "inputs": _normal(inputs, (num_tokens + 1, 3 * width), 1.0),
            "bias": jnp.zeros(3 * width),
            "recurrent": _normal(recurrent, (width, 3 * width), 1.0 / math.sqrt(width)),
            "candidate_bias": jnp.zeros(width),
            "head": _normal(head, (width, num_tokens), 0.01),
            "head_bias": jnp.zeros(num_tokens),
        }

    def look_up(params: Params, tokens: Array) -> Array:
        return _product(_one_hot(tokens, num_tokens), params["inputs"]) + params["bias"]

    def remember(params: Params, hidden: Array, inputs: Array) -> Array:
        """One step on `[N, D]`, given what the gates make of the token, `[N, 3 D]`."""
        of_memory = jnp.split(hidden @ params["recurrent"], 3, axis=-1)
        of_token = jnp.split(inputs, 3, axis=-1)
        reset = jax.nn.sigmoid(of_token[0] + of_memory[0])
        keep = jax.nn.sigmoid(of_token[1] + of_memory[1])
        candidate = jnp.tanh(of_token[2] + reset * (of_memory[2] + params["candidate_bias"]))
        return (1.0 - keep) * candidate + keep * hidden

    def scan(params: Params, hidden: Array, tokens: Array) -> tuple[Array, Array]:
        """Memory behind the last of the tokens `[Q, N]`, and behind each."""

        def step(hidden: Array, inputs: Array) -> tuple[Array, Array]:
            hidden = remember(params, hidden, inputs)
            return hidden, hidden

        return jax.lax.scan(step, hidden, look_up(params, tokens))

    def decide(params: Params, hidden: Array) -> Categorical:
        return Categorical(_product(hidden, params["head"]) + params["head_bias"])

    def read(params: Params, obs: Array, group_size: int) -> Memory:
        prompt = obs[::group_size, :prompt_length]
        hidden, _ = scan(params, jnp.zeros((prompt.shape[0], width)), prompt.T)
        position = jnp.zeros(obs.shape[0], jnp.int32)
        return Memory(jnp.repeat(hidden, group_size, axis=0), position)

    def advance(params: Params, memory: Memory, obs: Array) -> tuple[Memory, Categorical]:
        inputs = look_up(params, _latest(obs, memory.position, shape))
        hidden = remember(params, memory.hidden, inputs)
        return Memory(hidden, memory.position + 1), decide(params, hidden)

    def unroll(params: Params, memory: Memory, obs: Array) -> Categorical:
        return decide(params, scan(params, memory.hidden, _fed(obs, shape).T)[1])

    return _reading_policy(env, init, read, advance, unroll)


def check_token_task(env: Environment) -> tuple[int, int, int]:
    """Return prompt length, longest output and vocabulary of a token task.

    Raises:
        ValueError: if it is none, or its vocabulary has no end token.
    """
    check_is_env(env)
    found = [getattr(env, n, None) for n in ("prompt_length", "max_tokens", "num_tokens")]
    if any(x is None for x in found):
        raise ValueError(
            f"a sequence policy needs a token task such as tokens/copy, got "
            f"{getattr(env, 'name', type(env).__name__)}"
        )
    prompt_length, max_tokens, num_tokens = found
    end = getattr(env, "end_token", None)
    if end is None or not 0 <= end < num_tokens:
        raise ValueError(f"the vocabulary of {env.name} must have an end token, got {end}")
    context = env.observation_space(env.default_params).shape[0]
    if prompt_length >= context:
        raise ValueError(
            f"prompts must be shorter than the context of {context} tokens, got {prompt_length}"
        )
    return prompt_length, max_tokens, num_tokens  # type: ignore[return-value]


def check_layers(hidden: Sequence[int], num_heads: int) -> int:
    """Return the width of a sequence policy.

    Raises:
        ValueError: unless `hidden` repeats one width, and the heads divide it.
    """
    check_count("num_heads", num_heads)
    for width in hidden:
        check_count("hidden", width)
    if len(set(hidden)) != 1:
        raise ValueError(
            f"hidden must be one width, once for every layer of a sequence policy, "
            f"got {tuple(hidden)}"
        )
    if hidden[0] % num_heads:
        raise ValueError(f"num_heads must divide the width {hidden[0]}, got {num_heads}")
    return hidden[0]


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
            "qkv": _normal(next(keys), (width, 3 * width), 1.0 / math.sqrt(width)),
            "attended": _normal(next(keys), (width, width), residual / math.sqrt(width)),
            "up": _normal(next(keys), (width, mlp_ratio * width), math.sqrt(2.0 / width)),
            "up_bias": jnp.zeros(mlp_ratio * width),
            "down": _normal(
                next(keys), (mlp_ratio * width, width), residual / math.sqrt(mlp_ratio * width)
            ),
            "scale": jnp.ones((2, width)),
        }

    return {
        "embedding": _normal(next(keys), (num_tokens + 1, width), EMBEDDING_SCALE),
        "prompt_position": _normal(next(keys), (prompt_length, width), EMBEDDING_SCALE),
        "output_position": _normal(next(keys), (max_tokens, width), EMBEDDING_SCALE),
        "layers": [layer() for _ in range(num_layers)],
        "scale": jnp.ones(width),
        "head": _normal(next(keys), (width, num_tokens), 0.01),
        "head_bias": jnp.zeros(num_tokens),
    }


def _run_layers(
    num_heads: int, params: Params, x: Array, cache: Cache, place: Callable, mask: Array
) -> Any:
    """The layers on `[N, Q, D]`; `place` says which keys and values there then are."""
    stored = []
    for layer, prompt, output in zip(params["layers"], cache.prompt, cache.output, strict=True):
        query, *new = _project(layer, x)
        keys, values = (place(old, added) for old, added in zip(output, new, strict=True))
        sources: list[Any] = [(keys, values, mask)]
        if prompt[0].shape[1]:
            sources.append((*prompt, None))
        x = _finish(layer, x, _attend(query, sources, num_heads))
        stored.append((keys, values))
    logits = _product(_normalise(x, params["scale"]), params["head"]) + params["head_bias"]
    return tuple(stored), logits


def _reading_policy(
    env: Environment,
    init: Callable[[Key], Params],
    read: Callable[[Params, Array, int], Any],
    advance: Callable[[Params, Any, Array], tuple[Any, Categorical]],
    unroll: Callable[[Params, Any, Array], Categorical],
) -> Policy:
    """A policy that reads a prompt wherever an episode starts.

    Args:
        read: as `Prompt.read`.
        advance: one step behind the prompt, `(params, carry, obs [N, ...])`.
        unroll: all steps behind the prompt, `(params, carry, obs [T, N, ...])`.
    """
    shape = env.observation_space(env.default_params).shape

    def initial_carry(num_envs: int) -> Any:
        def read_anything() -> Any:
            return read(init(jax.random.key(0)), jnp.zeros((num_envs, *shape), jnp.int32), 1)

        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(read_anything))

    def step(params: Params, carry: Any, obs: Array, start: Array) -> Any:
        fresh = read(params, obs, 1)
        carry = jax.tree.map(
            lambda new, old: jnp.where(jnp.expand_dims(start, range(1, new.ndim)), new, old),
            fresh,
            carry,
        )
        return advance(params, carry, obs)

    go_on = Policy(
        init,
        initial_carry,
        lambda params, carry, obs, start: advance(params, carry, obs),
        lambda params, carry, obs, start: unroll(params, carry, obs),
        memoryless=False,
    )
    return Policy(
        init,
        initial_carry,
        step,
        lambda params, carry, obs, start: unroll(params, read(params, obs[0], 1), obs),
        memoryless=False,
        prompt=Prompt(read, go_on),
    )


def _latest(obs: Array, position: Array, shape: tuple[int, int, int]) -> Array:
    """The token emitted last, −1 before the first, `[N]`."""
    prompt_length, max_tokens, _ = shape
    here = jnp.arange(max_tokens) == position[:, None] - 1
    return jnp.sum(jnp.where(here, obs[:, prompt_length:] + 1, 0), axis=-1) - 1


def _fed(obs: Array, shape: tuple[int, int, int]) -> Array:
    """The tokens that the steps of a rollout `[T, N, ...]` are fed: −1, then those emitted."""
    prompt_length, _, _ = shape
    length, size = obs.shape[:2]
    emitted = [obs[t, :, prompt_length + t - 1] for t in range(1, length)]
    return jnp.stack([jnp.full(size, -1, obs.dtype), *emitted], axis=1)


def _one_hot(tokens: Array, num_tokens: int) -> Array:
    """Of tokens −1 … V−1, `[..., V + 1]`."""
    return jax.nn.one_hot(tokens + 1, num_tokens + 1)


def _embed(params: Params, tokens: Array) -> Array:
    return _product(_one_hot(tokens, params["embedding"].shape[0] - 1), params["embedding"])


def _project(layer: dict[str, Array], x: Array) -> list[Array]:
    """Queries, keys and values, `[..., D]`."""
    return jnp.split(_product(_normalise(x, layer["scale"][0]), layer["qkv"]), 3, axis=-1)


def _finish(layer: dict[str, Array], x: Array, attended: Array) -> Array:
    """What follows attention in a layer."""
    x = x + _product(attended, layer["attended"])
    up = jax.nn.relu(_product(_normalise(x, layer["scale"][1]), layer["up"]) + layer["up_bias"])
    return x + _product(up, layer["down"])


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


def _normal(key: Key, shape: tuple[int, ...], scale: float) -> Array:
    return scale * jax.random.normal(key, shape)


def _product(x: Array, matrix: Array) -> Array:
    """Of `[..., D]` and `[D, E]`: a product of matrices, and so are its gradients."""
    flat = jnp.reshape(x, (-1, x.shape[-1])) @ matrix
    return jnp.reshape(flat, (*x.shape[:-1], matrix.shape[-1]))
