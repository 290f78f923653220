"""Initialisation, observation encoding and action heads."""

import functools
import os
import subprocess
import sys
from types import SimpleNamespace

import flax.errors
import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from purejax_po import networks
from purejax_po._xla.layerwise import layerwise
from purejax_po.distributions import Categorical, DiagonalGaussian, Product, TanhGaussian
from purejax_po.jacobian import linearized
from purejax_po.networks import linear_critic, mlp_actor_critic, softmax_linear_policy

pytestmark = pytest.mark.usefixtures("compile_quickly")

BOX = spaces.Box(-1.0, 1.0, (3,))
TWO_ACTIONS = spaces.Discrete(2)
HIDDEN = (8,)


def make_env(observation=BOX, action=TWO_ACTIONS):
    """All that a network asks of an environment: its two spaces."""
    return SimpleNamespace(
        observation_space=lambda params: observation, action_space=lambda params: action
    )


def outputs(policy, critic, obs):
    """The shapes and types of what both networks make of observations; nothing is computed."""

    def apply(key, obs):
        start = jnp.zeros(obs.shape[:1], bool)
        _, distribution = policy.step(policy.init(key), (), obs, start)
        return distribution, critic.unroll(critic.init(key), (), obs, start)

    return jax.eval_shape(apply, jax.random.key(0), obs)


# --- orthogonal initialisation -------------------------------------------------------------------


def test_orthogonal_is_orthonormal_times_its_scale(subtests):
    for shape in [(32, 8), (8, 32), (16, 16), (3, 3, 4, 24), (3, 3, 4, 48), (1, 5), (5, 1)]:
        with subtests.test(str(shape)):
            scale = 0.01
            kernel = jax.jit(networks.orthogonal(scale), static_argnums=1)(jax.random.key(0), shape)
            assert kernel.shape == shape
            assert kernel.dtype == jnp.float32
            matrix = np.asarray(kernel).reshape(-1, shape[-1])
            gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
            np.testing.assert_allclose(gram, scale**2 * np.eye(len(gram)), atol=1e-6 * scale**2)


def test_orthogonal_keeps_its_precision_where_gram_schmidt_alone_would_lose_it():
    """A square matrix's last vectors are almost spanned by the ones before."""
    kernel = np.asarray(networks.orthogonal()(jax.random.key(1), (256, 256)))
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(256), atol=2e-6)


def test_orthogonal_matrices_are_uniformly_distributed():
    """Moments of the Haar measure on 3×3 matrices, within six standard errors."""
    num = 4000
    init = jax.jit(jax.vmap(lambda key: networks.orthogonal()(key, (3, 3))))
    matrices = np.asarray(init(jax.random.split(jax.random.key(0), num)), np.float64)

    def check(values, expected):
        error = 6 * values.std(axis=0) / np.sqrt(num)
        assert (abs(values.mean(axis=0) - expected) < error).all()

    check(matrices, 0.0)
    check(matrices**2, 1 / 3)
    check(matrices**4, 1 / 5)
    check(matrices[:, 0, 0] * matrices[:, 1, 1], 0.0)
    check(np.linalg.det(matrices), 0.0)  # rotations and reflections alike
    check(np.trace(matrices, axis1=1, axis2=2) ** 2, 1.0)


def test_layers_are_scaled_as_documented():
    policy, critic = mlp_actor_critic(make_env(), None, hidden=(8, 8))
    for network, last in ((policy, 0.01), (critic, 1.0)):
        params = jax.jit(network.init)(jax.random.key(0))["params"]
        for name, scale in (("Dense_0", 2**0.5), ("Dense_1", 2**0.5), ("Dense_2", last)):
            singular = np.linalg.svd(params[name]["kernel"], compute_uv=False)
            np.testing.assert_allclose(singular, scale, rtol=1e-5)
            np.testing.assert_array_equal(params[name]["bias"], 0.0)


