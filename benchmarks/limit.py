"""The arithmetic that one environment step needs, by hand and from XLA, and the machine's rates.

Two bounds. `matmul`: only matrix products take time, at the rate of a chain of 128×64×64 products.
`elementwise`: so do tanh and exp, at the rate of a chain of tanh(x + b) over 128×64 numbers, one
after the other with the products: with the bias added, as in a layer, for XLA has a slower kernel
for a tanh by itself. Everything else (Adam, gathers, random numbers, environments) is free. On an
accelerator both chains are of 2048 lanes side by side, each with a kernel of its own. For
comparison there is the rate of the products of eight lanes side by side, which a core may reach.
"""

import functools
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import purejax_po as po
from purejax_po import curvature, rollout
from purejax_po.algorithms import actor_critic
from purejax_po.experiment.run import devices

ENV = "CartPole-v1"
INPUTS, ACTIONS, HIDDEN, BATCH = 4, 2, 64, 128
LANES, MANY_LANES = 8, 2048
Config = po.PPOConfig | po.TRPOConfig | po.NPGConfig


class Work(NamedTuple):
    """What one environment step costs."""

    flops: float
    """A multiply and an add are two."""
    transcendentals: float
    """tanh, exp and log."""

    def plus(self, other: "Work", times: float = 1.0) -> "Work":
        """Return this work and `times` the other."""
        return Work(*(a + times * b for a, b in zip(self, other, strict=True)))


class Rates(NamedTuple):
    """What the machine does in a second, on all workers at once."""

    flops: float
    """In products one after the other; on an accelerator in those of `MANY_LANES` lanes."""
    flops_of_lanes: float
    """In products of `LANES` lanes side by side on each core; the same on an accelerator."""
    transcendentals: float


def by_hand(config: Config) -> Work:
    """Count the matrix products and the activations of one environment step.

    A forward pass multiplies once by every weight; a backward pass again for every weight's
    gradient and, but for the first layer, for every input's. It needs no new tanh. A Fisher-vector
    product that goes layer by layer is two products with matrices of every layer's size, and no
    tanh either; before the first one there is a backward pass for each action but one. A critic
    judges every observation, and the successors of the last step.
    """
    first = 2.0 * INPUTS * HIDDEN
    actor, critic = (first + 2.0 * HIDDEN * (HIDDEN + outputs) for outputs in (ACTIONS, 1))
    train_actor, train_critic = 3 * actor - first, 3 * critic - first
    units, softmax = 2.0 * HIDDEN, ACTIONS + 1.0
    act = Work(actor, units + softmax)
    values = Work(critic, units).plus(Work(critic, units), 1 / config.num_steps)
    learn_actor, learn_critic = Work(train_actor, units + softmax + 1), Work(train_critic, units)
    once = act.plus(values)
    if isinstance(config, po.PPOConfig):
        return once.plus(learn_actor.plus(learn_critic), config.num_epochs)
    product = Work(2 * actor, 0.0)
    backward = Work(actor - first, 0.0)
    return (
        once.plus(learn_actor)  # its forward pass serves the products and the line search too
        .plus(backward, ACTIONS - 1)
        .plus(product, config.cg_iterations)
        .plus(act)  # mostly one candidate
        .plus(learn_critic, config.critic_epochs)
    )


def compiled_work(function: Callable[..., Any], *arguments: Any) -> Work:
    """Return what XLA's cost analysis says of a compiled program; a loop's body counts once."""
    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return Work(analysis["flops"], analysis.get("transcendentals", 0.0))


