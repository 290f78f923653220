"""Observations of several fields: who sees which, statistics field by field, all algorithms."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from gymnax.environments import environment, spaces

import purejax_po as po
from purejax_po import encoding, observations, rollout
from purejax_po.testing.fields import Disturbed

pytestmark = pytest.mark.usefixtures("compile_quickly")
FIELDS = {
    "state": spaces.Box(-5.0, 60.0, (3,)),
    "place": spaces.Discrete(4),
    "picture": spaces.Box(0.0, 1.0, (5, 5, 2)),
    "privileged_state": spaces.Box(-5.0, 900.0, (2,)),
}


class Fielded(environment.Environment):
    """Observes a dictionary, or the same as a tuple."""

    default_params = environment.EnvParams(max_steps_in_episode=6)
    name = "Fielded"

    def __init__(self, as_tuple=False):
        super().__init__()
        self.as_tuple = as_tuple

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Tuple(list(FIELDS.values())) if self.as_tuple else spaces.Dict(FIELDS)

    def see(self, time):
        number = jnp.float32(time)
        found = {
            "state": jnp.array([number, 0.0, 10.0 * number]),
            "place": jnp.int32(time % 4),
            "picture": jnp.ones((5, 5, 2)) * (time % 2),
            "privileged_state": jnp.array([number, 100.0 * number]),
        }
        return tuple(found.values()) if self.as_tuple else found

    def reset_env(self, key, params):
        return self.see(0), environment.EnvState(time=jnp.int32(0))

    def step_env(self, key, state, action, params):
        state = environment.EnvState(time=state.time + 1)
        return self.see(state.time), state, jnp.float32(action), jnp.bool_(False), {}

    def is_terminated(self, state, params):
        return jnp.bool_(False)


ENV = Fielded()


def encoded(env=ENV, **options):
    encode, example = encoding.observation_encoder(env, env.default_params, **options)
    return encode(env.see(3)), encode(example)


def test_fields_are_joined_in_the_order_of_the_space_or_as_chosen():
    whole, example = encoded()
    assert whole.shape == example.shape == (3 + 4 + 50 + 2,)
    np.testing.assert_array_equal(whole[:7], [3, 0, 30, 0, 0, 0, 1])
    np.testing.assert_array_equal(encoded(reader="policy")[0], whole[:57])
    chosen, _ = encoded(fields=("privileged_state", "state"))
    np.testing.assert_array_equal(chosen, [3, 300, 3, 0, 30])
    picture, _ = encoded(fields=("picture",), channels=(2,))
    assert picture.shape == (5, 5, 2)
    same, _ = encoded(Fielded(as_tuple=True), fields=("3", "0"))
    np.testing.assert_array_equal(same, chosen)


def test_a_dictionary_of_one_field_trains_bit_for_bit_as_the_array(compile_quickly):
    env, params = po.make_env("CartPole-v1")

    class Boxed:
        """CartPole, whose array is a field."""

        name, default_params, action_space = "Boxed", params, env.action_space

        def observation_space(self, params):
            return spaces.Dict({"observation": env.observation_space(params)})

        def reset(self, key, params):
            obs, state = env.reset(key, params)
            return {"observation": obs}, state

        def step(self, key, state, action, params):
            obs, *rest, info = env.step(key, state, action, params)
            final = {"observation": info["final_observation"]}
            return {"observation": obs}, *rest, {"final_observation": final}

    def train(env, normalize):
        algorithm = tiny.ALGORITHMS["ppo"].build(env, params)
        options = {"num_envs": 2, "num_steps": 16, "normalize_observations": normalize}
        trainer = po.make_trainer(env, params, algorithm, **options)
        result = jax.jit(po.make_train(trainer, num_updates=3))(
            jax.random.key(0), algorithm.hyperparams
        )
        return jax.tree.leaves(result.state.algorithm)

    for normalize in (False, True):
        for one, other in zip(train(env, normalize), train(Boxed(), normalize), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "as_tuple"), [*((n, False) for n in tiny.ALGORITHMS), ("ppo", True), ("trpo", True)]
)
def test_every_algorithm_learns_from_fields(name, as_tuple):
    env = Fielded(as_tuple)
    algorithm = tiny.ALGORITHMS[name].build(env, env.default_params)
    trainer = po.make_trainer(
        env,
        env.default_params,
        algorithm,
        num_envs=2,
        num_steps=16,
        normalize_observations=True,
    )
    result = jax.jit(po.make_train(trainer, num_updates=2))(
        jax.random.key(0), algorithm.hyperparams
    )
    assert result.state.diverged_at == -1
    found = result.state.normalization.obs
    numbers = {"0", "2", "3"} if as_tuple else {"state", "picture", "privileged_state"}
    assert set(found) == numbers
    state = found["0" if as_tuple else "state"]
    seen = np.arange(6 if algorithm.complete_episodes else 32) % 6
    np.testing.assert_allclose(state.mean, [seen.mean(), 0.0, 10 * seen.mean()], rtol=1e-5)


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_a_policy_does_not_depend_on_what_is_privileged(memory):
    make = po.gru_actor_critic if memory == "gru" else po.mlp_actor_critic
    policy, critic = make(ENV, ENV.default_params, hidden=(4,))
    obs = jax.tree.map(lambda x: x[None], ENV.see(2))
    other = {**obs, "privileged_state": obs["privileged_state"] + 1.0}
    for network, is_same in ((policy, True), (critic, False)):
        params = network.init(jax.random.key(0))
        found = [
            network.step(params, network.initial_carry(1), x, jnp.ones(1, bool))[1]
            for x in (obs, other)
        ]
        same = jax.tree.map(lambda x, y: (x == y).all(), *found)
        assert all(jax.tree.leaves(same)) == is_same


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "trpo"])
def test_a_critic_of_what_is_hidden_learns_where_one_of_the_rest_does_not(name):
    """Eight seeds each; the means' 95 % intervals are far apart."""
    env = Disturbed()
    rates = {}
    for critic_fields in ((), ("state",)):
        config = po.PPOConfig() if name == "ppo" else po.TRPOConfig()
        network = po.NetworkConfig(hidden=(16,), critic_fields=critic_fields)
        changes = {"num_envs": 64, "num_steps": 2, "network": network}
        if name == "ppo":
            hyperparams = config.hyperparams.replace(learning_rate=1e-2, entropy_coef=0.0)
            changes |= {"hyperparams": hyperparams, "clip_value": False}
        else:
            hyperparams = config.hyperparams.replace(critic_learning_rate=1e-2)
            changes |= {"hyperparams": hyperparams, "critic_minibatch_size": 64}
        algorithm = dataclasses.replace(config, **changes).build(env, env.default_params)
        trainer = po.make_trainer(env, env.default_params, algorithm, num_envs=64, num_steps=2)
        train = jax.jit(jax.vmap(po.make_train(trainer, num_updates=100), in_axes=(0, None)))
        state = train(po.seed_keys(8), algorithm.hyperparams).state

        def right(params, env=env, trainer=trainer):
            seen = {"state": jnp.eye(4), "privileged_state": jnp.zeros((4, 5))}
            _, found = trainer.actor.act(params, (), seen, jnp.zeros(4, bool))
            return jnp.mean(jnp.diag(jax.nn.softmax(found.logits)))

        rates[critic_fields] = np.asarray(jax.vmap(right)(state.acting_params))
    asymmetric, symmetric = rates[()], rates[("state",)]
    half = 2.365 * np.sqrt((asymmetric.var(ddof=1) + symmetric.var(ddof=1)) / 8)
    assert asymmetric.mean() - half > 0.8, rates
    assert symmetric.mean() + half < 0.6, rates


