"""What GRPO says of a group of outputs: its options, and the loss of one batch."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import flax.struct
import jax.numpy as jnp

from purejax_po import advantages, surrogates
from purejax_po.checks import (
    Count,
    KnownNames,
    NonNegative,
    OpenUnitInterval,
    Positive,
    UnitInterval,
    WholeNumber,
)
from purejax_po.types import Array, Distribution, Info, Transition

GroupAdvantage = Literal["zscore", "centred", "rloo", "softmax"]
LengthNormalization = Literal["per_sequence", "per_token", "constant"]
Ratio = Literal["token", "sequence"]
KLEstimator = Literal["k1", "k3", "exact"]
KLForm = Literal["loss", "weighted", "reward", "off"]


@flax.struct.dataclass
class GRPOHyperparams(KnownNames):
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


@dataclass(frozen=True, kw_only=True)
class GRPOOptions:
    """Options of GRPO, which shape its program.

    The gradient of the KL as a plain term of the loss is not that of the KL (with k3 it is that of
    KL(π_ref ‖ π)). Weighted by the differentiated ratio of the output up to its step, it is that of
    KL(π ‖ π_ref) over outputs, without bias.
    """

    group_size: Annotated[int, Count(2)] = 8
    """Episodes from one start state that are compared; divides num_envs."""
    advantage: GroupAdvantage = "zscore"
    """How: standardised, minus the mean, minus the mean of the others, or softmax minus 1/G."""
    length_normalization: LengthNormalization = "per_sequence"
    """Weight of each step: 1/|o| of its episode, 1/Σ|o| of the batch, or 1/num_steps."""
    ratio: Ratio = "token"
    """The ratio that is clipped: each step's, or the geometric mean over its episode (Zheng et al.
    2025, Group Sequence Policy Optimization)."""
    kl_estimator: KLEstimator = "k3"
    """Estimate of the KL to the reference policy at each step."""
    kl_form: KLForm = "loss"
    """A term of the loss; the same weighted by the ratio, which has the KL's own gradient; part of
    the reward; or off."""
    num_epochs: WholeNumber = 1
    """Updates on each rollout."""
    reference_every: Annotated[int, Count(0)] = 0
    """Updates after which the policy becomes the reference (0: the first one stays)."""

    def check_batch(self, num_envs: int, num_steps: int, memoryless: bool = True) -> None:
        """Raise `ValueError` unless the groups divide the environments."""
        del num_steps, memoryless
        if num_envs % self.group_size:
            raise ValueError(
                f"num_envs must be a multiple of group_size = {self.group_size}, got {num_envs}"
            )


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


def make_batch(
    transition: Transition,
    reference: Distribution | None,
    options: GRPOOptions,
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
    distribution: Distribution, batch: Batch, options: GRPOOptions, hyperparams: GRPOHyperparams
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
    options: GRPOOptions,
) -> Array:
    """Estimate of KL(π ‖ π_ref) at each valid step, `[T, N]`, 0 at the others."""
    estimate = surrogates.KL_ESTIMATORS[options.kl_estimator]
    return jnp.where(transition.weight > 0, estimate(distribution, reference, transition.action), 0)


def mean_over_steps(x: Array, valid: Array) -> Array:
    """The mean over the valid steps of each output, at each of them, `[T, N]`."""
    length = jnp.maximum(jnp.sum(valid, axis=0), 1)
    return jnp.where(valid, jnp.sum(jnp.where(valid, x, 0.0), axis=0) / length, 0.0)
