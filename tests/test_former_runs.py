"""Runs that are there already: of version 0.1, of former formats, damaged, or overwritten."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po.experiment import compare as comparison
from purejax_po.experiment.config import schema
from purejax_po.experiment.run import observers, study
from purejax_po.experiment.run.trainer import build_trainer, program_key
from purejax_po.experiment.store import lock, run_store

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

OF_0_1 = Path(__file__).parent / "reference" / "run_0_1"
ACTIONS = [0.002465645084157586, 0.0007237910176627338]
"""Of its seed 1, by version 0.1: see reference/make_run.py."""


@pytest.fixture
def of_0_1(tmp_path):
    return shutil.copytree(OF_0_1, tmp_path / "old")


@pytest.fixture(scope="module")
def whole(compile_quickly, no_pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    po.run(tiny.experiment(), out, progress=False)
    return out


def test_a_policy_of_version_0_1_acts_as_it_was_trained(of_0_1):
    """Its Gaussian was clipped to the bounds, which today's would be scaled to."""
    obs = np.linspace(-1, 1, 6).astype(np.float32)
    np.testing.assert_allclose(po.load_policy(of_0_1, seed=1)(obs), ACTIONS, rtol=1e-5)
    config = run_store.read_config(of_0_1)
    assert config.algorithm.network.action_distribution == "clipped_gaussian"
    assert config.algorithm.shuffle == "fast"
    assert po.load_runs([of_0_1]).sizes["seed"] == 2
    assert po.resume(of_0_1, progress=False).sizes["seed"] == 2


def test_a_run_of_version_0_1_whose_results_are_damaged_keeps_its_checkpoints(of_0_1):
    (of_0_1 / "results.nc").write_bytes(b"")
    with pytest.raises(ValueError, match=r"results must be a results\.nc file"):
        po.resume(of_0_1)
    assert (of_0_1 / "checkpoints" / "done-000001" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["ppo", "trpo", "npg", "reinforce"])
def test_before_there_was_a_choice_shuffles_were_fast(name):
    data = tiny.experiment(name).to_dict()
    assert po.ExperimentConfig.from_dict(data).algorithm.shuffle == "uniform"
    del data["algorithm"]["shuffle"]
    for number in range(1, schema.CURRENT):
        old = po.ExperimentConfig.from_dict({**data, "format": number})
        assert old.algorithm.shuffle == "fast"


def test_results_with_a_flipped_bit_are_made_again(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    expected = (out / "results.nc").read_bytes()
    damaged = bytearray(expected)
    damaged[expected.index(po.load_results(out)["final_return"].values.tobytes()) + 2] ^= 1
    (out / "results.nc").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"its checksum is not that of summary\.json"):
        po.load_runs([out])
    with pytest.warns(UserWarning, match=r"is damaged.*made again from the checkpoints"):
        po.resume(out, progress=False)
    assert (out / "results.nc").read_bytes() == expected


