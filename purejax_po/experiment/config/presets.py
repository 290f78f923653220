"""Settings that were tuned for a task, by name."""

from typing import NamedTuple

from purejax_po.algorithms.group import GRPOHyperparams
from purejax_po.algorithms.ppo import PPOHyperparams
from purejax_po.experiment.config.algorithms import (
    AlgorithmConfig,
    GRPOConfig,
    PPOConfig,
)
from purejax_po.experiment.config.networks import NetworkConfig


class Preset(NamedTuple):
    """Tuned settings: what they were tuned for, and for how long."""

    env: str
    algorithm: AlgorithmConfig
    total_steps: int = 500_000


def _on_tokens(
    task: str,
    num_steps: int,
    num_updates: int,
    *,
    group_size: int = 8,
    num_heads: int,
    mlp_ratio: int = 2,
    **floats: float,
) -> Preset:
    """GRPO on a token task: 16 prompts, and a transformer of one layer, as small as learns it."""
    network = NetworkConfig(
        hidden=(32,), memory="transformer", num_heads=num_heads, mlp_ratio=mlp_ratio
    )
    algorithm = GRPOConfig(
        num_envs=16 * group_size,
        num_steps=num_steps,
        group_size=group_size,
        kl_form="off",
        network=network,
        hyperparams=GRPOHyperparams(**floats),
    )
    return Preset(f"tokens/{task}", algorithm, num_updates * 16 * group_size * num_steps)


PRESETS: dict[str, Preset] = {
    "ppo-pendulum": Preset(
        "Pendulum-v1",
        PPOConfig(
            num_envs=8,
            num_steps=256,
            num_epochs=10,
            num_minibatches=16,
            hyperparams=PPOHyperparams(
                learning_rate=1e-3, discount=0.9, entropy_coef=0.0, clip_eps=0.2
            ),
        ),
    ),
    "grpo-copy": _on_tokens("copy", 7, 500, num_heads=1, learning_rate=3e-3, entropy_coef=0.02),
    "grpo-reverse": _on_tokens(
        "reverse", 7, 500, num_heads=1, learning_rate=3e-3, entropy_coef=0.02
    ),
    "grpo-sort": _on_tokens("sort", 7, 1500, num_heads=2, learning_rate=3e-3, entropy_coef=0.05),
    "grpo-addition": _on_tokens(
        "addition",
        2,
        3000,
        group_size=16,
        num_heads=4,
        mlp_ratio=4,
        learning_rate=1e-3,
        entropy_coef=0.1,
    ),
}
"""Tuned settings by name."""

TASK_PRESETS = {
    (preset.algorithm.name, preset.env): name
    for name, preset in PRESETS.items()
    if preset.env.startswith("tokens/")
}
"""Presets that are the default on their environment: no settings serve every task."""
