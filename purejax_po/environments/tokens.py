"""Token tasks with verifiable rewards: the smallest relatives of training a language model.

An episode is one output: the observation holds the prompt and what was emitted so far, an action is
a token, and the only reward comes with the end token, or with the last token that fits.

Importing this module imports gymnax, which takes seconds.
"""

import copy

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from purejax_po.checks import check_count
from purejax_po.types import Action, Array, Info, Key

END = 0
"""The token that ends an output; the symbols follow it."""
NONE = -1
"""What stands where there is no token yet."""
MAX_TOKENS = 16


@struct.dataclass
class EnvState(environment.EnvState):
    """The prompt and what was emitted so far, int32 `[P + T]`; `time` counts the latter."""

    tokens: Array


@struct.dataclass(kw_only=True)
class EnvParams(environment.EnvParams):
    """What an exact output earns besides its share of right tokens, and the time limit."""

    exact_bonus: float = 1.0
    max_steps_in_episode: int = 8


class TokenTask(environment.Environment[EnvState, EnvParams]):
    """A task of P prompt tokens and outputs of up to T tokens, the end token included.

    A subclass says how prompts are drawn (`draw`) and what an output is worth (`score`).

    Args:
        task: the part of the id behind `tokens/`.
        prompt_length: P, tokens of every prompt; may be 0.
        max_tokens: T, the longest output.
        num_tokens: V, size of the vocabulary, the end token included.
        context: the longest prompt and output together; P + T if it is not given, and if it is
            shorter, outputs have that much less room.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """

    def __init__(
        self,
        task: str,
        prompt_length: int,
        max_tokens: int,
        num_tokens: int,
        context: int | None = None,
    ):
        super().__init__()
        if num_tokens < 2:
            raise ValueError(
                "vocabulary must hold the end token and a symbol at least, "
                f"got {num_tokens} tokens for tokens/{task}"
            )
        if num_tokens > MAX_TOKENS:
            raise ValueError(
                f"vocabulary must be at most {MAX_TOKENS} tokens, the end token included, "
                f"got {num_tokens} for tokens/{task}"
            )
        if context is not None:
            check_count("context", context)
            if context <= prompt_length:
                raise ValueError(
                    f"context must be more than the prompt's {prompt_length} tokens, got {context}"
                )
            max_tokens = min(max_tokens, context - prompt_length)
        self.task = task
        self.prompt_length = prompt_length
        self.max_tokens = max_tokens
        self.num_tokens = num_tokens
        self.end_token = END
        self.pays_exact_match = False

    def exact_match(self) -> "TokenTask":
        """The same task, whose return is 1 for an exact output and else 0: what evaluations show.

        A task whose outputs are never exact returns itself.
        """
        task = copy.copy(self)
        task.pays_exact_match = True
        return task

    def draw(self, key: Key) -> Array:
        """A prompt, int32 `[P]`."""
        raise NotImplementedError

    def score(self, prompt: Array, output: Array) -> tuple[Array, Array]:
        """Share of right tokens in [0, 1], and whether the output is exact.

        Args:
            prompt: `[P]`.
            output: `[T]`, `NONE` behind the last token.
        """
        raise NotImplementedError

    @property
    def default_params(self) -> EnvParams:
        """A limit of T tokens."""
        return EnvParams(max_steps_in_episode=self.max_tokens)  # type: ignore[call-arg]

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Array, EnvState, Array, Array, Info]:
        """Emit one token."""
        here = jnp.arange(state.tokens.shape[0]) == self.prompt_length + state.time
        tokens = jnp.where(here, jnp.asarray(action, jnp.int32), state.tokens)
        state = EnvState(tokens=tokens, time=state.time + 1)
        terminated = (action == END) | (state.time >= self.max_tokens)
        right, exact = self.score(tokens[: self.prompt_length], tokens[self.prompt_length :])
        worth = right + params.exact_bonus * exact
        worth = jnp.asarray(exact, worth.dtype) if self.pays_exact_match else worth
        reward = jnp.where(terminated, worth, 0.0)
        return state.tokens, state, reward, terminated, {}

    def reset_env(self, key: Key, params: EnvParams) -> tuple[Array, EnvState]:
        """Start with a prompt."""
        nothing = jnp.full(self.max_tokens, NONE, jnp.int32)
        tokens = jnp.concatenate([self.draw(key), nothing])
        return tokens, EnvState(tokens=tokens, time=jnp.int32(0))

    def observe(self, key: Key, state: EnvState, action: Action, params: EnvParams) -> Array:
        """Everything: the prompt and what was emitted, int32 `[P + T]`."""
        return state.tokens

    @property
    def name(self) -> str:
        """The environment's id."""
        return f"tokens/{self.task}"

    @property
    def num_actions(self) -> int:
        """Size of the vocabulary."""
        return self.num_tokens

    def action_space(self, params: EnvParams | None = None) -> spaces.Discrete:
        """A token: 0 ends the output."""
        return spaces.Discrete(self.num_tokens)

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """Tokens, −1 where there is none yet, `[P + T]`."""
        shape = (self.prompt_length + self.max_tokens,)
        return spaces.Box(NONE, self.num_tokens - 1, shape, dtype=jnp.int32)


