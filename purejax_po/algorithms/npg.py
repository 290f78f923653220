"""Natural policy gradient: one step along the inverse Fisher matrix times the gradient.

Source: Kakade 2001, A Natural Policy Gradient.
"""

from typing import Literal

import flax.struct
import jax

from purejax_po import curvature
from purejax_po.algorithms import critics, natural
from purejax_po.checks import Positive, check_choice, known_arguments, known_names
from purejax_po.types import Algorithm, Critic, Params, Policy


@known_names
@flax.struct.dataclass
class NPGHyperparams(natural.NaturalHyperparams):
    """The floats of NPG, all traced."""

    max_kl: Positive = 0.01
    """δ: quadratic estimate of an update's mean KL (nats); used with step_size_rule kl."""
    step_size: Positive = 0.1
    """η: multiple of the natural gradient; used with step_size_rule fixed."""


@known_arguments
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
        policy, critic: networks that share no parameters, with or without memory.
        step_size_rule: `"kl"` normalises the step to δ, `"fixed"` multiplies by η.
        solver: `"cg"`, or `"dense"` for an exact solve (policies of a few hundred parameters).
        fisher, fisher_fraction, normalize_advantage: see `natural.Options`.
        cg_iterations: conjugate-gradient iterations at most.
        critic_epochs, critic_minibatch_size: see `critics.Regression`.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    solvers = {"cg": natural.conjugate_gradient(cg_iterations), "dense": dense}
    check_choice("step_size_rule", step_size_rule, tuple(STEPS))
    check_choice("solver", solver, tuple(solvers))
    return natural.algorithm(
        policy,
        critic,
        natural.Options(fisher, fisher_fraction, normalize_advantage),
        critics.Regression(critic_epochs, critic_minibatch_size),
        NPGHyperparams() if hyperparams is None else hyperparams,
        natural.Rule(solve=solvers[solver], step=STEPS[step_size_rule]),
    )


def dense(
    product: curvature.Product, gradient: Params, hyperparams: NPGHyperparams
) -> curvature.Solution:
    """Exactly, by elimination."""
    del hyperparams
    return curvature.dense_solve(product, gradient)


def fixed(solution: curvature.Solution, hyperparams: NPGHyperparams) -> Params:
    """η·x."""
    return jax.tree.map(lambda x: hyperparams.step_size * x, solution.x)


STEPS: dict[str, natural.Step] = {"kl": natural.scaled_to_kl, "fixed": fixed}
"""The rules for the length of the step by name."""