def test_an_initialiser_is_called_when_parameters_are_drawn_and_never_again():
    calls = []

    def initialize(key, shape, dtype=jnp.float32):
        calls.append(shape)
        return jax.random.normal(key, shape, dtype)

    ours, theirs = (kind(2, kernel_init=initialize) for kind in (networks.Dense, nn.Dense))
    params = ours.init(jax.random.key(0), jnp.ones(3))
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), jnp.ones(3)))
    drawn = len(calls)
    output = ours.apply(params, jnp.ones((4, 3)))
    assert len(calls) == drawn
    np.testing.assert_array_equal(output, theirs.apply(params, jnp.ones((4, 3))))
    assert len(calls) == drawn + 1
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match="bias"):
        ours.apply({"params": {"kernel": params["params"]["kernel"]}}, jnp.ones((4, 3)))


@pytest.mark.parametrize("other", ["wider", "deeper", "three actions", "the critic's", "a bias"])
def test_parameters_of_another_shape_are_refused(other):
    policy, _ = mlp_actor_critic(make_env(), None, hidden=HIDDEN)
    params = policy.init(jax.random.key(0))
    hidden = {"wider": (16,), "deeper": (8, 8)}.get(other, HIDDEN)
    action = spaces.Discrete(3) if other == "three actions" else TWO_ACTIONS
    others = mlp_actor_critic(make_env(action=action), None, hidden=hidden)
    wrong = others[other == "the critic's"].init(jax.random.key(0))
    if other == "a bias":
        wrong["params"]["Dense_1"]["bias"] = jnp.zeros(1)
    assert jax.tree.map(jnp.shape, wrong) != jax.tree.map(jnp.shape, params)
    with pytest.raises(flax.errors.ScopeParamShapeError, match="Dense"):
        policy.step(wrong, (), jnp.ones((4, 3)), jnp.zeros(4, bool))


def test_a_last_layer_and_its_derivatives_are_those_of_the_plain_product():
    policy, _ = mlp_actor_critic(make_env(), None, hidden=(8,))
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 2))
    inputs = jax.random.normal(jax.random.key(1), (2, 7, 3))

    def apply(params, x):
        return policy.unroll(params, (), x, None).logits

    def plain(params, x):
        first, last = (params["params"][f"Dense_{i}"] for i in range(2))
        return jnp.tanh(x @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]

    def derivatives(network):
        def of_lane(params, x):
            logits, push = jax.linearize(lambda p: network(p, x), params)
            (pulled,) = jax.linear_transpose(push, params)(jnp.cos(logits))
            return logits, push(jax.tree.map(jnp.sin, params)), pulled

        return jax.jit(jax.vmap(of_lane))(params, inputs)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, derivatives(apply), derivatives(plain))


MANY_LANES = """
import jax, purejax_po as po
env, env_params = po.make_env("CartPole-v1")
algorithm = po.ppo(*po.mlp_actor_critic(env, env_params))
trainer = po.make_trainer(env, env_params, algorithm, num_envs=4, num_steps=16)
init = jax.jit(jax.vmap(trainer.init, (0, None)))
state = init(po.seed_keys(2048), algorithm.hyperparams)
kernel = state.algorithm.params.policy["params"]["Dense_1"]["kernel"]
error = abs(kernel.mT @ kernel - 2 * jax.numpy.eye(64)).max()
print(kernel.shape, float(error) < 1e-5, bool(jax.numpy.isfinite(state.rollout.obs).all()))
"""


