"""An algorithm as a configuration: its static options, rollout shape, hyperparameters."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

import numpy as np

from purejax_po import contract, encoding, networks, sequence
from purejax_po.algorithms.a2c import A2CHyperparams, A2COptions, a2c
from purejax_po.algorithms.group import GRPOHyperparams, GRPOOptions
from purejax_po.algorithms.grpo import grpo
from purejax_po.algorithms.npg import NPGHyperparams, NPGOptions, npg
from purejax_po.algorithms.ppo import PPOHyperparams, PPOOptions, ppo
from purejax_po.algorithms.reinforce import REINFORCEHyperparams, REINFORCEOptions, reinforce
from purejax_po.algorithms.trpo import TRPOHyperparams, TRPOOptions, trpo
from purejax_po.checks import WholeNumber, check_hyperparams, check_options
from purejax_po.experiment.config.names import NamedFields
from purejax_po.experiment.config.networks import (
    MAKE_NETWORKS,
    NetworkConfig,
    check_factory,
    check_seen,
    check_usual,
    from_factory,
    layers_of,
)
from purejax_po.types import Algorithm, Critic, Environment, EnvParams, Hyperparams, Policy

MOST_SAMPLES = 2**31
"""Of an update: what 32-bit integers count, and more than memory holds."""
UNFINISHED = 0.01
"""Share of episodes left out from which on a user is told."""
Diagnostics = Mapping[str, np.ndarray]
"""A window's means by name, each `[lanes]`."""


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig(NamedFields):
    """Static choices, rollout shape and hyperparameters of an algorithm.

    A subclass names its factory and inherits the factory's options, whose fields become its own. In
    place of a class of options the factory may take them as keyword arguments.
    """

    name: ClassVar[str]
    factory: ClassVar[Callable[..., Algorithm]]
    remedy: ClassVar[str] = ""
    """Besides more steps, where episodes do not fit into a rollout."""

    num_envs: WholeNumber
    """Environments that each seed steps in parallel."""
    num_steps: WholeNumber
    """Steps of each environment per update."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    hyperparams: Hyperparams

    def build(self, env: Environment, env_params: EnvParams) -> Algorithm:
        """Make the networks for an environment, and the algorithm on them.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        factory, own = type(self).factory, self.network.factory
        for which in ("action", "observation"):
            contract.space_of(env, env_params, which)
        if own:
            made = from_factory(own, env, env_params, factory)
        else:
            check_seen(self.network, env.observation_space(env_params))
            made = self.make_networks(env, env_params)
        known = inspect.signature(factory).parameters.values()
        accepted = {p.name for p in known if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        given["options"] = self
        return factory(*made, **{k: v for k, v in given.items() if k in accepted})

    def make_networks(self, env: Environment, env_params: EnvParams) -> tuple[Policy | Critic, ...]:
        """Make what the factory takes by position: a policy and a critic."""
        network = self.network
        if network.memory not in MAKE_NETWORKS:
            raise ValueError(
                f"network.memory must be one of {', '.join(MAKE_NETWORKS)} for {self.name} on "
                f"{contract.name_of(env)}, got {network.memory!r}"
            )
        return MAKE_NETWORKS[network.memory](
            env,
            env_params,
            hidden=network.hidden,
            activation=network.activation,
            action_distribution=network.action_distribution,
            channels=network.channels,
            layers=layers_of(network),
            policy_fields=network.policy_fields,
            critic_fields=network.critic_fields,
            mask_actions=network.mask_actions,
        )

    def check(self) -> None:
        """Raise `ValueError` for a value that no environment allows."""
        check_options(self)
        if not isinstance(self.network, NetworkConfig):
            raise ValueError(f"network must be NetworkConfig(…), got {self.network!r}")
        self._check_sizes()
        networks.check_hidden(self.network.hidden, "network.hidden")
        encoding.check_channels(self.network.channels, name="network.channels")
        networks.check_layers(layers_of(self.network), self.network.channels, prefix="network.")
        defaults: Any = type(self)
        expected = type(defaults().hyperparams)
        if not isinstance(self.hyperparams, expected):
            raise ValueError(
                f"hyperparams must be {expected.__name__}, got {type(self.hyperparams).__name__}"
            )
        check_options(self.network, "network.", NetworkConfig)
        if self.network.factory:
            check_factory(self.network.factory)
        check_hyperparams(self.hyperparams)
        self.check_batch(self.num_envs, self.num_steps, self.network.memory == "none")

    def check_batch(self, num_envs: int, num_steps: int, memoryless: bool = True) -> None:
        """Raise `ValueError` for a rollout that the options cannot divide."""

    def warning(self, diagnostics: Diagnostics, time_limit: float | None) -> str | None:
        """Return what a window's diagnostics should have a user told, once in a run; else None.

        Here it is that complete episodes do not fit into a rollout (`unfinished_episodes`).

        Args:
            diagnostics: what the updates of a window report, as means over it.
            time_limit: of the environment, in steps, if it has one.
        """
        share = diagnostics.get("unfinished_episodes")
        if share is None or not share.mean() > UNFINISHED:
            return None
        limit = "" if time_limit is None else f"; the time limit is {time_limit:g} steps"
        return (
            f"{share.mean():.0%} of the episodes did not end within num_steps = {self.num_steps} "
            f"and were left out, so long episodes do not count: raise num_steps{self.remedy}{limit}"
        )

    def _check_sizes(self) -> None:
        """Raise `ValueError` for sizes that no memory holds."""
        for owner, prefix in ((self, ""), (self.network, "network.")):
            for name, hint in get_type_hints(type(owner)).items():
                value = getattr(owner, name)
                is_whole = hint is int and isinstance(value, int | np.integer)
                if is_whole and value >= MOST_SAMPLES:
                    raise ValueError(f"{prefix}{name} must be below 2^31, got {value}")
        if self.num_envs * self.num_steps >= MOST_SAMPLES:
            raise ValueError(
                f"num_envs × num_steps must be fewer than 2^31 samples of an update, got "
                f"{self.num_envs} × {self.num_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class REINFORCEConfig(REINFORCEOptions, AlgorithmConfig):
    """REINFORCE: one step along a Monte-Carlo policy gradient (Williams 1992)."""

    name = "reinforce"
    factory = staticmethod(reinforce)
    remedy = " or choose a psi that bootstraps, such as advantage"

    num_envs: WholeNumber = 2
    """Environments that each seed steps in parallel; one episode of each counts per update."""
    num_steps: WholeNumber = 500
    """Steps of each environment per update; at least the time limit, unless psi bootstraps."""
    hyperparams: REINFORCEHyperparams = field(default_factory=REINFORCEHyperparams)


@dataclass(frozen=True, kw_only=True)
class A2CConfig(A2COptions, AlgorithmConfig):
    """Advantage actor-critic: one gradient step per rollout (Mnih et al. 2016, synchronous)."""

    name = "a2c"
    factory = staticmethod(a2c)

    num_envs: WholeNumber = 8
    num_steps: WholeNumber = 8
    hyperparams: A2CHyperparams = field(default_factory=A2CHyperparams)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(PPOOptions, AlgorithmConfig):
    """Proximal policy optimisation: epochs of surrogate ascent (Schulman et al. 2017)."""

    name = "ppo"
    factory = staticmethod(ppo)

    num_envs: WholeNumber = 4
    num_steps: WholeNumber = 128
    hyperparams: PPOHyperparams = field(default_factory=PPOHyperparams)


@dataclass(frozen=True, kw_only=True)
class NPGConfig(NPGOptions, AlgorithmConfig):
    """Natural policy gradient: one step along F⁻¹g (Kakade 2001)."""

    name = "npg"
    factory = staticmethod(npg)

    num_envs: WholeNumber = 8
    num_steps: WholeNumber = 128
    hyperparams: NPGHyperparams = field(default_factory=NPGHyperparams)


@dataclass(frozen=True, kw_only=True)
class TRPOConfig(TRPOOptions, AlgorithmConfig):
    """Trust-region policy optimisation: F⁻¹g, backtracked into KL ≤ δ (Schulman et al. 2015)."""

    name = "trpo"
    factory = staticmethod(trpo)

    num_envs: WholeNumber = 8
    num_steps: WholeNumber = 128
    hyperparams: TRPOHyperparams = field(default_factory=TRPOHyperparams)


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(GRPOOptions, AlgorithmConfig):
    """Group-relative policy optimisation: no critic, groups of outputs (Shao et al. 2024)."""

    name = "grpo"
    factory = staticmethod(grpo)

    num_envs: WholeNumber = 16
    """Environments that each seed steps in parallel; one episode of each counts per update."""
    num_steps: WholeNumber = 500
    """Steps of each environment per update; at least the time limit."""
    hyperparams: GRPOHyperparams = field(default_factory=GRPOHyperparams)

    def make_networks(self, env: Environment, env_params: EnvParams) -> tuple[Policy | Critic, ...]:
        """Make a policy alone; with memory on token tasks, one that reads prompts."""
        network, on_tokens = self.network, hasattr(env, "prompt_length")
        if on_tokens and network.memory in ("transformer", "gru"):
            check_usual(network)
        if on_tokens and network.memory == "transformer":
            most = getattr(env, "max_tokens", 0)  # a token task has it
            if self.num_steps > most:
                raise ValueError(
                    f"num_steps must be at most the transformer's {most} tokens of an "
                    f"output, got {self.num_steps}"
                )
            made = sequence.transformer_policy(
                env,
                env_params,
                hidden=network.hidden,
                num_heads=network.num_heads,
                mlp_ratio=network.mlp_ratio,
            )
            return (made,)
        if on_tokens and network.memory == "gru":
            return (sequence.gru_policy(env, env_params, hidden=network.hidden),)
        return super().make_networks(env, env_params)[:1]


ALGORITHMS: dict[str, type[AlgorithmConfig]] = {
    config.name: config
    for config in (REINFORCEConfig, A2CConfig, NPGConfig, TRPOConfig, PPOConfig, GRPOConfig)
}
"""Every algorithm by its command-line name."""
