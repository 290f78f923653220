"""A finite MDP as a gymnax environment, so that what is learned can be compared with `exact`.

Importing this module imports gymnax, which takes seconds.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from purejax_po.checks import check_count
from purejax_po.types import Action, Array, Info, Key


class Tables(Protocol):
    """What an MDP needs to be stepped; `exact.MDP` is one."""

    @property
    def transition(self) -> Array:
        """P[s, a, s'], `[S, A, S]`."""
        ...

    @property
    def reward(self) -> Array:
        """R[s, a], `[S, A]`."""
        ...

    @property
    def start(self) -> Array:
        """μ[s], `[S]`."""
        ...


@struct.dataclass
class EnvState(environment.EnvState):
    """The state that the process is in; `time` counts the steps of the episode."""

    index: Array


@struct.dataclass(kw_only=True)
class EnvParams(environment.EnvParams):
    """The tables of the MDP and the time limit, all traced: one program serves many MDPs."""

    transition: Array
    """P[s, a, s'], `[S, A, S]`."""
    reward: Array
    """R[s, a], `[S, A]`."""
    start: Array
    """μ[s], `[S]`."""
    max_steps_in_episode: int = 100


class FiniteMDP(environment.Environment[EnvState, EnvParams]):
    """A finite MDP: one-hot observations `[S]`, discrete actions, reward R[s, a].

    An episode never terminates; it is truncated after `max_steps_in_episode` steps.

    Args:
        mdp: an object with tables `transition`, `reward` and `start`: the default parameters. The
            tables in the parameters that `reset` and `step` are given count.

    Raises:
        ValueError: naming the table whose shape does not fit.
    """

    def __init__(self, mdp: Tables):
        super().__init__()
        num_states, num_actions = _sizes(mdp)
        self.num_states = num_states
        self._num_actions = num_actions
        self._default_params = EnvParams(
            transition=mdp.transition, reward=mdp.reward, start=mdp.start
        )

    @property
    def default_params(self) -> EnvParams:
        """The tables that the environment was made with, and a limit of 100 steps."""
        return self._default_params

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Array, EnvState, Array, Array, Info]:
        """Earn R[s, a] and move to a successor drawn from P[s, a]."""
        reward = params.reward[state.index, action]
        successor = _draw(key, params.transition[state.index, action])
        state = EnvState(index=successor, time=state.time + 1)
        return (
            self.get_obs(state),
            state,
            reward,
            self.is_terminated(state, params),
            {"discount": self.discount(state, params)},
        )

    def reset_env(self, key: Key, params: EnvParams) -> tuple[Array, EnvState]:
        """Start in a state drawn from μ."""
        state = EnvState(index=_draw(key, params.start), time=jnp.zeros((), jnp.int32))  # type: ignore[arg-type]
        return self.get_obs(state), state

    def get_obs(
        self, state: EnvState, params: EnvParams | None = None, key: Key | None = None
    ) -> Array:
        """The state, one-hot, float32 `[S]`."""
        return jax.nn.one_hot(state.index, self.num_states, dtype=jnp.float32)

    def is_terminated(self, state: EnvState, params: EnvParams) -> Array:
        """Never."""
        return jnp.zeros((), bool)

    @property
    def name(self) -> str:
        """The environment's name."""
        return "FiniteMDP"

    @property
    def num_actions(self) -> int:
        """The number of actions, A."""
        return self._num_actions

    def action_space(self, params: EnvParams | None = None) -> spaces.Discrete:
        """Actions 0, …, A − 1."""
        return spaces.Discrete(self._num_actions)

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """One-hot vectors `[S]`."""
        return spaces.Box(0.0, 1.0, (self.num_states,), dtype=jnp.float32)

    def state_space(self, params: EnvParams) -> spaces.Dict:
        """The state's index and the time."""
        return spaces.Dict(
            {
                "index": spaces.Discrete(self.num_states),
                "time": spaces.Discrete(params.max_steps_in_episode),
            }
        )


def make_finite_mdp(mdp: Tables, max_steps_in_episode: int = 100) -> tuple[FiniteMDP, EnvParams]:
    """Make a gymnax environment of an MDP.

    Args:
        mdp: an object with tables `transition` `[S, A, S]`, `reward` `[S, A]` and `start` `[S]`.
        max_steps_in_episode: the step after which an episode is truncated.

    Returns:
        `(env, env_params)`, as `gymnax.make`.

    Raises:
        ValueError: naming the table whose shape does not fit, or an impossible time limit.
    """
    check_count("max_steps_in_episode", max_steps_in_episode)
    env = FiniteMDP(mdp)
    return env, env.default_params.replace(max_steps_in_episode=max_steps_in_episode)  # type: ignore[attr-defined]


def _draw(key: Key, probability: Array) -> Array:
    """Draw an index from probabilities `[S]` by inverting the cumulative distribution."""
    cumulative = jnp.cumsum(probability)
    # Scaled by the rounded total, a state of probability zero is never drawn.
    threshold = jax.random.uniform(key, dtype=probability.dtype) * cumulative[-1]
    return jnp.sum(cumulative[:-1] <= threshold, dtype=jnp.int32)


def _sizes(mdp: Tables) -> tuple[int, int]:
    """Return S and A, or raise `ValueError` naming the table of the wrong shape."""
    num_states, num_actions = mdp.start.shape[0], mdp.reward.shape[-1]
    expected = {
        "transition": (num_states, num_actions, num_states),
        "reward": (num_states, num_actions),
        "start": (num_states,),
    }
    for name, shape in expected.items():
        actual = getattr(mdp, name).shape
        if actual != shape:
            raise ValueError(f"{name} must have the shape {list(shape)}, got {list(actual)}")
    return num_states, num_actions
