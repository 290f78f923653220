"""Where an update of PPO on Brax's hopper goes: ours beside Brax's own trainer, part by part.

    python benchmarks/beside_brax.py [--quick] [--rounds N] [--updates N]

One seed, the batch of `peers.py`. Each side is a process, and each part a program that holds the
part before it: Brax's physics alone, steps without resets, steps with them, a rollout of the
policy, training. Rounds take the two sides and their parts in turns. What a part adds is the
difference to the part before. A program alone may be compiled otherwise than within the whole.
"""

import functools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import measure
import peers
from measure import Figure

ENV = "brax/hopper:spring"
PARTS = ("physics", "steps", "resets", "rollout", "whole")
"""Programs; each holds the one before it."""
ADDED = (
    "physics: Brax's own step",
    "the rest of a step (adapter; wrappers)",
    "resets (a new state; back to the first one)",
    "policy, and recording",
    "learning, and the log",
)
SIDES = ("ours", "Brax's trainer")


def added(seconds: dict[str, list[float]]) -> list[list[float]]:
    """Milliseconds that each part adds in each round, and the whole's."""
    columns = [[1e3 * x for x in seconds[name]] for name in PARTS]
    before = [[0.0] * len(columns[0]), *columns[:-1]]
    parts = [
        [x - y for x, y in zip(*pair, strict=True)] for pair in zip(columns, before, strict=True)
    ]
    return [*parts, columns[-1]]


def rows_of(found: dict[str, dict[str, list[float]]]) -> list[dict[str, str]]:
    """The table: what each part adds on both sides."""
    columns = [added(found[side]) for side in SIDES]
    wholes = [Figure.of(column[-1]).median for column in columns]
    rows = []
    for i, name in enumerate((*ADDED, "an update")):
        row = {"part": name}
        for side, column, whole in zip(SIDES, columns, wholes, strict=True):
            figure = Figure.of(column[i])
            row[f"{side}, ms"] = figure.show(".2f")
            row[f"{side}, share"] = f"{figure.median / whole:.0%}"
        rows.append(row)
    return rows


def main() -> None:
    """Measure both sides and print the table."""
    arguments = measure.arguments(__doc__, rounds=15, updates=8)
    rounds = 3 if arguments.quick else arguments.rounds
    pair = next(x for x in peers.PAIRS if x.env == ENV and x.our_seeds == 1)
    job: dict[str, Any] = {
        "algorithm": pair.algorithm,
        "env": ENV,
        "settings": {**peers.settings(pair.algorithm), **pair.settings},
        "updates": arguments.updates,
        "rounds": rounds + 1,
    }
    measure.OUT.mkdir(exist_ok=True)
    python = peers.install(pair.peer.environment)
    scripts = (Path(sys.executable), "ours_parts.py"), (python, "brax_parts.py")
    # Compiling takes minutes, and is not measured.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(measure.OUT / "cache")}
    workers = [
        peers.Worker(of, script, {**cache, **variables})
        for (of, script), variables in zip(scripts, (peers.our_variables(pair), {}), strict=True)
    ]
    versions: dict[tuple[str, str], str] = {}

    def one(side: str, worker: peers.Worker, part: str) -> float:
        answer = worker.ask({**job, "part": part})
        versions.update({(side, x): y for x, y in answer["versions"].items()})
        return answer["seconds"]

    try:
        cases = {
            (side, part): functools.partial(one, side, worker, part)
            for part in PARTS
            for side, worker in zip(SIDES, workers, strict=True)
        }
        with ThreadPoolExecutor(len(SIDES)) as pool:  # both compile at once
            list(pool.map(lambda side: cases[side, PARTS[0]](), SIDES))
        measure.interleave(cases, 1)  # touches fresh memory
        seconds = measure.interleave(cases, rounds)
    finally:
        for worker in workers:
            worker.close()
    found = {side: {part: seconds[side, part] for part in PARTS} for side in SIDES}
    rows = rows_of(found)
    batch = pair.settings["num_envs"] * pair.settings["num_steps"]
    note = (
        f"One seed, {batch} steps an update, two threads; medians of {rounds} interleaved rounds of"
        f" {arguments.updates} updates (smallest … largest). What a part adds is the difference to"
        " a program without it. Steps that are not of a training have actions of a new policy,"
        f" N(0, 1). Brax's trainer runs on jax {versions[SIDES[1], 'jax']}."
    )
    text = f"## Parts of an update, {ENV}\n\n{measure.table(rows)}\n\n{note}"
    print(text)
    measure.save("beside_brax", {"seconds": found}, text)
    if given := measure.kept_as("beside_brax"):
        measure.keep(given, {"parts": measure.data(rows)}, note)


if __name__ == "__main__":
    main()
