"""How programs are compiled: a cache of them on disk, and the compiler's options."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from platform import machine, processor

import jax

from purejax_po._xla import switch
from purejax_po._xla.stack import with_deep_stack as with_deep_stack

CompilerOptions = dict[str, str | int]
"""XLA's, by name."""

OPTIONS: dict[str, CompilerOptions] = {
    # Loops too become CUDA graphs, and a window of PPO or TRPO is one graph in all, but with PPO's
    # kernels by Pallas (benchmarks/gpu_program.py counts them). XLA keeps a loop on the host, and
    # starts graphs in each of its turns, where it copies into a slice that depends on the turn, as
    # scans do of what they stack; `_xla.packed` puts that together, which is no copy.
    "gpu": {
        "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
        "WHILE,CONDITIONAL,DYNAMIC_SLICE_FUSION",
        "xla_gpu_graph_min_graph_size": 1,
    },
    # Vectors as wide as the CPU has them, where XLA stops at half of AVX-512's; and what is made is
    # used soon, while it is in the cache.
    "cpu": {
        "xla_cpu_prefer_vector_width": 512,
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    },
}


def compiler_options(platform: str | None = None) -> CompilerOptions:
    """Return XLA's options for training programs, which `jax.jit` takes as `compiler_options`.

    Args:
        platform: `"gpu"`, `"cpu"`, …; by default that of JAX's first device. Options
            in `XLA_FLAGS` stay as they are.
    """
    found = OPTIONS.get(platform or str(jax.devices()[0].platform), {})
    options = found if switch.on().compiler_options else {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if f"--{name}=" not in flags}


def use_compilation_cache(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs on disk, and reuse them.

    A program compiled for one CPU may use instructions that another one lacks, so each kind of
    CPU has a separate folder.

    Args:
        directory: where to; by default JAX's own setting if it has one, else
            `$XDG_CACHE_HOME/purejax_po` or `~/.cache/purejax_po`.

    Returns:
        The folder in use; `None`, with a warning, if it cannot be written to.
    """
    if directory is None and (chosen := getattr(jax.config, "jax_compilation_cache_dir", None)):
        return Path(chosen)
    folder = None
    try:
        if directory is None:
            home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            directory = Path(home) / "purejax_po"
        folder = Path(directory) / f"xla-{_kind_of_cpu()}"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        warnings.warn(f"no compilation cache: {folder}: {error.strerror}", stacklevel=2)
        return None
    except RuntimeError as error:  # nobody knows where home is
        warnings.warn(f"no compilation cache: {error}", stacklevel=2)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


def use_one_thread() -> None:
    """Let XLA run programs on a CPU in a single thread, by `PJRT_NPROC` for this process.

    The operations of a small program end sooner than another thread begins to work. It has no
    effect if JAX has been used already; `NPROC` and `PJRT_NPROC` go before it.
    """
    from jax._src import xla_bridge

    if "NPROC" not in os.environ and not xla_bridge.backends_are_initialized():
        os.environ.setdefault("PJRT_NPROC", "1")


@contextmanager
def compilation_cache(is_on: bool) -> Iterator[None]:
    """Keep compiled programs on disk, from now on; or none meanwhile, whatever JAX's setting is."""
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    if is_on:
        use_compilation_cache()
        yield
        return
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # what was compiled before has settled that it is used
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        reset_cache()


def _kind_of_cpu() -> str:
    """A short name for the instructions that this machine's CPU has."""
    found = [machine(), processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    except OSError:  # not on this system
        pass
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]
