"""Shared by all tests: a compilation cache, and double precision where a test asks for it."""

import os
import tempfile
from unittest import mock

# The workers of a parallel run inherit it: a program that two tests need is compiled once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="purejax-po-tests-"))

import jax
import pytest
from jax._src import compiler


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def compile_quickly():
    """Where compiling is what takes time: the programs run for milliseconds.

    Fusing loops takes XLA as long as all the rest. No setting of JAX turns that off in a process
    that has begun, so the options of every compilation are made here.
    """
    get_options = compiler.get_compile_options

    def options(*args, env_options_overrides=None, **kwargs):
        overrides = {"xla_cpu_use_fusion_emitters": False, **(env_options_overrides or {})}
        return get_options(*args, env_options_overrides=overrides, **kwargs)

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with mock.patch.object(compiler, "get_compile_options", options):
        yield
    jax.config.update("jax_disable_most_optimizations", before)
