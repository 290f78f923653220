"""What each change for speed gains: training with and without it, in interleaved rounds.

    python benchmarks/before_after.py [--algorithm ppo] [--rounds 9] [--quick]

Each program is built with one trick turned round, by the switch of `purejax_po/_xla`; 16 seeds of
CartPole-v1, or 2048 on an accelerator.
"""

import jax
import measure
from timed import Timed

from purejax_po._xla import switch
from purejax_po.experiment.config import algorithm_config

ON_CPU = jax.devices()[0].platform == "cpu"
SEEDS = range(16 if ON_CPU else 2048)
WINDOWS, STEPS = 10, 5000
"""A call's windows, and each one's environment steps of a seed, as in a run for 500,000."""
TRICKS = {
    "compiler_options": "options of the compiler",
    "written_out_keys": "keys by threefry written out",
    "packed_shuffle": "shuffles by a sort of single words",
    "short_sums": "plain short sums",
    "copied_factors": "kernels' gradients of copies",
    "columns": "narrow products by columns",
    "flat_adam": "Adam on one vector",
    "next_values": "successors' values of the next step",
    "one_check": "one check that all is finite",
    "layerwise": "Fisher products layer by layer",
    "lean_loops": "loops with few kernels in a turn",
    "doubled_sums": "advantages in doublings",
    "adam_in_parts": "Adam array by array",
    "short_tanh": "a derivative of tanh with one factor",
    "joined_biases": "biases as rows of kernels",
    "narrow_gradients": "gradients of narrow products by columns",
    "narrow_sides": "Fisher products by the narrower side",
    "joined_values": "values and last successors in one pass",
}
"""The fields of `switch.Tricks` in words."""


def build(algorithm: str, tricks: switch.Tricks, width: int | None = None) -> Timed:
    """Compile training with these tricks on."""
    with switch.using(tricks):
        config = algorithm_config(algorithm)()
        updates = round(STEPS / (config.num_envs * config.num_steps))
        timed = Timed(config, "CartPole-v1", SEEDS, updates, width)
    timed.windows = WINDOWS
    return timed


def main() -> None:
    arguments = measure.arguments(__doc__, algorithm="ppo", rounds=9)
    usual = switch.on()
    build(arguments.algorithm, usual)  # the first compilation also starts the compiler
    cases = {"as it is": build(arguments.algorithm, usual)}
    for field, words in TRICKS.items():
        is_on = getattr(usual, field)
        changed = usual._replace(**{field: not is_on})
        cases[f"{'without' if is_on else 'with'}: {words}"] = build(arguments.algorithm, changed)
    none = switch.Tricks(*(False for _ in usual))
    cases["without all of them"] = build(arguments.algorithm, none)
    if ON_CPU:
        width = cases["as it is"].width
        cases[f"{12 - width} lanes in a program, not {width}"] = build(
            arguments.algorithm, usual, width=12 - width
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
    text = title + measure.table(rows)
    measure.write(name, {"env_steps_per_second": rates}, text, {"programs": rows})


if __name__ == "__main__":
    main()
