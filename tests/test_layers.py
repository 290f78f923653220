"""How layers are made: sides and strides of convolutions, LayerNorm, initialisation."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po import networks
from purejax_po.cli import main
from purejax_po.networks import Convolutions, Layers

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")


def test_convolutions_are_those_of_xla():
    layers = Layers(kernels=(5, 3), strides=(2, 1))
    module = Convolutions((4, 6), lambda x: x, layers)
    image = jax.random.normal(jax.random.key(0), (2, 11, 14, 3))
    params = module.init(jax.random.key(1), image)
    expected = image
    for i, (width, side, stride) in enumerate(layers.convolutions((4, 6))):
        kernel = params["params"][f"Dense_{i}"]["kernel"].reshape(side, side, -1, width)
        expected = jax.lax.conv_general_dilated(
            expected, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    assert expected.shape == (2, 2, 3, 6)
    found = module.apply(params, image)
    np.testing.assert_allclose(found, expected.reshape(2, -1), rtol=1e-4, atol=1e-5)


def test_layer_norm_stands_before_the_activation():
    env, env_params = po.make_env("CartPole-v1")
    policy, _ = po.mlp_actor_critic(
        env, env_params, hidden=(8,), activation="relu", layers=Layers(layer_norm=True)
    )
    params = policy.init(jax.random.key(0))
    (dense, last, norm) = (params["params"][k] for k in ("Dense_0", "Dense_1", "LayerNorm_0"))
    obs = jax.random.normal(jax.random.key(1), (5, 4))
    x = obs @ dense["kernel"] + dense["bias"]
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = jnp.maximum(x * norm["scale"] + norm["bias"], 0.0)
    expected = x @ last["kernel"] + last["bias"]
    found = policy.unroll(params, (), obs, jnp.zeros(5, bool)).logits
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_initialisations():
    env, env_params = po.make_env("CartPole-v1")
    kernels = {}
    for name in ("orthogonal", "default"):
        policy, _ = po.mlp_actor_critic(
            env, env_params, hidden=(256, 256), layers=Layers(initialization=name)
        )
        kernels[name] = policy.init(jax.random.key(0))["params"]["Dense_1"]["kernel"]
    unit = kernels["orthogonal"].T @ kernels["orthogonal"]
    np.testing.assert_allclose(unit, 2.0 * np.eye(256), atol=1e-4)
    assert abs(kernels["default"].var() * 256 - 1.0) < 0.05


SHAPE = po.NetworkConfig(
    hidden=(8, 8),
    channels=(4, 4),
    kernels=(4, 2),
    strides=(2, 1),
    layer_norm=True,
    initialization="default",
)


def test_they_are_options_of_a_run_and_leave_with_its_policy(tmp_path):
    algorithm = dataclasses.replace(tiny.ALGORITHMS["ppo"], network=SHAPE)
    config = tiny.experiment(env="Breakout-MinAtar", algorithm=algorithm, num_seeds=1)
    po.run(config, tmp_path / "run", progress=False)
    policy = po.load_policy(tmp_path / "run", seed=0)
    assert policy.config.algorithm.network == SHAPE
    params = policy.params.policy["params"]
    assert params["Convolutions_0"]["Dense_0"]["kernel"].shape == (4 * 4 * 4, 4)
    assert {"LayerNorm_0", "LayerNorm_1"} < set(params)
    found = po.export(tmp_path / "run", seed=0, num_episodes=0)
    call = jax.export.deserialize(found.files["stablehlo"].read_bytes()).call
    obs = np.random.default_rng(0).integers(0, 2, (3, 10, 10, 4)).astype(np.float32)
    np.testing.assert_array_equal(call(obs)[0], policy(obs))


def test_networks_with_memory_have_them_too():
    algorithm = tiny.small(po.PPOConfig)
    shape = dataclasses.replace(SHAPE, memory="gru")
    env, env_params = po.make_env("Breakout-MinAtar")
    made = dataclasses.replace(algorithm, network=shape).make_networks(env, env_params)
    for network in made:
        params = jax.eval_shape(network.init, jax.random.key(0))["params"]
        assert params["convolutions"]["Dense_1"]["kernel"].shape == (2 * 2 * 4, 4)
        assert params["norms_0"]["scale"].shape == (8,)


def test_mistakes_are_told_in_a_line(subtests, capsys):
    for flags, message in [
        (["--network.kernels", "3", "3"], "network.kernels must be a number for each of 1"),
        (["--network.strides", "0"], "network.strides must be a whole number ≥ 1, got 0"),
        (["--network.kernels", "11"], "network.kernels and network.strides must leave a pixel"),
        (["--network.initialization", "he"], "network.initialization must be one of"),
    ]:
        with subtests.test(message):
            command = [
                "train",
                "ppo",
                "--env",
                "Breakout-MinAtar",
                "--network.channels",
                "4",
                *flags,
            ]
            assert main(command) == 2
            assert message in capsys.readouterr().err


def test_a_network_of_a_token_task_refuses_them():
    shape = po.NetworkConfig(hidden=(8,), memory="gru", layer_norm=True)
    algorithm = dataclasses.replace(tiny.ALGORITHMS["grpo"], network=shape)
    env, env_params = po.make_env("tokens/copy")
    with pytest.raises(ValueError, match=r"network.layer_norm must be False for a gru on token"):
        algorithm.build(env, env_params)


def test_the_usual_layers_are_the_default():
    assert networks.Layers() == networks.USUAL
