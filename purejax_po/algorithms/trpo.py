"""Trust-region policy optimisation: a natural-gradient step, backtracked to stay in the region.

Source: Schulman et al. 2015, Trust Region Policy Optimization.
"""

import flax.struct

from purejax_po.algorithms import critics, natural
from purejax_po.checks import OpenUnitInterval, known_arguments, known_names
from purejax_po.types import Algorithm, Array, Critic, Info, Policy


@known_names
@flax.struct.dataclass
class TRPOHyperparams(natural.NaturalHyperparams):
    """The floats of TRPO, all traced."""

    backtrack_coef: OpenUnitInterval = 0.8
    """Factor between the candidates of the line search."""


@known_arguments
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
        policy, critic: networks that share no parameters, with or without memory.
        fisher, fisher_fraction, normalize_advantage: see `natural.Options`.
        cg_iterations: conjugate-gradient iterations at most.
        max_backtracks: candidates of the line search.
        critic_epochs, critic_minibatch_size: see `critics.Regression`.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    return natural.algorithm(
        policy,
        critic,
        natural.Options(fisher, fisher_fraction, normalize_advantage),
        critics.Regression(critic_epochs, critic_minibatch_size),
        TRPOHyperparams() if hyperparams is None else hyperparams,
        natural.Rule(
            solve=natural.conjugate_gradient(cg_iterations),
            step=natural.scaled_to_kl,
            accepts=improves_inside,
            shrink=lambda hyperparams: hyperparams.backtrack_coef,
            max_backtracks=max_backtracks,
        ),
    )


def improves_inside(info: Info, hyperparams: TRPOHyperparams) -> Array:
    """KL ≤ δ and L(θ) > L(θ_old)."""
    return (info["kl"] <= hyperparams.max_kl) & (info["improvement"] > 0)
