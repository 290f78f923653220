"""A table of the algorithms, one row each, and one test over its rows for every common property."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from flax import struct
from gymnax.environments import environment, spaces
from gymnax.environments.classic_control import cartpole

from purejax_po.algorithms.a2c import A2CHyperparams, a2c
from purejax_po.algorithms.group import GRPOHyperparams
from purejax_po.algorithms.grpo import grpo
from purejax_po.algorithms.npg import NPGHyperparams, npg
from purejax_po.algorithms.ppo import PPOHyperparams, ppo
from purejax_po.algorithms.reinforce import REINFORCEHyperparams, reinforce
from purejax_po.algorithms.trpo import TRPOHyperparams, trpo
from purejax_po.networks import mlp_actor_critic
from purejax_po.rollout import to_space
from purejax_po.training import make_train, make_trainer, seed_keys

NUM_ENVS, NUM_STEPS, NUM_UPDATES, NUM_LANES = 4, 16, 3, 16
HIDDEN = (8,)


pytestmark = pytest.mark.usefixtures("compile_quickly")


class Row(NamedTuple):
    """An algorithm and what its tests need to know of it."""

    build: Callable[..., Any]
    hyperparams: Any
    """Under which every field of `changes` matters."""
    changes: dict[str, float]
    """Another value of every hyperparameter; each has to change what is learned."""
    unused: set[str]
    """Hyperparameters that these static arguments leave out."""
    options: dict[str, Any]
    probe_hyperparams: Any
    probe_options: dict[str, Any]
    wrong: dict[str, Any]
    """Static arguments that have to be refused."""
    num_steps: int = NUM_STEPS
    has_critic: bool = True


CRITIC = {"critic_epochs": 2, "critic_minibatch_size": 16}
PROBE_CRITIC = {"critic_epochs": 10, "critic_minibatch_size": 32}
NATURAL_CHANGES = {
    "max_kl": 0.002,
    "damping": 1.0,
    "critic_learning_rate": 1e-2,
    "discount": 0.5,
    "gae_lambda": 0.5,
}
NATURAL_WRONG = {
    "fisher": "exact",
    "fisher_fraction": 0.0,
    "cg_iterations": 0,
    "critic_epochs": 1.5,
    "critic_minibatch_size": -1,
}

ACTOR_CRITIC_CHANGES = {
    "learning_rate": 1e-3,
    "learning_rate_decay": 0.0,
    "discount": 0.5,
    "gae_lambda": 0.5,
    "entropy_coef": 0.5,
    "value_coef": 0.1,
    "max_grad_norm": 1e-3,
    "adam_eps": 1e-2,
}
PPO_CHANGES = {
    **ACTOR_CRITIC_CHANGES,
    "clip_eps": 1e-3,
    "kl_coef": 0.3,
    "kl_target": 1e3,
    "value_clip_eps": 1e-3,
    "target_kl": 1e-6,
}

ALGORITHMS = {
    "reinforce": Row(
        build=reinforce,
        hyperparams=REINFORCEHyperparams(learning_rate=3e-3),
        changes={
            "learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "discount": 0.5,
            "gae_lambda": 0.5,
        },
        unused={"gae_lambda"},  # of the Ψ that bootstrap: see the next row
        options=CRITIC,
        probe_hyperparams=REINFORCEHyperparams(learning_rate=1e-2, discount=probes.DISCOUNT),
        probe_options=PROBE_CRITIC,
        wrong={"psi": "return", "critic_epochs": 0, "critic_minibatch_size": 0.5},
        num_steps=32,  # most first episodes end, as a whole episode has to
    ),
    "reinforce_advantage": Row(
        build=reinforce,
        hyperparams=REINFORCEHyperparams(learning_rate=3e-3),
        changes={
            "learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "discount": 0.5,
            "gae_lambda": 0.5,
        },
        unused=set(),
        options={"psi": "advantage", "normalize_advantage": True, **CRITIC},
        probe_hyperparams=REINFORCEHyperparams(learning_rate=1e-2, discount=probes.DISCOUNT),
        probe_options={"psi": "advantage", **PROBE_CRITIC},
        wrong={"psi": None},
    ),
    "ppo": Row(
        build=ppo,
        hyperparams=PPOHyperparams(learning_rate=3e-3, target_kl=10.0),
        changes=PPO_CHANGES,
        unused={"kl_coef", "kl_target"},  # of the surrogates with a penalty
        options={"num_epochs": 2, "num_minibatches": 2, "early_stop": True},
        probe_hyperparams=PPOHyperparams(learning_rate=1e-2, discount=probes.DISCOUNT),
        probe_options={"num_epochs": 4, "num_minibatches": 2, "clip_value": False},
        wrong={
            "surrogate": "clipped",
            "num_epochs": 0,
            "num_minibatches": 1.5,
            "normalize_advantage": "always",
        },
    ),
    "ppo_adaptive_kl": Row(
        build=ppo,
        hyperparams=PPOHyperparams(learning_rate=3e-3, target_kl=10.0, kl_target=1e-6),
        changes=PPO_CHANGES,
        unused={"clip_eps"},
        options={
            "surrogate": "adaptive_kl",
            "num_epochs": 2,
            "num_minibatches": 2,
            "early_stop": True,
        },
        probe_hyperparams=PPOHyperparams(learning_rate=1e-2, discount=probes.DISCOUNT),
        probe_options={
            "surrogate": "adaptive_kl",
            "num_epochs": 4,
            "num_minibatches": 2,
            "clip_value": False,
        },
        wrong={"surrogate": None},
    ),
    "a2c": Row(
        build=a2c,
        hyperparams=A2CHyperparams(learning_rate=3e-3),
        changes=ACTOR_CRITIC_CHANGES,
        unused=set(),
        options={},
        probe_hyperparams=A2CHyperparams(learning_rate=1e-2, discount=probes.DISCOUNT),
        probe_options={"normalize_advantage": True},
        wrong={},
    ),
    "trpo": Row(
        build=trpo,
        hyperparams=TRPOHyperparams(cg_tolerance=1e-3),
        changes={**NATURAL_CHANGES, "cg_tolerance": 0.5, "backtrack_coef": 0.3},
        unused={"backtrack_coef"},  # only a rejected candidate shows it: see below
        options={"cg_iterations": 5, **CRITIC},
        probe_hyperparams=TRPOHyperparams(
            critic_learning_rate=1e-2, discount=probes.DISCOUNT, max_kl=0.03
        ),
        probe_options=PROBE_CRITIC,
        wrong={**NATURAL_WRONG, "max_backtracks": 0},
    ),
    "npg": Row(
        build=npg,
        hyperparams=NPGHyperparams(cg_tolerance=1e-3),
        changes={**NATURAL_CHANGES, "cg_tolerance": 0.5, "step_size": 0.5},
        unused={"step_size"},  # of step_size_rule fixed
        options={"cg_iterations": 5, **CRITIC},
        probe_hyperparams=NPGHyperparams(
            critic_learning_rate=1e-2, discount=probes.DISCOUNT, max_kl=0.03
        ),
        probe_options=PROBE_CRITIC,
        wrong={**NATURAL_WRONG, "step_size_rule": "adam", "solver": "qr"},
    ),
    "grpo": Row(
        build=lambda policy, critic, **options: grpo(policy, **options),
        hyperparams=GRPOHyperparams(learning_rate=3e-3),
        changes={
            "learning_rate": 1e-3,
            "learning_rate_decay": 0.0,
            "discount": 0.5,
            "clip_low": 1e-4,
            "clip_high": 1e-4,
            "kl_coef": 0.5,
            "entropy_coef": 0.5,
            "temperature": 0.1,
            "advantage_eps": 1.0,
            "max_grad_norm": 1e-3,
            "adam_eps": 1e-2,
        },
        unused={"temperature"},  # of the advantage softmax
        options={"group_size": 2, "num_epochs": 2, "reference_every": 2},
        probe_hyperparams=GRPOHyperparams(learning_rate=3e-2, kl_coef=0.0),
        probe_options={"group_size": 4, "num_epochs": 2},
        wrong={
            "group_size": 1,
            "advantage": "gae",
            "length_normalization": "per_word",
            "ratio": "group",
            "kl_estimator": "k2",
            "kl_form": None,
            "num_epochs": 0,
            "reference_every": -1,
        },
        num_steps=32,  # as reinforce
        has_critic=False,
    ),
}


@struct.dataclass
class ScaledParams(cartpole.EnvParams):
    reward_scale: float = 1.0


class ScaledCartPole(cartpole.CartPole):
    """CartPole whose reward has a traced scale, NaN if need be."""

    @property
    def default_params(self):
        return ScaledParams()

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, info = super().step_env(key, state, action, params)
        return obs, state, reward * params.reward_scale, terminated, info


ENV, ENV_PARAMS = ScaledCartPole(), ScaledParams()
POISONED = ENV_PARAMS.replace(reward_scale=jnp.nan)


class Compiled(NamedTuple):
    """A row's trainer on CartPole, compiled once for all tests: alone and over many lanes."""

    row: Row
    trainer: Any
    init: Callable[..., Any]
    step: Callable[..., Any]
    run_lanes: Callable[..., Any]
    """`(keys, hyperparams, env_params)`, leaves `[L, ...]` → `Result` after NUM_UPDATES."""
    traces: Counter
    """How often each of the three was traced."""


