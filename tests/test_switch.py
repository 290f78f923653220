"""The tricks for speed: each off computes what it computes on, and plain JAX is plain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po._xla import finite, flat, prng, products, shuffle, sums, switch

pytestmark = pytest.mark.usefixtures("compile_quickly")

NONE = switch.Tricks(*(False for _ in switch.Tricks._fields))


def test_each_platform_has_the_tricks_that_suit_it(monkeypatch):
    assert switch.on() == switch.CPU
    assert switch.on().packed_shuffle
    assert not switch.on().lean_loops
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert switch.on() == switch.ELSEWHERE
    assert not switch.on().packed_shuffle
    assert switch.on().lean_loops


def test_the_innermost_choice_counts_and_ends():
    with switch.using(NONE):
        assert not any(switch.on())
        with switch.using(switch.CPU), switch.without("columns", "one_check"):
            assert switch.on() == switch.CPU._replace(columns=False, one_check=False)
        assert not any(switch.on())
    assert switch.on() == switch.CPU


def test_an_unknown_trick_is_refused():
    with pytest.raises(ValueError, match="did you mean short_sums"):
        switch.without("short_sum")


def test_without_the_trick_every_size_is_shuffled_as_jax_does():
    key = jax.random.key(0)
    plain = jax.random.permutation(key, 64)
    assert (shuffle.permutation(key, 64) != plain).any()
    with switch.without("packed_shuffle"):
        np.testing.assert_array_equal(shuffle.permutation(key, 64), plain)


def test_parts_are_those_of_plain_jax():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 2))
    dimensions = (((1,), (0,)), ((), ()))

    def found():
        keys = prng.written_out(jax.random.split(jax.random.key(2), 3))
        gradient = jax.grad(lambda w: jnp.sum(products.dense(x, w, dimensions) ** 2))(kernel)
        parts = sums.total(x), sums.cumulative(x), flat.norm({"x": x, "w": kernel}), gradient
        return (
            jax.random.uniform(keys[0], (4,)),
            finite.all_finite(x),
            finite.all_finite(x / 0),
            *parts,
        )

    tricks = found()
    with switch.using(NONE):
        plain = found()
        assert prng.written_out(jax.random.key(0)).dtype == jax.random.key(0).dtype
    for a, b in zip(tricks, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_training_without_tricks_runs_and_is_not_taken_for_the_program_with_them():
    """`po.run` compiles a program once; under other tricks it is another program."""
    config = tiny.experiment(algorithm=tiny.ALGORITHMS["trpo"])
    usual = po.run(config, progress=False)
    with switch.using(NONE):
        plain = po.run(config, progress=False)
    again = po.run(config, progress=False)
    np.testing.assert_array_equal(usual["entropy"], again["entropy"])
    assert np.isfinite(plain["entropy"]).all()
    assert (usual["entropy"].values != plain["entropy"].values).any()
