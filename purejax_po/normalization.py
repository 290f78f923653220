"""Running statistics of observations and of returns, and what is normalised by them.

Every lane has statistics of its own. They stand still through an update: the rollout and the
algorithm see observations normalised alike, so that "old" really is the behaviour policy, and what
was collected is merged afterwards. Before the first update there are none, and nothing is changed
except for the clipping. In a dictionary or a tuple each field of real or whole numbers has its own
statistics; masks and discrete observations stay as they are.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from purejax_po import metrics
from purejax_po.metrics import Moments
from purejax_po.observations import check_shape, field, with_fields
from purejax_po.types import (
    Actor,
    Array,
    Carry,
    Distribution,
    Observation,
    Params,
    PyTree,
    Transition,
)

OBSERVATION_CLIP = 10.0
"""Normalised observations stay within ± this many standard deviations; rewards are not clipped."""
RESOLUTION = 1e-5
"""A stream varies if its standard deviation exceeds this share of its mean: rounding does not."""


ObservationStatistics = Moments | dict[str, Moments]
"""Leaves `[*obs_shape]`, in float32 for observations of half precision and for integers; by name of
the fields that are normalised, where observations have fields."""


class ReturnStatistics(NamedTuple):
    """Running discounted return of every environment, and the moments of all its values."""

    running: Array
    """R_t, `[N]`, in reward units."""
    moments: Moments


class Normalization(NamedTuple):
    """A lane's statistics; `()` for what is not normalised."""

    obs: PyTree
    """`ObservationStatistics` over the observations that were acted on."""
    returns: PyTree
    """`ReturnStatistics`."""


class NormalizedParams(NamedTuple):
    """Parameters of an actor that sees normalised observations."""

    params: Params
    obs: ObservationStatistics


def init(obs: Observation, num_envs: int, *, observations: bool, rewards: bool) -> Normalization:
    """Return empty statistics.

    Args:
        obs: one observation, `[*obs_shape]`, or its fields that are normalised; shape and dtype
            suffice.
        num_envs: N, environments whose returns are followed.
        observations, rewards: what is to be normalised.
    """
    returns = ReturnStatistics(jnp.zeros(num_envs), Moments(*(jnp.zeros(()) for _ in range(3))))
    return Normalization(empty(obs) if observations else (), returns if rewards else ())


def empty(obs: Observation) -> ObservationStatistics:
    """The moments of no observation yet; arguments as `init`."""
    if isinstance(obs, dict):
        return {name: _nothing(x) for name, x in obs.items()}
    return _nothing(obs)


def _nothing(obs: Observation) -> Moments:
    dtype = metrics.accumulator(obs.dtype)
    return Moments(*(jnp.zeros(shape, dtype) for shape in ((), obs.shape, obs.shape)))


def apply(statistics: Normalization, transition: Transition) -> Transition:
    """Normalise observations and successors, and scale rewards, as far as there are statistics."""
    if statistics.obs != ():
        transition = transition._replace(
            obs=normalize_obs(statistics.obs, transition.obs),
            next_obs=normalize_obs(statistics.obs, transition.next_obs),
        )
    if statistics.returns != ():
        scale = standard_deviation(statistics.returns.moments)
        transition = transition._replace(reward=transition.reward / scale)
    return transition


def update(
    statistics: Normalization, transition: Transition, discount: Array | float | None
) -> Normalization:
    """Merge a rollout as it was collected, before `apply`; samples of weight zero do not count.

    Args:
        statistics: before.
        transition: leaves `[T, N, ...]`.
        discount: γ of the running discounted return; only rewards need it.
    """
    obs, returns = statistics
    if obs != ():
        obs = _merged(obs, transition)
    if returns != ():
        assert discount is not None
        values = discounted_returns(returns.running, transition, discount)
        moments = metrics.of_masked(values, transition.weight)
        returns = ReturnStatistics(values[-1], metrics.merge(returns.moments, moments))
    return Normalization(obs, returns)


def normalize_obs(statistics: ObservationStatistics, obs: Observation) -> Observation:
    """(obs − mean) / standard deviation, clipped at ± `OBSERVATION_CLIP`; `[..., *obs_shape]`."""
    if isinstance(statistics, dict):
        changed = {name: _normalized(x, field(obs, name)) for name, x in statistics.items()}
        return with_fields(obs, changed)
    return _normalized(statistics, obs)


def _normalized(moments: Moments, obs: Array) -> Array:
    check_shape(obs, moments.mean.shape)
    normalized = (obs - moments.mean) / standard_deviation(moments)
    return jnp.clip(normalized, -OBSERVATION_CLIP, OBSERVATION_CLIP)


def _merged(statistics: ObservationStatistics, transition: Transition) -> ObservationStatistics:
    """The statistics with the observations of a rollout."""
    obs, weight = transition.obs, transition.weight
    if isinstance(statistics, dict):
        return {
            name: metrics.merge(moments, metrics.of_masked(field(obs, name), weight))
            for name, moments in statistics.items()
        }
    return metrics.merge(statistics, metrics.of_masked(obs, weight))


def standard_deviation(moments: Moments) -> Array:
    """√(M2 / count), or 1 where nothing has varied yet.

    There is no ε: it would blow the first reward of a sparse environment up by 1/√ε.
    """
    variance = moments.m2 / jnp.maximum(moments.count, 1.0)
    varies = variance > jnp.square(RESOLUTION * moments.mean)
    return jnp.sqrt(jnp.where(varies, variance, 1.0))


def discounted_returns(running: Array, transition: Transition, discount: Array | float) -> Array:
    """R_t = r_t + γ(1 − start_t) R_{t−1}: the discounted sum of rewards so far in each episode.

    Args:
        running: R before the first step, `[N]`.
        transition: leaves `[T, N, ...]`; samples of weight zero leave R as it is.
        discount: γ in [0, 1].

    Returns:
        `[T, N]`, in reward units.

    Source: Engstrom et al. 2020, Implementation Matters in Deep Policy Gradients, appendix A.2.
    """
    inputs = transition.reward, transition.start, transition.weight
    chex.assert_equal_shape(inputs)

    def forward(running: Array, x: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, start, weight = x
        value = reward + discount * jnp.where(start, 0.0, running)
        value = jnp.where(weight > 0, value, running)
        return value, value

    return jax.lax.scan(forward, running, inputs)[1]


def normalizing(actor: Actor) -> Actor:
    """Return the actor that normalises what it sees; it acts with `NormalizedParams`.

    Args:
        actor: of normalised observations. Prompts are of tokens, which are not normalised.
    """

    def act(
        params: NormalizedParams, carry: Carry, obs: Observation, start: Array
    ) -> tuple[Carry, Distribution]:
        return actor.act(params.params, carry, normalize_obs(params.obs, obs), start)

    return actor._replace(act=act, prompt=None)