@pytest.fixture(scope="module", params=list(ALGORITHMS))
def compiled(request, compile_quickly):
    row = ALGORITHMS[request.param]
    trainer = make(row, ENV, ENV_PARAMS)

    traces = Counter()

    @jax.jit
    def init(key, hyperparams, env_params):
        traces["init"] += 1
        return trainer.init(key, hyperparams, env_params, NUM_UPDATES)

    @jax.jit
    def step(hyperparams, state, env_params):
        traces["step"] += 1
        return trainer.step(hyperparams, state, env_params)

    @jax.jit
    def run_lanes(keys, hyperparams, env_params):
        traces["run_lanes"] += 1
        train = make_train(trainer, num_updates=NUM_UPDATES)
        return jax.vmap(train)(keys, hyperparams, env_params)

    return Compiled(row, trainer, init, step, run_lanes, traces)


@pytest.fixture(scope="module")
def seeds(compiled):
    """Sixteen seeds, side by side."""
    keys = seed_keys(NUM_LANES)
    return compiled.run_lanes(keys, lanes(compiled.row.hyperparams), lanes(ENV_PARAMS))


def make(row, env, env_params, hidden=HIDDEN):
    networks = mlp_actor_critic(env, env_params, hidden=hidden)
    algorithm = row.build(*networks, hyperparams=row.hyperparams, **row.options)
    return make_trainer(env, env_params, algorithm, num_envs=NUM_ENVS, num_steps=row.num_steps)


