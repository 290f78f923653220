"""SPO: its equation, and all that every algorithm has to do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spo import SPO, SPOHyperparams, penalised

import purejax_po as po
from purejax_po.testing import check_algorithm

pytestmark = pytest.mark.usefixtures("compile_quickly")

SMALL = SPO(
    num_envs=4,
    num_steps=16,
    num_epochs=2,
    num_minibatches=2,
    network=po.NetworkConfig(hidden=(8,)),
    hyperparams=SPOHyperparams(learning_rate=3e-3),
)


@pytest.mark.parametrize("advantage", [-2.0, 0.5])
def test_the_objective_is_highest_one_epsilon_away(advantage):
    best = 1.0 + 0.2 * np.sign(advantage)
    slope = jax.grad(lambda ratio: penalised(ratio, advantage, 0.2))
    np.testing.assert_allclose(slope(best), 0.0, atol=1e-6)
    np.testing.assert_allclose(slope(1.0), advantage)
    assert slope(best + 0.1) < 0.0 < slope(best - 0.1)
    assert penalised(jnp.float32(1.0), advantage, 0.2) == advantage


def test_spo_is_an_algorithm():
    check_algorithm(SMALL)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="num_minibatches must divide the batch of 64"):
        dataclasses.replace(SMALL, num_minibatches=5).check()
