"""A table of the algorithms, one row each, and one test over its rows for every common property."""

from collections.abc import Callable
from typing import Any, NamedTuple

import aim
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built import built
from gymnax.environments import environment, spaces

from purejax_po.algorithms.a2c import A2CHyperparams, a2c
from purejax_po.algorithms.group import GRPOHyperparams
from purejax_po.algorithms.grpo import grpo
from purejax_po.algorithms.npg import NPGHyperparams, npg
from purejax_po.algorithms.ppo import PPOHyperparams, ppo
from purejax_po.algorithms.reinforce import REINFORCEHyperparams, reinforce
from purejax_po.algorithms.trpo import TRPOHyperparams, trpo
from purejax_po.networks import mlp_actor_critic
from purejax_po.rollout import to_space
from purejax_po.testing import probes, properties
from purejax_po.testing.properties import without_counters
from purejax_po.testing.subject import ENV, ENV_PARAMS, NUM_UPDATES, Subject, subject
from purejax_po.testing.trees import as_numpy, assert_equal, differs, lane_of, repeated
from purejax_po.training import make_train, make_trainer, seed_keys

NUM_ENVS, NUM_STEPS, NUM_LANES = 4, 16, 64
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
        build=built(reinforce),
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
        build=built(reinforce),
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
        build=built(ppo),
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
        build=built(ppo),
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
        build=built(a2c),
        hyperparams=A2CHyperparams(learning_rate=3e-3),
        changes=ACTOR_CRITIC_CHANGES,
        unused=set(),
        options={},
        probe_hyperparams=A2CHyperparams(learning_rate=1e-2, discount=probes.DISCOUNT),
        probe_options={"normalize_advantage": True},
        wrong={},
    ),
    "trpo": Row(
        build=built(trpo),
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
        build=built(npg),
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
        build=lambda policy, critic, **options: built(grpo)(policy, **options),
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


class Compiled(Subject):
    """A row's trainer on CartPole, compiled once for all tests."""

    row: Row
    init_lanes: Any
    """`init` of all lanes: `(keys, hyperparams, env_params)`."""
    step_lanes: Any
    """`step` of all lanes: `(hyperparams, TrainState, env_params)`."""


@pytest.fixture(scope="module", params=list(ALGORITHMS))
def compiled(request, compile_quickly, forget):
    row = ALGORITHMS[request.param]
    shape = {"num_envs": NUM_ENVS, "num_steps": row.num_steps}
    networks = mlp_actor_critic(ENV, ENV_PARAMS, hidden=HIDDEN)
    algorithm = row.build(*networks, hyperparams=row.hyperparams, **row.options)
    found = Compiled(*subject(algorithm, row.hyperparams, **shape))
    init_lanes = jax.jit(jax.vmap(lambda *x: found.trainer.init(*x, NUM_UPDATES)))

    @jax.jit
    @jax.vmap
    def step_lanes(hyperparams, state, env_params):
        return found.trainer.step(hyperparams, state, env_params)

    found.row, found.init_lanes, found.step_lanes = row, init_lanes, step_lanes
    yield found
    forget()  # the next algorithm needs none of them


@pytest.fixture(scope="module")
def seeds(compiled):
    """Many seeds, side by side."""
    return compiled.seeds(NUM_LANES)


def make(row, env, env_params, hidden=HIDDEN):
    networks = mlp_actor_critic(env, env_params, hidden=hidden)
    algorithm = row.build(*networks, hyperparams=row.hyperparams, **row.options)
    return make_trainer(env, env_params, algorithm, num_envs=NUM_ENVS, num_steps=row.num_steps)


def lanes(tree, **changed):
    """A dataclass with every field repeated over the lanes; `changed` names fields by lane."""
    return repeated(tree, NUM_LANES, **changed)


def run(compiled, *args, **options):
    """Train one lane update by update: every state, and the logs."""
    return compiled.run(*args, **options)


# --- transformations -----------------------------------------------------------------------------


def test_jit_equals_eager(compiled):
    properties.jit_equals_eager(compiled)


def test_vmap_over_seeds_equals_a_loop(compiled, seeds):
    properties.vmap_equals_a_loop(compiled, seeds)


def test_seeds_differ(seeds):
    properties.seeds_differ(seeds)


def test_one_trace_serves_any_hyperparameters_and_env_params(compiled):
    row = compiled.row
    properties.one_trace_serves_all(compiled, row.changes, row.unused)


def test_vmap_over_every_hyperparameter_changes_what_is_learned(compiled):
    row = compiled.row
    properties.lanes_have_hyperparameters_of_their_own(compiled, row.changes, row.unused, NUM_LANES)


def test_vmap_over_an_env_params_leaf_changes_what_is_learned(compiled, seeds):
    env_params = lanes(ENV_PARAMS, gravity=(1, 5.0), max_steps_in_episode=(2, 7))
    result = compiled.run_lanes(seed_keys(NUM_LANES), lanes(compiled.row.hyperparams), env_params)
    params, before = result.state.algorithm.params, seeds.state.algorithm.params
    for lane in range(NUM_LANES):
        assert differs(lane_of(params, lane), lane_of(before, lane)) == (lane in (1, 2))
    assert result.log.episode_length.mean[2].max() <= 7


# --- states --------------------------------------------------------------------------------------


def test_the_state_keeps_its_structure_and_types(compiled):
    properties.state_is_stable(compiled)
    assert compiled.run(num_updates=1)[0][0].algorithm._fields[0] == "params"


def test_results_are_finite_and_every_network_moves(compiled, seeds):
    properties.results_are_finite(compiled, seeds)


def test_an_update_is_a_function_of_its_key(compiled):
    properties.updates_are_functions(compiled)


# --- divergence ----------------------------------------------------------------------------------


def test_rewards_that_are_not_numbers_never_reach_the_state(compiled):
    properties.divergence_is_contained(compiled)


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
    victim, many = 17, (lanes(compiled.row.hyperparams), lanes(ENV_PARAMS))

    def step(state):
        return compiled.step_lanes(many[0], state, many[1])

    def poison(x):
        return x.at[victim].set(jnp.nan)

    half_way, _ = step(compiled.init_lanes(seed_keys(NUM_LANES), *many))
    params = jax.tree.map(poison, half_way.algorithm.params)
    poisoned = half_way._replace(algorithm=half_way.algorithm._replace(params=params))
    expected, result = (step(step(state)[0]) for state in (half_way, poisoned))
    others = np.arange(NUM_LANES) != victim
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
    networks = mlp_actor_critic(env, env_params, hidden=(16,))
    algorithm = row.build(*networks, hyperparams=row.probe_hyperparams, **row.probe_options)
    return row.has_critic, probes.train(algorithm, row.probe_hyperparams)


def test_probes_of_value_and_policy(solved, subtests):
    has_critic, solved = solved
    for name in probes.VALUES if has_critic else ():
        for obs, expected in probes.VALUES[name].items():
            with subtests.test(f"{name}: value"):
                assert abs(solved[name][obs][0] - expected) < 0.1, (obs, solved[name][obs])
    for name in probes.ACTIONS:
        for obs, action in probes.ACTIONS[name].items():
            with subtests.test(f"{name}: policy"):
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
    for part in ("policy", "critic") if row.has_critic else ("policy",):
        moved = (getattr(state.algorithm.params, part) for state in (healthy, first))
        assert differs(*moved)
    assert (log.info.mean["entropy"] > 0).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(as_numpy((healthy.algorithm, log))))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_squashed_policies_learn_to_aim(name):
    """Near a bound and in the middle; what is executed is tanh(u), scaled to the bounds.

    While σ is wide the best mean lies further out: with one gradient step per rollout σ needs long.
    """
    num_updates = 1500 if name.startswith(("reinforce", "a2c", "grpo")) else 100
    env = aim.Aim()
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


def build(name, **options):
    networks = mlp_actor_critic(ENV, ENV_PARAMS, hidden=HIDDEN)
    return ALGORITHMS[name].build(*networks, **options)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_wrong_static_arguments_are_named(name):
    for field, value in ALGORITHMS[name].wrong.items():
        with pytest.raises(ValueError, match=f"^{field} must be .*got"):
            build(name, **{field: value})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_wrong_hyperparameters_are_named(name):
    for field in ALGORITHMS[name].changes:
        for value in (-1.0, np.nan, np.inf, "much", None):
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
