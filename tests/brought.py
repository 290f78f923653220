"""What a user brings: an algorithm with classes of its own, in a module that tests import."""

from dataclasses import dataclass, field
from typing import Any

import flax.struct

import purejax_po as po
from purejax_po.checks import Positive


@flax.struct.dataclass
class Hyperparams(po.PPOHyperparams):
    """One float more than PPO's."""

    power: Positive = 1.0
    """Of the learning rate."""


@dataclass(frozen=True, kw_only=True)
class Network(po.NetworkConfig):
    """Networks with a list of their own."""

    hidden: tuple[int, ...] = (8,)
    extras: list[int] = field(default_factory=lambda: [1, 2])
    """Ends as it began: a list."""


def powered(policy, critic, hyperparams, **options):
    """PPO with another learning rate."""
    return po.ppo(policy, critic, po.PPOOptions(**options), hyperparams)


@dataclass(frozen=True, kw_only=True)
class Powered(po.AlgorithmConfig):
    """PPO whose learning rate has a power: a third party's algorithm."""

    name = "powered"
    factory = staticmethod(powered)

    num_envs: int = 2
    """Environments of each seed."""
    num_steps: int = 16
    """Steps of each environment per update."""
    network: Network = field(default_factory=Network)
    hyperparams: Any = field(default_factory=Hyperparams)


@flax.struct.dataclass
class WholeNumbers(po.PPOHyperparams):
    """A whole number more than PPO's."""

    power: int = 2
    """Of the learning rate."""


@dataclass(frozen=True, kw_only=True)
class Counted(Powered):
    """The same with a whole number."""

    name = "counted"
    hyperparams: Any = field(default_factory=WholeNumbers)


class NoAlgorithm:
    """Of another kind."""


@dataclass(frozen=True, kw_only=True)
class Nameless(po.AlgorithmConfig):
    """Lacks a name."""


class Plain(Powered):
    """A subclass that is no dataclass itself, but inherits what it needs."""


@dataclass(frozen=True, kw_only=True)
class OwnPPO(po.PPOConfig):
    """PPO of one's own under the package's name."""


@dataclass(frozen=True, kw_only=True)
class NoDefault(po.AlgorithmConfig):
    """Cannot be made without arguments."""

    name = "no_default"
    factory = staticmethod(powered)
