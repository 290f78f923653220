"""The optimisers that algorithms share, rebuilt from traced hyperparameters."""

from typing import NamedTuple

import optax

from purejax_po._xla.flat import clip, flatten
from purejax_po.types import Array, Hyperparams


class Numbers(NamedTuple):
    """Those of a step of `clipped_adam`, all traced."""

    learning_rate: Array
    eps: Array
    max_norm: Array


def numbers(hyperparams: Hyperparams, progress: Array | float) -> Numbers:
    """What `clipped_adam` of the same arguments computes with."""
    learning_rate = hyperparams.learning_rate * (1.0 - hyperparams.learning_rate_decay * progress)
    return Numbers(learning_rate, hyperparams.adam_eps, hyperparams.max_grad_norm)


def clipped_adam(hyperparams: Hyperparams, progress: Array | float) -> optax.GradientTransformation:
    """Adam behind a global-norm clip, rebuilt from traced hyperparameters at every update.

    Args:
        hyperparams: with `learning_rate`, `learning_rate_decay`, `max_grad_norm` and `adam_eps`.
        progress: the share of training that is done, in [0, 1].
    """
    learning_rate, eps, max_norm = numbers(hyperparams, progress)
    return flatten(optax.chain(clip(max_norm), optax.adam(learning_rate, eps=eps)))


def adam(learning_rate: Array | float) -> optax.GradientTransformation:
    """Adam with optax's defaults."""
    return flatten(optax.adam(learning_rate))
