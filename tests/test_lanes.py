"""How many lanes fit, what happens when they do not, and what a diverged seed leads to."""

import gc
import json
import math

import jax
import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po import cli
from purejax_po.experiment.run import block, devices, fit, memory, plan, pool, program
from purejax_po.experiment.run.memory import Need
from purejax_po.experiment.run.trainer import build_trainer

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")


def test_memory_is_a_line_through_two_small_programs():
    need = memory.extrapolate((1, 150), (2, 250))
    assert need == Need(fixed=50, per_lane=100)
    assert need.most_lanes(1049) == 9
    assert need.most_lanes(1050) == 10
    assert need.most_lanes(149) == 0
    assert need.most_lanes(0.8 * math.inf) > 10**9  # a device without memory statistics


@pytest.fixture(scope="module")
def small(compile_quickly, no_pictures):
    trainer = build_trainer(tiny.experiment("ppo", lanes_per_device=None))
    hyperparams, env_params = trainer.algorithm.hyperparams, trainer.env_params
    return trainer, plan.repeat(np.arange(64), hyperparams, env_params)


def test_the_extrapolation_is_near_what_a_wide_program_takes(small):
    trainer, many = small
    device = jax.local_devices()[0]
    need = fit.memory_need(trainer, many, 10, device)
    compiled = program.compile_program(trainer, many, 10, [device])
    assert need.fixed + need.per_lane * 64 == pytest.approx(compiled.bytes_per_worker, rel=0.1)


def test_lanes_are_chosen_to_fit(small, monkeypatch):
    trainer, many = small
    workers = devices.local_workers()[:1]
    need = fit.memory_need(trainer, many, 10, workers[0])
    for width in (64, 6):  # wide ones are foreseen, small ones measured
        monkeypatch.setattr(memory, "available", lambda *_: need.fixed + 3.5 * need.per_lane)
        assert fit.compile_to_fit(trainer, many, 10, workers, width).lanes_per_worker == 3
    monkeypatch.setattr(memory, "available", lambda *_: 10.0)
    with pytest.raises(ValueError, match="must hold a lane on each of 1 workers: a lane takes"):
        fit.compile_to_fit(trainer, many, 10, workers, 4)


def test_fewer_lanes_share_a_core_where_one_takes_more_memory():
    images = po.NetworkConfig(channels=(16,))
    configs = po.PPOConfig(), po.TRPOConfig(), po.PPOConfig(network=images)
    assert [devices.lanes_per_core(config) for config in configs] == [8, 4, 1]


@pytest.mark.parametrize("collects", [True, False])
def test_tracing_leaves_the_garbage_collector_as_it_was(small, collects):
    trainer, many = small
    workers, was_enabled, at_tracing = devices.local_workers()[:1], gc.isenabled(), []

    def init(*arguments):
        at_tracing.append(gc.isenabled())
        raise RuntimeError("cannot be traced")

    try:
        gc.enable() if collects else gc.disable()
        with pytest.raises(RuntimeError, match="cannot be traced"):
            program.compile_program(trainer._replace(init=init), many, 10, workers)
        assert (at_tracing, gc.isenabled()) == ([False], collects)
    finally:
        gc.enable() if was_enabled else gc.disable()


def test_the_budget_is_what_is_set_or_a_part_of_what_is_free():
    device = jax.local_devices()[0]
    free = memory.available(device)
    assert 0 < free < memory.free_bytes()
    assert memory.available(device, 1.5) == 1.5 * 2**30
    assert memory.in_words(2**31) == "2.00 GiB"
    assert memory.in_words(3 * 2**19) == "1.50 MiB"
    assert memory.in_words(100) == "0.10 KiB"
    assert memory.peak_bytes(device) >= 0.9 * memory.resident_bytes()


def test_free_memory_is_that_of_the_tightest_group_around_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "own")
    whole = memory.free_bytes()
    assert whole > 10**6

    def limit(group, most, used, inactive):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "memory.max").write_text(f"{most}\n")
        (tmp_path / group / "memory.current").write_text(f"{used}\n")
        (tmp_path / group / "memory.stat").write_text(f"anon 7\ninactive_file {inactive}\n")

    limit("job/step", "max", 300, 100)
    limit("job", 1000, 500, 200)
    limit("other", 10, 0, 0)
    (tmp_path / "own").write_text("4:memory:/elsewhere\n0::/job/step\n")
    assert memory.free_bytes() == 1000 - (500 - 200)
    limit("job/step", 600, 300, 100)
    assert memory.free_bytes() == 600 - (300 - 100)
    (tmp_path / "own").write_text("0::/of/the/host\n")  # what a container may be told
    assert memory.free_bytes() > 10**6
    limit("", 5000, 0, 0)
    assert memory.free_bytes() == 5000