def lanes(tree, **changed):
    """A dataclass with every field repeated over the lanes; `changed` names fields by lane."""
    repeated = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), NUM_LANES), tree)
    for name, (lane, value) in changed.items():
        repeated = repeated.replace(**{name: getattr(repeated, name).at[lane].set(value)})
    return repeated


def run(compiled, seed=0, hyperparams=None, env_params=ENV_PARAMS, num_updates=NUM_UPDATES):
    """Train one lane update by update: every state, and the logs."""
    hyperparams = hyperparams or compiled.row.hyperparams
    states, logs = [compiled.init(jax.random.key(seed), hyperparams, env_params)], []
    for _ in range(num_updates):
        state, log = compiled.step(hyperparams, states[-1], env_params)
        states.append(state)
        logs.append(log)
    return states, logs


def as_numpy(tree):
    """Leaves as numpy arrays, keys as their data."""

    def leaf(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(leaf, tree)


def assert_equal(a, b):
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, as_numpy(a), as_numpy(b))


def assert_close(a, b):
    """To 1e-3 relative or 1e-4 absolute: three updates, each through Adam or conjugate gradient.

    XLA orders sums differently at another batch width, and both amplify the last bit.
    """
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4),
        as_numpy(a),
        as_numpy(b),
    )


def differs(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(np.any(np.asarray(x) != np.asarray(y)) for x, y in pairs)


def lane_of(tree, lane):
    return jax.tree.map(lambda x: x[lane], tree)


# --- transformations -----------------------------------------------------------------------------


def test_jit_equals_eager(compiled):
    hyperparams = compiled.row.hyperparams
    states, logs = run(compiled, num_updates=1)
    eager, log = compiled.trainer.step(hyperparams, states[0], ENV_PARAMS)
    assert_close(eager, states[1])
    assert_close(log, logs[0])


def test_vmap_over_seeds_equals_a_loop(compiled, seeds):
    for seed in (0, 5):
        states, logs = run(compiled, seed)
        assert_close(lane_of(seeds.state, seed), states[-1])
        for update, log in enumerate(logs):
            assert_close(lane_of(lane_of(seeds.log, seed), update), log)


def test_seeds_differ(seeds):
    params = seeds.state.algorithm.params
    for lane in range(1, NUM_LANES):
        assert differs(lane_of(params, lane), lane_of(params, 0))


def test_one_trace_serves_any_hyperparameters_and_env_params(compiled):
    base = compiled.row.hyperparams
    params = run(compiled)[0][-1].algorithm.params
    for name, value in compiled.row.changes.items():
        other = run(compiled, hyperparams=base.replace(**{name: value}))[0][-1]
        if name not in compiled.row.unused:
            assert differs(other.algorithm.params, params), name
    for name in ("gravity", "force_mag", "theta_threshold_radians", "max_steps_in_episode"):
        env_params = ENV_PARAMS.replace(**{name: getattr(ENV_PARAMS, name) / 50})
        if name == "max_steps_in_episode":
            env_params = ENV_PARAMS.replace(max_steps_in_episode=5)
        other = run(compiled, env_params=env_params)[0][-1]
        assert differs(other.algorithm.params, params), name
    assert compiled.traces["init"] == compiled.traces["step"] == 1


def test_vmap_over_every_hyperparameter_changes_what_is_learned(compiled):
    row = compiled.row
    assert set(row.changes) == set(row.hyperparams.__dataclass_fields__), "a field has no test"
    assert len(row.changes) < NUM_LANES
    changed = {name: (i + 1, value) for i, (name, value) in enumerate(row.changes.items())}
    same_seed = seed_keys(np.zeros(NUM_LANES, int))
    result = compiled.run_lanes(same_seed, lanes(row.hyperparams, **changed), lanes(ENV_PARAMS))
    params = result.state.algorithm.params
    for name, (lane, value) in changed.items():
        expected = name not in row.unused
        assert differs(lane_of(params, lane), lane_of(params, 0)) == expected, name
        # A lane learns what a run of its own with these hyperparameters learns.
        if name in ("learning_rate", "max_kl", "critic_learning_rate"):
            states, _ = run(compiled, hyperparams=row.hyperparams.replace(**{name: value}))
            assert_close(lane_of(params, lane), states[-1].algorithm.params)
    assert compiled.traces["run_lanes"] == 1
    # Lanes left alone agree to the bit.
    if len(changed) + 1 < NUM_LANES:
        assert_equal(lane_of(result.state, NUM_LANES - 1), lane_of(result.state, 0))


def test_vmap_over_an_env_params_leaf_changes_what_is_learned(compiled, seeds):
    env_params = lanes(ENV_PARAMS, gravity=(1, 5.0), max_steps_in_episode=(2, 7))
    result = compiled.run_lanes(seed_keys(NUM_LANES), lanes(compiled.row.hyperparams), env_params)
    params, before = result.state.algorithm.params, seeds.state.algorithm.params
    for lane in range(NUM_LANES):
        assert differs(lane_of(params, lane), lane_of(before, lane)) == (lane in (1, 2))
    assert result.log.episode_length.mean[2].max() <= 7


# --- states --------------------------------------------------------------------------------------


def test_the_state_keeps_its_structure_and_types(compiled):
    states, logs = run(compiled)
    for state in states[1:]:
        chex.assert_trees_all_equal_structs(state, states[0])
        chex.assert_trees_all_equal_shapes_and_dtypes(state, states[0])
    assert states[0].algorithm._fields[0] == "params"
    # A weak type in the first state alone would make every later step a second program.
    for path, leaf in jax.tree.leaves_with_path(states[0]._replace(key=())):
        assert leaf.dtype in (jnp.float32, jnp.int32, jnp.bool_), path
        assert not leaf.weak_type, path
    for name, value in logs[0].info.mean.items():
        assert value.shape == (), name
        assert value.dtype == jnp.float32, name


def test_results_are_finite_and_every_network_moves(compiled, seeds):
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(as_numpy(seeds)))
    np.testing.assert_array_equal(seeds.state.diverged_at, -1)
    np.testing.assert_array_equal(seeds.log.info.count, 1.0)
    first, *_, last = run(compiled)[0]
    for before, after in zip(first.algorithm.params, last.algorithm.params, strict=True):
        moved = [differs(x, y) for x, y in zip(*map(jax.tree.leaves, (before, after)), strict=True)]
        assert all(moved)


