"""Products with the Jacobian of a network's outputs, layer by layer.

`jacobian.linearized` serves every network, this those of dense layers: where layer l computes
s_l = a_l W_l + b_l, the gradient of an output z_m with respect to W_l is the outer product of a_l
and δ_lm = ∂z_m/∂s_l. Once all δ are known, which takes a backward pass for each output, a product
with J takes one matrix product per layer and one with Jᵀ another: half of what linearised passes
take, but m times as much of everything else.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from purejax_po._xla import switch
from purejax_po._xla.products import apart, transposed
from purejax_po.types import Array, Distribution, Params

LayerPath = tuple[str, ...]
"""Of a layer among the parameters."""


class Softmax(Distribution, Protocol):
    """A categorical distribution: a NamedTuple of its logits."""

    logits: Array

    def _replace(self, *, logits: Array) -> "Softmax": ...


def gains(hidden: Sequence[int], num_outputs: int) -> bool:
    """Whether `layerwise` is the faster one: hidden layers are 64 wide or more for each output.

    Of wider layers the products that are spared weigh more, of more outputs what is done for each.
    """
    is_on = switch.on().layerwise
    return is_on and 0 < 64 * num_outputs <= min(hidden, default=0)


def layerwise(
    apply: Callable[[Params], Softmax], params: Params, batch_size: int
) -> tuple[Softmax, Callable[[Params], Softmax], Callable[[Softmax], Params]]:
    """(Jv)_m = Σ_l ⟨δ_lm, a_l V_l + v_l⟩ and (Jᵀu)_l = (a_lᵀ G_l, Σ_b G_l) with G_l = Σ_m u_m δ_lm.

    The last logit is held at 0, which changes no probability and spares one output: m counts the
    others' differences from it.

    Args:
        apply: `params → Categorical` over samples `[B]`, a network whose parameters are those of
            flax's `Dense` layers, each of which is called once, on `[B, features]`.
        params: where J is taken.
        batch_size: B.

    Returns:
        The distribution, `v → J v` and `u → Jᵀ u`, u summing to 0 over the logits of a sample.

    Source: Goodfellow 2015, Efficient Per-Example Gradient Computations (the outer products).
    """
    flat: dict[LayerPath, Any] = dict(flatten_dict(params))
    kernels = {path[1:-1]: kernel for path, kernel in flat.items() if path[-1] == "kernel"}

    def moved(
        offsets: dict[LayerPath, Array],
    ) -> tuple[Array, tuple[Softmax, dict[LayerPath, Array]]]:
        """All z `[B, M]`, every s_l moved by an offset; the distribution and all a_l."""
        inputs: dict[LayerPath, Array] = {}
        with nn.intercept_methods(_mover(offsets, inputs)):
            distribution = apply(params)
        logits = distribution.logits
        return logits[:, :-1] - logits[:, -1:], (distribution, inputs)

    zeros = {path: jnp.zeros((batch_size, x.shape[1]), x.dtype) for path, x in kernels.items()}
    z, backward, (distribution, inputs) = jax.vjp(moved, zeros, has_aux=True)
    deltas = [
        backward(jnp.broadcast_to(row, z.shape))[0] for row in jnp.eye(z.shape[1], dtype=z.dtype)
    ]

    copies = {path: transposed(a) for path, a in inputs.items()}
    # Where there are fewer of them than outputs, the inputs [a, 1] take the factor u, and not δ.
    small = [p for p, a in inputs.items() if a.shape[1] * len(deltas) < deltas[0][p].shape[1]]
    few = {path: transposed(_with_ones(inputs[path])) for path in small}
    fewer = few if switch.on().narrow_sides else {}

    def push(v: Params) -> Softmax:
        layers: dict[LayerPath, Any] = dict(flatten_dict(v))
        moves = {
            path: a @ layers["params", *path, "kernel"] + layers["params", *path, "bias"]
            for path, a in inputs.items()
        }
        tangents = [
            _total(_inner(path, fewer, delta[path], moves[path], layers) for path in inputs)
            for delta in deltas
        ]
        logits = jnp.stack([*tangents, jnp.zeros_like(tangents[0])], axis=1)
        return distribution._replace(logits=logits)

    def pull(cotangent: Softmax) -> Params:
        columns = list(zip(cotangent.logits.T, deltas, strict=False))  # all but the last one's
        pulled = {}
        for path, a in inputs.items():
            if path in few:
                both = _total((few[path] * u) @ delta[path] for u, delta in columns)
                kernel, bias = both[:-1], both[-1]
            else:
                g = _total(u[:, None] * delta[path] for u, delta in columns)
                narrow = g.shape[1] < a.shape[1]  # it is g of which a copy is less
                kernel = apart(transposed(g) @ a).T if narrow else copies[path] @ g
                bias = _total(u @ delta[path] for u, delta in columns)
            pulled["params", *path, "kernel"], pulled["params", *path, "bias"] = kernel, bias
        return unflatten_dict(pulled)

    return distribution, push, pull


def _mover(offsets: dict[LayerPath, Array], inputs: dict[LayerPath, Array]) -> Callable[..., Array]:
    """What flax calls in place of each layer: it adds the offset, and notes the input."""

    def move(
        layer: Callable[..., Array],
        args: tuple[Array, ...],
        kwargs: dict[str, object],
        context: Any,
    ) -> Array:
        outputs = layer(*args, **kwargs)
        # A subclass's layer calls the class's, which comes here first.
        if not isinstance(context.module, nn.Dense) or context.module.path in inputs:
            return outputs
        inputs[context.module.path] = args[0]
        return outputs + offsets[context.module.path]

    return move


def _inner(
    path: LayerPath,
    fewer: dict[LayerPath, Array],
    delta: Array,
    moved: Array,
    layers: dict[LayerPath, Array],
) -> Array:
    """⟨δ, a V + v⟩ of each sample, `[B]`; as ⟨(a, 1), δ (V, v)ᵀ⟩ where the inputs are fewer."""
    if path not in fewer:
        return jnp.einsum("bf,bf->b", delta, moved)
    kernel, bias = (layers["params", *path, name] for name in ("kernel", "bias"))
    return jnp.einsum("bf,bf->b", fewer[path].T, delta @ jnp.concatenate([kernel, bias[None]]).T)


def _with_ones(a: Array) -> Array:
    """`[a, 1]`."""
    return jnp.pad(a, ((0, 0), (0, 1)), constant_values=1.0)


def _total(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)
