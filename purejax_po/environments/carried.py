"""Of a library's state, carry from step to step what the next step reads, and no more.

Libraries keep pictures, metrics and whole models in their states. In a program each of them costs
memory for every environment, and time in every step and reset.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from purejax_po.types import Action, Array, PyTree, Shapes


class Carried:
    """The leaves of a state that the steps after it depend on.

    Args:
        step: `(state, action) → (outputs, state)`; what is not among the outputs is not needed.
        example: a state, or its shapes and dtypes.
        action: an action, or its shape and dtype.

    Attributes:
        kept: their numbers among the state's leaves.
    """

    def __init__(
        self,
        step: Callable[[PyTree, Action], tuple[PyTree, PyTree]],
        example: Shapes,
        action: Shapes,
    ):
        leaves, self._structure = jax.tree.flatten(example)
        self._shapes = [jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves]

        def flat(leaves: Sequence[Array], action: Action) -> tuple[list[Array], list[Array]]:
            outputs, state = step(jax.tree.unflatten(self._structure, leaves), action)
            return jax.tree.leaves(outputs), jax.tree.leaves(state)

        self.kept = _read(flat, self._shapes, action)

    def reduce(self, state: PyTree) -> tuple[Array, ...]:
        """Return the leaves that are carried, in the dtypes that they began with."""
        leaves = jax.tree.leaves(state)
        return tuple(jnp.asarray(leaves[i], self._shapes[i].dtype) for i in self.kept)

    def restore(self, carried: Sequence[Array]) -> PyTree:
        """Return a state with these leaves, and zeros where no step looks."""
        leaves: list[Array | None] = [None] * len(self._shapes)
        for i, leaf in zip(self.kept, carried, strict=True):
            leaves[i] = leaf
        for i, x in enumerate(self._shapes):
            leaves[i] = jnp.zeros(x.shape, x.dtype) if leaves[i] is None else leaves[i]
        return jax.tree.unflatten(self._structure, leaves)


def _read(
    step: Callable[..., PyTree], shapes: Sequence[jax.ShapeDtypeStruct], action: Shapes
) -> tuple[int, ...]:
    """Return which leaves `(leaves, action) → (outputs, leaves)` reads now or later, as numbers."""
    jaxpr = jax.make_jaxpr(step)(shapes, action).jaxpr
    num_outputs = len(jaxpr.outvars) - len(shapes)
    # A key has no zero that could stand in its place.
    read = [bool(jnp.issubdtype(x.dtype, jax.dtypes.extended)) for x in shapes]
    while True:
        _, used = partial_eval.dce_jaxpr(jaxpr, [True] * num_outputs + read)
        following = [a or b for a, b in zip(read, used[: len(read)], strict=True)]
        if following == read:
            return tuple(i for i, is_read in enumerate(read) if is_read)
        read = following
