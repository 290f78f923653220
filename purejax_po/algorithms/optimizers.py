"""The optimisers that algorithms share, rebuilt from traced hyperparameters."""

import optax

from purejax_po._xla.flat import flatten
from purejax_po.types import Array, Hyperparams


def clipped_adam(hyperparams: Hyperparams, progress: Array | float) -> optax.GradientTransformation:
    """Adam behind a global-norm clip, rebuilt from traced hyperparameters at every update.

    Args:
        hyperparams: with `learning_rate`, `learning_rate_decay`, `max_grad_norm` and `adam_eps`.
        progress: the share of training that is done, in [0, 1].
    """
    learning_rate = hyperparams.learning_rate * (1.0 - hyperparams.learning_rate_decay * progress)
    return flatten(
        optax.chain(
            optax.clip_by_global_norm(hyperparams.max_grad_norm),
            optax.adam(learning_rate, eps=hyperparams.adam_eps),
        )
    )


def adam(learning_rate: Array | float) -> optax.GradientTransformation:
    """Adam with optax's defaults."""
    return flatten(optax.adam(learning_rate))
