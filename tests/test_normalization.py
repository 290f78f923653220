"""Running statistics against numpy over everything collected, and what is normalised by them."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces

import purejax_po as po
from purejax_po import metrics, normalization
from purejax_po.actor import acting
from purejax_po.metrics import Moments
from purejax_po.networks import softmax_linear_policy
from purejax_po.training import make_train, make_trainer
from purejax_po.types import Algorithm

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

NUM_ENVS, NUM_STEPS, NUM_UPDATES = 3, 20, 4
EXACT = {"rtol": 1e-9, "atol": 1e-9}


# --- moments -------------------------------------------------------------------------------------


def test_merged_moments_are_those_of_everything_together(x64):
    """Parts of several lengths, over vectors and matrices, with samples of weight zero."""
    rng = np.random.default_rng(0)
    for shape in ((), (3,), (2, 2)):
        parts = [1e3 + rng.normal(size=(n, 4, *shape)) for n in (1, 7, 2, 30)]
        weights = [np.float64(rng.random(x.shape[:2]) < 0.6) for x in parts]
        total = metrics.of_masked(jnp.asarray(parts[0]), jnp.asarray(weights[0]))
        for x, weight in zip(parts[1:], weights[1:], strict=True):
            poisoned = np.where(weight.reshape(weight.shape + (1,) * len(shape)) > 0, x, np.nan)
            part = metrics.of_masked(jnp.asarray(poisoned), jnp.asarray(weight))
            total = metrics.merge(total, part)
        kept = np.concatenate([x[w > 0] for x, w in zip(parts, weights, strict=True)])
        assert total.count == len(kept)
        np.testing.assert_allclose(total.mean, kept.mean(0), rtol=1e-12)
        np.testing.assert_allclose(total.m2, kept.var(0) * len(kept), rtol=1e-9)
        std = normalization.standard_deviation(total)
        np.testing.assert_allclose(std, kept.std(0), rtol=1e-9)


def test_what_has_not_varied_is_not_scaled():
    empty = Moments(jnp.zeros(()), jnp.zeros(2), jnp.zeros(2))
    np.testing.assert_array_equal(normalization.standard_deviation(empty), 1.0)
    constant = metrics.of_masked(jnp.full((1000, 2), jnp.array([0.1, -3e5])), jnp.ones(1000))
    for _ in range(10):  # each merge rounds
        constant = metrics.merge(constant, constant)
    np.testing.assert_array_equal(normalization.standard_deviation(constant), 1.0)
    # Later it varies: neither a division by zero nor a giant.
    obs = normalization.normalize_obs(constant, jnp.array([0.6, -3e5]))
    np.testing.assert_allclose(obs, [0.5, 0.0], atol=0.1)


def test_normalised_observations_are_clipped(x64):
    moments = Moments(jnp.float64(4), jnp.array([1.0, 2.0]), 4 * jnp.array([4.0, 9.0]))
    obs = jnp.array([[2.0, 2.0], [1e6, -1e6], [21.0, -28.0], [20.9, -27.9]])
    expected = [[0.5, 0.0], [10.0, -10.0], [10.0, -10.0], [9.95, -29.9 / 3]]
    np.testing.assert_allclose(normalization.normalize_obs(moments, obs), expected, **EXACT)


def test_discounted_returns_start_anew_with_every_episode(x64):
    reward = jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, np.nan], [8.0, 40.0]])
    start = jnp.array([[0, 1], [0, 0], [1, 0], [0, 0]], bool)
    weight = jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    transition: Any = SimpleNamespace(reward=reward, start=start, weight=weight)
    found = normalization.discounted_returns(jnp.array([100.0, 100.0]), transition, 0.5)
    np.testing.assert_array_equal(found, [[51, 10], [27.5, 25], [4, 25], [10, 52.5]])


# --- in training ---------------------------------------------------------------------------------


@struct.dataclass
class NoiseParams(environment.EnvParams):
    max_steps_in_episode: int = 6
    reward_scale: float = 1.0


class Noise(environment.Environment):
    """Observations of three scales, rewards of mean 2, episodes of up to six steps."""

    @property
    def default_params(self):
        return NoiseParams()

    def reset_env(self, key, params):
        return self.observe(key), environment.EnvState(time=jnp.int32(0))

    def step_env(self, key, state, action, params):
        obs_key, reward_key, end_key = jax.random.split(key, 3)
        reward = params.reward_scale * (2.0 + 3.0 * jax.random.normal(reward_key))
        terminated = jax.random.bernoulli(end_key, 0.2)
        return self.observe(obs_key), environment.EnvState(state.time + 1), reward, terminated, {}

    def observe(self, key):
        noise = jax.random.normal(key, (3,))
        return jnp.array([1e3, 0.0, 5.0]) + noise * jnp.array([100.0, 0.01, 0.0])

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (3,))


ENV, ENV_PARAMS = Noise(), NoiseParams()
POLICY = softmax_linear_policy(ENV, ENV_PARAMS)


@struct.dataclass
class Hyperparams:
    discount: float = 0.9


class Fixed(NamedTuple):
    params: Any


def spy(params, policy=POLICY):
    """An algorithm that learns nothing and logs what it is shown, `[T, N, ...]`."""

    def update(key, hyperparams, state, batch):
        t = batch.transition
        seen = {"obs": t.obs, "next_obs": t.next_obs, "reward": t.reward, "start": 1.0 * t.start}
        return state, {**seen, "logits": t.behaviour.logits}

    return Algorithm(acting(policy), Hyperparams(), lambda key, hyperparams: Fixed(params), update)


UNIFORM = jnp.zeros((3, 2))
"""Acts alike whatever it sees: the same rollouts with and without normalisation."""
BOTH = {"normalize_observations": True, "normalize_rewards": True}


def trainer_of(params=UNIFORM, **options):
    sizes = {"num_envs": NUM_ENVS, "num_steps": NUM_STEPS}
    return make_trainer(ENV, ENV_PARAMS, spy(params), **sizes, **options)


def train(trainer, seed=0):
    """The result as numpy arrays, without its key."""
    run = jax.jit(make_train(trainer, num_updates=NUM_UPDATES))
    result = run(jax.random.key(seed), Hyperparams())
    return jax.tree.map(np.asarray, result._replace(state=result.state._replace(key=())))


@pytest.fixture(scope="module")
def plain():
    with jax.enable_x64(True):
        return train(trainer_of())


@pytest.fixture(scope="module")
def both():
    with jax.enable_x64(True):
        return train(trainer_of(**BOTH))


def returns_of(seen, discount):
    """Running discounted returns by a loop, `[updates · T, N]`."""
    reward, start = (np.concatenate(np.asarray(seen[name])) for name in ("reward", "start"))
    returns, running = [], np.zeros(NUM_ENVS)
    for r, first in zip(reward, start, strict=True):
        running = r + discount * np.where(first, 0.0, running)
        returns.append(running)
    return np.stack(returns)


def test_every_update_sees_the_statistics_of_all_earlier_ones(plain, both):
    """Which is to say: frozen through the update, merged after it."""
    raw, seen = plain.log.info.mean, both.log.info.mean
    returns = returns_of(raw, 0.9)
    assert 1 < np.count_nonzero(raw["start"]) < raw["start"].size
    for k in range(NUM_UPDATES):
        past = np.asarray(raw["obs"][:k]).reshape(-1, 3)
        mean, std = (past.mean(0), past.std(0)) if k else (np.zeros(3), np.ones(3))
        std = np.where(std > 0, std, 1.0)
        for name in ("obs", "next_obs"):
            expected = np.clip((raw[name][k] - mean) / std, -10.0, 10.0)
            np.testing.assert_allclose(seen[name][k], expected, **EXACT)
        scale = returns[: k * NUM_STEPS].std() if k else 1.0
        np.testing.assert_allclose(seen["reward"][k], raw["reward"][k] / scale, **EXACT)


def test_the_last_state_holds_the_moments_of_everything(plain, both):
    obs = np.asarray(plain.log.info.mean["obs"]).reshape(-1, 3)
    returns = returns_of(plain.log.info.mean, 0.9)
    state = both.state.normalization
    assert state.obs.count == state.returns.moments.count == NUM_UPDATES * NUM_STEPS * NUM_ENVS
    np.testing.assert_allclose(state.obs.mean, obs.mean(0), **EXACT)
    np.testing.assert_allclose(state.obs.m2, obs.var(0) * len(obs), **EXACT)
    np.testing.assert_allclose(state.returns.moments.mean, returns.mean(), **EXACT)
    np.testing.assert_allclose(state.returns.moments.m2, returns.var() * returns.size, **EXACT)
    np.testing.assert_allclose(state.returns.running, returns[-1], **EXACT)


def test_logs_keep_the_true_returns(plain, both):
    jax.tree.map(np.testing.assert_array_equal, plain.log.episode_return, both.log.episode_return)
    jax.tree.map(np.testing.assert_array_equal, plain.log.episode_length, both.log.episode_length)
    jax.tree.map(np.testing.assert_array_equal, plain.state.rollout, both.state.rollout)


@pytest.mark.parametrize("name", BOTH)
def test_each_option_alone_leaves_the_other_quantity_as_it_is(plain, name, x64):
    result = train(trainer_of(**{name: True}))
    same, other = ("reward", "obs") if name == "normalize_observations" else ("obs", "reward")
    np.testing.assert_array_equal(result.log.info.mean[same], plain.log.info.mean[same])
    assert (result.log.info.mean[other] != plain.log.info.mean[other])[1:].any()


def test_without_options_the_state_has_no_statistics():
    state = jax.eval_shape(trainer_of().init, jax.random.key(0), Hyperparams())
    assert jax.tree.leaves(state.normalization) == []
    assert state.acting_params is state.algorithm.params
    trainer = trainer_of()
    assert trainer.actor is trainer.algorithm.actor


def test_old_is_the_behaviour_policy(x64):
    """The algorithm's policy on the observations it is shown acts as the rollout did: ratio 1."""
    theta = jax.random.normal(jax.random.key(1), (3, 2))
    seen = train(trainer_of(theta, **BOTH)).log.info.mean
    shape = NUM_UPDATES, NUM_STEPS, NUM_ENVS
    logits = POLICY.unroll(theta, (), jnp.asarray(seen["obs"]), jnp.zeros(shape, bool)).logits
    np.testing.assert_allclose(logits, seen["logits"], rtol=1e-12, atol=1e-12)
    assert np.std(logits[1:]) > 0.1


