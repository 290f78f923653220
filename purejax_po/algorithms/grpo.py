"""Group-relative policy optimisation: no critic, an output is judged beside others of its prompt.

Source: Shao et al. 2024, DeepSeekMath: Pushing the Limits of Mathematical Reasoning, section 4.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purejax_po._xla import flat
from purejax_po.actor import acting
from purejax_po.algorithms import group, optimizers
from purejax_po.algorithms.group import GRPOHyperparams
from purejax_po.checks import check_hyperparams, check_networks, known_arguments
from purejax_po.types import Algorithm, Array, Distribution, Info, Key, Params, Policy, Rollout


class PolicyParams(NamedTuple):
    """The parameters: there is no critic."""

    policy: Params


class GRPOState(NamedTuple):
    """Parameters, Adam's moments, the reference policy and how old it is."""

    params: PolicyParams
    optimizer: optax.OptState
    reference: PolicyParams
    num_updates: Array
    """int32."""


@known_arguments
def grpo(
    policy: Policy,
    *,
    group_size: int = 8,
    advantage: group.GroupAdvantage = "zscore",
    length_normalization: group.LengthNormalization = "per_sequence",
    ratio: group.Ratio = "token",
    kl_estimator: group.KLEstimator = "k3",
    kl_form: group.KLForm = "loss",
    num_epochs: int = 1,
    reference_every: int = 0,
    hyperparams: GRPOHyperparams | None = None,
) -> Algorithm:
    """Build GRPO: maximise the mean over outputs of Σ_t w_t {min(ρÂ, clip(ρ)Â) − β kl_t + c_H H_t}.

    A group are `group_size` neighbouring environments that start from one state; each one's first
    episode is an output, whose return is compared within the group. Make num_steps at least the
    time limit: episodes that a rollout cuts are left out.

    Args:
        policy: any, with or without memory; on token tasks those of `sequence`.
        group_size: G, outputs per start state; divides num_envs.
        advantage: `"zscore"`, `"centred"`, `"rloo"` or `"softmax"` (see `advantages`).
        length_normalization: w_t, a name in `advantages.length_weights`.
        ratio: ρ of each `"token"`, or of the `"sequence"`: the geometric mean over its tokens
            (Zheng et al. 2025, Group Sequence Policy Optimization).
        kl_estimator: `"k1"`, `"k3"` or `"exact"`, of KL(π ‖ π_ref) at each step.
        kl_form: `"loss"`: a plain term, whose gradient is not that of the KL (of k3 it is that of
            KL(π_ref ‖ π)); `"weighted"`: multiplied by the differentiated ratio of the output up
            to its step, whose gradient is that of KL(π ‖ π_ref) over outputs, without bias;
            `"reward"`: summed over the output and taken off its reward; or `"off"`.
        num_epochs: μ, updates on each rollout.
        reference_every: updates after which the policy becomes the reference (0: never).
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    hyperparams = GRPOHyperparams() if hyperparams is None else hyperparams
    check_hyperparams(hyperparams)
    check_networks(policy)
    options = group.Options(
        group_size, advantage, length_normalization, ratio, kl_estimator, kl_form
    )
    group.check_options(options, num_epochs, reference_every)

    replayed = functools.partial(replay, policy, group_size)

    def init(key: Key, hyperparams: GRPOHyperparams) -> GRPOState:
        params = PolicyParams(policy.init(key))
        moments = optimizers.clipped_adam(hyperparams, 0.0).init(params)
        return GRPOState(params, moments, params, jnp.int32(0))

    def update(
        key: Key, hyperparams: GRPOHyperparams, state: GRPOState, rollout: Rollout
    ) -> tuple[GRPOState, Info]:
        reference = None if kl_form == "off" else replayed(state.reference, rollout)
        batch, told = group.make_batch(rollout.transition, reference, options, hyperparams)
        optimizer = optimizers.clipped_adam(hyperparams, rollout.progress)

        def loss(params: PolicyParams) -> tuple[Array, Info]:
            return group.loss(replayed(params, rollout), batch, options, hyperparams)

        def step(carry: tuple[PolicyParams, Any], _: None) -> tuple[Any, Info]:
            params, moments = carry
            gradient, info = jax.grad(loss, has_aux=True)(params)
            updates, moments = optimizer.update(gradient, moments, params)
            info["grad_norm"] = flat.norm(gradient)
            return (optax.apply_updates(params, updates), moments), info

        (params, moments), infos = jax.lax.scan(step, state[:2], length=num_epochs)
        new = GRPOState(params, moments, state.reference, state.num_updates + 1)
        if reference_every:
            new = renew_reference(new, reference_every)
        return new, {**told, **jax.tree.map(jnp.mean, infos)}

    actor = acting(policy, lambda params: params.policy)
    return Algorithm(
        actor, hyperparams, init, update, complete_episodes=True, group_size=group_size
    )


def renew_reference(state: GRPOState, every: int) -> GRPOState:
    """Let the reference become the policy after every so many updates."""
    renew = state.num_updates % every == 0
    reference = jax.tree.map(
        lambda new, old: jnp.where(renew, new, old), state.params, state.reference
    )
    return state._replace(reference=reference)


def replay(policy: Policy, group_size: int, params: PolicyParams, rollout: Rollout) -> Distribution:
    """π_θ(·|s) of a rollout's steps, `[T, N]`; a prompt is read once for its whole group."""
    transition, carry, prompt = rollout.transition, rollout.carry, policy.prompt
    if prompt is not None:
        policy, carry = prompt.go_on, prompt.read(params.policy, transition.obs[0], group_size)
    return policy.unroll(params.policy, carry, transition.obs, transition.start)
