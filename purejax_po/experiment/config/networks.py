"""The shape of networks: how many units, and what an observation or an action asks for."""

from dataclasses import dataclass
from typing import Literal

from purejax_po import networks
from purejax_po.experiment.config.names import named_fields

MAKE_NETWORKS = {
    "none": networks.mlp_actor_critic,
    "gru": networks.gru_actor_critic,
    "lstm": networks.lstm_actor_critic,
}
MEMORIES = (*MAKE_NETWORKS, "transformer")


@named_fields
@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the policy and of the critic, which share no parameters."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers (units)."""
    channels: tuple[int, ...] = ()
    """Of 3 × 3 convolutions before the hidden layers, where observations are images, as MinAtar's;
    without, images are flattened."""
    activation: Literal["tanh", "relu", "silu", "elu"] = "tanh"
    """Activation of the hidden layers."""
    action_distribution: networks.ActionDistribution = "gaussian"
    """Of continuous actions: a Gaussian that is clipped to their bounds (clipped_gaussian), scaled
    to them (scaled_gaussian) or squashed into them by tanh; gaussian scales where bounds are far
    from a standard normal number, and clips elsewhere."""
    memory: Literal["none", "gru", "lstm", "transformer"] = "none"
    """Whether the last hidden layer is a GRU or an LSTM: a recurrent policy and critic. Gradients
    then reach back num_steps at most. On token tasks, with grpo: a GRU of one layer, or a causal
    transformer with a layer for each entry of hidden."""
    num_heads: int = 4
    """Heads of attention of a transformer; divides its width."""
    mlp_ratio: int = 4
    """Hidden units of a transformer's feed-forward network for each unit of its width."""
