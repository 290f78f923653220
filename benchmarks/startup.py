"""What stands before training: importing the package, and compiling with and without a cache.

    python benchmarks/startup.py [--quick]

Imports are timed in fresh interpreters, ours and JAX's alternately. Every algorithm is compiled in
a fresh process with an empty persistent cache, then in another one with the cache that the first
one left, at the width that the package chooses for 16 seeds.
"""

import json
import os
import subprocess
import sys
import tempfile

import measure
from measure import Figure

IMPORTS = ("jax", "purejax_po")
NUM_SEEDS = 16


def import_seconds(module: str) -> float:
    """Time an import in a fresh interpreter."""
    code = (
        "import time; start = time.perf_counter()\n"
        f"import {module}; print(time.perf_counter() - start)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(found.stdout)


def compile_here(names: list[str]) -> dict[str, float]:
    """Compile algorithms in this process; one small program comes first, to start XLA."""
    import jax
    from timed import Timed

    from purejax_po.experiment.config import ALGORITHMS

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)  # as the package does
    jax.jit(lambda x: x + 1)(0).block_until_ready()
    found = {}
    for name in names:
        config = ALGORITHMS[name]()
        found[name] = Timed(config, "CartPole-v1", range(NUM_SEEDS), 1).compile_seconds
    return found


def compile_in_process(names: list[str], cache: str) -> dict[str, float]:
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--compile", *names]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--compile"]:
        print(json.dumps(compile_here(sys.argv[2:])))
        return
    arguments = measure.arguments(__doc__)
    from purejax_po.experiment.config import ALGORITHMS

    import_rounds, compile_rounds = (3, 1) if arguments.quick else (7, 2)
    names = [name for name in ALGORITHMS if name != "grpo"]  # which has an environment of its own
    if arguments.quick:
        names = ["ppo"]
    imports = measure.interleave(
        {module: (lambda module=module: import_seconds(module)) for module in IMPORTS},
        import_rounds,
    )
    cold, warm = [], []
    for _ in range(compile_rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(compile_in_process(names, cache))
            warm.append(compile_in_process(names, cache))
    more = [b - a for a, b in zip(*imports.values(), strict=True)]
    rows = [
        {
            "algorithm": name,
            "compile, no cache (s)": Figure.of([x[name] for x in cold]).show(".2f"),
            "compile, warm cache (s)": Figure.of([x[name] for x in warm]).show(".2f"),
        }
        for name in names
    ]
    text = "\n".join(
        (
            "## Start-up",
            "",
            f"`import jax` {Figure.of(imports['jax']).show('.2f')} s, `import purejax_po`"
            f" {Figure.of(imports['purejax_po']).show('.2f')} s: {Figure.of(more).show('.2f')} s"
            f" more; medians of {import_rounds} fresh interpreters each (smallest … largest).",
            "",
            measure.table(rows),
            "",
            f"Tracing, lowering and compiling for {NUM_SEEDS} seeds on CartPole-v1, medians of"
            f" {compile_rounds} pairs of processes.",
        )
    )
    measure.write("startup", {"import_seconds": imports, "cold": cold, "warm": warm}, text)


if __name__ == "__main__":
    main()