def test_what_was_made_of_a_run_goes_when_it_is_overwritten(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    made = ("evaluation.json", "evaluation-grid.json", "seed-0.gif", "report.html")
    for name in (*made, "notes.txt"):
        (out / name).write_text("of the old run")
    po.run(tiny.experiment(total_steps=640), out, overwrite=True, progress=False)
    assert not any((out / name).exists() for name in made)
    assert (out / "notes.txt").exists()


def test_the_same_names_stay_where_no_run_was(tmp_path):
    for name in ("evaluation.json", "seed-0.gif", "report.html"):
        (tmp_path / name).write_text("of somebody else")
    po.run(tiny.experiment(num_seeds=1, total_steps=64), tmp_path, progress=False)
    for name in ("evaluation.json", "seed-0.gif", "report.html"):
        assert (tmp_path / name).read_text() == "of somebody else"


def test_a_comparison_whose_old_runs_are_half_removed_does_not_take_them(tmp_path, monkeypatch):
    out = tmp_path / "out"
    settings = {"num_seeds": 1, "total_steps": 320, "num_windows": 10, "progress": False}
    slow = tiny.ALGORITHMS["a2c"]
    fast = dataclasses.replace(slow, hyperparams=slow.hyperparams.replace(learning_rate=0.05))
    po.compare({"mine": slow}, "CartPole-v1", out, **settings)

    def interrupted(directory):
        raise po.Interrupted(2)

    monkeypatch.setattr(comparison.files, "discard", interrupted)
    with pytest.raises(po.Interrupted):
        po.compare({"mine": fast}, "CartPole-v1", out, overwrite=True, **settings)
    with pytest.raises(ValueError, match="mine-CartPole-v1 must hold the run that"):
        po.resume_compare(out)
    monkeypatch.undo()
    again = po.compare({"mine": fast}, "CartPole-v1", out, overwrite=True, **settings)
    rate = json.loads(again.attrs["config"])["algorithm"]["hyperparams"]["learning_rate"]
    assert rate == 0.05


# Memory


class Seen(observers.Observer):
    """Notes what it is told, and when it is closed."""

    def __init__(self):
        self.told, self.closed = [], 0

    def on_window(self, plan, labels, window):
        assert not self.closed
        self.told.append(plan.lanes_per_device)

    def close(self):
        self.closed += 1


def test_memory_that_ends_after_training_costs_no_block(tmp_path, monkeypatch):
    def exhausted(self):
        raise MemoryError("of the driver")

    out, config = tmp_path / "run", tiny.experiment(lanes_per_device=None, num_seeds=4)
    with monkeypatch.context() as patch:
        patch.setattr(study._Loop, "_dataset", exhausted)
        with pytest.raises(observers.StoppedError, match="nothing was trained; all that is saved"):
            po.run(config, out, progress=False)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("blocks/*/result/*")}
    assert kept
    po.resume(out, progress=False)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_observers_are_closed_once_however_often_lanes_are_halved(monkeypatch):
    run_all, left = study.run_all, [1]

    def exhausted(*args, **kwargs):
        if left[0]:
            left[0] -= 1
            raise MemoryError("RESOURCE_EXHAUSTED: out of memory")
        return run_all(*args, **kwargs)

    monkeypatch.setattr(study, "run_all", exhausted)
    seen, config = Seen(), tiny.experiment(lanes_per_device=None, num_seeds=4)
    with pytest.warns(UserWarning, match="out of memory: again with"):
        po.run(config, progress=False, num_devices=1, observers=[seen])
    assert seen.told
    assert seen.closed == 1


def test_steps_of_an_attempt_that_memory_ended_are_taken_back(monkeypatch):
    observe, told, steps = study._Loop._observe, [], []

    def exhausted(self, window):
        told.append(observe(self, window))
        if len(told) == 3:
            raise MemoryError("RESOURCE_EXHAUSTED: out of memory")
        return told[-1]

    monkeypatch.setattr(study._Loop, "_observe", exhausted)
    config = tiny.experiment(lanes_per_device=None, num_seeds=4)
    with pytest.warns(UserWarning, match="out of memory: again with"):
        po.run(config, progress=lambda done, _: steps.append(done), num_devices=1)
    assert [x for x in steps if x < 0] == [-sum(steps[:3])]
    per_lane = config.num_updates * config.algorithm.num_envs * config.algorithm.num_steps
    assert sum(steps) == config.num_lanes * per_lane


# Programs that a process keeps


def test_an_edited_network_is_another_program(tmp_path, monkeypatch):
    text = "import purejax_po as po\ndef make(env, params): return po.mlp_actor_critic(env, params)"
    (tmp_path / "edited_nets.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    network = po.NetworkConfig(factory="edited_nets:make")
    algorithm = dataclasses.replace(tiny.ALGORITHMS["ppo"], network=network)
    config = tiny.experiment(algorithm=algorithm)
    keys = [program_key(config, build_trainer(config))]
    importlib.reload(importlib.import_module("edited_nets"))
    keys.append(program_key(config, build_trainer(config)))
    assert keys[0] is not None
    assert keys[0] != keys[1]


def test_another_generator_of_random_numbers_is_another_program():
    config = tiny.experiment(num_seeds=1, total_steps=64)
    threefry = po.run(config, progress=False)
    jax.config.update("jax_default_prng_impl", "rbg")
    try:
        rbg = po.run(config, progress=False)
    finally:
        jax.config.update("jax_default_prng_impl", "threefry2x32")
    assert not threefry["entropy"].equals(rbg["entropy"])


# Who is at work in a directory


def test_the_file_of_the_lock_is_the_lock_s_alone(tmp_path):
    with lock.hold(tmp_path):
        assert (tmp_path / lock.NAME).read_bytes() == b""
        again = pytest.raises(ValueError, match=r"where a run is at work \(process \d+ on ")
        with again, lock.hold(tmp_path):
            pass
    assert not list(tmp_path.iterdir())
