"""Which tricks for speed are on: by default those that suit the platform."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax

from purejax_po.checks import check_choice


class Tricks(NamedTuple):
    """Each is on or off; README.md says what it does and where it was measured."""

    compiler_options: bool = True
    """XLA's options for each platform (`experiment.run.compilation`)."""
    written_out_keys: bool = True
    """Threefry as plain operations (`prng`): the same numbers."""
    packed_shuffle: bool = True
    """Permutations by a sort of single words (`shuffle`): other numbers."""
    short_sums: bool = True
    """Sums over short axes term by term (`sums`)."""
    copied_factors: bool = True
    """Products of copies of transposed matrices (`products`, `layerwise`)."""
    columns: bool = True
    """Products with two or three outputs column by column (`products`)."""
    flat_adam: bool = True
    """Optimisers on one vector (`flat`): it decides the form of their state."""
    next_values: bool = True
    """Successors' values read off the next step (`algorithms.critics`)."""
    one_check: bool = True
    """One check that all is finite (`finite`)."""
    layerwise: bool = True
    """Fisher products layer by layer, where they gain (`layerwise`)."""
    lean_loops: bool = False
    """Few kernels in a turn of a loop (`packed`), and no loop of epochs (`minibatch`)."""
    doubled_sums: bool = False
    """Discounted sums without a loop over time (`recurrence`)."""
    adam_in_parts: bool = False
    """Within an update, optimisers on one vector work array by array (`flat`)."""
    short_tanh: bool = False
    """tanh with a derivative that a product's kernel can multiply by (`products`)."""
    narrow_gradients: bool = False
    """Of products with two or three outputs, the inputs' gradients column by column."""
    narrow_sides: bool = False
    """Fisher products by the narrower side of a layer (`layerwise`)."""
    joined_values: bool = False
    """A rollout's values and the last successors' in one pass (`algorithms.critics`)."""
    interpreted: bool = True
    """Pallas' kernels are run by JAX's interpreter (`fused`)."""
    joined_biases: bool = False
    """Gradients of biases as a row of the product that makes their kernels' (`products`)."""


CPU = Tricks()
ELSEWHERE = Tricks(
    written_out_keys=False,
    packed_shuffle=False,
    short_sums=False,
    copied_factors=False,
    lean_loops=True,
    doubled_sums=True,
    adam_in_parts=True,
    short_tanh=True,
    columns=False,
    narrow_gradients=True,
    narrow_sides=True,
    joined_values=True,
    interpreted=False,
    joined_biases=True,
)
"""What was built for a CPU is off, what was built for a GPU is on. The states of Adam are vectors
here too (`flat_adam`), or a run could not go on on another device."""

_chosen: list[Tricks] = []


def on() -> Tricks:
    """Return the tricks that are on: those of the innermost `using`, or of the platform."""
    if _chosen:
        return _chosen[-1]
    return CPU if jax.default_backend() == "cpu" else ELSEWHERE


@contextlib.contextmanager
def using(tricks: Tricks) -> Iterator[None]:
    """Use these tricks for what is built and traced inside, in every thread.

    A trainer has to be made, and its functions traced, under the same tricks.
    """
    _chosen.append(tricks)
    try:
        yield
    finally:
        _chosen.pop()


def without(*names: str) -> contextlib.AbstractContextManager[None]:
    """Turn some of the tricks that are on off, as `using` does.

    Raises:
        ValueError: for a name that is no field of `Tricks`.
    """
    for name in names:
        check_choice("a trick", name, Tricks._fields)
    return using(on()._replace(**dict.fromkeys(names, False)))
