"""PPO's minibatch steps as one kernel each (`_xla.fused`), for networks of dense layers."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from purejax_po import advantages, minibatch
from purejax_po._xla import fused, packed, switch
from purejax_po._xla.shuffle import Shuffle
from purejax_po.algorithms import optimizers
from purejax_po.algorithms.actor_critic import Samples
from purejax_po.distributions import Categorical, DiagonalGaussian
from purejax_po.types import (
    ActorCriticParams,
    Array,
    Carry,
    Critic,
    Distribution,
    Info,
    Key,
    Observation,
    Params,
    Policy,
    PyTree,
)

NO_LOGIT = -1e30
"""Of the actions that a padded tile has beside those of the environment."""
NO_LOG_STD = -0.5 * math.log(2.0 * math.pi)
"""−½ log 2π, with which a coordinate that is 0 beside a mean of 0 has a density of 1."""

Moving = tuple[fused.Vectors, ArrayLike, Array]
"""What a step changes: parameters with their moments, the steps so far, whether it has stopped."""

Kind = TypeVar("Kind", Policy, Critic)

MakeLoss = Callable[..., Callable[[ActorCriticParams, Samples], tuple[Array, Info]]]
"""`(policy, critic, scalars) → loss`."""


def serves(
    policy: Policy,
    critic: Critic,
    samples: Samples,
    params: ActorCriticParams,
    num_minibatches: int,
) -> bool:
    """Whether a kernel can make the steps; warn why it cannot.

    Args:
        samples: of a rollout, `[S]`.
    """
    behaviour = samples.transition.behaviour
    if not (_is_described(policy) and _is_described(critic)):
        reason = "networks that are not the package's dense layers"
    elif not isinstance(samples.transition.obs, jax.Array):
        reason = "observations of several fields"
    elif not isinstance(behaviour, Categorical | DiagonalGaussian):
        reason = f"actions of a {type(behaviour).__name__}"
    elif samples.value.dtype != jnp.float32:
        reason = str(samples.value.dtype)
    elif not switch.on().flat_adam:
        reason = "moments in many arrays"
    elif (size := samples.value.size // num_minibatches) > fused.MOST_ROWS:
        reason = f"minibatches of {size} samples, at most {fused.MOST_ROWS}"
    elif (widest := max(max(x.shape) for x in jax.tree.leaves(params))) > fused.MOST_UNITS:
        reason = f"layers of {widest} units, at most {fused.MOST_UNITS}"
    else:
        return True
    warnings.warn(f"kernels pallas: not for {reason}; XLA's kernels are used", stacklevel=2)
    return False


def _is_described(network: Policy | Critic) -> bool:
    """Whether a network still is what its description says."""
    return network.dense is not None and network.dense.unroll is network.unroll


def learn(
    key: Key,
    policy: Policy,
    critic: Critic,
    make_loss: MakeLoss,
    samples: Samples,
    params: ActorCriticParams,
    moments: optax.OptState,
    adam: optimizers.Numbers,
    scalars: PyTree,
    *,
    num_epochs: int,
    num_minibatches: int,
    shuffle: Shuffle,
    normalizes: bool,
    stop_above: Array | float | None,
) -> tuple[ActorCriticParams, optax.OptState, Info]:
    """Make the epochs of an update on samples `[S]`: as `minibatch.epochs` with the plain step.

    Args:
        make_loss: `(policy, critic, scalars) → loss`, traced in the kernel.
        params, moments: where they begin.
        scalars: a tree of numbers for `make_loss`.
        normalizes: the advantages of each minibatch.
        stop_above: a mean KL from which on nothing changes.

    Returns:
        Parameters, moments and the steps' infos `[num_epochs · num_minibatches]`.
    """
    data, kind, num_actions = _data(policy, critic, samples)
    vector, unravel = ravel_pytree(params)
    mu, nu = (optax.tree.get(moments, name) for name in ("mu", "nu"))
    begin = fused.Vectors(vector, mu, nu), optax.tree.get(moments, "count"), jnp.bool_(False)

    gradient = _gradient_of(policy, critic, make_loss, params, (kind, num_actions), normalizes)

    def keeps(info: Info, numbers: PyTree) -> Array:
        return (numbers["stopped"] > 0) | (info["kl"] > numbers["stop_above"])

    size = samples.value.size
    order = jnp.reshape(minibatch.orders(key, size, num_epochs, shuffle), -1)

    def step(carry: Moving, turn: Array) -> tuple[Moving, Info]:
        vectors, count, stopped = carry
        more = optax.safe_increment(count)
        numbers = {"loss": scalars}
        if stop_above is not None:
            numbers |= {"stopped": stopped, "stop_above": stop_above}
        corrections: Any = tuple(1 - b**more for b in fused.DECAYS)
        vectors, info = fused.step(
            gradient,
            params,
            vectors,
            data,
            fused.Batch(order, turn, size // num_minibatches),
            numbers,
            fused.Adam(*adam, corrections=corrections),
            None if stop_above is None else keeps,
        )
        if stop_above is not None:
            stopped = stopped | (info["kl"] > stop_above)
            more = jnp.where(stopped, count, more)
            info["stopped"] = jnp.float32(stopped)
        return (vectors, more, stopped), info

    turns = jnp.arange(num_epochs * num_minibatches)
    (vectors, count, _), infos = packed.scan(step, begin, turns)
    state: Any = optax.tree.set(moments, count=count, mu=vectors.mu, nu=vectors.nu)
    return unravel(vectors.params), state, infos


def _gradient_of(
    policy: Policy,
    critic: Critic,
    make_loss: MakeLoss,
    params: ActorCriticParams,
    actions: tuple[type, int],
    normalizes: bool,
) -> fused.Gradient:
    """The gradient of a minibatch's loss, as the kernel computes it: in chunks of rows."""
    kind, num_actions = actions

    def gradient(inside: fused.Inside) -> tuple[ActorCriticParams, Info]:
        numbers = inside.scalars
        everything = inside.whole()[0]
        weight = everything.transition.weight
        total = jnp.sum(weight)
        mean = advantages.weighted_mean(everything.advantage, weight)
        variance = advantages.weighted_mean(jnp.square(everything.advantage - mean), weight)
        deviation = jnp.sqrt(variance) + 1e-8

        def chunk(name: str, i: Array) -> tuple[Params, Info]:
            """The share of some rows in the gradient of one network, and in the means."""
            start = i * inside.height
            layers = inside.params(name)["params"]
            described = (policy if name == "policy" else critic).dense
            assert described is not None  # `serves` has looked
            obs = inside.rows(start)[1][0 if name == "policy" else -1]
            dense = layers.get("mean", layers)
            outputs, pull = fused.network(dense, obs, described.activation)
            given = {"outputs": outputs}
            if "log_std" in layers:
                given["log_std"] = layers["log_std"]()
            seen = _samples(inside.rows(start)[0], kind, num_actions)
            if normalizes:
                seen = seen._replace(advantage=(seen.advantage - mean) / deviation)
            if name == "policy":
                head = functools.partial(_distribution, kind, num_actions)
                first, second = _given(policy, head), _constant(critic, seen.value)
            else:
                first = _constant(policy, seen.transition.behaviour)
                second = _given(critic, _value)
            loss = make_loss(first, second, numbers["loss"])

            def of_outputs(given: Params) -> tuple[Array, Info]:
                return loss(ActorCriticParams(given, given), seen)

            _, slope_of, info = jax.vjp(of_outputs, given, has_aux=True)
            share = jnp.sum(seen.transition.weight) / jnp.where(total > 0, total, 1.0)
            (slope,) = slope_of(share)
            found = pull(slope["outputs"])
            if "log_std" in layers:
                found = {"mean": found, "log_std": slope["log_std"]}
            return {"params": found}, jax.tree.map(lambda x: share * x, info)

        def one(name: str) -> tuple[Params, Info]:
            """One network after the other: two backward passes at once need twice the registers."""
            if inside.chunks == 1:
                return chunk(name, jnp.int32(0))
            shapes = jax.eval_shape(lambda: chunk(name, jnp.int32(0)))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

            def more(i: Array, found: tuple[Params, Info]) -> tuple[Params, Info]:
                return jax.tree.map(jnp.add, found, chunk(name, i))

            return jax.lax.fori_loop(0, inside.chunks, more, zeros)

        policy_slope, info = one("policy")
        critic_slope, critic_info = one("critic")
        slopes = ActorCriticParams(policy_slope, critic_slope)
        return slopes, {**info, "value_loss": critic_info["value_loss"]}

    return gradient


