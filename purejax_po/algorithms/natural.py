"""The update that NPG and TRPO share: a step of the policy along F⁻¹g, then the critic's fit.

What differs is a `Rule`: how F x = g is solved, how long the step is, and which candidates are
accepted.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from purejax_po import advantages, curvature, minibatch
from purejax_po._xla.shuffle import Shuffle, permutation
from purejax_po.advantages import weighted_mean
from purejax_po.algorithms import actor_critic, critics, optimizers
from purejax_po.checks import (
    KnownNames,
    Positive,
    PositiveFraction,
    UnitInterval,
    WholeNumber,
    check_networks,
    check_own_critic,
)
from purejax_po.types import (
    ActorCriticParams,
    Algorithm,
    Array,
    Carry,
    Critic,
    Distribution,
    Hyperparams,
    Info,
    Key,
    Params,
    Policy,
    Rollout,
    Transition,
)

FisherProduct = Literal["gauss_newton", "kl_hessian", "empirical"]
RESOLUTION = 0.01
"""Share of the values' size below which a spread that no reward confirms is none."""


@flax.struct.dataclass
class NaturalHyperparams(KnownNames):
    """The floats that NPG and TRPO share, all traced."""

    max_kl: Positive = 0.01
    """δ: bound on the mean KL(π_old ‖ π_new) of an update (nats)."""
    damping: Positive = 0.1
    """Multiple of the identity added to the Fisher matrix."""
    cg_tolerance: Positive = 1e-10
    """Conjugate gradient stops at this residual, relative to the gradient's norm."""
    critic_learning_rate: Positive = 1e-3
    """Adam's step size for the critic."""
    discount: UnitInterval = 0.99
    """γ, per step."""
    gae_lambda: UnitInterval = 0.95
    """λ of generalised advantage estimation."""


@dataclass(frozen=True, kw_only=True)
class NaturalOptions(critics.CriticOptions):
    """What shapes the programs of both."""

    fisher: FisherProduct = "gauss_newton"
    """Fisher-vector product: JᵀFJ, Hessian of the KL, or outer products of sampled scores."""
    fisher_fraction: PositiveFraction = 1.0
    """Share of the samples in the Fisher matrix, in (0, 1], one random subset per update; with
    memory, of the environments, each with its whole sequence."""
    cg_iterations: WholeNumber = 15
    """Conjugate-gradient iterations at most."""
    normalize_advantage: bool = True
    """Normalise advantages over the batch, unless nothing but the critic tells its actions apart
    (see `natural.standardized`)."""


class State(NamedTuple):
    """Parameters, and the moments of the critic's Adam."""

    params: ActorCriticParams
    critic_optimizer: optax.OptState


Solve = Callable[[curvature.Product, Params, Hyperparams], curvature.Solution]
"""`(v → F v, gradient, hyperparams) → x` with F x = g."""
Step = Callable[[curvature.Solution, Hyperparams], Params]
"""`(x, hyperparams) → step`: how far along x."""
Accepts = Callable[[Info, Hyperparams], Array]
"""`(info, hyperparams) → bool`: whether a candidate of `kl` and `improvement` is taken."""


class Rule(NamedTuple):
    """What an algorithm states of its own."""

    solve: Solve
    step: Step
    accepts: Accepts = lambda info, hyperparams: jnp.bool_(True)
    """Without it there is one candidate, refused only if something is not finite."""
    shrink: Callable[[Hyperparams], Array | float] = lambda hyperparams: 0.5
    """`hyperparams → β`, the factor between candidates."""
    max_backtracks: int = 1
    """Number of candidates."""


class Ascent(NamedTuple):
    """How the policy went up its surrogate."""

    gradient: Params
    solution: curvature.Solution
    step: Params
    """The longest candidate."""
    search: curvature.LineSearch


