"""An algorithm under test: its trainer on CartPole, compiled once for all properties."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments.classic_control import cartpole

from purejax_po.metrics import Log
from purejax_po.testing.trees import repeated
from purejax_po.training import Result, make_train, make_trainer, seed_keys
from purejax_po.types import (
    Action,
    Algorithm,
    Array,
    EnvParams,
    EnvState,
    Hyperparams,
    Info,
    Key,
    Observation,
    Trainer,
)
from purejax_po.update import TrainState

NUM_UPDATES = 3


@struct.dataclass
class ScaledParams(cartpole.EnvParams):
    """CartPole's, and the scale of its reward."""

    reward_scale: float = 1.0


class ScaledCartPole(cartpole.CartPole):
    """CartPole whose reward has a traced scale, NaN if need be."""

    @property
    def default_params(self) -> EnvParams:
        """Return the parameters, with a scale of 1."""
        return ScaledParams()

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Observation, EnvState, Array, Array, Info]:
        """Make a step of CartPole; its reward is scaled."""
        obs, state, reward, terminated, info = super().step_env(key, state, action, params)
        return obs, state, reward * params.reward_scale, terminated, info


ENV, ENV_PARAMS = ScaledCartPole(), ScaledParams()
POISONED = ENV_PARAMS.replace(reward_scale=jnp.nan)  # type: ignore[attr-defined]


class Subject(NamedTuple):
    """A trainer and its compiled functions: alone, and over many lanes."""

    trainer: Trainer
    hyperparams: Hyperparams
    init: Callable[..., TrainState]
    """`(key, hyperparams, env_params) → TrainState`."""
    step: Callable[..., tuple[TrainState, Log]]
    """`(hyperparams, TrainState, env_params) → (TrainState, Log)`."""
    run_lanes: Callable[..., Result]
    """`(keys, hyperparams, env_params)`, leaves `[L, ...]` → `Result` after NUM_UPDATES."""
    traces: Counter[str]
    """How often each of the three was traced."""

    def run(
        self,
        seed: int = 0,
        hyperparams: Hyperparams = None,
        env_params: EnvParams = ENV_PARAMS,
        num_updates: int = NUM_UPDATES,
    ) -> tuple[list[TrainState], list[Log]]:
        """Train one lane update by update: every state, and the logs."""
        hyperparams = hyperparams or self.hyperparams
        states, logs = [self.init(jax.random.key(seed), hyperparams, env_params)], []
        for _ in range(num_updates):
            state, log = self.step(hyperparams, states[-1], env_params)
            states.append(state)
            logs.append(log)
        return states, logs

    def seeds(self, number: int) -> Result:
        """Train so many seeds side by side."""
        lanes = repeated(self.hyperparams, number), repeated(ENV_PARAMS, number)
        return self.run_lanes(seed_keys(number), *lanes)


def subject(
    algorithm: Algorithm, hyperparams: Hyperparams, *, num_envs: int, num_steps: int
) -> Subject:
    """Make an algorithm's trainer on `ENV`, and what is compiled of it."""
    trainer = make_trainer(ENV, ENV_PARAMS, algorithm, num_envs=num_envs, num_steps=num_steps)
    traces: Counter[str] = Counter()

    @jax.jit
    def init(key: Key, hyperparams: Hyperparams, env_params: EnvParams) -> TrainState:
        traces["init"] += 1
        return trainer.init(key, hyperparams, env_params, NUM_UPDATES)

    @jax.jit
    def step(
        hyperparams: Hyperparams, state: TrainState, env_params: EnvParams
    ) -> tuple[TrainState, Log]:
        traces["step"] += 1
        return trainer.step(hyperparams, state, env_params)

    @jax.jit
    def run_lanes(keys: Key, hyperparams: Hyperparams, env_params: EnvParams) -> Result:
        traces["run_lanes"] += 1
        train = make_train(trainer, num_updates=NUM_UPDATES)
        return jax.vmap(train)(keys, hyperparams, env_params)

    return Subject(trainer, hyperparams, init, step, run_lanes, traces)
