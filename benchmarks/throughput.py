"""Throughput of training beside the arithmetic limit of the machine, measured in the same run.

    python benchmarks/throughput.py [--quick] [--json FILE]

Every figure is the median of interleaved rounds, with the smallest and the largest. Compile time is
apart. The limit is the rate of a chain of 128×64×64 matrix products on all devices at once, divided
by the floating-point operations that one environment step needs, counted by hand.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import purejax_po as po
from purejax_po import curvature
from purejax_po.experiment import lanes
from purejax_po.experiment.results import versions
from purejax_po.networks import mlp_policy

ENV = "CartPole-v1"
HIDDEN = 64


class Case(NamedTuple):
    """One program to time."""

    label: str
    config: po.PPOConfig | po.TRPOConfig | po.NPGConfig
    num_seeds: int
    updates: int
    """Updates per timed call."""


CASES = (
    Case("ppo, 16 seeds", po.PPOConfig(), 16, 8),
    Case("ppo, 1 seed", po.PPOConfig(), 1, 32),
    Case("trpo, 16 seeds", po.TRPOConfig(), 16, 4),
    Case("npg, 16 seeds", po.NPGConfig(), 16, 4),
)


def flops_per_step(config: po.PPOConfig | po.TRPOConfig | po.NPGConfig) -> float:
    """Operations per environment step in matrix products: a multiply and an add are two.

    A forward pass multiplies once by every weight; a backward pass again for every weight's
    gradient and, but for the first layer, for every input's. A linearised Fisher-vector product is
    one tangent and one transposed pass, each two products per layer but one in the first.
    """
    first = 2.0 * 4 * HIDDEN
    actor, critic = (first + 2.0 * HIDDEN * (HIDDEN + outputs) for outputs in (2, 1))
    train_actor, train_critic = 3 * actor - first, 3 * critic - first
    rollout_and_values = actor + 2 * critic
    if isinstance(config, po.PPOConfig):
        return rollout_and_values + config.num_epochs * (train_actor + train_critic)
    product = 2 * (2 * actor - first)
    searched = 1 + 1  # the old parameters and, mostly, one candidate
    return (
        rollout_and_values
        + train_actor
        + config.cg_iterations * product
        + searched * actor
        + config.critic_epochs * train_critic
    )


def machine_rate() -> float:
    """Return operations per second of chains of 128×64×64 products on all workers at once."""
    workers = lanes.local_workers()
    length = 4000

    @jax.jit
    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, length, lambda _, y: y @ w, x)

    def run(device) -> None:
        x, w = jax.device_put((jnp.ones((128, HIDDEN)), jnp.eye(HIDDEN)), device)
        jax.block_until_ready(chain(x, w))

    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(run, workers))
        start = time.perf_counter()
        list(pool.map(run, workers))
        seconds = time.perf_counter() - start
    return len(workers) * length * 2.0 * 128 * HIDDEN * HIDDEN / seconds


class Timed:
    """A compiled case that runs again and again from where it stopped."""

    def __init__(self, case: Case) -> None:
        env, env_params = po.make_env(ENV)
        algorithm = case.config.build(env, env_params)
        trainer = po.make_trainer(
            env,
            env_params,
            algorithm,
            num_envs=case.config.num_envs,
            num_steps=case.config.num_steps,
        )
        everything = lanes.make_lanes(np.arange(case.num_seeds), algorithm.hyperparams, env_params)
        workers, width = lanes.plan(case.num_seeds)
        self.blocks = lanes.make_blocks(everything, width)
        self.program = lanes.compile_program(trainer, self.blocks[0].lanes, 10**6, workers)
        self.lengths = [case.updates]
        self.steps = case.num_seeds * case.updates * trainer.steps_per_update

    def run(self) -> float:
        """Return environment steps per second of one window of every block."""
        for block in self.blocks:
            block.num_windows, block.logs = 0, []
        start = time.perf_counter()
        for _ in lanes.run_blocks(self.program, self.blocks, self.lengths):
            pass
        jax.block_until_ready([block.state for block in self.blocks])
        return self.steps / (time.perf_counter() - start)


def product_in_forward_passes(rounds: int, applications: int = 200) -> list[float]:
    """Time a linearised Gauss-Newton product in units of one forward pass, batch 1024."""
    env, env_params = po.make_env(ENV)
    policy = mlp_policy(env, env_params)
    params = policy.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (1024, 4))

    def apply(params):
        return policy.unroll(params, (), obs, None)

    @jax.jit
    def forward(params):
        def body(_, params):
            tiny = 1e-20 * jnp.sum(apply(params).logits)  # a dependence, so that no pass is dropped
            return jax.tree.map(lambda p: p + tiny, params)

        return jax.lax.fori_loop(0, applications, body, params)

    @jax.jit
    def products(params):
        product = curvature.gauss_newton_product(apply, params, jnp.ones(1024), 0.1)
        return jax.lax.fori_loop(0, applications, lambda _, v: product(v), params)

    def seconds(function) -> float:
        start = time.perf_counter()
        jax.block_until_ready(function(params))
        return time.perf_counter() - start

    seconds(forward), seconds(products)
    return [seconds(products) / seconds(forward) for _ in range(rounds)]


def main() -> None:
    """Run all cases in interleaved rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds in place of 15")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else 15

    timed = {case.label: Timed(case) for case in CASES}
    for case in timed.values():
        for _ in range(2):
            case.run()  # the first calls touch fresh memory
    rates: dict[str, list[float]] = {label: [] for label in timed}
    machine = []
    for _ in range(rounds):
        machine.append(machine_rate())
        for label, case in timed.items():
            rates[label].append(case.run())
    units = product_in_forward_passes(rounds)

    device = f"{len(lanes.local_workers())} × {jax.devices()[0].device_kind}"
    rate = statistics.median(machine)
    print(f"{device}, {rate / 1e9:.0f} GFLOP/s in 128×64×64 products; {ENV}; {rounds} rounds")
    print(
        f"{'case':16} {'env steps/s':>12} {'min':>10} {'max':>10} {'limit':>10} {'share':>6} "
        f"{'compile':>8}"
    )
    rows = []
    for case in CASES:
        used = len(timed[case.label].program.workers)
        limit = rate / len(lanes.local_workers()) * used / flops_per_step(case.config)
        figures = rates[case.label]
        median = statistics.median(figures)
        compile_seconds = timed[case.label].program.compile_seconds
        rows.append(
            {
                "case": case.label,
                "env_steps_per_second": median,
                "min": min(figures),
                "max": max(figures),
                "limit": limit,
                "compile_seconds": compile_seconds,
                "flops_per_step": flops_per_step(case.config),
            }
        )
        print(
            f"{case.label:16} {median:12,.0f} {min(figures):10,.0f} {max(figures):10,.0f} "
            f"{limit:10,.0f} {median / limit:6.0%} {compile_seconds:6.1f} s"
        )
    print(
        f"Fisher-vector product: {statistics.median(units):.2f} forward passes "
        f"(min {min(units):.2f}, max {max(units):.2f}), batch 1024"
    )
    if arguments.json:
        found = {
            "device": device,
            "machine_flops_per_second": machine,
            "cases": rows,
            "product_in_forward_passes": units,
            "versions": versions(),
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