def algorithm(
    policy: Policy,
    critic: Critic,
    options: NaturalOptions,
    hyperparams: NaturalHyperparams,
    rule: Rule,
) -> Algorithm:
    """Build θ ← θ + βᵏ·step(F⁻¹g), k the least that is accepted, and a critic fitted by Adam.

    Args:
        policy, critic: networks that share no parameters, with or without memory.
        options, hyperparams: checked; hyperparameters are the defaults, every field is traced.
        rule: what the algorithm states of its own.

    Raises:
        ValueError: for networks that are none.
    """
    check_networks(policy, critic)
    check_own_critic("a natural gradient", critic)

    def init(key: Key, hyperparams: NaturalHyperparams) -> State:
        params = actor_critic.init_params(key, policy, critic)
        adam = optimizers.adam(hyperparams.critic_learning_rate)
        return State(params, adam.init(params.critic))

    def update(
        key: Key, hyperparams: NaturalHyperparams, state: State, rollout: Rollout
    ) -> tuple[State, Info]:
        step_key, critic_key = jax.random.split(key)
        old, transition = state.params, rollout.transition
        policy_carry, critic_carry = rollout.carry or ((), ())
        estimates = critics.estimate(critic, old.critic, transition, hyperparams, critic_carry)
        samples, advantage, radius = transition, estimates.advantage, 1.0
        if options.normalize_advantage:
            advantage, radius = standardized(estimates, transition)
        if policy.memoryless:
            samples, advantage = minibatch.flatten_time((samples, advantage))
        objective = functools.partial(
            surrogate, policy, samples=samples, advantage=advantage, carry=policy_carry
        )
        curve = functools.partial(
            fisher_product,
            step_key,
            policy,
            old.policy,
            samples,
            kind=options.fisher,
            fraction=options.fisher_fraction,
            shuffle=options.shuffle,
            damping=hyperparams.damping,
            carry=policy_carry,
        )
        ascent = ascend(old.policy, objective, curve, rule, hyperparams, radius)
        fitted, moments, value_loss = critics.fit(
            critic_key,
            critic,
            old.critic,
            optimizers.adam(hyperparams.critic_learning_rate),
            state.critic_optimizer,
            critics.Targets(transition, estimates.value_target, critic_carry),
            options,
        )
        info = diagnostics(ascent, estimates, transition.weight)
        params = ActorCriticParams(ascent.search.params, fitted)
        return State(params, moments), {**info, "value_loss": value_loss}

    actor = actor_critic.actor(policy, critic)
    return Algorithm(actor, hyperparams, init, update, critic=critic)


def ascend(
    old: Params,
    objective: Callable[[Params], tuple[Array, Info]],
    curve: Callable[[], curvature.Product],
    rule: Rule,
    hyperparams: NaturalHyperparams,
    radius: Array | float = 1.0,
) -> Ascent:
    """Take the first accepted candidate along the natural gradient of an objective.

    Args:
        old: the parameters before.
        objective: `params → (L, diagnostics)`.
        curve: makes the Fisher-vector product at `old`.
        radius: factor of √δ in the length of the step, in [0, 1].
    """
    (old_value, old_info), gradient = jax.value_and_grad(objective, has_aux=True)(old)
    old_info["improvement"] = 0.0 * old_value
    solution = rule.solve(curve(), gradient, hyperparams)
    within = hyperparams.replace(max_kl=hyperparams.max_kl * radius**2)  # type: ignore[attr-defined]
    step = rule.step(solution, within)

    def judge(params: Params) -> tuple[Array, Info]:
        value, info = objective(params)
        info["improvement"] = value - old_value
        return rule.accepts(info, hyperparams), info

    search = curvature.line_search(
        judge,
        old,
        step,
        shrink=rule.shrink(hyperparams),
        max_backtracks=rule.max_backtracks,
        old_info=old_info,
    )
    return Ascent(gradient, solution, step, search)


def surrogate(
    policy: Policy, params: Params, samples: Transition, advantage: Array, carry: Carry = ()
) -> tuple[Array, Info]:
    """L(θ) = E[π_θ/π_old · Â], with mean KL(π_old ‖ π_θ) and mean entropy.

    At θ_old its gradient is E[Â ∇log π].

    Args:
        samples, advantage: `[B]`; with memory sequences `[T, N]`, unrolled from `carry` `[N, ...]`.

    Source: Schulman et al. 2015, Trust Region Policy Optimization, equation 14.
    """
    old, weight = samples.behaviour, samples.weight
    new = policy.unroll(params, carry, samples.obs, samples.start)
    ratio = jnp.exp(new.log_prob(samples.action) - old.log_prob(samples.action))
    info = {
        "kl": weighted_mean(old.kl(new), weight),
        "entropy": weighted_mean(new.entropy(), weight),
    }
    return weighted_mean(ratio * advantage, weight), info


