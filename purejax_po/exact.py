"""Exact oracles on a finite MDP: values, gradients, curvature and bounds by linear algebra.

A policy is a table π `[S, A]` of probabilities. Every function is pure JAX, differentiable unless
it chooses an action, and computes in the dtype of its inputs: under `jax.enable_x64(True)` an MDP
made there has float64 tables, and the answers are exact to rounding error.

Every function can be jitted, and vmapped over MDPs, policies or parameters::

    mdps = jax.vmap(lambda key: garnet(key, 10, 4, 3, 0.9))(keys)
    returns = jax.vmap(expected_return, in_axes=(0, None))(mdps, pi)
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from purejax_po._xla import elimination
from purejax_po.checks import Range, check_count, check_number
from purejax_po.types import Array, Key, Params

LogPolicy = Callable[[Params], Array]
"""`theta → log π [S, A]`: a parametrised policy, evaluated in every state."""

_DISCOUNT = Range(0.0, 1.0, includes_high=False)
_SUM_TOLERANCE = 1e-5  # what probabilities normalised in float32 may be off by

# An accelerator's default precision for float32 products keeps ten bits; an oracle needs them all.
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class MDP(NamedTuple):
    """A finite Markov decision process with S states and A actions, discounted and never ending."""

    transition: Array
    """P[s, a, s'], `[S, A, S]`: the probability of the successor s'."""
    reward: Array
    """R[s, a], `[S, A]`: the expected reward."""
    start: Array
    """μ[s], `[S]`: the probability that an episode starts in s."""
    discount: Array | float
    """γ in [0, 1)."""


class OptimalPolicy(NamedTuple):
    """What policy iteration found."""

    policy: Array
    """A deterministic policy as a table `[S, A]` of zeros and ones."""
    value: Array
    """V* `[S]`."""
    converged: Array
    """No state's action can be improved any more."""
    num_iterations: Array


def make_mdp(
    transition: ArrayLike, reward: ArrayLike, start: ArrayLike, discount: ArrayLike
) -> MDP:
    """Make an MDP of tables, checked. Under tracing only the shapes can be.

    Args:
        transition: P `[S, A, S]`; every `transition[s, a]` sums to 1.
        reward: R `[S, A]`.
        start: μ `[S]`, sums to 1.
        discount: γ in [0, 1). With γ = 1 the values of a process that never ends are undefined.

    Raises:
        ValueError: naming the field, where in it the fault is, the value and what is allowed.
    """
    tables = [jnp.asarray(table) for table in (transition, reward, start)]
    dtype = jnp.result_type(*tables, 0.0)
    transition, reward, start = (table.astype(dtype) for table in tables)
    _check_shapes(transition, reward, start)
    if not any(isinstance(x, Tracer) for x in (transition, reward, start)):
        _check_probabilities("transition", np.asarray(transition))
        _check_finite("reward", np.asarray(reward))
        _check_probabilities("start", np.asarray(start))
    _check_discount(discount)
    return MDP(transition, reward, start, jnp.asarray(discount, dtype))


def garnet(
    key: Key, num_states: int, num_actions: int, branching: int, discount: Array | float
) -> MDP:
    """Draw a random MDP: `branching` successors per state and action, standard normal rewards.

    The successors are drawn without replacement, their probabilities and the start distribution
    uniformly from the simplex. The function can be jitted, and vmapped over keys.

    Args:
        key: a random key.
        num_states, num_actions: S and A, static.
        branching: successors of a state and action, static, at most S.
        discount: γ in [0, 1), checked unless it is traced.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Source: Archibald, McKinnon and Thomas 1995, On the generation of Markov decision processes.
    """
    check_count("num_states", num_states)
    check_count("num_actions", num_actions)
    check_count("branching", branching)
    if branching > num_states:
        raise ValueError(f"branching must be at most num_states = {num_states}, got {branching}")
    _check_discount(discount)
    rank_key, weight_key, reward_key, start_key = jax.random.split(key, 4)
    shape = (num_states, num_actions, num_states)
    rank = jnp.argsort(jax.random.uniform(rank_key, shape), axis=-1)
    # Exponential variables over their sum are uniform on the simplex.
    weight = jnp.where(rank < branching, jax.random.exponential(weight_key, shape), 0.0)
    start = jax.random.exponential(start_key, (num_states,))
    return MDP(
        transition=weight / jnp.sum(weight, axis=-1, keepdims=True),
        reward=jax.random.normal(reward_key, (num_states, num_actions)),
        start=start / jnp.sum(start),
        discount=jnp.asarray(discount, weight.dtype),
    )


def state_values(mdp: MDP, pi: Array) -> Array:
    """V = (I − γP_π)⁻¹R_π, `[S]`, of a policy table π `[S, A]`."""
    _check_tables(mdp, pi)
    return _solve(_resolvent(mdp, pi), jnp.sum(pi * mdp.reward, axis=-1))


def action_values(mdp: MDP, pi: Array) -> Array:
    """Q = R + γPV, `[S, A]`."""
    return mdp.reward + mdp.discount * _einsum("sat,t->sa", mdp.transition, state_values(mdp, pi))


def advantages(mdp: MDP, pi: Array) -> Array:
    """A = Q − V, `[S, A]`; its mean under π is zero in every state."""
    q = action_values(mdp, pi)
    # V as the mean of Q: one solve instead of two, and E_π[A] = 0 to rounding error.
    return q - jnp.sum(pi * q, axis=-1, keepdims=True)


def expected_return(mdp: MDP, pi: Array) -> Array:
    """J = μᵀV, a scalar: the expected discounted return."""
    return jnp.sum(mdp.start * state_values(mdp, pi))


def occupancy(mdp: MDP, pi: Array) -> Array:
    """Occupancy d = (1−γ)(I − γP_πᵀ)⁻¹μ = (1−γ) Σ_t γᵗ Pr(s_t = s), `[S]`; sums to 1."""
    _check_tables(mdp, pi)
    return (1.0 - mdp.discount) * _solve(_resolvent(mdp, pi).T, mdp.start)


def policy_gradient(mdp: MDP, log_policy: LogPolicy, theta: Params) -> Params:
    """∇J(θ) = 1/(1−γ) · Σ_s d(s) Σ_a π(a|s) A(s,a) ∇log π(a|s), a pytree like `theta`.

    Source: Sutton, McAllester, Singh and Mansour 2000, Policy Gradient Methods for Reinforcement
    Learning with Function Approximation, theorem 1.
    """
    log_pi, pull_back = jax.vjp(log_policy, theta)
    pi = jnp.exp(log_pi)
    weight = occupancy(mdp, pi)[:, None] * pi * advantages(mdp, pi) / (1.0 - mdp.discount)
    return pull_back(weight.astype(log_pi.dtype))[0]


def fisher_matrix(mdp: MDP, log_policy: LogPolicy, theta: Params) -> Array:
    """F = Σ_s d(s) Σ_a π(a|s) ∇log π ∇log πᵀ, `[n, n]` over the n raveled parameters.

    The order of the parameters is that of `jax.flatten_util.ravel_pytree(theta)`.

    Source: Kakade 2001, A Natural Policy Gradient, section 2.
    """
    flat, unravel = ravel_pytree(theta)
    pi = jnp.exp(log_policy(theta))
    score = jax.jacobian(lambda x: log_policy(unravel(x)))(flat)
    return _einsum("sa,sai,saj->ij", occupancy(mdp, pi)[:, None] * pi, score, score)


def surrogate(mdp: MDP, pi_old: Array, pi_new: Array) -> Array:
    """L_π(π') = J(π) + 1/(1−γ) · E_{s~d^π, a~π'}[A^π(s,a)], a scalar: J(π') to first order in π'.

    Args:
        mdp: the MDP.
        pi_old: π `[S, A]`, whose states and advantages are used.
        pi_new: π' `[S, A]`, whose actions are.

    Source: Schulman et al. 2015, Trust Region Policy Optimization, equation 3.
    """
    gain = _expected_advantage(mdp, occupancy(mdp, pi_old), pi_old, pi_new)
    return expected_return(mdp, pi_old) + gain


def performance_difference(mdp: MDP, pi_old: Array, pi_new: Array) -> Array:
    """1/(1−γ) · E_{s~d^π', a~π'}[A^π(s,a)] = J(π') − J(π), a scalar; π is old, π' new, `[S, A]`.

    Source: Kakade and Langford 2002, Approximately Optimal Approximate Reinforcement Learning,
    lemma 6.1.
    """
    return _expected_advantage(mdp, occupancy(mdp, pi_new), pi_old, pi_new)


def improvement_bound_kl(mdp: MDP, pi_old: Array, pi_new: Array) -> Array:
    """J(π') ≥ L_π(π') − C·max_s KL(π‖π'), C = 4εγ/(1−γ)², ε = max|A^π|: the right-hand side.

    It is −∞ where π' rules out an action that π takes and C > 0.

    Source: Schulman et al. 2015, Trust Region Policy Optimization, equation 9.
    """
    _check_tables(mdp, pi_old, pi_new)
    kl = jnp.sum(jax.scipy.special.rel_entr(pi_old, pi_new), axis=-1)
    return _improvement_bound(mdp, pi_old, pi_new, jnp.max(kl))


def improvement_bound_tv(mdp: MDP, pi_old: Array, pi_new: Array) -> Array:
    """J(π') ≥ L_π(π') − C·max_s TV(π, π')², C = 4εγ/(1−γ)², ε = max|A^π|: the right-hand side.

    By Pinsker's inequality it is never below `improvement_bound_kl`.

    Source: Schulman et al. 2015, Trust Region Policy Optimization, theorem 1.
    """
    _check_tables(mdp, pi_old, pi_new)
    total_variation = 0.5 * jnp.sum(jnp.abs(pi_old - pi_new), axis=-1)
    return _improvement_bound(mdp, pi_old, pi_new, jnp.square(jnp.max(total_variation)))


def greedy(mdp: MDP, pi: Array) -> Array:
    """The policy argmax_a Q^π(s,a) as a table `[S, A]` of zeros and ones; ties go to the first."""
    return _deterministic(mdp, jnp.argmax(action_values(mdp, pi), axis=-1))


def policy_iteration(mdp: MDP, max_iterations: int = 1000) -> OptimalPolicy:
    """Improve a policy greedily until it is stable: π ← argmax_a Q^π.

    Unlike the textbook's, a state keeps its action unless another is better by more than rounding
    error, so that ties cannot cycle.

    Args:
        mdp: the MDP.
        max_iterations: a guard; a few iterations are enough in practice.

    Returns:
        The optimal policy and its values; `converged` is false only if the guard ended the loop.

    Raises:
        ValueError: if `max_iterations` is not a positive whole number.

    Source: Howard 1960, Dynamic Programming and Markov Processes.
    """
    check_count("max_iterations", max_iterations)

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        _, converged, num_iterations = state
        return ~converged & (num_iterations < max_iterations)

    def improve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        action, _, num_iterations = state
        q = action_values(mdp, _deterministic(mdp, action))
        held = jnp.take_along_axis(q, action[:, None], axis=-1)[:, 0]
        rounding = 8.0 * jnp.finfo(q.dtype).eps * jnp.max(jnp.abs(q))
        better = jnp.max(q, axis=-1) > held + rounding
        action = jnp.where(better, jnp.argmax(q, axis=-1), action)
        return action, ~jnp.any(better), num_iterations + 1

    initial = (jnp.argmax(mdp.reward, axis=-1), jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    action, converged, num_iterations = jax.lax.while_loop(unfinished, improve, initial)
    pi = _deterministic(mdp, action)
    return OptimalPolicy(pi, state_values(mdp, pi), converged, num_iterations)


def natural_policy_gradient_step(mdp: MDP, pi: Array, step_size: Array | float) -> Array:
    """π⁺ ∝ π·exp(ηA/(1−γ)), `[S, A]`: θ + ηF⁺∇J for the tabular softmax, in policy space.

    An action whose probability is zero, or underflows to it, never comes back.

    Args:
        mdp: the MDP; the equivalence needs d(s) > 0 in every state.
        pi: π `[S, A]`.
        step_size: η.

    Source: Agarwal, Kakade, Lee and Mahajan 2021, On the Theory of Policy Gradient Methods,
    lemma 15.
    """
    return jax.nn.softmax(jnp.log(pi) + step_size * advantages(mdp, pi) / (1.0 - mdp.discount))


def _resolvent(mdp: MDP, pi: Array) -> Array:
    """I − γP_π, `[S, S]`."""
    transition = _einsum("sa,sat->st", pi, mdp.transition)
    return jnp.eye(pi.shape[0], dtype=transition.dtype) - mdp.discount * transition


def _solve(matrix: Array, b: Array) -> Array:
    """Return x `[S]` with matrix · x = b, for a resolvent `[S, S]` or its transpose.

    I − γP is diagonally dominant, so that elimination needs no pivots.
    """
    return jax.lax.custom_linear_solve(
        lambda x: _einsum("st,t->s", matrix, x),
        b,
        solve=lambda _, b: elimination.solve(matrix, b[:, None])[:, 0],
        transpose_solve=lambda _, b: elimination.solve(matrix.T, b[:, None])[:, 0],
    )


def _expected_advantage(mdp: MDP, d: Array, pi_old: Array, pi_new: Array) -> Array:
    """1/(1−γ) · E_{s~d, a~π'}[A^π(s,a)]."""
    _check_tables(mdp, pi_old, pi_new)
    weighted = d[:, None] * pi_new * advantages(mdp, pi_old)
    return jnp.sum(weighted) / (1.0 - mdp.discount)


def _improvement_bound(mdp: MDP, pi_old: Array, pi_new: Array, divergence: Array) -> Array:
    """L_π(π') − C·divergence."""
    epsilon = jnp.max(jnp.abs(advantages(mdp, pi_old)))
    scale = 4.0 * epsilon * mdp.discount / (1.0 - mdp.discount) ** 2
    penalty = jnp.where(scale > 0, scale * divergence, 0.0)  # not 0·∞
    return surrogate(mdp, pi_old, pi_new) - penalty


def _deterministic(mdp: MDP, action: Array) -> Array:
    """Actions `[S]` as a policy table `[S, A]`."""
    return jax.nn.one_hot(action, mdp.reward.shape[-1], dtype=mdp.reward.dtype)


def _check_tables(mdp: MDP, *policies: Array) -> None:
    chex.assert_rank(mdp.reward, 2)
    num_states, num_actions = mdp.reward.shape
    chex.assert_shape(mdp.transition, (num_states, num_actions, num_states))
    chex.assert_shape(mdp.start, (num_states,))
    chex.assert_shape(policies, (num_states, num_actions))


def _check_shapes(transition: Array, reward: Array, start: Array) -> None:
    shape = transition.shape
    if transition.ndim != 3 or shape[0] != shape[2] or 0 in shape:
        raise ValueError(f"transition must have a shape [S, A, S], got {list(shape)}")
    if reward.shape != shape[:2]:
        raise ValueError(f"reward must have the shape {list(shape[:2])}, got {list(reward.shape)}")
    if start.shape != shape[:1]:
        raise ValueError(f"start must have the shape {list(shape[:1])}, got {list(start.shape)}")


def _check_finite(name: str, table: np.ndarray) -> None:
    for index in np.argwhere(~np.isfinite(table)):
        where = ", ".join(map(str, index))
        raise ValueError(f"{name}[{where}] must be a finite number, got {table[tuple(index)]}")


def _check_probabilities(name: str, table: np.ndarray) -> None:
    """Raise `ValueError` unless the last axis of `table` holds distributions."""
    _check_finite(name, table)
    for index in np.argwhere(table < 0):
        where = ", ".join(map(str, index))
        raise ValueError(f"{name}[{where}] must be a number ≥ 0, got {table[tuple(index)]}")
    total = table.sum(axis=-1, dtype=np.float64)
    for index in np.argwhere(np.abs(total - 1.0) > _SUM_TOLERANCE):
        at = f" at (state, action) = ({index[0]}, {index[1]})" if index.size else ""
        raise ValueError(f"{name} must sum to 1, got {total[tuple(index)]:.6g}{at}")


def _check_discount(discount: ArrayLike) -> None:
    if not isinstance(discount, Tracer):
        check_number("discount", discount, _DISCOUNT)
