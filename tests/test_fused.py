"""The minibatch step as one kernel, interpreted, beside the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import purejax_po as po
from purejax_po import networks
from purejax_po.types import Rollout, Transition


class Sized:
    """Only its spaces matter."""

    name = "Sized"
    default_params = None

    def __init__(self, inputs, action_space):
        self.inputs, self.space = inputs, action_space

    def reset(self, key, params):
        raise NotImplementedError

    step = reset

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (self.inputs,))

    def action_space(self, params):
        return self.space


def updates(env, hidden, rows, hyperparams, **options):
    """The same update by XLA's kernels and by Pallas'; its state before."""
    policy, critic = po.mlp_actor_critic(env, None, hidden=hidden)
    keys = jax.random.split(jax.random.key(rows), 9)
    other = jax.tree.map(lambda x: x + 0.1, policy.init(keys[0]))  # ratios are not 1
    obs = jax.random.normal(keys[1], (rows, 2, env.inputs))
    nothing = jnp.zeros((rows, 2), bool)
    behaviour = policy.unroll(other, (), obs, nothing)
    transition = Transition(
        obs=obs,
        action=behaviour.sample(keys[2]),
        reward=jax.random.normal(keys[3], (rows, 2)),
        next_obs=jax.random.normal(keys[4], obs.shape),
        terminated=jax.random.bernoulli(keys[5], 0.2, (rows, 2)),
        truncated=nothing,
        start=nothing,
        behaviour=behaviour,
        weight=jnp.float32(jax.random.bernoulli(keys[6], 0.7, (rows, 2))),
    )
    rollout = Rollout(transition, (), jnp.float32(0.25))

    def run(kernels):
        chosen = po.PPOOptions(num_epochs=2, num_minibatches=2, kernels=kernels, **options)
        algorithm = po.ppo(policy, critic, chosen, hyperparams)
        state = algorithm.init(keys[7], hyperparams)

        def lane(seed):
            return algorithm.update(jax.random.key(seed), hyperparams, state, rollout)

        return jax.jit(jax.vmap(lane))(jnp.arange(2)), state

    (plain, before), (kernel, _) = run("xla"), run("pallas")
    return plain, kernel, before


def assert_alike(kernel, plain, tolerance=1e-5):
    """Relative to the largest entry of each array; of the info, whose means cancel, at least 1."""
    assert jax.tree.structure(kernel) == jax.tree.structure(plain)
    for path, a in jax.tree_util.tree_leaves_with_path(plain):
        b = dict(jax.tree_util.tree_leaves_with_path(kernel))[path]
        assert a.dtype == b.dtype
        size = max(float(jnp.max(jnp.abs(a))), 1.0 if path[0].idx == 1 else 0.0) or 1.0
        np.testing.assert_allclose(b / size, a / size, atol=tolerance, err_msg=str(path))


CASES = st.fixed_dictionaries(
    {
        "inputs": st.integers(1, 20),
        "space": st.one_of(
            st.integers(2, 18).map(spaces.Discrete),
            st.integers(1, 3).map(lambda n: spaces.Box(-1.0, 1.0, (n,))),
        ),
        "hidden": st.lists(st.integers(1, 20), max_size=2).map(tuple),
        "rows": st.integers(2, 100),
        "options": st.fixed_dictionaries(
            {
                "surrogate": st.sampled_from(["clip", "clip_only", "fixed_kl"]),
                "normalize_advantage": st.sampled_from(["off", "batch", "minibatch"]),
                "clip_value": st.booleans(),
                "early_stop": st.booleans(),
            }
        ),
        "max_grad_norm": st.sampled_from([0.1, 100.0]),
        "value_clip_eps": st.sampled_from([1e-3, 0.2]),
    }
)


@pytest.mark.parametrize(
    "space",
    [pytest.param(spaces.Discrete(3), marks=pytest.mark.slow), spaces.Box(-1.0, 1.0, (2,))],
)
def test_an_update_by_kernels_is_the_plain_one(space):
    """70 rows in a minibatch are two chunks, of which the second is padded."""
    options = {"surrogate": "clip", "normalize_advantage": "minibatch", "clip_value": True}
    check(
        {
            "inputs": 5,
            "space": space,
            "hidden": (5, 3),
            "rows": 70,
            "options": options | {"early_stop": False},
            "max_grad_norm": 0.1,
            "value_clip_eps": 1e-3,
        }
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=CASES)
def test_many_updates_by_kernels_are_the_plain_ones(case):
    check(case)


def check(case):
    hyperparams = po.PPOHyperparams(
        learning_rate=1e-3,
        target_kl=1e-4,
        max_grad_norm=case["max_grad_norm"],
        value_clip_eps=case["value_clip_eps"],
    )
    env = Sized(case["inputs"], case["space"])
    plain, kernel, before = updates(
        env, case["hidden"], case["rows"], hyperparams, **case["options"]
    )
    assert_alike(kernel, plain)
    if not case["options"]["early_stop"]:
        moved = jax.tree.map(lambda a, b: (a != b).any(), plain[0].params, before.params)
        assert any(jax.tree.leaves(moved))


@pytest.mark.slow
def test_a_stopped_update_keeps_what_it_has():
    env = Sized(3, spaces.Discrete(4))
    hyperparams = po.PPOHyperparams(target_kl=1e-12)
    plain, kernel, before = updates(env, (8,), 8, hyperparams, early_stop=True)
    for name in ("params", "optimizer"):
        old = jax.tree.leaves(getattr(before, name))
        new = jax.tree.leaves(getattr(kernel[0], name))
        for a, b in zip(new, old, strict=True):
            np.testing.assert_array_equal(a, jnp.broadcast_to(b, a.shape))
    assert_alike(kernel, plain)
    assert kernel[1]["stopped"] == pytest.approx(1.0)


@pytest.mark.slow
def test_what_a_kernel_cannot_serve_is_told():
    hyperparams = po.PPOHyperparams()
    with pytest.warns(UserWarning, match="at most 256"):
        plain, kernel, _ = updates(Sized(2, spaces.Discrete(2)), (4,), 260, hyperparams)
    assert_alike(kernel, plain, 0.0)
    with pytest.warns(UserWarning, match="layers of 130 units"):
        updates(Sized(2, spaces.Discrete(2)), (130,), 4, hyperparams)


def test_kernels_that_are_none_are_refused():
    with pytest.raises(ValueError, match="kernels must be one of xla, pallas, got 'triton'"):
        po.PPOConfig(kernels="triton").check()


def test_another_network_under_the_same_description_is_not_taken_for_it():
    env = Sized(2, spaces.Discrete(2))
    policy = networks.mlp_policy(env, None)
    assert policy.dense.unroll is policy.unroll
    changed = policy._replace(unroll=functools.partial(policy.unroll))
    assert changed.dense.unroll is not changed.unroll
    images = po.make_env("Breakout-MinAtar")
    assert networks.mlp_policy(*images, channels=(4,)).dense is None
