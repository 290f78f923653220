"""Merged moments are the moments of everything together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purejax_po import metrics
from purejax_po._xla.finite import all_finite
from purejax_po.metrics import Log, Moments

pytestmark = pytest.mark.usefixtures("compile_quickly")

SIZE = 8  # one shape, so that every example runs the same compiled program
numbers = st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=SIZE, max_size=SIZE).map(
    np.array
)
masks = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE).map(np.array)


def expect(moments, values):
    """Assert that `moments` are those of the numpy array `values`, in double precision."""
    assert moments.count == len(values)
    if len(values):
        np.testing.assert_allclose(moments.mean, values.mean(), rtol=1e-9, atol=1e-9)
        m2 = np.sum(np.square(values - values.mean()))
        np.testing.assert_allclose(moments.m2, m2, rtol=1e-9, atol=1e-6)


@jax.jit
def merged(x, x_mask, y, y_mask):
    return metrics.merge(metrics.of_masked(x, x_mask), metrics.of_masked(y, y_mask))


@settings(deadline=None, max_examples=100)
@given(numbers, masks, numbers, masks)
def test_merge_is_the_moments_of_the_concatenation(x, x_mask, y, y_mask):
    with jax.enable_x64(True):
        expect(merged(x, x_mask, y, y_mask), np.concatenate([x[x_mask], y[y_mask]]))


@settings(deadline=None, max_examples=50)
@given(numbers, masks)
def test_masked_entries_do_not_count(x, mask):
    with jax.enable_x64(True):
        poisoned = np.where(mask, x, np.nan)
        expect(jax.jit(metrics.of_masked)(poisoned, mask), x[mask])


def test_merging_in_any_order_gives_the_same(x64):
    x = jax.random.normal(jax.random.key(0), (5, 30)) * jnp.arange(1.0, 6.0)[:, None] + 100.0
    parts = [metrics.of_masked(row, jnp.ones(30, bool)) for row in x]
    forward, backward = parts[0], parts[-1]
    for part, opposite in zip(parts[1:], parts[-2::-1], strict=True):
        forward, backward = metrics.merge(forward, part), metrics.merge(opposite, backward)
    expect(forward, np.asarray(x).ravel())
    np.testing.assert_allclose(ravel(forward), ravel(backward), rtol=1e-12)


def test_single_precision_survives_a_large_mean():
    """Sums of squares would lose the variance 1 beside the squared mean 1e8 altogether."""
    x = 1e4 + jnp.tile(jnp.array([-1.0, 1.0]), 500)
    parts = [metrics.of_masked(part, jnp.ones(100, bool)) for part in jnp.split(x, 10)]
    total = parts[0]
    for part in parts[1:]:
        total = metrics.merge(total, part)
    np.testing.assert_allclose(total.m2 / total.count, 1.0, rtol=1e-3)


def test_the_empty_stream_is_neutral():
    some = metrics.of_masked(jnp.array([1.0, 2.0, 4.0]), jnp.ones(3, bool))
    empty = metrics.of_masked(jnp.full(3, jnp.nan), jnp.zeros(3, bool))
    np.testing.assert_array_equal(ravel(empty), np.zeros(3))
    np.testing.assert_array_equal(ravel(metrics.merge(some, empty)), ravel(some))
    np.testing.assert_array_equal(ravel(metrics.merge(empty, some)), ravel(some))
    np.testing.assert_array_equal(ravel(metrics.merge(empty, empty)), np.zeros(3))


def test_single_observations_merge_as_pytrees():
    observations = [{"a": jnp.float32(v), "b": jnp.float32(-v)} for v in (1.0, 2.0, 6.0)]
    total = metrics.of_single(observations[0])
    for observation in observations[1:]:
        total = metrics.merge(total, metrics.of_single(observation))
    assert total.count == 3
    np.testing.assert_allclose(total.mean["a"], 3.0, rtol=1e-6)
    np.testing.assert_allclose(total.mean["b"], -3.0, rtol=1e-6)
    np.testing.assert_allclose(total.m2["a"], 14.0, rtol=1e-6)
    ignored = metrics.of_single({"a": jnp.float32(jnp.nan), "b": jnp.float32(1.0)}, weight=0.0)
    np.testing.assert_array_equal(ravel(metrics.merge(total, ignored)), ravel(total))


def test_all_is_finite_but_where_a_float_is_not():
    tree = {"a": jnp.ones((2, 3)), "b": (jnp.int32(2**31 - 1), jnp.float32(3e38))}
    check = jax.jit(jax.vmap(all_finite))
    trees = jax.tree.map(lambda x: jnp.stack([x] * 4), tree)
    trees["a"] = trees["a"].at[1, 1, 2].set(jnp.nan)
    trees["b"] = (trees["b"][0], trees["b"][1].at[3].set(-jnp.inf))
    np.testing.assert_array_equal(check(trees), [True, False, True, False])


@pytest.mark.parametrize("size", [1, 17, 9155])
def test_one_number_that_is_not_finite_is_found_among_large_ones(size):
    check = jax.jit(jax.vmap(all_finite))
    lanes = np.full((5, size), np.finfo(np.float32).max)  # of which no sum would be finite
    for lane, value in enumerate((np.inf, -np.inf, np.nan), start=1):
        lanes[lane, size // 2] = value
    lanes[4] = np.finfo(np.float32).smallest_subnormal
    np.testing.assert_array_equal(check(lanes), [True, False, False, False, True])


def test_complex_numbers_and_those_of_python_may_not_be_finite_either():
    assert not all_finite({"a": jnp.array([jnp.nan + 0j]), "b": 1.0})
    assert not all_finite({"a": float("inf"), "b": 1})
    assert all_finite((1.0, 2, jnp.array([1 + 2j])))


def test_a_masked_log_is_neutral_even_if_it_is_not_finite():
    part = metrics.of_masked(jnp.array([1.0, 3.0]), jnp.ones(2, bool))
    log = Log(metrics.of_single({"loss": jnp.float32(2.0)}), part, part)
    poison = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), log)
    masked = metrics.mask_log(poison, jnp.bool_(False))
    np.testing.assert_array_equal(ravel(metrics.merge_logs(log, masked)), ravel(log))
    np.testing.assert_array_equal(ravel(metrics.mask_log(log, jnp.bool_(True))), ravel(log))
    doubled = metrics.merge_logs(log, log)
    np.testing.assert_array_equal(doubled.episode_return.count, 4.0)
    np.testing.assert_array_equal(doubled.episode_return.m2, 4.0)
    assert isinstance(doubled.info, Moments)


def ravel(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])
