"""The shape of networks: how many units, and what an observation or an action asks for."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from purejax_po import encoding, named, networks, observations
from purejax_po.checks import WholeNumber
from purejax_po.experiment.config.names import NamedFields
from purejax_po.types import Algorithm, Critic, Environment, EnvParams, Policy, Space

if TYPE_CHECKING:
    FactoryName = Any
else:  # what the command line reads
    FactoryName = str

MAKE_NETWORKS = {
    "none": networks.mlp_actor_critic,
    "gru": networks.gru_actor_critic,
    "lstm": networks.lstm_actor_critic,
}


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(NamedFields):
    """Shape of the policy and of the critic, which share no parameters."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers (units)."""
    channels: tuple[int, ...] = ()
    """Channels of convolutions before the hidden layers, for observations that are images, such as
    MinAtar's. Without them images are flattened."""
    kernels: tuple[int, ...] = ()
    """Sides of the convolutions (pixels), one for each of the channels; 3 by default. For Atari's
    84 × 84 images: channels 32 64 64, kernels 8 4 3, strides 4 2 1."""
    strides: tuple[int, ...] = ()
    """Strides of the convolutions (pixels), one for each of the channels; 1 by default."""
    layer_norm: bool = False
    """Normalise each hidden layer over its units before its activation."""
    initialization: networks.Initialization = "orthogonal"
    """Initialisation of the layers: orthogonal (the policy's last one × 0.01), or flax's default
    (variance 1 / inputs)."""
    activation: Literal["tanh", "relu", "silu", "elu"] = "tanh"
    """Activation of the hidden layers."""
    action_distribution: networks.ActionDistribution = "gaussian"
    """For continuous actions: a Gaussian that is clipped to their bounds (clipped_gaussian), scaled
    to them (scaled_gaussian) or squashed into them by tanh (tanh_gaussian). gaussian scales where
    bounds are far from a standard normal number, and clips elsewhere."""
    memory: Literal["none", "gru", "lstm", "transformer"] = "none"
    """Make the last hidden layer a GRU or an LSTM: a recurrent policy and critic. Gradients then
    reach back num_steps at most. On token tasks, with grpo: a GRU of one layer, or a causal
    transformer with a layer for each entry of hidden."""
    num_heads: WholeNumber = 4
    """Attention heads of a transformer; divides its width."""
    mlp_ratio: WholeNumber = 4
    """Hidden units of a transformer's feed-forward network for each unit of its width."""
    policy_fields: tuple[str, ...] = ()
    """Fields that the policy sees of observations that are a dictionary or a tuple ("0", "1", …).
    Default: all except action_mask and those that begin with privileged."""
    critic_fields: tuple[str, ...] = ()
    """Fields that the critic sees. Default: all except action_mask."""
    mask_actions: bool = True
    """Never take an action that the observation's action_mask calls invalid."""
    factory: FactoryName = ""
    """A function of yours, my_pkg.nets:make: (env, env_params) → (policy, critic). It replaces all
    other settings."""


def layers_of(network: NetworkConfig) -> networks.Layers:
    """Return how the layers of a network are made."""
    return networks.Layers(*(getattr(network, name) for name in networks.Layers._fields))


def check_usual(network: NetworkConfig) -> None:
    """Raise `ValueError` for an option of layers that networks of token tasks have not."""
    usual = NetworkConfig()
    for name in networks.Layers._fields:
        if getattr(network, name) != getattr(usual, name):
            raise ValueError(
                f"network.{name} must be {getattr(usual, name)!r} for a {network.memory} on token "
                f"tasks, got {getattr(network, name)!r}"
            )


def check_seen(network: NetworkConfig, space: Space) -> None:
    """Raise `ValueError` unless observations have the fields, and images for convolutions."""
    for reader in ("policy", "critic"):
        chosen = getattr(network, f"{reader}_fields")
        names = observations.seen_fields(space, reader, chosen, f"network.{reader}_fields")
        seen = encoding.seen_space(space, names)
        encoding.check_channels(network.channels, seen, "network.channels")
        networks.check_layers(layers_of(network), network.channels, seen, "network.")


def check_factory(factory: FactoryName) -> None:
    """Raise `ValueError` unless it is a function, or names one."""
    found = named.find("network.factory", factory) if isinstance(factory, str) else factory
    if not callable(found):
        raise ValueError(f"network.factory must be a function, got {found!r}")


REST = ("options", "hyperparams")
"""What an algorithm's factory takes after the networks."""


def from_factory(
    factory: FactoryName,
    env: Environment,
    env_params: EnvParams,
    algorithm: Callable[..., Algorithm],
) -> tuple[Policy | Critic, ...]:
    """Call a user's function: a policy, and a critic where the algorithm takes one.

    Args:
        factory: the function, or its name.
        algorithm: the algorithm's factory, whose first arguments the networks are.

    Raises:
        ValueError: if it fails, or returns fewer.
    """
    name = factory if isinstance(factory, str) else getattr(factory, "__qualname__", "function")
    make = named.find("network.factory", factory) if isinstance(factory, str) else factory
    try:
        made = make(env, env_params)
    except Exception as error:  # whatever a user's code raises
        reason = (str(error).strip().splitlines() or [""])[0]
        told = f"{type(error).__name__}: {reason}".removesuffix(": ")
        raise ValueError(f"network.factory {name} fails: {told}") from error
    made = (made,) if isinstance(made, Policy) else made
    parameters = inspect.signature(algorithm).parameters.values()
    number = len(
        [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in REST]
    )
    if not isinstance(made, tuple) or len(made) < number:
        needed = ("a policy", "(policy, critic)")[number > 1]
        raise ValueError(f"network.factory {name} must return {needed}, got {made!r:.80}")
    return made[:number]
