"""What an experiment is: frozen dataclasses, checked before anything is compiled."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from purejax_po import environments
from purejax_po.checks import (
    Count,
    Range,
    WholeNumber,
    check_count,
    check_number,
    check_options,
)
from purejax_po.environments import parameters, registry
from purejax_po.experiment.config import schema, stored
from purejax_po.experiment.config.algorithms import AlgorithmConfig, PPOConfig
from purejax_po.experiment.config.names import NamedFields
from purejax_po.training import MatmulPrecision
from purejax_po.types import Environment, EnvParams, JSONObject

MAX_SEEDS = 1_000_000
MOST_EPISODES = 100_000
"""Of an evaluation in training, for each seed."""
EvaluationActions = Literal["greedy", "sampled"]
WHOLE_NUMBERS = Range(-(2.0**31), 2.0**31 - 129)
"""What a 32-bit integer holds, and a float does not round beyond."""
ENV_PARAMS = "env_params."
"""What the name of a swept field of the environment's parameters begins with."""

if TYPE_CHECKING:
    EnvName = Any
else:  # what the command line reads
    EnvName = str


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(NamedFields):
    """One algorithm on one environment over many seeds.

    Example:
        >>> import purejax_po as po
        >>> config = po.ExperimentConfig(num_seeds=16, sweep={"learning_rate": (1e-4, 1e-3)})
        >>> config.num_lanes
        32
    """

    algorithm: tyro.conf.Suppress[tyro.conf.Fixed[AlgorithmConfig]] = field(
        default_factory=PPOConfig
    )
    """The command line chooses it by subcommand."""
    env: EnvName = "CartPole-v1"
    """Environment id; `purejax-po envs` lists them. my_pkg.grid:Grid names one of your own: a
    class, a function that makes one, or an environment."""
    env_params: dict[str, float] = field(default_factory=dict)
    """Fields of the environment's parameters to set, e.g. max_torque 1.5."""
    env_options: dict[str, int] = field(default_factory=dict)
    """Whole-number arguments of the environment's constructor, e.g. length 8 for Chain-v0."""
    wrappers: tuple[str, ...] = ()
    """Around the environment, the first innermost: action_repeat:2, flatten_observation,
    frame_stack:4, reward_clip:1, reward_scale:0.1, sticky_actions:0.25, time_limit:200. Results
    and evaluations are those of the wrapped environment."""
    randomize: tuple[str, ...] = ()
    """Fields of the environment's parameters that are drawn at every reset: gravity=8:12 uniformly,
    gravity=log:5:20 uniformly in the logarithm, gravity=normal:10:1. Evaluations use the true
    values."""
    num_seeds: Annotated[int, tyro.conf.arg(name="seeds")] = 1
    """Independent training runs."""
    first_seed: Annotated[int, Count(0)] = 0
    """The seeds are first_seed, first_seed + 1, …"""
    total_steps: WholeNumber = 500_000
    """Environment steps per seed, rounded down to whole updates."""
    normalize_observations: bool = False
    """Show policy and critic (obs − mean)/std, clipped to ±10; training updates the moments."""
    normalize_rewards: bool = False
    """Train on reward / std of the running discounted return; results keep the true rewards."""
    matmul_precision: MatmulPrecision = "default"
    """Precision of matrix products, by JAX's names. On recent NVIDIA GPUs every one except
    float32 is tensorfloat32; on a CPU all are float32."""
    num_windows: Annotated[int, Count(10)] = 100
    """Points of the learning curve, at least 10: updates are averaged in windows."""
    evaluate_every: Annotated[int, Count(0)] = 0
    """Windows between evaluations of the policy on separate episodes, the same for every seed and
    algorithm. One evaluation follows the last window. 0: none."""
    evaluation_episodes: int = 16
    """Episodes of an evaluation."""
    evaluation_actions: EvaluationActions = "greedy"
    """The most likely actions, or sampled ones."""
    solve_return: float | None = None
    """The evaluation's mean return at which a task counts as solved; the results hold when."""
    stop_when_solved: float | None = None
    """As solve_return, and the seed's training ends there: its state no longer changes."""
    keep_best: bool = False
    """Keep of each seed the policy with the highest evaluation too, beside the final one."""
    lanes_per_device: int | None = None
    """Runs side by side on each device; chosen by default. Fix it to compare bit by bit."""
    sweep: tyro.conf.Suppress[tyro.conf.Fixed[dict[str, tuple[float, ...]]]] = field(
        default_factory=dict
    )
    """Values to try, by the name of a hyperparameter or by `env_params.NAME`: each seed trains once
    with each combination. The command line has `sweep` for it."""

    @property
    def env_name(self) -> str:
        """What the environment is called: its id, or the name of an object that has none."""
        return registry.label(self.env)

    @property
    def num_updates(self) -> int:
        """Updates that `total_steps` pays for."""
        return self.total_steps // (self.algorithm.num_envs * self.algorithm.num_steps)

    @property
    def log_every(self) -> int:
        """Updates per window."""
        return math.ceil(self.num_updates / self.num_windows)

    @property
    def threshold(self) -> float | None:
        """The return at which the task counts as solved; None if none was given."""
        return self.solve_return if self.stop_when_solved is None else self.stop_when_solved

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
        """Check every field except `env_params` and `sweep`, without compiling anything.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        check_count("num_seeds", self.num_seeds, maximum=MAX_SEEDS)
        check_options(self, cls=ExperimentConfig)
        if self.first_seed + self.num_seeds > 2**31:
            raise ValueError(f"first_seed + num_seeds must be ≤ 2^31, got {self.first_seed}")
        self._check_evaluation()
        if not isinstance(self.algorithm, AlgorithmConfig):
            raise ValueError(
                f"algorithm must be a configuration such as PPOConfig(), got {self.algorithm!r}"
            )
        if self.lanes_per_device is not None:
            check_count("lanes_per_device", self.lanes_per_device, maximum=MAX_SEEDS)
        for name in ("env_params", "env_options", "sweep"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be values by name, got {getattr(self, name)!r}")
        for name, values in self.sweep.items():
            if not hasattr(values, "__len__"):
                raise ValueError(f"sweep.{name} must hold at least one value, got {values!r}")
        for name in ("wrappers", "randomize"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or not all(isinstance(x, str) for x in value):
                raise ValueError(f"{name} must be a sequence of texts, got {value!r}")
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

    def _check_evaluation(self) -> None:
        check_count("evaluation_episodes", self.evaluation_episodes, maximum=MOST_EPISODES)
        if self.evaluate_every > self.num_windows:
            raise ValueError(
                f"evaluate_every must be at most num_windows = {self.num_windows}, "
                f"got {self.evaluate_every}"
            )
        if self.keep_best and not self.evaluate_every:
            raise ValueError(
                "keep_best must be False where nothing is evaluated (evaluate_every 0), got True"
            )
        for name in ("solve_return", "stop_when_solved"):
            if (value := getattr(self, name)) is None:
                continue
            check_number(name, value, Range())
            if not self.evaluate_every:
                raise ValueError(
                    f"{name} must be None where nothing is evaluated (evaluate_every 0), "
                    f"got {value:g}"
                )
        given = self.solve_return, self.stop_when_solved
        if None not in given and given[0] != given[1]:
            raise ValueError(
                f"solve_return must be None or as stop_when_solved, {self.stop_when_solved}, "
                f"got {self.solve_return}"
            )

    def check_stored(self) -> None:
        """Check that `config.json` would give back what runs, in another process too.

        Raises:
            ValueError: naming the class that could not be imported there, or the field that JSON
                does not hold.
        """
        if type(self) is not ExperimentConfig:
            raise ValueError(
                f"a run that is stored (out) must be an ExperimentConfig, got "
                f"{type(self).__name__}, whose own code config.json could not name; name an "
                "environment or an algorithm of your own (my_pkg.spo:SPO), or train it without out"
            )
        if not isinstance(self.env, str):
            raise ValueError(
                f"a run that is stored (out) must name its environment, got an object "
                f"{self.env_name}: env='my_pkg.grid:Grid' names one of a module; or train it "
                "without out"
            )
        stored.check(self.algorithm)
        try:
            again = ExperimentConfig.from_dict(json.loads(json.dumps(self.to_dict())))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"a run that is stored (out) must have fields that JSON holds: {error}"
            ) from None
        if json.dumps(again.identity()) != json.dumps(self.identity()):  # NaN is NaN
            raise ValueError(
                f"a run that is stored (out) must be read as it was written, got {self.algorithm} "
                f"and {again.algorithm}"
            )

    def make_env(self) -> tuple[Environment, EnvParams]:
        """Make the environment with `env_options` and `env_params` set.

        Raises:
            ValueError: for an unknown option, or field of the environment's parameters.
        """
        for name, value in self.env_options.items():
            check_count(f"env_options.{name}", value, minimum=0)
            check_number(f"env_options.{name}", value, WHOLE_NUMBERS)
        env, env_params = environments.make(
            self.env, wrappers=self.wrappers, randomize=self.randomize, **self.env_options
        )
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
                    f"env_params of {self.env_name} must be among {', '.join(fields)}, got {name!r}"
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
        return parameters.follow(self.env_name, env_params.replace(**changes), changes)

    def to_dict(self) -> JSONObject:
        """Return the configuration as JSON-ready nested dictionaries."""
        return {schema.FORMAT: schema.CURRENT, **self.identity()}

    def identity(self) -> JSONObject:
        """Return what the results depend on: `to_dict` without the format's number."""
        data = dataclasses.asdict(dataclasses.replace(self, env=self.env_name))
        return schema.plain({**data, "algorithm": stored.to_dict(self.algorithm)})

    @classmethod
    def from_dict(cls, data: JSONObject) -> "ExperimentConfig":
        """Undo `to_dict`, of this version or an older one; a field that is missing has its default.

        Raises:
            ValueError: naming a field that is unknown, or a format that is newer.
        """
        data = schema.migrate(data)
        algorithm = stored.from_dict(data.pop("algorithm"))
        return schema.build(cls, {**data, "algorithm": algorithm})
