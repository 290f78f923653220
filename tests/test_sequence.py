"""Sequence policies: a token at a time from a cache, and all at once, are the same."""

import functools

import jax
import numpy as np
import pytest

import purejax_po as po
from purejax_po import rollout, sequence
from purejax_po.environments import tokens

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_ENVS, GROUP = 6, 3
POLICIES = {
    "transformer": lambda env, p: sequence.transformer_policy(env, p, hidden=(8,), num_heads=2),
    "two layers": lambda env, p: sequence.transformer_policy(env, p, hidden=(8, 8), num_heads=2),
    "gru": lambda env, p: sequence.gru_policy(env, p, hidden=(8,)),
}


@pytest.fixture(scope="module", params=[(p, t) for p in POLICIES for t in ("copy", "needle")])
def played(request):
    """A policy of large logits and a rollout of it: read at every start, and read once."""
    name, task = request.param
    options = {"length": 3, "symbols": 4}
    env, env_params = po.make_env(f"tokens/{task}", **options)
    policy = POLICIES[name](env, env_params)
    params = jax.jit(policy.init)(jax.random.key(0))
    params["head"] *= 200.0

    @jax.jit
    def play(params):
        begin = rollout.reset(jax.random.key(1), env, env_params, policy, NUM_ENVS, GROUP)
        carry = policy.prompt.read(params, begin.obs, GROUP)
        ways = (policy, begin), (policy.prompt.go_on, begin._replace(carry=carry))
        return [
            rollout.collect(
                jax.random.key(2), env, env_params, network, params, state, env.max_tokens
            )[1:]
            for network, state in ways
        ]

    return env, policy, params, [rollout.first_episodes(*x) for x in play(params)]


def test_a_prompt_read_once_gives_what_reading_it_at_every_start_gives(played):
    *_, ((every, _), (once, _)) = played
    np.testing.assert_array_equal(every.weight, once.weight)
    for a, b in zip(jax.tree.leaves(every), jax.tree.leaves(once), strict=True):
        valid = np.asarray(every.weight).reshape(every.weight.shape + (1,) * (a.ndim - 2)) > 0
        np.testing.assert_allclose(a * valid, b * valid, atol=1e-5)


@functools.partial(jax.jit, static_argnums=(0, 4))
def unrolled(policy, params, obs, start, group_size=1):
    """Logits of a whole output, whose prompt is read first."""
    network = policy if group_size == 1 else policy.prompt.go_on
    carry = policy.prompt.read(params, obs[0], group_size)
    return network.unroll(params, carry, obs, start).logits


@pytest.mark.parametrize("group_size", [1, GROUP])
def test_step_equals_unroll(played, group_size):
    _, policy, params, ((transition, _), _) = played
    logits = unrolled(policy, params, transition.obs, transition.start, group_size)
    weight = np.asarray(transition.weight)[..., None]
    assert weight.sum() > NUM_ENVS
    assert np.ptp(logits * weight) > 1.0
    difference = jax.nn.log_softmax(logits) - jax.nn.log_softmax(transition.behaviour.logits)
    np.testing.assert_allclose(difference * weight, 0.0, atol=1e-5)


def test_groups_share_their_prompt(played):
    env, *_, ((transition, _), _) = played
    prompts = np.asarray(transition.obs[0]).reshape(NUM_ENVS // GROUP, GROUP, -1)
    np.testing.assert_array_equal(prompts, prompts[:, :1].repeat(GROUP, axis=1))
    if env.prompt_length:
        assert (prompts[0, 0] != prompts[1, 0]).any()


def test_later_tokens_change_nothing(played):
    """Causal: the tokens fed from step 2 on do not reach the distributions before."""
    env, policy, params, ((transition, _), _) = played
    changed = transition.obs.at[..., env.prompt_length + 1 :].set(1)
    start = transition.start
    before, after = (unrolled(policy, params, obs, start) for obs in (transition.obs, changed))
    np.testing.assert_array_equal(before[:2], after[:2])
    assert (before[2:] != after[2:]).any()


def test_prompts_matter(played):
    env, policy, params, ((transition, _), _) = played
    if not env.prompt_length:
        return
    obs = transition.obs.at[..., 0].add(1)
    start = transition.start
    before, after = (unrolled(policy, params, o, start) for o in (transition.obs, obs))
    assert (np.abs(before - after).max(axis=(0, 2)) > 1e-3).all()


class Endless(tokens.Copy):
    def __init__(self):
        super().__init__()
        self.end_token = None


def test_what_a_sequence_policy_cannot_serve_is_named(subtests):
    for env, options, message in [
        ("CartPole-v1", {}, "needs a token task such as tokens/copy, got CartPole-v1"),
        ("tokens/copy", {"hidden": ()}, "hidden must be one width"),
        ("tokens/copy", {"hidden": (8, 16)}, "hidden must be one width"),
        ("tokens/copy", {"hidden": (0,)}, "hidden must be a whole number ≥ 1"),
        ("tokens/copy", {"num_heads": 3}, "num_heads must divide the width 32, got 3"),
        ("tokens/copy", {"mlp_ratio": 0}, "mlp_ratio must be a whole number ≥ 1, got 0"),
        (Endless, {}, "vocabulary of tokens/copy must have an end token, got None"),
    ]:
        with subtests.test(message):
            made = po.make_env(env) if isinstance(env, str) else (env(), None)
            with pytest.raises(ValueError, match=message):
                sequence.transformer_policy(*made, **options)


def test_a_gru_has_one_layer():
    env, env_params = po.make_env("tokens/copy")
    with pytest.raises(ValueError, match="hidden must name one width"):
        sequence.gru_policy(env, env_params, hidden=(8, 8))


def test_a_prompt_is_read_once_for_any_algorithm_of_complete_episodes():
    """What acts with actor-critic parameters hands the prompt on to its policy."""
    env, env_params = po.make_env("tokens/copy")
    _, critic = po.mlp_actor_critic(env, env_params, hidden=(8,))
    options = po.REINFORCEOptions(critic_epochs=1, critic_minibatch_size=4 * env.max_tokens)
    for policy in (f(env, env_params) for f in POLICIES.values()):
        algorithm = po.reinforce(policy, critic, options)
        trainer = po.make_trainer(env, env_params, algorithm, num_envs=4, num_steps=env.max_tokens)
        train = jax.jit(po.make_train(trainer, num_updates=1))
        state, log = train(jax.random.key(0), algorithm.hyperparams)
        assert state.diverged_at == -1
        assert log.info.mean["unfinished_episodes"] == 0.0


def test_reading_policies_need_complete_episodes():
    env, env_params = po.make_env("tokens/copy")
    _, critic = po.mlp_actor_critic(env, env_params)
    algorithm = po.ppo(sequence.gru_policy(env, env_params), critic)
    with pytest.raises(ValueError, match="learns from complete episodes"):
        po.make_trainer(env, env_params, algorithm, num_envs=4, num_steps=8)