def test_the_first_minibatch_of_ppo_has_ratio_one(x64):
    """With one minibatch per update and none after it KL and clip fraction stay zero."""
    networks = po.mlp_actor_critic(ENV, ENV_PARAMS, hidden=(4,))
    algorithm = po.ppo(*networks, po.PPOOptions(num_epochs=1, num_minibatches=1))
    trainer = make_trainer(ENV, ENV_PARAMS, algorithm, num_envs=2, num_steps=8, **BOTH)
    run = jax.jit(make_train(trainer, num_updates=3))
    result = run(jax.random.key(0), algorithm.hyperparams)
    assert result.state.diverged_at == -1
    np.testing.assert_allclose(result.log.info.mean["kl"], 0.0, atol=1e-15)
    np.testing.assert_array_equal(result.log.info.mean["clip_fraction"], 0.0)


def test_a_swept_discount_changes_the_scale_of_rewards(plain, x64):
    discounts = np.array([0.0, 0.5, 0.99])
    run = make_train(trainer_of(normalize_rewards=True), num_updates=NUM_UPDATES)
    sweep = jax.jit(jax.vmap(run, in_axes=(None, Hyperparams(0))))
    seen = sweep(jax.random.key(0), Hyperparams(jnp.asarray(discounts))).log.info.mean
    raw = plain.log.info.mean
    for lane, discount in enumerate(discounts):
        scale = returns_of(raw, discount)[:-NUM_STEPS].std()
        expected = raw["reward"][-1] / scale
        np.testing.assert_allclose(seen["reward"][lane, -1], expected, **EXACT)
    assert len(np.unique(seen["reward"][:, -1, 0, 0])) == 3


