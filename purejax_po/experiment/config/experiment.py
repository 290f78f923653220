"""What an experiment is: frozen dataclasses, checked before anything is compiled."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import tyro

from purejax_po import environments, networks, sequence
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
    Range,
    check_choice,
    check_count,
    check_flag,
    check_hyperparams,
    check_number,
)
from purejax_po.environments import parameters
from purejax_po.experiment.config import schema
from purejax_po.experiment.config.names import named_fields
from purejax_po.minibatch import check_divisible
from purejax_po.training import MatmulPrecision
from purejax_po.types import Algorithm, EnvParams

MAX_SEEDS = 1_000_000
WHOLE_NUMBERS = Range(-(2.0**31), 2.0**31 - 129)
"""What a 32-bit integer holds, and a float does not round beyond."""
ENV_PARAMS = "env_params."
"""What the name of a swept field of the environment's parameters begins with."""
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
        channels, space = self.network.channels, env.observation_space(env_params)
        networks.check_channels(channels, space, "network.channels")
        accepted = inspect.signature(type(self).factory).parameters
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return type(self).factory(
            *self.make_networks(env, env_params),
            **{k: v for k, v in options.items() if k in accepted},
        )

    def make_networks(self, env: Any, env_params: EnvParams) -> tuple[Any, ...]:
        """Make what the factory takes by position: a policy and a critic."""
        network = self.network
        if network.memory not in MAKE_NETWORKS:
            raise ValueError(
                f"network.memory must be one of {', '.join(MAKE_NETWORKS)} for {self.name} on "
                f"{env.name}, got {network.memory!r}"
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
        check_count("network.num_heads", self.network.num_heads)
        check_count("network.mlp_ratio", self.network.mlp_ratio)
        check_hyperparams(self.hyperparams)


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
    """How: standardised, minus the mean, minus the mean of the others, or softmax minus 1/G."""
    length_normalization: group.LengthNormalization = "per_sequence"
    """Weight of each step: 1/|o| of its episode, 1/Σ|o| of the batch, or 1/num_steps."""
    ratio: group.Ratio = "token"
    """The ratio that is clipped: each step's, or the geometric mean over its episode."""
    kl_estimator: group.KLEstimator = "k3"
    """Estimate of the KL to the reference policy at each step."""
    kl_form: group.KLForm = "loss"
    """A term of the loss; the same weighted by the ratio, which has the KL's own gradient; part of
    the reward; or off."""
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


@named_fields
@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One algorithm on one environment over many seeds."""

    algorithm: tyro.conf.Suppress[tyro.conf.Fixed[AlgorithmConfig]] = field(
        default_factory=PPOConfig
    )
    """The command line chooses it by subcommand."""
    env: str = "CartPole-v1"
    """Environment id; `purejax-po envs` lists them."""
    env_params: dict[str, float] = field(default_factory=dict)
    """Fields of the environment's parameters to set, e.g. max_torque 1.5."""
    env_options: dict[str, int] = field(default_factory=dict)
    """Whole-number arguments of the environment's constructor, e.g. length 8 for Chain-v0."""
    num_seeds: Annotated[int, tyro.conf.arg(name="seeds")] = 1
    """Independent training runs."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, …"""
    total_steps: int = 500_000
    """Environment steps per seed, rounded down to whole updates."""
    normalize_observations: bool = False
    """Show policy and critic (obs − mean)/std, clipped to ±10; the moments run with training."""
    normalize_rewards: bool = False
    """Train on reward / std of the running discounted return; results keep the true rewards."""
    matmul_precision: MatmulPrecision = "default"
    """Of products of matrices, by JAX's names. On recent NVIDIA GPUs all but float32 are
    tensorfloat32, on a CPU all are float32."""
    num_windows: int = 100
    """Points of the learning curve, at least 10: updates are averaged in windows."""
    lanes_per_device: int | None = None
    """Runs side by side on each device; chosen by default. Fix it to compare bit by bit."""
    sweep: tyro.conf.Suppress[tyro.conf.Fixed[dict[str, tuple[float, ...]]]] = field(
        default_factory=dict
    )
    """Values to try, by the name of a hyperparameter or by `env_params.NAME`: each seed trains once
    with each combination. The command line has `sweep` for it."""

    @property
    def num_updates(self) -> int:
        """Updates that `total_steps` pays for."""
        return self.total_steps // (self.algorithm.num_envs * self.algorithm.num_steps)

    @property
    def log_every(self) -> int:
        """Updates per window."""
        return math.ceil(self.num_updates / self.num_windows)

    @property
    def num_points(self) -> int:
        """Combinations of the swept values; 1 without a sweep."""
        return math.prod(len(values) for values in self.sweep.values())

    @property
    def num_lanes(self) -> int:
        """Training runs: seeds at each point."""
        return self.num_points * self.num_seeds

    def at(self, point: Mapping[str, float]) -> "ExperimentConfig":
        """Return the experiment without a sweep, at values by the names that a sweep takes."""
        hyperparams, env_params = self.algorithm.hyperparams, dict(self.env_params)
        for name, value in point.items():
            if name.startswith(ENV_PARAMS):
                env_params[name.removeprefix(ENV_PARAMS)] = value
            else:
                hyperparams = hyperparams.replace(**{name: value})
        algorithm = dataclasses.replace(self.algorithm, hyperparams=hyperparams)
        return dataclasses.replace(self, algorithm=algorithm, env_params=env_params, sweep={})

    def check(self) -> None:
        """Check every field, but for `env_params` and `sweep`, without compiling anything.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        check_count("num_seeds", self.num_seeds)
        check_count("first_seed", self.first_seed, minimum=0)
        if self.first_seed + self.num_seeds > 2**31:
            raise ValueError(f"first_seed + num_seeds must be ≤ 2^31, got {self.first_seed}")
        check_count("total_steps", self.total_steps)
        check_flag("normalize_observations", self.normalize_observations)
        check_flag("normalize_rewards", self.normalize_rewards)
        check_choice("matmul_precision", self.matmul_precision, get_args(MatmulPrecision))
        check_count("num_windows", self.num_windows, minimum=10)
        if self.num_seeds > MAX_SEEDS:
            raise ValueError(f"num_seeds must be at most {MAX_SEEDS}, got {self.num_seeds}")
        if not isinstance(self.algorithm, AlgorithmConfig):
            raise ValueError(
                f"algorithm must be a configuration such as PPOConfig(), got {self.algorithm!r}"
            )
        if self.lanes_per_device is not None:
            check_count("lanes_per_device", self.lanes_per_device)
            if self.lanes_per_device > MAX_SEEDS:
                raise ValueError(
                    f"lanes_per_device must be at most {MAX_SEEDS}, got {self.lanes_per_device}"
                )
        for name in ("env_params", "env_options"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be values by name, got {getattr(self, name)!r}")
        if not isinstance(self.sweep, Mapping):
            raise ValueError(f"sweep must be values by name, got {self.sweep!r}")
        self.algorithm.check()
        per_update = self.algorithm.num_envs * self.algorithm.num_steps
        if self.num_updates < 1:
            raise ValueError(
                f"total_steps must be at least one update, num_envs × num_steps = {per_update}, "
                f"got {self.total_steps}"
            )
        if self.num_updates >= 2**31:
            raise ValueError(
                f"total_steps must be fewer than 2^31 updates of {per_update}, "
                f"got {self.total_steps}"
            )
        environments.check_name(self.env)

    def check_stored(self) -> None:
        """Check that `config.json` would name what runs: classes of the package, not of one's own.

        Raises:
            ValueError: naming the class whose name would be read as another one's.
        """
        algorithm = self.algorithm
        own = ALGORITHMS.get(algorithm.name)
        pairs: list[tuple[Any, Any]] = [(self, ExperimentConfig), (algorithm, own)]
        if own is not None:
            defaults = own()  # type: ignore[call-arg]
            pairs += [
                (algorithm.network, NetworkConfig),
                (algorithm.hyperparams, type(defaults.hyperparams)),
            ]
        for value, expected in pairs:
            if type(value) is not expected:
                raise ValueError(
                    f"a run that is stored (out) must be of the package's own classes, got "
                    f"{type(value).__name__}: config.json names {algorithm.name!r} alone, so that "
                    "it could not be resumed or evaluated; train it without out"
                )

    def make_env(self) -> tuple[Any, EnvParams]:
        """Make the environment with `env_options` and `env_params` set.

        Raises:
            ValueError: for an unknown option, or field of the environment's parameters.
        """
        for name, value in self.env_options.items():
            check_count(f"env_options.{name}", value, minimum=0)
            check_number(f"env_options.{name}", value, WHOLE_NUMBERS)
        env, env_params = environments.make(self.env, **self.env_options)
        return env, self.set_env_params(env_params)

    def set_env_params(self, env_params: EnvParams) -> EnvParams:
        """Return an environment's parameters with those of the experiment set; errors as above."""
        if not self.env_params:
            return env_params
        fields = [f.name for f in dataclasses.fields(env_params)]
        changes = {}
        for name, value in self.env_params.items():
            if name not in fields:
                raise ValueError(
                    f"env_params of {self.env} must be among {', '.join(fields)}, got {name!r}"
                )
            default = getattr(env_params, name)
            check_number(f"env_params.{name}", value, Range())
            if isinstance(default, int):
                if float(value) != int(value):
                    raise ValueError(f"env_params.{name} must be a whole number, got {value}")
                if value not in WHOLE_NUMBERS:
                    raise ValueError(
                        f"env_params.{name} must be a whole number of at most 2147483519 on either "
                        f"side of 0 (32 bits, as a float holds them), got {value}"
                    )
            if name == "max_steps_in_episode":
                check_number(f"env_params.{name}", value, Range(1.0))
            changes[name] = type(default)(value) if isinstance(default, int | float) else value
        return parameters.follow(self.env, env_params.replace(**changes), changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready nested dictionaries."""
        return {schema.FORMAT: schema.CURRENT, **self.identity()}

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on: `to_dict` without the format's number."""
        data = dataclasses.asdict(self)
        data["algorithm"] = {"name": self.algorithm.name, **data["algorithm"]}
        return schema.plain(data)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ExperimentConfig":
        """Undo `to_dict`, of this version or an older one; a field that is missing has its default.

        Raises:
            ValueError: naming a field that is unknown, or a format that is newer.
        """
        data = schema.migrate(data)
        algorithm = dict(data.pop("algorithm"))
        config = algorithm_config(algorithm.pop("name"))
        return schema.build(cls, {**data, "algorithm": schema.build(config, algorithm)})


def _check_critic(config: Any) -> None:
    """Raise `ValueError` unless the critic's regression splits the batch evenly."""
    regression = critics.Regression(config.critic_epochs, config.critic_minibatch_size)
    critics.check(regression)
    memoryless = config.network.memory == "none"
    critics.check_batch(regression, config.num_envs, config.num_steps, memoryless)


def algorithm_config(name: str) -> type[AlgorithmConfig]:
    """Return an algorithm's configuration class by its command-line name.

    Raises:
        ValueError: for an unknown name, naming the nearest match.
    """
    check_choice("algorithm", name, tuple(ALGORITHMS))
    return ALGORITHMS[name]
