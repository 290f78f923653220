"""GRPO: advantages, weights, KL estimators, clip and reference, each against a plain loop."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import purejax_po as po
from purejax_po import advantages, surrogates
from purejax_po.algorithms import group
from purejax_po.algorithms.group import GRPOHyperparams, GRPOOptions
from purejax_po.algorithms.grpo import grpo
from purejax_po.distributions import Categorical
from purejax_po.networks import memoryless
from purejax_po.types import Policy, Transition

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

ESTIMATORS = list(advantages.GROUP_ESTIMATORS)
EVERY = GRPOOptions(group_size=2)
REWARD = np.array([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0], [0.1, 0.2, 0.3, 0.3]])
ALL = np.ones_like(REWARD, bool)


def relative(name, reward, valid=None, epsilon=0.0, temperature=0.5):
    valid = np.ones_like(reward, bool) if valid is None else valid
    hyperparams = GRPOHyperparams(advantage_eps=epsilon, temperature=temperature)
    estimate = advantages.GROUP_ESTIMATORS[name](hyperparams)
    return np.asarray(estimate(jnp.asarray(reward), jnp.asarray(valid)))


# --- advantages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_advantages_sum_to_zero_and_equal_rewards_give_exactly_zero(x64, name):
    advantage = relative(name, REWARD, epsilon=1e-6)
    np.testing.assert_allclose(advantage.sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_array_equal(advantage[1], 0.0)
    thirds = np.full((1, 7), 0.1) + 0.2  # a mean of these is not one of them
    np.testing.assert_array_equal(relative(name, thirds, epsilon=1e-6), 0.0)


def test_advantages_by_hand(x64):
    reward = REWARD[:1]
    difference = reward - reward.mean()
    exponential = np.exp(reward / 0.5)
    expected = {
        "zscore": difference / (reward.std() + 0.1),
        "centred": difference,
        "rloo": [[r - (reward.sum() - r) / 3 for r in reward[0]]],
        "softmax": exponential / exponential.sum() - 0.25,
    }
    for name in ESTIMATORS:
        np.testing.assert_allclose(
            relative(name, reward, epsilon=0.1), expected[name], rtol=0, atol=1e-12
        )


def test_zscores_square_to_the_group_size(x64):
    squares = np.square(relative("zscore", REWARD)[[0, 2]]).sum(axis=1)
    np.testing.assert_allclose(squares, 4.0, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=6), st.integers(-50, 50))
def test_zscores_ignore_shift_and_scale(reward, shift):
    with jax.enable_x64(True):
        reward = np.array([reward], float)
        if np.ptp(reward) == 0:
            return
        expected = relative("zscore", reward)
        np.testing.assert_allclose(relative("zscore", 7.0 * reward + shift), expected, atol=1e-12)
        for name in ("centred", "rloo", "softmax"):  # shift alone
            np.testing.assert_allclose(
                relative(name, reward + shift), relative(name, reward), atol=1e-12
            )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_outputs_that_do_not_count_are_as_good_as_absent(x64, name):
    reward = np.array([[np.nan, 1.0, 0.0, 5.0, 2.0]])
    valid = np.array([[False, True, True, False, True]])
    alone = relative(name, np.array([[1.0, 0.0, 2.0]]), epsilon=0.1)
    advantage = relative(name, reward, valid, epsilon=0.1)
    np.testing.assert_allclose(advantage[valid], alone[0], atol=1e-12)
    np.testing.assert_array_equal(advantage[~valid], 0.0)
    np.testing.assert_array_equal(relative(name, reward, np.zeros_like(valid), 0.1), 0.0)
    one = np.array([[False, False, False, True, False]])
    np.testing.assert_array_equal(relative(name, reward, one, 0.1), 0.0)


def test_a_group_has_spread_if_its_valid_rewards_differ():
    valid = ALL.copy()
    valid[0, [0, 3]] = False
    np.testing.assert_array_equal(advantages.spread(REWARD, ALL), [True, False, True])
    np.testing.assert_array_equal(advantages.spread(REWARD, valid), [False, False, True])


# --- normalisation by length ---------------------------------------------------------------------


def test_what_a_step_counts(x64):
    valid = jnp.array([[1.0, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])  # lengths 2, 3, 0 of 4
    for name, expected in {
        "per_sequence": [1 / 4, 1 / 6],
        "per_token": [1 / 5, 1 / 5],
        "constant": [1 / 8, 1 / 8],
    }.items():
        weight = advantages.length_weights(valid, name)
        np.testing.assert_allclose(weight, valid * jnp.array([*expected, 0.0]), rtol=1e-12)


def test_equal_lengths_make_the_three_equal_up_to_a_constant(x64):
    valid = jnp.zeros((5, 6)).at[:3].set(1.0)
    per_sequence, per_token, constant = (
        advantages.length_weights(valid, name) for name in ("per_sequence", "per_token", "constant")
    )
    np.testing.assert_allclose(per_token, per_sequence, rtol=0, atol=1e-12)
    np.testing.assert_allclose(constant, per_sequence * 3 / 5, rtol=0, atol=1e-12)


# --- the loss ------------------------------------------------------------------------------------

T, N, V = 4, 6, 3


def outputs(seed=0, lengths=(4, 2, 3, 1, 4, 3)):
    """Transitions of six outputs in float64, and logits of another policy and of a reference."""
    keys = jax.random.split(jax.random.key(seed), 5)
    logits, new, reference = (jax.random.normal(k, (T, N, V)) for k in keys[:3])
    weight = jnp.float64(jnp.arange(T)[:, None] < jnp.array(lengths))
    behaviour = Categorical(logits)
    transition = Transition(
        obs=jnp.zeros((T, N)),
        action=behaviour.sample(keys[3]),
        reward=jax.random.normal(keys[4], (T, N)),
        next_obs=(),
        terminated=jnp.zeros((T, N), bool),
        truncated=jnp.zeros((T, N), bool),
        start=jnp.zeros((T, N), bool),
        behaviour=behaviour,
        weight=weight,
    )
    return transition, new, reference


def loss_of(transition, new, reference, options, hyperparams):
    batch, _ = group.make_batch(transition, Categorical(reference), options, hyperparams)
    return group.loss(Categorical(new), batch, options, hyperparams)


def loss_by_loops(transition, new, reference, options, h):
    """The formula of the paper, output by output and token by token."""
    kl_of = {
        "k1": lambda p, q, a: np.log(p[a] / q[a]),
        "k3": lambda p, q, a: q[a] / p[a] - np.log(q[a] / p[a]) - 1,
        "exact": lambda p, q, a: np.sum(p * np.log(p / q)),
    }[options.kl_estimator]
    old, new, ref = (
        np.asarray(jax.nn.softmax(x)) for x in (transition.behaviour.logits, new, reference)
    )
    action, reward = np.asarray(transition.action), np.asarray(transition.reward)
    lengths = np.asarray(transition.weight).sum(axis=0).astype(int)
    returns = []
    for i in range(N):
        steps = range(lengths[i])
        total = sum(h.discount**t * reward[t, i] for t in steps)
        if options.kl_form == "reward":
            total -= h.kl_coef * sum(kl_of(old[t, i], ref[t, i], action[t, i]) for t in steps)
        returns.append(total)
    total = 0.0
    for i in range(N):
        first = i - i % options.group_size
        mates = np.array(returns[first : first + options.group_size])
        advantage = (returns[i] - mates.mean()) / (mates.std() + h.advantage_eps)
        ratios = [new[t, i, action[t, i]] / old[t, i, action[t, i]] for t in range(lengths[i])]
        for t in range(lengths[i]):
            rho = ratios[t]
            if options.ratio == "sequence":
                rho = np.prod(ratios) ** (1 / lengths[i])
            term = min(rho * advantage, np.clip(rho, 1 - h.clip_low, 1 + h.clip_high) * advantage)
            kl = kl_of(new[t, i], ref[t, i], action[t, i])
            if options.kl_form == "loss":
                term -= h.kl_coef * kl
            if options.kl_form == "weighted":
                term -= h.kl_coef * np.prod(ratios[: t + 1]) * kl
            term -= h.entropy_coef * np.sum(new[t, i] * np.log(new[t, i]))
            total -= (
                term
                * {
                    "per_sequence": 1 / (N * lengths[i]),
                    "per_token": 1 / lengths.sum(),
                    "constant": 1 / (N * T),
                }[options.length_normalization]
            )
    return total


HYPERPARAMS = GRPOHyperparams(
    discount=0.9, clip_low=0.1, clip_high=0.3, kl_coef=0.7, entropy_coef=0.2, advantage_eps=0.1
)


@pytest.mark.parametrize(
    "options",
    [
        EVERY,
        replace(EVERY, length_normalization="per_token", kl_estimator="k1", kl_form="weighted"),
        replace(EVERY, length_normalization="constant", kl_estimator="exact", ratio="sequence"),
        replace(EVERY, group_size=3, kl_form="reward", kl_estimator="k1"),
        replace(EVERY, group_size=6, kl_form="off"),
    ],
)
def test_the_loss_is_that_of_the_paper(x64, options):
    data = outputs()
    value, info = loss_of(*data, options, HYPERPARAMS)
    expected = loss_by_loops(*data, options, HYPERPARAMS)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)
    assert info["clip_fraction_low"] + info["clip_fraction_high"] > 0


@pytest.mark.parametrize("kl_form", ["loss", "weighted", "reward"])
def test_padding_changes_nothing(x64, kl_form):
    options = replace(EVERY, kl_form=kl_form)
    transition, new, reference = outputs()
    padded = np.asarray(transition.weight) == 0
    noisy = transition._replace(
        reward=jnp.where(padded, jnp.nan, transition.reward),
        action=jnp.where(padded, 0, transition.action),
    )

    def gradient(transition, new):
        return jax.value_and_grad(
            lambda x: loss_of(transition, x, reference, options, HYPERPARAMS)[0]
        )(new)

    expected, slope = gradient(transition, new)
    far = jnp.where(padded[..., None], 30.0 * new, new)
    value, slope_of_padded = gradient(noisy, far)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(slope_of_padded, slope, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(slope_of_padded[padded], 0.0)


def test_groups_of_equal_rewards_leave_only_kl_and_entropy(x64):
    transition, new, reference = outputs(lengths=(1,) * 6)
    same = transition._replace(reward=jnp.ones((T, N)))
    options = replace(EVERY, kl_form="off")
    hyperparams = HYPERPARAMS.replace(entropy_coef=0.0)
    gradient = jax.grad(lambda x: loss_of(same, x, reference, options, hyperparams)[0])(new)
    np.testing.assert_array_equal(gradient, 0.0)
    _, told = group.make_batch(same, None, options, hyperparams)
    assert told["zero_spread"] == 1.0
    assert told["output_length"] == 1.0


def test_the_clip_keeps_low_and_high_apart():
    ratio = jnp.array([0.5, 0.85, 1.0, 1.25, 2.0])
    slopes = {
        sign: jax.grad(lambda r, a: jnp.sum(surrogates.clip(r, a, 0.1, 0.3)))(
            ratio, jnp.full(5, sign)
        )
        for sign in (1.0, -1.0)
    }
    np.testing.assert_array_equal(slopes[1.0], [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(slopes[-1.0], [0, 0, -1, -1, -1])


# --- estimates of the KL -------------------------------------------------------------------------


@pytest.fixture
def two(x64):
    """Logits of two policies over five actions."""
    return jax.random.normal(jax.random.key(0), (2, 5))


def kl(p, q):
    return Categorical(p).kl(Categorical(q))


def expected_over_actions(logits, value):
    """Σ_a π(a) value(a), π held fixed."""
    p = jax.lax.stop_gradient(jax.nn.softmax(logits))
    return jnp.sum(p * jnp.stack([value(a) for a in range(len(p))]))


@pytest.mark.parametrize("name", surrogates.KL_ESTIMATORS)
def test_estimates_have_the_kl_as_their_expectation(two, name):
    policy, reference = two
    estimate = surrogates.KL_ESTIMATORS[name]

    def value(a):
        return estimate(Categorical(policy), Categorical(reference), a)

    np.testing.assert_allclose(
        expected_over_actions(policy, value), kl(policy, reference), rtol=0, atol=1e-12
    )
    if name != "k1":
        assert all(value(a) >= 0 for a in range(5))


def gradient_of_estimate(policy, reference, name, weighted):
    def loss(logits):
        def value(a):
            now = Categorical(logits)
            change = now.log_prob(a) - Categorical(policy).log_prob(a)
            estimate = surrogates.KL_ESTIMATORS[name](now, Categorical(reference), a)
            return jnp.exp(change) * estimate if weighted else estimate

        return expected_over_actions(policy, value)

    return jax.grad(loss)(policy)


def test_k3_alone_has_the_forward_gradient_and_weighted_the_reverse_one(two):
    policy, reference = two
    reverse = jax.grad(kl)(policy, reference)
    forward = jax.grad(lambda p: kl(reference, p))(policy)
    assert np.abs(reverse - forward).max() > 0.01
    for name, weighted, expected in [
        ("k3", False, forward),
        ("k3", True, reverse),
        ("k1", False, jnp.zeros(5)),
        ("k1", True, reverse),
        ("exact", False, reverse),
        ("exact", True, reverse),
    ]:
        gradient = gradient_of_estimate(policy, reference, name, weighted)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", surrogates.KL_ESTIMATORS)
def test_the_weighted_form_is_unbiased_over_whole_outputs(x64, name):
    """Two tokens out of two, the second's distribution chosen by the first: all four enumerated."""
    policy, reference = jax.random.normal(jax.random.key(1), (2, 3, 2))
    options = replace(EVERY, kl_estimator=name, kl_form="weighted", length_normalization="constant")
    hyperparams = GRPOHyperparams(kl_coef=1.0, entropy_coef=0.0)

    def rows(table, first):
        """Distributions of both steps, `[2, 1, 2]`, of outputs that begin with `first`."""
        return Categorical(jnp.stack([table[0], table[1 + first]])[:, None])

    def estimated(table):
        total = 0.0
        for first, second in itertools.product(range(2), repeat=2):
            action = jnp.array([[first], [second]])
            behaviour = rows(policy, first)
            transition = outputs()[0]._replace(
                action=action, behaviour=behaviour, weight=jnp.ones((2, 1))
            )
            batch = group.Batch(
                transition,
                behaviour.log_prob(action),
                jnp.zeros((2, 1)),
                advantages.length_weights(transition.weight, "constant"),
                rows(reference, first),
            )
            loss, _ = group.loss(rows(table, first), batch, options, hyperparams)
            # constant: half of the sum over two steps
            total += 2.0 * loss * jnp.exp(jnp.sum(behaviour.log_prob(action)))
        return total

    def exact(table):
        first = jax.nn.softmax(table[0])
        later = sum(first[a] * kl(table[1 + a], reference[1 + a]) for a in range(2))
        return kl(table[0], reference[0]) + later

    np.testing.assert_allclose(estimated(policy), exact(policy), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        jax.grad(estimated)(policy), jax.grad(exact)(policy), rtol=0, atol=1e-12
    )


