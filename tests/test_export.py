"""Policies that leave: as files that need no training code, and as objects that act."""

import dataclasses
import json
import pickle
import shutil

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors import safe_open

import purejax_po as po
from purejax_po.cli import main
from purejax_po.experiment import card, export, loaded

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")


def trained(out, env="CartPole-v1", **network):
    """A tiny run of PPO with normalised observations."""
    shape = po.NetworkConfig(**{"hidden": (8,), **network})
    algorithm = dataclasses.replace(tiny.ALGORITHMS["ppo"], network=shape)
    changes = {"num_seeds": 2, "normalize_observations": True}
    po.run(tiny.experiment(env=env, algorithm=algorithm, **changes), out, progress=False)
    return out


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("cartpole") / "run")


@pytest.fixture(scope="module")
def squashed(tmp_path_factory):
    """With a GRU, whose actions tanh squashes into [−2, 2]."""
    shape = {"memory": "gru", "action_distribution": "tanh_gaussian"}
    return trained(tmp_path_factory.mktemp("squashed") / "run", "Pendulum-v1", **shape)


def observations(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def same_actions(policy, call):
    """A function of arrays acts as the policy does, episode by episode, for five steps."""
    obs = observations(5, 3, 3)
    memory, memories = np.zeros((3, 8), np.float32), [None] * 3
    for t in range(5):
        action, memory = call(obs[t], np.full(3, t == 0), memory)
        for i in range(3):
            expected, memories[i] = policy(obs[t, i], memories[i])
            np.testing.assert_allclose(action[i], expected, rtol=0, atol=1e-6)


def test_stablehlo_acts_as_the_policy_does(cartpole, tmp_path):
    found = po.export(cartpole, tmp_path / "new", seed=1, num_episodes=4)
    assert found.files["stablehlo"].stat().st_size < 24_000
    call = jax.export.deserialize(found.files["stablehlo"].read_bytes()).call
    policy = po.load_policy(cartpole, seed=1)
    for size in (1, 7):
        obs = observations(size, 4)
        np.testing.assert_array_equal(call(obs)[0], policy(obs))
    told = found.card.read_text()
    assert "# ppo on CartPole-v1, seed 1" in told
    assert "mean return of 4 greedy episodes" in told
    assert "return at the end of training, IQM of 2 seeds" in told
    assert f"| jax | {jax.__version__} |" in told


def test_stablehlo_holds_normalisation_squashing_bounds_and_memory(squashed, tmp_path):
    found = po.export(squashed, tmp_path, seed=0, num_episodes=0)
    exported = jax.export.deserialize(found.files["stablehlo"].read_bytes())
    assert [x.dtype for x in exported.in_avals] == [jnp.float32, jnp.bool_, jnp.float32]
    same_actions(po.load_policy(squashed, seed=0), exported.call)


def test_onnx_acts_as_the_policy_does(cartpole, squashed, tmp_path):
    pytest.importorskip("jax2onnx")
    import onnxruntime

    found = po.export(cartpole, tmp_path / "a", seed=1, to="onnx", num_episodes=0)
    session = onnxruntime.InferenceSession(found.files["onnx"])
    obs = observations(7, 4)
    actions = session.run(["action"], {"obs": obs})[0]
    np.testing.assert_array_equal(actions, po.load_policy(cartpole, seed=1)(obs))
    assert session.get_modelmeta().custom_metadata_map["environment"] == "CartPole-v1"

    found = po.export(squashed, tmp_path / "b", seed=0, to="onnx", num_episodes=0)
    session = onnxruntime.InferenceSession(found.files["onnx"])
    names = ("obs", "start", "memory_0")
    same_actions(
        po.load_policy(squashed, seed=0),
        lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True))),
    )


def test_raw_parameters_come_with_what_they_are_of(cartpole, tmp_path):
    found = po.export(cartpole, tmp_path, seed=0, to=("safetensors",), num_episodes=0)
    policy = po.load_policy(cartpole, seed=0)
    with safe_open(found.files["safetensors"], "np") as file:
        kernel = file.get_tensor("params/policy/params/Dense_0/kernel")
        np.testing.assert_array_equal(
            kernel, policy.params.params.policy["params"]["Dense_0"]["kernel"]
        )
        np.testing.assert_array_equal(file.get_tensor("obs/mean"), policy.params.obs.mean)
        config = json.loads(file.metadata()["config"])
    assert po.ExperimentConfig.from_dict(config) == policy.config


