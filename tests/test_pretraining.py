"""Behaviour cloning with known answers, and algorithms that start from a clone."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built import built
from gymnax.environments import environment, spaces

import purejax_po as po
from purejax_po.networks import linear_critic, softmax_linear_policy
from purejax_po.training import make_train, make_trainer, seed_keys

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def chain():
    return po.make_env("Chain-v0", length=4)


def expert(env, length=4):
    """What the expert sees and does on the way: obs `[H, H + 1]`, action `[H]`."""
    return jnp.eye(length + 1)[:length], env.advancing_action(jnp.arange(length))


def test_separable_demonstrations_are_learned_and_solve_the_chain(chain):
    env, env_params = chain
    policy, _ = po.mlp_actor_critic(env, env_params, hidden=(16,))
    clone = po.behaviour_clone(
        jax.random.key(0), env, env_params, policy, *expert(env), learning_rate=3e-2
    )
    assert clone.loss.shape == (100,)
    np.testing.assert_allclose(clone.loss[0], np.log(3.0), atol=0.05)  # a nearly uniform start
    assert clone.loss[-1] < 0.01
    found = po.evaluate(
        jax.random.key(1), env, env_params, policy, clone.params, num_episodes=2, num_steps=4
    )
    np.testing.assert_array_equal(found.episode_return, 1.0)


def test_a_tabular_clone_is_the_frequency_of_each_action(chain):
    """The likelihood's maximum is known: π(a|s) = n(s, a)/n(s), and the loss is its entropy."""
    env, env_params = chain
    policy = softmax_linear_policy(env, env_params)
    position = jnp.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    action = jnp.array([0, 0, 1, 2, 0, 1, 1, 1, 2, 2])
    clone = po.behaviour_clone(
        jax.random.key(0),
        env,
        env_params,
        policy,
        jnp.eye(5)[position],
        action,
        num_epochs=3000,
        learning_rate=1e-2,
    )
    counts = np.array([[2, 1, 1], [1, 3, 2]])
    expected = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(clone.params)[:2], expected, atol=1e-4)
    np.testing.assert_array_equal(clone.params[2:], 0.0)  # never demonstrated
    entropy = -np.sum(counts * np.log(expected)) / counts.sum()
    np.testing.assert_allclose(clone.loss[-1], entropy, atol=1e-5)


def test_mapping_over_keys_is_a_loop_over_keys(chain):
    env, env_params = chain
    policy, _ = po.mlp_actor_critic(env, env_params, hidden=(8,))

    def clone(key):
        return po.behaviour_clone(
            key, env, env_params, policy, *expert(env), num_epochs=5, num_minibatches=2
        )

    keys = seed_keys(3)
    mapped = jax.jit(jax.vmap(clone))(keys)
    for i, key in enumerate(keys):
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-5, atol=1e-6),
            mapped,
            clone(key),
        )
    assert len(np.unique(mapped.loss[:, 0])) == 3


def test_demonstrations_and_learning_rate_may_be_traced(chain):
    env, env_params = chain
    policy = softmax_linear_policy(env, env_params)

    def clone(obs, action, learning_rate):
        return po.behaviour_clone(
            jax.random.key(0), env, env_params, policy, obs, action, learning_rate=learning_rate
        ).loss[-1]

    loss = jax.jit(jax.vmap(clone, (None, None, 0)))(*expert(env), jnp.array([1e-3, 1e-1]))
    assert loss[1] < 0.1 < loss[0]


class Switches(environment.Environment):
    """Only its spaces matter: two switches of two and three positions."""

    def action_space(self, params):
        return spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (2,))