# --- learning ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_tokens():
    """The task of seven outputs for each of two prompts, with a table for a policy."""
    env, env_params = po.make_env("tokens/two")

    def apply(table, obs):
        seen = jnp.sum((obs[..., :2] + 1) * jnp.array([1, 4]), axis=-1)  # prompt, first token
        return Categorical(jax.nn.one_hot(seen, 16) @ table)

    policy = memoryless(Policy, lambda key: 0.7 * jax.random.normal(key, (16, 3)), apply)
    return env, env_params, policy


def enumerate_outputs(env, policy, params):
    """Probability and reward of the seven outputs, each `[2, 7]`."""
    probability, reward = np.zeros((2, 7)), np.zeros((2, 7))
    every = [(0, -1), *itertools.product((1, 2), range(3))]
    for prompt, (j, (first, second)) in itertools.product(range(2), enumerate(every)):
        obs = jnp.array([[prompt + 1, -1, -1], [prompt + 1, first, -1]])
        log_prob = policy.unroll(params, (), obs, None).log_prob(jnp.array([first, max(second, 0)]))
        steps = 1 if second < 0 else 2
        probability[prompt, j] = np.exp(np.sum(log_prob[:steps]))
        reward[prompt, j] = env.score(obs[0, :1], jnp.array([first, second]))[0]
    return probability, reward