def test_2048_lanes_initialise_without_a_deadlock():
    """In a process of its own: batched LAPACK calls hung for ever here, all threads asleep."""
    finished = subprocess.run(
        [sys.executable, "-c", MANY_LANES],
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert finished.stdout.strip() == "(2048, 64, 64) True True", finished.stderr[-2000:]


# --- observations --------------------------------------------------------------------------------


def test_observations_of_any_shape_and_type_become_float_vectors(subtests):
    for space, size in [
        (spaces.Box(0.0, 1.0, (4, 3)), 12),
        (spaces.Box(0, 255, (2, 2, 3), dtype=jnp.uint8), 12),
        (spaces.Box(0, 9, (5,), dtype=jnp.int32), 5),
        (spaces.Box(0.0, 1.0, (1,)), 1),
        (spaces.Box(0.0, 1.0, ()), 1),
        (spaces.Discrete(7), 7),
    ]:
        with subtests.test(f"{space}"):
            env = make_env(observation=space)
            encode, example = networks.observation_encoder(env, None)
            assert encode(example).shape == (size,)
            obs = jnp.ones((6, 2, *space.shape), space.dtype)
            encoded = encode(obs)
            assert encoded.shape == (6, 2, size)
            assert encoded.dtype == jnp.float32
            if isinstance(space, spaces.Discrete):
                np.testing.assert_array_equal(encoded[0, 0], np.eye(7)[1])
            else:
                is_image = len(space.shape) == 3  # 0 … 255 are brought into [0, 1]
                np.testing.assert_allclose(encoded, 1.0 / 255.0 if is_image else 1.0, rtol=1e-6)

            distribution, value = outputs(*mlp_actor_critic(env, None, hidden=HIDDEN), obs)
            assert distribution.logits.shape == (6, 2, 2)
            assert value.shape == (6, 2)


def test_encoding_keeps_the_order_and_leading_axes():
    encode, _ = networks.observation_encoder(make_env(spaces.Box(0.0, 1.0, (2, 3))), None)
    obs = jnp.arange(24.0).reshape(4, 2, 3)
    np.testing.assert_array_equal(encode(obs), np.arange(24.0).reshape(4, 6))
    np.testing.assert_array_equal(encode(obs[0]), np.arange(6.0))


@pytest.mark.parametrize("name", ["FrozenLake-misc", "Catch-bsuite", "Breakout-MinAtar"])
def test_real_environments_with_other_observations(name):
    env, env_params = gymnax.make(name)
    policy, critic = mlp_actor_critic(env, env_params, hidden=HIDDEN)
    obs, _ = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 3), env_params)
    distribution, value = outputs(policy, critic, obs)
    assert distribution.logits.shape == (3, env.action_space(env_params).n)
    assert value.shape == (3,)


IMAGE = spaces.Box(0.0, 1.0, (7, 6, 2))


def test_convolutions_are_those_of_the_library():
    """Products of patches equal `lax.conv_general_dilated` with the same kernels."""
    module = networks.Convolutions((3, 4), jnp.tanh)
    image = jax.random.normal(jax.random.key(0), (2, 5, 7, 6, 2))
    params = module.init(jax.random.key(1), image)
    expected = image.reshape(10, 7, 6, 2)
    for i, width in enumerate((3, 4)):
        layer = params["params"][f"Dense_{i}"]
        kernel = layer["kernel"].reshape(3, 3, -1, width)
        product = jax.lax.conv_general_dilated(
            expected, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        expected = jnp.tanh(product + layer["bias"])
    found = module.apply(params, image)
    assert found.shape == (2, 5, 3 * 2 * 4)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-5)


@pytest.mark.parametrize("make", [mlp_actor_critic, networks.gru_actor_critic])
def test_networks_with_convolutions_see_where_things_are(make):
    policy, critic = make(make_env(IMAGE), None, hidden=HIDDEN, channels=(3,))
    obs = jnp.zeros((4, 5, *IMAGE.shape)).at[1, 2, 3, 3, 1].set(1.0)
    start = jnp.zeros((4, 5), bool)
    for network in (policy, critic):
        params = network.init(jax.random.key(0))
        found = network.unroll(params, network.initial_carry(5), obs, start)
        values = getattr(found, "logits", found)
        assert values.shape[:2] == (4, 5)
        assert not np.allclose(values[1, 2], values[1, 1])
        assert "Convolutions_0" in str(params) or "convolutions" in str(params)


