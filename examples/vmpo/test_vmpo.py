"""V-MPO: its equations, and all that every algorithm has to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vmpo import VMPO, VMPOHyperparams, kl_loss, temperature_loss, top_half, weights

import purejax_po as po
from purejax_po.testing import check_algorithm

pytestmark = pytest.mark.usefixtures("compile_quickly")

ADVANTAGE = jnp.array([3.0, -1.0, 0.5, 2.0, -2.0, 9.0])
REAL = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])


def test_the_better_half_counts_and_padding_does_not():
    top = top_half(ADVANTAGE, REAL)
    np.testing.assert_array_equal(top, [True, False, True, True, False, False])
    psi = weights(ADVANTAGE, top, jnp.float32(2.0))
    expected = np.exp(np.array([3.0, 0.5, 2.0]) / 2.0)
    np.testing.assert_allclose(psi[top], expected / expected.sum(), rtol=1e-6)
    assert psi[~top].sum() == 0.0


def test_the_temperature_follows_the_divergence_of_the_weights():
    top, temperature = top_half(ADVANTAGE, REAL), jnp.float32(2.0)
    slope = jax.grad(temperature_loss, argnums=2)(ADVANTAGE, top, temperature, 0.1)
    psi = weights(ADVANTAGE, top, temperature)[top]
    divergence = jnp.sum(psi * jnp.log(psi * 3))
    np.testing.assert_allclose(slope, 0.1 - divergence, rtol=1e-5)


def test_the_multiplier_grows_while_the_kl_is_above_its_limit():
    of_kl, of_multiplier = jax.grad(kl_loss, argnums=(0, 1))(0.3, 5.0, 0.1)
    assert of_kl == 5.0
    np.testing.assert_allclose(of_multiplier, 0.1 - 0.3, rtol=1e-6)


def test_vmpo_is_an_algorithm():
    small = VMPO(
        num_envs=4,
        num_steps=16,
        num_epochs=2,
        num_minibatches=2,
        network=po.NetworkConfig(hidden=(8,)),
        hyperparams=VMPOHyperparams(learning_rate=3e-3),
    )
    check_algorithm(small)
