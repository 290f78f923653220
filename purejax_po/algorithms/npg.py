"""Natural policy gradient: one step along the inverse Fisher matrix times the gradient.

Source: Kakade 2001, A Natural Policy Gradient.
"""

from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from purejax_po import curvature, minibatch
from purejax_po.algorithms import actor_critic, natural, optimizers
from purejax_po.types import (
    ActorCriticParams,
    Algorithm,
    Array,
    Critic,
    Info,
    Key,
    Params,
    Policy,
    Positive,
    Rollout,
    UnitInterval,
    check_choice,
    check_hyperparams,
    known_names,
)


@known_names
@flax.struct.dataclass
class NPGHyperparams:
    """The floats of NPG, all traced."""

    max_kl: Positive = 0.01
    """δ: quadratic estimate of an update's mean KL (nats); used with step_size_rule kl."""
    step_size: Positive = 0.1
    """η: multiple of the natural gradient; used with step_size_rule fixed."""
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


def npg(
    policy: Policy,
    critic: Critic,
    *,
    step_size_rule: Literal["kl", "fixed"] = "kl",
    solver: Literal["cg", "dense"] = "cg",
    fisher: natural.FisherProduct = "gauss_newton",
    fisher_fraction: float = 1.0,
    cg_iterations: int = 15,
    normalize_advantage: bool = True,
    critic_epochs: int = 10,
    critic_minibatch_size: int = 128,
    hyperparams: NPGHyperparams | None = None,
) -> Algorithm:
    """Build NPG: θ ← θ + η x, F x = ∇E[Â log π], η fixed or √(2δ / xᵀFx).

    Args:
        policy, critic: networks without memory that share no parameters.
        step_size_rule: `"kl"` normalises the step to δ, `"fixed"` multiplies by η.
        solver: `"cg"`, or `"dense"` for an exact solve (policies of a few hundred parameters).
        fisher: which Fisher-vector product: `"gauss_newton"`, `"kl_hessian"` or `"empirical"`.
        fisher_fraction: share of the samples in it, one random subset per update, in (0, 1].
        cg_iterations: conjugate-gradient iterations at most.
        normalize_advantage: to mean 0 and standard deviation 1 over the batch, unless nothing but
            the critic tells its actions apart (see `natural.standardized`).
        critic_epochs, critic_minibatch_size: of the critic's regression on the λ-returns.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    hyperparams = NPGHyperparams() if hyperparams is None else hyperparams
    check_hyperparams(hyperparams)
    check_choice("step_size_rule", step_size_rule, ("kl", "fixed"))
    check_choice("solver", solver, ("cg", "dense"))
    natural.check_options(
        policy,
        critic,
        fisher=fisher,
        fisher_fraction=fisher_fraction,
        cg_iterations=cg_iterations,
        critic_epochs=critic_epochs,
        critic_minibatch_size=critic_minibatch_size,
    )

    def init(key: Key, hyperparams: NPGHyperparams) -> natural.State:
        return natural.init(key, policy, critic, hyperparams.critic_learning_rate)

    def update(
        key: Key, hyperparams: NPGHyperparams, state: natural.State, rollout: Rollout
    ) -> tuple[natural.State, Info]:
        step_key, critic_key = jax.random.split(key)
        transition, old_params = rollout.transition, state.params.policy
        estimates = actor_critic.estimate(
            critic, state.params.critic, transition, hyperparams.discount, hyperparams.gae_lambda
        )
        advantage, radius = estimates.advantage, 1.0
        if normalize_advantage:
            advantage, radius = natural.standardized(estimates, transition)
        samples, advantage = minibatch.flatten_time((transition, advantage))

        def surrogate(params: Params) -> tuple[Array, Info]:
            return natural.surrogate(policy, params, samples, advantage)

        (old_value, old_info), gradient = jax.value_and_grad(surrogate, has_aux=True)(old_params)
        old_info["improvement"] = 0.0 * old_value
        product = natural.fisher_product(
            step_key,
            policy,
            old_params,
            samples,
            kind=fisher,
            fraction=fisher_fraction,
            damping=hyperparams.damping,
        )
        if solver == "cg":
            solution = curvature.conjugate_gradient(
                product, gradient, max_iterations=cg_iterations, tolerance=hyperparams.cg_tolerance
            )
        else:
            solution = curvature.dense_solve(product, gradient)
        if step_size_rule == "kl":
            step = natural.scale_to_kl(solution, hyperparams.max_kl * radius**2)
        else:
            step = jax.tree.map(lambda x: hyperparams.step_size * x, solution.x)

        def evaluate(params: Params) -> tuple[Array, Info]:
            value, info = surrogate(params)
            return jnp.bool_(True), {**info, "improvement": value - old_value}

        # One candidate, refused only if something is not finite.
        search = curvature.line_search(
            evaluate, old_params, step, shrink=0.5, max_backtracks=1, old_info=old_info
        )
        critic_params, critic_optimizer, value_loss = actor_critic.fit(
            critic_key,
            critic,
            state.params.critic,
            optimizers.adam(hyperparams.critic_learning_rate),
            state.critic_optimizer,
            transition,
            estimates.value_target,
            num_epochs=critic_epochs,
            minibatch_size=critic_minibatch_size,
        )
        params = ActorCriticParams(search.params, critic_params)
        info = natural.diagnostics(gradient, step, solution, search, estimates, transition.weight)
        return natural.State(params, critic_optimizer), {**info, "value_loss": value_loss}

    acting = actor_critic.acting(policy, critic)
    return Algorithm(acting, hyperparams, init, update, critic=critic)