def test_convolutions_need_images(subtests):
    for space, channels, message in [
        (BOX, (4,), r"channels must be \(\) unless observations are images .* shape \(3,\)"),
        (IMAGE, (4, 4, 4), "of 7 × 7 pixels or more"),
        (spaces.Discrete(3), (4,), "channels must be"),
        (IMAGE, (0,), "channels must be"),
        (IMAGE, 16, "sequence of counts"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            mlp_actor_critic(make_env(space), None, hidden=HIDDEN, channels=channels)


def test_an_observation_space_that_cannot_be_served_is_named():
    nested = spaces.Dict({"a": spaces.Dict({"b": BOX})})
    with pytest.raises(ValueError, match=r"must be Box or Discrete, or a dictionary .*, got"):
        mlp_actor_critic(make_env(observation=nested), None)


# --- action heads --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "kind", "action_shape"),
    [
        (spaces.Discrete(5), Categorical, ()),
        (spaces.Box(-2.0, 2.0, (3,)), DiagonalGaussian, (3,)),
        (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(4)]), Product, (2,)),
    ],
)
def test_the_action_space_decides_the_distribution(space, kind, action_shape):
    policy = networks.mlp_policy(make_env(action=space), None, hidden=HIDDEN)
    params = jax.jit(policy.init)(jax.random.key(0))
    _, distribution = policy.step(params, (), jnp.ones((6, 3)), jnp.ones(6, bool))
    assert isinstance(distribution, kind)
    action = distribution.sample(jax.random.key(1))
    assert action.shape == (6, *action_shape)
    assert distribution.log_prob(action).shape == (6,)
    if kind is Product:
        assert [f.logits.shape[-1] for f in distribution.factors] == [2, 4]
    if kind is DiagonalGaussian:
        np.testing.assert_array_equal(distribution.log_std, 0.0)
        assert params["params"]["log_std"].shape == (3,)


@pytest.mark.parametrize(
    ("num_actions", "hidden", "by_layer"),
    [
        (2, (64, 64), True),
        (2, (64, 63), False),
        (3, (64, 64), False),
        (3, (128,), True),
        (1, (64,), False),
        (2, (), False),
    ],
)
def test_wide_policies_of_few_actions_go_layer_by_layer(num_actions, hidden, by_layer):
    env = make_env(action=spaces.Discrete(num_actions))
    found = networks.mlp_policy(env, None, hidden=hidden).jacobian
    assert found is (layerwise if by_layer else linearized)


def test_an_action_space_that_cannot_be_served_is_named(subtests):
    for space in [
        spaces.Dict({"a": TWO_ACTIONS}),
        spaces.Tuple([TWO_ACTIONS, spaces.Box(0.0, 1.0, (1,))]),
        spaces.Tuple([]),
        spaces.Box(0.0, 1.0, (2, 2)),
        spaces.Box(0.0, 1.0, ()),
    ]:
        with (
            subtests.test(str(space)),
            pytest.raises(ValueError, match=r"action space.*got (Dict|Tuple|Box)"),
        ):
            mlp_actor_critic(make_env(action=space), None)


def test_a_gaussian_policy_may_be_squashed():
    env = make_env(action=spaces.Box(-2.0, 2.0, (3,)))
    options = {"hidden": HIDDEN}
    plain = networks.mlp_policy(env, None, **options)
    squashed, _ = mlp_actor_critic(env, None, **options, action_distribution="tanh_gaussian")
    params = jax.jit(plain.init)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, squashed.init(jax.random.key(0)), params)
    obs, start = jnp.ones((6, 3)), jnp.ones(6, bool)
    expected = plain.unroll(params, (), obs, start)
    for found in (
        squashed.unroll(params, (), obs, start),
        squashed.step(params, (), obs, start)[1],
    ):
        assert isinstance(found, TanhGaussian)
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_array_equal(found.log_std, expected.log_std)


