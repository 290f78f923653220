"""What random orders of minibatches cost: training with each kind, in interleaved rounds.

    python benchmarks/shuffles.py [--rounds 9] [--quick] [--keep]

16 seeds of CartPole-v1. `--shuffle fast`, the default `uniform`, and `uniform` with the trick
`packed_shuffle` turned off, which is `jax.random.permutation`.
"""

import dataclasses

import measure
from before_after import SEEDS, STEPS, WINDOWS
from timed import Timed

from purejax_po._xla import switch
from purejax_po.experiment.config import algorithm_config

ALGORITHMS = ("ppo", "trpo", "reinforce")
KINDS = {
    "fast": ("fast", True),
    "uniform, sorted words": ("uniform", True),
    "uniform, sorted pairs": ("uniform", False),
}
"""The option, and whether the trick is on."""


def build(algorithm: str, kind: str) -> Timed:
    """Compile training with this kind of permutations."""
    shuffle, is_packed = KINDS[kind]
    with switch.using(switch.on()._replace(packed_shuffle=is_packed)):
        config = dataclasses.replace(algorithm_config(algorithm)(), shuffle=shuffle)
        updates = round(STEPS / (config.num_envs * config.num_steps))
        timed = Timed(config, "CartPole-v1", SEEDS, updates)
    timed.windows = WINDOWS
    return timed


def main() -> None:
    """Measure, and print a table of a row for each algorithm and kind."""
    arguments = measure.arguments(__doc__, rounds=9)
    rounds = 3 if arguments.quick else arguments.rounds
    rows, found = [], {}
    for algorithm in ALGORITHMS:
        cases = {kind: build(algorithm, kind) for kind in KINDS}
        for case in cases.values():
            for _ in range(2):
                case.run()  # the first calls touch fresh memory
        rates = measure.interleave({kind: case.run for kind, case in cases.items()}, rounds)
        found[algorithm] = rates
        for kind, rate in rates.items():
            rows.append(
                {
                    "algorithm": algorithm,
                    "permutations": kind,
                    "env steps/s": measure.Figure.of(rate).show(),
                    "share of fast": measure.ratios(rate, rates["fast"]).show(".3f"),
                }
            )
    measure.write("shuffles", {"env_steps_per_second": found}, measure.table(rows), {"kinds": rows})


if __name__ == "__main__":
    main()
