"""Natural policy gradient: one step along the inverse Fisher matrix times the gradient.

Source: Kakade 2001, A Natural Policy Gradient.
"""

from dataclasses import dataclass
from typing import Literal

import flax.struct
import jax

from purejax_po import curvature
from purejax_po.algorithms import natural
from purejax_po.checks import (
    Positive,
    checked_hyperparams,
    checked_options,
    known_arguments,
)
from purejax_po.types import Algorithm, Critic, Params, Policy


@flax.struct.dataclass
class NPGHyperparams(natural.NaturalHyperparams):
    """The floats of NPG, all traced."""

    max_kl: Positive = 0.01
    """δ: quadratic estimate of an update's mean KL (nats); used with step_size_rule kl."""
    step_size: Positive = 0.1
    """η: multiple of the natural gradient; used with step_size_rule fixed."""


@dataclass(frozen=True, kw_only=True)
class NPGOptions(natural.NaturalOptions):
    """Options of NPG, which shape its program."""

    step_size_rule: Literal["kl", "fixed"] = "kl"
    """Scale the step to hyperparams.max_kl, or multiply by hyperparams.step_size."""
    solver: Literal["cg", "dense"] = "cg"
    """Conjugate gradient, or an exact solve (policies of a few hundred parameters)."""


@known_arguments
def npg(
    policy: Policy,
    critic: Critic,
    options: NPGOptions | None = None,
    hyperparams: NPGHyperparams | None = None,
) -> Algorithm:
    """Build NPG: θ ← θ + η x, F x = ∇E[Â log π], η fixed or √(2δ / xᵀFx).

    Args:
        policy, critic: networks that share no parameters, with or without memory.
        options: see `NPGOptions`.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    options = checked_options(options, NPGOptions)
    solvers = {"cg": natural.conjugate_gradient(options.cg_iterations), "dense": dense}
    return natural.algorithm(
        policy,
        critic,
        options,
        checked_hyperparams(hyperparams, NPGHyperparams),
        natural.Rule(solve=solvers[options.solver], step=STEPS[options.step_size_rule]),
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
