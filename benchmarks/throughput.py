"""Throughput of PPO, TRPO and NPG beside the arithmetic limit, measured in the same run.

    python benchmarks/throughput.py [--windows 10] [--quick]

Every figure is the median of interleaved rounds, with the smallest and the largest. Compile time is
apart. `limit.py` says what the two limits are, `networks_alone.py` what PPO's networks alone do.
"""

import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import limit
import measure
from measure import Figure
from networks_alone import NetworksAlone
from timed import Timed

import purejax_po as po
from purejax_po import curvature
from purejax_po.experiment.run import devices
from purejax_po.networks import mlp_policy

WINDOWS = 10
"""Timed at once by default: the workers' waiting for each other at the end weighs little, as in a
run."""


class Case(NamedTuple):
    """One program to time."""

    label: str
    config: limit.Config
    num_seeds: int
    updates: int
    """Updates per window, as in a run for 500,000 steps."""


CASES = (
    Case("ppo, 16 seeds", po.PPOConfig(), 16, 10),
    Case("ppo, 1 seed", po.PPOConfig(), 1, 10),
    Case("trpo, 16 seeds", po.TRPOConfig(), 16, 5),
    Case("npg, 16 seeds", po.NPGConfig(), 16, 5),
)


MANY = (
    Case("ppo, 2048 seeds", po.PPOConfig(), limit.MANY_LANES, 10),
    Case("trpo, 2048 seeds", po.TRPOConfig(), limit.MANY_LANES, 5),
)
"""In place of the cases of 16 seeds on an accelerator."""


def product_in_forward_passes(rounds: int, applications: int = 200) -> list[float]:
    """Time a Gauss-Newton product in units of one forward pass, batch 1024."""
    env, env_params = po.make_env(limit.ENV)
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
        product = curvature.gauss_newton_product(
            apply, params, jnp.ones(1024), 0.1, jacobian=policy.jacobian
        )
        return jax.lax.fori_loop(0, applications, lambda _, v: product(v), params)

    def seconds(function) -> float:
        start = time.perf_counter()
        jax.block_until_ready(function(params))
        return time.perf_counter() - start

    seconds(forward), seconds(products)
    return [seconds(products) / seconds(forward) for _ in range(rounds)]


def describe(case: Case, timed: Timed, found: list[float], rates: limit.Rates) -> dict[str, float]:
    """A case's figures; one seed uses one core, and its limit is that of one core."""
    workers = len(devices.local_workers())
    used = limit.Rates(*(rate / workers * len(timed.workers) for rate in rates))
    counts = {"hand": limit.by_hand(case.config), "xla": limit.by_xla(case.config)}
    limits = limit.bounds(counts["hand"], used)
    speed = Figure.of(found)
    return {
        "case": case.label,
        **{f"env_steps_per_second_{name}": x for name, x in speed._asdict().items()},
        **{f"limit_{name}": x for name, x in limits.items()},
        **{f"share_of_{name}": speed.median / x for name, x in limits.items()},
        **{f"flops_per_step_{name}": work.flops for name, work in counts.items()},
        **{f"transcendentals_per_step_{name}": w.transcendentals for name, w in counts.items()},
        "compile_seconds": timed.compile_seconds,
    }


def show(case: dict[str, float]) -> dict[str, str]:
    """One row of the table."""
    speed = Figure(*(case[f"env_steps_per_second_{name}"] for name in Figure._fields))
    row = {"case": str(case["case"]), "env steps/s": speed.show()}
    for name in ("matmul", "elementwise"):
        row[f"limit, {name}"] = f"{case[f'limit_{name}']:,.0f}"
        row[f"share of {name}"] = f"{case[f'share_of_{name}']:.0%}"
    row["kFLOP per step, hand / XLA"] = " / ".join(
        f"{case[f'flops_per_step_{name}'] / 1e3:,.0f}" for name in ("hand", "xla")
    )
    row["tanh and exp, hand / XLA"] = " / ".join(
        f"{case[f'transcendentals_per_step_{name}']:,.0f}" for name in ("hand", "xla")
    )
    return {**row, "compile": f"{case['compile_seconds']:.1f} s"}


def main() -> None:
    """Run all cases in interleaved rounds and print the table."""
    arguments = measure.arguments(__doc__, windows=WINDOWS)
    rounds = 3 if arguments.quick else 15
    on_cpu = jax.devices()[0].platform == "cpu"
    cases = CASES if on_cpu else (*MANY, CASES[1])
    cases = cases[::2] if arguments.quick else cases
    timed = {
        case.label: Timed(case.config, limit.ENV, range(case.num_seeds), case.updates)
        for case in cases
    }
    ppo = cases[0]
    alone = NetworksAlone(ppo.config, ppo.num_seeds, ppo.updates)
    programs = [*timed.values(), alone]
    for program in programs:
        program.windows = arguments.windows
    for _ in range(2):  # the first calls touch fresh memory
        for program in programs:
            program.run()
    work = {label: case.run for label, case in timed.items()}
    work["networks alone"] = alone.run
    found = measure.interleave({**work, "machine": limit.machine_rates}, rounds)
    machine, networks = found.pop("machine"), found.pop("networks alone")
    rates = limit.Rates(*(Figure.of(column).median for column in zip(*machine, strict=True)))
    units = product_in_forward_passes(rounds)

    results = [describe(case, timed[case.label], found[case.label], rates) for case in cases]
    speed, most = results[0]["env_steps_per_second_median"], results[0]["limit_matmul"]
    reached = statistics.median(networks)
    device = f"{len(devices.local_workers())} × {jax.devices()[0].device_kind}"
    side_by_side = f" ({rates.flops_of_lanes / 1e9:.0f} in those of {limit.LANES} lanes at once)"
    text = "\n".join(
        (
            "## Throughput and limit",
            "",
            f"{device}, {rates.flops / 1e9:.0f} GFLOP/s in 128×64×64 products"
            f"{side_by_side if on_cpu else ''} and"
            f" {rates.transcendentals / 1e9:.2f} billion tanh per second; {limit.ENV}; medians of"
            f" {rounds} interleaved rounds of {arguments.windows} windows (smallest … largest).",
            "",
            measure.table([show(case) for case in results]),
            "",
            f"Networks of {ppo.label}, alone: {Figure.of(networks).show()} env steps/s,"
            f" {reached / most:.0%} of the limit of the products, compiled in"
            f" {alone.compile_seconds:.1f} s. {ppo.label} reaches {speed / reached:.0%} of that.",
            "",
            f"Fisher-vector product: {Figure.of(units).show('.2f')} forward passes, batch 1024.",
        )
    )
    figures = {
        "device": device,
        "machine_rates": [rate._asdict() for rate in machine],
        "cases": results,
        "networks_alone": networks,
        "product_in_forward_passes": units,
    }
    kept = {
        "cases": [show(case) for case in results],
        "alone": [
            {
                "program": f"networks of {ppo.label}, alone",
                "env steps/s": Figure.of(networks).show(),
                "share of matmul": f"{reached / most:.0%}",
                "compile": f"{alone.compile_seconds:.1f} s",
            }
        ],
        "machine": [
            {
                "GFLOP/s in 128×64×64 products": f"{rates.flops / 1e9:.0f}",
                "billion tanh per second": f"{rates.transcendentals / 1e9:.2f}",
            }
        ],
        "fisher": [
            {
                "what": "Fisher-vector product, batch 1024",
                "forward passes": Figure.of(units).show(".2f"),
            }
        ],
    }
    measure.write("throughput", figures, text, kept)


if __name__ == "__main__":
    main()
