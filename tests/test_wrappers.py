"""Shaping and restarts: exact identities first, then what training and evaluation see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.wrappers import purerl

import purejax_po as po
from purejax_po import exact, rollout
from purejax_po.environments.chain import EnvState as ChainState
from purejax_po.environments.finite_mdp import EnvState, make_finite_mdp
from purejax_po.networks import linear_critic, softmax_linear_policy
from purejax_po.training import make_train, make_trainer

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_STATES, NUM_ACTIONS = 5, 3


def shaped_tables(env, env_params, mdp):
    """E[r̃ | s, a] of an environment, `[S, A]`, from its own steps to every successor of P[s, a]."""

    def step(key, index, action):
        state = EnvState(index=index, time=jnp.int32(0))
        _, successor, reward, _, _ = env.step_env(key, state, action, env_params)
        return successor.index, reward

    keys = jax.random.split(jax.random.key(7), 400)
    over_actions = jax.vmap(jax.vmap(step, (0, None, None)), (None, None, 0))
    over_states = jax.jit(jax.vmap(over_actions, (None, 0, None)))
    successor, reward = over_states(keys, jnp.arange(NUM_STATES), jnp.arange(NUM_ACTIONS))
    by_successor = np.full((NUM_STATES, NUM_ACTIONS, NUM_STATES), np.nan)
    for s in range(NUM_STATES):
        for a in range(NUM_ACTIONS):
            for t in np.unique(successor[s, a]):
                found = np.unique(np.asarray(reward)[s, a, np.asarray(successor)[s, a] == t])
                assert len(found) == 1  # the potential leaves no chance of its own
                by_successor[s, a, t] = found[0]
    possible = np.asarray(mdp.transition) > 0
    assert (np.isfinite(by_successor) == possible).all()  # every successor was seen
    return np.sum(np.where(possible, mdp.transition * np.nan_to_num(by_successor), 0.0), axis=-1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("discount", [0.0, 0.7, 0.99])
def test_shaping_leaves_exact_advantages_and_shifts_exact_action_values(x64, seed, discount):
    mdp = exact.garnet(jax.random.key(seed), NUM_STATES, NUM_ACTIONS, 3, discount)
    potential, logits = (
        jax.random.normal(jax.random.key(10 + i), shape)
        for i, shape in enumerate([(NUM_STATES,), (NUM_STATES, NUM_ACTIONS)])
    )
    env, env_params = make_finite_mdp(mdp)
    shaped_env = po.shape_reward(env, lambda state: potential[state.index], discount)
    shaped = mdp._replace(reward=jnp.asarray(shaped_tables(shaped_env, env_params, mdp)))
    pi = jax.nn.softmax(logits)
    before, after = (exact.action_values(m, pi) for m in (mdp, shaped))
    np.testing.assert_allclose(after, before - potential[:, None], atol=1e-10)
    before, after = (exact.advantages(m, pi) for m in (mdp, shaped))
    np.testing.assert_allclose(after, before, atol=1e-10)
    before, after = (exact.policy_iteration(m).policy for m in (mdp, shaped))
    np.testing.assert_array_equal(after, before)
    before, after = (exact.policy_gradient(m, jax.nn.log_softmax, logits) for m in (mdp, shaped))
    np.testing.assert_allclose(after, before, atol=1e-10)


def collect(env, env_params, num_steps, key=0):
    """Transitions `[T, 8]` of the uniform policy."""
    policy = softmax_linear_policy(env, env_params)
    theta = policy.init(jax.random.key(0))
    start = rollout.reset(jax.random.key(key), env, env_params, policy, 8)
    return rollout.collect(
        jax.random.key(key + 1), env, env_params, policy, theta, start, num_steps
    )[1]


def test_discounted_shaped_rewards_telescope_to_the_potentials_at_both_ends(x64):
    """Through an automatic reset: each episode telescopes by itself; only a true end is worth 0."""
    discount, potential = 0.9, jnp.array([3.0, -1.0, 2.0, 5.0])
    plain, env_params = po.make_env("Chain-v0", length=3)
    env = po.shape_reward(plain, lambda state: potential[state.position], discount)
    env_params = env_params.replace(max_steps_in_episode=5)
    transition, unshaped = (collect(e, env_params, 60) for e in (env, plain))
    np.testing.assert_array_equal(transition.next_obs, unshaped.next_obs)
    np.testing.assert_array_equal(transition.obs, unshaped.obs)
    np.testing.assert_array_equal(transition.terminated, unshaped.terminated)
    position, successor = (np.argmax(x, axis=-1) for x in (transition.obs, transition.next_obs))
    reached, cut = 0, 0
    for n in range(8):
        first = 0
        for t in range(60):
            terminated, truncated = transition.terminated[t, n], transition.truncated[t, n]
            if not (terminated or truncated):
                continue
            weights = discount ** np.arange(t + 1 - first)
            extra = transition.reward[first : t + 1, n] - unshaped.reward[first : t + 1, n]
            last = 0.0 if terminated else discount ** len(weights) * potential[successor[t, n]]
            np.testing.assert_allclose(weights @ extra, last - potential[position[first, n]])
            first, reached, cut = t + 1, reached + bool(terminated), cut + bool(not terminated)
    assert reached > 0
    assert cut > 0


def test_the_potential_of_a_terminated_state_is_zero_and_of_a_truncated_one_counts():
    env, env_params = po.make_env("Chain-v0", length=2)
    env = po.shape_reward(env, lambda state: 10.0 * (1 + state.position), 0.5)
    for position, limit, action, reward, terminated, truncated in (
        (1, 9, 1, 1.0 + 0.0 - 20.0, True, False),
        (1, 1, 1, 1.0 + 0.0 - 20.0, True, True),
        (0, 1, 0, 0.5 * 20.0 - 10.0, False, True),
        (0, 9, 0, 0.5 * 20.0 - 10.0, False, False),
        (0, 9, 1, 0.5 * 10.0 - 10.0, False, False),
    ):
        state = ChainState(position=jnp.int32(position), time=jnp.int32(0))
        params = env_params.replace(max_steps_in_episode=limit)
        _, _, found, ended, cut, _ = env.step(jax.random.key(0), state, action, params)
        assert (float(found), bool(ended), bool(cut)) == (reward, terminated, truncated)


def test_a_traced_discount_is_a_loop_over_discounts():
    env, env_params = po.make_env("Chain-v0", length=3)
    policy, critic = softmax_linear_policy(env, env_params), linear_critic(env, env_params)
    algorithm = po.ppo(policy, critic, po.PPOOptions(num_epochs=1, num_minibatches=1))

    def train(discount):
        shaped = po.shape_reward(env, lambda state: jnp.float32(state.position), discount)
        trainer = make_trainer(shaped, env_params, algorithm, num_envs=2, num_steps=8)
        hyperparams = algorithm.hyperparams.replace(discount=discount)
        result = make_train(trainer, num_updates=2)(jax.random.key(0), hyperparams)
        return result.log.episode_return.mean, result.state.algorithm.params

    discounts = jnp.array([0.1, 0.5, 0.9])
    swept = jax.jit(jax.vmap(train))(discounts)
    for i, discount in enumerate(discounts):
        alone = jax.jit(train)(float(discount))
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=2e-4, atol=1e-6),
            swept,
            alone,
        )
    assert len(np.unique(swept[0][:, 0])) == 3


def test_training_resets_are_drawn_from_the_given_states_and_evaluation_starts_at_the_true_start():
    env, env_params = po.make_env("Chain-v0", length=6)
    states = jax.tree.map(lambda x: x[jnp.array([1, 3, 3, 5])], env.states())
    training = po.reset_from(env, states)
    keys = jax.random.split(jax.random.key(0), 8000)
    obs, state = jax.vmap(training.reset, (0, None))(keys, env_params)
    frequency = np.asarray(obs).mean(axis=0)
    # Four deviations of a frequency near 1/2 in 8000 draws.
    np.testing.assert_allclose(frequency, [0, 0.25, 0, 0.5, 0, 0.25, 0], atol=0.0224)
    np.testing.assert_array_equal(frequency[[0, 2, 4, 6]], 0.0)
    np.testing.assert_array_equal(np.argmax(obs, -1), state.position)

    transition = collect(training, env_params, 40)
    starts = np.argmax(transition.obs, -1)[np.asarray(transition.start)]
    assert len(starts) > 16  # automatic resets among them
    np.testing.assert_array_equal(np.unique(starts), [1, 3, 5])
    position, successor = np.argmax(transition.obs, -1), np.argmax(transition.next_obs, -1)
    advances = np.asarray(transition.action) == position % 3
    np.testing.assert_array_equal(successor, np.where(advances, position + 1, 0))

    policy = softmax_linear_policy(env, env_params)
    right = jax.nn.one_hot(jnp.arange(7) % 3, 3)
    for theta, expected in ((right, 1.0), (right.at[0].set(jnp.array([0.0, 0.0, 1.0])), 0.0)):
        found = po.evaluate(
            jax.random.key(0), env, env_params, policy, theta, num_episodes=4, num_steps=6
        )
        np.testing.assert_array_equal(found.episode_return, expected)
        np.testing.assert_array_equal(found.episode_length, 6)
    obs, _ = jax.vmap(env.reset, (0, None))(keys[:20], env_params)
    assert (np.argmax(obs, -1) == 0).all()


def test_a_distribution_may_be_a_function_of_key_and_parameters_and_wrappers_nest():
    env, env_params = po.make_env("CartPole-v1")

    def lean(key, params):
        _, state = env.reset_env(key, params)
        return state.replace(theta=0.5 * params.theta_threshold_radians)

    def angle(state):
        return -jnp.abs(state.theta)

    wrapped = (
        po.shape_reward(po.reset_from(env, lean), angle, 0.9),
        po.reset_from(po.shape_reward(env, angle, 0.9), lean),
    )
    found = []
    for training in wrapped:
        obs, state = training.reset(jax.random.key(0), env_params)
        np.testing.assert_allclose(state.theta, 0.5 * env_params.theta_threshold_radians)
        assert obs[2] == state.theta
        found.append(training.step(jax.random.key(1), state, 1, env_params))
    jax.tree.map(np.testing.assert_array_equal, *found)
    _, successor, reward, *_ = found[0]
    np.testing.assert_allclose(
        reward, 1.0 - 0.9 * abs(successor.theta) + abs(state.theta), rtol=1e-6
    )
    assert env.reset(jax.random.key(0), env_params)[1].theta != state.theta


def test_a_potential_that_is_no_function_of_the_state_is_refused(subtests):
    for potential, message in [
        (3.0, "got 3.0"),
        (lambda state, action: 0.0, "missing 1 required positional argument: 'action'"),
        (lambda: 0.0, "takes 0 positional arguments but 1 was given"),
        (lambda state: state.height, "has no attribute 'height'"),
        (lambda state: state[0], "is not subscriptable"),
        (lambda state: jnp.zeros(2), r"got one that returns float32\[2\]"),
        (lambda state: (state.position, 1.0), r"got one that returns tuple\(\[0\] float32\[\]"),
        (lambda state: None, "got one that returns NoneType"),
        (lambda state: state.position > 0, r"got one that returns bool\[\]"),
        (lambda state: 1j * state.position, r"got one that returns complex64\[\]"),
        (lambda state: float(state.position), "Abstract tracer value encountered"),
    ]:
        with subtests.test(message):
            env, _ = po.make_env("MountainCar-v0")
            with pytest.raises(ValueError, match=message) as error:
                po.shape_reward(env, potential, 0.99)
            text = str(error.value)
            assert text.startswith(
                "potential must be a function of the state of MountainCar-v0 alone"
            )
            assert "\n" not in text


@pytest.mark.parametrize("discount", [-0.1, 1.5, np.nan, "much"])
def test_a_discount_outside_its_range_is_refused(discount):
    env, _ = po.make_env("MountainCar-v0")
    with pytest.raises(ValueError, match=r"discount must be a number in \[0, 1\], got"):
        po.shape_reward(env, lambda state: state.position, discount)


def states(**leaves):
    return ChainState(**{"time": jnp.zeros(4, jnp.int32), **leaves})


def test_states_of_the_wrong_form_are_refused(subtests):
    for distribution, message in [
        (states(position=jnp.zeros((4, 2), jnp.int32)), r"got EnvState\(.*position int32\[2\]"),
        (states(position=jnp.zeros(4)), r"got EnvState\(.*position float32\[\]"),
        (states(position=jnp.zeros(3, jnp.int32)), r"leaves \[S, ...\] for one S ≥ 1, got"),
        (ChainState(position=jnp.int32(1), time=0), r"leaves \[S, ...\] for one S ≥ 1, got"),
        (jax.tree.map(lambda x: x[:0], states(position=jnp.zeros(4, jnp.int32))), "one S ≥ 1"),
        (jnp.arange(4), r"must hold states of Chain-v0 such as EnvState\(.*got int32\[\]"),
        (None, "for one S ≥ 1, got NoneType"),
        (lambda key, params: jnp.zeros(2), r"must draw states of Chain-v0 .*got float32\[2\]"),
    ]:
        with subtests.test(message):
            env, _ = po.make_env("Chain-v0")
            with pytest.raises(ValueError, match=message) as error:
                po.reset_from(env, distribution)
            assert "\n" not in str(error.value)


# Around wrappers, whose `step` alone knows how an episode ends

START = {"x": 1.5}


class Half(purerl.GymnaxWrapper):
    """A wrapper that can be copied, and whose `step` calls no `step_env` of its own."""

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._env, name)

    def reset(self, key, params=None):
        return self._env.reset(key, params)

    def step(self, *arguments):
        obs, state, reward, *rest = self._env.step(*arguments)
        return obs, state, reward / 2, *rest


WRAPPERS = {
    "log": purerl.LogWrapper,
    "flatten": purerl.FlattenObservationWrapper,
    "sticky": lambda env: purerl.StickyActionWrapper(env, 0.0),
    "half": Half,
}


def rewards(env, params, num_steps=90):
    """Rewards and ends of episode after episode, actions in turn, then the same one for long."""

    def step(carry, i):
        key, state = carry
        key, step_key = jax.random.split(key)
        action = jnp.where(i < 50, i % 2, 1)
        _, state, reward, terminated, truncated, _ = env.step(step_key, state, action, params)
        return (key, state), (reward, terminated, truncated)

    key = jax.random.key(3)
    _, state = env.reset(key, params)
    state = jax.tree.map(jnp.asarray, state)
    return jax.lax.scan(step, (key, state), jnp.arange(num_steps))[1]


def potential(state):
    return 10.0 * state.x + state.theta


@pytest.mark.parametrize("name", WRAPPERS)
def test_shaping_around_a_wrapper_is_that_inside_of_it(name):
    """At every step, over ends and over time limits; it had no effect, or failed."""
    env, params = po.make_env("CartPole-v1")
    params = params.replace(max_steps_in_episode=20)
    expected = rewards(po.shape_reward(env, potential, 0.9), params)
    found = rewards(po.shape_reward(WRAPPERS[name](env), potential, 0.9), params)
    assert expected[1].sum() > 2  # terminated
    assert expected[2].sum() > 1  # truncated
    plain = 0.5 if name == "half" else 0.0
    np.testing.assert_allclose(found[0], expected[0] - plain, atol=1e-5)


@pytest.mark.parametrize("name", WRAPPERS)
def test_restarts_around_a_wrapper_begin_at_the_drawn_states(name):
    env, params = po.make_env("CartPole-v1")

    def draw(key, params):
        return env.reset_env(key, params)[1].replace(**START)

    changed = po.reset_from(WRAPPERS[name](env), draw)
    obs, state = changed.reset(jax.random.key(0), params)
    assert obs[0] == 1.5
    ending = params.replace(max_steps_in_episode=1)
    obs, _, _, _, truncated, info = changed.step(jax.random.key(1), state, 0, ending)
    assert truncated
    assert obs[0] == 1.5
    assert info["final_observation"][0] != 1.5


@pytest.mark.parametrize("name", WRAPPERS)
def test_judges_around_a_wrapper_judge_the_last_observation(name):
    env, params = po.make_env("CartPole-v1")
    params = params.replace(max_steps_in_episode=20)
    changed = po.judge_outcome(WRAPPERS[name](env), lambda obs: 7.0 + obs[0])
    reward, terminated, truncated = rewards(changed, params)
    ended = terminated | truncated
    assert ((reward == 0.0) == ~ended).all()


def test_what_cannot_be_shaped_is_refused():
    class Sealed:
        """It resets by itself, and keeps its time limit to itself."""

        name, default_params = "Sealed", {"a": 1.0}

        def __init__(self, env):
            self.env = env

        def action_space(self, params):
            return self.env.action_space(self.env.default_params)

        def reset(self, key, params=None):
            return self.env.reset(key)

        def step(self, key, state, action, params=None):
            return self.env.step(key, state, action)

    env, _ = po.make_env("CartPole-v1")
    with pytest.raises(ValueError, match=r"must know the state before a reset, which Sealed keeps"):
        po.shape_reward(Sealed(env), potential, 0.9)


def test_a_flattened_observation_is_not_that_of_a_drawn_state():
    env, _ = po.make_env("Catch-bsuite")
    with pytest.raises(ValueError, match="must be inside of a wrapper that changes observations"):
        po.reset_from(
            purerl.FlattenObservationWrapper(env), lambda key, p: env.reset_env(key, p)[1]
        )
