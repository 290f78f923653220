"""Observations of several fields: a dictionary or a tuple of arrays, and who sees which of them.

The fields of a tuple are called `"0"`, `"1"`, … Two kinds of names mean something:

- `action_mask` says which actions are valid (see `masks`); no network reads it by default.
- `privileged…` (`privileged_state`, say) is what a critic may see and a policy may not.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from purejax_po import spaces
from purejax_po.checks import check_choice, describe
from purejax_po.types import Array, Observation, Space

OBSERVATION = "observation"
"""What is observed, beside a mask that an adapter or a wrapper adds."""
ACTION_MASK = "action_mask"
PRIVILEGED = "privileged"
Reader = Literal["policy", "critic"]


def fields(space: Space) -> dict[str, Space]:
    """The spaces of an observation's fields by name; none where it is one array."""
    if spaces.kind(space) == "dictionary":
        return {str(name): part for name, part in space.spaces.items()}
    if spaces.kind(space) == "tuple":
        return {str(i): part for i, part in enumerate(space.spaces)}
    return {}


def field(obs: Observation, name: str) -> Array:
    """One field of an observation."""
    return obs[name] if isinstance(obs, Mapping) else obs[int(name)]


def with_fields(obs: Observation, changed: Mapping[str, Array]) -> Observation:
    """An observation with some of its fields replaced."""
    if isinstance(obs, Mapping):
        return {**obs, **changed}
    return tuple(changed.get(str(i), x) for i, x in enumerate(obs))


def with_mask(observation: Array, mask: Array) -> Observation:
    """An observation beside the mask of valid actions."""
    return {OBSERVATION: observation, ACTION_MASK: mask}


def seen_fields(
    space: Space, reader: Reader, chosen: Sequence[str] = (), name: str = ""
) -> tuple[str, ...]:
    """The fields that a network reads; none where observations are one array.

    Args:
        space: of observations.
        reader: a policy reads all but what is privileged, a critic that too.
        chosen: instead of these, in this order.
        name: what a message calls the choice.

    Raises:
        ValueError: for a field that observations lack, twice the same one, or if none is left.
    """
    names, what = tuple(fields(space)), name or f"{reader}_fields"
    if isinstance(chosen, str) or not isinstance(chosen, Sequence):
        raise ValueError(f'{what} must be names such as ("state",), got {chosen!r}')
    if chosen and not names:
        raise ValueError(
            f"{what} must be () unless observations are a dictionary or a tuple, got "
            f"{tuple(chosen)} and {space}"
        )
    for one in chosen:
        check_choice(what, one, names)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{what} must name each field once, got {tuple(chosen)}")
    hidden = (ACTION_MASK, PRIVILEGED) if reader == "policy" else (ACTION_MASK,)
    found = tuple(chosen) or tuple(x for x in names if not x.startswith(hidden))
    if names and not found:
        raise ValueError(f"{what} must name a field, since observations have {', '.join(names)}")
    return found


def differ_in_time(next_obs: Observation, obs: Observation) -> Array:
    """Whether next_obs_t is another one than obs_{t+1} in any field, of `[T, N]`; `[T − 1, N]`."""

    def differ(x: Array, y: Array) -> Array:
        return jnp.any(x[:-1] != y[1:], axis=tuple(range(2, x.ndim)))

    return functools.reduce(jnp.logical_or, jax.tree.leaves(jax.tree.map(differ, next_obs, obs)))


def check_shape(obs: Array, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless an observation's last axes, all after those of batches, are so."""
    if obs.shape[max(0, obs.ndim - len(shape)) :] != shape:
        told = ", ".join(map(str, ("…", *shape)))
        raise ValueError(f"observations must have the shape [{told}], got {list(obs.shape)}")


def check_arrays(what: str, obs: Observation) -> None:
    """Raise `ValueError` unless an observation is an array, or a dictionary or tuple of arrays."""
    parts = obs.values() if isinstance(obs, dict) else obs if isinstance(obs, tuple) else (obs,)
    for part in parts:
        if not hasattr(part, "dtype"):
            raise ValueError(
                f"{what} must return observations that are one array, or a dictionary or a tuple "
                f"of arrays, got {describe(obs if part is obs else part)}"
            )


def problems(name: str, space: Space, obs: Observation) -> Iterator[str]:
    """Tell where an observation is not of the kind and shape that its space says."""
    parts, what = fields(space), spaces.kind(space)
    if not parts:
        if isinstance(obs, dict | tuple):
            yield (
                f"{name}.reset must return one array, since observation_space is {space}, got "
                f"{describe(obs)}; a dictionary needs a space such as gymnax's spaces.Dict"
            )
        else:
            yield from _array_problems(f"{name}.reset", "", space, obs)
        return
    if not isinstance(obs, dict if what == "dictionary" else tuple) or len(obs) != len(parts):
        yield (
            f"{name}.reset must return a {what} of {', '.join(parts)}, as observation_space has, "
            f"got {describe(obs)}"
        )
        return
    for one, part in parts.items():
        found: Observation = field(obs, one) if isinstance(obs, tuple) else obs.get(one)
        if (dtype := getattr(found, "dtype", None)) is None:
            yield f"{name}.reset must return the field {one} as one array, got {describe(found)}"
            continue
        yield from _array_problems(f"{name}.reset", f" {one}", part, found)
        if one == ACTION_MASK and dtype != jnp.bool_:
            yield f"{name}.reset must return action_mask as bool, got {describe(found)}"


def _array_problems(what: str, field: str, space: Space, obs: Array) -> Iterator[str]:
    """The same of one array."""
    found = spaces.kind(space)
    shape = () if found == "discrete" else tuple(getattr(space, "shape", None) or ())
    if found in ("box", "discrete", "multi_discrete") and obs.shape != shape:
        yield (
            f"{what} must return observations{field} of the shape {list(shape)} that "
            f"observation_space has, got {describe(obs)}"
        )
    if found == "discrete" and not jnp.issubdtype(obs.dtype, jnp.integer):
        yield (
            f"{what} must return whole numbers{field}, since observation_space is {space}, got "
            f"{describe(obs)}"
        )