def test_a_loaded_policy_acts_samples_and_travels(cartpole, squashed):
    policy = po.load_policy(cartpole, seed=1)
    obs = observations(50, 4)
    action = policy(obs[0])
    assert isinstance(action, np.integer)  # as Gymnasium's Discrete contains
    assert [10, 20][action] in (10, 20)
    key = jax.random.key(0)
    drawn = jax.vmap(policy.sample)(
        jax.random.split(key, 4000), jnp.broadcast_to(obs[0], (4000, 4))
    )
    share = jax.nn.softmax(policy.distribution(obs[0]).logits)[1]
    assert abs(float(drawn.mean()) - float(share)) < 0.04
    again = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(again(obs), policy(obs))
    assert again.seed == 1
    remembering = po.load_policy(squashed, seed=0)
    action, memory = remembering.sample(key, observations(3))
    assert (np.abs(action) <= 2).all()
    assert pickle.loads(pickle.dumps(remembering))(observations(3), memory)[0].shape == (1,)


def test_the_card_of_a_point_tells_what_that_point_reached(tmp_path):
    points = [
        {"point": {"learning_rate": value}, "final_return": {"iqm": iqm}}
        for value, iqm in ((1e-3, 480.0), (1e-6, 20.0))
    ]
    summary = {"num_seeds": 5, "final_return": {"iqm": 480.0}, "points": points}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    config = tiny.experiment(sweep={"learning_rate": (1e-3, 1e-6)})
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    for value, iqm in ((1e-3, 480.0), (1e-6, 20.0)):
        policy = loaded.LoadedPolicy(config.at({"learning_rate": value}), 0, {})
        told = card.describe(policy, tmp_path, {}, ["action"], 0, {"learning_rate": value})
        assert told["training_return_over_seeds"]["iqm"] == iqm


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to", "tflite"], "to must be one of stablehlo, onnx, safetensors, got 'tflite'"),
        (["--seed", "7"], "seed must be one of the run's finished seeds, 0 … 1, got 7"),
        (["--episodes", "-1"], "num_episodes must be a whole number ≥ 0, got -1"),
        *(
            (["--episodes", number], f"must be at most 2000000 for 1 seed and episodes of 500 {x}")
            for number, x in (
                ("100000000", "steps, got 100000000"),
                ("10000000000", "steps, got 10000000000"),
            )
        ),
    ],
)
def test_mistakes_are_told_in_a_line(cartpole, flags, message, capsys):
    assert main(["export", str(cartpole), *flags]) == 2
    assert message in capsys.readouterr().err


def test_an_extra_that_lacks_is_named(cartpole, monkeypatch):
    def fail(name):
        raise ImportError(name=name)

    monkeypatch.setattr(export.importlib, "import_module", fail)
    with pytest.raises(ValueError, match=r"needs jax2onnx, .* pip install 'purejax-po\[onnx\]'"):
        po.export(cartpole, seed=0, to="onnx")


def test_a_folder_beside_the_blocks_is_none(cartpole, tmp_path):
    shutil.copytree(cartpole, tmp_path / "run")
    blocks = tmp_path / "run" / "blocks"
    for name in ("000000 copy", "000000.old", "0"):
        shutil.copytree(blocks / "000000", blocks / name)
    found, expected = (po.load_policy(out, seed=1).params for out in (tmp_path / "run", cartpole))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_command_line_writes_files_and_card(cartpole, capsys):
    assert main(["export", str(cartpole), "--seed", "1", "--to", "stablehlo,safetensors"]) == 0
    folder = cartpole / "export" / "seed-1"
    assert {x.name for x in folder.iterdir()} == {
        *("policy.stablehlo", "policy.safetensors", "README.md")
    }
    assert "policy.stablehlo: " in capsys.readouterr().out
