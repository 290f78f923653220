"""The persistent compilation cache: a program is compiled once on each kind of machine."""

import hashlib
import os
import platform
import tempfile
import warnings
from pathlib import Path


def use_compilation_cache(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs on disk, and use those that are there.

    A program compiled for one CPU may use instructions that another one lacks, so each kind of
    CPU has a folder of its own.

    Args:
        directory: where to; by default JAX's own setting if it has one, else
            `$XDG_CACHE_HOME/purejax_po` or `~/.cache/purejax_po`.

    Returns:
        The folder in use; `None`, with a warning, if it cannot be written to.
    """
    import jax

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


def use_no_compilation_cache() -> None:
    """Keep no compiled program, even where JAX's own setting names a folder for them."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)


def _kind_of_cpu() -> str:
    """A short name for the instructions that this machine's CPU has."""
    found = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    except OSError:  # not on this system
        pass
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]