def test_an_update_is_a_function_of_its_key(compiled):
    states, logs = run(compiled)
    again, logs_again = run(compiled)
    assert_equal(again, states)
    assert_equal(logs_again, logs)


# --- divergence ----------------------------------------------------------------------------------


def without_counters(state):
    return state._replace(num_done=(), diverged_at=())


def test_rewards_that_are_not_numbers_never_reach_the_state(compiled):
    hyperparams = compiled.row.hyperparams
    (_, healthy), _ = run(compiled, num_updates=1)
    state, log = compiled.step(hyperparams, healthy, POISONED)
    assert_equal(without_counters(state), without_counters(healthy))
    assert state.diverged_at == 1
    assert state.num_done == 2
    assert_equal(log, jax.tree.map(jnp.zeros_like, log))
    # Once diverged it stays where it was, and remembers when.
    after, log = compiled.step(hyperparams, state, ENV_PARAMS)
    assert_equal(without_counters(after), without_counters(healthy))
    assert after.diverged_at == 1
    assert log.info.count == 0


def test_parameters_that_are_not_numbers_are_noticed(compiled):
    (_, healthy), _ = run(compiled, num_updates=1)
    for part in healthy.algorithm.params._fields:
        params = healthy.algorithm.params
        broken = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), getattr(params, part))
        algorithm = healthy.algorithm._replace(params=params._replace(**{part: broken}))
        poisoned = healthy._replace(algorithm=algorithm)
        state, _ = compiled.step(compiled.row.hyperparams, poisoned, ENV_PARAMS)
        assert_equal(state.algorithm, poisoned.algorithm)
        assert state.diverged_at == 1


