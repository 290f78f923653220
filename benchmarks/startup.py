"""What stands before training: importing the package, and compiling with and without a cache.

    python benchmarks/startup.py [--quick]

Imports are timed in fresh interpreters, ours and JAX's alternately. Every algorithm is compiled in
a fresh process with an empty persistent cache, then in another one with the cache that the first
one left, at the width that the package chooses for 16 seeds.
"""

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


def compile_here(name: str) -> float:
    """Compile an algorithm in this process; a small program comes first, to start XLA."""
    import jax
    from timed import Timed

    from purejax_po.experiment.config import ALGORITHMS

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)  # as the package does
    jax.jit(lambda x: x + 1)(0).block_until_ready()
    return Timed(ALGORITHMS[name](), "CartPole-v1", range(NUM_SEEDS), 1).compile_seconds


def compile_in_process(name: str, cache: str) -> float:
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--compile", name]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(found.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--compile"]:
        print(compile_here(sys.argv[2]))
        return
    arguments = measure.arguments(__doc__)
    from purejax_po.experiment.config import ALGORITHMS

    import_rounds, compile_rounds = (3, 1) if arguments.quick else (7, 3)
    names = [name for name in ALGORITHMS if name != "grpo"]  # which has an environment of its own
    if arguments.quick:
        names = ["ppo"]
    imports = measure.interleave(
        {module: (lambda module=module: import_seconds(module)) for module in IMPORTS},
        import_rounds,
    )
    cold = {name: [] for name in names}
    warm = {name: [] for name in names}
    for _ in range(compile_rounds):
        for name in names:
            with tempfile.TemporaryDirectory() as cache:
                cold[name].append(compile_in_process(name, cache))
                warm[name].append(compile_in_process(name, cache))
    more = [b - a for a, b in zip(*imports.values(), strict=True)]
    rows = [
        {
            "algorithm": name,
            "compile, no cache (s)": Figure.of(cold[name]).show(".2f"),
            "compile, warm cache (s)": Figure.of(warm[name]).show(".2f"),
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
            f"Tracing, lowering and compiling for {NUM_SEEDS} seeds on CartPole-v1, each in"
            f" processes of their own; medians of {compile_rounds} pairs of them.",
        )
    )
    seconds = [
        {"import": name, "seconds": Figure.of(spent).show(".2f")} for name, spent in imports.items()
    ]
    figures = {"import_seconds": imports, "cold": cold, "warm": warm}
    measure.write("startup", figures, text, {"compile": rows, "imports": seconds})


if __name__ == "__main__":
    main()
