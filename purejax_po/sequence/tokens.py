"""What policies on token tasks share: the task's shape, a prompt that is read once, lookups."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from purejax_po.checks import check_count, check_is_env
from purejax_po.distributions import Categorical
from purejax_po.types import Array, Environment, Key, Params, Policy, Prompt

Remembered = TypeVar("Remembered")
"""What a policy carries from step to step."""


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


def reading_policy(
    env: Environment,
    init: Callable[[Key], Params],
    read: Callable[[Params, Array, int], Remembered],
    advance: Callable[[Params, Remembered, Array], tuple[Remembered, Categorical]],
    unroll: Callable[[Params, Remembered, Array], Categorical],
) -> Policy:
    """A policy that reads a prompt wherever an episode starts.

    Args:
        read: as `Prompt.read`.
        advance: one step behind the prompt, `(params, carry, obs [N, ...])`.
        unroll: all steps behind the prompt, `(params, carry, obs [T, N, ...])`.
    """
    shape = env.observation_space(env.default_params).shape

    def initial_carry(num_envs: int) -> Remembered:
        def read_anything() -> Remembered:
            return read(init(jax.random.key(0)), jnp.zeros((num_envs, *shape), jnp.int32), 1)

        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(read_anything))

    def step(
        params: Params, carry: Remembered, obs: Array, start: Array
    ) -> tuple[Remembered, Categorical]:
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


def latest(obs: Array, position: Array, shape: tuple[int, int, int]) -> Array:
    """The token emitted last, −1 before the first, `[N]`."""
    prompt_length, max_tokens, _ = shape
    here = jnp.arange(max_tokens) == position[:, None] - 1
    return jnp.sum(jnp.where(here, obs[:, prompt_length:] + 1, 0), axis=-1) - 1


def fed(obs: Array, shape: tuple[int, int, int]) -> Array:
    """The tokens that the steps of a rollout `[T, N, ...]` are fed: −1, then those emitted."""
    prompt_length, _, _ = shape
    length, size = obs.shape[:2]
    emitted = [obs[t, :, prompt_length + t - 1] for t in range(1, length)]
    return jnp.stack([jnp.full(size, -1, obs.dtype), *emitted], axis=1)


def one_hot(tokens: Array, num_tokens: int) -> Array:
    """Of tokens −1 … V−1, `[..., V + 1]`."""
    return jax.nn.one_hot(tokens + 1, num_tokens + 1)


def normal(key: Key, shape: tuple[int, ...], scale: float) -> Array:
    """Normal numbers around 0 with a standard deviation of `scale`."""
    return scale * jax.random.normal(key, shape)


def product(x: Array, matrix: Array) -> Array:
    """Of `[..., D]` and `[D, E]`: a product of matrices, and so are its gradients."""
    flat = jnp.reshape(x, (-1, x.shape[-1])) @ matrix
    return jnp.reshape(flat, (*x.shape[:-1], matrix.shape[-1]))