class AnswerTask(TokenTask):
    """A task with one right output for each prompt."""

    def answer(self, prompt: Array) -> Array:
        """The right output, int32, the end token included."""
        raise NotImplementedError

    def score(self, prompt: Array, output: Array) -> tuple[Array, Array]:
        """Compare with the answer, token by token."""
        answer = self.answer(prompt)
        right = output[: answer.shape[0]] == answer[: output.shape[0]]
        whole = output.shape[0] >= answer.shape[0]
        share = jnp.sum(right) / answer.shape[0]
        return share, jnp.all(right) & whole


class _Rewrite(AnswerTask):
    """L symbols out of S, to be written in another order."""

    def __init__(self, task: str, length: int, symbols: int, context: int | None):
        check_count("length", length)
        check_count("symbols", symbols, minimum=0)
        super().__init__(task, length, length + 1, symbols + 1, context)

    def draw(self, key: Key) -> Array:
        return _draw_symbols(key, self.prompt_length, self.num_tokens - 1)

    def rewrite(self, prompt: Array) -> Array:
        raise NotImplementedError

    def answer(self, prompt: Array) -> Array:
        return _ended(self.rewrite(prompt))


class Copy(_Rewrite):
    """Repeat the prompt.

    Args:
        length: L, symbols of the prompt.
        symbols: S, symbols of the vocabulary.
        context: see `TokenTask`.
    """

    def __init__(self, length: int = 6, symbols: int = 8, context: int | None = None):
        super().__init__("copy", length, symbols, context)

    def rewrite(self, prompt: Array) -> Array:
        """As it is."""
        return prompt


class Reverse(_Rewrite):
    """Write the prompt backwards; arguments as `Copy`."""

    def __init__(self, length: int = 6, symbols: int = 8, context: int | None = None):
        super().__init__("reverse", length, symbols, context)

    def rewrite(self, prompt: Array) -> Array:
        """Backwards."""
        return prompt[::-1]


class Sort(_Rewrite):
    """Write the prompt's symbols in ascending order; arguments as `Copy`."""

    def __init__(self, length: int = 6, symbols: int = 8, context: int | None = None):
        super().__init__("sort", length, symbols, context)

    def rewrite(self, prompt: Array) -> Array:
        """In ascending order."""
        return jnp.sort(prompt)


class Addition(AnswerTask):
    """a and b are the prompt, (a + b) mod m is the answer: the digit d is token d + 1.

    Args:
        modulus: m.
    """

    def __init__(self, modulus: int = 10):
        check_count("modulus", modulus)
        super().__init__("addition", 2, 2, modulus + 1)

    def draw(self, key: Key) -> Array:
        """Two digits."""
        return _draw_symbols(key, 2, self.num_tokens - 1)

    def answer(self, prompt: Array) -> Array:
        """Their sum, modulo m."""
        total = jnp.sum(prompt - 1, keepdims=True) % (self.num_tokens - 1)
        return _ended(total + 1)


class Parity(AnswerTask):
    """Whether the second symbol stands an odd number of times (answer 2) in L bits, or not (1).

    Args:
        length: L, bits of the prompt.
    """

    def __init__(self, length: int = 4):
        check_count("length", length)
        super().__init__("parity", length, 2, 3)

    def draw(self, key: Key) -> Array:
        """L bits, written as tokens 1 and 2."""
        return _draw_symbols(key, self.prompt_length, 2)

    def answer(self, prompt: Array) -> Array:
        """Their parity, written likewise."""
        return _ended(jnp.sum(prompt - 1, keepdims=True) % 2 + 1)


