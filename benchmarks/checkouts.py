"""Two checkouts of this project beside each other: their training programs in interleaved rounds.

    python benchmarks/checkouts.py OTHER [--rounds 16] [--algorithms ppo trpo …] [--env CartPole-v1]

Each checkout runs in a process of its own, which compiles once and then waits; the rounds alternate
between the two. Which process starts first is seen in its speed, so each does for half of the
rounds. A round trains every worker's lanes for some windows, as a run does. The ratio is this
checkout's speed over the other's: the median of the rounds, with the smallest and the largest.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
DEFAULTS = {
    "reinforce": "REINFORCEConfig",
    "a2c": "A2CConfig",
    "npg": "NPGConfig",
    "trpo": "TRPOConfig",
    "ppo": "PPOConfig",
    "grpo": "GRPOConfig",
}
LANES = {"npg": 4, "trpo": 4}
"""Of a worker, where they are not 8."""


def work(algorithm: str, env_id: str, steps: int, shuffle: str) -> None:
    """Compile one checkout's program, then train once for every line that is read."""
    from concurrent.futures import ThreadPoolExecutor

    import jax

    import purejax_po as po

    config = getattr(po, DEFAULTS[algorithm])()
    if shuffle and hasattr(config, "shuffle"):
        config = dataclasses.replace(config, shuffle=shuffle)
    env, env_params = po.make_env(env_id)
    algorithm_ = config.build(env, env_params)
    trainer = po.make_trainer(
        env, env_params, algorithm_, num_envs=config.num_envs, num_steps=config.num_steps
    )
    updates = max(10, steps // trainer.steps_per_update)
    train = po.make_train(trainer, num_updates=updates, log_every=updates // 10)
    lanes, workers = LANES.get(algorithm, 8), os.cpu_count() or 1
    keys = jax.random.split(jax.random.key(0), (workers, lanes))
    start = time.perf_counter()
    program = (
        jax.jit(jax.vmap(train, in_axes=(0, None)))
        .lower(keys[0], algorithm_.hyperparams)
        .compile(compiler_options=po.compiler_options())
    )
    compiled = time.perf_counter() - start
    num_steps = workers * lanes * updates * trainer.steps_per_update

    def one_worker(key: jax.Array) -> None:
        jax.block_until_ready(program(key, algorithm_.hyperparams))

    def run() -> float:
        begun = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            list(
                pool.map(lambda k: jax.block_until_ready(program(k, algorithm_.hyperparams)), keys)
            )
        return num_steps / (time.perf_counter() - begun)

    run()
    print(json.dumps({"compile_seconds": compiled, "file": po.__file__}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(run()), flush=True)


def start(checkout: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start a checkout's process."""
    return subprocess.Popen(
        [sys.executable, __file__, "--work", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )


def ask(process: subprocess.Popen[str]) -> float:
    """Let a process train once; returns its environment steps per second."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def in_turns(
    checkouts: Sequence[Path], given: list[str], rounds: int, begun: int
) -> tuple[list[tuple[float, ...]], list[float]]:
    """Start both processes, that of checkout `begun` first, and let them train in turns.

    Returns:
        Each round's environment steps per second, and the seconds of compilation.
    """
    processes, compiled = {}, {}
    for i in (begun, 1 - begun):
        processes[i] = start(checkouts[i], given)
        stdout = processes[i].stdout
        assert stdout is not None
        compiled[i] = json.loads(stdout.readline())["compile_seconds"]
    found = []
    for turn in range(rounds):
        speeds = {i: ask(processes[i]) for i in ((0, 1) if turn % 2 else (1, 0))}
        found.append((speeds[0], speeds[1]))
    for process in processes.values():
        process.communicate()
    return found, [compiled[0], compiled[1]]


def main() -> int:
    """Time both checkouts, algorithm by algorithm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, nargs="?", help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=16, help="an even number")
    parser.add_argument("--algorithms", nargs="+", default=list(DEFAULTS), choices=DEFAULTS)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of a lane")
    parser.add_argument(
        "--shuffle", default="", help="of the checkouts that have this option, as uniform or fast"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.env, arguments.steps, arguments.shuffle)
        return 0
    if arguments.other is None or not (arguments.other / "purejax_po").is_dir():
        parser.error(f"OTHER must be a folder with a checkout, got {arguments.other}")
    if arguments.rounds < 2 or arguments.rounds % 2:
        parser.error(f"--rounds must be an even number from 2, got {arguments.rounds}")
    print("| algorithm | this, env steps/s | other | this / other | compile, this / other |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.algorithms:
        given = [name, "--env", arguments.env, "--steps", str(arguments.steps)]
        given += ["--shuffle", arguments.shuffle]
        rounds, compiled = [], []
        for begun in range(2):
            pair = (HERE, arguments.other.resolve())
            found, seconds = in_turns(pair, given, arguments.rounds // 2, begun)
            rounds += found
            compiled.append(seconds)
        ratios = [a / b for a, b in rounds]
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        print(
            f"| {name} | {medians[0]:,.0f} | {medians[1]:,.0f} | {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} … {max(ratios):.3f}) | {min(c[0] for c in compiled):.1f} s / "
            f"{min(c[1] for c in compiled):.1f} s |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