# --- lanes ---------------------------------------------------------------------------------------


def test_a_lane_is_an_island(x64):
    """Lanes as a loop; a diverged lane's statistics freeze with it, and its neighbours' do not."""
    trainer, keys = trainer_of(**BOTH), po.seed_keys(3)
    axes = None, 0, NoiseParams(max_steps_in_episode=None, reward_scale=0)  # type: ignore[arg-type]
    step = jax.jit(jax.vmap(lambda h, s, e: trainer.step(h, s, e)[0], in_axes=axes))
    first = jax.jit(jax.vmap(trainer.init, (0, None)))(keys, Hyperparams())

    sound, poison = jnp.ones(3), jnp.array([1.0, np.nan, 1.0])
    healthy, poisoned = [first], [first]
    for scale in (sound, sound, poison, sound):
        healthy.append(step(Hyperparams(), healthy[-1], ENV_PARAMS.replace(reward_scale=sound)))
        poisoned.append(step(Hyperparams(), poisoned[-1], ENV_PARAMS.replace(reward_scale=scale)))
    np.testing.assert_array_equal(poisoned[-1].diverged_at, [-1, 2, -1])
    for lane, expected in enumerate((healthy[-1], healthy[2], healthy[-1])):
        jax.tree.map(
            lambda x, y, lane=lane: np.testing.assert_array_equal(x[lane], y[lane]),
            poisoned[-1].normalization,
            expected.normalization,
        )
    for lane in range(3):
        alone = train(trainer, lane).state.normalization
        jax.tree.map(
            lambda x, y, lane=lane: np.testing.assert_allclose(x[lane], y, **EXACT),
            healthy[-1].normalization,
            alone,
        )


