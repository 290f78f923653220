"""Networks that users bring: any library's functions, named in a configuration."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po import cli
from purejax_po.algorithms import actor_critic

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")


def with_networks(name, factory):
    """A tiny experiment with networks of one's own."""
    algorithm = tiny.ALGORITHMS[name]
    network = dataclasses.replace(algorithm.network, factory=factory)
    return tiny.experiment(
        algorithm=dataclasses.replace(algorithm, network=network), num_seeds=2, lanes_per_device=2
    )


@pytest.mark.parametrize("name", tiny.ALGORITHMS)
def test_every_algorithm_trains_networks_of_ones_own(name, tmp_path):
    config = with_networks(name, "nets:linen")
    po.run(config, tmp_path / "run", progress=False)
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["algorithm"]["network"]["factory"] == "nets:linen"
    assert po.load_policy(tmp_path / "run", seed=0)(np.zeros(4)) in (0, 1)


@pytest.mark.parametrize("factory", ["of_nnx", "of_equinox", "on_a_torso"])
@pytest.mark.parametrize("name", ["ppo", "trpo"])
def test_other_libraries_networks_are_trained_and_stored(factory, name, tmp_path):
    if factory == "of_equinox":
        pytest.importorskip("equinox")
    run = po.run(with_networks(name, f"nets:{factory}"), tmp_path / "run", progress=False)
    assert np.isfinite(run["entropy"]).all()
    assert po.load_policy(tmp_path / "run", seed=0)(np.zeros((3, 4))).shape == (3,)


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_a_shared_torso_is_trained_by_both_heads(name, tmp_path):
    run = po.run(with_networks(name, "nets:shared"), tmp_path / "run", progress=False)
    assert np.isfinite(run["value_loss"]).all()
    assert po.load_policy(tmp_path / "run", seed=0)(np.zeros((3, 4))).shape == (3,)


def test_the_gradient_of_a_shared_torso_is_that_of_one_network():
    """Of PPO's loss, against the same loss written with the network's two outputs."""
    env, env_params = po.make_env("CartPole-v1")
    policy, critic = nets.shared(env, env_params)
    params = actor_critic.init_params(jax.random.key(0), policy, critic)
    obs = jax.random.normal(jax.random.key(1), (6, 4))
    assert jax.tree.leaves(params.critic) == []

    def both(params):
        judge = critic.params_of(params)
        logits = policy.unroll(params.policy, (), obs, None).logits
        return jnp.sum(logits[:, 0] ** 3) + jnp.sum(critic.unroll(judge, (), obs, None) ** 2)

    def one(params):
        x = jnp.tanh(obs @ params["torso"])
        return jnp.sum((x @ params["policy"])[:, 0] ** 3) + jnp.sum((x @ params["critic"]) ** 2)

    found, wanted = jax.grad(both)(params).policy, jax.grad(one)(params.policy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)


@pytest.mark.parametrize("name", ["reinforce", "npg", "trpo"])
def test_a_critic_that_is_trained_alone_has_parameters_of_its_own(name):
    with pytest.raises(ValueError, match="critic must have parameters of its own"):
        po.run(with_networks(name, "nets:shared"), progress=False)


def test_a_function_is_stored_by_its_name(tmp_path):
    config = with_networks("a2c", nets.linen)
    config.check_stored()
    assert config.to_dict()["algorithm"]["network"]["factory"] == "nets:linen"
    own = with_networks("a2c", functools.partial(nets.linen))
    po.run(own, progress=False)
    with pytest.raises(ValueError, match="of what can be imported, got functools"):
        po.run(own, tmp_path)


def test_a_policy_alone_suffices_without_a_critic():
    po.run(with_networks("grpo", "nets:alone"), progress=False)
    with pytest.raises(ValueError, match=r"nets:alone must return \(policy, critic\), got"):
        po.run(with_networks("a2c", "nets:alone"))


def test_networks_are_named_on_the_command_line(tmp_path):
    call = ["train", "a2c", "--network", "nets:linen", "--seeds", "1", "--total-steps", "640"]
    assert cli.main([*call, "--out", str(tmp_path / "run")]) == 0
    assert cli.main(["evaluate", str(tmp_path / "run"), "--episodes", "2"]) == 0


WRONG = {
    "nets:lienn": "network.factory nets:lienn is not there: nets has no lienn; did you mean linen?",
    "nets:NUMBER": "network.factory must be a function, got 3",
    "nets:fails": "network.factory nets:fails fails: TypeError: a mistake of the user's",
    "linen": "network.factory must be a name such as my_pkg.my_module:MyClass, got 'linen'",
}


def test_a_wrong_factory_is_one_line(subtests, capsys):
    for name in WRONG:
        with subtests.test(name):
            assert cli.main(["train", "ppo", f"--network={name}"]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.endswith(WRONG[name])


def test_obs_ndim_maps_over_leading_axes():
    def apply(params, obs):
        assert obs.shape == (4,)
        return obs @ params

    critic = po.critic_of(lambda key: np.ones(4), apply, obs_ndim=1)
    assert critic.unroll(np.ones(4), (), np.ones((3, 2, 4)), None).shape == (3, 2)
    assert critic.unroll(np.ones(4), (), np.ones(4), None).shape == ()