MISTAKES = {
    "unknown": ({"policy_fields": ("stat",)}, "policy_fields must be one of state, place, picture"),
    "twice": (
        {"critic_fields": ("state", "state")},
        "critic_fields must name each field once, got",
    ),
    "a text": ({"policy_fields": "state"}, 'policy_fields must be names such as ("state",), got'),
    "no image": ({"channels": (2,)}, "channels must be () unless observations are images"),
}


def test_a_mistake_is_one_line(subtests):
    for name in MISTAKES:
        with subtests.test(name):
            options, message = MISTAKES[name]
            with pytest.raises(ValueError, match=re.escape(message)):
                po.mlp_actor_critic(ENV, ENV.default_params, **options)


def test_fields_of_an_array_are_refused():
    env, params = po.make_env("CartPole-v1")
    with pytest.raises(ValueError, match=r"policy_fields must be \(\) unless observations are"):
        po.mlp_actor_critic(env, params, policy_fields=("state",))
    network = po.NetworkConfig(critic_fields=("state",))
    with pytest.raises(ValueError, match=r"network.critic_fields must be \(\) unless"):
        po.PPOConfig(network=network).build(env, params)


def test_an_environment_of_fields_is_checked():
    assert po.check_env(ENV) == []
    assert po.check_env(Fielded(as_tuple=True)) == []

    def see(self, time):
        return {**Fielded.see(self, time), "place": jnp.float32(0.0)}

    wrong = type("Wrong", (Fielded,), {"see": see})()
    problems = po.check_env(wrong, raises=False)
    assert any("whole numbers place" in line for line in problems), problems
    algorithm = tiny.ALGORITHMS["a2c"].build(wrong, wrong.default_params)
    with pytest.raises(ValueError, match="must return whole numbers place, since"):
        po.make_trainer(wrong, wrong.default_params, algorithm, num_envs=2, num_steps=4)


def test_the_true_successor_has_the_same_fields():
    class Loses(Fielded):
        def step(self, key, state, action, params=None):
            *rest, info = super().step(key, state, action, params)
            return *rest, {"final_observation": {"state": info["final_observation"]["state"]}}

    env = Loses()
    algorithm = tiny.ALGORITHMS["a2c"].build(env, env.default_params)
    with pytest.raises(ValueError, match="of the form that observations have, a dictionary"):
        po.make_trainer(env, env.default_params, algorithm, num_envs=2, num_steps=4)


def test_a_rollout_keeps_every_field():
    policy, _ = po.mlp_actor_critic(ENV, ENV.default_params, hidden=(4,))
    state = rollout.reset(jax.random.key(0), ENV, ENV.default_params, policy, 2)
    params = policy.init(jax.random.key(1))
    _, found, _ = rollout.collect(
        jax.random.key(2), ENV, ENV.default_params, policy, params, state, 8
    )
    np.testing.assert_array_equal(found.obs["place"][:, 0], [0, 1, 2, 3, 0, 1, 0, 1])
    np.testing.assert_array_equal(found.next_obs["state"][:, 1, 0], [1, 2, 3, 4, 5, 6, 1, 2])
    differ = observations.differ_in_time(found.next_obs, found.obs)
    np.testing.assert_array_equal(differ[:, 0], np.arange(7) == 5)
