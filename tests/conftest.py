"""Shared by all tests: a compilation cache, quick compilation, and double precision on request."""

import atexit
import contextlib
import ctypes
import gc
import os
import shutil
import tempfile
from unittest import mock

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # The workers of a parallel run inherit it: a program that two tests need is compiled once.
    CACHE = tempfile.mkdtemp(prefix="purejax-po-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)  # who made it; no worker
# Thousands of tiny programs, operations of their own among them, come out of it sooner too.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Where in Python an operation comes from is a good part of what lowering writes.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import pytest
from jax._src import compiler

from purejax_po.experiment import layout
from purejax_po.experiment.plots import curves
from purejax_po.experiment.run import memory, program

# Compiling fused loops takes XLA as long as all the rest. From jax 0.11 on they can't be left out.
OPTIONS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}


program.MOST_PROGRAMS = 32  # that `po.run` keeps: those of one file


def pytest_collection_finish():
    """Tracing makes many objects: what the modules hold need not be looked through each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def give_back():
    """What compiling has used is free, but the C library keeps it: two thirds of a worker."""
    with contextlib.suppress(OSError, AttributeError):  # where the C library is another
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def forget():
    """Let go of every program: what is needed again comes out of the cache of compilations."""

    def forget():
        program._compiled.clear()
        jax.clear_caches()
        gc.collect()
        give_back()

    return forget


@pytest.fixture(scope="module", autouse=True)
def forget_programs(forget):
    """Programs of one file seldom serve the next: kept, they fill a worker with gigabytes."""
    yield
    forget()


@pytest.fixture(autouse=True)
def stay_small():
    """Give memory back before there is much of it."""
    yield
    if memory.resident_bytes() > 2**30:
        give_back()


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def compile_quickly():
    """Where compiling is what takes time: the programs run for milliseconds.

    No setting of JAX gives XLA options in a process that has begun, so they are added to those of
    every compilation. Yields the environment variables by which another process compiles alike.
    """
    get_options = compiler.get_compile_options

    def with_options(*args, env_options_overrides=None, **kwargs):
        overrides = {**OPTIONS, **(env_options_overrides or {})}
        return get_options(*args, env_options_overrides=overrides, **kwargs)

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    flags = [os.environ.get("XLA_FLAGS", ""), *(f"--{name}={x}" for name, x in OPTIONS.items())]
    with mock.patch.object(compiler, "get_compile_options", with_options):
        yield {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": " ".join(flags)}
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def no_pictures():
    """Complete runs draw nothing, which takes them seconds: of their pictures the files are there.

    `test_experiment.py`, `test_comparison.py` and `test_plots.py` draw.
    """

    def leave_files(dataset, directory):
        for name in layout.PICTURES:
            (directory / name).touch()

    with mock.patch.object(curves, "save_pictures", leave_files):
        yield
