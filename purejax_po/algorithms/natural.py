"""What the natural-gradient algorithms (NPG, TRPO) share: objective, direction and step length."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purejax_po import advantages, curvature, minibatch
from purejax_po.advantages import weighted_mean
from purejax_po.algorithms import actor_critic, optimizers
from purejax_po.types import (
    POSITIVE_FRACTION,
    ActorCriticParams,
    Array,
    Critic,
    Info,
    Key,
    Params,
    Policy,
    Transition,
    check_choice,
    check_count,
    check_networks,
    check_number,
)

RESOLUTION = 0.01
"""Share of the values' size below which a spread that no reward confirms is none."""
FisherProduct = Literal["gauss_newton", "kl_hessian", "empirical"]
Solver = Literal["cg", "dense"]


class State(NamedTuple):
    """Parameters, and the moments of the critic's Adam."""

    params: ActorCriticParams
    critic_optimizer: optax.OptState


def init(key: Key, policy: Policy, critic: Critic, critic_learning_rate: Array | float) -> State:
    """Draw both networks, and start the critic's Adam."""
    params = actor_critic.init_params(key, policy, critic)
    return State(params, optimizers.adam(critic_learning_rate).init(params.critic))


def surrogate(
    policy: Policy, params: Params, samples: Transition, advantage: Array
) -> tuple[Array, Info]:
    """L(θ) = E[π_θ/π_old · Â] over samples `[B]`, with mean KL(π_old ‖ π_θ) and mean entropy.

    At θ_old its gradient is E[Â ∇log π].

    Source: Schulman et al. 2015, Trust Region Policy Optimization, equation 14.
    """
    old, weight = samples.behaviour, samples.weight
    new = policy.unroll(params, (), samples.obs, samples.start)
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
) -> curvature.Product:
    """Build the Fisher-vector product of a policy over samples `[B]`, or a random share of them.

    The subset is drawn here, once: every application of the product sees the same one.
    """
    if fraction < 1.0:
        size = samples.weight.shape[0]
        subset = minibatch.permutation(key, size)[: max(1, round(fraction * size))]
        samples = jax.tree.map(lambda x: x[subset], samples)

    def apply(params: Params) -> Any:
        return policy.unroll(params, (), samples.obs, samples.start)

    if kind == "gauss_newton":
        return curvature.gauss_newton_product(
            apply, params, samples.weight, damping, layerwise=policy.layerwise
        )
    if kind == "kl_hessian":
        return curvature.kl_hessian_product(apply, params, samples.weight, damping)
    return curvature.empirical_product(apply, params, samples.weight, damping, samples.action)


def standardized(estimates: actor_critic.Estimates, transition: Transition) -> tuple[Array, Array]:
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


def scale_to_kl(solution: curvature.Solution, max_kl: Array | float) -> Params:
    """√(2δ / xᵀFx)·x, undamped of KL δ to second order; zero where xᵀFx is not positive."""
    positive = solution.quadratic > 0
    scale = jnp.sqrt(2.0 * max_kl / jnp.where(positive, solution.quadratic, 1.0))
    scale = jnp.where(positive, scale, 0.0)
    return jax.tree.map(lambda x: (scale * x).astype(x.dtype), solution.x)


def dot(a: Params, b: Params) -> Array:
    """Inner product of two pytrees."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return jnp.sum(jnp.stack(jax.tree.leaves(products)))


def diagnostics(
    gradient: Params,
    step: Params,
    solution: curvature.Solution,
    search: curvature.LineSearch,
    estimates: actor_critic.Estimates,
    weight: Array,
) -> Info:
    """Scalars that tell how an update went; `kl_full_step` is that before any backtracking."""
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


def check_options(
    policy: Policy,
    critic: Critic,
    *,
    fisher: str,
    fisher_fraction: float,
    cg_iterations: int,
    critic_epochs: int,
    critic_minibatch_size: int,
) -> None:
    """Raise `ValueError` for options that neither NPG nor TRPO can serve."""
    check_networks(policy, critic)
    if not (policy.memoryless and critic.memoryless):
        raise ValueError(
            "NPG and TRPO need a policy and a critic without memory, got recurrent ones"
        )
    check_choice("fisher", fisher, ("gauss_newton", "kl_hessian", "empirical"))
    check_number("fisher_fraction", fisher_fraction, POSITIVE_FRACTION)
    check_count("cg_iterations", cg_iterations)
    check_count("critic_epochs", critic_epochs)
    check_count("critic_minibatch_size", critic_minibatch_size)
