"""What each change for speed gains: training with and without it, in interleaved rounds.

    python benchmarks/before_after.py [--algorithm ppo] [--rounds 9] [--quick]

A program without a change is built with what stood in its place; 16 seeds of CartPole-v1, or 2048
on an accelerator.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import measure
import optax
from timed import Timed

from purejax_po import (
    curvature,
    distributions,
    layerwise,
    minibatch,
    networks,
    prng,
    products,
    training,
)
from purejax_po.algorithms import critics, optimizers
from purejax_po.experiment.config import algorithm_config
from purejax_po.experiment.run import lanes

ON_CPU = jax.devices()[0].platform == "cpu"
SEEDS = range(16 if ON_CPU else 2048)
WINDOWS, STEPS = 10, 5000
"""A call's windows, and each one's environment steps of a seed, as in a run for 500,000."""


def every_successor(critic: Any, params: Any, transition: Any, value: Any) -> Any:
    """V(next_obs), all of them."""
    return critic.unroll(params, (), transition.next_obs, jnp.zeros_like(transition.start))


def chain_of_checks(tree: Any) -> Any:
    """Whether all is finite, by joined booleans, as XLA fuses it with everything that asks."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))


BEFORE: dict[str, list[tuple[Any, str, Callable[..., Any]]]] = {
    "options of the compiler": [(lanes, "compiler_options", lambda platform: {})],
    "keys by threefry written out": [(prng, "written_out", lambda keys: keys)],
    "shuffles without a sort": [(minibatch, "permutation", jax.random.permutation)],
    "plain short sums": [
        (distributions, "_cumulative_sum", functools.partial(jnp.cumsum, axis=-1)),
        (distributions, "_total", functools.partial(jnp.sum, axis=-1)),
    ],
    "kernels' gradients of copies": [
        (products, "transposed", lambda x: x.T),
        (layerwise, "transposed", lambda x: x.T),
    ],
    "narrow products by columns": [(products, "by_columns", lambda outputs: False)],
    "Adam on one vector": [
        (optax, "flatten", lambda optimizer: optimizer),
        (optimizers, "norm", optax.tree.norm),
    ],
    "successors' values of the next step": [(critics, "successor_values", every_successor)],
    "one check that all is finite": [
        (module, "all_finite", chain_of_checks) for module in (training, curvature, critics)
    ],
    "Fisher products layer by layer": [(networks, "gains", lambda *sizes: False)],
}
"""Change → the functions that make it, and what stood in their places."""


def build(algorithm: str, without: list[str], width: int | None = None) -> Timed:
    """Compile training without some of the changes."""
    with ExitStack() as stack:
        for change in without:
            for part in BEFORE[change]:
                stack.enter_context(mock.patch.object(*part))
        config = algorithm_config(algorithm)()
        updates = round(STEPS / (config.num_envs * config.num_steps))
        timed = Timed(config, "CartPole-v1", SEEDS, updates, width)
    timed.windows = WINDOWS
    return timed


def main() -> None:
    arguments = measure.arguments(__doc__, algorithm="ppo", rounds=9)
    build(arguments.algorithm, [])  # the first compilation also starts the compiler
    cases = {"as it is": build(arguments.algorithm, [])}
    for change in BEFORE:
        cases[f"without: {change}"] = build(arguments.algorithm, [change])
    cases["without all of them"] = build(arguments.algorithm, list(BEFORE))
    if ON_CPU:
        width = cases["as it is"].width
        cases[f"{12 - width} lanes in a program, not {width}"] = build(
            arguments.algorithm, [], width=12 - width
        )
    for case in cases.values():
        for _ in range(2):
            case.run()  # the first calls touch fresh memory
    rounds = 3 if arguments.quick else arguments.rounds
    rates = measure.interleave({name: case.run for name, case in cases.items()}, rounds)
    figures = {name: measure.Figure.of(values) for name, values in rates.items()}
    whole = figures["as it is"].median
    rows = [
        {
            "program": name,
            "env steps/s": x.show(),
            "share": f"{x.median / whole:.3f}",
            "compile": f"{cases[name].compile_seconds:.1f} s",
        }
        for name, x in figures.items()
    ]
    name = f"before_after_{arguments.algorithm}"
    title = (
        f"## {arguments.algorithm}, {len(SEEDS)} seeds, medians of {rounds} interleaved rounds\n\n"
    )
    measure.write(name, {"env_steps_per_second": rates}, title + measure.table(rows))


if __name__ == "__main__":
    main()