def test_a_poisoned_lane_leaves_the_other_63_alone(compiled):
    """NaN in one seed's parameters, half-way: to the others nothing has happened."""
    width, victim = 64, 17

    @jax.jit
    @jax.vmap
    def start(key):
        return compiled.trainer.init(key, compiled.row.hyperparams, ENV_PARAMS, NUM_UPDATES)

    @jax.jit
    @jax.vmap
    def step(state):
        return compiled.trainer.step(compiled.row.hyperparams, state, ENV_PARAMS)

    def poison(x):
        return x.at[victim].set(jnp.nan)

    half_way, _ = step(start(seed_keys(width)))
    params = jax.tree.map(poison, half_way.algorithm.params)
    poisoned = half_way._replace(algorithm=half_way.algorithm._replace(params=params))
    expected, result = (step(step(state)[0]) for state in (half_way, poisoned))
    others = np.arange(width) != victim
    assert_equal(lane_of(result, others), lane_of(expected, others))
    assert result[0].diverged_at[victim] == 1
    assert_equal(
        lane_of(without_counters(result[0]), victim), lane_of(without_counters(poisoned), victim)
    )


def test_a_diverged_lane_leaves_its_neighbours_alone(compiled, seeds):
    env_params = lanes(ENV_PARAMS, reward_scale=(3, jnp.nan))
    result = compiled.run_lanes(seed_keys(NUM_LANES), lanes(compiled.row.hyperparams), env_params)
    others = np.arange(NUM_LANES) != 3
    assert_equal(lane_of(result, others), lane_of(seeds, others))
    assert result.state.diverged_at[3] == 0
    assert_equal(result.log.info.count[3], np.zeros(NUM_UPDATES))


