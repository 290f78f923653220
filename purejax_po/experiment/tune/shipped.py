"""Spaces that are searched by default: what decides how well each algorithm learns."""

from purejax_po.checks import check_choice
from purejax_po.experiment.tune.space import Space, parse

ACTOR_CRITIC = {
    "learning_rate": "log:1e-4..1e-2",
    "learning_rate_decay": [0.0, 1.0],
    "discount": [0.95, 0.98, 0.99, 0.995],
    "gae_lambda": "0.9..1",
    "entropy_coef": "log:1e-4..3e-2",
    "normalize_observations": [False, True],
}
NATURAL = {
    "max_kl": "log:3e-3..1e-1",
    "damping": "log:1e-2..0.3",
    "critic_learning_rate": "log:3e-4..1e-2",
    "discount": [0.95, 0.98, 0.99, 0.995],
    "gae_lambda": "0.9..1",
    "num_envs": [4, 8, 16],
    "num_steps": [64, 128, 256],
    "normalize_observations": [False, True],
}
SPACES = {
    "reinforce": {
        "learning_rate": "log:1e-3..3e-2",
        "critic_learning_rate": "log:1e-3..3e-2",
        "discount": [0.95, 0.98, 0.99, 0.995],
        "num_envs": [2, 4, 8],
        "critic_epochs": [5, 10],
        "normalize_advantage": [False, True],
        "normalize_observations": [False, True],
    },
    "a2c": {**ACTOR_CRITIC, "num_envs": [4, 8, 16], "num_steps": [8, 16, 32]},
    "npg": NATURAL,
    "trpo": NATURAL,
    "ppo": {
        **ACTOR_CRITIC,
        "clip_eps": "0.1..0.3",
        "num_envs": [4, 8, 16],
        "num_steps": [32, 64, 128],
        "num_epochs": [4, 10],
    },
    "grpo": {
        "learning_rate": "log:3e-4..1e-2",
        "clip_high": "0.1..0.4",
        "kl_coef": "log:1e-3..0.1",
        "entropy_coef": "log:1e-3..0.1",
        "num_envs": [16, 32],
    },
}
"""Dimensions by an algorithm's name."""


def space_of(algorithm: str) -> Space:
    """Return the space of an algorithm.

    Raises:
        ValueError: for an algorithm that has none, such as one of one's own.
    """
    check_choice("an algorithm with a space of its own", algorithm, tuple(SPACES))
    return parse(SPACES[algorithm])
