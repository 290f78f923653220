"""A GRU that reads the prompt token by token, then each token it emitted."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

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


class Memory(NamedTuple):
    """What a GRU remembers."""

    hidden: Array
    """`[N, D]`."""
    position: Array
    """Tokens emitted, int32 `[N]`."""


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
            "inputs": normal(inputs, (num_tokens + 1, 3 * width), 1.0),
            "bias": jnp.zeros(3 * width),
            "recurrent": normal(recurrent, (width, 3 * width), 1.0 / math.sqrt(width)),
            "candidate_bias": jnp.zeros(width),
            "head": normal(head, (width, num_tokens), 0.01),
            "head_bias": jnp.zeros(num_tokens),
        }

    def look_up(params: Params, tokens: Array) -> Array:
        return product(one_hot(tokens, num_tokens), params["inputs"]) + params["bias"]

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
        return Categorical(product(hidden, params["head"]) + params["head_bias"])

    def read(params: Params, obs: Array, group_size: int) -> Memory:
        prompt = obs[::group_size, :prompt_length]
        hidden, _ = scan(params, jnp.zeros((prompt.shape[0], width)), prompt.T)
        position = jnp.zeros(obs.shape[0], jnp.int32)
        return Memory(jnp.repeat(hidden, group_size, axis=0), position)

    def advance(params: Params, memory: Memory, obs: Array) -> tuple[Memory, Categorical]:
        inputs = look_up(params, latest(obs, memory.position, shape))
        hidden = remember(params, memory.hidden, inputs)
        return Memory(hidden, memory.position + 1), decide(params, hidden)

    def unroll(params: Params, memory: Memory, obs: Array) -> Categorical:
        return decide(params, scan(params, memory.hidden, fed(obs, shape).T)[1])

    return reading_policy(env, init, read, advance, unroll)