# --- learning ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(ALGORITHMS))
def solved(request):
    """Train on the five probes side by side; values and action probabilities by what is seen."""
    row = ALGORITHMS[request.param]
    env, env_params = probes.Probe(), probes.VALUE
    policy, critic = mlp_actor_critic(env, env_params, hidden=(16,))
    algorithm = row.build(policy, critic, hyperparams=row.probe_hyperparams, **row.probe_options)
    trainer = make_trainer(env, env_params, algorithm, num_envs=8, num_steps=16)
    train = make_train(trainer, num_updates=100, log_every=100)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *probes.PROBES.values())
    obs = jnp.array([[-1.0], [0.0], [1.0]])

    @jax.jit
    def run(key, env_params):
        def one(env_params):
            params = train(key, row.probe_hyperparams, env_params).state.algorithm.params
            start = jnp.zeros(3, bool)
            distribution = policy.unroll(params.policy, (), obs, start)
            value = critic.unroll(params.critic, (), obs, start) if row.has_critic else obs[:, 0]
            return value, jax.nn.softmax(distribution.logits)

        return jax.vmap(one)(env_params)

    value, probability = run(jax.random.key(0), stacked)
    return row.has_critic, {
        name: {int(x): (float(value[i, j]), probability[i, j]) for j, (x,) in enumerate(obs)}
        for i, name in enumerate(probes.PROBES)
    }


@pytest.mark.parametrize("name", list(probes.VALUES))
def test_probes_of_the_value(solved, name):
    has_critic, solved = solved
    if not has_critic:
        return
    for obs, expected in probes.VALUES[name].items():
        assert abs(solved[name][obs][0] - expected) < 0.1, (obs, solved[name][obs])


@pytest.mark.parametrize("name", list(probes.ACTIONS))
def test_probes_of_the_policy(solved, name):
    _, solved = solved
    for obs, action in probes.ACTIONS[name].items():
        assert solved[name][obs][1][action] > 0.9, (obs, solved[name][obs])


# --- other action spaces -------------------------------------------------------------------------


class Switches(environment.Environment):
    """Two switches of two and three positions; the reward counts those in the right one."""

    def reset_env(self, key, params):
        return jnp.ones(1), environment.EnvState(time=jnp.int32(0))

    def step_env(self, key, state, action, params):
        reward = jnp.float32(action[0] == 1) + jnp.float32(action[1] == 2)
        state = environment.EnvState(time=state.time + 1)
        return jnp.ones(1), state, reward, jnp.bool_(False), {}

    def action_space(self, params):
        return spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (1,))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("actions", ["continuous", "multi-discrete"])
