"""An algorithm as a configuration: its static options, rollout shape, hyperparameters."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from purejax_po import contract, networks, sequence
from purejax_po.algorithms import critics, group
from purejax_po.algorithms.a2c import A2CHyperparams, a2c
from purejax_po.algorithms.group import GRPOHyperparams
from purejax_po.algorithms.grpo import grpo
from purejax_po.algorithms.natural import FisherProduct
from purejax_po.algorithms.npg import NPGHyperparams, npg
from purejax_po.algorithms.ppo import AdvantageNormalization, PPOHyperparams, Surrogate, ppo
from purejax_po.algorithms.reinforce import Psi, REINFORCEHyperparams, reinforce
from purejax_po.algorithms.trpo import TRPOHyperparams, trpo
from purejax_po.checks import (
    POSITIVE_FRACTION,
    check_choice,
    check_count,
    check_flag,
    check_hyperparams,
    check_number,
)
from purejax_po.experiment.config.names import named_fields
from purejax_po.experiment.config.networks import (
    MAKE_NETWORKS,
    MEMORIES,
    NetworkConfig,
    check_factory,
    from_factory,
)
from purejax_po.minibatch import check_divisible
from purejax_po.types import Algorithm, EnvParams

MOST_SAMPLES = 2**31
"""Of an update: what 32-bit integers count, and more than memory holds."""


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """Static choices, rollout shape and hyperparameters of an algorithm.

    A subclass names its factory; its fields are the factory's keyword arguments.
    """

    name: ClassVar[str]
    factory: ClassVar[Callable[..., Algorithm]]

    num_envs: int
    num_steps: int
    network: NetworkConfig
    hyperparams: Any

    def build(self, env: Any, env_params: EnvParams) -> Algorithm:
        """Make the networks for an environment, and the algorithm on them.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        factory, own = type(self).factory, self.network.factory
        if own:
            made = from_factory(own, env, env_params, factory)
        else:
            channels, space = self.network.channels, env.observation_space(env_params)
            networks.check_channels(channels, space, "network.channels")
            made = self.make_networks(env, env_params)
        accepted = inspect.signature(factory).parameters
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return factory(*made, **{k: v for k, v in options.items() if k in accepted})

    def make_networks(self, env: Any, env_params: EnvParams) -> tuple[Any, ...]:
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
        )

    def check(self) -> None:
        """Raise `ValueError` for a value that no environment allows."""
        check_count("num_envs", self.num_envs)
        check_count("num_steps", self.num_steps)
        if not isinstance(self.network, NetworkConfig):
            raise ValueError(f"network must be NetworkConfig(…), got {self.network!r}")
        self._check_sizes()
        networks.check_hidden(self.network.hidden, "network.hidden")
        networks.check_channels(self.network.channels, name="network.channels")
        defaults: Any = type(self)
        expected = type(defaults().hyperparams)
        if not isinstance(self.hyperparams, expected):
            raise ValueError(
                f"hyperparams must be {expected.__name__}, got {type(self.hyperparams).__name__}"
            )
        for option in dataclasses.fields(self):
            if option.type is bool:
                check_flag(option.name, getattr(self, option.name))
        check_choice("network.activation", self.network.activation, tuple(networks.ACTIVATIONS))
        check_choice(
            "network.action_distribution",
            self.network.action_distribution,
            get_args(networks.ActionDistribution),
        )
        check_choice("network.memory", self.network.memory, MEMORIES)
        if self.network.factory:
            check_factory(self.network.factory)
        check_count("network.num_heads", self.network.num_heads)
        check_count("network.mlp_ratio", self.network.mlp_ratio)
        check_hyperparams(self.hyperparams)

    def _check_sizes(self) -> None:
        """Raise `ValueError` for sizes that no memory holds."""
        for owner, prefix in ((self, ""), (self.network, "network.")):
            for option in dataclasses.fields(owner):
                value = getattr(owner, option.name)
                is_whole = option.type is int and isinstance(value, int | np.integer)
                if is_whole and value >= MOST_SAMPLES:
                    raise ValueError(f"{prefix}{option.name} must be below 2^31, got {value}")
        if self.num_envs * self.num_steps >= MOST_SAMPLES:
            raise ValueError(
                f"num_envs × num_steps must be fewer than 2^31 samples of an update, got "
                f"{self.num_envs} × {self.num_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class REINFORCEConfig(AlgorithmConfig):
    """REINFORCE: one step along a Monte-Carlo policy gradient (Williams 1992)."""

    name = "reinforce"
    factory = staticmethod(reinforce)

    num_envs: int = 2
    """Environments that each seed steps in parallel; one episode of each counts per update."""
    num_steps: int = 500
    """Steps of each environment per update; at least the time limit, unless psi bootstraps."""
    psi: Psi = "baseline"
    """Weight of ∇log π: the episode's return, what is left of it, that minus a learned value, or a
    bootstrapped estimate."""
    discount_states: bool = False
    """Keep the factor γᵗ and average over episodes: unbiased for the discounted objective."""
    normalize_advantage: bool = False
    """Bring the weights to mean 0 and standard deviation 1 over the rollout."""
    critic_epochs: int = 5
    """Passes of the critic's regression over each rollout."""
    critic_minibatch_size: int = 500
    """Samples per step of that regression; divides num_envs × num_steps. With memory, a multiple of
    num_steps."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    hyperparams: REINFORCEHyperparams = field(default_factory=REINFORCEHyperparams)

    def check(self) -> None:
        """Raise `ValueError` for a value that no environment allows."""
        super().check()
        check_choice("psi", self.psi, get_args(Psi))
        _check_critic(self)


@dataclass(frozen=True, kw_only=True)
class A2CConfig(AlgorithmConfig):
    """Advantage actor-critic: one gradient step per rollout (Mnih et al. 2016, synchronous)."""

    name = "a2c"
    factory = staticmethod(a2c)

    num_envs: int = 8
    """Environments that each seed steps in parallel."""
    num_steps: int = 8
    """Steps of each environment per update."""
    normalize_advantage: bool = True
    """Normalise advantages over the rollout."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    hyperparams: A2CHyperparams = field(default_factory=A2CHyperparams)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(AlgorithmConfig):
    """Proximal policy optimisation: epochs of surrogate ascent (Schulman et al. 2017)."""

    name = "ppo"
    factory = staticmethod(ppo)

    num_envs: int = 4
    """Environments that each seed steps in parallel."""
    num_steps: int = 128
    """Steps of each environment per update."""
    surrogate: Surrogate = "clip"
    """Objective: clipped, an ablation of it, or penalised by the KL."""
    num_epochs: int = 4
    """Passes over each rollout."""
    num_minibatches: int = 4
    """Minibatches per pass; divides num_envs × num_steps."""
    normalize_advantage: AdvantageNormalization = "minibatch"
    """Normalise advantages over the whole batch, over each minibatch, or not (off)."""
    clip_value: bool = True
    """Clip the change of the value as that of the ratio."""
    early_stop: bool = False
    """End an update once its mean KL exceeds hyperparams.target_kl."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    hyperparams: PPOHyperparams = field(default_factory=PPOHyperparams)

    def check(self) -> None:
        """Raise `ValueError` for a value that no environment allows."""
        super().check()
        check_choice("surrogate", self.surrogate, get_args(Surrogate))
        check_count("num_epochs", self.num_epochs)
        check_count("num_minibatches", self.num_minibatches)
        if self.network.memory == "none":
            check_divisible(self.num_envs * self.num_steps, self.num_minibatches)
        else:
            check_divisible(self.num_envs, self.num_minibatches, "environments' sequences")


@dataclass(frozen=True, kw_only=True)
class NaturalGradientConfig(AlgorithmConfig):
    """What NPG and TRPO have in common."""

    num_envs: int = 8
    """Environments that each seed steps in parallel."""
    num_steps: int = 128
    """Steps of each environment per update."""
    fisher: FisherProduct = "gauss_newton"
    """Fisher-vector product: JᵀFJ, Hessian of the KL, or outer products of sampled scores."""
    fisher_fraction: float = 1.0
    """Share of the samples in the Fisher matrix, in (0, 1]; with memory, of the environments."""
    cg_iterations: int = 15
    """Conjugate-gradient iterations at most."""
    normalize_advantage: bool = True
    """Normalise advantages over the batch."""
    critic_epochs: int = 10
    """Passes of the critic's regression over each rollout."""
    critic_minibatch_size: int = 128
    """Samples per step of that regression; divides num_envs × num_steps. With memory, a multiple of
    num_steps."""
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def check(self) -> None:
        """Raise `ValueError` for a value that no environment allows."""
        super().check()
        check_choice("fisher", self.fisher, ("gauss_newton", "kl_hessian", "empirical"))
        check_number("fisher_fraction", self.fisher_fraction, POSITIVE_FRACTION)
        check_count("cg_iterations", self.cg_iterations)
        _check_critic(self)


@dataclass(frozen=True, kw_only=True)
class NPGConfig(NaturalGradientConfig):
    """Natural policy gradient: one step along F⁻¹g (Kakade 2001)."""

    name = "npg"
    factory = staticmethod(npg)

    step_size_rule: Literal["kl", "fixed"] = "kl"
    """Scale the step to hyperparams.max_kl, or multiply by hyperparams.step_size."""
    solver: Literal["cg", "dense"] = "cg"
    """Conjugate gradient, or an exact solve for small policies."""
    hyperparams: NPGHyperparams = field(default_factory=NPGHyperparams)


@dataclass(frozen=True, kw_only=True)
class TRPOConfig(NaturalGradientConfig):
    """Trust-region policy optimisation: F⁻¹g, backtracked into KL ≤ δ (Schulman et al. 2015)."""

    name = "trpo"
    factory = staticmethod(trpo)

    max_backtracks: int = 10
    """Candidates of the line search."""
    hyperparams: TRPOHyperparams = field(default_factory=TRPOHyperparams)

    def check(self) -> None:
        """Raise `ValueError` for a value that no environment allows."""
        super().check()
        check_count("max_backtracks", self.max_backtracks)


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(AlgorithmConfig):
    """Group-relative policy optimisation: no critic, groups of outputs (Shao et al. 2024)."""

    name = "grpo"
    factory = staticmethod(grpo)

    num_envs: int = 16
    """Environments that each seed steps in parallel; one episode of each counts per update."""
    num_steps: int = 500
    """Steps of each environment per update; at least the time limit."""
    group_size: int = 8
    """Episodes from one start state that are compared; divides num_envs."""
    advantage: group.GroupAdvantage = "zscore"
    """Standardised, minus the mean, minus the mean of the others, or softmax minus 1/G."""
    length_normalization: group.LengthNormalization = "per_sequence"
    """Weight of each step: 1/|o| of its episode, 1/Σ|o| of the batch, or 1/num_steps."""
    ratio: group.Ratio = "token"
    """The ratio that is clipped: each step's, or the geometric mean over its episode."""
    kl_estimator: group.KLEstimator = "k3"
    """Estimate of the KL to the reference policy at each step."""
    kl_form: group.KLForm = "loss"
    """A term of the loss; that term weighted by the ratio (the KL's own gradient); a part of the
    reward; or off."""
    num_epochs: int = 1
    """Updates on each rollout."""
    reference_every: int = 0
    """Updates after which the policy becomes the reference (0: the first one stays)."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    hyperparams: GRPOHyperparams = field(default_factory=GRPOHyperparams)

    @property
    def options(self) -> group.Options:
        """The choices that shape a batch's loss."""
        return group.Options(*(getattr(self, name) for name in group.Options._fields))

    def check(self) -> None:
        """Raise `ValueError` for a value that no environment allows."""
        super().check()
        group.check_options(self.options, self.num_epochs, self.reference_every)
        if self.num_envs % self.group_size:
            raise ValueError(
                f"num_envs must be a multiple of group_size = {self.group_size}, "
                f"got {self.num_envs}"
            )

    def make_networks(self, env: Any, env_params: EnvParams) -> tuple[Any, ...]:
        """Make a policy alone; with memory on token tasks, one that reads prompts."""
        network, on_tokens = self.network, hasattr(env, "prompt_length")
        if on_tokens and network.memory == "transformer":
            if self.num_steps > env.max_tokens:
                raise ValueError(
                    f"num_steps must be at most the transformer's {env.max_tokens} tokens of an "
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
    config.name: named_fields(config)
    for config in (REINFORCEConfig, A2CConfig, NPGConfig, TRPOConfig, PPOConfig, GRPOConfig)
}
"""Every algorithm by its command-line name."""


def _check_critic(config: Any) -> None:
    """Raise `ValueError` unless the critic's regression splits the batch evenly."""
    regression = critics.Regression(config.critic_epochs, config.critic_minibatch_size)
    critics.check(regression)
    memoryless = config.network.memory == "none"
    critics.check_batch(regression, config.num_envs, config.num_steps, memoryless)
