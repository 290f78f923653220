"""Policies and critics for an environment's spaces, as flax networks behind pure functions."""

from purejax_po.encoding import check_hidden, observation_encoder
from purejax_po.networks.feedforward import mlp_actor_critic, mlp_critic, mlp_policy
from purejax_po.networks.heads import (
    ActionDistribution,
    check_action_distribution,
    executed_as,
    memoryless,
)
from purejax_po.networks.linear import linear_critic, softmax_linear_policy
from purejax_po.networks.modules import (
    ACTIVATIONS,
    MLP,
    USUAL,
    Activation,
    Convolutions,
    Dense,
    GaussianMLP,
    Initialization,
    Initializer,
    Layers,
    check_layers,
    orthogonal,
)
from purejax_po.networks.recurrent import (
    CELLS,
    Cell,
    Recurrent,
    gru_actor_critic,
    lstm_actor_critic,
    recurrent,
    recurrent_actor_critic,
)

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "MLP",
    "USUAL",
    "ActionDistribution",
    "Activation",
    "Cell",
    "Convolutions",
    "Dense",
    "GaussianMLP",
    "Initialization",
    "Initializer",
    "Layers",
    "Recurrent",
    "check_action_distribution",
    "check_hidden",
    "check_layers",
    "executed_as",
    "gru_actor_critic",
    "linear_critic",
    "lstm_actor_critic",
    "memoryless",
    "mlp_actor_critic",
    "mlp_critic",
    "mlp_policy",
    "observation_encoder",
    "orthogonal",
    "recurrent",
    "recurrent_actor_critic",
    "softmax_linear_policy",
]
