"""Masks of actions: identities by enumeration, exact Fisher products, and no invalid action."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from gymnax.environments import environment, spaces
from jax.flatten_util import ravel_pytree

import purejax_po as po
from purejax_po import curvature, masks, networks, rollout
from purejax_po.distributions import Categorical, Joint, MaskedCategorical, Product
from purejax_po.environments import by_name
from purejax_po.experiment.config import schema
from purejax_po.jacobian import linearized
from purejax_po.testing.fields import masked_levers

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")
SIZES = (3, 2, 4)
KINDS = {
    "one choice": ((5,), (5,)),
    "coordinates": (SIZES, (sum(SIZES),)),
    "combinations": (SIZES, SIZES),
}
"""Sizes of the choices, and the shape of the mask."""


def some(kind, batch=6, seed=0):
    """A batch of distributions without masks, and of masks that leave something valid."""
    sizes, shape = KINDS[kind]
    keys = jax.random.split(jax.random.key(seed), len(sizes) + 1)
    logits = [2.0 * jax.random.normal(k, (batch, n)) for k, n in zip(keys, sizes, strict=False)]
    whole = Categorical(logits[0]) if len(sizes) == 1 else Product(tuple(map(Categorical, logits)))
    mask = jax.random.bernoulli(keys[-1], 0.5, (batch, *shape))
    first = np.zeros(shape, bool)
    if kind == "coordinates":
        first[np.cumsum((0, *sizes))[:-1]] = True
    else:
        first.flat[1] = True
    return whole, mask.at[:, ...].set(mask | first)


def actions(kind):
    """Every action, `[K]` or `[K, D]`."""
    sizes, _ = KINDS[kind]
    found = jnp.array(list(itertools.product(*map(range, sizes))))
    return found[:, 0] if len(sizes) == 1 else found


def is_valid(kind, mask):
    """Whether each action is valid in each of a batch, `[K, B]`."""
    sizes, shape = KINDS[kind]
    every = np.asarray(actions(kind)).reshape(-1, len(sizes))
    mask = np.asarray(mask)
    if shape == sizes:
        return np.stack([mask[(slice(None), *action)] for action in every])
    starts = np.cumsum((0, *sizes))[:-1]
    return np.stack([mask[:, action + starts].all(axis=1) for action in every])


def log_probs(kind, distribution):
    """Log π of every action, `[K, B]`."""
    batch = jax.tree.leaves(distribution)[0].shape[0]
    repeat = functools.partial(jnp.repeat, repeats=batch, axis=0)
    return jax.vmap(distribution.log_prob)(jax.vmap(lambda a: repeat(a[None]))(actions(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_distribution_is_the_other_one_given_that_the_action_is_valid(kind, x64):
    whole, mask = some(kind)
    found = masks.apply(whole, mask)
    valid = is_valid(kind, mask)
    plain = np.where(valid, np.exp(log_probs(kind, whole)), 0.0)
    expected = plain / plain.sum(axis=0)
    probability = np.exp(log_probs(kind, found))
    np.testing.assert_allclose(probability, expected, rtol=1e-12, atol=1e-300)
    assert (probability[~valid] == 0.0).all()
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(expected * np.log(expected), axis=0)
        np.testing.assert_allclose(found.entropy(), entropy, rtol=1e-12)
        other = masks.apply(some(kind, seed=1)[0], mask)
        ratio = np.log(expected) - np.asarray(log_probs(kind, other))
        kl = np.where(valid, expected * ratio, 0.0).sum(axis=0)
    np.testing.assert_allclose(found.kl(other), kl, rtol=1e-12)
    best = np.asarray(actions(kind))[expected.argmax(axis=0)]
    np.testing.assert_array_equal(found.mode(), best)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fisher_product_is_the_hessian_of_the_divergence(kind, x64):
    whole, mask = some(kind, batch=1)
    flat, unravel = ravel_pytree(whole)

    def distribution(x):
        return masks.apply(unravel(x), mask)

    def divergence(x):
        return distribution(flat).kl(distribution(x))[0]

    @jax.jit
    def both(flat):
        product = curvature.gauss_newton_product(distribution, flat, jnp.ones(1), 0.0)
        return jax.vmap(product)(jnp.eye(len(flat))), jax.hessian(divergence)(flat)

    np.testing.assert_allclose(*both(flat), atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalid_action_is_never_drawn(kind):
    whole, mask = some(kind, batch=64)
    found = masks.apply(whole, mask)
    keys = jax.random.split(jax.random.key(2), 200)
    drawn = np.asarray(jax.jit(lambda found, keys: jax.vmap(found.sample)(keys))(found, keys))
    every = np.asarray(actions(kind)).reshape(-1, 1, 1, len(KINDS[kind][0]))
    index = (every == drawn.reshape(*drawn.shape[:2], -1)).all(-1).argmax(axis=0)
    assert np.take_along_axis(is_valid(kind, mask), index, axis=0).all()


@pytest.mark.parametrize("size", [3, 33, 1000])
def test_rounding_draws_no_invalid_action(size):
    keys = jax.random.split(jax.random.key(0), 3)
    logits = 4.0 * jax.random.normal(keys[0], (8, size))
    mask = jax.random.bernoulli(keys[1], 0.1, logits.shape).at[:, 1].set(True)
    found = masks.apply(Categorical(logits), mask)
    edges = jnp.cumsum(jax.nn.softmax(found.logits), axis=-1)
    edges = jnp.concatenate([edges, jnp.nextafter(edges, 0.0), jnp.nextafter(edges, 1.0)], axis=-1)
    noise = jnp.clip(edges, 0.0, 1.0 - 2.0**-23).T
    drawn = jax.vmap(found.sample_from)(noise)
    assert np.take_along_axis(np.asarray(mask), np.asarray(drawn).T, axis=1).all()
    uniform = jnp.linspace(0.0, 1.0, 101, endpoint=False)
    np.testing.assert_array_equal(  # the same as without a mask where all is valid
        MaskedCategorical(logits[:1]).sample_from(uniform),
        Categorical(logits[:1]).sample_from(uniform),
    )


def test_where_nothing_is_valid_the_mask_does_not_count():
    logits = jnp.array([[0.0, 1.0, 2.0]])
    found = masks.apply(Categorical(logits), jnp.zeros((1, 3), bool))
    np.testing.assert_array_equal(found.logits, logits)


class Turns(environment.Environment):
    """Some actions are valid at each step; another one makes the lane diverge."""

    default_params = environment.EnvParams(max_steps_in_episode=5)
    name = "Turns"

    def __init__(self, kind="one choice"):
        super().__init__()
        self.sizes, self.shape = KINDS[kind]

    def action_space(self, params=None):
        parts = [spaces.Discrete(n) for n in self.sizes]
        return parts[0] if len(parts) == 1 else spaces.Tuple(parts)

    def observation_space(self, params=None):
        mask = spaces.Box(0, 1, self.shape, jnp.bool_)
        return spaces.Dict({"observation": spaces.Box(-1.0, 1.0, (6,)), "action_mask": mask})

    def observe_at(self, time):
        key = jax.random.fold_in(jax.random.key(7), time)
        mask = jax.random.bernoulli(key, 0.4, self.shape)
        if self.shape == (sum(self.sizes),):
            mask = mask.at[np.cumsum((0, *self.sizes))[:-1]].set(True)
        else:
            mask = mask.at[(0,) * len(self.shape)].set(True)
        return {"observation": jax.nn.one_hot(time, 6), "action_mask": mask}

    def reset_env(self, key, params):
        return self.observe_at(0), environment.EnvState(time=jnp.int32(0))

    def step_env(self, key, state, action, params):
        mask, action = self.observe_at(state.time)["action_mask"], jnp.atleast_1d(jnp.array(action))
        if self.shape == self.sizes:
            valid = mask[tuple(action)]
        else:
            valid = mask[action + np.cumsum((0, *self.sizes))[:-1]].all()
        state = environment.EnvState(time=state.time + 1)
        reward = jnp.where(valid, jnp.sum(action, dtype=jnp.float32), jnp.nan)
        return self.observe_at(state.time), state, reward, jnp.bool_(False), {}

    def is_terminated(self, state, params):
        return jnp.bool_(False)


PRODUCTS = [
    ("one choice", "layerwise", False),
    *((kind, product, False) for kind in KINDS for product in ("gauss_newton", "kl_hessian")),
    ("combinations", "gauss_newton", True),
    ("coordinates", "kl_hessian", True),
]


@pytest.mark.parametrize(("kind", "product", "memory"), PRODUCTS)
def test_products_of_a_network_are_those_of_the_explicit_fisher_matrix(kind, product, memory, x64):
    env = Turns(kind)
    make = po.gru_actor_critic if memory else po.mlp_actor_critic
    policy, _ = make(env, env.default_params, hidden=(256,) if product == "layerwise" else (4,))
    assert (policy.jacobian is linearized) == (product != "layerwise")
    params = jax.tree.map(lambda x: 3.0 * x, policy.init(jax.random.key(0)))
    seen = jax.vmap(env.observe_at)(jnp.arange(5))
    if memory:
        seen = jax.tree.map(lambda x: x[:, None], seen)
        carry, start = policy.initial_carry(1), jnp.zeros((5, 1), bool).at[0].set(True)
    else:
        carry, start = (), jnp.zeros(5, bool)
    weight = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0]).reshape(start.shape)
    flat, unravel = ravel_pytree(params)

    def apply(params):
        return policy.unroll(params, carry, seen, start)

    def log_prob(flat):
        whole = jax.tree.map(lambda x: x.reshape(5, -1), apply(unravel(flat)))
        return log_probs(kind, whole).T

    valid = is_valid(kind, seen["action_mask"].reshape(5, *env.shape)).T

    @jax.jit
    def compare(flat, several):
        score = jax.jacrev(lambda flat: jnp.where(valid, log_prob(flat), 0.0))(flat)
        share = (weight.reshape(-1) / weight.sum())[:, None] * jnp.exp(log_prob(flat))
        wanted = jnp.einsum("bk,bki,bkj,vj->vi", share, score, score, several)
        if product == "kl_hessian":
            multiply = curvature.kl_hessian_product(apply, unravel(flat), weight, 0.0)
        else:
            multiply = curvature.gauss_newton_product(
                apply, unravel(flat), weight, 0.0, jacobian=policy.jacobian
            )
        return jax.vmap(lambda v: ravel_pytree(multiply(unravel(v)))[0])(several), wanted

    several = jax.random.normal(jax.random.key(1), (3, *flat.shape))
    found, wanted = compare(flat, several)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11 * jnp.abs(wanted).max())


def test_the_empirical_product_is_the_fisher_matrix_in_expectation(x64):
    env = Turns()
    policy, _ = po.mlp_actor_critic(env, env.default_params, hidden=(4,))
    params = policy.init(jax.random.key(0))
    seen = jax.vmap(env.observe_at)(jnp.arange(5))

    def apply(params):
        return policy.unroll(params, (), seen, jnp.zeros(5, bool))

    # Every valid action of every state, weighted by its probability.
    every = jnp.repeat(jnp.arange(5)[:, None], 5, axis=1)
    v = jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def share_and_exact(params):
        exact = curvature.gauss_newton_product(apply, params, jnp.ones(5), 0.0)
        return jnp.exp(jax.vmap(apply(params).log_prob)(every)), exact(v)

    @jax.jit
    def empirical(params, weight, action):
        return curvature.empirical_product(apply, params, weight, 0.0, action)(v)

    share, exact = share_and_exact(params)
    total = jax.tree.map(np.zeros_like, params)
    for action, weight in zip(every, np.asarray(share), strict=True):
        if not weight.any():
            continue
        one = empirical(params, weight, action)
        total = jax.tree.map(lambda x, y, w=weight: x + np.asarray(y) * w.sum() / 5, total, one)
    for found, wanted in zip(*map(jax.tree.leaves, (total, exact)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-15)


def test_a_line_search_with_masks_keeps_to_the_region(x64):
    env = Turns("combinations")
    policy, critic = po.mlp_actor_critic(env, env.default_params, hidden=(8,))
    algorithm = po.trpo(policy, critic, hyperparams=po.TRPOHyperparams(damping=1e-6))
    trainer = po.make_trainer(env, env.default_params, algorithm, num_envs=4, num_steps=32)
    result = jax.jit(po.make_train(trainer, num_updates=5))(
        jax.random.key(0), algorithm.hyperparams
    )
    assert result.state.diverged_at == -1
    assert (result.log.info.mean["kl"] <= 0.01).all()
    assert (result.log.info.mean["step_fraction"] > 0).any()


OF_KINDS = [
    (n, k) for n in tiny.ALGORITHMS for k in KINDS if k == "one choice" or n in ("ppo", "trpo")
]


@pytest.mark.parametrize(("name", "kind"), OF_KINDS)
def test_every_algorithm_takes_valid_actions_alone(name, kind):
    env = Turns(kind)
    algorithm = tiny.ALGORITHMS[name].build(env, env.default_params)
    trainer = po.make_trainer(env, env.default_params, algorithm, num_envs=2, num_steps=16)
    result = jax.jit(po.make_train(trainer, num_updates=4))(
        jax.random.key(0), algorithm.hyperparams
    )
    assert result.state.diverged_at == -1  # NaN is the reward of an invalid action
    options = {"num_episodes": 3, "num_steps": 5}
    whose = jax.random.key(1), env, env.default_params, trainer.actor
    for returns in jax.jit(
        lambda params: [
            po.evaluate(*whose, params, greedy=greedy, **options).episode_return
            for greedy in (True, False)
        ]
    )(result.state.acting_params):
        assert np.isfinite(returns).all()


def test_without_masks_invalid_actions_are_taken():
    env = Turns()
    config = tiny.ALGORITHMS["ppo"]
    off = dataclasses.replace(config.network, mask_actions=False)
    algorithm = dataclasses.replace(config, network=off).build(env, env.default_params)
    trainer = po.make_trainer(env, env.default_params, algorithm, num_envs=2, num_steps=16)
    result = jax.jit(po.make_train(trainer, num_updates=2))(
        jax.random.key(0), algorithm.hyperparams
    )
    assert result.state.diverged_at == 0


def test_a_sequence_policy_keeps_to_masks():
    env, env_params = po.make_env("tokens/copy")
    plain = po.transformer_policy(env, env_params, hidden=(8,), num_heads=2)

    def reading(policy):
        """The same policy of the field `observation`."""
        prompt = policy.prompt and po.Prompt(
            lambda params, obs, size: policy.prompt.read(params, obs["observation"], size),
            reading(policy.prompt.go_on),
        )
        return policy._replace(
            step=lambda p, carry, obs, start: policy.step(p, carry, obs["observation"], start),
            unroll=lambda p, carry, obs, start: policy.unroll(p, carry, obs["observation"], start),
            prompt=prompt,
        )

    even = jnp.arange(env.action_space(env_params).n) % 2 == 0
    told = po.with_action_mask(env, lambda state, params: even)
    algorithm = po.grpo(po.masked(reading(plain)), po.GRPOOptions(group_size=2))
    trainer = po.make_trainer(told, env_params, algorithm, num_envs=4, num_steps=env.max_tokens)
    state = jax.jit(trainer.init)(jax.random.key(0), algorithm.hyperparams)

    @jax.jit
    def actions_of(params):
        begin = rollout.reset(jax.random.key(1), told, env_params, trainer.actor, 4)
        key = jax.random.key(2)
        return rollout.collect(key, told, env_params, trainer.actor, params, begin, 5)[1].action

    assert (np.asarray(actions_of(state.acting_params)) % 2 == 0).all()
    _, log = jax.jit(trainer.step)(algorithm.hyperparams, state)
    assert jnp.isfinite(log.info.mean["policy_loss"])


def test_levers_are_masked_by_their_own_method():
    env = masked_levers()
    params = env.default_params
    assert po.check_env(env) == []
    policy, _ = po.mlp_actor_critic(env, params, hidden=(4,))

    @jax.jit
    def play():
        state = rollout.reset(jax.random.key(0), env, params, policy, 3)
        weights = policy.init(jax.random.key(2))
        return rollout.collect(jax.random.key(1), env, params, policy, weights, state, 50)[1]

    transition = play()._replace(behaviour=None)
    transition = jax.tree.map(np.asarray, transition)
    obs, valid = transition.obs["observation"], transition.obs["action_mask"]
    assert np.take_along_axis(valid, transition.action[..., None], axis=-1).all()
    np.testing.assert_array_equal(valid.reshape(50, 3, 4, 2).any(-1), obs[..., 4:] > 0)
    last = transition.next_obs["action_mask"][:-1] == transition.obs["action_mask"][1:]
    ended = transition.terminated[:-1] | transition.truncated[:-1]
    assert last.all(axis=-1)[~ended].all()


def test_policies_that_come_out_of_a_run_keep_to_masks(tmp_path):
    env = "purejax_po.testing.fields:masked_levers"
    out = tmp_path / "run"
    po.run(tiny.experiment(env=env, num_seeds=2), out, progress=False)
    act = po.load_policy(out, seed=1)
    mask = jnp.eye(8, dtype=bool)
    action = act({"observation": jnp.zeros((8, 8)), "action_mask": mask})
    np.testing.assert_array_equal(action, jnp.arange(8))
    written = po.export(out, seed=1, num_episodes=0).files["stablehlo"]
    exported = jax.export.deserialize(written.read_bytes())
    np.testing.assert_array_equal(exported.call(mask, jnp.zeros((8, 8)))[0], jnp.arange(8))
    found = po.evaluate_run(out, num_episodes=2)
    assert (found["episode_length"] > 4).all()  # a lever that does not work ends an episode at once


def changed(**methods):
    return type("Wrong", (Turns,), methods)()


def with_mask(shape, dtype=jnp.bool_):
    def observation_space(self, params=None):
        whole = Turns.observation_space(self)
        return spaces.Dict({**whole.spaces, "action_mask": spaces.Box(0, 1, shape, dtype)})

    def reset_env(self, key, params):
        obs, state = Turns.reset_env(self, key, params)
        return {**obs, "action_mask": jnp.ones(shape, dtype)}, state

    return {"observation_space": observation_space, "reset_env": reset_env}


MISTAKES = {
    "another shape": (
        changed(**with_mask((4,))),
        "action_mask of Turns must have the shape [5] for Discrete(5",
    ),
    "another dtype": (
        changed(**with_mask((5,), jnp.float32)),
        "Turns.reset must return action_mask as bool, got float32[5]",
    ),
    "continuous actions": (
        changed(action_space=lambda *_: spaces.Box(-1.0, 1.0, (5,))),
        "action_mask of Turns must be left out unless actions are discrete, got Box(",
    ),
    "not what its space says": (
        changed(reset_env=with_mask((4,))["reset_env"]),
        "Turns.reset must return observations action_mask of the shape [5] that",
    ),
    "no mask": (
        changed(reset_env=lambda *_: ({"observation": jnp.zeros(6)}, environment.EnvState(time=0))),
        "Turns.reset must return a dictionary of observation, action_mask, as",
    ),
}


def trainer_of(env):
    algorithm = po.a2c(*po.mlp_actor_critic(env, env.default_params, hidden=(4,)))
    return po.make_trainer(env, env.default_params, algorithm, num_envs=2, num_steps=4)


def test_a_mistake_is_one_line(subtests):
    for name in MISTAKES:
        with subtests.test(name):
            env, message = MISTAKES[name]
            with pytest.raises(ValueError, match=re.escape(message)) as told:
                trainer_of(env)
            assert "\n" not in str(told.value)
            problems = po.check_env(env, raises=False)
            assert any(message.split(", got")[0] in line for line in problems), problems


def test_a_state_without_a_valid_action_is_told():
    def observe_at(self, time):
        obs = Turns.observe_at(self, time)
        return {**obs, "action_mask": obs["action_mask"] & (time != 2)}

    problems = po.check_env(changed(observe_at=observe_at), raises=False)
    assert any("action_mask must leave an action valid" in line for line in problems), problems


def test_what_cannot_be_masked_is_one_line():
    with pytest.raises(ValueError, match=r"has a method action_mask, got None"):
        po.with_action_mask(po.make_env("CartPole-v1")[0])
    with pytest.raises(ValueError, match=r"must have the shape \[2\] for Discrete\(2"):
        po.with_action_mask(po.make_env("CartPole-v1")[0], lambda state, params: jnp.ones(3, bool))
    with pytest.raises(ValueError, match="discrete actions, got DiagonalGaussian"):
        masks.apply(po.distributions.DiagonalGaussian(jnp.zeros(2), jnp.zeros(2)), jnp.ones(2))
    many = spaces.Tuple([spaces.Discrete(300)] * 2)
    observed = spaces.Dict({"action_mask": spaces.Box(0, 1, (300, 300), jnp.bool_)})
    with pytest.raises(ValueError, match="must have at most 65536 combinations"):
        masks.check("Many", observed, many)


def test_a_configuration_of_before_has_no_masks():
    data = tiny.experiment().to_dict()
    del data["algorithm"]["network"]["mask_actions"]
    old = {**data, schema.FORMAT: 2}
    assert not po.ExperimentConfig.from_dict(old).algorithm.network.mask_actions
    assert po.ExperimentConfig.from_dict(data).algorithm.network.mask_actions


def test_a_softmax_policy_is_masked_and_a_joint_one_is_a_product_without_a_mask(x64):
    env = Turns()
    policy = networks.softmax_linear_policy(env, env.default_params)
    found = policy.unroll(
        policy.init(jax.random.key(0)), (), env.observe_at(1), jnp.zeros((), bool)
    )
    np.testing.assert_array_equal(jnp.exp(found.logits) > 0, env.observe_at(1)["action_mask"])
    whole, _ = some("combinations")
    joint = masks.apply(whole, jnp.ones((6, *SIZES), bool))
    assert isinstance(joint, Joint)
    np.testing.assert_allclose(
        log_probs("combinations", joint), log_probs("combinations", whole), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("space", "mask", "valid"),
    [
        (spaces.Discrete(3), [True, False, True], [(0,), (2,)]),
        (spaces.Discrete(3), [False] * 3, [(0,), (1,), (2,)]),
        (
            spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
            [True, False, False, True, True],
            [(0, 1), (0, 2)],
        ),
        (
            spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)]),
            [[True, False], [False, True]],
            [(0, 0), (1, 1)],
        ),
    ],
)
def test_an_action_is_told_valid(space, mask, valid):
    obs = {"action_mask": jnp.asarray(mask)}
    sizes = (space.n,) if hasattr(space, "n") else [part.n for part in space.spaces]
    for choice in itertools.product(*map(range, sizes)):
        action = jnp.int32(choice[0]) if len(choice) == 1 else tuple(map(jnp.int32, choice))
        assert bool(masks.allows(obs, action, space)) == (choice in valid)
        assert masks.allows(jnp.zeros(3), action, space)


@pytest.mark.parametrize("wrapper", ["sticky_actions:1", "action_repeat:3"])
def test_no_wrapper_takes_an_invalid_action(wrapper):
    """A lever that does not work ends the episode; those that work change with every step."""
    env = by_name.wrap(masked_levers(), [wrapper])
    params = env.default_params

    def step(carry, key):
        obs, state = carry
        action = jnp.argmax(obs["action_mask"])
        obs, state, _, terminated, *_ = env.step(key, state, action, params)
        return (obs, state), terminated

    start = env.reset(jax.random.key(0), params)
    keys = jax.random.split(jax.random.key(1), 5)  # too few for the pole to fall
    assert not jax.lax.scan(step, start, keys)[1].any()
