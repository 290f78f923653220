"""The protocol: seven tasks, eleven settings of PPO, and the other algorithms at the same horizon.

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, section 6.1 and table 3.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from purejax_po.checks import Range, check_choice, check_count, check_number
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.config import (
    A2CConfig,
    AlgorithmConfig,
    ExperimentConfig,
    NPGConfig,
    PPOConfig,
    REINFORCEConfig,
    TRPOConfig,
)

TOTAL_STEPS = 1_000_000
HORIZON = 2048
"""Steps of an update, over all environments of a lane."""
NO_CLIP = 1e9
"""An ε beyond every ratio: min(ρA, clip(ρ)A) is ρA, and unclipped shares the program of clip."""


class Task(NamedTuple):
    """One of the paper's tasks."""

    env: str
    """With the physics that are fast enough on a CPU and trained well; Brax's default elsewhere."""
    max_steps: int = 1000
    """Time limit, as Gym's."""


TASKS = {
    "halfcheetah": Task("brax/halfcheetah:spring"),
    "hopper": Task("brax/hopper:spring"),
    "inverted_double_pendulum": Task("brax/inverted_double_pendulum:generalized"),
    "inverted_pendulum": Task("brax/inverted_pendulum:generalized"),
    "reacher": Task("brax/reacher:generalized", 50),
    "swimmer": Task("brax/swimmer:generalized"),
    "walker2d": Task("brax/walker2d:spring"),
}
"""The paper's tasks, by name."""


class Setting(NamedTuple):
    """A row of the table."""

    label: str
    value: float
    """On the axis of its group's sweep."""
    paper: float | None
    """The paper's score."""


class Group(NamedTuple):
    """Settings that one compiled program serves: the points of a sweep, or one without."""

    algorithm: str
    options: dict[str, Any]
    """Fields of the algorithm's configuration."""
    axis: str | None
    settings: tuple[Setting, ...]
    """In the paper's order."""


PPO = {
    "num_epochs": 10,
    "num_minibatches": HORIZON // 64,
    "normalize_advantage": "batch",
    "clip_value": False,
}
"""The paper's table 3; the advantages' normalisation and no clipping of gradients or values are its
published code's."""
PPO_FLOATS = {
    "learning_rate": 3e-4,
    "learning_rate_decay": 0.0,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coef": 0.0,
    "max_grad_norm": 1e9,
    "kl_coef": 1.0,
}

GROUPS = {
    "clip": Group(
        "ppo",
        {"surrogate": "clip"},
        "clip_eps",
        (
            Setting("no clipping or penalty", NO_CLIP, -0.39),
            Setting("clipping, ε = 0.1", 0.1, 0.76),
            Setting("clipping, ε = 0.2", 0.2, 0.82),
            Setting("clipping, ε = 0.3", 0.3, 0.70),
        ),
    ),
    "adaptive_kl": Group(
        "ppo",
        {"surrogate": "adaptive_kl"},
        "kl_target",
        (
            Setting("adaptive KL, target 0.003", 0.003, 0.68),
            Setting("adaptive KL, target 0.01", 0.01, 0.74),
            Setting("adaptive KL, target 0.03", 0.03, 0.71),
        ),
    ),
    "fixed_kl": Group(
        "ppo",
        {"surrogate": "fixed_kl"},
        "kl_coef",
        (
            Setting("fixed KL, β = 0.3", 0.3, 0.62),
            Setting("fixed KL, β = 1", 1.0, 0.71),
            Setting("fixed KL, β = 3", 3.0, 0.72),
            Setting("fixed KL, β = 10", 10.0, 0.69),
        ),
    ),
    "npg": Group("npg", {}, None, (Setting("NPG", 0.0, None),)),
    "trpo": Group("trpo", {}, None, (Setting("TRPO", 0.0, None),)),
    "a2c": Group("a2c", {}, None, (Setting("A2C", 0.0, None),)),
    "reinforce": Group("reinforce", {}, None, (Setting("REINFORCE", 0.0, None),)),
}
"""Every program of the table, by the name of its directory."""