@pytest.mark.parametrize(
    ("kl_form", "kl_estimator", "advantage"),
    [("weighted", "k3", "rloo"), ("weighted", "k1", "rloo"), ("reward", "k1", "centred")],
)
def test_grpo_converges_to_the_tilted_reference(two_tokens, kl_form, kl_estimator, advantage):
    """π* ∝ π_ref exp(r/β) over whole outputs, for a reference that is not uniform."""
    env, env_params, policy = two_tokens
    beta = 0.5
    hyperparams = GRPOHyperparams(
        learning_rate=0.03, kl_coef=beta, entropy_coef=0.0, max_grad_norm=10.0
    )
    algorithm = grpo(
        policy,
        GRPOOptions(
            group_size=16,
            advantage=advantage,
            length_normalization="constant",
            kl_form=kl_form,
            kl_estimator=kl_estimator,
        ),
        hyperparams,
    )
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=128, num_steps=2)
    train = jax.jit(po.make_train(trainer, num_updates=1500, log_every=1500))
    state = train(jax.random.key(0), hyperparams).state.algorithm
    reference, reward = enumerate_outputs(env, policy, state.reference.policy)
    probability, _ = enumerate_outputs(env, policy, state.params.policy)
    best = reference * np.exp(reward / beta)
    best /= best.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability.sum(axis=1), 1.0, rtol=1e-5)
    assert (0.5 * np.abs(reference - best).sum(axis=1) > 0.1).all()
    distance = 0.5 * np.abs(probability - best).sum(axis=1)
    assert (distance <= 0.02).all(), distance