def test_statistics_that_are_not_finite_are_noticed(x64):
    """The clip makes an infinite observation a finite one, and so hides it from the algorithm."""
    trainer = trainer_of(normalize_observations=True)
    state = trainer.init(jax.random.key(0), Hyperparams())
    broken = state._replace(rollout=state.rollout._replace(obs=state.rollout.obs.at[0].set(np.inf)))
    after, _ = jax.jit(trainer.step)(Hyperparams(), broken)
    assert after.diverged_at == 0
    jax.tree.map(np.testing.assert_array_equal, after.normalization, state.normalization)


# --- evaluation ----------------------------------------------------------------------------------


class Places(environment.Environment):
    """Two places that look like 900 and 1100; the action has to be the number of the place."""

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=1)

    def reset_env(self, key, params):
        place = jax.random.bernoulli(key).astype(jnp.int32)
        return self.look(place), environment.EnvState(time=place * 10)

    def step_env(self, key, state, action, params):
        place = state.time // 10
        reward = jnp.float32(action == place)
        return self.look(place), state, reward, jnp.bool_(True), {}

    def look(self, place):
        return jnp.where(place == 1, 1100.0, 900.0)[None]

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(0.0, 2000.0, (1,))


def test_evaluation_uses_the_statistics_of_training():
    """Logits ∓obs: right in both places where they look like about ±1, in one where like ±10."""
    env = Places()
    env_params, theta = env.default_params, jnp.array([[-1.0, 1.0]])
    algorithm = spy(theta, softmax_linear_policy(env, env_params))
    trainer = make_trainer(
        env, env_params, algorithm, num_envs=4, num_steps=50, normalize_observations=True
    )

    def evaluate(policy, params):
        key = jax.random.key(0)
        return po.evaluate(key, env, env_params, policy, params, num_episodes=40, num_steps=1)

    @jax.jit
    def run(key):
        before = trainer.init(key, Hyperparams())
        after, _ = trainer.step(Hyperparams(), before)
        evaluations = [
            evaluate(trainer.actor, before.acting_params),
            evaluate(trainer.actor, after.acting_params),
            evaluate(algorithm.actor, after.algorithm.params),
        ]
        return after, [e.episode_return for e in evaluations]

    state, (untrained, trained, without) = jax.vmap(run)(po.seed_keys(2))
    np.testing.assert_array_equal(trained, 1.0)
    np.testing.assert_array_equal(untrained, without)  # always action 1: right in place 1
    assert 0.2 < np.mean(without) < 0.8
    # Each lane acts with statistics of its own, as a computation by hand.
    obs = np.array([[900.0], [1100.0], [1e6]])
    moments = jax.tree.map(np.asarray, state.normalization.obs)
    assert moments.mean[0] != moments.mean[1]
    for lane in range(2):
        params = jax.tree.map(lambda x, lane=lane: x[lane], state).acting_params
        _, distribution = trainer.actor.act(params, (), jnp.asarray(obs), jnp.ones(3, bool))
        std = np.sqrt(moments.m2[lane] / moments.count[lane])
        expected = np.clip((obs - moments.mean[lane]) / std, -10, 10) @ np.asarray(theta)
        np.testing.assert_allclose(distribution.logits, expected, rtol=1e-4)


