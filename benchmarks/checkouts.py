"""Two checkouts of this project beside each other: their training programs in interleaved rounds.

    python benchmarks/checkouts.py OTHER [--rounds 15] [--algorithms ppo trpo …] [--env CartPole-v1]

Each checkout runs in a process of its own, which compiles once and then waits; the rounds alternate
between the two. A round trains every worker's lanes for some windows, as a run does. The ratio is
this checkout's speed over the other's: the median of the rounds, with the smallest and the largest.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
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


def main() -> int:
    """Time both checkouts, algorithm by algorithm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, nargs="?", help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=15)
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
    print("| algorithm | this, env steps/s | other | this / other | compile, this / other |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.algorithms:
        given = [name, "--env", arguments.env, "--steps", str(arguments.steps)]
        given += ["--shuffle", arguments.shuffle]
        both = []
        for checkout in (HERE, arguments.other.resolve()):
            process = start(checkout, given)
            assert process.stdout is not None
            both.append((process, json.loads(process.stdout.readline())))
        (this, told), (other, other_told) = both
        rounds = []
        for i in range(arguments.rounds):
            if i % 2:
                speed, other_speed = ask(this), ask(other)
            else:
                other_speed, speed = ask(other), ask(this)
            rounds.append((speed, other_speed))
        for process, _ in both:
            process.communicate()
        ratios = [a / b for a, b in rounds]
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        print(
            f"| {name} | {medians[0]:,.0f} | {medians[1]:,.0f} | {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} … {max(ratios):.3f}) | {told['compile_seconds']:.1f} s / "
            f"{other_told['compile_seconds']:.1f} s |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
