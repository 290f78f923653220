"""The tricks for a GPU compute what they stand for: here on a CPU, by the switch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import purejax_po as po
from purejax_po._xla import flat, packed, products, recurrence, switch
from purejax_po.algorithms import optimizers
from purejax_po.algorithms.ppo import PPOHyperparams

GPU = switch.ELSEWHERE._replace(interpreted=True)


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 40), seed=st.integers(0, 99))
def test_doubled_sums_are_those_of_the_loop(length, seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (length, 3))
    decay = jnp.where(jax.random.bernoulli(keys[1], 0.2, x.shape), 0.0, jax.random.uniform(keys[2]))
    loop = recurrence.discounted_sum(x, decay)
    with switch.using(GPU):
        doubled = recurrence.discounted_sum(x, decay)
    np.testing.assert_allclose(doubled, loop, rtol=1e-5, atol=1e-5)


def test_a_packed_loop_has_the_bits_of_the_plain_one():
    start = {
        "number": jnp.float32(1.5),
        "count": jnp.int32(-3),
        "flag": jnp.bool_(True),
        "key": jax.random.key(0),
        "large": jnp.arange(2.0 * packed.FEW).reshape(2, -1),
        "nothing": jnp.zeros((0, 2)),
    }

    def step(carry, x):
        key, draw = jax.random.split(carry["key"])
        number = carry["number"] * x + jax.random.normal(draw)
        new = carry | {
            "number": number,
            "count": carry["count"] - 1,
            "flag": ~carry["flag"],
            "key": key,
            "large": carry["large"] + number,
        }
        many = jnp.full((packed.FEW + 1,), carry["flag"])
        image = jnp.full((2, 2), carry["count"], jnp.uint8)
        return new, (number / 0, {"flag": carry["flag"], "many": many}, image, carry["count"])

    def run(pack_carry):
        state, out = packed.scan(step, start, jnp.arange(5.0), pack_carry)
        return jax.random.key_data(state.pop("key")), state, out

    plain = run(False)
    for pack_carry in (False, True):
        with switch.using(GPU):
            lean = run(pack_carry)
        assert jax.tree.structure(lean) == jax.tree.structure(plain)
        for a, b in zip(jax.tree.leaves(lean), jax.tree.leaves(plain), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_epochs_in_one_loop_take_the_same_minibatches():
    def run():
        return po.minibatch.epochs(
            jax.random.key(1), lambda s, b: (2 * s + b[0], b), 0, jnp.arange(12),
            num_epochs=3, num_minibatches=2,
        )  # fmt: skip

    with switch.without("packed_shuffle"):
        plain = run()
    with switch.using(GPU):
        lean = run()
    for a, b in zip(lean, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 64), (5, 2), (64, 3)])
def test_layers_have_the_gradients_of_plain_ones(inputs, outputs):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (7, inputs))
    w, b = jax.random.normal(keys[1], (inputs, outputs)), jax.random.normal(keys[2], (outputs,))

    def plain(x, w, b):
        return jnp.sum(jnp.tanh(x @ w + b) ** 3)

    def lean(x, w, b):
        def layer(x, w, b):
            if products.joins(inputs):
                return products.affine(x, w, b)
            return products.dense(x, w, (((1,), (0,)), ((), ()))) + b

        return jnp.sum(products.tanh(layer(x, w, b)) ** 3)

    expected = jax.value_and_grad(plain, (0, 1, 2))(x, w, b)
    with switch.using(GPU):
        assert products.joins(inputs) == (inputs < 9)
        found = jax.value_and_grad(lean, (0, 1, 2))(x, w, b)
        tangent = jax.jvp(lambda w: lean(x, w, b), (w,), (w,))[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, expected
    )
    np.testing.assert_allclose(tangent, jnp.sum(expected[1][1] * w), rtol=1e-4)


def test_adam_in_parts_makes_the_steps_and_the_state_of_the_vector():
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    hyperparams = PPOHyperparams(max_grad_norm=1.0)

    def run():
        optimizer = optimizers.clipped_adam(hyperparams, 0.0)
        state = optimizer.init(params)
        inner, moments, join = flat.in_parts(optimizer, params, state)
        found = params
        for i in range(4):  # the first gradients are clipped, the last are not
            gradient = jax.tree.map(lambda x, i=i: (x + 0.1) / 4**i, found)
            updates, moments = inner.update(gradient, moments, found)
            found = jax.tree.map(jnp.add, found, updates)
        return found, join(moments)

    plain = run()
    with switch.using(GPU):
        parts = run()
    assert jax.tree.structure(parts) == jax.tree.structure(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), parts, plain)


@pytest.mark.parametrize("name", ["ppo", "trpo"])
def test_an_update_is_that_of_plain_jax(name):
    """Up to rounding: shuffles and keys are those of JAX with and without the tricks."""
    config = tiny.ALGORITHMS[name]
    env, env_params = po.make_env("CartPole-v1")
    plain = switch.Tricks(*(False for _ in switch.Tricks._fields))._replace(flat_adam=True)

    def run():
        built = config.build(env, env_params)
        trainer = po.make_trainer(env, env_params, built, num_envs=2, num_steps=16)
        start = trainer.init(jax.random.key(3), built.hyperparams)
        return jax.jit(lambda state: trainer.step(built.hyperparams, state))(start)

    with switch.using(plain):
        expected = run()
    with switch.using(GPU):
        found = run()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    moved = expected[0].algorithm.params, found[0].algorithm.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), *moved)