def _data(policy: Policy, critic: Critic, samples: Samples) -> tuple[PyTree, type, int]:
    """What the kernel reads of samples `[S]`, the class of the distribution, and its size."""
    transition = samples.transition
    encoders: list[Any] = [network.dense.encode for network in (policy, critic) if network.dense]
    obs = [encode(transition.obs) for encode in encoders]
    programs = [jax.make_jaxpr(encode)(transition.obs) for encode in encoders]
    if len({str(x) for x in programs}) == 1 and not programs[0].consts:
        del obs[1]  # both networks read the same
    behaviour = transition.behaviour
    leaves = tuple(jax.tree.leaves(behaviour))
    rest = samples._replace(
        transition=transition._replace(
            obs=None, next_obs=None, reward=None, terminated=None, truncated=None, start=None,
            behaviour=leaves,
        ),
        carry=((), ()),
    )  # fmt: skip
    return (rest, obs), type(behaviour), leaves[0].shape[-1]


def _samples(tiles: Samples, kind: type, num_actions: int) -> Samples:
    """The samples of a minibatch's tiles."""
    outputs: Any = tiles.transition.behaviour
    behaviour = _distribution(kind, num_actions, *outputs)
    return tiles._replace(transition=tiles.transition._replace(behaviour=behaviour))


def _distribution(
    kind: type, num_actions: int, outputs: Array, log_std: Array | None = None
) -> Distribution:
    """The distribution of a network's padded outputs `[B, n]`; what pads changes no number."""
    exists = jnp.arange(outputs.shape[-1])[None, :] < num_actions
    if log_std is None:
        return kind(jnp.where(exists, outputs, NO_LOGIT))
    log_std = jnp.broadcast_to(jnp.where(exists, log_std, NO_LOG_STD), outputs.shape)
    return _padded(kind, num_actions)(jnp.where(exists, outputs, 0.0), log_std)


def _padded(kind: type, num_actions: int) -> type:
    class Padded(kind):
        """Its entropy without that of the coordinates that pad, ½ each."""

        def entropy(self) -> Array:
            return super().entropy() - 0.5 * (self.mean.shape[-1] - num_actions)

    return Padded


def _value(outputs: Array) -> Array:
    """The value, first of the padded outputs `[B, n]`."""
    first = jnp.arange(outputs.shape[-1])[None, :] == 0
    return jnp.sum(jnp.where(first, outputs, 0.0), axis=-1)


def _given(network: Kind, head: Callable[..., Distribution | Array]) -> Kind:
    """The network whose parameters are its outputs, and the spread beside them."""

    def unroll(
        params: Params, carry: Carry, raw: Observation, start: Array
    ) -> Distribution | Array:
        return head(**params)

    return network._replace(unroll=unroll)


def _constant(network: Kind, output: Distribution | Array) -> Kind:
    """The network that says what was said before."""
    return network._replace(unroll=lambda params, carry, obs, start: output)
