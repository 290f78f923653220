"""What a network's outputs are: a distribution over actions, or a value; alone or with memory."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

from purejax_po import masks, spaces
from purejax_po.checks import check_choice
from purejax_po.distributions import (
    Categorical,
    Product,
    ScaledGaussian,
    TanhGaussian,
)
from purejax_po.types import (
    Array,
    Carry,
    Distribution,
    Environment,
    EnvParams,
    Key,
    Network,
    Observation,
    Params,
    Policy,
    Space,
)

ActionDistribution = Literal["gaussian", "clipped_gaussian", "scaled_gaussian", "tanh_gaussian"]


def memoryless(
    kind: Callable[..., Network],
    init: Callable[[Key], Params],
    apply: Callable[[Params, Observation], Distribution | Array],
) -> Network:
    """Make a `Policy` or `Critic` (`kind`) of a network `apply(params, obs [..., *obs_shape])`."""
    return kind(
        init=init,
        initial_carry=lambda num_envs: (),
        step=lambda params, carry, obs, start: (carry, apply(params, obs)),
        unroll=lambda params, carry, obs, start: apply(params, obs),
        memoryless=True,
    )


def action_head(space: Space) -> tuple[int, Callable[[Array], Distribution] | None]:
    """Number of network outputs, and their distribution (`None`: Gaussian) for an action space."""
    spaces.check_not_empty("actions", space)
    if spaces.kind(space) == "discrete":
        return int(space.n), Categorical
    if (factors := spaces.choices(space)) is not None:
        ends = np.cumsum(factors.sizes)[:-1].tolist()

        def to_product(outputs: Array) -> Product:
            return Product(tuple(Categorical(x) for x in jnp.split(outputs, ends, axis=-1)))

        return sum(factors.sizes), to_product
    if spaces.kind(space) == "box":
        if len(space.shape) != 1:
            raise ValueError(f"a Box action space must be a vector, got {space}")
        return int(space.shape[0]), None
    raise ValueError(
        "the policy serves Discrete, MultiDiscrete, MultiBinary, Box and Tuple-of-Discrete action "
        f"spaces, got {space}"
    )


def check_action_distribution(
    action_distribution: str, space: Space, name: str = "action_distribution"
) -> None:
    """Raise `ValueError` unless the distribution is known and the action space can have it."""
    check_choice(name, action_distribution, get_args(ActionDistribution))
    is_box = spaces.kind(space) == "box" and not spaces.is_integer_box(space)
    if action_distribution == "gaussian" or (
        action_distribution == "clipped_gaussian" and not is_box
    ):
        return  # without effect where actions are no Box; runs of 0.1 read as clipped
    if not is_box:
        raise ValueError(f"{name} must be gaussian unless actions are a Box, got {space}")
    if action_distribution != "clipped_gaussian" and not spaces.is_bounded(space):
        raise ValueError(f"{name} must be gaussian unless actions have bounds, got {space}")


def executed_as(policy: Policy, action_distribution: str, space: Space) -> Policy:
    """Return a policy, with or without memory, whose Gaussian is of the class that was chosen."""
    if spaces.kind(space) != "box" or spaces.is_integer_box(space):
        return policy
    if action_distribution == "gaussian":
        suits = not spaces.is_bounded(space) or spaces.is_of_unit_order(space)
        if suits and not spaces.is_of_unit_order(space):
            warnings.warn(
                f"actions {space} have bounds far from a standard normal number, and one that is "
                "not finite to scale to: let the environment scale them",
                stacklevel=4,
            )
        action_distribution = "clipped_gaussian" if suits else "scaled_gaussian"
    if action_distribution == "clipped_gaussian":
        return policy
    cls = TanhGaussian if action_distribution == "tanh_gaussian" else ScaledGaussian

    def convert(gaussian: Any) -> ScaledGaussian:
        return cls(gaussian.mean, gaussian.log_std)

    def step(
        params: Params, carry: Carry, obs: Observation, start: Array
    ) -> tuple[Carry, Distribution]:
        carry, gaussian = policy.step(params, carry, obs, start)
        return carry, convert(gaussian)

    def unroll(params: Params, carry: Carry, obs: Observation, start: Array) -> Distribution:
        return convert(policy.unroll(params, carry, obs, start))

    dense = policy.dense and policy.dense._replace(unroll=unroll)
    return policy._replace(step=step, unroll=unroll, dense=dense)


def masked(policy: Policy, env: Environment, env_params: EnvParams) -> Policy:
    """The policy that keeps to what the observations' `action_mask` says, if they have one."""
    space = env.observation_space(env_params)
    name = str(getattr(env, "name", type(env).__name__))
    masks.check(name, space, env.action_space(env_params))
    return policy if masks.in_space(space) is None else masks.masked(policy)
