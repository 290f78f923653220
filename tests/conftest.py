"""Shared by all tests: a compilation cache, and double precision where a test asks for it."""

import os
import tempfile

# The workers of a parallel run inherit it: a program that two tests need is compiled once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="purejax-po-tests-"))

import jax
import pytest


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def compile_quickly():
    """Where compiling is what takes time: the programs run for milliseconds."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