def test_the_normalising_actor_starts_without_statistics():
    actor = normalization.normalizing(acting(POLICY))
    empty = normalization.empty(jnp.zeros(3))
    obs, start = jnp.array([[1.0, -2.0, 3.0]]), jnp.ones(1, bool)
    theta = jnp.arange(6.0).reshape(3, 2)
    _, found = actor.act(normalization.NormalizedParams(theta, empty), (), obs, start)
    np.testing.assert_array_equal(found.logits, obs @ theta)


# --- mistakes ------------------------------------------------------------------------------------


def test_options_are_true_or_false(subtests):
    for wrong in [1, "yes", None]:
        for name in BOTH:
            with subtests.test(f"{name} {wrong}"):
                with pytest.raises(
                    ValueError, match=f"^{name} must be True or False, got {wrong!r}$"
                ):
                    trainer_of(**{name: wrong})
                config: dict[str, Any] = {name: wrong}
                with pytest.raises(
                    ValueError, match=f"^{name} must be True or False, got {wrong!r}$"
                ):
                    po.ExperimentConfig(**config).check()


def test_observations_that_are_no_floats_are_refused():
    env, env_params = po.make_env("FrozenLake-misc")
    policy = softmax_linear_policy(env, env_params)
    algorithm = spy(policy.init(jax.random.key(0)), policy)
    message = (
        r"^normalize_observations must be False unless observations are a Box of numbers, got int32"
    )
    sizes = {"num_envs": 1, "num_steps": 1}
    with pytest.raises(ValueError, match=message):
        make_trainer(env, env_params, algorithm, **sizes, normalize_observations=True)
    make_trainer(env, env_params, algorithm, **sizes, normalize_rewards=True)
    config = po.ExperimentConfig(env="FrozenLake-misc", normalize_observations=True)
    with pytest.raises(ValueError, match=message):
        po.run(config, progress=False)


def test_rewards_need_a_discount():
    algorithm = spy(UNIFORM)._replace(hyperparams=())
    message = "^normalize_rewards must be False for hyperparams without discount$"
    with pytest.raises(ValueError, match=message):
        make_trainer(ENV, ENV_PARAMS, algorithm, num_envs=1, num_steps=1, normalize_rewards=True)