@pytest.mark.parametrize(
    ("name", "space", "message"),
    [
        ("tanh", BOX, r"one of gaussian, .*, got 'tanh'; did you mean tanh_gaussian\?"),
        ("tanh_gaussian", TWO_ACTIONS, r"gaussian unless actions are a Box, got Discrete"),
        ("tanh_gaussian", spaces.Box(-1.0, jnp.inf, (3,)), r"gaussian unless actions have bounds"),
    ],
)
def test_a_squashed_policy_needs_bounds(name, space, message):
    with pytest.raises(ValueError, match=f"^action_distribution must be {message}"):
        mlp_actor_critic(make_env(action=space), None, action_distribution=name)


def test_the_activation_is_a_name_or_a_function():
    params = jax.jit(networks.mlp_critic(make_env(), None, hidden=HIDDEN).init)(jax.random.key(0))
    obs, start = jnp.full((2, 3), 0.7), jnp.ones(2, bool)
    by_name, by_function, tanh = (
        networks.mlp_critic(make_env(), None, hidden=HIDDEN, activation=activation)
        for activation in ("relu", jax.nn.relu, "tanh")
    )
    value = by_name.unroll(params, (), obs, start)
    np.testing.assert_array_equal(value, by_function.unroll(params, (), obs, start))
    assert (value != tanh.unroll(params, (), obs, start)).all()
    with pytest.raises(ValueError, match=r"activation must be one of tanh, relu.*got 'sigmoidal'"):
        networks.mlp_critic(make_env(), None, activation="sigmoidal")


# --- linear models -------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(0.0, 1.0, (4,))])
def test_a_softmax_linear_policy_over_one_hot_observations_is_tabular(space):
    policy = softmax_linear_policy(make_env(space, spaces.Discrete(3)), None)
    theta = policy.init(jax.random.key(0))
    np.testing.assert_array_equal(theta, np.zeros((4, 3)))  # the uniform policy
    table = jnp.arange(12.0).reshape(4, 3)
    obs = jnp.arange(4) if isinstance(space, spaces.Discrete) else jnp.eye(4)
    distribution = policy.unroll(table, (), obs, jnp.ones(4, bool))
    np.testing.assert_array_equal(distribution.logits, table)


def test_a_softmax_linear_policy_over_features():
    def features(obs):
        """φ(s, a) = (s·a, a²), `[..., 2, 2]`."""
        actions = jnp.arange(2.0)
        first = obs[..., :1] * actions
        return jnp.stack([first, jnp.broadcast_to(actions**2, first.shape)], axis=-1)

    policy = softmax_linear_policy(make_env(), None, features)
    assert policy.init(jax.random.key(0)).shape == (2,)
    obs = jnp.array([[3.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    _, distribution = policy.step(jnp.array([2.0, 10.0]), (), obs, jnp.ones(2, bool))
    np.testing.assert_array_equal(distribution.logits, [[0.0, 16.0], [0.0, 8.0]])


def test_a_softmax_linear_policy_needs_discrete_actions():
    with pytest.raises(ValueError, match="discrete action space, got Box"):
        softmax_linear_policy(make_env(action=BOX), None)


def test_a_linear_critic_is_linear():
    critic = linear_critic(make_env(), None)
    np.testing.assert_array_equal(critic.init(jax.random.key(0)), np.zeros(3))
    obs = jnp.array([[[1.0, 0.0, 2.0]], [[0.0, 1.0, 0.0]]])
    value = critic.unroll(jnp.array([1.0, 2.0, 3.0]), (), obs, jnp.ones((2, 1), bool))
    np.testing.assert_array_equal(value, [[7.0], [2.0]])
    assert linear_critic(make_env(spaces.Discrete(6)), None).init(jax.random.key(0)).shape == (6,)
