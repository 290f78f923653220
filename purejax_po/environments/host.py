"""Environments that live in Python, beside the programs that step them."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jax.typing import DTypeLike

HostAction = np.ndarray | tuple[np.ndarray, ...]
"""One action, or a tuple of its parts."""


class HostEnv(Protocol):
    """An environment of Gymnasium's API."""

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, object]]:
        """Begin an episode: `(obs, info)`."""
        ...

    def step(
        self, action: HostAction, /
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        """Make a step: `(obs, reward, terminated, truncated, info)`."""
        ...


FEWEST = 1024
"""Environments that are kept at least."""


HANDLE = 3
"""Numbers by which a state knows its environment: which one, steps seen of it, and its seed."""


class _One:
    """An environment and how many steps it has made."""

    def __init__(self, env: HostEnv) -> None:
        self.env, self.tick = env, 0


class Host:
    """Environments by number, each with a generator of its own.

    A reset takes a new one. Nobody says when one is no longer needed: with more than `FEWEST`, or
    than four times the most that were ever called at once, those that were not stepped for longest
    are taken again.

    Args:
        make: makes an environment with Gymnasium's `reset` and `step`.
        shape, dtype: of an observation.
    """

    def __init__(
        self, make: Callable[[], HostEnv], shape: tuple[int, ...], dtype: DTypeLike
    ) -> None:
        self._make, self._shape, self._dtype = make, shape, dtype
        self._lock = threading.Lock()  # a program for each device calls from a thread of its own
        self._alive: OrderedDict[int, _One] = OrderedDict()
        # So that a stored state never meets another environment under its number.
        self._next, self._most = secrets.randbelow(2**31), FEWEST

    def __len__(self) -> int:
        """Environments that are kept."""
        return len(self._alive)

    def begin(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Begin an episode for each key, `words` `[B, 2]`.

        Returns:
            Observations `[B, *shape]` and the environments' handles `[B, 3]`.
        """
        with self._lock:
            self._most = max(self._most, 4 * len(words))
            found = [self._begin(_seed(row)) for row in words]
        return self._stacked([obs for obs, _ in found]), _handles([handle for _, handle in found])

    def advance(
        self,
        words: np.ndarray,
        handles: np.ndarray,
        is_last: np.ndarray,
        obs: np.ndarray,
        actions: np.ndarray | tuple[np.ndarray, ...],
    ) -> tuple[np.ndarray, ...]:
        """Step each environment, and reset where an episode ends.

        Args:
            words: keys `[B, 2]`, for environments that are no longer there.
            handles: `[B, 3]`; several may be equal right after a reset, and begin alike.
            is_last: `[B]`, the time limit is reached by this step.
            obs: `[B, *shape]`, what the caller saw last.
            actions: `[B, ...]`, or a tuple of such.

        Returns:
            Observation, true successor, reward, terminated, truncated, and the handle from now on.
        """
        rows = []
        with self._lock:
            self._most = max(self._most, 4 * len(handles))
            for i, handle in enumerate(handles.tolist()):
                if (found := self._find(*handle)) is None:  # cut here, without a reward
                    next_obs, new = self._begin(_seed(words[i]))
                    rows.append((next_obs, obs[i], 0.0, False, True, new))
                    continue
                one, slot = found
                several = isinstance(actions, tuple)
                action = tuple(x[i] for x in actions) if several else actions[i]
                rows.append((*_step(one, action, is_last[i]), (slot, one.tick, handle[2])))
        next_obs, final, reward, terminated, truncated, after = zip(*rows, strict=True)
        return (
            self._stacked(next_obs),
            self._stacked(final),
            np.array(reward, np.float32),
            np.array(terminated, np.bool_),
            np.array(truncated, np.bool_),
            _handles(after),
        )

    def _begin(self, seed: int) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Take an environment that nobody steps: its first observation, and its handle."""
        is_full = len(self._alive) >= self._most
        env = self._alive.popitem(last=False)[1].env if is_full else self._make()
        slot, self._next = self._next, (self._next + 1) % 2**31
        self._alive[slot] = _One(env)
        return env.reset(seed=seed)[0], (slot, 0, seed)

    def _find(self, slot: int, tick: int, seed: int) -> tuple[_One, int] | None:
        """The environment of a handle, and its number, unless it is lost."""
        one = self._alive.get(slot)
        if one is None or one.tick != tick:
            if tick > 0:
                return None
            slot = self._begin(seed)[1][0]  # its first state follows from its seed
        self._alive.move_to_end(slot)
        return self._alive[slot], slot

    def _stacked(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        return np.array(rows, self._dtype).reshape(-1, *self._shape)


def _step(
    one: _One, action: HostAction, is_last: np.bool_
) -> tuple[np.ndarray, np.ndarray, float, bool, bool]:
    """Step one environment: observation, true successor, reward, terminated, truncated."""
    one.tick += 1
    final, reward, terminated, truncated, _ = one.env.step(action)
    truncated = truncated or bool(is_last)
    if not (terminated or truncated):
        return final, final, reward, terminated, truncated
    final = np.array(final)  # a reset may write into the same memory
    return one.env.reset()[0], final, reward, terminated, truncated


def _seed(words: np.ndarray) -> int:
    """A seed for Gymnasium out of a key, below 2³¹."""
    return int(np.random.SeedSequence(words.tolist()).generate_state(1)[0]) >> 1


def _handles(rows: Sequence[tuple[int, int, int]]) -> np.ndarray:
    return np.array(rows, np.int32).reshape(-1, HANDLE)