def test_other_action_spaces():
    env, env_params = Switches(), environment.EnvParams()
    policy, _ = po.mlp_actor_critic(env, env_params, hidden=())
    obs, action = np.eye(2, dtype=np.float32), np.array([[0, 2], [1, 0]])
    clone = po.behaviour_clone(
        jax.random.key(0), env, env_params, policy, obs, action, learning_rate=0.1
    )
    found = policy.unroll(clone.params, (), obs, np.zeros(2, bool)).mode()
    np.testing.assert_array_equal(found, action)
    with pytest.raises(ValueError, match=r"action\[1\] must be between 0 and \[1, 2\].*\[1, 3\]"):
        po.behaviour_clone(
            jax.random.key(0), env, env_params, policy, obs, np.array([[0, 2], [1, 3]])
        )

    env, env_params = gymnax.make("Pendulum-v1")
    policy, _ = po.mlp_actor_critic(env, env_params, hidden=())
    obs, action = np.eye(3), np.array([[1.0], [-1.0], [0.5]])
    clone = po.behaviour_clone(
        jax.random.key(0), env, env_params, policy, obs, action, num_epochs=500, learning_rate=0.03
    )
    found = policy.unroll(clone.params, (), obs, np.zeros(3, bool)).mode()
    np.testing.assert_allclose(found, action, atol=0.05)
    with pytest.raises(ValueError, match=r"action\[1\] must be between -2.0 and 2.0, got \[2.5\]"):
        po.behaviour_clone(
            jax.random.key(0), env, env_params, policy, obs, np.array([[1.0], [2.5], [0.5]])
        )
    squashed, _ = po.mlp_actor_critic(
        env, env_params, hidden=(), action_distribution="tanh_gaussian"
    )
    with pytest.raises(ValueError, match=r"^behaviour_clone needs a policy that is not squashed"):
        po.behaviour_clone(jax.random.key(0), env, env_params, squashed, obs, action)


OBS, ACTION = np.eye(5)[:4], np.arange(4) % 3
MISTAKES = {
    "width": (np.eye(3), ACTION, r"obs must have the shape \[B, 5\].*Chain-v0.*got \[3, 3\]"),
    "time axis": (OBS[None], ACTION[None], r"obs must have the shape \[B, 5\].*got \[1, 4, 5\]"),
    "one": (OBS[0], ACTION[0], r"obs must have the shape \[B, 5\].*got \[5\]"),
    "none": (OBS[:0], ACTION[:0], r"obs must have the shape \[B, 5\] with B ≥ 1.*got \[0, 5\]"),
    "not finite": (OBS * np.array([1, 1, np.nan, 1, 1]), ACTION, r"obs\[0\] must be finite"),
    "fewer": (OBS, ACTION[:3], r"action must have the shape \[B\] with B = 4.*got \[3\]"),
    "column": (OBS, ACTION[:, None], r"action must have the shape \[B\].*got \[4, 1\]"),
    "above": (OBS, ACTION + 1, r"action\[2\] must be between 0 and 2, as Chain-v0 .*got 3"),
    "below": (OBS, ACTION - 1, r"action\[0\] must be between 0 and 2.*got -1"),
    "no number": (OBS, ACTION + 0.5, "action must hold whole numbers, got float"),
}