def test_other_action_spaces_give_finite_updates(name, actions):
    if actions == "continuous":
        env, env_params = gymnax.make("Pendulum-v1")
        env_params = env_params.replace(max_steps_in_episode=NUM_STEPS)  # whole episodes for all
    else:
        env, env_params = Switches(), environment.EnvParams(max_steps_in_episode=5)
    row = ALGORITHMS[name]
    trainer, hyperparams = make(row, env, env_params, hidden=()), row.hyperparams

    @jax.jit
    def run(key):
        state = trainer.init(key, hyperparams)
        return state, *trainer.step(hyperparams, state)

    before, after, log = run(jax.random.key(0))
    assert after.diverged_at == -1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(as_numpy((after.algorithm, log))))
    assert differs(after.algorithm.params.policy, before.algorithm.params.policy)
    if row.has_critic:
        assert differs(after.algorithm.params.critic, before.algorithm.params.critic)
    assert log.info.mean["entropy"] > 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_normalisation_and_squashed_actions_in_every_algorithm(name):
    """Lane 1 diverges in the second update: its statistics freeze, its neighbours' do not."""
    env, env_params = gymnax.make("Pendulum-v1")
    env_params = env_params.replace(max_steps_in_episode=NUM_STEPS)  # whole episodes for all
    row = ALGORITHMS[name]
    networks = mlp_actor_critic(env, env_params, hidden=(), action_distribution="tanh_gaussian")
    trainer = make_trainer(
        env,
        env_params,
        row.build(*networks, hyperparams=row.hyperparams, **row.options),
        num_envs=NUM_ENVS,
        num_steps=NUM_STEPS,
        normalize_observations=True,
        normalize_rewards=True,
    )

    def step(state, dt):
        return trainer.step(row.hyperparams, state, env_params.replace(dt=dt))

    init = jax.jit(jax.vmap(lambda key: trainer.init(key, row.hyperparams)))
    step = jax.jit(jax.vmap(step))
    sound = jnp.full(3, env_params.dt)
    first, _ = step(init(seed_keys(3)), sound)
    healthy, log = step(first, sound)
    poisoned, _ = step(first, sound.at[1].set(jnp.nan))
    np.testing.assert_array_equal(poisoned.diverged_at, [-1, 1, -1])
    np.testing.assert_array_equal(healthy.diverged_at, -1)
    for lane, expected in enumerate((healthy, first, healthy)):
        parts = [(s.normalization, s.algorithm) for s in (poisoned, expected)]
        assert_equal(*(lane_of(part, lane) for part in parts))
    for statistics in healthy.normalization.obs, healthy.normalization.returns.moments:
        np.testing.assert_array_equal(statistics.count, 2 * NUM_ENVS * NUM_STEPS)
        assert (statistics.m2 > 0).all()
    assert differs(healthy.algorithm.params.policy, first.algorithm.params.policy)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(as_numpy((healthy.algorithm, log))))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_squashed_policies_learn_to_aim(name):
    """Near a bound and in the middle; what is executed is tanh(u), scaled to the bounds.

    While σ is wide the best mean lies further out: with one gradient step per rollout σ needs long.
    """
    num_updates = 1500 if name.startswith(("reinforce", "a2c", "grpo")) else 100
    env = probes.Aim()
    env_params, row = env.default_params, ALGORITHMS[name]
    policy, critic = mlp_actor_critic(
        env, env_params, hidden=(16,), action_distribution="tanh_gaussian"
    )
    algorithm = row.build(policy, critic, hyperparams=row.probe_hyperparams, **row.probe_options)
    trainer = make_trainer(env, env_params, algorithm, num_envs=8, num_steps=16)
    train = make_train(trainer, num_updates=num_updates, log_every=100)
    state = jax.jit(train)(jax.random.key(0), row.probe_hyperparams).state
    distribution = policy.unroll(
        state.algorithm.params.policy, (), jnp.array([[-1.0], [1.0]]), jnp.ones(2, bool)
    )
    executed = to_space(env.action_space(env_params), distribution.mode(), distribution)
    np.testing.assert_allclose(executed[:, 0], env.BEST, atol=0.1)


# --- static arguments ----------------------------------------------------------------------------


WRONG_OPTIONS = [(name, field) for name, row in ALGORITHMS.items() for field in row.wrong]
FIELDS = [(name, field) for name, row in ALGORITHMS.items() for field in row.changes]


