"""Trust-region policy optimisation: a natural-gradient step, backtracked to stay in the region.

Source: Schulman et al. 2015, Trust Region Policy Optimization.
"""

import flax.struct
import jax

from purejax_po import curvature, minibatch
from purejax_po.algorithms import actor_critic, natural, optimizers
from purejax_po.types import (
    ActorCriticParams,
    Algorithm,
    Array,
    Critic,
    Info,
    Key,
    OpenUnitInterval,
    Params,
    Policy,
    Positive,
    Rollout,
    UnitInterval,
    check_count,
    check_hyperparams,
    known_names,
)


@known_names
@flax.struct.dataclass
class TRPOHyperparams:
    """The floats of TRPO, all traced."""

    max_kl: Positive = 0.01
    """δ: bound on the mean KL(π_old ‖ π_new) of an update (nats)."""
    damping: Positive = 0.1
    """Multiple of the identity added to the Fisher matrix."""
    cg_tolerance: Positive = 1e-10
    """Conjugate gradient stops at this residual, relative to the gradient's norm."""
    backtrack_coef: OpenUnitInterval = 0.8
    """Factor between the candidates of the line search."""
    critic_learning_rate: Positive = 1e-3
    """Adam's step size for the critic."""
    discount: UnitInterval = 0.99
    """γ, per step."""
    gae_lambda: UnitInterval = 0.95
    """λ of generalised advantage estimation."""


def trpo(
    policy: Policy,
    critic: Critic,
    *,
    fisher: natural.FisherProduct = "gauss_newton",
    fisher_fraction: float = 1.0,
    cg_iterations: int = 15,
    max_backtracks: int = 10,
    normalize_advantage: bool = True,
    critic_epochs: int = 10,
    critic_minibatch_size: int = 128,
    hyperparams: TRPOHyperparams | None = None,
) -> Algorithm:
    """Build TRPO: maximise E[ρA] subject to E[KL(π_old ‖ π_θ)] ≤ δ.

    The step is √(2δ / xᵀFx)·x with F x = g, shrunk by βᵏ until KL ≤ δ and the surrogate improves;
    if no candidate does, the policy stays what it was, to the bit.

    Args:
        policy, critic: networks without memory that share no parameters.
        fisher: which Fisher-vector product: `"gauss_newton"`, `"kl_hessian"` or `"empirical"`.
        fisher_fraction: share of the samples in it, one random subset per update, in (0, 1].
        cg_iterations: conjugate-gradient iterations at most.
        max_backtracks: candidates of the line search.
        normalize_advantage: to mean 0 and standard deviation 1 over the batch, unless nothing but
            the critic tells its actions apart (see `natural.standardized`).
        critic_epochs, critic_minibatch_size: of the critic's regression on the λ-returns.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    hyperparams = TRPOHyperparams() if hyperparams is None else hyperparams
    check_hyperparams(hyperparams)
    natural.check_options(
        policy,
        critic,
        fisher=fisher,
        fisher_fraction=fisher_fraction,
        cg_iterations=cg_iterations,
        critic_epochs=critic_epochs,
        critic_minibatch_size=critic_minibatch_size,
    )
    check_count("max_backtracks", max_backtracks)

    def init(key: Key, hyperparams: TRPOHyperparams) -> natural.State:
        return natural.init(key, policy, critic, hyperparams.critic_learning_rate)

    def update(
        key: Key, hyperparams: TRPOHyperparams, state: natural.State, rollout: Rollout
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
        solution = curvature.conjugate_gradient(
            product, gradient, max_iterations=cg_iterations, tolerance=hyperparams.cg_tolerance
        )
        step = natural.scale_to_kl(solution, hyperparams.max_kl * radius**2)

        def evaluate(params: Params) -> tuple[Array, Info]:
            value, info = surrogate(params)
            improvement = value - old_value
            acceptable = (info["kl"] <= hyperparams.max_kl) & (improvement > 0)
            return acceptable, {**info, "improvement": improvement}

        search = curvature.line_search(
            evaluate,
            old_params,
            step,
            shrink=hyperparams.backtrack_coef,
            max_backtracks=max_backtracks,
            old_info=old_info,
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
