"""Wrappers by name and randomised parameters, from the configuration to results."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po.cli import main
from purejax_po.environments import randomized
from purejax_po.experiment.config import ExperimentConfig

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

KEYS = jax.random.split(jax.random.key(0), 2000)


def starts(randomize, name="Pendulum-v1"):
    """What many episodes draw, by field."""
    env, env_params = po.make_env(name, randomize=randomize)
    return jax.vmap(env.reset, in_axes=(0, None))(KEYS, env_params)[1].memory


@pytest.mark.parametrize(
    ("text", "low", "high", "mean"),
    [
        ("g=8:12", 8, 12, 10),
        ("g=log:5:20", 5, 20, 15 / np.log(4)),
        ("g=normal:10:0.5", 7, 13, 10),
    ],
)
def test_fields_are_drawn_as_told(text, low, high, mean):
    drawn = starts([text])["g"]
    assert drawn.min() >= low
    assert drawn.max() <= high
    assert abs(drawn.mean() - mean) < 4 * drawn.std() / np.sqrt(len(KEYS))


def test_an_episode_keeps_its_parameters_and_the_next_one_has_others():
    """Each step is the environment's own with the episode's parameters, to the last bit."""
    env, env_params = po.make_env("Pendulum-v1", randomize=["g=8:12", "m=0.5:2"])
    plain = env._env
    env_params = env_params.replace(max_steps_in_episode=3)
    obs, state = env.reset(jax.random.key(1), env_params)
    values = []
    for t in range(7):
        key, action = jax.random.key(t), jnp.array([0.5])
        own = env_params.replace(**state.memory)
        values.append(tuple(float(x) for x in state.memory.values()))
        step_key = jax.random.split(key)[0]
        expected = plain.step(step_key, state.env_state, action, own)
        obs, state, reward, _, truncated, info = env.step(key, state, action, env_params)
        assert reward == expected[2]
        np.testing.assert_array_equal(info["final_observation"], expected[5]["final_observation"])
        assert bool(truncated) == (t % 3 == 2)
        if not truncated:
            np.testing.assert_array_equal(obs, expected[0])
    assert values[0] == values[1] == values[2]
    assert values[3] == values[5]
    assert len(set(values)) == 3


def test_what_follows_from_a_drawn_field_follows_it():
    env, env_params = po.make_env("CartPole-v1", randomize=["masscart=0.5:2"])
    _, state = env.reset(jax.random.key(0), env_params)
    own = env._with(env_params, state.memory)
    np.testing.assert_allclose(own.total_mass, own.masscart + own.masspole)


def test_a_function_draws_too():
    env, env_params = po.make_env("Pendulum-v1")
    env = po.randomized(env, {"g": lambda key: 9.0 + jax.random.bernoulli(key)})
    drawn = jax.vmap(env.reset, in_axes=(0, None))(KEYS, env_params)[1].memory["g"]
    assert set(drawn.tolist()) == {9.0, 10.0}


def test_mistakes_are_told_in_a_line(subtests, capsys):
    for text, message in [
        ("h=1:2", "randomize of Pendulum-v1 must be one of"),
        ("max_steps_in_episode=1:2", "randomize of Pendulum-v1 must be one of"),
        ("g=2:1", "randomize g must have LOW ≤ HIGH, got 'g=2:1'"),
        ("g=log:0:1", "randomize g must have log:LOW:HIGH above 0"),
        ("g=normal:1:0", "randomize g must have a standard deviation above 0"),
        ("g", "randomize must be NAME=LOW:HIGH"),
        ("g=a:b", "randomize must be NAME=LOW:HIGH"),
    ]:
        with subtests.test(message):
            assert main(["train", "ppo", "--env", "Pendulum-v1", "--randomize", text]) == 2
            assert message in capsys.readouterr().err


def test_mistakes_in_python_are_told_in_a_line(subtests):
    env, _ = po.make_env("Pendulum-v1")
    host, _ = po.make_env("gymnasium/Pendulum-v1")
    for make, words in [
        (lambda: po.randomized(env, {"g": 3}), r"randomize g must be \(low, high\) or a function"),
        (
            lambda: po.randomized(host, {"g": (1, 2)}),
            "randomize must be left out for gymnasium/Pend",
        ),
    ]:
        with subtests.test(words):
            with pytest.raises(ValueError, match=words) as error:
                make()
            assert "\n" not in str(error.value)


def test_a_run_is_randomised_and_wrapped_and_evaluated_with_the_true_parameters(tmp_path, capsys):
    out, flags = tmp_path / "run", ["--wrappers", "frame_stack:2", "time_limit:20"]
    flags += ["--randomize", "g=8:12,m=log:0.5:2", "--seeds", "2", "--total-steps", "2560"]
    flags += ["--num-envs", "4", "--num-steps", "64", "--network.hidden", "8"]
    assert main(["train", "ppo", "--env", "Pendulum-v1", *flags, "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["wrappers"] == ["frame_stack:2", "time_limit:20"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["randomize"] == "g=8:12, m=log:0.5:2"
    assert summary["wrappers"] == "frame_stack:2, time_limit:20"

    evaluation = po.evaluate_run(out, num_episodes=5)
    np.testing.assert_array_equal(evaluation["episode_length"], 20)
    whole = ExperimentConfig.from_dict(config)
    env, env_params = dataclasses.replace(whole, randomize=()).make_env()
    policy = po.load_policy(out, seed=1)
    whose = jax.random.key(0), env, env_params, policy.trainer.actor
    expected = jax.jit(lambda p: po.evaluate(*whose, p, num_episodes=5, num_steps=20))(
        policy.params
    )
    found = evaluation["episode_return"].sel(seed=1)
    np.testing.assert_allclose(found, expected.episode_return, rtol=1e-5)

    grid = po.evaluate_grid(out, {"g": (8.0, 10.0), "m": (1.0,)}, num_episodes=5)
    assert dict(grid.sizes) == {"g": 2, "m": 1, "seed": 2, "episode": 5}
    true = grid["episode_return"].sel(g=10.0, m=1.0)
    np.testing.assert_allclose(true, evaluation["episode_return"], rtol=1e-4)
    assert (grid["episode_return"].sel(g=8.0) != true).any()
    assert main(["evaluate", str(out), "--episodes", "5", "--grid", "g=8,10"]) == 0
    points = json.loads((out / "evaluation-grid.json").read_text())["points"]
    assert [row["at"] for row in points] == [{"g": 8.0}, {"g": 10.0}]
    with pytest.raises(ValueError, match="grid g must be values such as"):
        po.evaluate_grid(out, {"g": 8.0})
    with pytest.raises(ValueError, match=r"grid g must hold each value once, got 8, 10, 8$"):
        po.evaluate_grid(out, {"g": (8.0, 10.0, 8.0)})
    capsys.readouterr()
    assert main(["evaluate", str(out), "--episodes", "5", "--grid", "l=0,1"]) == 0
    rows = [re.findall(r"[\w.-]+", line) for line in capsys.readouterr().out.splitlines()]
    assert ["0", "-"] in rows
    # Elsewhere an id has the run's wrappers, and an object its own.
    elsewhere = po.evaluate_run(out, num_episodes=5, env="Pendulum-v1")
    np.testing.assert_array_equal(elsewhere["episode_return"], evaluation["episode_return"])
    with pytest.raises(ValueError, match=r"observations of Pendulum-v1, \[6\], got .* with \[3\]"):
        po.evaluate_run(out, num_episodes=5, env=po.make_env("Pendulum-v1")[0])
    capsys.readouterr()
    assert main(["evaluate", str(out), "--env", "Acrobot-v1"]) == 2
    told = capsys.readouterr().err
    assert told == (
        "purejax-po: error: env must have the observations of Pendulum-v1, [6], got Acrobot-v1 "
        "with [12]\n"
    )
    with pytest.raises(ValueError, match=r"must have the shape \[…, 6\], got \[3\]"):
        policy(np.zeros(3, np.float32))


def test_wrappers_are_resumed_and_their_mistakes_told(tmp_path):
    changes = {"wrappers": ("frame_stack:2",), "randomize": ("masspole=0.05:0.2",)}
    config = tiny.experiment(num_seeds=2, **changes)
    po.run(config, tmp_path / "run", progress=False)
    params = po.load_policy(tmp_path / "run", seed=0).params
    assert params.policy["params"]["Dense_0"]["kernel"].shape == (8, 8)
    assert po.resume(tmp_path / "run", progress=False).attrs["wrappers"] == "frame_stack:2"
    for wrong in (("frame_stak:2",), ("frame_stack",), "frame_stack:2"):
        with pytest.raises(ValueError, match="wrapper"):
            po.run(tiny.experiment(wrappers=wrong))
    with pytest.raises(ValueError, match="gravity twice"):
        randomized.by_text(*po.make_env("CartPole-v1")[:1], ["gravity=8:9", "gravity=8:9"])
