"""One trained policy, to act with: a function of observations, with its parameters."""

from collections.abc import Callable
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purejax_po import rollout
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.types import Action, Array, Carry, Distribution, Key, Observation, Params, Trainer


class LoadedPolicy:
    """One seed's final policy: `policy(obs)` is the most likely action.

    It holds the normalisation of observations, its memory, and the map of its actions into the
    environment's space.

    Without memory, observations `[..., *obs_shape]` give actions `[..., *action_shape]`; one
    observation of a discrete task gives a whole number that Gymnasium's `step` takes. With memory,
    `policy(obs, memory)` takes one observation and what the policy remembers, `None` at an
    episode's start, and returns `(action, memory)`.

    `jax.jit` and `jax.vmap` may contain it, and it can be pickled: another process needs this
    package and the modules that the run names, but not the run's directory.

    Attributes:
        config: the experiment that it comes from, at its point of a sweep.
        seed: the seed's value.
        params: its parameters, NumPy leaves; with the moments of normalised observations.
    """

    def __init__(
        self, config: ExperimentConfig, seed: int, params: Params, trainer: Trainer | None = None
    ) -> None:
        self.config, self.seed, self.params = config, int(seed), params
        if trainer is not None:
            self.__dict__["trainer"] = trainer

    def __reduce__(self) -> tuple[object, ...]:
        return LoadedPolicy, (self.config, self.seed, self.params)

    def __repr__(self) -> str:
        return f"LoadedPolicy({self.config.algorithm.name}, {self.config.env_name}, {self.seed})"

    @cached_property
    def trainer(self) -> Trainer:
        """Environment and networks, as the experiment makes them."""
        return build_trainer(self.config)

    @property
    def memoryless(self) -> bool:
        """Whether the policy looks at one observation alone."""
        return self.trainer.actor.memoryless

    def __call__(self, obs: Observation, memory: Carry = None) -> Action:
        """Return the most likely action; with memory, `(action, memory)`."""
        return self._told(self._act(obs, memory, None), obs)

    def sample(self, key: Key, obs: Observation, memory: Carry = None) -> Action:
        """Draw an action; with memory, `(action, memory)`.

        Args:
            key: decides it; observations side by side are drawn for independently.
            obs, memory: as `policy(obs, memory)`.
        """
        return self._told(self._act(obs, memory, key), obs)

    def distribution(self, obs: Observation, memory: Carry = None) -> Distribution:
        """Return the distribution of actions, before the bounds of the action space apply.

        Args:
            obs, memory: as `policy(obs, memory)`.
        """
        return self._distribution(obs, memory)[0]

    def step(self, obs: Observation, start: Array, memory: Carry) -> tuple[Action, Carry]:
        """Act in N environments at once; returns the most likely actions, and the memory.

        Args:
            obs: `[N, *obs_shape]`.
            start: which observations are the first of an episode, bool `[N]`.
            memory: leaves `[N, ...]`, as `initial_memory(N)` or the step before returned it.
        """
        memory, distribution = self.trainer.actor.act(self.params, memory, obs, start)
        return self._in_space(distribution.mode(), distribution), memory

    def initial_memory(self, num_envs: int) -> Carry:
        """The memory at an episode's start, leaves `[num_envs, ...]`; `()`: none."""
        return self.trainer.actor.initial_carry(num_envs)

    @cached_property
    def _act(self) -> Callable[..., tuple[Action, Carry]]:
        @jax.jit
        def act(obs: Array, memory: Carry, key: Key | None) -> tuple[Action, Carry]:
            distribution, memory = self._distribution(obs, memory)
            action = distribution.mode() if key is None else distribution.sample(key)
            return self._in_space(action, distribution), memory

        return act

    def _distribution(self, obs: Observation, memory: Carry) -> tuple[Distribution, Carry]:
        actor = self.trainer.actor
        if actor.memoryless:
            _, distribution = actor.act(self.params, (), obs, jnp.zeros((), bool))
            return distribution, ()
        alone = jax.tree.map(lambda x: jnp.asarray(x)[None], obs)
        start = jnp.full(1, memory is None)
        memory = actor.initial_carry(1) if memory is None else memory
        memory, distribution = actor.act(self.params, memory, alone, start)
        return jax.tree.map(lambda x: x[0], distribution), memory

    def _in_space(self, action: Array, distribution: Distribution) -> Action:
        space = self.trainer.env.action_space(self.trainer.env_params)
        return rollout.to_space(space, action, distribution)

    def _told(self, found: tuple[Action, Carry], obs: Observation) -> Action:
        """An action as callers take it; a lone whole number as NumPy's, which Gymnasium takes."""
        action, memory = found
        is_lone = isinstance(action, jax.Array) and action.shape == ()
        if is_lone and not isinstance(action, Tracer):
            action = np.asarray(action)[()]
        return action if self.memoryless else (action, memory)