def train_on_two(two_tokens, options, num_updates=30, **floats):
    """Logged diagnostics and state after training on the tiny task."""
    env, env_params, policy = two_tokens
    hyperparams = GRPOHyperparams(**{"learning_rate": 0.1, "kl_coef": 0.0, **floats})
    algorithm = grpo(policy, GRPOOptions(group_size=8, **options), hyperparams)
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=32, num_steps=2)
    train = po.make_train(trainer, num_updates=num_updates)
    result = jax.jit(jax.vmap(train, in_axes=(0, None)))(po.seed_keys(8), hyperparams)
    return result.state.algorithm, jax.tree.map(np.asarray, result.log)


def test_inner_updates_are_held_by_the_clip(two_tokens):
    """Ten large steps on each rollout: the clip acts, and without it policies move too far."""
    _, clipped = train_on_two(two_tokens, {"num_epochs": 10})
    _, free = train_on_two(two_tokens, {"num_epochs": 10}, clip_low=0.999, clip_high=0.999)
    _, single = train_on_two(two_tokens, {"num_epochs": 1})
    for side in ("low", "high"):
        assert clipped.info.mean[f"clip_fraction_{side}"][:, :3].mean() > 0.02
        np.testing.assert_array_equal(single.info.mean[f"clip_fraction_{side}"], 0.0)
    # What it protects: after the first updates the policy has not settled on what chance offered.
    early = slice(None), slice(1, 4)
    assert clipped.info.mean["entropy"][early].mean() > free.info.mean["entropy"][early].mean()
    assert clipped.episode_return.mean[:, -5:].mean() > single.episode_return.mean[:, -5:].mean()