def test_one_trace_however_many_chunks(monkeypatch):
    program._compiled.clear()  # another test may have compiled it
    traced, original = [], program.run_window

    def run_window(*arguments):
        traced.append(len(arguments))
        return original(*arguments)

    monkeypatch.setattr(program, "run_window", run_window)
    po.run(tiny.experiment(num_seeds=23), progress=False, num_devices=2)  # 12 chunks, 2 devices
    assert len(traced) == 1


def test_lanes_that_are_fixed_must_fit_the_budget():
    with pytest.raises(
        ValueError, match=r"lanes_per_device must fit the memory: 2 lanes take .*iB"
    ):
        po.run(tiny.experiment(), progress=False, memory_gib=1e-6)


def run_out_of_memory(monkeypatch, most):
    """Make every program of more than `most` lanes fail as a full device does."""
    original = block.run_window

    def run_window(window, hyperparams, state, *arguments):
        if len(state.num_done) > most:
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
            )
        return original(window, hyperparams, state, *arguments)

    monkeypatch.setattr(block, "run_window", run_window)


def test_out_of_memory_halves_the_lanes(tmp_path, monkeypatch):
    run_out_of_memory(monkeypatch, most=2)
    config = tiny.experiment(num_seeds=8, lanes_per_device=None)
    with pytest.warns(UserWarning, match="out of memory: again with 2 lanes"):
        dataset = po.run(config, tmp_path / "run", progress=False, num_devices=1)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["lanes_per_device"], summary["times_halved"]) == (2, 2)
    expected = po.run(tiny.experiment(num_seeds=8), progress=False, num_devices=1)
    np.testing.assert_array_equal(dataset["episode_return"], expected["episode_return"])


def test_out_of_memory_with_a_fixed_number_of_lanes_is_one_line(monkeypatch):
    run_out_of_memory(monkeypatch, most=1)
    with pytest.raises(po.StoppedError, match="with 2 lanes on each device; lanes_per_device is"):
        po.run(tiny.experiment(), progress=False)


def test_another_runtime_error_is_not_taken_for_a_full_memory(monkeypatch):
    def run_window(*arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(block, "run_window", run_window)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        po.run(tiny.experiment(), progress=False)


@pytest.fixture
def divergent(monkeypatch):
    """An experiment whose seed 3, the second lane of block 1, meets a NaN in update 4."""
    original = block.run_block

    def run_block(work, number, *arguments):
        lanes = work.plan.lanes(number, work.trainer)

        def run_window(window, hyperparams, state, env_params, length, device):
            state, log = window(hyperparams, state, env_params, jax.device_put(np.int32(length)))
            where = (lanes.seed == 3) & (np.asarray(state.num_done) == 4)
            params = jax.tree.map(
                lambda x: np.where(where.reshape(-1, *[1] * (x.ndim - 1)), np.nan, x).astype(
                    x.dtype
                ),
                state.algorithm.params,
            )
            state = state._replace(algorithm=state.algorithm._replace(params=params))
            return state, jax.device_get(log)

        with monkeypatch.context() as patch:
            patch.setattr(block, "run_window", run_window)
            return original(work, number, *arguments)

    monkeypatch.setattr(pool, "run_block", run_block)
    return tiny.experiment()


def test_a_diverged_seed_is_named_with_its_update_and_left_out(divergent):
    dataset = po.run(divergent, progress=False, num_devices=1)
    summary = po.summarize(dataset)
    assert summary["diverged_seeds"] == [{"seed": 3, "update": 4}]
    kept = dataset["final_return"].values[[0, 1, 2, 4]]
    assert summary["final_return"]["mean"] == pytest.approx(np.mean(kept))


def test_an_evaluation_says_which_seeds_it_leaves_out(divergent, tmp_path, capsys):
    out = tmp_path / "run"
    po.run(divergent, out, progress=False, num_devices=1)
    assert cli.main(["evaluate", str(out), "--episodes", "2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["diverged", "seeds", "3"] in [[w for w in row if w.isalnum()] for row in rows]
    found = json.loads((out / "evaluation.json").read_text())
    assert (found["diverged_seeds"], found["unfinished_seeds"]) == ([3], [])
    with pytest.warns(UserWarning, match="seed 3 diverged: this is its last finite policy"):
        po.load_policy(out, seed=3)


def test_a_diverged_seed_may_stop_the_run(divergent, tmp_path):
    line = r"seed 3 diverged at update 4 \(stop_on_divergence"
    out, where = tmp_path / "run", {"progress": False, "num_devices": 1}
    with pytest.raises(po.StoppedError, match=line):
        po.run(divergent, out, **where, stop_on_divergence=True, checkpoint_every=0.0)
    for _ in range(2):  # nothing more is trained
        with pytest.raises(po.StoppedError, match=line):
            po.resume(out, **where, stop_on_divergence=True)
    assert not (tmp_path / "run" / "summary.json").exists()
