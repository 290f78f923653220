"""Trust-region policy optimisation: a natural-gradient step, backtracked to stay in the region.

Source: Schulman et al. 2015, Trust Region Policy Optimization.
"""

from dataclasses import dataclass

import flax.struct

from purejax_po.algorithms import natural
from purejax_po.checks import (
    OpenUnitInterval,
    WholeNumber,
    checked_hyperparams,
    checked_options,
    known_arguments,
)
from purejax_po.types import Algorithm, Array, Critic, Info, Policy


@flax.struct.dataclass
class TRPOHyperparams(natural.NaturalHyperparams):
    """The floats of TRPO, all traced."""

    backtrack_coef: OpenUnitInterval = 0.8
    """Factor between the candidates of the line search."""


@dataclass(frozen=True, kw_only=True)
class TRPOOptions(natural.NaturalOptions):
    """Options of TRPO, which shape its program."""

    max_backtracks: WholeNumber = 10
    """Candidates of the line search."""


@known_arguments
def trpo(
    policy: Policy,
    critic: Critic,
    options: TRPOOptions | None = None,
    hyperparams: TRPOHyperparams | None = None,
) -> Algorithm:
    """Build TRPO: maximise E[ρA] subject to E[KL(π_old ‖ π_θ)] ≤ δ.

    The step is √(2δ / xᵀFx)·x with F x = g, shrunk by βᵏ until KL ≤ δ and the surrogate improves;
    if no candidate does, the policy stays what it was, to the bit.

    Args:
        policy, critic: networks that share no parameters, with or without memory.
        options: see `TRPOOptions`.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    options = checked_options(options, TRPOOptions)
    return natural.algorithm(
        policy,
        critic,
        options,
        checked_hyperparams(hyperparams, TRPOHyperparams),
        natural.Rule(
            solve=natural.conjugate_gradient(options.cg_iterations),
            step=natural.scaled_to_kl,
            accepts=improves_inside,
            shrink=lambda hyperparams: hyperparams.backtrack_coef,
            max_backtracks=options.max_backtracks,
        ),
    )


def improves_inside(info: Info, hyperparams: TRPOHyperparams) -> Array:
    """KL ≤ δ and L(θ) > L(θ_old)."""
    return (info["kl"] <= hyperparams.max_kl) & (info["improvement"] > 0)
