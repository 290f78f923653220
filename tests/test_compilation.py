"""The persistent compilation cache: the second run compiles nothing, and ends in the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax._src import xla_bridge
from jax.experimental.compilation_cache import compilation_cache

import purejax_po as po
from purejax_po import cli
from purejax_po._xla import stack
from purejax_po.cli import looking
from purejax_po.experiment.run import compilation, devices

FLAGS = [
    "train", "a2c", "--seeds", "2", "--num-envs", "2", "--num-steps", "4", "--network.hidden", "8",
    "--total-steps", "160",
]  # fmt: skip


def train(out, home, *flags, **more):
    command = [sys.executable, "-m", "purejax_po", *FLAGS, "--out", str(out), *flags]
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment = {**inherited, "XDG_CACHE_HOME": str(home), **more}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return po.load_results(out), done.stderr


def kept(home):
    return {path.name for path in Path(home).rglob("*-cache")}


def test_a_warm_cache_gives_the_same_bits_as_a_cold_one(tmp_path):
    home = tmp_path / "home"
    cold, _ = train(tmp_path / "cold", home)
    programs = kept(home)
    assert any("window" in name for name in programs)
    warm, _ = train(tmp_path / "warm", home)
    assert kept(home) == programs
    elsewhere = str(tmp_path / "elsewhere")  # JAX's own setting does not turn it on again
    of_jax = {
        "JAX_COMPILATION_CACHE_DIR": elsewhere,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    off, _ = train(tmp_path / "off", elsewhere, "--no-compilation-cache", **of_jax)
    assert kept(tmp_path / "elsewhere") == set()
    for run in (warm, off):
        for name in cold:
            np.testing.assert_array_equal(run[name], cold[name])


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path):
    home = tmp_path / "file"
    home.touch()
    with pytest.warns(UserWarning, match="no compilation cache: .*file"):
        assert po.use_compilation_cache(home) is None


def test_without_a_home_there_is_a_warning(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with pytest.warns(UserWarning, match="no compilation cache: Could not determine home"):
            assert po.use_compilation_cache() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_run_without_the_cache_keeps_nothing_and_a_later_one_does(compile_quickly, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    try:
        for number, is_on in enumerate([False, True]):
            config = tiny.experiment(lanes_per_device=1 + number)  # a program of its own
            po.run(config, progress=False, compilation_cache=is_on, num_devices=1)
            assert any("window" in name for name in kept(tmp_path)) is is_on
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


@pytest.mark.parametrize("command", ["evaluate", "render"])
def test_acting_uses_the_cache_too(command, monkeypatch, tmp_path):
    used = []
    monkeypatch.setattr(looking, "use_compilation_cache", lambda: used.append(command))
    assert cli.main([command, str(tmp_path)]) == 2  # no run
    assert used == [command]


def test_the_compiler_knows_the_options_and_xla_flags_go_before_them(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    for platform in ("cpu", "gpu"):  # an unknown name or value would be refused
        jax.jit(jnp.sin, compiler_options=po.compiler_options(platform))(1.0)
    assert "WHILE" in po.compiler_options("gpu")["xla_gpu_enable_command_buffer"]
    assert po.compiler_options() == po.compiler_options("cpu")
    assert po.compiler_options("tpu") == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=128 --xla_gpu_autotune_level=0")
    assert po.compiler_options("cpu").keys() == {"xla_cpu_scheduler_type"}


def products(**options):
    """Which precision the products of a small trainer's update ask for."""
    env, env_params = po.make_env("CartPole-v1")
    algorithm = po.a2c(*po.mlp_actor_critic(env, env_params, hidden=(8,)))
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=2, num_steps=4, **options)
    state = jax.eval_shape(trainer.init, jax.random.key(0), algorithm.hyperparams)
    text = jax.jit(trainer.step).lower(algorithm.hyperparams, state).as_text()
    return [line for line in text.splitlines() if "stablehlo.dot_general" in line]


@pytest.mark.parametrize("precision", ["bfloat16", "tensorfloat32", "float32"])
def test_the_precision_of_products_is_that_of_the_trainer(precision):
    named = {"bfloat16": "DEFAULT", "tensorfloat32": "HIGH", "float32": "HIGHEST"}[precision]
    lines = products(matmul_precision=precision)
    assert lines
    assert all(f"precision = [{named}, {named}]" in line for line in lines)
    assert products(matmul_precision="default") == products()


def test_an_unknown_precision_is_refused():
    message = "^matmul_precision must be one of .*, got 'bfloat'; did you mean bfloat16?"
    with pytest.raises(ValueError, match=message):
        products(matmul_precision="bfloat")
    with pytest.raises(ValueError, match=message):
        po.run(po.ExperimentConfig(matmul_precision="bfloat"), progress=False)  # type: ignore[arg-type]


def test_a_single_small_lane_is_run_in_one_thread(subtests):
    for changes, sequential in [
        ({}, True),
        ({"algorithm": po.A2CConfig()}, True),
        ({"num_seeds": 2}, False),
        ({"sweep": {"clip_eps": (0.1, 0.2)}}, False),
        ({"env": "brax/hopper"}, False),
        ({"algorithm": po.PPOConfig(network=po.NetworkConfig(hidden=(512,)))}, False),
        ({"algorithm": po.PPOConfig(network=po.NetworkConfig(channels=(16,)))}, False),
        ({"algorithm": po.TRPOConfig(network=po.NetworkConfig(hidden=(128, 128)))}, False),
    ]:
        with subtests.test(f"{changes}"):
            assert devices.keeps_one_core_busy(po.ExperimentConfig(**changes)) is sequential


@pytest.mark.parametrize("given", [{}, {"NPROC": "2"}, {"PJRT_NPROC": "2"}])
def test_the_number_of_threads_is_the_users_if_it_is_given(monkeypatch, given):
    for name in ("NPROC", "PJRT_NPROC"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for is_used in (True, False):  # JAX has its threads by then, or not yet
        monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda is_used=is_used: is_used)
        compilation.use_one_thread()
        expected = None if is_used or "NPROC" in given else "1"
        assert os.environ.get("PJRT_NPROC") == given.get("PJRT_NPROC", expected)
    monkeypatch.delenv("PJRT_NPROC", raising=False)


def test_the_command_decides_on_threads_before_jax_is_used():
    code = """
from jax._src import xla_bridge
from purejax_po import cli
from purejax_po.cli import commands
commands.use_one_thread = lambda: print(xla_bridge.backends_are_initialized())
cli.main(["train", "ppo", "--total-steps", "1"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_deep_stack_changes_neither_arguments_nor_results():
    @compilation.with_deep_stack
    def divide(a, b=1):
        """Of two numbers."""
        return divmod(a, b)

    assert divide(7, b=2) == (3, 1)
    assert divide.__doc__ == "Of two numbers."
    assert divide.__code__.co_stacksize == stack.STACK_WORDS
    with pytest.raises(ZeroDivisionError):
        divide(7, 0)
