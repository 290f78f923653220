"""The optimisers that algorithms share, rebuilt from traced hyperparameters.

Moments are those of all parameters as one vector: a program has one kernel for each step of Adam
in place of one for every matrix and every bias, is compiled sooner and runs no slower.
"""

import optax
from jax.flatten_util import ravel_pytree

from purejax_po.types import Array, Hyperparams, Params


def clipped_adam(hyperparams: Hyperparams, progress: Array | float) -> optax.GradientTransformation:
    """Adam behind a global-norm clip, rebuilt from traced hyperparameters at every update.

    Args:
        hyperparams: with `learning_rate`, `learning_rate_decay`, `max_grad_norm` and `adam_eps`.
        progress: the share of training that is done, in [0, 1].
    """
    learning_rate = hyperparams.learning_rate * (1.0 - hyperparams.learning_rate_decay * progress)
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(hyperparams.max_grad_norm),
            optax.adam(learning_rate, eps=hyperparams.adam_eps),
        )
    )


def adam(learning_rate: Array | float) -> optax.GradientTransformation:
    """Adam with optax's defaults."""
    return optax.flatten(optax.adam(learning_rate))


def norm(gradient: Params) -> Array:
    """Global norm of a gradient, of the vector that the optimisers make of it anyway."""
    return optax.tree.norm(ravel_pytree(gradient)[0])
