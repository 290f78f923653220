"""Dense layers' products: the derivatives of a plain product, however they are made."""

import jax
import jax.numpy as jnp
import pytest

from purejax_po._xla.products import dense

SHAPES = {
    "wide": ((7, 3), (3, 5)),
    "narrow": ((7, 6), (6, 4)),
    "column by column": ((7, 5), (5, 2)),
    "one output": ((7, 5), (5, 1)),
    "time and environments": ((4, 3, 5), (5, 4)),
    "those, column by column": ((4, 3, 5), (5, 3)),
    "one sample": ((5,), (5, 6)),
    "one sample, column by column": ((5,), (5, 2)),
}


@pytest.fixture(params=SHAPES)
def factors(request):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = SHAPES[request.param]
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes * 2, strict=True)]


def product(x, kernel):
    return dense(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert jnp.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_values_and_both_derivatives_are_those_of_a_product(x64, factors):
    x, kernel, x_dot, kernel_dot = [f.astype(jnp.float64) for f in factors]
    y, pull = jax.vjp(jnp.matmul, x, kernel)
    cotangent = jnp.cos(y)
    found, found_pull = jax.vjp(product, x, kernel)
    close((found, found_pull(cotangent)), (y, pull(cotangent)))
    close(
        jax.jvp(product, (x, kernel), (x_dot, kernel_dot)),
        jax.jvp(jnp.matmul, (x, kernel), (x_dot, kernel_dot)),
    )


@pytest.mark.parametrize("argument", [0, 1])
def test_derivatives_by_one_factor_alone(x64, factors, argument):
    arguments = [f.astype(jnp.float64) for f in factors[:2]]

    def loss(multiply):
        return lambda *args: jnp.sum(jnp.sin(multiply(*args)))

    found, expected = (jax.grad(loss(f), argument)(*arguments) for f in (product, jnp.matmul))
    close(found, expected)


def test_lanes_second_derivatives_and_linear_transposes(x64):
    keys = jax.random.split(jax.random.key(1), 3)
    x, kernel, v = (
        jax.random.normal(key, shape, jnp.float64)
        for key, shape in zip(keys, [(2, 7, 3), (2, 3, 5), (2, 3, 5)], strict=True)
    )

    def curvature_along(multiply):
        def along(x, kernel, v):
            def loss(kernel):
                return jnp.sum(jnp.tanh(multiply(x, kernel)) ** 2)

            push = jax.linearize(jax.grad(loss), kernel)[1]
            return push(v), jax.linear_transpose(push, kernel)(v)[0]

        return jax.jit(jax.vmap(along))

    close(curvature_along(product)(x, kernel, v), curvature_along(jnp.matmul)(x, kernel, v))
