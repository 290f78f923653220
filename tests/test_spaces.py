"""Kinds of spaces, and actions and observations that fit them."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment, spaces

import purejax_po as po
from purejax_po import metrics, normalization
from purejax_po import spaces as kinds

pytestmark = pytest.mark.usefixtures("compile_quickly")
GYM = gymnasium.spaces


class Env(environment.Environment):
    """One step; the reward is the sum of the action that was executed."""

    default_params = environment.EnvParams(max_steps_in_episode=1)

    def __init__(self, actions, observations=None, obs=None):
        super().__init__()
        self.actions, self.obs = actions, jnp.zeros(1) if obs is None else obs
        self.observations = observations or spaces.Box(-1.0, 1.0, self.obs.shape)

    def action_space(self, params):
        return self.actions

    def observation_space(self, params):
        return self.observations

    def reset_env(self, key, params):
        return self.obs, environment.EnvState(time=0)

    def step_env(self, key, state, action, params):
        reward = sum(jnp.sum(jnp.float32(x)) for x in jax.tree.leaves(action))
        return self.obs, environment.EnvState(time=state.time + 1), reward, jnp.bool_(False), {}


def executed(space):
    """The sums of the actions that an untrained policy draws."""
    env = Env(space)
    policy = po.mlp_actor_critic(env, env.default_params, hidden=(4,))[0]
    return np.asarray(
        po.evaluate(
            jax.random.key(0), env, env.default_params, policy, policy.init(jax.random.key(1)),
            num_episodes=500, num_steps=1, greedy=False,
        ).episode_return
    )  # fmt: skip


def test_actions_are_those_of_the_space(subtests):
    for space, kind, sums in [
        (spaces.Discrete(3), "discrete", [0, 1, 2]),
        (GYM.Discrete(3, start=5), "discrete", [5, 6, 7]),
        (GYM.MultiBinary(4), "multi_discrete", [0, 1, 2, 3, 4]),
        (GYM.MultiDiscrete([2, 3]), "multi_discrete", [0, 1, 2, 3]),
        (GYM.MultiDiscrete([2, 2], start=[4, -1]), "multi_discrete", [3, 4, 5]),
        (GYM.Box(2, 4, (1,), np.int32), "box", [2, 3, 4]),
        (GYM.Tuple((GYM.Discrete(2), GYM.Discrete(2, start=3))), "tuple", [3, 4, 5]),
    ]:
        with subtests.test(f"{space} {kind}"):
            assert kinds.kind(space) == kind
            assert np.unique(executed(space)).tolist() == sums


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (GYM.Box(0, 2**20, (1,), np.int32), "at most 1024 values"),
        (GYM.MultiDiscrete([[2, 2]]), "one number or a vector"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "the policy serves"),
        (GYM.OneOf([GYM.Discrete(2), GYM.Discrete(2)]), "the policy serves"),
    ],
)
def test_actions_that_no_policy_serves_are_refused(space, message):
    env = Env(space)
    with pytest.raises(ValueError, match=message):
        po.mlp_actor_critic(env, env.default_params)


def test_a_discrete_observation_with_a_start_is_one_hot():
    env = Env(spaces.Discrete(2), GYM.Discrete(3, start=5), jnp.int32(6))
    encode, _ = po.networks.observation_encoder(env, env.default_params)
    np.testing.assert_array_equal(encode(jnp.array([5, 6, 7])), np.eye(3))


def test_an_observation_outside_its_space_makes_the_lane_diverge():
    """It was a vector of zeros, on which a policy learns nothing."""
    env = Env(spaces.Discrete(2), spaces.Discrete(3), jnp.int32(3))
    algorithm = po.a2c(*po.mlp_actor_critic(env, env.default_params, hidden=(4,)))
    trainer = po.make_trainer(env, env.default_params, algorithm, num_envs=2, num_steps=4)
    train = jax.jit(po.make_train(trainer, num_updates=1))
    assert train(jax.random.key(0), algorithm.hyperparams).state.diverged_at == 0


def test_a_bound_far_away_beside_none_is_warned_of():
    env = Env(spaces.Box(np.array([300.0]), np.array([np.inf]), (1,)))
    with pytest.warns(UserWarning, match="bounds far from a standard normal number"):
        po.mlp_actor_critic(env, env.default_params, hidden=(4,))


def test_a_gaussian_is_scaled_to_a_box_far_from_unit_order(subtests):
    for low, high, name in [
        (-1.0, 1.0, "DiagonalGaussian"),
        (-2.0, 2.0, "DiagonalGaussian"),
        (-np.inf, np.inf, "DiagonalGaussian"),
        (-0.5, np.inf, "DiagonalGaussian"),
        (300.0, 500.0, "ScaledGaussian"),
        (-0.01, 0.01, "ScaledGaussian"),
        (0.0, 1.0, "ScaledGaussian"),
        (-1000.0, 1000.0, "ScaledGaussian"),
    ]:
        with subtests.test(f"{low} {high} {name}"):
            env = Env(spaces.Box(low, high, (2,)))
            policy = po.mlp_actor_critic(env, env.default_params, hidden=(4,))[0]
            params = policy.init(jax.random.key(0))
            found = jax.eval_shape(policy.step, params, (), jnp.zeros((1, 1)), jnp.ones(1, bool))[1]
            assert type(found).__name__ == name


def test_scaled_actions_cover_the_box_and_clipped_ones_its_edge():
    drawn = executed(spaces.Box(300.0, 500.0, (1,)))
    assert (
        300.0 <= drawn.min() < 320.0 < 380.0 < drawn.mean() < 420.0 < 480.0 < drawn.max() <= 500.0
    )
    env = Env(spaces.Box(300.0, 500.0, (1,)))
    clipped = po.mlp_actor_critic(
        env, env.default_params, hidden=(4,), action_distribution="clipped_gaussian"
    )[0]
    found = po.evaluate(
        jax.random.key(0), env, env.default_params, clipped, clipped.init(jax.random.key(1)),
        num_episodes=50, num_steps=1, greedy=False,
    ).episode_return  # fmt: skip
    assert np.unique(found).tolist() == [300.0]


def test_images_of_whole_numbers_are_brought_into_the_unit_interval():
    image = jnp.arange(0, 48, dtype=jnp.uint8).reshape(4, 4, 3)
    env = Env(spaces.Discrete(2), spaces.Box(0, 255, (4, 4, 3), jnp.uint8), image)
    flat, _ = po.networks.observation_encoder(env, env.default_params)
    np.testing.assert_allclose(flat(image), np.arange(48) / 255, rtol=1e-6)
    kept, _ = po.networks.observation_encoder(env, env.default_params, channels=(2,))
    assert kept(image).shape == (4, 4, 3)
    depth = Env(spaces.Discrete(2), spaces.Box(10, 20, (4, 4, 3), jnp.int32), image)
    encode, _ = po.networks.observation_encoder(depth, env.default_params)
    np.testing.assert_allclose(encode(jnp.full((4, 4, 3), 15)), 0.5)


def test_vectors_and_bits_of_whole_numbers_stay_what_they_are():
    vector = Env(spaces.Discrete(2), spaces.Box(1, 11, (4,)), jnp.arange(4))
    encode, _ = po.networks.observation_encoder(vector, vector.default_params)
    np.testing.assert_array_equal(encode(jnp.arange(4)), [0.0, 1.0, 2.0, 3.0])
    image = jnp.ones((3, 3, 1), bool)
    bits = Env(spaces.Discrete(2), spaces.Box(0, 1, image.shape, jnp.bool_), image)
    encode, _ = po.networks.observation_encoder(bits, bits.default_params)
    np.testing.assert_array_equal(encode(image), np.ones(9))


@pytest.mark.parametrize("normalizes", [False, True])
def test_a_policy_learns_from_images_of_bytes(normalizes):
    """Which half of an image is bright? With 0 … 255 as they are seven of eight seeds stay at 5."""

    class Side(environment.Environment):
        default_params = environment.EnvParams(max_steps_in_episode=10)

        def action_space(self, params):
            return spaces.Discrete(2)

        def observation_space(self, params):
            return spaces.Box(0, 255, (4, 4, 1), jnp.uint8)

        def look(self, key):
            right = jax.random.bernoulli(key)
            columns = jnp.where((jnp.arange(4) > 1) == right, 255, 25)
            return right, jnp.broadcast_to(columns[None, :, None], (4, 4, 1)).astype(jnp.uint8)

        def reset_env(self, key, params):
            right, obs = self.look(key)
            return obs, (right, 0)

        def step_env(self, key, state, action, params):
            right, obs = self.look(key)
            reward = jnp.float32(action == state[0])
            return obs, (right, state[1] + 1), reward, jnp.bool_(False), {}

        def is_truncated(self, state, params):
            return state[1] >= 10

    env = Side()
    networks = po.mlp_actor_critic(env, env.default_params, hidden=(16,), activation="relu")
    algorithm = po.a2c(*networks)
    trainer = po.make_trainer(
        env,
        env.default_params,
        algorithm,
        num_envs=8,
        num_steps=16,
        normalize_observations=normalizes,
    )
    train = jax.vmap(po.make_train(trainer, num_updates=60, log_every=20), in_axes=(0, None))
    log = jax.jit(train)(po.seed_keys(4), algorithm.hyperparams.replace(learning_rate=1e-2)).log
    assert (log.episode_return.mean[:, -1] > 9.0).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.uint8])
def test_statistics_of_narrow_observations_are_kept_in_single_precision(dtype):
    """bfloat16 counts to 256: the mean was 11.9 and the deviation 18."""
    like = jax.ShapeDtypeStruct((1,), dtype)
    moments = normalization.init(like, 1, observations=True, rewards=False).obs
    for i in range(10):
        x = 100 + 20 * jax.random.normal(jax.random.key(i), (64, 64, 1))
        moments = metrics.merge(moments, metrics.of_masked(x.astype(dtype), jnp.ones((64, 64))))
    assert moments.mean.dtype == jnp.float32
    assert moments.count == 40960
    np.testing.assert_allclose(moments.mean, 100.0, atol=0.7)
    np.testing.assert_allclose(normalization.standard_deviation(moments), 20.0, atol=0.5)


@pytest.mark.parametrize("env_id", ["FrozenLake-misc", "tokens/copy"])
def test_indices_are_not_normalised(env_id):
    env, params = po.make_env(env_id)
    algorithm = po.a2c(*po.mlp_actor_critic(env, params, hidden=(4,)))
    with pytest.raises(ValueError, match="normalize_observations must be False"):
        po.make_trainer(
            env, params, algorithm, num_envs=2, num_steps=4, normalize_observations=True
        )
