"""Spaces of observations and actions: what kind each is, and how a policy's actions fit it.

Spaces are told apart here and nowhere else, by what they hold: gymnax's, gymnasium's and whatever
looks like them.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from purejax_po.distributions import (
    Categorical,
    DiagonalGaussian,
    Joint,
    Product,
    ScaledGaussian,
)
from purejax_po.types import Action, Array, Distribution, Space

Kind = Literal["discrete", "multi_discrete", "box", "tuple", "dictionary", "unknown"]

MOST_CHOICES = 1024
"""Values that one coordinate of an integer Box may have as an action."""
UNIT_ORDER = (0.25, 10.0)
"""A standard normal action suits bounds whose sizes lie between these; others are scaled to."""


class Choices(NamedTuple):
    """Independent discrete choices, one for each coordinate of a vector."""

    sizes: tuple[int, ...]
    """How many values each coordinate has."""
    starts: tuple[int, ...]
    """The smallest value of each."""


def kind(space: Space) -> Kind:
    """Tell what kind of space it is.

    `discrete`: one of n values; `multi_discrete`: a vector of such, bits and whole numbers within
    bounds included; `box`: an array of numbers; `tuple` and `dictionary`: of other spaces.

    Example:
        >>> import purejax_po as po
        >>> from purejax_po import spaces
        >>> env, env_params = po.make_env("CartPole-v1")
        >>> spaces.kind(env.action_space(env_params))
        'discrete'
    """
    parts = getattr(space, "spaces", None)
    if isinstance(parts, list | tuple):
        return "unknown" if type(space).__name__ == "OneOf" else "tuple"
    if parts is not None:
        return "dictionary"
    if hasattr(space, "nvec"):
        return "multi_discrete"
    if hasattr(space, "n"):
        return "multi_discrete" if tuple(getattr(space, "shape", None) or ()) else "discrete"
    return "box" if hasattr(space, "low") and hasattr(space, "high") else "unknown"


def check_not_empty(what: str, space: Space) -> None:
    """Raise `ValueError` for a space that holds no value: without choices, or of no numbers."""
    shape = tuple(getattr(space, "shape", None) or ())
    sizes = np.asarray(getattr(space, "nvec", getattr(space, "n", 1)))
    if (kind(space) != "tuple" and 0 in shape) or (sizes.dtype.kind in "iu" and (sizes < 1).any()):
        raise ValueError(f"{what} must have at least one value, got {space}")


def is_integer_box(space: Space) -> bool:
    """Whether a space is a Box of whole numbers."""
    dtype = getattr(space, "dtype", None)
    return kind(space) == "box" and dtype is not None and not jnp.issubdtype(dtype, jnp.floating)


def first_values(space: Space) -> Action:
    """The smallest value of a discrete action, or of each coordinate of several; 0 in a Box."""
    if kind(space) == "discrete":
        return start(space)
    factors = choices(space)
    return np.asarray(factors.starts) if factors is not None and any(factors.starts) else 0


def start(space: Space) -> int:
    """The smallest value of a discrete space; 0 unless it says otherwise."""
    return int(getattr(space, "start", 0))


def example(space: Space) -> Action:
    """An action of a space, as `to_space` brings one to it: zeros, or the first choices."""
    found = choices(space)
    if found is not None:
        action = jnp.asarray(found.starts, jnp.int32)
        return tuple(action) if kind(space) == "tuple" else action
    if kind(space) == "box":
        return jnp.zeros(tuple(space.shape))
    return jnp.int32(start(space))


def is_bounded(space: Space) -> bool:
    """Whether every bound of a Box is finite."""
    return bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())


def is_of_unit_order(space: Space) -> bool:
    """Whether a standard normal action suits a Box: each bound is of its order, on its own side.

    A bound that is not finite leaves room enough. See `UNIT_ORDER`.
    """
    low, high = np.asarray(space.low), np.asarray(space.high)
    least, most = UNIT_ORDER
    sizes = [np.where(np.isfinite(x), x, 1.0) for x in (-low, high)]
    return all(bool(((least <= x) & (x <= most)).all()) for x in sizes)


def choices(space: Space) -> Choices | None:
    """The coordinates of a space of several discrete choices; None for any other space.

    Raises:
        ValueError: for whole numbers without bounds, or with too many values.
    """
    if kind(space) == "tuple":
        parts = list(space.spaces)
        if not parts or any(kind(part) != "discrete" for part in parts):
            return None
        return Choices(tuple(int(p.n) for p in parts), tuple(map(start, parts)))
    if hasattr(space, "nvec"):
        sizes = np.asarray(space.nvec)
        starts = np.broadcast_to(np.asarray(getattr(space, "start", 0)), sizes.shape)
    elif kind(space) == "multi_discrete":
        sizes = np.full(tuple(space.shape), 2)
        starts = np.zeros_like(sizes)
    elif is_integer_box(space):
        if not is_bounded(space):
            raise ValueError(f"whole numbers as actions must have bounds, got {space}")
        shape = tuple(space.shape)
        low, high = (np.broadcast_to(np.asarray(x), shape) for x in (space.low, space.high))
        sizes, starts = high.astype(np.int64) - low.astype(np.int64) + 1, low.astype(np.int64)
        if sizes.max(initial=0) > MOST_CHOICES:
            raise ValueError(
                f"whole numbers as actions must have at most {MOST_CHOICES} values each, "
                f"got {space}"
            )
    else:
        return None
    if sizes.ndim != 1 or not sizes.size:
        raise ValueError(f"discrete actions must be one number or a vector of them, got {space}")
    return Choices(tuple(sizes.tolist()), tuple(np.asarray(starts).astype(int).tolist()))


def to_space(space: Space, action: Array, distribution: Distribution) -> Action:
    """Make policy actions executable: counted from the space's first value, or brought into a Box.

    The transition keeps the action as it was drawn, whose log-probability is known.

    Args:
        space: the environment's action space.
        action: `[..., *action_shape]`.
        distribution: what the actions come from; those of a `ScaledGaussian` or a `TanhGaussian`
            are brought into [−1, 1] and then mapped to the bounds of a Box, others are clipped.
    """
    found = kind(space)
    if found == "discrete":
        return action + start(space) if start(space) else action
    if found == "tuple":
        factors = choices(space)
        starts = factors.starts if factors is not None else (0,) * len(space.spaces)
        parts = [action[..., i] for i in range(len(starts))]
        return tuple(x + s if s else x for x, s in zip(parts, starts, strict=True))
    if (factors := choices(space)) is not None:
        return action + jnp.asarray(factors.starts, action.dtype) if any(factors.starts) else action
    if found == "box":
        if isinstance(distribution, ScaledGaussian):
            unit = 0.5 * (1.0 + distribution.squash(action))
            action = space.low + (space.high - space.low) * unit
        return jnp.clip(action, space.low, space.high)
    return action


def check_fit(env_name: str, space: Space, distribution: Distribution) -> None:
    """Check that a policy's actions are those of an action space; only shapes and dtypes matter.

    Args:
        env_name: for the message.
        space: the environment's action space.
        distribution: of one action, leaves as shapes and dtypes.

    Raises:
        ValueError: naming what the policy has and what the environment needs.
    """
    found, got = kind(space), _describe(distribution)
    if found == "box" and bool(np.any(np.asarray(space.low) > np.asarray(space.high))):
        raise ValueError(f"{env_name} must have actions with low ≤ high, got {space}")
    if found == "discrete":
        needed, fits = f"{int(space.n)} discrete actions", _sizes(distribution) == (int(space.n),)
        fits &= not isinstance(distribution, Product)
    elif (factors := choices(space)) is not None:
        needed = f"discrete actions of {', '.join(map(str, factors.sizes))} values"
        fits = _sizes(distribution) == factors.sizes
        fits &= not isinstance(distribution, Categorical)
    elif found == "box":
        shape = tuple(space.shape)
        needed = f"actions of real numbers {list(shape)}"
        fits = not isinstance(distribution, Categorical | Product)
        if isinstance(distribution, DiagonalGaussian):
            fits &= tuple(distribution.mean.shape) == shape
            fits &= tuple(distribution.log_std.shape) == shape
    else:
        return
    if not fits:
        raise ValueError(f"the policy must have {needed} for {env_name}, got {got}")


def _sizes(distribution: Distribution) -> tuple[int, ...] | None:
    """How many values each choice of a distribution has; None if it is none of ours."""
    if isinstance(distribution, Categorical):
        return (int(distribution.logits.shape[-1]),) if distribution.logits.ndim == 1 else None
    if isinstance(distribution, Joint):
        return distribution.sizes
    if isinstance(distribution, Product):
        sizes = [_sizes(factor) for factor in distribution.factors]
        return tuple(size[0] if size else -1 for size in sizes)
    return None


def _describe(distribution: Distribution) -> str:
    """A distribution in words."""
    if (sizes := _sizes(distribution)) is not None:
        return f"{type(distribution).__name__} of {', '.join(map(str, sizes))} values"
    if isinstance(distribution, DiagonalGaussian):
        return f"{type(distribution).__name__} of shape {list(distribution.mean.shape)}"
    return type(distribution).__name__
