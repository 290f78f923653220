"""Group-relative policy optimisation: no critic, an output is judged beside others of its prompt.

Source: Shao et al. 2024, DeepSeekMath: Pushing the Limits of Mathematical Reasoning, section 4.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from purejax_po._xla import flat
from purejax_po.actor import acting
from purejax_po.algorithms import group, optimizers
from purejax_po.algorithms.group import GRPOHyperparams, GRPOOptions
from purejax_po.checks import (
    check_networks,
    checked_hyperparams,
    checked_options,
    known_arguments,
)
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
    options: GRPOOptions | None = None,
    hyperparams: GRPOHyperparams | None = None,
) -> Algorithm:
    """Build GRPO: maximise the mean over outputs of Σ_t w_t {min(ρÂ, clip(ρ)Â) − β kl_t + c_H H_t}.

    A group are `group_size` neighbouring environments that start from one state; each one's first
    episode is an output, whose return is compared within the group. Make num_steps at least the
    time limit: episodes that a rollout cuts are left out.

    Args:
        policy: any, with or without memory; on token tasks those of `sequence`.
        options: see `GRPOOptions`.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    options = checked_options(options, GRPOOptions)
    hyperparams = checked_hyperparams(hyperparams, GRPOHyperparams)
    check_networks(policy)
    replayed = functools.partial(replay, policy, options.group_size)

    def init(key: Key, hyperparams: GRPOHyperparams) -> GRPOState:
        params = PolicyParams(policy.init(key))
        moments = optimizers.clipped_adam(hyperparams, 0.0).init(params)
        return GRPOState(params, moments, params, jnp.int32(0))

    def update(
        key: Key, hyperparams: GRPOHyperparams, state: GRPOState, rollout: Rollout
    ) -> tuple[GRPOState, Info]:
        reference = None if options.kl_form == "off" else replayed(state.reference, rollout)
        batch, told = group.make_batch(rollout.transition, reference, options, hyperparams)
        optimizer = optimizers.clipped_adam(hyperparams, rollout.progress)

        def loss(params: PolicyParams) -> tuple[Array, Info]:
            return group.loss(replayed(params, rollout), batch, options, hyperparams)

        def step(
            carry: tuple[Params, optax.OptState], _: None
        ) -> tuple[tuple[Params, optax.OptState], Info]:
            params, moments = carry
            gradient, info = jax.grad(loss, has_aux=True)(params)
            updates, moments = optimizer.update(gradient, moments, params)
            info["grad_norm"] = flat.norm(gradient)
            return (optax.apply_updates(params, updates), moments), info

        (params, moments), infos = jax.lax.scan(step, state[:2], length=options.num_epochs)
        new = GRPOState(params, moments, state.reference, state.num_updates + 1)
        if options.reference_every:
            new = renew_reference(new, options.reference_every)
        return new, {**told, **jax.tree.map(jnp.mean, infos)}

    actor = acting(policy, lambda params: params.policy)
    return Algorithm(
        actor, hyperparams, init, update, complete_episodes=True, group_size=options.group_size
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
        first = jax.tree.map(lambda x: x[0], transition.obs)
        policy, carry = prompt.go_on, prompt.read(params.policy, first, group_size)
    return policy.unroll(params.policy, carry, transition.obs, transition.start)