def test_demonstrations_that_do_not_fit_are_refused(subtests, chain):
    for name in MISTAKES:
        with subtests.test(name):
            env, env_params = chain
            obs, action, message = MISTAKES[name]
            policy = softmax_linear_policy(env, env_params)
            with pytest.raises(ValueError, match=message) as error:
                po.behaviour_clone(jax.random.key(0), env, env_params, policy, obs, action)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be a whole number ≥ 1, got 0"),
        ({"num_minibatches": 3}, "num_minibatches must divide the batch of 4 samples, got 3"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number > 0, got 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(chain, options, message):
    env, env_params = chain
    policy = softmax_linear_policy(env, env_params)
    with pytest.raises(ValueError, match=message):
        po.behaviour_clone(jax.random.key(0), env, env_params, policy, OBS, ACTION, **options)
    with pytest.raises(ValueError, match="without memory"):
        po.behaviour_clone(
            jax.random.key(0), env, env_params, policy._replace(memoryless=False), OBS, ACTION
        )


def build(factory, env, env_params):
    policy, critic = softmax_linear_policy(env, env_params), linear_critic(env, env_params)
    options = {} if factory is po.ppo else {"critic_minibatch_size": 16}
    return built(factory)(policy, critic, **options)


@pytest.mark.parametrize("factory", [po.ppo, po.trpo, po.npg])
def test_a_warm_start_replaces_the_policy_and_leaves_the_rest(chain, factory):
    env, env_params = chain
    algorithm = build(factory, env, env_params)
    given = jax.random.normal(jax.random.key(5), (5, 3))
    warm = po.warm_start(algorithm, given)
    cold_state, warm_state = (a.init(jax.random.key(0), a.hyperparams) for a in (algorithm, warm))
    np.testing.assert_array_equal(warm_state.params.policy, given)
    assert type(warm_state) is type(cold_state)
    rest = warm_state._replace(params=cold_state.params)
    jax.tree.map(np.testing.assert_array_equal, rest, cold_state)
    np.testing.assert_array_equal(warm_state.params.critic, cold_state.params.critic)


@pytest.mark.parametrize("factory", [po.ppo, po.trpo, po.npg])
def test_lanes_train_from_clones_of_their_own(chain, factory):
    """The first rollout is the clone's: nearly deterministic, it ends every episode with 1."""
    env, env_params = chain
    algorithm = build(factory, env, env_params)
    policy = softmax_linear_policy(env, env_params)
    right = jax.nn.one_hot(jnp.arange(5) % 3, 3)
    given = jnp.stack([30.0 * right, -30.0 * right])

    def train(key, params):
        warm = po.warm_start(algorithm, params)
        trainer = make_trainer(env, env_params, warm, num_envs=4, num_steps=16)
        return make_train(trainer, num_updates=1)(key, warm.hyperparams)

    result = jax.jit(jax.vmap(train))(seed_keys(2), given)
    np.testing.assert_array_equal(result.log.episode_return.mean[:, 0], [1.0, 0.0])
    np.testing.assert_array_equal(result.state.diverged_at, -1)
    after = result.state.algorithm.params.policy
    assert float(jnp.max(jnp.abs(after - given))) < 5.0
    assert policy.init(jax.random.key(0)).shape == after[0].shape


def test_parameters_of_another_policy_are_refused(chain):
    env, env_params = chain
    algorithm = po.ppo(*po.mlp_actor_critic(env, env_params, hidden=(8,)))
    other, _ = po.mlp_actor_critic(env, env_params, hidden=(9,))
    whole = algorithm.init(jax.random.key(0), algorithm.hyperparams).params
    for params, message in (
        (other.init(jax.random.key(0)), r"\['Dense_0'\]\['bias'\] must be \[8\], got \[9\]"),
        (whole, r"\['Dense_0'\]\['bias'\] must be \[8\], got none"),
        (None, r"must be \[8\], got none"),
        (jnp.zeros(3), r"must be \[8\], got none"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            po.warm_start(algorithm, params)
        assert "\n" not in str(error.value)


# --- rewards from preferences --------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged():
    """Pairs of outputs of a tiny task, preferred by a linear score of their last observation."""
    env, env_params = po.make_env("tokens/copy", length=2, symbols=3)
    _, model = po.mlp_actor_critic(env, env_params, hidden=(16,))
    outputs = jax.random.randint(jax.random.key(0), (2, 512, 5), 1, 4)
    score = jnp.sum(outputs * jnp.arange(1, 6), axis=-1)
    first = (score[0] > score[1])[:, None]
    pairs = po.Pairs(
        jnp.where(first, outputs[0], outputs[1]),
        jnp.where(first, outputs[1], outputs[0]),
        jnp.float32(score[0] != score[1]),
    )
    return env, env_params, model, pairs


def part(pairs, *slices):
    return jax.tree.map(lambda x: x[slice(*slices)], pairs)


def test_a_reward_model_learns_preferences_it_has_not_seen(judged):
    *task, pairs = judged
    model = task[-1]
    settings = {"num_epochs": 60, "num_minibatches": 4, "learning_rate": 3e-3}

    def fit(key):
        return po.reward_model(key, *task, part(pairs, 384), **settings)

    fitted = jax.vmap(fit)(seed_keys(3))
    held_out = part(pairs, 384, None)
    accuracy = jax.vmap(lambda params: po.preference_accuracy(model, params, held_out))(
        fitted.params
    )
    assert (accuracy >= 0.9).all(), accuracy
    np.testing.assert_allclose(fitted.loss[:, 0], np.log(2), atol=0.1)
    assert (fitted.loss[:, -1] < 0.2).all()
    # Seeds side by side are what they are alone.
    alone = fit(jax.random.key(1))
    np.testing.assert_allclose(alone.loss, fitted.loss[1], rtol=1e-3)


def test_the_loss_of_a_reward_model_is_that_of_bradley_and_terry(judged):
    *task, pairs = judged
    model, few = task[-1], part(pairs, 8)
    params = model.init(jax.random.key(3))
    start = jnp.zeros(8, bool)
    margin = np.subtract(*(model.unroll(params, (), x, start) for x in (few.winner, few.loser)))
    fitted = po.reward_model(jax.random.key(0), *task, few, params=params, num_epochs=1)
    expected = np.mean(np.log1p(np.exp(-margin))[np.asarray(few.weight) > 0])
    np.testing.assert_allclose(fitted.loss[0], expected, rtol=1e-5)


def test_ties_say_nothing(judged):
    *task, pairs = judged
    few = part(pairs, 16)
    weight = jnp.arange(16) < 8
    noisy = few._replace(weight=few.weight * weight, winner=few.winner.at[8:].set(1))
    settings = {"params": task[-1].init(jax.random.key(0)), "num_epochs": 1}
    fitted = po.reward_model(
        jax.random.key(0), *task, few._replace(weight=few.weight * weight), **settings
    )
    again = po.reward_model(jax.random.key(0), *task, noisy, **settings)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), fitted, again)


def test_replay_keeps_what_was_learned_before(judged):
    """New pairs that say the opposite of half of the old ones; replay remembers the others."""
    *task, pairs = judged
    model = task[-1]
    settings = {"num_epochs": 40, "num_minibatches": 3, "learning_rate": 3e-3}
    old = part(pairs, 192)
    params = po.reward_model(jax.random.key(0), *task, old, **settings).params
    swapped = po.Pairs(old.loser, old.winner, old.weight)
    forgotten, remembered = (
        po.reward_model(jax.random.key(1), *task, swapped, params=params, **settings, **replay)
        for replay in ({}, {"replay": old, "replay_fraction": 1.0})
    )
    accuracy = [
        float(po.preference_accuracy(model, x.params, old)) for x in (forgotten, remembered)
    ]
    assert accuracy[0] < 0.35
    assert accuracy[1] > accuracy[0] + 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"winner": 7}, "as many winners as losers and weights, of equal shapes, got winner"),
        ({"weight": 7}, "as many winners as losers and weights, of equal shapes, got winner"),
    ],
)
def test_pairs_of_unequal_shapes_are_refused(judged, change, message):
    *task, pairs = judged
    (name, size), *_ = change.items()
    wrong = part(pairs, 8)._replace(**{name: getattr(pairs, name)[:size]})
    with pytest.raises(ValueError, match=message) as error:
        po.reward_model(jax.random.key(0), *task, wrong)
    assert "\n" not in str(error.value)


def test_other_wrong_arguments_of_a_reward_model(judged):
    *task, pairs = judged
    few = part(pairs, 8)
    narrow = po.Pairs(few.winner[:, 1:], few.loser[:, 1:], few.weight)
    for given, options, message in (
        (narrow, {}, "obs must have the shape"),
        (few, {"num_minibatches": 3}, "num_minibatches must divide the batch of 8 pairs, got 3"),
        (few, {"replay": few, "num_minibatches": 8}, "divide the batch of 9 pairs, got 8"),
        (few, {"replay_fraction": 0.0}, "replay_fraction must be a number in"),
    ):
        with pytest.raises(ValueError, match=message):
            po.reward_model(jax.random.key(0), *task, given, **options)


def test_a_warm_start_becomes_the_reference_of_grpo(judged):
    env, env_params, *_ = judged
    policy, _ = po.mlp_actor_critic(env, env_params, hidden=(16,))
    algorithm = po.grpo(policy, po.GRPOOptions(group_size=2))
    given = policy.init(jax.random.key(9))
    state = po.warm_start(algorithm, given).init(jax.random.key(0), algorithm.hyperparams)
    for params in (state.params.policy, state.reference.policy):
        jax.tree.map(np.testing.assert_array_equal, params, given)
