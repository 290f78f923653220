"""The optimiser that algorithms of one loss share, rebuilt from traced hyperparameters."""

from typing import Any

import optax

from purejax_po.types import Array


def adam(hyperparams: Any, progress: Array | float) -> optax.GradientTransformation:
    """Adam behind a global-norm clip, rebuilt from traced hyperparameters at every update.

    Args:
        hyperparams: with `learning_rate`, `learning_rate_decay`, `max_grad_norm` and `adam_eps`.
        progress: the share of training that is done, in [0, 1].
    """
    learning_rate = hyperparams.learning_rate * (1.0 - hyperparams.learning_rate_decay * progress)
    return optax.chain(
        optax.clip_by_global_norm(hyperparams.max_grad_norm),
        optax.adam(learning_rate, eps=hyperparams.adam_eps),
    )