def test_the_reference_moves_every_so_many_updates(two_tokens):
    options = {"reference_every": 3, "kl_form": "loss", "kl_estimator": "exact"}
    state, log = train_on_two(two_tokens, options, num_updates=8, kl_coef=0.01)
    kl_to_reference = log.info.mean["reference_kl"]
    np.testing.assert_allclose(kl_to_reference[:, [0, 3, 6]], 0.0, atol=1e-6)
    assert (kl_to_reference[:, [1, 2, 4, 5, 7]].mean(axis=0) > 1e-4).all()
    np.testing.assert_array_equal(state.num_updates, 8)
    _, log = train_on_two(two_tokens, {**options, "reference_every": 0}, 8, kl_coef=0.01)
    assert (log.info.mean["reference_kl"][:, 1:].mean(axis=0) > 1e-4).all()


def test_a_needle_leaves_most_groups_without_spread():
    env, env_params = po.make_env("tokens/needle")
    policy, _ = po.mlp_actor_critic(env, env_params, hidden=())
    hyperparams = GRPOHyperparams(entropy_coef=0.0)
    algorithm = grpo(policy, GRPOOptions(group_size=4), hyperparams)
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=16, num_steps=env.max_tokens)
    train = po.make_train(trainer, num_updates=5)
    log = jax.jit(train)(jax.random.key(0), hyperparams).log
    assert (log.info.mean["zero_spread"] > 0.5).all()
    np.testing.assert_allclose(log.info.mean["output_length"], log.episode_length.mean, rtol=1e-6)


@pytest.mark.parametrize("memory", ["transformer", "gru"])
def test_a_run_on_tokens_can_be_evaluated_and_its_policy_used(memory, tmp_path):
    algorithm = po.GRPOConfig(
        num_envs=32,
        num_steps=2,
        group_size=8,
        kl_form="off",
        network=po.NetworkConfig(hidden=(8,), memory=memory),
        hyperparams=GRPOHyperparams(learning_rate=1e-2, entropy_coef=0.0),
    )
    config = po.ExperimentConfig(
        algorithm=algorithm,
        env="tokens/parity",
        env_options={"length": 1},
        num_seeds=2,
        total_steps=64 * 150,
        num_windows=10,
    )
    po.run(config, tmp_path / "run", progress=False)
    evaluation = po.evaluate_run(tmp_path / "run", num_episodes=64)
    act = po.load_policy(tmp_path / "run", seed=0)
    obs, carry = jnp.array([2, -1, -1]), None
    for t in range(2):
        action, carry = act(obs, carry)
        obs = obs.at[1 + t].set(action)
    np.testing.assert_allclose(evaluation["episode_return"], 2.0)
    np.testing.assert_array_equal(obs, [2, 2, 0])