def build(name, **options):
    networks = mlp_actor_critic(ENV, ENV_PARAMS, hidden=HIDDEN)
    return ALGORITHMS[name].build(*networks, **options)


@pytest.mark.parametrize(("name", "field"), WRONG_OPTIONS)
def test_wrong_static_arguments_are_named(name, field):
    with pytest.raises(ValueError, match=f"^{field} must be .*got"):
        build(name, **{field: ALGORITHMS[name].wrong[field]})


@pytest.mark.parametrize(("name", "field"), FIELDS)
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, "much", None])
def test_wrong_hyperparameters_are_named(name, field, value):
    hyperparams = ALGORITHMS[name].hyperparams.replace(**{field: value})
    with pytest.raises(ValueError, match=rf"hyperparams\.{field} must be .*got"):
        build(name, hyperparams=hyperparams)


def test_batches_that_do_not_split_are_refused_before_training():
    algorithm = build("ppo", num_minibatches=5)
    trainer = make_trainer(ENV, ENV_PARAMS, algorithm, num_envs=4, num_steps=16)
    state = jax.eval_shape(trainer.init, jax.random.key(0), algorithm.hyperparams)
    with pytest.raises(ValueError, match="num_minibatches must divide the batch of 64"):
        jax.eval_shape(trainer.step, algorithm.hyperparams, state)


@pytest.mark.parametrize("name", ["trpo", "npg"])
@pytest.mark.parametrize("size", [65, 48])
def test_critic_minibatches_that_do_not_fit_the_batch_are_refused(name, size):
    """65 is more than the batch of 64; 48 does not divide it, and 64 must not be used instead."""
    algorithm = build(name, critic_minibatch_size=size)
    trainer = make_trainer(ENV, ENV_PARAMS, algorithm, num_envs=4, num_steps=16)
    state = jax.eval_shape(trainer.init, jax.random.key(0), algorithm.hyperparams)
    with pytest.raises(ValueError, match="critic_minibatch_size"):
        jax.eval_shape(trainer.step, algorithm.hyperparams, state)


# --- PPO alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", ["ppo"], indirect=True)
def test_the_learning_rate_of_ppo_is_annealed_to_zero(compiled):
    hyperparams = compiled.row.hyperparams
    state = compiled.init(jax.random.key(0), hyperparams, ENV_PARAMS)

    def change(num_done, **changed):
        at = state._replace(num_done=jnp.int32(num_done), num_planned=jnp.float32(100))
        after, _ = compiled.step(hyperparams.replace(**changed), at, ENV_PARAMS)
        kernels = (s.algorithm.params.policy["params"]["Dense_0"]["kernel"] for s in (at, after))
        assert differs(at.rollout, after.rollout)
        return float(np.abs(np.subtract(*kernels)).sum())

    assert change(100) == 0.0
    assert change(0) > change(50) > change(99) > 0.0
    # Adam's first steps are nearly proportional to the learning rate: half of it is left here.
    np.testing.assert_allclose(change(50), 0.5 * change(0), rtol=0.3)
    assert change(100, learning_rate_decay=0.0) == change(0, learning_rate_decay=0.0)


@pytest.mark.parametrize("compiled", ["ppo"], indirect=True)
def test_early_stop_makes_no_more_steps_once_the_kl_is_reached(compiled):
    """The KL is first seen to be too large by the second minibatch: one Adam step is made."""
    row = compiled.row
    never, always = row.hyperparams, row.hyperparams.replace(target_kl=1e-6)
    _, (log,) = run(compiled, num_updates=1)
    assert log.info.mean["stopped"] == 0.0
    (_, state), (log,) = run(compiled, hyperparams=always, num_updates=1)
    assert log.info.mean["stopped"] == 0.75  # three of four minibatches
    assert jax.tree.leaves(state.algorithm.optimizer)[0] == 1
    (_, state), _ = run(compiled, hyperparams=never, num_updates=1)
    assert jax.tree.leaves(state.algorithm.optimizer)[0] == 4
