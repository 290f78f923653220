"""What GRPO says of a group of outputs: its options, and the loss of one batch."""

from typing import Literal, NamedTuple, get_args

import flax.struct
import jax.numpy as jnp

from purejax_po import advantages, surrogates
from purejax_po.checks import (
    NonNegative,
    OpenUnitInterval,
    Positive,
    UnitInterval,
    check_choice,
    check_count,
    known_names,
)
from purejax_po.types import Array, Distribution, Info, Transition

GroupAdvantage = Literal["zscore", "centred", "rloo", "softmax"]
LengthNormalization = Literal["per_sequence", "per_token", "constant"]
Ratio = Literal["token", "sequence"]
KLEstimator = Literal["k1", "k3", "exact"]
KLForm = Literal["loss", "weighted", "reward", "off"]


@known_names
@flax.struct.dataclass
class GRPOHyperparams:
    """The floats of GRPO, all traced."""

    learning_rate: Positive = 1e-3
    """Adam's step size at the start of training."""
    learning_rate_decay: UnitInterval = 1.0
    """Fraction of the learning rate lost, linearly, by the end of training (0: constant)."""
    discount: UnitInterval = 1.0
    """γ, per step: an output's reward is its discounted return."""
    clip_low: OpenUnitInterval = 0.2
    """ε_low: a ratio that should fall counts down to 1 − ε_low."""
    clip_high: OpenUnitInterval = 0.2
    """ε_high: a ratio that should rise counts up to 1 + ε_high."""
    kl_coef: NonNegative = 0.04
    """β: weight of the KL to the reference (per nat)."""
    entropy_coef: NonNegative = 0.01
    """Weight of the entropy bonus (nats)."""
    temperature: Positive = 1.0
    """τ of the advantage softmax, in units of reward."""
    advantage_eps: Positive = 1e-6
    """ε of the advantage zscore, in units of reward."""
    max_grad_norm: Positive = 1.0
    """The gradient is scaled down to this global norm."""
    adam_eps: Positive = 1e-5
    """Adam's ε."""


class Options(NamedTuple):
    """What shapes the program; `grpo` says what each means."""

    group_size: int
    advantage: GroupAdvantage
    length_normalization: LengthNormalization
    ratio: Ratio
    kl_estimator: KLEstimator
    kl_form: KLForm


class Batch(NamedTuple):
    """What the inner updates of a rollout have in common, `[T, N]`: N outputs of up to T steps."""

    transition: Transition
    log_prob: Array
    """Of the actions when they were drawn."""
    advantage: Array
    weight: Array
    """What each step counts in the loss."""
    reference: Distribution | None
    """The reference's distributions; None without a KL."""


def check_options(options: Options, num_epochs: int, reference_every: int) -> None:
    """Raise `ValueError` naming the option, its value and what is allowed."""
    check_count("group_size", options.group_size, minimum=2)
    check_choice("advantage", options.advantage, get_args(GroupAdvantage))
    check_choice(
        "length_normalization", options.length_normalization, get_args(LengthNormalization)
    )
    check_choice("ratio", options.ratio, get_args(Ratio))
    check_choice("kl_estimator", options.kl_estimator, get_args(KLEstimator))
    check_choice("kl_form", options.kl_form, get_args(KLForm))
    check_count("num_epochs", num_epochs)
    check_count("reference_every", reference_every, minimum=0)


def make_batch(
    transition: Transition,
    reference: Distribution | None,
    options: Options,
    hyperparams: GRPOHyperparams,
) -> tuple[Batch, Info]:
    """Compare the outputs of each group, neighbours along N; and what the comparison says."""
    valid = transition.weight > 0
    outcome = advantages.outcome(transition.reward, transition.weight, hyperparams.discount)
    if options.kl_form == "reward":
        kl = kl_to_reference(transition.behaviour, reference, transition, options)
        outcome -= hyperparams.kl_coef * jnp.sum(kl, axis=0)
    groups = (
        outcome.reshape(-1, options.group_size),
        valid[0].reshape(-1, options.group_size),
    )
    advantage = advantages.GROUP_ESTIMATORS[options.advantage](hyperparams)(*groups)
    batch = Batch(
        transition,
        transition.behaviour.log_prob(transition.action),
        jnp.broadcast_to(advantage.reshape(-1), valid.shape),
        advantages.length_weights(transition.weight, options.length_normalization),
        reference,
    )
    num_outputs = jnp.maximum(jnp.sum(valid[0], dtype=jnp.float32), 1.0)
    return batch, {
        "zero_spread": 1.0 - jnp.mean(advantages.spread(*groups), dtype=jnp.float32),
        "unfinished_episodes": 1.0 - jnp.mean(transition.weight[0]),
        "output_length": jnp.sum(transition.weight) / num_outputs,
    }


def loss(
    distribution: Distribution, batch: Batch, options: Options, hyperparams: GRPOHyperparams
) -> tuple[Array, Info]:
    """−Σ w {min(ρÂ, clip(ρ, 1 − ε_low, 1 + ε_high)Â) − β kl + c_H H} of π_θ(·|s), `[T, N]`."""
    transition, valid = batch.transition, batch.transition.weight > 0
    low, high = hyperparams.clip_low, hyperparams.clip_high
    change = jnp.where(valid, distribution.log_prob(transition.action) - batch.log_prob, 0.0)
    ratio = jnp.exp(change if options.ratio == "token" else mean_over_steps(change, valid))
    entropy = distribution.entropy()
    objective = surrogates.clip(ratio, batch.advantage, low, high)
    objective += hyperparams.entropy_coef * entropy
    info = {
        "entropy": entropy,
        "clip_fraction_low": (ratio < 1.0 - low) & (batch.advantage < 0.0),
        "clip_fraction_high": (ratio > 1.0 + high) & (batch.advantage > 0.0),
    }
    if options.kl_form != "off":
        info["reference_kl"] = kl_to_reference(distribution, batch.reference, transition, options)
    if options.kl_form == "loss":
        objective -= hyperparams.kl_coef * info["reference_kl"]
    if options.kl_form == "weighted":
        # KL(π ‖ π_ref) of an output also changes with how likely π makes what led to a step.
        objective -= (
            hyperparams.kl_coef * jnp.exp(jnp.cumsum(change, axis=0)) * info["reference_kl"]
        )
    total = -jnp.sum(jnp.where(valid, batch.weight * objective, 0.0))
    means = {
        name: advantages.weighted_mean(x.astype(change.dtype), transition.weight)
        for name, x in info.items()
    }
    return total, {"policy_loss": total, **means}


def kl_to_reference(
    distribution: Distribution,
    reference: Distribution | None,
    transition: Transition,
    options: Options,
) -> Array:
    """Estimate of KL(π ‖ π_ref) at each valid step, `[T, N]`, 0 at the others."""
    estimate = surrogates.KL_ESTIMATORS[options.kl_estimator]
    return jnp.where(transition.weight > 0, estimate(distribution, reference, transition.action), 0)


def mean_over_steps(x: Array, valid: Array) -> Array:
    """The mean over the valid steps of each output, at each of them, `[T, N]`."""
    length = jnp.maximum(jnp.sum(valid, axis=0), 1)
    return jnp.where(valid, jnp.sum(jnp.where(valid, x, 0.0), axis=0) / length, 0.0)
