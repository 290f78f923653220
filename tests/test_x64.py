"""Double precision through the whole engine: every algorithm runs, and its numbers are exact."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from built import built

import purejax_po as po
from purejax_po import exact
from purejax_po.environments.finite_mdp import make_finite_mdp
from purejax_po.networks import linear_critic, softmax_linear_policy

pytestmark = pytest.mark.usefixtures("compile_quickly")

RUNS = """
import tiny, jax, purejax_po as po
from purejax_po.experiment.run.trainer import build_trainer

for name in tiny.ALGORITHMS:
    found = po.run(tiny.experiment(name, num_seeds=2), progress=False)
    assert found["episode_return"].dtype == "float64", found["episode_return"].dtype
    assert (found["diverged_at"] < 0).all()
    print(name, "CartPole-v1")
    trainer = build_trainer(tiny.experiment(name, env="Pendulum-v1"))
    train = jax.jit(po.make_train(trainer, num_updates=2))
    found = train(jax.random.key(0), trainer.algorithm.hyperparams)
    assert found.log.episode_return.mean.dtype == "float64"
    assert found.state.diverged_at < 0
    print(name, "Pendulum-v1")
"""


def test_every_algorithm_runs_in_double_precision(compile_quickly):
    finished = subprocess.run(
        [sys.executable, "-c", RUNS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **compile_quickly, "JAX_ENABLE_X64": "1"},
        cwd=os.path.dirname(tiny.__file__),
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert len(finished.stdout.splitlines()) == 2 * len(tiny.ALGORITHMS)


def tabular(make, **options):
    """An algorithm on a random MDP with a table of logits, and its trainer, in double precision."""
    mdp = exact.garnet(jax.random.key(0), 4, 3, 2, 0.9)
    env, env_params = make_finite_mdp(mdp)
    policy, critic = softmax_linear_policy(env, env_params), linear_critic(env, env_params)
    algorithm = built(make)(policy, critic, **options)
    return algorithm, po.make_trainer(env, env_params, algorithm, num_envs=8, num_steps=16)


@pytest.mark.parametrize("make", [po.a2c, po.ppo, po.trpo, po.npg])
def test_parameters_and_statistics_are_of_double_precision(x64, make):
    algorithm, trainer = tabular(make)
    state, log = jax.eval_shape(
        lambda key: trainer.step(algorithm.hyperparams, trainer.init(key, algorithm.hyperparams)),
        jax.random.key(0),
    )
    floats = [x for x in jax.tree.leaves(state.algorithm) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype.name for x in floats} == {"float64"}
    assert log.info.mean["entropy"].dtype == log.episode_return.mean.dtype == "float64"


def test_the_entropy_of_a_uniform_policy_is_exact_through_the_engine(x64):
    algorithm, trainer = tabular(po.a2c)
    hyperparams = algorithm.hyperparams
    _, log = jax.jit(lambda k: trainer.step(hyperparams, trainer.init(k, hyperparams)))(
        jax.random.key(0)
    )
    np.testing.assert_allclose(log.info.mean["entropy"], np.log(3.0), rtol=1e-14)


@pytest.mark.parametrize("make", [po.trpo, po.npg])
def test_the_step_of_a_trust_region_has_its_kl_to_many_digits(x64, make):
    """KL(√(2δ/xᵀFx)·x) = δ + O(δ^{3/2}): with δ = 1e-10 five digits, which float32 cannot hold."""
    algorithm, trainer = tabular(make, critic_minibatch_size=32, cg_iterations=12)
    hyperparams = algorithm.hyperparams.replace(max_kl=1e-10, damping=1e-12, cg_tolerance=1e-14)
    _, log = jax.jit(lambda k: trainer.step(hyperparams, trainer.init(k, hyperparams)))(
        jax.random.key(1)
    )
    np.testing.assert_allclose(log.info.mean["kl_full_step"], 1e-10, rtol=1e-4)


def test_the_first_step_of_the_engine_is_that_of_the_gradient_in_numpy(x64):
    """θ starts at 0: Adam's first step is the learning rate times the sign of the gradient.

    The gradient that the engine follows is that of its own samples, Σ ∇log π Â / N, in NumPy.
    """
    algorithm, trainer = tabular(po.a2c, normalize_advantage=False)
    hyperparams = algorithm.hyperparams.replace(
        value_coef=0.0, entropy_coef=0.0, max_grad_norm=1e6, adam_eps=1e-3
    )
    seen = {}
    state = jax.jit(trainer.init)(jax.random.key(2), hyperparams)
    update = algorithm.update

    def spy(key, hyperparams, state, rollout):
        seen["transition"] = rollout.transition
        return update(key, hyperparams, state, rollout)

    spied = po.make_trainer(
        trainer.env, trainer.env_params, algorithm._replace(update=spy), num_envs=8, num_steps=16
    )

    @jax.jit
    def step(state):
        after, _ = spied.step(hyperparams, state)
        return after, seen["transition"]

    after, transition = step(state)
    transition = jax.tree.map(np.asarray, transition)
    obs, reward = transition.obs, transition.reward
    advantage = np.zeros_like(reward)
    running = np.zeros(8)
    decay = float(hyperparams.discount * hyperparams.gae_lambda)
    for t in reversed(range(len(reward))):  # the critic starts at 0: δ_t = r_t
        running = reward[t] + decay * running * ~(
            transition.terminated[t] | transition.truncated[t]
        )
        advantage[t] = running
    one_hot = np.eye(3)[transition.action] - 1 / 3
    gradient = np.einsum("tns,tna,tn->sa", obs, one_hot, advantage) / reward.size
    np.testing.assert_allclose(
        after.algorithm.params.policy,
        hyperparams.learning_rate * gradient / (np.abs(gradient) + hyperparams.adam_eps),
        rtol=1e-10,
    )
