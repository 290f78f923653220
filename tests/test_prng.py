"""Threefry written out gives JAX's own numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejax_po._xla import prng

DRAWS = {
    "split": lambda key: jax.random.key_data(jax.random.split(key, (3, 2))),
    "fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 12345)),
    "split of a split": lambda key: jax.random.key_data(jax.random.split(jax.random.split(key)[1])),
    "uniform": lambda key: jax.random.uniform(key, (5, 3), minval=-0.05, maxval=0.05),
    "scalar": jax.random.uniform,
    "normal": lambda key: jax.random.normal(key, (7,)),
    "randint": lambda key: jax.random.randint(key, (9,), 0, 13),
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (11,)),
    "choice": lambda key: jax.random.choice(key, 10, (4,), replace=False),
    "categorical": lambda key: jax.random.categorical(key, jnp.arange(4.0), shape=(6,)),
    "bytes": lambda key: jax.random.bits(key, (8,), jnp.uint8),
    "none": lambda key: jax.random.uniform(key, (0, 3)),
}


def test_the_numbers_are_those_of_jax(subtests):
    for name in DRAWS:
        with subtests.test(name):
            draw = DRAWS[name]
            for seed in (0, 1, 2**31 - 1):
                key = jax.random.key(seed)
                np.testing.assert_array_equal(draw(prng.written_out(key)), draw(key))


def test_numbers_can_be_drawn_where_nothing_else_is_compiled():
    key = jax.random.key(3)
    with jax.disable_jit():
        ours = DRAWS["bytes"](prng.written_out(jax.random.split(prng.written_out(key))[1]))
    np.testing.assert_array_equal(ours, DRAWS["bytes"](jax.random.split(key)[1]))


def test_keys_written_out_can_be_had_back():
    key = jax.random.key(5)
    back = prng.as_usual(prng.written_out(key))
    assert back.dtype == key.dtype
    np.testing.assert_array_equal(jax.random.key_data(back), jax.random.key_data(key))


def test_keys_of_other_generators_are_left_as_they_are():
    key = jax.random.key(5, impl="rbg")
    assert prng.written_out(key).dtype == key.dtype
    assert prng.as_usual(key).dtype == key.dtype


def test_raw_keys_are_taken_too():
    np.testing.assert_array_equal(
        jax.random.uniform(prng.written_out(jax.random.PRNGKey(5))),
        jax.random.uniform(jax.random.key(5)),
    )


def test_double_precision_too(x64):
    key = jax.random.key(3)
    np.testing.assert_array_equal(
        jax.random.uniform(prng.written_out(key), (5,), jnp.float64),
        jax.random.uniform(key, (5,), jnp.float64),
    )


def test_batches_of_keys():
    keys = jax.random.split(jax.random.key(1), (2, 3))

    def draw(key):
        return jax.random.uniform(jax.random.split(key)[1], (4,))

    drawn = jax.jit(jax.vmap(jax.vmap(draw)))(prng.written_out(keys))
    np.testing.assert_array_equal(drawn, jax.vmap(jax.vmap(draw))(keys))


@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)])
def test_keys_or_what_is_folded_into_them_may_be_mapped_alone(axes):
    keys = jax.random.split(jax.random.key(3), 4) if axes[0] == 0 else jax.random.key(3)
    data = jnp.arange(4) if axes[1] == 0 else jnp.int32(5)

    def fold(keys, data):
        return jax.random.key_data(jax.vmap(jax.random.fold_in, axes)(keys, data))

    expected = fold(keys, data)
    np.testing.assert_array_equal(jax.jit(fold)(prng.written_out(keys), data), expected)
    nested = jax.jit(jax.vmap(fold, (None, None), axis_size=2))(prng.written_out(keys), data)
    np.testing.assert_array_equal(nested, np.stack([expected] * 2))
    closed_over = jax.jit(lambda: fold(prng.written_out(keys), data))()
    np.testing.assert_array_equal(closed_over, expected)