def by_xla(config: Config) -> Work:
    """Count every operation of one environment step, elementwise ones and the environment's too.

    XLA does not know how often a loop turns, so the parts are counted on a batch of 128 in programs
    whose loops turn once, and multiplied by hand.
    """
    is_ppo = isinstance(config, po.PPOConfig)
    once = {"num_epochs": 1, "num_minibatches": 1} if is_ppo else {"critic_epochs": 1}
    small = type(config)(num_envs=BATCH, num_steps=1, **once)
    env, env_params = po.make_env(ENV)
    policy, critic = po.mlp_actor_critic(env, env_params)
    algorithm = small.build(env, env_params)
    key, hyperparams = jax.random.key(0), algorithm.hyperparams
    state = algorithm.init(key, hyperparams)
    begin = rollout.reset(key, env, env_params, algorithm.actor, BATCH)

    def collect(params: Any, begin: Any) -> Any:
        return rollout.collect(key, env, env_params, algorithm.actor, params, begin, 1)[:2]

    _, transition = collect(state.params, begin)
    batch = po.Rollout(transition, begin.carry, jnp.float32(0))

    def update(state: Any, batch: Any) -> Any:
        return algorithm.update(key, hyperparams, state, batch)

    def judge(params: Any, obs: Any) -> Any:
        return critic.unroll(params, (), obs, jnp.zeros(BATCH, bool))

    total = compiled_work(collect, state.params, begin).plus(compiled_work(update, state, batch))
    # Of one step the successors are all last ones; others are judged in a loop, if any.
    value = compiled_work(judge, state.params.critic, begin.obs)
    total = total.plus(value, 1 / config.num_steps - 2)
    if is_ppo:

        def estimate(params: Any, batch: Any) -> Any:
            return actor_critic.make_samples(critic, params, batch, hyperparams)

        again = compiled_work(update, state, batch)
        again = again.plus(compiled_work(estimate, state.params, batch), -1.0)
        total = total.plus(again, config.num_epochs - 1)
    else:
        samples = jax.tree.map(lambda x: x[0], transition)

        def product(params: Any, v: Any, times: int) -> Any:
            def apply(params: Any) -> Any:
                return policy.unroll(params, (), samples.obs, samples.start)

            multiply = curvature.gauss_newton_product(
                apply, params, samples.weight, 0.1, jacobian=policy.jacobian
            )
            for _ in range(times):
                v = multiply(v)
            return v

        def fit(params: Any, transition: Any) -> Any:
            def loss(params: Any) -> Any:
                value = critic.unroll(params, (), transition.obs, transition.start)
                return jnp.mean(jnp.square(value - transition.reward))

            return jax.value_and_grad(loss)(params)

        inputs = state.params.policy, state.params.policy
        one, two = (compiled_work(lambda p, v, n=n: product(p, v, n), *inputs) for n in (1, 2))
        total = total.plus(two.plus(one, -1.0), config.cg_iterations - 1)
        epoch = compiled_work(fit, state.params.critic, transition)
        total = total.plus(epoch, config.critic_epochs - 1)
    return Work(*(x / BATCH for x in total))


def machine_rates(length: int = 4000) -> Rates:
    """Measure the rates, on all workers at once."""
    workers = devices.local_workers()
    shape = () if workers[0].platform == "cpu" else (MANY_LANES,)

    def products(y: jax.Array, w: jax.Array) -> jax.Array:
        return y @ w

    def activations(y: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.tanh(y + w[..., :1, :])

    def rate(kernel: Any, work: float, shape: tuple[int, ...], turns: int = length) -> float:
        factors = (
            jnp.ones((*shape, BATCH, HIDDEN)),
            jnp.broadcast_to(jnp.eye(HIDDEN), (*shape, HIDDEN, HIDDEN)),
        )

        @functools.partial(jax.jit, compiler_options=po.compiler_options())
        def chain(x: jax.Array, w: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, turns, lambda _, y: kernel(y, w), x)

        def run(device: Any) -> None:
            jax.block_until_ready(chain(*jax.device_put(factors, device)))

        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(run, workers))
            start = time.perf_counter()
            list(pool.map(run, workers))
            seconds = time.perf_counter() - start
        return len(workers) * turns * work * math.prod(shape) / seconds

    flops = 2.0 * BATCH * HIDDEN * HIDDEN
    one_by_one = rate(products, flops, shape)
    side_by_side = one_by_one if shape else rate(products, flops, (LANES,), length // LANES)
    return Rates(one_by_one, side_by_side, rate(activations, BATCH * HIDDEN, shape))


def bounds(work: Work, rates: Rates) -> dict[str, float]:
    """Environment steps per second if only products take time, and if tanh and exp do too."""
    matmul = work.flops / rates.flops
    return {
        "matmul": 1 / matmul,
        "elementwise": 1 / (matmul + work.transcendentals / rates.transcendentals),
    }