CHOICES = ("ppo", *GROUPS)
"""What `algorithms` names, single settings apart; ppo stands for all groups of PPO."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Tasks, algorithms and size of the table."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks, all seven by default."""
    algorithms: tuple[str, ...] = ("ppo",)
    """ppo stands for the paper's eleven settings. clip, adaptive_kl and fixed_kl stand for its
    settings of one program, clip=0.2 or clip=none for a single one. npg, trpo, a2c and reinforce
    are one setting each."""
    num_seeds: Annotated[int, tyro.conf.arg(name="seeds")] = 3
    """Runs of every setting on every task."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, …"""
    scale: float = 1.0
    """Share of the paper's million steps."""
    num_envs: int = 1
    """Environments that share a horizon of 2048 steps. The paper has 1. 4 × 512 is faster; it cuts
    episodes more often, and the critic's value then replaces the rest."""
    lanes_per_device: int | None = None
    """Runs side by side on each device; chosen by default."""

    def check(self) -> None:
        """Raise `ValueError` naming the field, its value and what is allowed."""
        for name, choices in (("tasks", tuple(TASKS)), ("algorithms", CHOICES)):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must be given once each, got {', '.join(given) or None}")
            for value in given:
                check_choice(name, value, (*choices, *_settings_of(value.partition("=")[0])))
        check_number("scale", self.scale, Range(0.0, includes_low=False))
        check_count("num_envs", self.num_envs)
        if HORIZON % self.num_envs:
            raise ValueError(f"num_envs must divide the horizon {HORIZON}, got {self.num_envs}")


class Job(NamedTuple):
    """One program on one task."""

    task: str
    group: str
    config: ExperimentConfig
    directory: Path

    def is_complete(self) -> bool:
        """Tell whether its results are written."""
        return (self.directory / layout.SUMMARY).exists()


def jobs(settings: Settings, out: str | os.PathLike[str]) -> list[Job]:
    """Return every program of the table on every task, checked; compiles nothing.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    atomic.check_path("out", out)
    settings.check()
    found = []
    for task in settings.tasks:
        for name, group in GROUPS.items():
            chosen = _chosen(name, group, settings.algorithms)
            if chosen:
                config = make_config(task, group._replace(settings=chosen), settings)
                config.check()
                found.append(Job(task, name, config, Path(out) / task / name))
    return found


def _settings_of(name: str) -> dict[str, Setting]:
    """Settings of a program by what `algorithms` calls them, as clip=0.2 and clip=none."""
    group = GROUPS.get(name)
    if group is None or group.axis is None:
        return {}
    values = {NO_CLIP: "none"}
    return {f"{name}={values.get(x.value, f'{x.value:g}')}": x for x in group.settings}


def _chosen(name: str, group: Group, algorithms: tuple[str, ...]) -> tuple[Setting, ...]:
    if name in algorithms or group.algorithm in algorithms:
        return group.settings
    return tuple(x for key, x in _settings_of(name).items() if key in algorithms)


def make_config(task: str, group: Group, settings: Settings) -> ExperimentConfig:
    """Return a group's experiment on a task, every update of which is a window of its own."""
    env, max_steps = TASKS[task]
    algorithm = _algorithm(group, settings.num_envs, max_steps)
    total_steps = round(settings.scale * TOTAL_STEPS)
    num_updates = total_steps // (algorithm.num_envs * algorithm.num_steps)
    return ExperimentConfig(
        algorithm=algorithm,
        env=env,
        env_params={"max_steps_in_episode": max_steps},
        num_seeds=settings.num_seeds,
        first_seed=settings.first_seed,
        total_steps=total_steps,
        normalize_observations=True,
        num_windows=min(max(10, num_updates), TOTAL_STEPS // HORIZON),
        lanes_per_device=settings.lanes_per_device,
        sweep={group.axis: tuple(x.value for x in group.settings)} if group.axis else {},
    )


def _algorithm(group: Group, num_envs: int, max_steps: int) -> AlgorithmConfig:
    """The paper's settings of PPO; the package's defaults of the others, at the same horizon."""
    shape: Any = {"num_envs": num_envs, "num_steps": HORIZON // num_envs}
    if group.algorithm == "ppo":
        ppo = PPOConfig(**shape, **PPO, **group.options)
        return _with_floats(ppo, PPO_FLOATS)
    if group.algorithm == "a2c":
        # One gradient step for each 64 samples, as a minibatch of PPO.
        a2c = A2CConfig(num_envs=8, num_steps=8)
        return _with_floats(a2c, {"entropy_coef": 0.0, "learning_rate_decay": 0.0})
    if group.algorithm == "reinforce":
        # Two whole episodes, or as many as come near the horizon.
        episodes = HORIZON // max_steps
        return REINFORCEConfig(
            num_envs=episodes,
            num_steps=max_steps,
            normalize_advantage=True,
            critic_minibatch_size=episodes * max_steps // 10,
        )
    natural = {"npg": NPGConfig, "trpo": TRPOConfig}[group.algorithm]
    return natural(**shape, critic_minibatch_size=64)


def _with_floats(algorithm: AlgorithmConfig, floats: Mapping[str, float]) -> AlgorithmConfig:
    hyperparams = dataclasses.replace(algorithm.hyperparams, **floats)
    return dataclasses.replace(algorithm, hyperparams=hyperparams)
