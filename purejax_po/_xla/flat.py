"""Optimisers on one vector of all parameters.

A program has one kernel for each step of Adam in place of one for every matrix and every bias, and
is compiled sooner. On a GPU, where a step reads and writes arrays once if it works on each of them,
the vectors are taken apart before a loop of steps and joined after it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from purejax_po._xla import switch
from purejax_po.types import Array, Params, PyTree


class OnOneVector(optax.GradientTransformationExtraArgs):
    """An optimiser on one vector, which knows the one that works array by array."""

    by_array: optax.GradientTransformation


def flatten(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser, whose moments are those of one vector."""
    if not switch.on().flat_adam:
        return optimizer
    flattened = OnOneVector(*optax.flatten(optimizer))
    flattened.by_array = optimizer
    return flattened


def in_parts(
    optimizer: optax.GradientTransformation, params: Params, state: optax.OptState
) -> tuple[
    optax.GradientTransformation, optax.OptState, Callable[[optax.OptState], optax.OptState]
]:
    """An optimiser and its state for a loop of steps, and what makes the state of before of it.

    With the trick `adam_in_parts` the loop's moments are trees of arrays as the parameters are.
    """
    if not (switch.on().adam_in_parts and isinstance(optimizer, OnOneVector)):
        return optimizer, state, lambda state: state
    structure = jax.tree.structure(params)
    if structure == jax.tree.structure(0.0):  # one array is no more than a vector
        return optimizer, state, lambda state: state
    vector, take_apart = ravel_pytree(params)

    def is_vector(x: PyTree) -> bool:
        return jnp.shape(x) == vector.shape

    parts = jax.tree.map(lambda x: take_apart(x) if is_vector(x) else x, state)

    def is_tree(x: PyTree) -> bool:
        return jax.tree.structure(x) == structure

    def join(state: optax.OptState) -> optax.OptState:
        return jax.tree.map(
            lambda x: ravel_pytree(x)[0] if is_tree(x) else x, state, is_leaf=is_tree
        )

    return optimizer.by_array, parts, join


def clip(max_norm: Array | float) -> optax.GradientTransformation:
    """Scale a gradient down to a global norm: `optax.clip_by_global_norm`."""
    if not switch.on().adam_in_parts:
        return optax.clip_by_global_norm(max_norm)

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        length = norm(gradient)
        factor = jnp.where(length < max_norm, 1.0, max_norm / length)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradient), state

    change: Any = update
    return optax.GradientTransformation(lambda params: optax.EmptyState(), change)


def norm(gradient: Params) -> Array:
    """Global norm of a gradient, of the vector that the optimisers make of it anyway."""
    return optax.tree.norm(ravel_pytree(gradient)[0] if switch.on().flat_adam else gradient)