def fisher_product(
    key: Key,
    policy: Policy,
    params: Params,
    samples: Transition,
    *,
    kind: FisherProduct,
    fraction: float,
    damping: Array | float,
    carry: Carry = (),
    shuffle: Shuffle = "uniform",
) -> curvature.Product:
    """Build the Fisher-vector product of a policy over samples, or a random share of them.

    The subset is drawn here, once: every application of the product sees the same one.

    Args:
        samples: `[B]`; with memory sequences `[T, N]`, unrolled from `carry` `[N, ...]`. The memory
            before the first step is a constant: no derivative goes through it.
    """
    if fraction < 1.0:
        size = samples.weight.shape[-1]
        subset = permutation(key, size, shuffle)[: max(1, round(fraction * size))]
        of_all_steps = (slice(None),) * (samples.weight.ndim - 1)
        samples = jax.tree.map(lambda x: x[(*of_all_steps, subset)], samples)
        carry = jax.tree.map(lambda x: x[subset], carry)

    def apply(params: Params) -> Distribution:
        return policy.unroll(params, carry, samples.obs, samples.start)

    if kind == "gauss_newton":
        return curvature.gauss_newton_product(
            apply, params, samples.weight, damping, jacobian=policy.jacobian
        )
    if kind == "kl_hessian":
        return curvature.kl_hessian_product(apply, params, samples.weight, damping)
    return curvature.empirical_product(apply, params, samples.weight, damping, samples.action)


def conjugate_gradient(cg_iterations: int) -> Solve:
    """Return the solver that stops after `cg_iterations`, or at `hyperparams.cg_tolerance`."""

    def solve(
        product: curvature.Product, gradient: Params, hyperparams: NaturalHyperparams
    ) -> curvature.Solution:
        return curvature.conjugate_gradient(
            product,
            gradient,
            max_iterations=cg_iterations,
            tolerance=hyperparams.cg_tolerance,
        )

    return solve


def standardized(estimates: critics.Estimates, transition: Transition) -> tuple[Array, Array]:
    """Advantages of mean 0 and standard deviation 1, unless the rollout has no evidence for them.

    Where all rewards are equal and no episode terminates, what differs among the advantages is the
    critic's doing alone. If that is less than `RESOLUTION` of the values' size, the advantages have
    no spread: they are not stretched to deviation 1 but to their share of that resolution,
    σ(Â) / (RESOLUTION · max(1, rms(Â + V))), and the trust region's radius √δ shrinks by the same
    factor. Without that a step along F⁻¹g has its full length whatever the gradient's. A larger
    spread counts, since it may hold what the critic learned from earlier rewards.

    Args:
        estimates, transition: of one rollout, `[T, N]`; samples of weight zero do not count.

    Returns:
        The advantages `[T, N]`, and the factor of the radius, in [0, 1].
    """
    weight = transition.weight
    counts = weight > 0
    lowest = jnp.min(jnp.where(counts, transition.reward, jnp.inf))
    highest = jnp.max(jnp.where(counts, transition.reward, -jnp.inf))
    has_evidence = (highest > lowest) | jnp.any(counts & transition.terminated)
    mean = advantages.weighted_mean(estimates.advantage, weight)
    deviation = jnp.sqrt(advantages.weighted_mean(jnp.square(estimates.advantage - mean), weight))
    size = jnp.sqrt(advantages.weighted_mean(jnp.square(estimates.value_target), weight))
    share = jnp.minimum(deviation / (RESOLUTION * jnp.maximum(size, 1.0)), 1.0)
    factor = jnp.where(has_evidence, 1.0, share)
    return factor * advantages.normalize(estimates.advantage, weight), factor


def scaled_to_kl(solution: curvature.Solution, hyperparams: NaturalHyperparams) -> Params:
    """√(2δ / xᵀFx)·x, undamped of KL δ to second order; zero where xᵀFx is not positive."""
    positive = solution.quadratic > 0
    scale = jnp.sqrt(2.0 * hyperparams.max_kl / jnp.where(positive, solution.quadratic, 1.0))
    scale = jnp.where(positive, scale, 0.0)
    return jax.tree.map(lambda x: (scale * x).astype(x.dtype), solution.x)


def dot(a: Params, b: Params) -> Array:
    """Inner product of two pytrees."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return jnp.sum(jnp.stack(jax.tree.leaves(products)))


def diagnostics(ascent: Ascent, estimates: critics.Estimates, weight: Array) -> Info:
    """Scalars that tell how an update went; `kl_full_step` is that before any backtracking."""
    gradient, solution, step, search = ascent
    return {
        **search.info,
        "kl_full_step": search.first_info["kl"],
        "expected_improvement": search.fraction * dot(gradient, step),
        "step_fraction": search.fraction,
        "cg_residual": solution.residual,
        "cg_iterations": solution.iterations.astype(jnp.float32),
        "explained_variance": advantages.explained_variance(
            estimates.value, estimates.value_target, weight
        ),
    }
