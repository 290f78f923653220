"""From a configuration to what is compiled, in the process that drives a run and in its workers."""

import dataclasses
import json
from collections.abc import Hashable

from purejax_po import named
from purejax_po.environments import registry
from purejax_po.experiment.config import ExperimentConfig, sweep
from purejax_po.experiment.run import evaluating
from purejax_po.training import make_trainer
from purejax_po.types import Environment, EnvParams, Trainer

EVALUATION = (
    *("evaluate_every", "evaluation_episodes", "evaluation_actions"),
    *("solve_return", "stop_when_solved", "keep_best"),
)
"""Fields of an experiment that say what another program does between windows."""
TRACED = ("num_seeds", "first_seed", "sweep", "total_steps", "num_windows", *EVALUATION)
"""Fields of an experiment that no program of training depends on."""


def build_trainer(config: ExperimentConfig) -> Trainer:
    """Make an experiment's environment, networks, algorithm and trainer.

    Raises:
        ValueError: in one line that names the field, the value and what is allowed.
    """
    env, env_params = config.make_env()
    sweep.check(config, env_params)
    trainer = make_trainer(
        env,
        env_params,
        config.algorithm.build(env, env_params),
        num_envs=config.algorithm.num_envs,
        num_steps=config.algorithm.num_steps,
        normalize_observations=config.normalize_observations,
        normalize_rewards=config.normalize_rewards,
        matmul_precision=config.matmul_precision,
    )
    sweep.check_effect(config, trainer)
    if config.evaluate_every:
        evaluating.check(config, trainer)
    return trainer


def true_env(config: ExperimentConfig, trainer: Trainer) -> tuple[Environment, EnvParams]:
    """Return a trainer's environment without the randomisation of its parameters."""
    if not config.randomize:
        return trainer.env, trainer.env_params
    return dataclasses.replace(config, randomize=()).make_env()


def program_key(config: ExperimentConfig, trainer: Trainer) -> Hashable:
    """What a program depends on: all of an experiment that is not a traced number."""
    try:
        config.check_stored()
    except ValueError:  # of one's own class, whose program may depend on anything
        return None
    data = {name: value for name, value in config.identity().items() if name not in TRACED}
    data["algorithm"] = {k: v for k, v in data["algorithm"].items() if k != "hyperparams"}
    # A module that is reloaded, or a name that is registered anew, has other objects.
    network, hyperparams = config.algorithm.network, config.algorithm.hyperparams
    factory = network.factory
    if factory and isinstance(factory, str):
        factory = named.find("network.factory", factory)
    classes = type(config.algorithm), type(network), type(hyperparams), type(trainer.env)
    code = *classes, factory, registry.target(config.env)
    key = json.dumps(data, sort_keys=True), type(config).make_env, code
    return key if all(isinstance(x, Hashable) for x in code) else None
