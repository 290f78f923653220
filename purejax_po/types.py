"""The types that the modules exchange."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax

from purejax_po.jacobian import Jacobian, linearized

Array = jax.Array
Key = jax.Array
Params = Any
Carry = Any
EnvParams = Any
EnvState = Any
Observation = Any
"""One array, or a dictionary or a tuple of arrays (see `observations`)."""
Action = Any
"""One array, or a tuple of arrays (see `spaces.to_space`)."""
Space = Any
"""The kinds that `spaces.kind` distinguishes."""
Hyperparams = Any
"""A pytree of floats."""
AlgorithmState = Any
"""A NamedTuple with the field `params`."""
PyTree = Any
"""Arrays in dictionaries, lists, tuples and dataclasses that JAX knows."""
Shapes = Any
"""A pytree whose leaves are `jax.ShapeDtypeStruct`, or arrays of which only that is read."""
Structure = Any
"""The structure of a pytree, as `jax.tree.structure` returns it."""
Info = dict[str, Array]
EnvInfo = dict[str, PyTree]
"""What else a step returns: arrays, and observations."""
JSONObject = dict[str, Any]
"""A JSON object: texts, numbers, booleans, nulls, and lists and objects of them."""

Network = TypeVar("Network")
DistributionType = TypeVar("DistributionType", bound="Distribution")


class Distribution(Protocol):
    """A batch of action distributions: a pytree of parameters with leading batch axes `[...]`.

    The leaves are unconstrained parameters (logits; mean and log standard deviation), so a tangent
    of a distribution is again a distribution of the same structure.
    """

    def noise(self, key: Key) -> Array:
        """Draw all the randomness that one `sample_from` needs; only the leaves' shapes matter."""
        ...

    def sample_from(self, noise: Array) -> Array:
        """Turn `noise` into actions `[..., *action_shape]`, deterministically."""
        ...

    def sample(self, key: Key) -> Array:
        """Draw actions `[..., *action_shape]`: `sample_from(noise(key))`."""
        ...

    def mode(self) -> Array:
        """Return the most likely actions `[..., *action_shape]`."""
        ...

    def log_prob(self, action: Array) -> Array:
        """Return log π(a|s) in nats, `[...]`."""
        ...

    def entropy(self) -> Array:
        """Return the (differential) entropy in nats, `[...]`."""
        ...

    def kl(self: DistributionType, other: DistributionType) -> Array:
        """Return KL(self ‖ other) in nats, `[...]`."""
        ...

    def fisher_product(self: DistributionType, tangent: DistributionType) -> DistributionType:
        """Multiply a tangent of the parameters by this distribution's Fisher matrix."""
        ...


class Environment(Protocol):
    """What the engine needs of an environment; gymnax's have it, and `contract.check` checks it.

    The engine maps over several by `jax.vmap`. Arguments are given by position.
    """

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    @property
    def default_params(self) -> EnvParams:
        """A pytree that `reset`, `step` and the spaces take, traced."""
        ...

    def reset(self, key: Key, params: EnvParams, /) -> tuple[Observation, EnvState]:
        """Start an episode: `(obs, state)`.

        An observation is an array `[*obs_shape]`, or a dictionary or a tuple of arrays. A field
        `action_mask` of a dictionary says which discrete actions are valid in the state that is
        observed (see `masks`): then no policy takes another one.
        """
        ...

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams, /
    ) -> tuple[Observation, EnvState, Array, Array, Array, EnvInfo]:
        """Make a step: `(obs, state, reward, terminated, truncated, info)`.

        Where an episode ends, `obs` and `state` are those that the next one starts at. So
        `info["final_observation"]` holds the true successor, at every step. `terminated` says that
        the episode really ended, `truncated` that a time limit cut it.
        """
        ...

    def observation_space(self, params: EnvParams, /) -> Space:
        """Return the space of one observation, of a kind that `spaces.kind` knows."""
        ...

    def action_space(self, params: EnvParams, /) -> Space:
        """Return the space of one action, of a kind that `spaces.kind` knows."""
        ...


class Device(Protocol):
    """One of `jax.devices()`."""

    id: int
    platform: str
    device_kind: str

    def memory_stats(self) -> dict[str, int] | None:
        """Bytes in use, their highest number and all there are, if the platform reports them."""
        ...


EnvName = str | Callable[..., object] | Environment
"""What stands for an environment: an id, `module:name`, what makes one, or one itself."""


class Policy(NamedTuple):
    """A policy: pure functions over a parameter pytree.

    With memory, `carry` is what is remembered between steps, one per environment. Without memory
    it is `()`, and `step` and `unroll` are one network that takes any leading axes.
    """

    init: Callable[[Key], Params]
    """`key → params`."""
    initial_carry: Callable[[int], Carry]
    """`num_envs → carry` at the start of an episode."""
    step: Callable[[Params, Carry, Observation, Array], tuple[Carry, Distribution]]
    """`(params, carry, obs [N, ...], start [N]) → (carry, Distribution [N])`; `start` says which
    observations are the first of an episode."""
    unroll: Callable[[Params, Carry, Observation, Array], Distribution]
    """`(params, carry, obs [T, N, ...], start [T, N]) → Distribution [T, N]`."""
    memoryless: bool = True
    prompt: "Prompt[Policy] | None" = None
    """How to read a first observation once, if that saves work. `step` reads it wherever an episode
    starts; `unroll` reads it at the first step, at which all episodes must start."""
    jacobian: Jacobian = linearized
    """How to compute products with the Jacobian of `unroll`'s distribution (Fisher products)."""
    dense: "Dense | None" = None
    """What it computes, if it has only dense layers."""