class Brackets(TokenTask):
    """Balance the brackets (token 1 opens, 2 closes) that L prompt tokens left open.

    Every balanced continuation is exact. Others earn the less the more brackets stay open, and
    nothing once one closes that was not open.

    Args:
        length: L, tokens of the prompt.
    """

    def __init__(self, length: int = 5):
        check_count("length", length)
        super().__init__("brackets", length, length + 1, 3)

    def draw(self, key: Key) -> Array:
        """A random walk of the depth that never falls below zero."""
        opens = jax.random.bernoulli(key, 0.5, (self.prompt_length,))

        def step(depth: Array, opens: Array) -> tuple[Array, Array]:
            opens = opens | (depth == 0)
            return depth + jnp.where(opens, 1, -1), jnp.where(opens, 1, 2)

        return jax.lax.scan(step, jnp.int32(0), opens)[1]

    def score(self, prompt: Array, output: Array) -> tuple[Array, Array]:
        """1 − open brackets / the most there can be; 0 if one closes that was not open."""
        tokens = jnp.concatenate([prompt, output])
        depth = jnp.cumsum((tokens == 1).astype(jnp.int32) - (tokens == 2))
        valid = jnp.all(depth >= 0)
        share = jnp.where(valid, 1.0 - depth[-1] / tokens.shape[0], 0.0)
        return share, valid & (depth[-1] == 0) & jnp.any(output == END)


class Length(TokenTask):
    """Emit k tokens, whichever, then end: k ≤ K is the prompt. All or nothing.

    Args:
        longest: K.
        room: T, tokens that an output may have, the end token included; 2K by default.
    """

    def __init__(self, longest: int = 8, room: int = 0):
        check_count("longest", longest)
        check_count("room", room, minimum=0)
        room = room or 2 * longest
        if room <= longest:
            raise ValueError(f"room must be more than the longest output {longest}, got {room}")
        super().__init__("length", 1, room, longest + 1)

    def draw(self, key: Key) -> Array:
        """The number of tokens."""
        return _draw_symbols(key, 1, self.num_tokens - 1)

    def score(self, prompt: Array, output: Array) -> tuple[Array, Array]:
        """Whether the end token stands behind k others."""
        symbols = jnp.sum(output > END)
        return jnp.float32(0.0), (symbols == prompt[0]) & jnp.any(output == END)


class Needle(TokenTask):
    """One output out of very many is right, and nothing tells which: most groups have no spread.

    Args:
        length: tokens of the right output before its end.
        symbols: symbols of the vocabulary.
    """

    def __init__(self, length: int = 3, symbols: int = 4):
        check_count("length", length)
        check_count("symbols", symbols)
        super().__init__("needle", 0, length + 1, symbols + 1)

    def draw(self, key: Key) -> Array:
        """Nothing."""
        return jnp.zeros(0, jnp.int32)

    def score(self, prompt: Array, output: Array) -> tuple[Array, Array]:
        """Whether it is the needle: symbols 1, 2, … in turn."""
        symbols = self.num_tokens - 1
        needle = _ended(jnp.arange(self.max_tokens - 1, dtype=jnp.int32) % symbols + 1)
        return jnp.float32(0.0), jnp.all(output == needle)


class TwoTokens(TokenTask):
    """Two prompts, outputs of at most two tokens out of three: small enough to enumerate.

    The seven outputs of a prompt earn 0, ¼, ½, ¾ or 1; none is exact, so that evaluations show
    what they earn.
    """

    def __init__(self):
        super().__init__("two", 1, 2, 3)

    def exact_match(self) -> "TwoTokens":
        """Itself."""
        return self

    def draw(self, key: Key) -> Array:
        """Symbol 1 or 2."""
        return _draw_symbols(key, 1, 2)

    def score(self, prompt: Array, output: Array) -> tuple[Array, Array]:
        """An arbitrary table."""
        number = (output[0] + 1) + 2 * (output[1] + 1) + 3 * prompt[0]
        return (number % 5) / 4.0, jnp.bool_(False)


def _draw_symbols(key: Key, length: int, symbols: int) -> Array:
    """Symbols 1 … S with replacement: a uniform number for each, and no modulus to bias it."""
    uniform = jax.random.uniform(key, (length,))
    return 1 + jnp.floor(uniform * symbols).astype(jnp.int32)


def _ended(symbols: Array) -> Array:
    return jnp.concatenate([symbols.astype(jnp.int32), jnp.full(1, END, jnp.int32)])
