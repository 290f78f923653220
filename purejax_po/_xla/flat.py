"""Optimisers on one vector of all parameters.

A program has one kernel for each step of Adam in place of one for every matrix and every bias, and
is compiled sooner.
"""

import optax
from jax.flatten_util import ravel_pytree

from purejax_po._xla import switch
from purejax_po.types import Array, Params


def flatten(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser, whose moments are those of one vector."""
    return optax.flatten(optimizer) if switch.on().flat_adam else optimizer


def norm(gradient: Params) -> Array:
    """Global norm of a gradient, of the vector that the optimisers make of it anyway."""
    return optax.tree.norm(ravel_pytree(gradient)[0] if switch.on().flat_adam else gradient)
