"""What the engine asks of environments and networks: each mistake is one line."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment, spaces

import purejax_po as po
from purejax_po import contract, distributions, networks

pytestmark = pytest.mark.usefixtures("compile_quickly")
SMALL = {"hidden": (4,)}


class Plain(environment.Environment):
    """A correct environment; the mistakes below change one method each."""

    default_params = environment.EnvParams(max_steps_in_episode=5)

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (3,))

    def reset_env(self, key, params):
        return jnp.zeros(3), environment.EnvState(time=0)

    def step_env(self, key, state, action, params):
        state = environment.EnvState(time=state.time + 1)
        return jnp.zeros(3), state, jnp.float32(action), jnp.bool_(False), {}


def own_step(change):
    """An environment with a `step` of its own, whose six values `change` changes."""

    class Own(Plain):
        def step(self, key, state, action, params=None):
            return change(*super().step(key, state, action, params))

    return Own()


def trainer_of(env, **options):
    params = env.default_params
    algorithm = po.a2c(*po.mlp_actor_critic(Plain(), params, **SMALL))
    return po.make_trainer(env, params, algorithm, num_envs=2, num_steps=4, **options)


class NoActions(Plain):
    def action_space(self, params=None):
        raise NotImplementedError


class Dictionary(Plain):
    def reset_env(self, key, params):
        return {"a": jnp.zeros(3)}, environment.EnvState(time=0)


class Fails(Plain):
    def step_env(self, key, state, action, params):
        raise TypeError("a mistake of the user's\nsecond line")


MISTAKES = {
    "five values": (
        own_step(lambda o, s, r, term, trunc, info: (o, s, r, term, info)),
        r"Own.step must return six values .* got 5 values; environments written for gymnax before",
    ),
    "no final observation": (
        own_step(lambda o, s, r, term, trunc, info: (o, s, r, term, trunc, {"x": 1})),
        r'info\["final_observation"\], got info with x',
    ),
    "final observation of another shape": (
        own_step(lambda *x: (*x[:5], {"final_observation": jnp.zeros(2)})),
        r"must be of the shape \[3\] that observations have, got float32\[2\]",
    ),
    "an observation of another shape": (
        own_step(lambda o, *x: (jnp.zeros(2), *x)),
        r"the observation must keep its shape from step to step, got \[2\] after \[3\]",
    ),
    "an observation of another dtype": (
        own_step(lambda o, *x: (o.astype(jnp.int32), *x)),
        r"the observation must keep its dtype .* got int32 after float32",
    ),
    "a vector of rewards": (
        own_step(lambda o, s, r, *x: (o, s, jnp.stack([r, r]), *x)),
        r"must return one reward, got float32\[2\]",
    ),
    "a reward that is no number": (
        own_step(lambda o, s, r, *x: (o, s, r > 0, *x)),
        r"must return a real reward, got bool\[\]",
    ),
    "a final observation of another dtype": (
        own_step(lambda *x: (*x[:5], {"final_observation": x[0].astype(jnp.int32)})),
        r'info\["final_observation"\] must be of the dtype float32 that observations have, got int',
    ),
    "no actions": (
        type("Idle", (Plain,), {"action_space": lambda *_: spaces.Discrete(0)})(),
        r"actions of Idle must have at least one value, got Discrete\(0",
    ),
    "a state of another structure": (
        own_step(lambda o, s, *x: (o, (s.time,), *x)),
        r"the state must keep its structure",
    ),
    "an observation unlike its space": (
        type("Unlike", (Plain,), {"observation_space": lambda *_: spaces.Box(0.0, 1.0, (2,))})(),
        r"observations of the shape \[2\] that observation_space has, got float32\[3\]",
    ),
    "a float where an index belongs": (
        type(
            "Float",
            (Plain,),
            {
                "observation_space": lambda *_: spaces.Discrete(3),
                "reset_env": lambda *_: (jnp.zeros(()), environment.EnvState(time=0)),
            },
        )(),
        r"must return whole numbers, since observation_space is",
    ),
    "no action space": (NoActions(), r"NoActions.action_space\(env_params\) must return a space"),
    "dictionaries": (Dictionary(), r"got a dictionary of a; a dictionary needs a space"),
    "a failure": (Fails(), r"Fails.step must be traceable .* TypeError: a mistake of the user's$"),
}


def test_an_environments_mistake_is_one_line(subtests):
    for name in MISTAKES:
        with subtests.test(name):
            env, message = MISTAKES[name]
            with pytest.raises(ValueError, match=message) as told:
                trainer_of(env)
            assert "\n" not in str(told.value)


def test_normalising_a_dictionary_is_the_same_line():
    with pytest.raises(ValueError, match="got a dictionary of a; a dictionary needs a space"):
        trainer_of(Dictionary(), normalize_observations=True)


@pytest.mark.parametrize("name", ["five values", "no final observation", "a failure"])
def test_evaluation_tells_of_the_same_mistakes(name):
    env, message = MISTAKES[name]
    policy = po.mlp_actor_critic(Plain(), env.default_params, **SMALL)[0]
    with pytest.raises(ValueError, match=message):
        po.evaluate(
            jax.random.key(0), env, env.default_params, policy, policy.init(jax.random.key(1)),
            num_episodes=1, num_steps=2,
        )  # fmt: skip


class Walk:
    """Its own `step`; `reset` starts at the Python number `start`."""

    name, default_params = "Walk", environment.EnvParams(max_steps_in_episode=10)

    def __init__(self, start):
        self.start = start

    def observation_space(self, params):
        return spaces.Box(-9.0, 9.0, (1,))

    def action_space(self, params):
        return spaces.Discrete(1)

    def reset(self, key, params=None):
        return jnp.zeros(1), {"x": self.start, "t": 0}

    def step(self, key, state, action, params=None):
        x, t = state["x"] + 0.4, state["t"] + 1
        obs, end = jnp.stack([x]), t >= 10
        state = {"x": jnp.where(end, 0, x), "t": jnp.where(end, 0, t)}
        return obs, state, x, jnp.bool_(False), end, {"final_observation": obs}


def test_a_state_that_starts_at_a_python_number_takes_the_dtype_of_its_steps():
    """It was cast back to int at every step: a return of 4."""
    env = Walk(0)
    policy = po.mlp_actor_critic(env, env.default_params, **SMALL)[0]
    params = policy.init(jax.random.key(1))
    found = po.evaluate(
        jax.random.key(0), env, env.default_params, policy, params, num_episodes=1, num_steps=10
    )
    assert found.episode_return[0] == pytest.approx(sum(0.4 * (i + 1) for i in range(10)))


def test_training_carries_the_same_state():
    env = Walk(0)
    algorithm = po.a2c(*po.mlp_actor_critic(env, env.default_params, **SMALL))
    trainer = po.make_trainer(env, env.default_params, algorithm, num_envs=2, num_steps=10)
    result = jax.jit(po.make_train(trainer, num_updates=1))(
        jax.random.key(0), algorithm.hyperparams
    )
    assert result.log.episode_return.mean[0] == pytest.approx(22.0, rel=1e-6)


def test_a_state_that_changes_its_dtype_is_named():
    env = Walk(jnp.int32(0))
    policy = po.mlp_actor_critic(env, env.default_params, **SMALL)[0]
    params = policy.init(jax.random.key(1))
    with pytest.raises(ValueError, match=r"Walk: the state \['x'\] must keep its dtype .* float32"):
        contract.check(env, env.default_params, policy, params)


def test_every_environment_of_the_package_keeps_the_contract():
    for name in ("CartPole-v1", "Pendulum-v1", "FourRooms-misc", "Chain-v0", "tokens/copy"):
        env, params = po.make_env(name)
        assert [x for x in vars(po.Environment) if x[0] != "_" and not hasattr(env, x)] == []
        policy = po.mlp_actor_critic(env, params, **SMALL)[0]
        contract.check(env, params, policy, policy.init(jax.random.key(0)))


# Networks


def linear(outputs, convert):
    """A policy of one layer with so many outputs."""

    def init(key):
        return jax.random.normal(key, (3, outputs))

    return networks.memoryless(po.Policy, init, lambda w, obs: convert(obs @ w))


def critic_of(convert):
    return networks.memoryless(
        po.Critic, lambda key: jnp.zeros((3, 1)), lambda w, obs: convert(obs @ w)
    )


def squeeze(x):
    return x[..., 0]


def gaussian(x):
    return distributions.DiagonalGaussian(x, jnp.zeros_like(x))


def test_networks_that_do_not_fit_are_one_line(subtests):
    for policy, critic, message in [
        (linear(3, distributions.Categorical), squeeze, r"must have 2 discrete actions for Plain"),
        (
            linear(2, gaussian),
            squeeze,
            r"2 discrete actions .* got DiagonalGaussian of shape",
        ),
        (linear(2, lambda x: x), squeeze, r"must return a distribution .* without noise"),
        (
            linear(2, distributions.Categorical),
            lambda x: x,
            r"critic must return one value .* got float32\[3, 2, 1\]; a last axis of 1",
        ),
    ]:
        with subtests.test(message):
            env = Plain()
            algorithm = po.a2c(policy, critic_of(critic))
            with pytest.raises(ValueError, match=message):
                po.make_trainer(env, env.default_params, algorithm, num_envs=2, num_steps=4)


def test_a_categorical_policy_on_a_box_is_refused():
    env, params = po.make_env("Pendulum-v1")
    algorithm = po.a2c(linear(2, distributions.Categorical), critic_of(squeeze))
    with pytest.raises(ValueError, match=r"actions of real numbers \[1\] for Pendulum-v1, got Cat"):
        po.make_trainer(env, params, algorithm, num_envs=2, num_steps=4)


def test_modules_and_swapped_networks_are_one_line(subtests):
    for make in [po.a2c, po.ppo, po.trpo, po.npg, po.reinforce]:
        with subtests.test(str(make)):
            policy, critic = po.mlp_actor_critic(Plain(), Plain.default_params, **SMALL)
            for wrong in ((critic, policy), (object(), critic), (policy, object())):
                with pytest.raises(
                    ValueError, match=r"(policy|critic) must be a (Policy|Critic) such as"
                ):
                    make(*wrong)


def test_nan_rewards_make_the_lane_diverge():
    env = own_step(lambda o, s, r, *x: (o, s, r * jnp.nan, *x))
    trainer = trainer_of(env)
    train = jax.jit(po.make_train(trainer, num_updates=2))
    state = train(jax.random.key(0), trainer.algorithm.hyperparams).state
    assert state.diverged_at == 0


# Seeds


def test_seeds_are_keys_of_their_values():
    expected = jax.random.key_data(jax.vmap(jax.random.key)(np.arange(4)))
    for seeds in (4, np.int64(4), range(4), np.arange(4, dtype=np.uint8)):
        found = po.seed_keys(seeds if not isinstance(seeds, range) else list(seeds))
        np.testing.assert_array_equal(jax.random.key_data(found), expected)
    large = jax.random.key_data(po.seed_keys([2**31 + 3]))[0]
    np.testing.assert_array_equal(large, jax.random.key_data(jax.random.key(2**31 + 3)))


def test_seeds_that_have_no_key_of_their_own_are_refused(subtests):
    for seeds in [np.array([5, 2**32 + 5]), [-1], [1.0], 1.5, True, 0, [], "a"]:
        with subtests.test(str(seeds)), pytest.raises(ValueError, match=r"^seeds must be"):
            po.seed_keys(seeds)


def test_representations_are_short():
    trainer = trainer_of(Plain())
    result = jax.jit(po.make_train(trainer, num_updates=2))(
        jax.random.key(0), trainer.algorithm.hyperparams
    )
    assert re.fullmatch(r"Trainer\(Plain, num_envs=2, num_steps=4\)", repr(trainer))
    assert len(repr(result)) < 200
    assert "windows" in repr(result)