class Dense(NamedTuple):
    """What a kernel needs to know of a network of dense layers, apart from its parameters."""

    unroll: Callable[..., Distribution | Array]
    """That of the described network; a network with another `unroll` is not described."""
    encode: Callable[[Array], Array]
    """`obs [..., *obs_shape] → [..., inputs]`."""
    activation: Callable[[Array], Array]


class Actor(NamedTuple):
    """The functions that act in a rollout, given all parameters of the algorithm.

    It is less than a policy: nothing initialises or differentiates it. `acting` makes one of a
    policy.
    """

    initial_carry: Callable[[int], Carry]
    """`num_envs → carry` at the start of an episode."""
    act: Callable[[Params, Carry, Observation, Array], tuple[Carry, Distribution]]
    """`(params, carry, obs [N, ...], start [N]) → (carry, Distribution [N])`."""
    memoryless: bool = True
    """The carry is `()`, and `act` takes any leading axes."""
    prompt: "Prompt[Actor] | None" = None
    """As `Policy.prompt`."""


class Prompt(NamedTuple, Generic[Network]):
    """A first observation that a group shares can be read once, where all episodes start at once.

    `Network` is a `Policy` or an `Actor`.
    """

    read: Callable[[Params, Observation, int], Carry]
    """`(params, obs [N, ...], group_size) → carry`; `group_size` neighbours share one."""
    go_on: Network
    """The same network from there on: it never reads, and ignores `start`."""


class Critic(NamedTuple):
    """A state-value function: as `Policy`, with values in place of distributions."""

    init: Callable[[Key], Params]
    initial_carry: Callable[[int], Carry]
    step: Callable[[Params, Carry, Observation, Array], tuple[Carry, Array]]
    unroll: Callable[[Params, Carry, Observation, Array], Array]
    memoryless: bool = True
    is_shared: bool = False
    """It has no parameters and takes the policy's (see `shared_torso`)."""

    def params_of(self, params: "ActorCriticParams") -> Params:
        """Return the part of both networks' parameters that `step` and `unroll` take."""
        return params.policy if self.is_shared else params.critic

    dense: "Dense | None" = None
    """As `Policy.dense`."""


class Transition(NamedTuple):
    """What a rollout collects; every leaf is `[T, N, ...]` (time, environment)."""

    obs: Observation
    action: Array
    reward: Array
    next_obs: Observation
    """The true successor, never the observation after a reset."""
    terminated: Array
    """The episode really ended: the value of `next_obs` is zero."""
    truncated: Array
    """The episode was cut by a time limit: the value of `next_obs` counts."""
    start: Array
    """`obs` is the first observation of an episode."""
    behaviour: Distribution
    """The distribution that the action was drawn from."""
    weight: Array
    """1 for a real sample, 0 for padding."""


class Rollout(NamedTuple):
    """One update's data: transitions `[T, N]`, and what a policy with memory needs to replay."""

    transition: Transition
    carry: Carry
    """The actor's carry before the first step, `[N, ...]`; `()` without memory."""
    progress: Array
    """Updates done so far over updates planned, in [0, 1)."""


class Algorithm(NamedTuple):
    """A policy-optimisation algorithm as a pair of pure functions, as in optax."""

    actor: Actor
    """Acts with `state.params`."""
    hyperparams: Hyperparams
    """The default hyperparameters: a pytree of floats, handed back to `init` and `update`."""
    init: Callable[[Key, Hyperparams], AlgorithmState]
    """`(key, hyperparams) → state`, a NamedTuple with the field `params`."""
    update: Callable[[Key, Hyperparams, AlgorithmState, Rollout], tuple[AlgorithmState, Info]]
    """`(key, hyperparams, state, rollout) → (state, info)`; `info` holds scalars only."""
    complete_episodes: bool = False
    """Each rollout starts fresh episodes; only each environment's first one has weight (see
    `rollout.first_episodes`)."""
    group_size: int = 1
    """With complete episodes: this many neighbouring environments start from one state."""
    critic: Critic | None = None
    """Its parameters are `state.params.critic`, or `.policy` if it is shared; `None`: no critic."""


class ActorCriticParams(NamedTuple):
    """Separate parameters of a policy and of a critic; a shared critic has none, `()`."""

    policy: Params
    critic: Params


class Trainer(NamedTuple):
    """Environment, rollout and algorithm joined into two pure functions (see `make_trainer`)."""

    init: Callable[..., PyTree]
    """`(key, hyperparams, env_params=default, num_updates=inf) → TrainState`."""
    step: Callable[..., tuple[PyTree, PyTree]]
    """`(hyperparams, TrainState, env_params=default) → (TrainState, Log)`: one update."""
    env: Environment
    env_params: EnvParams
    algorithm: Algorithm
    num_envs: int
    num_steps: int
    actor: Actor
    """Acts on the environment's own observations with `TrainState.acting_params`."""

    def __repr__(self) -> str:
        name = getattr(self.env, "name", type(self.env).__name__)
        return f"Trainer({name}, num_envs={self.num_envs}, num_steps={self.num_steps})"

    @property
    def steps_per_update(self) -> int:
        """Return the environment steps that one update consumes."""
        return self.num_envs * self.num_steps
