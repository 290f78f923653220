"""Acting: what a rollout needs of a policy, with the parameters of whoever acts."""

from collections.abc import Callable

from purejax_po.types import Actor, Params, Policy, Prompt


def acting(
    network: Policy | Actor, own: Callable[[Params], Params] = lambda params: params
) -> Actor:
    """Return the actor of a policy.

    Args:
        network: a policy; an actor is returned as it is.
        own: takes the policy's parameters out of those that are acted with; by default they are
            the same.
    """
    if isinstance(network, Actor):
        return network
    policy, prompt = network, network.prompt
    return Actor(
        policy.initial_carry,
        lambda params, carry, obs, start: policy.step(own(params), carry, obs, start),
        policy.memoryless,
        None
        if prompt is None
        else Prompt(
            lambda params, obs, group_size: prompt.read(own(params), obs, group_size),
            acting(prompt.go_on, own),
        ),
    )
